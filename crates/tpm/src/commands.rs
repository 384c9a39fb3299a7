//! One command of Part 3 after the other: framed, authorized, sent, and its answer taken apart.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::address::TpmAddress;
use crate::crypto::Salt;
use crate::error::{InAnswerTo as _, TpmError};
use crate::marshal::{Reader, Unmarshalling, Writer};
use crate::pcr::HashAlgorithm;
use crate::public::{ALG_NULL, ALG_SHA256, MAX_PUBLIC, Public, PublicKey};
use crate::response_code::ResponseCode;
use crate::session::{
    AnswerAuth, Auth, Session, answer_hash, command_hash, empty_password, fresh_nonce,
};
use crate::transport::Transport;

/// An open TPM.
///
/// What it loads it flushes again, for without a resource manager nobody else does.
#[derive(Debug)]
pub struct Tpm {
    pub(crate) transport: Transport,
}

impl Tpm {
    /// Opens the TPM at an address. May wait for whoever uses it.
    ///
    /// # Errors
    /// [`TpmError::Open`].
    pub fn open(address: &TpmAddress) -> Result<Self, TpmError> {
        let transport = Transport::open(address).map_err(|source| TpmError::Open {
            address: address.clone(),
            source,
        })?;
        Ok(Self { transport })
    }

    /// Starts a TPM that no firmware started. One that runs already is left as it is.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn start_up(&mut self) -> Result<(), TpmError> {
        let clear = Writer::new().u16(0);
        match self.run(Code::STARTUP, &[], clear) {
            Err(TpmError::Refused { code, .. }) if code.base() == ResponseCode::INITIALIZE => {
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }

    /// Draws random bytes from the TPM, at most 32.
    ///
    /// # Errors
    /// [`TpmError::Malformed`] when it gives fewer.
    pub fn random(&mut self, count: u8) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let command = Code::GET_RANDOM;
        let answer = self.run(command, &[], Writer::new().u16(count.into()))?;
        let mut reader = Reader(&answer.parameters);
        let bytes = reader
            .sized("randomBytes", MAX_DIGEST)
            .in_answer_to(command.name)?;
        match bytes.len() == usize::from(count) {
            true => Ok(Zeroizing::new(bytes.to_vec())),
            false => Err(TpmError::malformed(
                command.name,
                format!("{} random bytes instead of {count}", bytes.len()),
            )),
        }
    }

