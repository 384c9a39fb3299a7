//! Sealing: a secret that only this TPM gives back, and only while its registers have the values that a policy names.
//!
//! Between a processor and a TPM chip runs a bus that can be listened to, and on some boards changed. So the secret goes
//! over it encrypted, in sessions salted to the storage root key; and that key is the one that was there when the secret
//! was sealed, not whichever answers now. Whoever sat on the bus already at that time is not noticed.

use std::fmt;

use zeroize::Zeroizing;

use crate::commands::{Code, Hierarchy, Object, SessionKind, Tpm};
use crate::error::{InAnswerTo as _, TpmError};
use crate::marshal::{Reader, Writer};
use crate::pcr::{HashAlgorithm, PcrPolicy};
use crate::public::{MAX_PUBLIC, Public, sealed_template, storage_root_template};
use crate::session::{Auth, Encrypted, Session};

/// A sealed secret. It says nothing about the secret, and may lie anywhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sealed {
    /// `TPMT_PUBLIC` of the sealed data.
    pub public: Vec<u8>,
    /// `TPM2B_PRIVATE`'s content: the secret, encrypted under its parent.
    pub private: Vec<u8>,
    /// `TPMT_PUBLIC` of the storage root key, its parent.
    pub parent: Vec<u8>,
    /// When the TPM gives it back; `None` for whenever it is asked.
    pub policy: Option<PcrPolicy>,
}

