//! A file system whose files the test answers, as a kernel answers its own: a folder that is made comes with its files,
//! a file that was written to answers differently, a driver takes calls.
//!
//! The FUSE protocol (Linux `fuse.h`, 7.31), as much of it as files of devices need. Nothing is cached, so each system
//! call of the program under test arrives here.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::mount::{MountFlags, UnmountFlags};

/// What a path is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file, and its permission bits.
    File(u32),
}

/// What answers. Paths begin at the mount's root, without a slash. Errors are Linux's numbers, such as 2 for ENOENT.
pub trait Answers: Send + 'static {
    /// What a path is, if anything.
    fn kind(&mut self, path: &str) -> Option<Kind>;
    /// All that a file holds, asked for at the first read after it was opened.
    ///
    /// # Errors
    /// Any.
    fn read(&mut self, path: &str) -> Result<Vec<u8>, i32>;
    /// One write.
    ///
    /// # Errors
    /// Any.
    fn write(&mut self, path: &str, bytes: &[u8]) -> Result<(), i32>;
    /// A folder is made.
    ///
    /// # Errors
    /// Any.
    fn make_folder(&mut self, path: &str) -> Result<(), i32>;
    /// A folder is removed.
    ///
    /// # Errors
    /// Any.
    fn remove_folder(&mut self, path: &str) -> Result<(), i32>;
    /// A driver is called, with the number of the call, the address that was passed, and the bytes that the number says
    /// are passed; gives what is written back there.
    ///
    /// # Errors
    /// Any.
    fn call(
        &mut self,
        path: &str,
        command: u32,
        address: u64,
        input: &[u8],
    ) -> Result<Vec<u8>, i32>;
}

/// A mounted file system, gone when it is dropped.
pub struct KernelFiles {
    folder: tempfile::TempDir,
    server: Option<JoinHandle<()>>,
}

impl KernelFiles {
    /// Mounts a file system. `None`, having said that the test was skipped, where this process may not mount.
    ///
    /// # Panics
    /// When a file system was mounted and cannot be served.
    pub fn mount<A: Answers>(answers: &Arc<Mutex<A>>) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let mounted = device.and_then(|device| {
            let options = format!(
                "fd={},rootmode=40000,user_id=0,group_id=0",
                device.as_raw_fd()
            );
            let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
            rustix::mount::mount(
                "strongroom-test",
                folder.path(),
                "fuse",
                MountFlags::NOSUID | MountFlags::NODEV,
                options.as_c_str(),
            )?;
            Ok(device)
        });
        let device = match mounted {
            Ok(device) => device,
            Err(error) => {
                crate::fixtures::skip(&format!("no file system can be mounted here: {error}"));
                return None;
            }
        };
        let server = Server {
            device,
            answers: Arc::clone(answers),
            paths: HashMap::from([(1, String::new())]),
            open: HashMap::new(),
            next: 1,
        };
        let server = std::thread::spawn(move || server.serve());
        Some(Self {
            folder,
            server: Some(server),
        })
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().to_path_buf()
    }
}

impl Drop for KernelFiles {
    fn drop(&mut self) {
        let gone = rustix::mount::unmount(self.path(), UnmountFlags::DETACH);
        if let Some(server) = self.server.take()
            && gone.is_ok()
        {
            server.join().ok();
        }
    }
}

struct Server<A> {
    device: File,
    answers: Arc<Mutex<A>>,
    /// The paths of the numbers that were given out; one number for each path.
    paths: HashMap<u64, String>,
    /// What is open: its path, and what it held when it was read first.
    open: HashMap<u64, (String, Option<Vec<u8>>)>,
    next: u64,
}

impl<A: Answers> Server<A> {
    fn serve(mut self) {
        let mut buffer = vec![0; BUFFER];
        // The read fails when the file system is unmounted.
        while let Ok(length) = self.device.read(&mut buffer) {
            let Some(request) = Request::parse(&buffer[..length]) else {
                return;
            };
            let outcome = match request.operation {
                FORGET | BATCH_FORGET | INTERRUPT => continue,
                _ => self.answer(&request),
            };
            let (error, body) = match outcome {
                Ok(body) => (0, body),
                Err(error) => (-error, Vec::new()),
            };
            let length = u32::try_from(16 + body.len()).expect("answers are short");
            let mut reply = length.to_le_bytes().to_vec();
            reply.extend(error.to_le_bytes());
            reply.extend(request.unique.to_le_bytes());
            reply.extend(body);
            // Whoever asked may be gone.
            self.device.write_all(&reply).ok();
        }
    }