    /// Asks for one of the TPM's properties (`TPM_PT`, Part 2, 6.13); `None` when it does not know it.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn property(&mut self, property: u32) -> Result<Option<u32>, TpmError> {
        let listed = self.capability(CAP_TPM_PROPERTIES, property, 1, |reader| {
            Ok((reader.u32("a property")?, reader.u32("its value")?))
        })?;
        let found = listed.iter().find(|(number, _)| *number == property);
        Ok(found.map(|(_, value)| *value))
    }

    /// Lists the handles from `first` on that are in use and of the same kind, at most 254.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn handles(&mut self, first: u32) -> Result<Vec<u32>, TpmError> {
        self.capability(CAP_HANDLES, first, MAX_LISTED, |reader| {
            reader.u32("a handle")
        })
    }

    /// Whether registers are kept of this hash.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn has_bank(&mut self, bank: HashAlgorithm) -> Result<bool, TpmError> {
        let banks = self.capability(CAP_PCRS, 0, MAX_LISTED, |reader| {
            let algorithm = reader.u16("a bank")?;
            let length = reader.u8("sizeofSelect")?;
            let bitmap = reader.bytes("pcrSelect", length.into())?;
            Ok((algorithm, bitmap.iter().any(|byte| *byte != 0)))
        })?;
        Ok(banks.contains(&(bank.id(), true)))
    }

    fn capability<T>(
        &mut self,
        kind: u32,
        first: u32,
        count: u32,
        parse: impl Fn(&mut Reader<'_>) -> Result<T, Unmarshalling>,
    ) -> Result<Vec<T>, TpmError> {
        let command = Code::GET_CAPABILITY;
        let parameters = Writer::new().u32(kind).u32(first).u32(count);
        let answer = self.run(command, &[], parameters)?;
        let mut reader = Reader(&answer.parameters);
        let list = (|| {
            reader.u8("moreData")?;
            let of = reader.u32("capability")?;
            if of != kind {
                return Err(Unmarshalling::Value {
                    field: "capability",
                    wanted: "the one that was asked for",
                    actual: of.into(),
                });
            }
            let mut list = Vec::new();
            for _ in 0..reader.count("the list", MAX_LISTED)? {
                list.push(parse(&mut reader)?);
            }
            reader.end("the list")?;
            Ok(list)
        })();
        list.in_answer_to(command.name)
    }

    /// Makes the key that a template and the hierarchy's seed determine: always the same one.
    pub(crate) fn create_primary(
        &mut self,
        hierarchy: Hierarchy,
        template: Writer,
    ) -> Result<Object, TpmError> {
        let command = Code::CREATE_PRIMARY;
        let parameters = Writer::new()
            // No password, no data.
            .sized(&[0, 0, 0, 0])
            .sized(template.as_bytes())
            .sized(&[])
            .u32(0);
        let answer = self.authorized(command, &[hierarchy.handle()], parameters)?;
        let handle = answer.handle;
        let mut reader = Reader(&answer.parameters);
        let public = reader
            .sized("outPublic", MAX_PUBLIC)
            .and_then(Public::parse)
            .in_answer_to(command.name);
        match public {
            Ok(public) => Ok(Object { handle, public }),
            Err(error) => {
                self.flush(handle)?;
                Err(error)
            }
        }
    }

    /// Describes the key under a handle, for example a persistent one.
    ///
    /// # Errors
    /// [`TpmError::Refused`] when nothing is there.
    pub fn read_public(&mut self, handle: u32) -> Result<Object, TpmError> {
        let command = Code::READ_PUBLIC;
        let answer = self.run(command, &[handle], Writer::new())?;
        let mut reader = Reader(&answer.parameters);
        let public = reader
            .sized("outPublic", MAX_PUBLIC)
            .and_then(Public::parse)
            .in_answer_to(command.name)?;
        Ok(Object { handle, public })
    }

    /// Takes what was loaded or begun out of the TPM again. A persistent key stays.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn flush_object(&mut self, object: &Object) -> Result<(), TpmError> {
        match object.is_persistent() {
            true => Ok(()),
            false => self.flush(object.handle),
        }
    }

    pub(crate) fn flush(&mut self, handle: u32) -> Result<(), TpmError> {
        let parameters = Writer::new().u32(handle);
        self.run(Code::FLUSH_CONTEXT, &[], parameters).map(drop)
    }

    /// Does something with a session that is then flushed, however it ended.
    pub(crate) fn in_session<T, E: From<TpmError>>(
        &mut self,
        kind: SessionKind,
        salted_to: Option<&Object>,
        work: impl FnOnce(&mut Self, &mut Session) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut session = self.start_session(kind, salted_to)?;
        let outcome = work(self, &mut session);
        let flushed = self.flush(session.handle);
        let value = outcome?;
        flushed?;
        Ok(value)
    }

    /// Does something with a loaded key that is then flushed, however it ended.
    pub(crate) fn with_object<T, E: From<TpmError>>(
        &mut self,
        object: Object,
        work: impl FnOnce(&mut Self, &Object) -> Result<T, E>,
    ) -> Result<T, E> {
        let outcome = work(self, &object);
        let flushed = self.flush_object(&object);
        let value = outcome?;
        flushed?;
        Ok(value)
    }

    fn start_session(
        &mut self,
        kind: SessionKind,
        salted_to: Option<&Object>,
    ) -> Result<Session, TpmError> {
        let command = Code::START_AUTH_SESSION;
        let nonce_caller = fresh_nonce()?;
        let salt = match salted_to.map(|object| object.public.key()) {
            None => None,
            Some(PublicKey::P256 { x, y }) => Some(Salt::for_key(x, y)?),
            Some(_) => {
                return Err(TpmError::argument(
                    command.name,
                    "only to a key on P-256 can a session be salted",
                ));
            }
        };
        let parameters = Writer::new().sized(&nonce_caller);
        let parameters = match &salt {
            None => parameters.sized(&[]),
            Some(Salt { x, y, .. }) => parameters.sized(Writer::new().sized(x).sized(y).as_bytes()),
        };
        let parameters = parameters.u8(kind as u8);
        let parameters = match &salt {
            None => parameters.u16(ALG_NULL),
            Some(_) => parameters.u16(ALG_AES).u16(128).u16(ALG_CFB),
        };
        let salt_key = salted_to.map_or(NULL, |object| object.handle);
        let answer = self.run(command, &[salt_key, NULL], parameters.u16(ALG_SHA256))?;
        let mut reader = Reader(&answer.parameters);
        let nonce_tpm = reader
            .sized("nonceTPM", MAX_DIGEST)
            .in_answer_to(command.name)?;
        Ok(Session::new(
            answer.handle,
            salt.as_ref().map(|salt| &*salt.secret),
            nonce_caller,
            nonce_tpm.to_vec(),
        ))
    }

    /// Sends a command that nobody has to authorize.
    pub(crate) fn run(
        &mut self,
        command: Code,
        handles: &[u32],
        parameters: Writer,
    ) -> Result<Answer, TpmError> {
        self.send(command, handles, &[], &mut [], parameters)
    }

    /// Sends a command whose first handle has no password.
    pub(crate) fn authorized(
        &mut self,
        command: Code,
        handles: &[u32],
        parameters: Writer,
    ) -> Result<Answer, TpmError> {
        self.send(command, handles, &[], &mut [Auth::Empty], parameters)
    }

    /// Sends a command. The names of its handles matter only to sessions.
    pub(crate) fn send(
        &mut self,
        command: Code,
        handles: &[u32],
        names: &[&[u8]],
        auths: &mut [Auth<'_>],
        parameters: Writer,
    ) -> Result<Answer, TpmError> {
        let mut parameters = parameters.finish(command.name)?;
        for auth in auths.iter_mut() {
            if let Auth::Session(session, encrypted) = auth {
                session.begin(command.name, *encrypted, &mut parameters)?;
            }
        }
        let hash = command_hash(command.number, names, &parameters);
        let mut area = Writer::default();
        for auth in auths.iter() {
            area = match auth {
                Auth::Empty => empty_password(area),
                Auth::Session(session, encrypted) => session.authorize(*encrypted, &hash, area),
            };
        }
        let mut body = Writer::new();
        for handle in handles {
            body = body.u32(*handle);
        }
        if !auths.is_empty() {
            let length = u32::try_from(area.as_bytes().len()).unwrap_or(u32::MAX);
            body = body.u32(length).bytes(area.as_bytes());
        }
        let body = body.bytes(&parameters).finish(command.name)?;
        let tag = if auths.is_empty() {
            NO_SESSIONS
        } else {
            SESSIONS
        };
        let length = u32::try_from(body.len())
            .unwrap_or(u32::MAX)
            .saturating_add(HEADER);
        let message = Writer::new()
            .u16(tag)
            .u32(length)
            .u32(command.number)
            .bytes(&body)
            .finish(command.name)?;
        let answer = self.exchange(command, &message)?;
        parse_answer(command, &answer, auths)
    }

    /// Sends a message until the TPM has time for it, which it says of itself.
    fn exchange(&mut self, command: Code, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let mut wait = FIRST_WAIT;
        loop {
            let answer = self
                .transport
                .exchange(message)
                .map_err(|source| TpmError::Io {
                    command: command.name,
                    source,
                })?;
            let mut reader = Reader(&answer);
            let code = (|| {
                reader.u16("tag")?;
                reader.u32("responseSize")?;
                reader.u32("responseCode")
            })()
            .in_answer_to(command.name)?;
            if wait > LAST_WAIT || !ResponseCode::new(code).is_transient() {
                return Ok(answer);
            }
            std::thread::sleep(wait);
            wait *= 2;
        }
    }
}

