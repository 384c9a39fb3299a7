//! Where a TPM is: a device file, a Unix socket, or a port of this machine.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where a TPM takes commands.
///
/// The text form is a path (`/dev/tpmrm0`; a socket is recognised as one) or `tcp:ADDRESS:PORT`, for an emulator on this
/// machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TpmAddress {
    /// A character device, which takes a command in one write and gives the answer in one read, or a Unix socket.
    Path(PathBuf),
    /// The data channel of an emulator. Only on this machine: what is said there is protected by nobody.
    Tcp(SocketAddr),
}

impl TpmAddress {
    /// The kernel's resource manager, which lets several programs use one TPM and cleans up after each.
    pub fn resource_manager() -> Self {
        Self::Path(PathBuf::from(RESOURCE_MANAGER))
    }
}

impl FromStr for TpmAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(socket) = text.strip_prefix("tcp:") {
            let address: SocketAddr = socket.parse().map_err(|_| AddressError::Tcp)?;
            return match address.ip().is_loopback() {
                true => Ok(Self::Tcp(address)),
                false => Err(AddressError::Elsewhere(address)),
            };
        }
        match Path::new(text).is_absolute() {
            true => Ok(Self::Path(PathBuf::from(text))),
            false => Err(AddressError::Form(text.to_owned())),
        }
    }
}

impl fmt::Display for TpmAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// Why a text names no TPM.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Neither a path nor a port.
    #[error("{0:?} is no TPM: write {RESOURCE_MANAGER}, or tcp:127.0.0.1:PORT for an emulator")]
    Form(String),
    /// No address and port follow `tcp:`.
    #[error(
        "after tcp: an address and a port of this machine must follow, as in tcp:127.0.0.1:2321"
    )]
    Tcp,
    /// Another machine's.
    #[error(
        "{0} is not this machine: a TPM is spoken to here only, the connection has no protection of its own"
    )]
    Elsewhere(SocketAddr),
}

const RESOURCE_MANAGER: &str = "/dev/tpmrm0";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_read_back() {
        for text in ["/dev/tpmrm0", "tcp:127.0.0.1:2321", "tcp:[::1]:2321"] {
            assert_eq!(text.parse::<TpmAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn another_machines_tpm_is_refused() {
        let refused = "tcp:192.0.2.1:2321".parse::<TpmAddress>().unwrap_err();
        assert!(matches!(refused, AddressError::Elsewhere(_)));
        for text in ["", "tpmrm0", "tcp:", "tcp:localhost:1", "swtpm:port=1"] {
            assert!(text.parse::<TpmAddress>().is_err(), "{text}");
        }
    }
}
