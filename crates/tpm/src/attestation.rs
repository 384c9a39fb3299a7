//! Attestation keys, what they sign, and the proof that one lies in the same TPM as an endorsement key.

use zeroize::Zeroizing;

use crate::commands::{Code, Hierarchy, Object, SessionKind, Tpm};
use crate::error::{InAnswerTo as _, TpmError};
use crate::marshal::{Reader, Unmarshalling, Writer};
use crate::pcr::{HashAlgorithm, PcrSet};
use crate::public::{
    ALG_ECDSA, ALG_NULL, ALG_RSASSA, MAX_ECC, MAX_RSA, endorsement_template,
    p256_attestation_template, rsa_attestation_template,
};
use crate::session::{Auth, Encrypted};

/// What a TPM said of its registers, and signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quote {
    /// `TPMS_ATTEST`: what is signed.
    pub message: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
}

/// The kind of an attestation key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256, made at once.
    P256,
    /// RSA-2048, which takes a TPM seconds to make.
    Rsa2048,
}

impl Tpm {
    /// Makes the attestation key that this TPM always has, from the endorsement hierarchy's seed. The caller flushes it
    /// (or closes a resource manager).
    ///
    /// # Errors
    /// [`TpmError::Refused`] when the hierarchy has a password.
    pub fn attestation_key(&mut self, algorithm: KeyAlgorithm) -> Result<Object, TpmError> {
        let template = match algorithm {
            KeyAlgorithm::P256 => p256_attestation_template(),
            KeyAlgorithm::Rsa2048 => rsa_attestation_template(),
        };
        self.create_primary(Hierarchy::Endorsement, template)
    }

    /// Makes the endorsement key of RSA-2048, whose certificate TPM makers keep at NV index 0x01c00002.
    ///
    /// # Errors
    /// As [`Self::attestation_key`].
    pub fn endorsement_key(&mut self) -> Result<Object, TpmError> {
        self.create_primary(Hierarchy::Endorsement, endorsement_template())
    }

    /// Has registers signed, with the caller's own data of at most 64 bytes.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn quote(
        &mut self,
        key: &Object,
        bank: HashAlgorithm,
        pcrs: PcrSet,
        extra_data: &[u8],
    ) -> Result<Quote, TpmError> {
        let command = Code::QUOTE;
        if extra_data.len() > MAX_EXTRA_DATA {
            return Err(TpmError::argument(
                command.name,
                format!(
                    "{} bytes of the caller's own, at most {MAX_EXTRA_DATA} fit",
                    extra_data.len()
                ),
            ));
        }
        let parameters = Writer::new().sized(extra_data).u16(ALG_NULL);
        let parameters = pcrs.marshal(bank, parameters);
        let answer = self.authorized(command, &[key.handle], parameters)?;
        parse_quote(&answer.parameters).in_answer_to(command.name)
    }

    /// Opens what was encrypted for the TPM that has both keys (`TPM2B_ID_OBJECT`, `TPM2B_ENCRYPTED_SECRET`).
    ///
    /// # Errors
    /// [`TpmError::Refused`] when it was made for another TPM or another attestation key.
    pub fn activate_credential(
        &mut self,
        attestation_key: &Object,
        endorsement_key: &Object,
        credential_blob: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let command = Code::ACTIVATE_CREDENTIAL;
        self.in_session(SessionKind::Policy, None, |tpm, session| {
            // The endorsement key's policy: the hierarchy's password, which is empty.
            let parameters = Writer::new().sized(&[]).sized(&[]).sized(&[]).u32(0);
            let handles = [Hierarchy::Endorsement.handle(), session.handle];
            tpm.authorized(Code::POLICY_SECRET, &handles, parameters)?;
            // Both come with their own lengths.
            let parameters = Writer::new().bytes(credential_blob).bytes(encrypted_secret);
            let answer = tpm.send(
                command,
                &[attestation_key.handle, endorsement_key.handle],
                &[],
                &mut [Auth::Empty, Auth::Session(session, Encrypted::Nothing)],
                parameters,
            )?;
            let mut reader = Reader(&answer.parameters);
            let secret = reader
                .sized("certInfo", MAX_DIGEST)
                .in_answer_to(command.name)?;
            Ok(Zeroizing::new(secret.to_vec()))
        })
    }
}

/// `TPM2_Quote`'s answer. The signature is looked at only so far that it is one, to its last byte.
pub(crate) fn parse_quote(parameters: &[u8]) -> Result<Quote, Unmarshalling> {
    let mut reader = Reader(parameters);
    let message = reader.sized("quoted", MAX_ATTEST)?.to_vec();
    let signature = reader.0;
    match reader.u16("sigAlg")? {
        ALG_RSASSA => {
            reader.u16("the signature's hash")?;
            reader.sized("the RSA signature", MAX_RSA)?;
        }
        ALG_ECDSA => {
            reader.u16("the signature's hash")?;
            reader.sized("signatureR", MAX_ECC)?;
            reader.sized("signatureS", MAX_ECC)?;
        }
        other => {
            return Err(Unmarshalling::Value {
                field: "sigAlg",
                wanted: "rsassa or ecdsa",
                actual: other.into(),
            });
        }
    }
    reader.end("the signature")?;
    Ok(Quote {
        message,
        signature: signature.to_vec(),
    })
}

const MAX_EXTRA_DATA: usize = 64;
const MAX_ATTEST: u16 = 2048;
const MAX_DIGEST: u16 = 64;
