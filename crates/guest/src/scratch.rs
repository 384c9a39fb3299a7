//! Encrypted scratch space: LUKS2 on a disk that the host lends, so that data too large for memory never lies there in
//! plaintext.
//!
//! cryptsetup(8) does the work. The header is detached and lies in memory: a header on the disk could be exchanged by the
//! host, for one that turns encryption off among others. With the key and the header the data are gone when the machine
//! is; data that are to stay need a key that the broker holds and a header that its owner keeps where the host cannot
//! change it. The key goes to cryptsetup by standard input, never by an argument or a file.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::OFlags;
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use crate::error::GuestError;
use crate::placement::{Placement, check_filesystem};

/// What is to become scratch space.
#[derive(Clone, Debug)]
pub struct Scratch {
    /// A block device, or a file, for which cryptsetup makes a loop device.
    pub device: PathBuf,
    /// Its name: the plaintext device is `/dev/mapper/NAME`.
    pub name: ScratchName,
    /// The detached header. One that exists is opened; otherwise the device is made anew.
    pub header: PathBuf,
    /// Whether changes of the disk are found, at the price of space and speed.
    pub integrity: bool,
    /// Whether data that lie on the device may be lost.
    pub existing: Existing,
    /// The file system to make, with the program `mkfs.NAME`.
    pub filesystem: Option<String>,
    /// Where to mount it.
    pub mount: Option<PathBuf>,
}

/// What is done with a device that seems to hold data.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Existing {
    /// It is not touched.
    #[default]
    Refuse,
    /// It is overwritten.
    Overwrite,
}

impl Scratch {
    /// Encrypts the device, opens it, makes a file system and mounts it, as far as that is asked for. What was begun is
    /// undone when a later step fails.
    ///
    /// # Errors
    /// [`GuestError::ScratchNeeds`] with all that is missing; [`GuestError::Scratch`] with what the system or cryptsetup
    /// says; [`GuestError::NotInMemory`] when a new header would lie on a disk.
    pub fn open(&self, key: &ScratchKey) -> Result<PathBuf, GuestError> {
        self.check_needs()?;
        let mapped = self.name.mapped();
        if mapped.exists() {
            return Err(failed(&mapped, "it is open already: close it first"));
        }
        if let Some(mount) = &self.mount
            && !mount.is_dir()
        {
            return Err(failed(mount, "there is no such folder to mount at"));
        }
        let is_new = !self.header.exists();
        if !is_new && self.filesystem.is_some() {
            return Err(failed(
                &self.header,
                "this header exists, so that the device holds data; a new file system would destroy them: leave out the \
                 file system, or remove the header",
            ));
        }
        self.check_device(is_new)?;
        let cryptsetup = Cryptsetup::found()?;
        let copy = match is_new {
            true => {
                cryptsetup.format(self, key)?;
                None
            }
            false => Some(self.checked_header(&cryptsetup, Path::new(HEADERS))?),
        };
        let header = copy
            .as_ref()
            .map_or(self.header.as_path(), NamedTempFile::path);
        let opened = cryptsetup
            .open(self, header, key)
            .and_then(|()| self.use_it(&mapped).inspect_err(|_| self.undo(&cryptsetup)));
        if opened.is_err() && is_new {
            remove(&self.header);
        }
        opened.map(|()| mapped)
    }

