//! Authorization of commands (Part 1, 17 to 19): the empty password, and sessions whose messages carry a code.
//!
//! A session that is salted to a key of the TPM has a key that whoever listens on the bus does not learn. Its messages
//! cannot be changed unnoticed, and one parameter of each can be encrypted.

use aws_lc_rs::{hmac, rand};
use zeroize::Zeroizing;

use crate::crypto::{ParameterCipher, kdfa, sha256};
use crate::error::{InAnswerTo as _, TpmError};
use crate::marshal::{Reader, Writer};

/// Who authorizes the use of one of a command's handles.
pub(crate) enum Auth<'a> {
    /// Whoever asks: the key or hierarchy has no password.
    Empty,
    /// A session, and what of this command it encrypts.
    Session(&'a mut Session, Encrypted),
}

/// Which secret of a command travels encrypted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Encrypted {
    Nothing,
    /// The command's first parameter.
    Command,
    /// The answer's first parameter.
    Answer,
}

/// A session that a TPM opened.
pub(crate) struct Session {
    pub(crate) handle: u32,
    /// Empty when the session is not salted: its messages then carry no code.
    key: Zeroizing<Vec<u8>>,
    /// Ours, drawn anew for each command.
    nonce_caller: Vec<u8>,
    nonce_tpm: Vec<u8>,
}

impl Session {
    /// Part 1, 19.6.8: the key comes from the salt and both nonces. No password goes into it.
    pub(crate) fn new(
        handle: u32,
        salt: Option<&[u8; 32]>,
        nonce_caller: Vec<u8>,
        nonce_tpm: Vec<u8>,
    ) -> Self {
        let key = salt.map(|salt| kdfa(salt, "ATH", [&nonce_tpm, &nonce_caller]).to_vec());
        Self {
            handle,
            key: Zeroizing::new(key.unwrap_or_default()),
            nonce_caller,
            nonce_tpm,
        }
    }

    /// Draws this command's nonce, and encrypts its first parameter where it should be.
    pub(crate) fn begin(
        &mut self,
        command: &'static str,
        encrypted: Encrypted,
        parameters: &mut [u8],
    ) -> Result<(), TpmError> {
        self.nonce_caller = fresh_nonce()?;
        if encrypted == Encrypted::Command {
            ParameterCipher::new(&self.key, &self.nonce_caller, &self.nonce_tpm)
                .encrypt(first_sized(command, parameters)?)?;
        }
        Ok(())
    }

    /// `TPMS_AUTH_COMMAND`, over the parameters as they are sent.
    pub(crate) fn authorize(
        &self,
        encrypted: Encrypted,
        command_hash: &[u8; 32],
        out: Writer,
    ) -> Writer {
        let attributes = CONTINUE
            | match encrypted {
                Encrypted::Nothing => 0,
                Encrypted::Command => DECRYPT,
                Encrypted::Answer => ENCRYPT,
            };
        let code = self.code(
            command_hash,
            &self.nonce_caller,
            &self.nonce_tpm,
            attributes,
        );
        out.u32(self.handle)
            .sized(&self.nonce_caller)
            .u8(attributes)
            .sized(code.as_ref().map_or(&[], |code| code.as_ref()))
    }

    /// Checks the session's part of an answer, and decrypts the answer's first parameter where it should be.
    pub(crate) fn conclude(
        &mut self,
        command: &'static str,
        encrypted: Encrypted,
        answer_hash: &[u8; 32],
        auth: &AnswerAuth<'_>,
        parameters: &mut [u8],
    ) -> Result<(), TpmError> {
        self.nonce_tpm = auth.nonce.to_vec();
        if self.key.is_empty() {
            return match encrypted {
                Encrypted::Nothing => Ok(()),
                _ => Err(TpmError::Integrity { command }),
            };
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key);
        let signed = [
            answer_hash.as_slice(),
            auth.nonce,
            &self.nonce_caller,
            &[auth.attributes],
        ]
        .concat();
        hmac::verify(&key, &signed, auth.code).map_err(|_| TpmError::Integrity { command })?;
        // The attributes are part of what was just checked; without this one the parameter came as it is.
        match (encrypted, auth.attributes & ENCRYPT != 0) {
            (Encrypted::Answer, true) => {
                ParameterCipher::new(&self.key, &self.nonce_tpm, &self.nonce_caller)
                    .decrypt(first_sized(command, parameters)?)
            }
            (Encrypted::Answer, false) | (_, true) => Err(TpmError::malformed(
                command,
                "whether its first parameter is encrypted is not what was asked for",
            )),
            (_, false) => Ok(()),
        }
    }

    fn code(
        &self,
        hash: &[u8; 32],
        newer: &[u8],
        older: &[u8],
        attributes: u8,
    ) -> Option<hmac::Tag> {
        if self.key.is_empty() {
            return None;
        }
        let mut code = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.key));
        for part in [hash.as_slice(), newer, older, &[attributes]] {
            code.update(part);
        }
        Some(code.sign())
    }
}

/// Part 1, 18.7: `cpHash`.
pub(crate) fn command_hash(code: u32, names: &[&[u8]], parameters: &[u8]) -> [u8; 32] {
    sha256(&[&code.to_be_bytes(), &names.concat(), parameters])
}

/// Part 1, 18.8: `rpHash` of an answer that succeeded.
pub(crate) fn answer_hash(code: u32, parameters: &[u8]) -> [u8; 32] {
    sha256(&[&[0; 4], &code.to_be_bytes(), parameters])
}

/// `TPMS_AUTH_COMMAND` of the empty password.
pub(crate) fn empty_password(out: Writer) -> Writer {
    out.u32(PASSWORD).sized(&[]).u8(CONTINUE).sized(&[])
}

/// `TPMS_AUTH_RESPONSE`.
pub(crate) struct AnswerAuth<'a> {
    nonce: &'a [u8],
    attributes: u8,
    code: &'a [u8],
}

impl<'a> AnswerAuth<'a> {
    pub(crate) fn parse(command: &'static str, reader: &mut Reader<'a>) -> Result<Self, TpmError> {
        let mut parse = || {
            Ok(Self {
                nonce: reader.sized("nonceTPM", MAX_DIGEST)?,
                attributes: reader.u8("sessionAttributes")?,
                code: reader.sized("the session's code", MAX_DIGEST)?,
            })
        };
        parse().in_answer_to(command)
    }
}

pub(crate) fn fresh_nonce() -> Result<Vec<u8>, TpmError> {
    let mut nonce = vec![0; 32];
    rand::fill(&mut nonce)?;
    Ok(nonce)
}

/// The bytes of a first parameter that is a `TPM2B_*`: its length is not encrypted.
fn first_sized<'a>(
    command: &'static str,
    parameters: &'a mut [u8],
) -> Result<&'a mut [u8], TpmError> {
    let first = match parameters {
        [high, low, rest @ ..] => rest.get_mut(..u16::from_be_bytes([*high, *low]).into()),
        _ => None,
    };
    first.ok_or_else(|| TpmError::malformed(command, "its first parameter is cut short"))
}

/// `TPM_RS_PW`.
const PASSWORD: u32 = 0x4000_0009;
/// `TPMA_SESSION` (Part 2, 8.4).
const CONTINUE: u8 = 1;
const DECRYPT: u8 = 1 << 5;
const ENCRYPT: u8 = 1 << 6;
const MAX_DIGEST: u16 = 64;