/// Takes an answer apart (Part 1, 18.5), and lets its sessions check it.
pub(crate) fn parse_answer(
    command: Code,
    answer: &[u8],
    auths: &mut [Auth<'_>],
) -> Result<Answer, TpmError> {
    let name = command.name;
    let mut reader = Reader(answer);
    let (tag, length, code) = (|| {
        Ok((
            reader.u16("tag")?,
            reader.u32("responseSize")?,
            reader.u32("responseCode")?,
        ))
    })()
    .in_answer_to(name)?;
    if usize::try_from(length) != Ok(answer.len()) {
        return Err(TpmError::malformed(
            name,
            format!(
                "it says that it has {length} bytes, and has {}",
                answer.len()
            ),
        ));
    }
    if code != 0 {
        return Err(TpmError::Refused {
            command: name,
            code: ResponseCode::new(code),
        });
    }
    let wanted = if auths.is_empty() {
        NO_SESSIONS
    } else {
        SESSIONS
    };
    if tag != wanted {
        return Err(TpmError::malformed(
            name,
            format!("its tag is {tag:#06x} instead of {wanted:#06x}"),
        ));
    }
    let handle = match command.gives_handle {
        true => reader.u32("the handle").in_answer_to(name)?,
        false => 0,
    };
    if auths.is_empty() {
        return Ok(Answer {
            handle,
            parameters: Zeroizing::new(reader.rest().to_vec()),
        });
    }
    let parameters = reader
        .u32("parameterSize")
        .and_then(|length| {
            reader.bytes(
                "the parameters",
                usize::try_from(length).unwrap_or(usize::MAX),
            )
        })
        .in_answer_to(name)?;
    let mut parameters = Zeroizing::new(parameters.to_vec());
    let hash = answer_hash(command.number, &parameters);
    for auth in auths {
        let answered = AnswerAuth::parse(name, &mut reader)?;
        if let Auth::Session(session, encrypted) = auth {
            session.conclude(name, *encrypted, &hash, &answered, &mut parameters)?;
        }
    }
    reader.end("the sessions").in_answer_to(name)?;
    Ok(Answer { handle, parameters })
}

/// What a command brought.
pub(crate) struct Answer {
    /// Zero for a command that gives none.
    pub(crate) handle: u32,
    pub(crate) parameters: Zeroizing<Vec<u8>>,
}

/// A key in the TPM, for as long as it is not flushed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Object {
    pub(crate) handle: u32,
    pub(crate) public: Public,
}

