//! Where a test's foreign things are: vectors beside the checkout, and programs of others.
//!
//! What is missing makes a test say `SKIPPED: <why>` and return. With `STRONGROOM_REQUIRE_PEERS=1`,
//! as `./check` sets it, a missing program is a failure instead: a skip is not a pass.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Returns the folder that holds the workspace's `Cargo.toml`.
pub fn workspace_root() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    crates
        .and_then(Path::parent)
        .expect("this crate lies in <workspace>/crates/testkit")
        .to_path_buf()
}

/// Returns the path of a foreign vector, or says that it was skipped when it is not there.
///
/// `name` is relative to `../shared/fixtures` beside the checkout, as in `trustee/MANIFEST.md`.
///
/// # Panics
/// When the folder of vectors is there and this one is not in it: what proves nothing for want of its input is no pass.
pub fn fixture(name: &str) -> Option<PathBuf> {
    let found = in_folder(&workspace_root().join("../shared/fixtures"), name);
    if found.is_none() {
        skip(&format!("no fixture {name} beside the checkout"));
    }
    found
}

/// Returns the path of a program of others that a format is tested against.
///
/// # Panics
/// When the program is missing and `STRONGROOM_REQUIRE_PEERS=1`.
pub fn peer(program: &str) -> Option<PathBuf> {
    let found = program_on(&env::var_os("PATH").unwrap_or_default(), program);
    if found.is_none() {
        missing_peer(&format!("no program `{program}` here"));
    }
    found
}

/// Returns the path of a program of others that not every machine can have, even where peers are required.
pub fn optional_peer(program: &str) -> Option<PathBuf> {
    let found = program_on(&env::var_os("PATH").unwrap_or_default(), program);
    if found.is_none() {
        skip(&format!(
            "no program `{program}` here, and ./check could not fetch it"
        ));
    }
    found
}

/// Returns the Python that has the packages of `tests/peers/requirements.txt`.
///
/// # Panics
/// When `.peers/venv` is missing and `STRONGROOM_REQUIRE_PEERS=1`.
pub fn peer_python() -> Option<PathBuf> {
    let python = workspace_root().join(".peers/venv/bin/python3");
    if python.exists() {
        return Some(python);
    }
    missing_peer("no .peers/venv here; ./check makes it");
    None
}

/// Says that a test did not run, in the form that `./check` counts.
pub fn skip(why: &str) {
    println!("SKIPPED: {why}");
}

/// Says that a test did not run for want of a peer.
///
/// # Panics
/// When peers are required.
pub fn missing_peer(why: &str) {
    assert!(
        !peers_are_required(),
        "{why}, and STRONGROOM_REQUIRE_PEERS=1"
    );
    skip(why);
}

/// Whether a missing peer program is a failure.
pub fn peers_are_required() -> bool {
    env::var_os("STRONGROOM_REQUIRE_PEERS").is_some_and(|value| value == "1")
}

fn in_folder(folder: &Path, name: &str) -> Option<PathBuf> {
    let path = folder.join(name);
    let found = path.exists();
    assert!(
        found || !folder.is_dir(),
        "the folder of fixtures is there, and {name} is not in it"
    );
    found.then_some(path)
}

fn program_on(search_path: &OsStr, program: &str) -> Option<PathBuf> {
    env::split_paths(search_path)
        // Debian keeps tcpdump where only root looks.
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        // What ./check fetched for the tests alone.
        .chain([workspace_root().join(".peers/bin")])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_root_is_where_the_lock_file_is() {
        assert!(workspace_root().join("Cargo.lock").is_file());
    }

    #[test]
    fn a_missing_folder_is_a_skip() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(in_folder(&folder.path().join("none"), "vector"), None);
    }

    #[test]
    #[should_panic(expected = "vector is not in it")]
    fn a_missing_file_of_a_folder_that_is_there_is_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        in_folder(folder.path(), "vector");
    }

    #[test]
    fn a_program_is_found_in_the_folder_that_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("peer");
        std::fs::write(&program, "").unwrap();
        assert_eq!(program_on(folder.path().as_os_str(), "peer"), Some(program));
    }

    #[test]
    fn a_folder_is_not_a_program() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("peer-that-is-a-folder")).unwrap();
        assert_eq!(
            program_on(folder.path().as_os_str(), "peer-that-is-a-folder"),
            None
        );
    }
}
