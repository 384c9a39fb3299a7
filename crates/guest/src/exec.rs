//! An application's environment and files, unsealed before it starts: all of them, or none and no start.
//!
//! This prepares; the caller then replaces itself by the application (`exec(2)`). Plaintext files go to memory file
//! systems only, mode 0600; until all of them are complete none has a name, so that a process killed meanwhile leaves
//! nothing. The sealed text is never passed on.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use strongroom_wire::sealed_secret::is_sealed;
use zeroize::Zeroizing;

use crate::data::unseal::Unsealer;
use crate::error::GuestError;
use crate::placement::{
    OnPlace, Placement, check_filesystem, file_error, io_error as io, warn_of_swap,
};

/// Unseals every value of `environment` that is sealed, and every file.
///
/// Where plaintext would lie is checked before anything is asked of the broker; everything is unsealed before the first
/// file is written, and all are written before the first gets its name. That last step is the caller's to carry out:
/// `on_place` is called with the destination and the step, and must make sure that the file is removed again if the
/// process is told to stop from here on until it has become the application. A caller with no such care runs the step.
///
/// # Errors
/// The first failure, naming the variable or file. Then nothing is left behind, and the application must not start.
pub async fn prepare(
    unsealer: &Unsealer,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    files: &[SealedFile],
    placement: Placement,
    on_place: &mut OnPlace<'_>,
) -> Result<Prepared, GuestError> {
    check_destinations(files, placement)?;
    let sealed_files = files
        .iter()
        .map(SealedFile::read)
        .collect::<Result<Vec<_>, _>>()?;

    let variables = unseal_environment(unsealer, environment).await?;
    let mut plaintexts = Vec::with_capacity(files.len());
    for (file, sealed) in files.iter().zip(sealed_files) {
        let plaintext = unsealer
            .unseal(&sealed)
            .await
            .map_err(|error| file_error(&file.source, error))?;
        plaintexts.push(plaintext);
    }
    let staged = files
        .iter()
        .zip(plaintexts)
        .map(|(file, plaintext)| Staged::write(file, plaintext, placement))
        .collect::<Result<Vec<_>, _>>()?;

    let mut prepared = Prepared {
        variables,
        placed: Vec::with_capacity(staged.len()),
    };
    for (file, staged) in files.iter().zip(staged) {
        let destination = &file.destination;
        on_place(destination, &mut || staged.place(file, placement)).map_err(|error| {
            file_error(destination, io("putting the plaintext in its place")(error))
        })?;
        prepared.placed.push(destination.clone());
    }
    if placement == Placement::MemoryOnly && !prepared.placed.is_empty() {
        warn_of_swap();
    }
    Ok(prepared)
}

/// Unseals every value that is sealed; the others are left out.
///
/// # Errors
/// The first failure, naming the variable. Plaintext may be any bytes but NUL, which no environment can hold.
pub async fn unseal_environment(
    unsealer: &Unsealer,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Variable>, GuestError> {
    let mut variables = Vec::new();
    for (name, value) in environment {
        let value = Zeroizing::new(value.into_vec());
        if !is_sealed(&value) {
            continue;
        }
        let outcome = match std::str::from_utf8(&value) {
            Ok(text) => unsealer.unseal(text).await.and_then(without_nul),
            Err(_) => Err(GuestError::UnusablePlaintext(
                "the sealed value is not UTF-8",
            )),
        };
        let value = outcome.map_err(|error| GuestError::Variable {
            name: name.to_string_lossy().into_owned(),
            source: Box::new(error),
        })?;
        variables.push(Variable { name, value });
    }
    Ok(variables)
}

/// What was unsealed for one application.
///
/// Dropping it removes the files again, so a failed `exec(2)` leaves no plaintext; a successful one never drops.
pub struct Prepared {
    variables: Vec<Variable>,
    placed: Vec<PathBuf>,
}

impl Prepared {
    /// The variables that were unsealed.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// The files that were placed.
    pub fn files(&self) -> &[PathBuf] {
        &self.placed
    }

    /// The application with this environment over the process's own. Keep `self` until `exec(2)` has failed.
    pub fn command(&self, program: &OsStr, arguments: &[OsString]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments);
        for variable in &self.variables {
            command.env(&variable.name, variable.expose());
        }
        command
    }

    /// Leaves the files in place.
    pub fn keep(mut self) {
        self.placed.clear();
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        for path in &self.placed {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::error!(path = %path.display(), %error, "plaintext could not be removed");
            }
        }
    }
}