impl Tpm {
    /// Seals a secret of at most 128 bytes under the storage root key.
    ///
    /// The policy need not hold now: a key can be sealed for registers as they will be, or as they were.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn seal(&mut self, secret: &[u8], policy: Option<PcrPolicy>) -> Result<Sealed, TpmError> {
        if secret.is_empty() || secret.len() > MAX_SECRET {
            return Err(TpmError::argument(
                Code::CREATE.name,
                format!(
                    "{} bytes cannot be sealed, 1 to {MAX_SECRET} can",
                    secret.len()
                ),
            ));
        }
        let root = self.storage_root()?;
        self.with_object(root, |tpm, root| {
            tpm.in_session(SessionKind::Hmac, Some(root), |tpm, session| {
                let digest = policy.as_ref().map(PcrPolicy::digest);
                let sensitive = Writer::new().sized(&[]).sized(secret);
                let parameters = Writer::new()
                    .sized(sensitive.as_bytes())
                    .sized(sealed_template(digest.as_ref()).as_bytes())
                    .sized(&[])
                    .u32(0);
                let answer = tpm.send(
                    Code::CREATE,
                    &[root.handle],
                    &[&root.public.name()],
                    &mut [Auth::Session(session, Encrypted::Command)],
                    parameters,
                )?;
                let mut reader = Reader(&answer.parameters);
                let (private, public) = (|| {
                    Ok((
                        reader.sized("outPrivate", MAX_PRIVATE)?.to_vec(),
                        reader.sized("outPublic", MAX_PUBLIC)?.to_vec(),
                    ))
                })()
                .in_answer_to(Code::CREATE.name)?;
                Ok(Sealed {
                    public,
                    private,
                    parent: root.public.as_bytes().to_vec(),
                    policy,
                })
            })
        })
    }

    /// Has a secret given back.
    ///
    /// # Errors
    /// [`SealedError`], which says what has changed since it was sealed.
    pub fn unseal(&mut self, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealedError> {
        let root = self.same_storage_root(&sealed.parent)?;
        self.with_object(root, |tpm, root| {
            tpm.in_session(SessionKind::Hmac, Some(root), |tpm, session| {
                let object = tpm.load(root, sealed, session)?;
                tpm.with_object(object, |tpm, object| match &sealed.policy {
                    None => Ok(tpm.unseal_in(object, session)?),
                    Some(policy) => {
                        tpm.in_session(SessionKind::Policy, Some(root), |tpm, session| {
                            // No digest is named, so the TPM takes its registers as they are, and they are compared here:
                            // the TPM would not say which has changed.
                            let parameters = Writer::new().sized(&[]);
                            let parameters =
                                policy.pcrs().marshal(HashAlgorithm::Sha256, parameters);
                            tpm.run(Code::POLICY_PCR, &[session.handle], parameters)?;
                            match tpm.policy_digest(session.handle)? == policy.digest() {
                                true => Ok(tpm.unseal_in(object, session)?),
                                false => Err(tpm.changed_since(policy)?),
                            }
                        })
                    }
                })
            })
        })
    }

    /// The storage root key: the persistent one where the provisioning guidance puts it, if it is of the kind that a salt
    /// can be sent to, or the one that the owner's seed determines.
    fn storage_root(&mut self) -> Result<Object, TpmError> {
        match self.persistent_root()? {
            Some(root) => Ok(root),
            None => self.made_root(),
        }
    }

    /// The storage root key with this public area, and no other.
    fn same_storage_root(&mut self, public: &[u8]) -> Result<Object, SealedError> {
        if let Some(root) = self.persistent_root()?
            && root.public.as_bytes() == public
        {
            return Ok(root);
        }
        let root = self.made_root()?;
        match root.public.as_bytes() == public {
            true => Ok(root),
            false => {
                self.flush_object(&root)?;
                Err(SealedError::AnotherRoot)
            }
        }
    }

    fn persistent_root(&mut self) -> Result<Option<Object>, TpmError> {
        match self.read_public(PERSISTENT_ROOT) {
            Ok(root) => Ok(root.public.is_storage_key().then_some(root)),
            Err(TpmError::Refused { code, .. }) if code.is_missing() => Ok(None),
            // A key whose name is of another hash, for example.
            Err(TpmError::Malformed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn made_root(&mut self) -> Result<Object, TpmError> {
        let root = self.create_primary(Hierarchy::Owner, storage_root_template())?;
        match root.public.is_storage_key() {
            true => Ok(root),
            false => {
                self.flush_object(&root)?;
                Err(TpmError::malformed(
                    Code::CREATE_PRIMARY.name,
                    "the key is not the one that was asked for",
                ))
            }
        }
    }

    fn load(
        &mut self,
        root: &Object,
        sealed: &Sealed,
        session: &mut Session,
    ) -> Result<Object, TpmError> {
        let command = Code::LOAD;
        let public = Public::parse(&sealed.public).map_err(|error| {
            TpmError::argument(
                command.name,
                format!("what was sealed is malformed: {error}"),
            )
        })?;
        let parameters = Writer::new().sized(&sealed.private).sized(&sealed.public);
        let answer = self.send(
            command,
            &[root.handle],
            &[&root.public.name()],
            &mut [Auth::Session(session, Encrypted::Nothing)],
            parameters,
        )?;
        Ok(Object {
            handle: answer.handle,
            public,
        })
    }

    fn unseal_in(
        &mut self,
        object: &Object,
        session: &mut Session,
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let command = Code::UNSEAL;
        let answer = self.send(
            command,
            &[object.handle],
            &[&object.public.name()],
            &mut [Auth::Session(session, Encrypted::Answer)],
            Writer::new(),
        )?;
        let mut reader = Reader(&answer.parameters);
        let secret = reader
            .sized("outData", MAX_SECRET_LENGTH)
            .in_answer_to(command.name)?;
        Ok(Zeroizing::new(secret.to_vec()))
    }

    fn policy_digest(&mut self, session: u32) -> Result<Vec<u8>, TpmError> {
        let command = Code::POLICY_GET_DIGEST;
        let answer = self.run(command, &[session], Writer::new())?;
        let mut reader = Reader(&answer.parameters);
        let digest = reader
            .sized("policyDigest", MAX_DIGEST)
            .in_answer_to(command.name)?;
        Ok(digest.to_vec())
    }

    fn changed_since(&mut self, policy: &PcrPolicy) -> Result<SealedError, TpmError> {
        let now = self.current_policy(policy.pcrs())?;
        let changed = policy.values().iter().filter_map(|(pcr, sealed)| {
            let now = now.values().get(pcr).filter(|now| *now != sealed)?;
            Some(ChangedPcr {
                pcr: *pcr,
                sealed: *sealed,
                now: *now,
            })
        });
        Ok(SealedError::PcrsChanged(changed.collect()))
    }
}

/// A register that is not as it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChangedPcr {
    /// Its number.
    pub pcr: u8,
    /// Its value in the policy.
    pub sealed: [u8; 32],
    /// Its value when the secret was asked for.
    pub now: [u8; 32],
}

impl fmt::Display for ChangedPcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pcr, sealed, now } = self;
        let (sealed, now) = (hex::encode(sealed), hex::encode(now));
        write!(f, "PCR {pcr} is {now}, and was {sealed}")
    }
}

/// Why a secret is not given back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealedError {
    /// The TPM has another storage root key.
    #[error(
        "the TPM's storage root key is not the one that this was sealed under: the TPM was cleared or is another, or \
         something sits between it and this program"
    )]
    AnotherRoot,
    /// The policy does not hold any more.
    #[error("{}", changed_text(.0))]
    PcrsChanged(Vec<ChangedPcr>),
    /// The TPM refused, or could not be asked.
    #[error(transparent)]
    Tpm(#[from] TpmError),
}

fn changed_text(changed: &[ChangedPcr]) -> String {
    let list: Vec<String> = changed.iter().map(ToString::to_string).collect();
    match list.is_empty() {
        true => "the registers of the policy changed while they were read".to_owned(),
        false => list.join("; "),
    }
}

/// Where the provisioning guidance (7.8) keeps the storage root key.
const PERSISTENT_ROOT: u32 = 0x8100_0001;
/// `MAX_SYM_DATA`.
const MAX_SECRET: usize = 128;
const MAX_SECRET_LENGTH: u16 = 128;
const MAX_PRIVATE: u16 = 1024;
const MAX_DIGEST: u16 = 64;