    /// A header that was made before, as it is now, in memory: what is looked at is then what is opened. One that says
    /// anything else than [`Cryptsetup::format`] writes is not opened: it could turn encryption off.
    fn checked_header(
        &self,
        cryptsetup: &Cryptsetup,
        folder: &Path,
    ) -> Result<NamedTempFile, GuestError> {
        let wrong = |error: io::Error| failed(&self.header, format!("cannot be read: {error}"));
        make_folder(folder).map_err(wrong)?;
        let opened = File::open(folder).map_err(wrong)?;
        check_filesystem(&opened, folder, Placement::MemoryOnly)?;
        let header = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&self.header)
            .map_err(wrong)?;
        if !header.metadata().map_err(wrong)?.is_file() {
            return Err(failed(&self.header, "the header is no regular file"));
        }
        let mut copy = NamedTempFile::new_in(folder).map_err(wrong)?;
        let copied = io::copy(&mut header.take(MAX_HEADER + 1), &mut copy).map_err(wrong)?;
        if copied > MAX_HEADER {
            return Err(failed(&self.header, "it is longer than a header may be"));
        }
        let metadata = cryptsetup.metadata(copy.path())?;
        check_metadata(&metadata, self.integrity).map_err(|reason| {
            failed(
                &self.header,
                format!(
                    "this header is not opened: {reason}. Somebody exchanged it, or it was made by other means: remove it to \
                     make the device anew, which loses what is on it"
                ),
            )
        })?;
        Ok(copy)
    }

    /// Whether everything is here that opening it needs.
    ///
    /// # Errors
    /// [`GuestError::ScratchNeeds`] with all that is missing.
    pub fn check_needs(&self) -> Result<(), GuestError> {
        Needs::look(self.filesystem.as_deref()).met()
    }

    fn use_it(&self, mapped: &Path) -> Result<(), GuestError> {
        if let Some(filesystem) = &self.filesystem {
            let mut make = Command::new(program(&format!("mkfs.{filesystem}")).unwrap_or_default());
            make.arg("-q").arg(mapped);
            run(&mut make, None, mapped)?;
        }
        let (Some(at), Some(filesystem)) = (&self.mount, self.mounted_as()) else {
            return Ok(());
        };
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        rustix::mount::mount(mapped, at, filesystem, flags, None)
            .map_err(|error| failed(at, format!("cannot mount {}: {error}", mapped.display())))
    }

    fn mounted_as(&self) -> Option<&str> {
        // A device that was made before is taken to hold what is made unless told otherwise.
        self.mount.as_ref()?;
        Some(self.filesystem.as_deref().unwrap_or(DEFAULT_FILESYSTEM))
    }

    fn undo(&self, cryptsetup: &Cryptsetup) {
        if let Err(error) = cryptsetup.close(&self.name) {
            tracing::error!(%error, "scratch space stays open");
        }
    }

    /// A typing mistake must not cost a disk.
    fn check_device(&self, is_new: bool) -> Result<(), GuestError> {
        let wrong = |reason: &str| Err(failed(&self.device, reason));
        let metadata = match self.device.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return Err(failed(&self.device, format!("cannot be read: {error}"))),
        };
        if !metadata.is_file() && !metadata.file_type().is_block_device() {
            return wrong("it is neither a block device nor a file");
        }
        if mounted_at(&self.device).next().is_some() {
            return wrong("it is mounted: unmount it, or choose another");
        }
        if is_new && self.existing == Existing::Refuse && holds_data(&self.device)? {
            return wrong(
                "it seems to hold data (its first MiB is not empty): name it with --overwrite if they may be lost",
            );
        }
        Ok(())
    }
}

/// Makes an empty file of this many bytes to use as a device; what is not written to takes no space.
///
/// # Errors
/// [`GuestError::Scratch`] when there is a file already, or the system refuses.
pub fn make_file(path: &Path, bytes: u64) -> Result<(), GuestError> {
    let wrong = |error: io::Error| failed(path, format!("cannot make the file: {error}"));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(wrong)?;
    // dm-crypt works in sectors of 4096 bytes.
    file.set_len(bytes / SECTOR * SECTOR).map_err(|error| {
        remove(path);
        wrong(error)
    })
}