    fn answer(&mut self, request: &Request<'_>) -> Result<Vec<u8>, i32> {
        let answers = Arc::clone(&self.answers);
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        match request.operation {
            INIT => Ok(initialised()),
            LOOKUP => {
                let path = self.child(request)?;
                let kind = answers.kind(&path).ok_or(ENOENT)?;
                Ok(self.entry(path, kind))
            }
            GETATTR | SETATTR => {
                let path = self.path(request.node)?;
                let kind = answers.kind(&path).ok_or(ENOENT)?;
                let mut body = vec![0; 16];
                body.extend(attributes(request.node, kind));
                Ok(body)
            }
            MKDIR => {
                let name = request.text(8)?;
                let path = joined(&self.path(request.node)?, &name);
                if answers.kind(&path).is_some() {
                    return Err(EEXIST);
                }
                answers.make_folder(&path)?;
                Ok(self.entry(path, Kind::Folder))
            }
            RMDIR => {
                let path = self.child(request)?;
                answers.remove_folder(&path)?;
                Ok(Vec::new())
            }
            OPEN | OPENDIR => {
                let path = self.path(request.node)?;
                answers.kind(&path).ok_or(ENOENT)?;
                let handle = self.number();
                self.open.insert(handle, (path, None));
                let mut body = handle.to_le_bytes().to_vec();
                body.extend(DIRECT_IO.to_le_bytes());
                body.extend([0; 4]);
                Ok(body)
            }
            READ => {
                let (path, held) = self.open.get_mut(&request.u64(0)?).ok_or(EIO)?;
                let held = match held {
                    Some(held) => held,
                    None => held.insert(answers.read(path)?),
                };
                let offset = usize::try_from(request.u64(8)?).map_err(|_| EIO)?;
                let size = usize::try_from(request.u32(16)?).map_err(|_| EIO)?;
                let rest = held.get(offset..).unwrap_or_default();
                Ok(rest.get(..size).unwrap_or(rest).to_vec())
            }
            WRITE => {
                let (path, _) = self.open.get(&request.u64(0)?).ok_or(EIO)?;
                let size = request.u32(16)?;
                let bytes = usize::try_from(size)
                    .ok()
                    .and_then(|size| request.body.get(40..40 + size));
                answers.write(path, bytes.ok_or(EIO)?)?;
                Ok([size.to_le_bytes(), [0; 4]].concat())
            }
            RELEASE | RELEASEDIR => {
                self.open.remove(&request.u64(0)?);
                Ok(Vec::new())
            }
            FLUSH => Ok(Vec::new()),
            READDIR => Ok(Vec::new()),
            IOCTL => {
                let (path, _) = self.open.get(&request.u64(0)?).ok_or(EIO)?;
                let input = request.body.get(32..).unwrap_or_default();
                let output = answers.call(path, request.u32(12)?, request.u64(16)?, input)?;
                Ok([vec![0; 16], output].concat())
            }
            _ => Err(ENOSYS),
        }
    }

    fn path(&self, node: u64) -> Result<String, i32> {
        self.paths.get(&node).cloned().ok_or(ENOENT)
    }

    fn child(&self, request: &Request<'_>) -> Result<String, i32> {
        Ok(joined(&self.path(request.node)?, &request.text(0)?))
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn entry(&mut self, path: String, kind: Kind) -> Vec<u8> {
        let known = self.paths.iter().find(|(_, known)| **known == path);
        let node = match known {
            Some((node, _)) => *node,
            None => {
                let node = self.number();
                self.paths.insert(node, path);
                node
            }
        };
        let mut body = node.to_le_bytes().to_vec();
        body.resize(40, 0);
        body.extend(attributes(node, kind));
        body
    }
}

struct Request<'a> {
    operation: u32,
    unique: u64,
    node: u64,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let head = Self {
            operation: 0,
            unique: 0,
            node: 0,
            body: bytes,
        };
        Some(Self {
            operation: head.u32(4).ok()?,
            unique: head.u64(8).ok()?,
            node: head.u64(16).ok()?,
            body: bytes.get(40..)?,
        })
    }

    fn u32(&self, at: usize) -> Result<u32, i32> {
        let bytes = self.body.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map(|bytes| u32::from_le_bytes(*bytes)).ok_or(EIO)
    }

    fn u64(&self, at: usize) -> Result<u64, i32> {
        let bytes = self.body.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map(|bytes| u64::from_le_bytes(*bytes)).ok_or(EIO)
    }

    fn text(&self, at: usize) -> Result<String, i32> {
        let bytes = self.body.get(at..).ok_or(EIO)?;
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8(text.to_vec()).map_err(|_| EIO)
    }
}

fn initialised() -> Vec<u8> {
    let mut body = Vec::new();
    for word in [7_u32, 31, 0, 0, 0, 64 * 1024, 1] {
        body.extend(word.to_le_bytes());
    }
    body.resize(64, 0);
    body
}

fn attributes(node: u64, kind: Kind) -> Vec<u8> {
    let (mode, links) = match kind {
        Kind::Folder => (0o040_755, 2),
        Kind::File(mode) => (0o100_000 | mode, 1),
    };
    let mut body = node.to_le_bytes().to_vec();
    // Size, blocks and times are zero: these files have none.
    body.resize(60, 0);
    for word in [mode, links, 0, 0, 0, 4096, 0_u32] {
        body.extend(word.to_le_bytes());
    }
    body
}

fn joined(folder: &str, name: &str) -> String {
    Path::new(folder)
        .join(name)
        .to_str()
        .expect("both are UTF-8")
        .to_owned()
}

const BUFFER: usize = 256 * 1024;
const DIRECT_IO: u32 = 1;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const MKDIR: u32 = 9;
const RMDIR: u32 = 11;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const IOCTL: u32 = 39;
const BATCH_FORGET: u32 = 42;

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EEXIST: i32 = 17;
const ENOSYS: i32 = 38;