impl Object {
    /// The key's public area.
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// Where the TPM has it.
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// Whether it stays when the TPM restarts.
    pub(crate) fn is_persistent(&self) -> bool {
        self.handle >> 24 == PERSISTENT
    }
}

/// From whose seed primary keys are made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hierarchy {
    /// The machine's owner, who clears it (`TPM2_Clear`): then its keys are others.
    Owner,
    /// The TPM itself: its keys stay what they are.
    Endorsement,
}

impl Hierarchy {
    pub(crate) fn handle(self) -> u32 {
        match self {
            Self::Owner => 0x4000_0001,
            Self::Endorsement => 0x4000_000B,
        }
    }
}

/// What a session is for (`TPM_SE`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SessionKind {
    Hmac = 0,
    Policy = 1,
}

/// A command's number and name (`TPM_CC`, Part 2, 6.5.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Code {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    gives_handle: bool,
}

impl Code {
    const fn new(number: u32, name: &'static str) -> Self {
        Self {
            number,
            name,
            gives_handle: false,
        }
    }

    const fn for_handle(number: u32, name: &'static str) -> Self {
        Self {
            number,
            name,
            gives_handle: true,
        }
    }

    pub(crate) const NV_DEFINE_SPACE: Self = Self::new(0x12A, "TPM2_NV_DefineSpace");
    pub(crate) const CREATE_PRIMARY: Self = Self::for_handle(0x131, "TPM2_CreatePrimary");
    pub(crate) const NV_WRITE: Self = Self::new(0x137, "TPM2_NV_Write");
    const STARTUP: Self = Self::new(0x144, "TPM2_Startup");
    pub(crate) const ACTIVATE_CREDENTIAL: Self = Self::new(0x147, "TPM2_ActivateCredential");
    pub(crate) const NV_READ: Self = Self::new(0x14E, "TPM2_NV_Read");
    pub(crate) const POLICY_SECRET: Self = Self::new(0x151, "TPM2_PolicySecret");
    pub(crate) const CREATE: Self = Self::new(0x153, "TPM2_Create");
    pub(crate) const LOAD: Self = Self::for_handle(0x157, "TPM2_Load");
    pub(crate) const QUOTE: Self = Self::new(0x158, "TPM2_Quote");
    pub(crate) const UNSEAL: Self = Self::new(0x15E, "TPM2_Unseal");
    const FLUSH_CONTEXT: Self = Self::new(0x165, "TPM2_FlushContext");
    pub(crate) const NV_READ_PUBLIC: Self = Self::new(0x169, "TPM2_NV_ReadPublic");
    const READ_PUBLIC: Self = Self::new(0x173, "TPM2_ReadPublic");
    const START_AUTH_SESSION: Self = Self::for_handle(0x176, "TPM2_StartAuthSession");
    const GET_CAPABILITY: Self = Self::new(0x17A, "TPM2_GetCapability");
    const GET_RANDOM: Self = Self::new(0x17B, "TPM2_GetRandom");
    pub(crate) const PCR_READ: Self = Self::new(0x17E, "TPM2_PCR_Read");
    pub(crate) const POLICY_PCR: Self = Self::new(0x17F, "TPM2_PolicyPCR");
    pub(crate) const PCR_EXTEND: Self = Self::new(0x182, "TPM2_PCR_Extend");
    pub(crate) const POLICY_GET_DIGEST: Self = Self::new(0x189, "TPM2_PolicyGetDigest");
}