/// Unmounts scratch space, closes it, and removes its header unless that is kept.
///
/// # Errors
/// [`GuestError::ScratchNeeds`] and [`GuestError::Scratch`].
pub fn close(name: &ScratchName, header: Option<&Path>) -> Result<(), GuestError> {
    Needs::look(None).met()?;
    let mapped = name.mapped();
    if !mapped.exists() {
        return Err(failed(&mapped, "no scratch space of this name is open"));
    }
    // The innermost mount is the last one.
    let mut mounts: Vec<PathBuf> = mounted_at(&mapped).collect();
    mounts.reverse();
    for at in mounts {
        rustix::mount::unmount(&at, UnmountFlags::empty())
            .map_err(|error| failed(&at, format!("cannot be unmounted: {error}")))?;
    }
    Cryptsetup::found()?.close(name)?;
    if let Some(header) = header {
        remove(header);
    }
    Ok(())
}

/// A name that is good for `/dev/mapper` and for a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ScratchName(String);

impl ScratchName {
    /// The plaintext device.
    pub fn mapped(&self) -> PathBuf {
        Path::new(MAPPER).join(&self.0)
    }

    /// Where the header of a disk lies that Kata's agent has mounted: what has the same name otherwise is another's.
    pub fn header_of_mount(&self) -> PathBuf {
        Path::new(HEADERS)
            .join("secure-mount")
            .join(format!("{}.header", self.0))
    }

    /// Where the header lies unless another place is named.
    pub fn default_header(&self) -> PathBuf {
        Path::new(HEADERS).join(format!("{}.header", self.0))
    }
}

impl std::fmt::Display for ScratchName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for ScratchName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if (1..=64).contains(&name.len()) && name.bytes().all(plain) && name != "control" {
            Ok(Self(name.to_owned()))
        } else {
            Err("write up to 64 letters, digits, - and _".to_owned())
        }
    }
}

/// What encrypts scratch space. It has no `Debug`, `Display` or `Serialize`.
pub struct ScratchKey(Zeroizing<Vec<u8>>);

impl ScratchKey {
    /// A fresh key that nobody else will ever have: the data are gone with the machine.
    ///
    /// # Errors
    /// [`GuestError::Io`] when the system has no randomness.
    pub fn ephemeral() -> Result<Self, GuestError> {
        let mut key = Zeroizing::new(vec![0u8; EPHEMERAL_KEY]);
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut key))
            .map_err(crate::placement::io_error("reading /dev/urandom"))?;
        Ok(Self(key))
    }

    /// A key that is held elsewhere, by the broker above all.
    ///
    /// # Errors
    /// [`GuestError::UnusablePlaintext`] when it is short enough to be a password, which the few iterations of its
    /// derivation would not protect.
    pub fn held_elsewhere(key: Zeroizing<Vec<u8>>) -> Result<Self, GuestError> {
        if key.len() < MIN_KEY || key.len() > MAX_KEY {
            return Err(GuestError::UnusablePlaintext(
                "a scratch space's key has 32 to 4096 random bytes: make it with `strongroom keygen`",
            ));
        }
        Ok(Self(key))
    }
}

/// What must be there, looked for all at once.
struct Needs {
    missing: Vec<String>,
}

impl Needs {
    fn look(filesystem: Option<&str>) -> Self {
        let mut missing = Vec::new();
        if !rustix::process::geteuid().is_root() {
            missing.push("root: run it as root, with CAP_SYS_ADMIN".to_owned());
        }
        if program(CRYPTSETUP).is_none() {
            missing
                .push("cryptsetup: install it (Debian: apt-get install cryptsetup-bin)".to_owned());
        }
        // A control node that nobody answers is no device mapper.
        if File::open(Path::new(MAPPER).join("control")).is_err() {
            missing.push(
                "dm-crypt: this kernel offers no device mapper here (/dev/mapper/control); load it (modprobe dm_crypt) or \
                 give the container the device"
                    .to_owned(),
            );
        }
        if let Some(filesystem) = filesystem {
            let mkfs = format!("mkfs.{filesystem}");
            if program(&mkfs).is_none() {
                missing.push(format!("{mkfs}: install it, or choose another file system"));
            }
        }
        Self { missing }
    }

