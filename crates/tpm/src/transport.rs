//! One command there, one answer back.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::address::TpmAddress;
use crate::marshal::MAX_MESSAGE;

/// A way to a TPM.
#[derive(Debug)]
pub(crate) enum Transport {
    /// One write is one command, the reads until the next write are its answer (Linux: `drivers/char/tpm/tpm-dev-common.c`).
    Device(File),
    /// The same bytes one after the other: the header says how long each answer is.
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Answers that were written down before, for tests of what a TPM may answer.
    Recorded(std::collections::VecDeque<Vec<u8>>),
}

impl Transport {
    pub(crate) fn open(address: &TpmAddress) -> io::Result<Self> {
        match address {
            TpmAddress::Path(path) => Self::open_path(path),
            TpmAddress::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, CONNECT)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER))?;
                stream.set_write_timeout(Some(ANSWER))?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    fn open_path(path: &Path) -> io::Result<Self> {
        if std::fs::metadata(path)?.file_type().is_socket() {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(ANSWER))?;
            stream.set_write_timeout(Some(ANSWER))?;
            return Ok(Self::Unix(stream));
        }
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        // A plain file would give back what was written to it.
        match file.metadata()?.file_type().is_char_device() {
            true => Ok(Self::Device(file)),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is neither a device nor a socket",
            )),
        }
    }

    /// Sends a command and waits for its answer, which is no longer than any may be.
    pub(crate) fn exchange(&mut self, command: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
        match self {
            Self::Device(file) => {
                // The kernel takes a command whole or not at all.
                if file.write(command)? != command.len() {
                    return Err(io::Error::new(
                        io::ErrorKind::WriteZero,
                        "the device took a part of the command",
                    ));
                }
                let mut answer = Zeroizing::new(vec![0; MAX_MESSAGE]);
                let mut length = 0;
                // One read brings all of it, unless the driver hands it out in parts.
                while let Some(left) = answer.get_mut(length..).filter(|left| !left.is_empty()) {
                    let read = file.read(left)?;
                    length = length.saturating_add(read);
                    let has_all = answer.get(..length).is_some_and(is_whole);
                    if read == 0 || has_all {
                        break;
                    }
                }
                answer.truncate(length);
                Ok(answer)
            }
            Self::Tcp(stream) => over_stream(stream, command),
            Self::Unix(stream) => over_stream(stream, command),
            Self::Recorded(answers) => {
                let answer = answers.pop_front().map(Zeroizing::new);
                answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
        }
    }
}

fn over_stream(stream: &mut (impl Read + Write), command: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
    stream.write_all(command)?;
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let [_, _, length @ .., _, _, _, _] = header;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if !(HEADER..=MAX_MESSAGE).contains(&length) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "an answer of {length} bytes was announced, {HEADER} to {MAX_MESSAGE} are possible"
            ),
        ));
    }
    let mut answer = Zeroizing::new(vec![0; length]);
    let (head, body) = answer.split_at_mut(HEADER);
    head.copy_from_slice(&header);
    stream.read_exact(body)?;
    Ok(answer)
}

/// Whether an answer has all the bytes that its header announces.
fn is_whole(answer: &[u8]) -> bool {
    match answer {
        [_, _, a, b, c, d, ..] => {
            let announced = u32::from_be_bytes([*a, *b, *c, *d]);
            usize::try_from(announced).is_ok_and(|announced| answer.len() >= announced)
        }
        _ => false,
    }
}

/// Tag, length, response code.
const HEADER: usize = 10;
const CONNECT: Duration = Duration::from_secs(5);
/// Making an RSA key takes a slow TPM half a minute and more.
const ANSWER: Duration = Duration::from_secs(180);
