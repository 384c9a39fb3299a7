//! What can go wrong between this program and a TPM.

use std::io;

use crate::address::TpmAddress;
use crate::marshal::Unmarshalling;
use crate::response_code::ResponseCode;

/// Why a command had no effect, or its answer is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// There is no way to it.
    #[error(
        "the TPM at {address} cannot be opened: {source}{}",
        open_advice(source)
    )]
    Open {
        /// Where it should be.
        address: TpmAddress,
        /// What the system said.
        source: io::Error,
    },
    /// It took no command or gave no answer.
    #[error("{command}: no answer from the TPM: {source}")]
    Io {
        /// The command's name.
        command: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It refused, and said why.
    #[error("{command}: the TPM refuses with {code}")]
    Refused {
        /// The command's name.
        command: &'static str,
        /// What it said.
        code: ResponseCode,
    },
    /// The answer is none to this command.
    #[error("{command}: the TPM's answer is malformed: {detail}")]
    Malformed {
        /// The command's name.
        command: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The answer was not made by who has the session's key.
    #[error(
        "{command}: the answer does not carry the code of its session: something between this program and the TPM changed \
         it, or answered in its place"
    )]
    Integrity {
        /// The command's name.
        command: &'static str,
    },
    /// The command cannot be sent as it was asked for.
    #[error("{command}: {detail}")]
    Argument {
        /// The command's name.
        command: &'static str,
        /// What is wrong with what was asked for.
        detail: String,
    },
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Crypto,
}

impl TpmError {
    pub(crate) fn malformed(command: &'static str, detail: impl Into<String>) -> Self {
        Self::Malformed {
            command,
            detail: detail.into(),
        }
    }

    pub(crate) fn argument(command: &'static str, detail: impl Into<String>) -> Self {
        Self::Argument {
            command,
            detail: detail.into(),
        }
    }

    /// What the TPM said, if it refused.
    pub fn code(&self) -> Option<ResponseCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// Names the command whose answer was read.
pub(crate) trait InAnswerTo<T> {
    fn in_answer_to(self, command: &'static str) -> Result<T, TpmError>;
}

impl<T> InAnswerTo<T> for Result<T, Unmarshalling> {
    fn in_answer_to(self, command: &'static str) -> Result<T, TpmError> {
        self.map_err(|error| TpmError::malformed(command, error.to_string()))
    }
}

impl From<aws_lc_rs::error::Unspecified> for TpmError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Crypto
    }
}

fn open_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => {
            ". No TPM 2.0 is here, or it is off: turn it on in the firmware's setup, and give a virtual machine one"
        }
        io::ErrorKind::PermissionDenied => {
            ". Give this program's user the right to use it: on most systems, membership of the group `tss`"
        }
        io::ErrorKind::ConnectionRefused => ". No emulator listens there",
        _ if source.raw_os_error() == Some(EBUSY) => {
            ". Another program has it open: use /dev/tpmrm0, which several programs can share"
        }
        _ => "",
    }
}

const EBUSY: i32 = 16;