    fn met(self) -> Result<(), GuestError> {
        if self.missing.is_empty() {
            return Ok(());
        }
        Err(GuestError::ScratchNeeds {
            missing: self.missing,
        })
    }
}

struct Cryptsetup {
    program: PathBuf,
}

impl Cryptsetup {
    fn found() -> Result<Self, GuestError> {
        let program = program(CRYPTSETUP).ok_or_else(|| GuestError::ScratchNeeds {
            missing: vec![CRYPTSETUP.to_owned()],
        })?;
        Ok(Self { program })
    }

    /// Writes a new header; the device itself is not written to.
    fn format(&self, scratch: &Scratch, key: &ScratchKey) -> Result<(), GuestError> {
        let header = &scratch.header;
        let wrong = |error: io::Error| failed(header, format!("cannot make the header: {error}"));
        let folder = match header.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        make_folder(folder).map_err(wrong)?;
        let opened = File::open(folder).map_err(wrong)?;
        check_filesystem(&opened, folder, Placement::MemoryOnly)?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(header)
            .map_err(wrong)?;
        let made = file.set_len(HEADER_SIZE).map_err(wrong).and_then(|()| {
            // The key has all the entropy it will ever have: deriving it slowly would cost a gigabyte of memory and gain
            // nothing.
            let mut command = self.command("luksFormat");
            command
                .args(["--batch-mode", "--type", "luks2"])
                .args(["--cipher", CIPHER, "--sector-size", "4096"])
                .args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]);
            match scratch.integrity {
                true => command.args(["--integrity", "hmac-sha256"]).args([
                    // Without a wipe, which would write the whole device first. What was never written cannot be read.
                    "--integrity-no-wipe",
                    "--integrity-no-journal",
                ]),
                false => command.args(["--key-size", "512"]),
            };
            self.with_header(&mut command, header, &scratch.device);
            run(&mut command, Some(key), &scratch.device)
        });
        made.inspect_err(|_| remove(header))
    }

    fn open(&self, scratch: &Scratch, header: &Path, key: &ScratchKey) -> Result<(), GuestError> {
        let mut command = self.command("open");
        command.args(["--type", "luks2"]);
        if scratch.integrity {
            command.arg("--integrity-no-journal");
        }
        self.with_header(&mut command, header, &scratch.device);
        run(command.arg(&scratch.name.0), Some(key), &scratch.device)
    }

    /// What a header says of itself, in the words of LUKS2's on-disk format.
    fn metadata(&self, header: &Path) -> Result<Value, GuestError> {
        let wrong = |reason: String| failed(header, format!("cannot be read as LUKS2: {reason}"));
        let output = self
            .command("luksDump")
            .args(["--batch-mode", "--dump-json-metadata"])
            .arg(header)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| wrong(error.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(wrong(said.trim().chars().take(MAX_SAID).collect()));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| wrong(error.to_string()))
    }

    fn close(&self, name: &ScratchName) -> Result<(), GuestError> {
        run(self.command("close").arg(&name.0), None, &name.mapped())
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(action);
        command
    }

    fn with_header(&self, command: &mut Command, header: &Path, device: &Path) {
        command
            .args(["--key-file", "-", "--header"])
            .arg(header)
            .arg(device);
    }
}