/// `TPM_ST` (Part 2, 6.9).
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// `TPM_RH_NULL`.
const NULL: u32 = 0x4000_0007;
/// `TPM_HT_PERSISTENT`.
const PERSISTENT: u32 = 0x81;
/// Tag, length, code.
const HEADER: u32 = 10;
const ALG_AES: u16 = 0x0006;
const ALG_CFB: u16 = 0x0043;
const CAP_HANDLES: u32 = 1;
const CAP_PCRS: u32 = 5;
const CAP_TPM_PROPERTIES: u32 = 6;
const MAX_LISTED: u32 = 254;
const MAX_DIGEST: u16 = 64;
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LAST_WAIT: Duration = Duration::from_secs(2);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn recorded(answers: &[&[u8]]) -> Tpm {
        let answers = answers.iter().map(|answer| answer.to_vec()).collect();
        Tpm {
            transport: Transport::Recorded(answers),
        }
    }

    const RETRY: [u8; 10] = [0x80, 1, 0, 0, 0, 10, 0, 0, 0x09, 0x22];

    #[test]
    fn tpm_that_is_busy_is_asked_again() {
        let random = [0x80, 1, 0, 0, 0, 14, 0, 0, 0, 0, 0, 2, 7, 8];
        let mut tpm = recorded(&[&RETRY, &random]);
        assert_eq!(*tpm.random(2).unwrap(), [7, 8]);
    }

    #[test]
    fn fewer_random_bytes_than_asked_for_are_refused() {
        let random = [0x80, 1, 0, 0, 0, 14, 0, 0, 0, 0, 0, 2, 7, 8];
        assert!(matches!(
            recorded(&[&random]).random(3),
            Err(TpmError::Malformed { .. })
        ));
    }

    #[test]
    fn answer_of_another_length_than_it_says_is_refused() {
        let random = [0x80, 1, 0, 0, 0, 15, 0, 0, 0, 0, 0, 2, 7, 8];
        let refused = recorded(&[&random]).random(2).unwrap_err();
        assert!(
            refused.to_string().contains("says that it has 15"),
            "{refused}"
        );
    }

    #[test]
    fn answer_without_the_session_that_was_asked_for_is_refused() {
        let success = [0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0];
        let refused = recorded(&[&success])
            .extend_pcr(HashAlgorithm::Sha256, 8, &[0; 32])
            .unwrap_err();
        assert!(refused.to_string().contains("0x8001"), "{refused}");
    }

    #[test]
    fn tpm_1_2_is_named() {
        let bad_tag = [0, 0xC4, 0, 0, 0, 10, 0, 0, 0, 0x1E];
        let refused = recorded(&[&bad_tag]).random(2).unwrap_err();
        assert!(refused.to_string().contains("TPM 1.2"), "{refused}");
    }
}