/// An unsealed variable.
pub struct Variable {
    name: OsString,
    value: Zeroizing<Vec<u8>>,
}

impl Variable {
    /// Its name.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Its plaintext, which need not be UTF-8.
    pub fn expose(&self) -> &OsStr {
        OsStr::from_bytes(&self.value)
    }
}

/// A sealed file and the place of its plaintext.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SealedFile {
    /// The file that holds `sealed.…`.
    pub source: PathBuf,
    /// Where the plaintext goes.
    pub destination: PathBuf,
}

impl FromStr for SealedFile {
    type Err = GuestError;

    /// Parses `SEALED=PLAINTEXT`.
    fn from_str(given: &str) -> Result<Self, GuestError> {
        match given.split_once('=') {
            Some((source, destination)) if !source.is_empty() && !destination.is_empty() => {
                Ok(Self {
                    source: source.into(),
                    destination: destination.into(),
                })
            }
            _ => Err(GuestError::FileMapping {
                given: given.chars().take(200).collect(),
            }),
        }
    }
}

impl SealedFile {
    fn read(&self) -> Result<String, GuestError> {
        let failed = |error| file_error(&self.source, error);
        let file = File::open(&self.source).map_err(|error| failed(io("opening")(error)))?;
        let mut bytes = Vec::new();
        file.take(MAX_SEALED_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| failed(io("reading")(error)))?;
        if bytes.len() as u64 > MAX_SEALED_FILE {
            return Err(failed(GuestError::UnusablePlaintext(
                "it is longer than a sealed secret can be (1 MiB)",
            )));
        }
        String::from_utf8(bytes).map_err(|_| {
            failed(GuestError::UnusablePlaintext(
                "it is not a sealed secret: not even UTF-8",
            ))
        })
    }

    fn folder(&self) -> &Path {
        match self.destination.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        }
    }
}

/// Two sealed files for one place would leave only one of them.
fn check_destinations(files: &[SealedFile], placement: Placement) -> Result<(), GuestError> {
    let mut seen = BTreeSet::new();
    for file in files {
        let folder = File::open(file.folder()).map_err(|error| {
            file_error(
                &file.destination,
                io("opening the folder for the plaintext")(error),
            )
        })?;
        check_filesystem(&folder, file.folder(), placement)?;
        if file.destination.is_dir() {
            return Err(file_error(
                &file.destination,
                GuestError::UnusablePlaintext("the place for the plaintext is a folder"),
            ));
        }
        let name = (
            std::fs::canonicalize(file.folder()).ok(),
            file.destination.file_name(),
        );
        if !seen.insert(name) {
            return Err(file_error(
                &file.destination,
                GuestError::UnusablePlaintext("it is the place of two sealed files"),
            ));
        }
    }
    Ok(())
}

/// Plaintext on its way to its place. Dropping it leaves nothing.
enum Staged {
    /// Written whole to the file system, without a name.
    Unnamed(File),
    /// For a file system that has no files without a name.
    Held(Zeroizing<Vec<u8>>),
}

impl Staged {
    fn write(
        file: &SealedFile,
        plaintext: Zeroizing<Vec<u8>>,
        placement: Placement,
    ) -> Result<Self, GuestError> {
        let failed = |error| file_error(&file.destination, error);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let unnamed = match rustix::fs::open(file.folder(), flags, PRIVATE) {
            Ok(descriptor) => File::from(descriptor),
            // What file systems and kernels say that do not know them (open(2)).
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                return Ok(Self::Held(plaintext));
            }
            Err(error) => {
                return Err(failed(io("making a file for the plaintext")(error.into())));
            }
        };
        // Asked again of the file itself: the folder may have been mounted over since.
        check_filesystem(&unnamed, file.folder(), placement)?;
        (&unnamed)
            .write_all(&plaintext)
            .map_err(|error| failed(io("writing the plaintext")(error)))?;
        match by_descriptor(&unnamed).symlink_metadata() {
            Ok(_) => Ok(Self::Unnamed(unnamed)),
            // Without /proc it cannot be given a name.
            Err(_) => Ok(Self::Held(plaintext)),
        }
    }

    /// Gives the plaintext its name, in place of a file of that name.
    fn place(&self, file: &SealedFile, placement: Placement) -> io::Result<()> {
        match self {
            Self::Unnamed(unnamed) => {
                match std::fs::remove_file(&file.destination) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                let unnamed = by_descriptor(unnamed);
                rustix::fs::linkat(
                    CWD,
                    &unnamed,
                    CWD,
                    &file.destination,
                    AtFlags::SYMLINK_FOLLOW,
                )?;
                Ok(())
            }
            Self::Held(plaintext) => {
                // Created by O_EXCL with mode 0600; removed again unless it gets its name.
                let mut named = tempfile::Builder::new()
                    .prefix(".unsealing-")
                    .tempfile_in(file.folder())?;
                check_filesystem(named.as_file(), file.folder(), placement)
                    .map_err(io::Error::other)?;
                named.write_all(plaintext)?;
                named.persist(&file.destination)?;
                Ok(())
            }
        }
    }
}