/// Whether a header says what [`Cryptsetup::format`] writes, and nothing else (LUKS2 On-Disk Format Specification 1.1.1,
/// section 3).
fn check_metadata(metadata: &Value, integrity: bool) -> Result<(), String> {
    let only = |kind: &str| {
        let all = metadata[kind].as_object().filter(|all| all.len() == 1);
        all.and_then(|all| all.values().next())
            .ok_or_else(|| format!("it has not exactly one of its {kind}"))
    };
    let is = |what: &str, found: &Value, wanted: &Value| match found == wanted {
        true => Ok(()),
        false => Err(format!(
            "its {what} is {}, and not {wanted}",
            found.to_string().chars().take(64).collect::<String>()
        )),
    };
    let (segment, slot) = (only("segments")?, only("keyslots")?);
    only("digests")?;
    is("kind of data", &segment["type"], &json!("crypt"))?;
    is("cipher", &segment["encryption"], &json!(CIPHER))?;
    is("sector size", &segment["sector_size"], &json!(SECTOR))?;
    is("offset", &segment["offset"], &json!("0"))?;
    is(
        "first number of a sector",
        &segment["iv_tweak"],
        &json!("0"),
    )?;
    match integrity {
        true => is(
            "integrity",
            &segment["integrity"]["type"],
            &json!("hmac(sha256)"),
        )?,
        false => is("integrity", &segment["integrity"], &Value::Null)?,
    }
    let key = slot["key_size"].as_u64().unwrap_or_default();
    // Two keys of AES-256; and one of HMAC.
    if !(key == KEY || (integrity && key == KEY + 32)) {
        return Err(format!("its key has {key} bytes"));
    }
    is(
        "cipher of the key",
        &slot["area"]["encryption"],
        &json!(CIPHER),
    )?;
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    let config = &metadata["config"];
    for (what, value) in [
        ("tokens", &metadata["tokens"]),
        ("flags", &config["flags"]),
        ("requirements", &config["requirements"]["mandatory"]),
    ] {
        if !is_empty(value) {
            return Err(format!("it has {what} that nobody here sets"));
        }
    }
    Ok(())
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match folder.exists() {
        true => Ok(()),
        false => std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder),
    }
}

/// Runs a program to its end, with the key as its standard input.
fn run(command: &mut Command, key: Option<&ScratchKey>, about: &Path) -> Result<(), GuestError> {
    let name = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let wrong = |error: io::Error| failed(about, format!("cannot run {name}: {error}"));
    let mut child = command
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(wrong)?;
    if let (Some(mut stdin), Some(key)) = (child.stdin.take(), key) {
        // One that ends without reading says why on its standard error.
        stdin.write_all(&key.0).ok();
    }
    let output = child.wait_with_output().map_err(wrong)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let said: String = said.join("; ").chars().take(MAX_SAID).collect();
    Err(failed(
        about,
        format!("{name} failed ({}): {said}", output.status),
    ))
}

/// Where a device is mounted.
fn mounted_at(device: &Path) -> impl Iterator<Item = PathBuf> {
    let device = device.canonicalize().unwrap_or_else(|_| device.to_owned());
    let mounts = std::fs::read("/proc/self/mounts").unwrap_or_default();
    let lines: Vec<Vec<u8>> = mounts
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    lines.into_iter().filter_map(move |line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let source = PathBuf::from(unescaped(fields.next()?));
        let at = PathBuf::from(unescaped(fields.next()?));
        (source.canonicalize().ok()? == device).then_some(at)
    })
}

/// `/proc/mounts` writes blanks and the like as three octal digits.
fn unescaped(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| byte == b'\\').and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        match octal {
            Some(octal) => {
                bytes.push(octal);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    OsStr::from_bytes(&bytes).to_owned()
}

fn holds_data(device: &Path) -> Result<bool, GuestError> {
    let wrong = |error: io::Error| failed(device, format!("cannot be read: {error}"));
    let mut start = Vec::new();
    File::open(device)
        .map_err(wrong)?
        .take(LOOKED_AT)
        .read_to_end(&mut start)
        .map_err(wrong)?;
    Ok(start.iter().any(|byte| *byte != 0))
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // Where Debian keeps them, and not every PATH looks.
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!(path = %path.display(), %error, "could not be removed");
    }
}