/// The name under which linkat(2) finds a file that has none.
fn by_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn without_nul(plaintext: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, GuestError> {
    if plaintext.contains(&0) {
        return Err(GuestError::UnusablePlaintext(
            "the plaintext holds a NUL byte, which no environment variable can; use a file",
        ));
    }
    Ok(plaintext)
}

const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
const MAX_SEALED_FILE: u64 = 1024 * 1024;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nul_in_an_environment_value_is_refused() {
        let with_nul = without_nul(Zeroizing::new(b"a\0b".to_vec()));
        assert!(matches!(with_nul, Err(GuestError::UnusablePlaintext(_))));
    }

    #[test]
    fn plaintext_that_is_no_text_is_changed_for_the_environment() {
        for plaintext in [&b"\xff\xfe"[..], b"secret\n", b""] {
            let value = without_nul(Zeroizing::new(plaintext.to_vec())).unwrap();
            let name = "X".into();
            assert_eq!(Variable { name, value }.expose().as_bytes(), plaintext);
        }
    }

    #[test]
    fn mapping_without_both_paths_is_refused() {
        for bad in ["a", "=b", "a=", ""] {
            assert!(bad.parse::<SealedFile>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "a=/run/b=c".parse::<SealedFile>().unwrap().destination,
            Path::new("/run/b=c")
        );
    }

    #[test]
    fn two_files_for_one_place_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| SealedFile {
            source: "s".into(),
            destination: folder.path().join(name),
        };
        let files = [file("x"), file("./x")];
        let error = check_destinations(&files, Placement::InsecureAnyFilesystem).unwrap_err();
        assert!(error.to_string().contains("two sealed files"), "{error}");
    }

    fn file_in(folder: &tempfile::TempDir) -> SealedFile {
        SealedFile {
            source: "s".into(),
            destination: folder.path().join("x"),
        }
    }

    fn names(folder: &tempfile::TempDir) -> Vec<OsString> {
        std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect()
    }

    const ANYWHERE: Placement = Placement::InsecureAnyFilesystem;

    #[test]
    fn staged_plaintext_has_no_name_that_a_killed_process_could_leave() {
        let folder = tempfile::tempdir().unwrap();
        let plain = Zeroizing::new(b"plain".to_vec());
        let _staged = Staged::write(&file_in(&folder), plain, ANYWHERE).unwrap();
        assert_eq!(names(&folder), Vec::<OsString>::new());
    }

    #[test]
    fn placed_plaintext_is_private_whole_and_alone_in_either_way() {
        use std::os::unix::fs::PermissionsExt as _;
        let plain = || Zeroizing::new(b"plain".to_vec());
        for held in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let file = file_in(&folder);
            std::fs::write(&file.destination, "an older and longer one").unwrap();
            let staged = match held {
                true => Staged::Held(plain()),
                false => Staged::write(&file, plain(), ANYWHERE).unwrap(),
            };
            staged.place(&file, ANYWHERE).unwrap();
            let mode = file.destination.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert_eq!(std::fs::read(&file.destination).unwrap(), b"plain");
            assert_eq!(names(&folder), ["x"]);
        }
    }

    #[test]
    fn failed_start_leaves_no_plaintext() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "plain").unwrap();
        drop(Prepared {
            variables: Vec::new(),
            placed: vec![path.clone()],
        });
        assert!(!path.exists());
    }
}