fn failed(path: &Path, reason: impl Into<String>) -> GuestError {
    GuestError::Scratch {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

/// The file system that is made and mounted unless another is named.
pub const DEFAULT_FILESYSTEM: &str = "ext4";
const CRYPTSETUP: &str = "cryptsetup";
const MAPPER: &str = "/dev/mapper";
const HEADERS: &str = "/run/strongroom/scratch";
const SECTOR: u64 = 4096;
const CIPHER: &str = "aes-xts-plain64";
/// In bytes.
const KEY: u64 = 64;
const MAX_HEADER: u64 = 64 * 1024 * 1024;
/// What LUKS2 takes with its default areas.
const HEADER_SIZE: u64 = 16 * 1024 * 1024;
const LOOKED_AT: u64 = 1024 * 1024;
const EPHEMERAL_KEY: usize = 64;
const MIN_KEY: usize = 32;
const MAX_KEY: usize = 4096;
const MAX_SAID: usize = 1000;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A folder in memory, a file to encrypt in it, and what is to become of it.
    fn scratch(integrity: bool) -> Option<(tempfile::TempDir, Scratch)> {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
            println!("SKIPPED: no /dev/shm to write to");
            return None;
        };
        let device = folder.path().join("disk");
        make_file(&device, 64 << 20).unwrap();
        let name: ScratchName = format!("strongroom-{}", std::process::id())
            .parse()
            .unwrap();
        let scratch = Scratch {
            device,
            name,
            header: folder.path().join("made/header"),
            integrity,
            existing: Existing::Refuse,
            filesystem: None,
            mount: None,
        };
        Some((folder, scratch))
    }

    fn cryptsetup() -> Option<Cryptsetup> {
        let found = Cryptsetup::found().ok();
        if found.is_none() {
            let required = std::env::var_os("STRONGROOM_REQUIRE_PEERS");
            assert!(
                required.is_none_or(|required| required != "1"),
                "no cryptsetup"
            );
            println!("SKIPPED: no cryptsetup here");
        }
        found
    }

    fn said(cryptsetup: &Cryptsetup, args: &[&OsStr], key: Option<&ScratchKey>) -> (bool, String) {
        let mut command = Command::new(&cryptsetup.program);
        let mut child = command
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(key.map_or(&[][..], |key| &key.0)).ok();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    #[test]
    fn real_cryptsetup_reads_another_header_or_takes_another_key() {
        let Some((_folder, scratch)) = scratch(false) else {
            return;
        };
        let Some(cryptsetup) = cryptsetup() else {
            return;
        };
        let key = ScratchKey::ephemeral().unwrap();
        cryptsetup.format(&scratch, &key).unwrap();
        let (_, dump) = said(
            &cryptsetup,
            &["luksDump".as_ref(), scratch.header.as_ref()],
            None,
        );
        for line in [
            "Version:       \t2",
            "aes-xts-plain64",
            "sector: 4096",
            "pbkdf2",
            "512 bits",
        ] {
            assert!(dump.contains(line), "{line}: {dump}");
        }
        // The host's disk has nothing of it.
        assert!(!holds_data(&scratch.device).unwrap());
        let mode = scratch.header.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let opens = |key: &ScratchKey| {
            let args: [&OsStr; 7] = [
                "open".as_ref(),
                "--test-passphrase".as_ref(),
                "--key-file".as_ref(),
                "-".as_ref(),
                "--header".as_ref(),
                scratch.header.as_ref(),
                scratch.device.as_ref(),
            ];
            said(&cryptsetup, &args, Some(key)).0
        };
        assert!(opens(&key));
        assert!(!opens(&ScratchKey::ephemeral().unwrap()));
        // A header that is there is not written over.
        assert!(cryptsetup.format(&scratch, &key).is_err());
        assert!(opens(&key));
    }

    #[test]
    fn header_that_was_exchanged_is_opened_unseen() {
        let Some((folder, mut scratch)) = scratch(false) else {
            return;
        };
        let Some(cryptsetup) = cryptsetup() else {
            return;
        };
        let key = ScratchKey::ephemeral().unwrap();
        cryptsetup.format(&scratch, &key).unwrap();
        let looked = |scratch: &Scratch| scratch.checked_header(&cryptsetup, folder.path());
        let copy = looked(&scratch).unwrap();
        // What is opened is what was looked at, whatever becomes of the file.
        assert_eq!(
            std::fs::read(copy.path()).unwrap(),
            std::fs::read(&scratch.header).unwrap()
        );
        assert_ne!(copy.path(), scratch.header);
        scratch.integrity = true;
        let text = looked(&scratch).unwrap_err().to_string();
        assert!(text.contains("integrity"), "{text}");
        scratch.integrity = false;

        let good = cryptsetup.metadata(copy.path()).unwrap();
        assert_eq!(check_metadata(&good, false), Ok(()));
        for (at, value, words) in [
            ("/segments/0/encryption", json!("cipher_null-ecb"), "cipher"),
            ("/segments/0/type", json!("linear"), "kind"),
            ("/segments/0/offset", json!("4096"), "offset"),
            ("/segments/0/sector_size", json!(512), "sector"),
            ("/segments", json!({}), "segments"),
            ("/keyslots/0/key_size", json!(32), "32 bytes"),
            (
                "/keyslots/0/area/encryption",
                json!("cipher_null-ecb"),
                "cipher of the key",
            ),
            ("/tokens", json!({ "0": {} }), "tokens"),
            ("/config/flags", json!(["allow-discards"]), "flags"),
        ] {
            let mut wrong = good.clone();
            match wrong.pointer_mut(at) {
                Some(place) => *place = value,
                None => wrong["config"]["flags"] = value,
            }
            let text = check_metadata(&wrong, false).unwrap_err();
            assert!(text.contains(words), "{at}: {text}");
        }

        // One of a real cryptsetup that encrypts nothing.
        let null = folder.path().join("null");
        File::create(&null).unwrap().set_len(HEADER_SIZE).unwrap();
        let mut command = cryptsetup.command("luksFormat");
        command
            .args([
                "--batch-mode",
                "--type",
                "luks2",
                "--cipher",
                "cipher_null-ecb",
            ])
            .args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]);
        cryptsetup.with_header(&mut command, &null, &scratch.device);
        if run(&mut command, Some(&key), &scratch.device).is_ok() {
            scratch.header = null;
            let text = looked(&scratch).unwrap_err().to_string();
            assert!(text.contains("is not opened"), "{text}");
        }
        std::fs::write(&scratch.header, "no header").unwrap();
        assert!(looked(&scratch).is_err());
    }

    #[test]
    fn header_of_a_mount_is_that_of_somebody_elses_scratch_space() {
        let name: ScratchName = "data".parse().unwrap();
        assert_ne!(name.header_of_mount(), name.default_header());
        assert!(name.header_of_mount().starts_with(HEADERS));
    }

    #[test]
    fn scratch_space_is_encrypted_in_name_only() {
        let Some((folder, mut scratch)) = scratch(false) else {
            return;
        };
        let needs = Needs::look(Some("ext4"));
        if !needs.missing.is_empty() {
            println!(
                "SKIPPED: no mapping can be opened here: {}",
                needs.missing.join("; ")
            );
            return;
        }
        let at = folder.path().join("mounted");
        std::fs::create_dir(&at).unwrap();
        scratch.filesystem = Some("ext4".to_owned());
        scratch.mount = Some(at.clone());
        let key = ScratchKey::ephemeral().unwrap();
        scratch.open(&key).unwrap();
        let plaintext = b"in plaintext ".repeat(1000);
        std::fs::write(at.join("file"), &plaintext).unwrap();
        close(&scratch.name, Some(&scratch.header)).unwrap();
        assert!(!scratch.name.mapped().exists() && !scratch.header.exists());
        let disk = std::fs::read(&scratch.device).unwrap();
        assert!(!disk.windows(13).any(|window| window == b"in plaintext "));
    }

    #[test]
    fn key_stands_in_an_argument_or_a_file() {
        let Some((folder, scratch)) = scratch(true) else {
            return;
        };
        let script = folder.path().join("cryptsetup");
        let text = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" > '{0}/arguments'\ncat > '{0}/input'\n",
            folder.path().display()
        );
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let cryptsetup = Cryptsetup { program: script };
        let key = b"a key that is long enough to be random bytes".to_vec();
        let key = ScratchKey::held_elsewhere(Zeroizing::new(key)).unwrap();
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        cryptsetup.format(&scratch, &key).unwrap();
        let arguments = String::from_utf8(read("arguments")).unwrap();
        assert!(
            arguments.contains("--integrity\nhmac-sha256\n"),
            "{arguments}"
        );
        assert!(!arguments.contains("a key"), "{arguments}");
        assert_eq!(read("input"), *key.0);
        cryptsetup.open(&scratch, &scratch.header, &key).unwrap();
        let arguments = String::from_utf8(read("arguments")).unwrap();
        assert!(!arguments.contains("a key"), "{arguments}");
        assert_eq!(read("input"), *key.0);
    }

    #[test]
    fn failure_of_cryptsetup_is_not_told_or_leaves_a_header() {
        let Some((folder, scratch)) = scratch(false) else {
            return;
        };
        let script = folder.path().join("cryptsetup");
        std::fs::write(&script, "#!/bin/sh\necho 'Device is in use.' >&2; exit 5\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let cryptsetup = Cryptsetup { program: script };
        let key = ScratchKey::ephemeral().unwrap();
        let text = cryptsetup.format(&scratch, &key).unwrap_err().to_string();
        assert!(
            text.contains("Device is in use.") && text.contains("disk"),
            "{text}"
        );
        assert!(!scratch.header.exists());
    }

    #[test]
    fn device_with_data_is_overwritten_unasked() {
        let Some((_folder, mut scratch)) = scratch(false) else {
            return;
        };
        scratch.check_device(true).unwrap();
        std::fs::write(&scratch.device, "data").unwrap();
        let text = scratch.check_device(true).unwrap_err().to_string();
        assert!(text.contains("--overwrite"), "{text}");
        scratch.check_device(false).unwrap();
        scratch.existing = Existing::Overwrite;
        scratch.check_device(true).unwrap();
        assert!(make_file(&scratch.device, 1 << 20).is_err());
        scratch.device = "/dev/null".into();
        assert!(scratch.check_device(true).is_err());
    }

    #[test]
    fn header_on_a_disk_is_made() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let opened = File::open(folder.path()).unwrap();
        if check_filesystem(&opened, folder.path(), Placement::MemoryOnly).is_ok() {
            println!("SKIPPED: the source folder itself is on tmpfs");
            return;
        }
        let Some((_memory, mut scratch)) = scratch(false) else {
            return;
        };
        scratch.header = folder.path().join("header");
        let cryptsetup = Cryptsetup {
            program: "/bin/true".into(),
        };
        let error = cryptsetup.format(&scratch, &ScratchKey::ephemeral().unwrap());
        assert!(matches!(error, Err(GuestError::NotInMemory { .. })));
        assert!(!scratch.header.exists());
    }

    #[test]
    fn password_is_taken_for_a_key() {
        for length in [0, 16, MIN_KEY - 1, MAX_KEY + 1] {
            let key = Zeroizing::new(vec![1; length]);
            assert!(ScratchKey::held_elsewhere(key).is_err(), "{length}");
        }
    }

    #[test]
    fn name_that_leads_elsewhere_is_taken() {
        for bad in ["", "..", "a/b", "control", "a b", &"a".repeat(65)] {
            assert!(bad.parse::<ScratchName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn mount_point_with_a_blank_is_missed() {
        assert_eq!(unescaped(br"/mnt/a\040b\134"), "/mnt/a b\\");
        assert_eq!(unescaped(br"\0x\"), "\\0x\\");
        assert!(mounted_at(Path::new("/none")).next().is_none());
    }
}
