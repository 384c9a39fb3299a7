//! Unsealing an application's environment and files: all of it or nothing, and never onto a disk.

#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/support/mod.rs"]
mod broker;
mod support;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use broker::{ScriptedBroker, error};
use strongroom_client::GuestApi;
use strongroom_client::seal::seal_vault;
use strongroom_guest::exec::{Prepared, SealedFile, prepare};
use strongroom_guest::{GuestError, Placement, ServeOptions, Source, UnsealOptions, Unsealer};
use strongroom_wire::sealed_secret::SigningJwk;
use support::{Guest, agent};

const KEY: &str = "default/fraud-dataset/dataset_key";
const OTHER: &str = "default/fraud-dataset/other";
const SIGNING: &str = "default/sealed-signing-key/jwk_public";

struct Owner {
    broker: ScriptedBroker,
    signing: SigningJwk,
}

impl Owner {
    fn new() -> Self {
        let signing = SigningJwk::generate().unwrap();
        let broker = ScriptedBroker::start()
            .with_resource(KEY, b"the key\n")
            .with_resource(OTHER, b"the other")
            .with_resource(SIGNING, signing.public_json("any").as_bytes());
        Self { broker, signing }
    }

    fn seal(&self, path: &str) -> String {
        let uri = |path: &str| format!("kbs:///{path}").parse().unwrap();
        seal_vault(&uri(path), &self.signing, &uri(SIGNING)).unwrap()
    }

    fn source(&self) -> Source {
        Source::Agent(agent(&self.broker.url))
    }
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect()
}

fn run(
    source: &Source,
    environment: Vec<(OsString, OsString)>,
    files: &[SealedFile],
) -> Result<Prepared, GuestError> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let unsealer = Unsealer::new(source.clone(), UnsealOptions::default());
    runtime.block_on(prepare(
        &unsealer,
        environment,
        files,
        Placement::MemoryOnly,
        &mut |_, place| place(),
    ))
}

/// A folder on tmpfs, where this machine has one.
fn memory() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir_in("/dev/shm").ok();
    if folder.is_none() {
        println!("SKIPPED: no /dev/shm to write to");
    }
    folder
}

/// A folder that is not in memory, where this machine has one.
fn disk() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let magic = rustix::fs::statfs(folder.path()).unwrap().f_type;
    if magic == 0x0102_1994 {
        println!("SKIPPED: the build folder itself is on tmpfs");
        return None;
    }
    Some(folder)
}

fn sealed_file(folder: &Path, name: &str, text: &str) -> SealedFile {
    let source = folder.join(format!("{name}.sealed"));
    std::fs::write(&source, text).unwrap();
    SealedFile {
        source,
        destination: folder.join(name),
    }
}

fn plaintexts(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| {
            path.extension()
                .is_none_or(|extension| extension != "sealed")
        })
        .collect()
}

#[test]
fn sealed_values_are_opened_and_the_others_left_alone() {
    let owner = Owner::new();
    let environment = variables(&[
        ("KEY", &owner.seal(KEY)),
        ("PATH", "/bin"),
        ("NOT", "unsealed.x"),
    ]);
    let prepared = run(&owner.source(), environment, &[]).unwrap();
    let opened: Vec<_> = prepared
        .variables()
        .iter()
        .map(|v| (v.name().to_str().unwrap(), v.expose().to_str().unwrap()))
        .collect();
    assert_eq!(opened, [("KEY", "the key\n")]);
}

#[test]
fn application_starts_with_plaintext_in_its_environment() {
    let owner = Owner::new();
    let prepared = run(
        &owner.source(),
        variables(&[("SECRET_VALUE", &owner.seal(OTHER))]),
        &[],
    )
    .unwrap();
    let arguments = [
        OsString::from("-c"),
        OsString::from("printf %s \"$SECRET_VALUE\""),
    ];
    let output = prepared
        .command("sh".as_ref(), &arguments)
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"the other");
}

#[test]
fn newline_and_carriage_return_after_a_sealed_value_are_tolerated() {
    let owner = Owner::new();
    let environment = variables(&[("KEY", &format!("{}\r\n", owner.seal(KEY)))]);
    assert!(run(&owner.source(), environment, &[]).is_ok());
}

#[test]
fn many_secrets_cost_one_attestation() {
    let owner = Owner::new();
    let sealed = owner.seal(KEY);
    let environment = (0..20)
        .map(|n| (format!("K{n}").into(), sealed.clone().into()))
        .collect();
    assert_eq!(
        run(&owner.source(), environment, &[])
            .unwrap()
            .variables()
            .len(),
        20
    );
    assert_eq!(owner.broker.auths(), 1);
}

#[test]
fn signing_key_is_fetched_before_the_secret() {
    let owner = Owner::new();
    run(
        &owner.source(),
        variables(&[("KEY", &owner.seal(KEY))]),
        &[],
    )
    .unwrap();
    let gets: Vec<_> = owner
        .broker
        .seen()
        .into_iter()
        .filter(|seen| seen.method == "GET")
        .map(|seen| seen.path)
        .collect();
    assert_eq!(
        gets,
        [
            format!("/kbs/v0/resource/{SIGNING}"),
            format!("/kbs/v0/resource/{KEY}")
        ]
    );
}

fn refused(owner: &Owner, sealed: &str) -> String {
    let error = run(&owner.source(), variables(&[("KEY", sealed)]), &[])
        .err()
        .unwrap();
    assert!(
        matches!(&error, GuestError::Variable { name, .. } if name == "KEY"),
        "{error}"
    );
    error.to_string()
}

#[test]
fn secret_signed_by_another_key_is_not_opened() {
    let (owner, stranger) = (Owner::new(), Owner::new());
    let text = refused(&owner, &stranger.seal(KEY));
    assert!(text.contains("signature"), "{text}");
    assert_eq!(owner.broker.gets(), 1);
}

#[test]
fn unsigned_legacy_form_is_not_opened_and_asks_the_broker_nothing() {
    let owner = Owner::new();
    let payload = owner.seal(KEY).split('.').nth(2).unwrap().to_owned();
    let text = refused(
        &owner,
        &format!("sealed.fakejwsheader.{payload}.fakesignature"),
    );
    assert!(text.contains("unsigned"), "{text}");
    assert_eq!(owner.broker.auths(), 0);
}

#[test]
fn flipped_character_is_not_opened() {
    let owner = Owner::new();
    let mut sealed = owner.seal(KEY).into_bytes();
    let at = sealed.len() - 10;
    sealed[at] = if sealed[at] == b'A' { b'B' } else { b'A' };
    refused(&owner, std::str::from_utf8(&sealed).unwrap());
}

#[test]
fn sealed_value_behind_a_line_break_or_a_quote_does_not_pass_through() {
    let owner = Owner::new();
    for before in ["\n", " ", "\"", "\u{feff}"] {
        let text = refused(&owner, &format!("{before}{}", owner.seal(KEY)));
        assert!(text.contains("stands before"), "{text}");
    }
    assert_eq!(owner.broker.auths(), 0);
}

#[test]
fn value_that_is_only_the_prefix_does_not_pass_through() {
    refused(&Owner::new(), "sealed.");
}

#[test]
fn value_that_is_not_utf8_but_claims_to_be_sealed_fails() {
    let owner = Owner::new();
    let value = OsString::from_vec(b"sealed.\xff".to_vec());
    assert!(run(&owner.source(), vec![("KEY".into(), value)], &[]).is_err());
}

#[test]
fn nul_is_cut_off_in_a_variable() {
    let owner = Owner::new();
    owner.broker.put(KEY, b"a\0b");
    assert!(refused(&owner, &owner.seal(KEY)).contains("NUL"));
}

#[test]
fn plaintext_that_is_no_text_reaches_the_application_changed() {
    let owner = Owner::new();
    owner.broker.put(KEY, b"\xff\xfe\n");
    let environment = variables(&[("SECRET_VALUE", &owner.seal(KEY))]);
    let prepared = run(&owner.source(), environment, &[]).unwrap();
    let arguments = ["-c", "printf %s \"$SECRET_VALUE\""].map(OsString::from);
    let output = prepared.command("sh".as_ref(), &arguments).output();
    assert_eq!(output.unwrap().stdout, b"\xff\xfe\n");
}

#[test]
fn missing_secret_names_variable_and_resource() {
    let owner = Owner::new();
    owner.broker.delete(KEY);
    let text = refused(&owner, &owner.seal(KEY));
    assert!(
        text.contains("KEY") && text.contains(KEY) && text.contains("does not exist"),
        "{text}"
    );
}

#[test]
fn missing_signing_key_is_told_from_a_missing_secret() {
    let owner = Owner::new();
    owner.broker.delete(SIGNING);
    let text = refused(&owner, &owner.seal(KEY));
    assert!(text.contains("signing key"), "{text}");
}

#[test]
fn denial_fails_closed() {
    let owner = Owner::new();
    owner.broker.on_get([error(403, "PolicyDeny")]);
    assert!(refused(&owner, &owner.seal(KEY)).contains("denied"));
}

#[test]
fn files_are_placed_private_and_whole() {
    let Some(folder) = memory() else { return };
    let owner = Owner::new();
    owner.broker.put(OTHER, b"binary \0\xff");
    let files = [
        sealed_file(folder.path(), "key", &format!("{}\n", owner.seal(KEY))),
        sealed_file(folder.path(), "other", &owner.seal(OTHER)),
    ];
    std::fs::write(&files[0].destination, "an older one").unwrap();
    let prepared = run(&owner.source(), Vec::new(), &files).unwrap();
    assert_eq!(std::fs::read(&files[0].destination).unwrap(), b"the key\n");
    assert_eq!(
        std::fs::read(&files[1].destination).unwrap(),
        b"binary \0\xff"
    );
    for file in prepared.files() {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(plaintexts(folder.path()).len(), 2);
    prepared.keep();
    assert_eq!(plaintexts(folder.path()).len(), 2);
}

#[test]
fn one_bad_file_leaves_none() {
    let Some(folder) = memory() else { return };
    let (owner, stranger) = (Owner::new(), Owner::new());
    let files = [
        sealed_file(folder.path(), "key", &owner.seal(KEY)),
        sealed_file(folder.path(), "bad", &stranger.seal(KEY)),
    ];
    let error = run(&owner.source(), Vec::new(), &files).err().unwrap();
    assert!(error.to_string().contains("bad.sealed"), "{error}");
    assert_eq!(plaintexts(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn no_file_has_a_name_before_its_removal_is_arranged() {
    let Some(folder) = memory() else { return };
    let owner = Owner::new();
    let files = [
        sealed_file(folder.path(), "key", &owner.seal(KEY)),
        sealed_file(folder.path(), "other", &owner.seal(OTHER)),
    ];
    let mut arranged = Vec::new();
    let mut on_place = |path: &Path, place: &mut dyn FnMut() -> std::io::Result<()>| {
        assert_eq!(plaintexts(folder.path()).len(), arranged.len());
        arranged.push(path.to_owned());
        place()
    };
    let unsealer = Unsealer::new(owner.source(), UnsealOptions::default());
    let outcome = prepare(
        &unsealer,
        Vec::new(),
        &files,
        Placement::MemoryOnly,
        &mut on_place,
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let prepared = runtime.block_on(outcome).unwrap();
    assert_eq!(arranged, prepared.files());
}

#[test]
fn second_file_that_cannot_be_placed_takes_the_first_with_it() {
    let Some(folder) = memory() else { return };
    let owner = Owner::new();
    let files = [
        sealed_file(folder.path(), "key", &owner.seal(KEY)),
        sealed_file(folder.path(), "other", &owner.seal(OTHER)),
    ];
    let mut placed = 0;
    let mut on_place = |_: &Path, place: &mut dyn FnMut() -> std::io::Result<()>| {
        placed += 1;
        match placed {
            1 => place(),
            _ => Err(std::io::ErrorKind::StorageFull.into()),
        }
    };
    let unsealer = Unsealer::new(owner.source(), UnsealOptions::default());
    let outcome = prepare(
        &unsealer,
        Vec::new(),
        &files,
        Placement::MemoryOnly,
        &mut on_place,
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert!(runtime.block_on(outcome).is_err());
    assert_eq!(plaintexts(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn one_bad_variable_leaves_no_file() {
    let Some(folder) = memory() else { return };
    let owner = Owner::new();
    let files = [sealed_file(folder.path(), "key", &owner.seal(KEY))];
    assert!(run(&owner.source(), variables(&[("X", "sealed.x")]), &files).is_err());
    assert_eq!(plaintexts(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn file_that_is_not_sealed_is_not_taken_for_plaintext() {
    let Some(folder) = memory() else { return };
    let owner = Owner::new();
    let files = [sealed_file(folder.path(), "key", "plain text")];
    let error = run(&owner.source(), Vec::new(), &files).err().unwrap();
    assert!(error.to_string().contains("no sealed secret"), "{error}");
}

#[test]
fn application_that_does_not_start_leaves_no_plaintext() {
    let Some(folder) = memory() else { return };
    let owner = Owner::new();
    let files = [sealed_file(folder.path(), "key", &owner.seal(KEY))];
    let prepared = run(&owner.source(), Vec::new(), &files).unwrap();
    assert!(
        prepared
            .command("/no/such/program".as_ref(), &[])
            .spawn()
            .is_err()
    );
    drop(prepared);
    assert_eq!(plaintexts(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn disk_is_refused_before_the_broker_is_asked() {
    let Some(folder) = disk() else { return };
    let owner = Owner::new();
    let files = [sealed_file(folder.path(), "key", &owner.seal(KEY))];
    let error = run(&owner.source(), Vec::new(), &files).err().unwrap();
    assert!(matches!(error, GuestError::NotInMemory { .. }), "{error}");
    assert_eq!(owner.broker.auths(), 0);
    assert_eq!(plaintexts(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn disk_by_name_is_allowed() {
    let Some(folder) = disk() else { return };
    let owner = Owner::new();
    let files = [sealed_file(folder.path(), "key", &owner.seal(KEY))];
    let unsealer = Unsealer::new(owner.source(), UnsealOptions::default());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let prepared = runtime.block_on(prepare(
        &unsealer,
        Vec::new(),
        &files,
        Placement::InsecureAnyFilesystem,
        &mut |_, place| place(),
    ));
    assert_eq!(prepared.unwrap().files().len(), 1);
}

#[test]
fn folder_that_is_not_there_is_told_before_the_broker_is_asked() {
    let owner = Owner::new();
    let file = SealedFile {
        source: "/dev/null".into(),
        destination: "/no/such/folder/key".into(),
    };
    assert!(run(&owner.source(), Vec::new(), &[file]).is_err());
    assert_eq!(owner.broker.auths(), 0);
}

#[test]
fn running_guest_serves_as_the_source() {
    let owner = Owner::new();
    let guest = Guest::start(agent(&owner.broker.url), ServeOptions::default());
    let source = Source::Rest(GuestApi::new(&guest.url()).unwrap());
    let prepared = run(&source, variables(&[("KEY", &owner.seal(KEY))]), &[]).unwrap();
    assert_eq!(prepared.variables()[0].expose(), "the key\n");
    owner.broker.delete(KEY);
    let error = run(&source, variables(&[("KEY", &owner.seal(KEY))]), &[])
        .err()
        .unwrap();
    assert!(error.to_string().contains("does not exist"), "{error}");
}

#[test]
fn guest_that_does_not_run_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let source = Source::Rest(GuestApi::new(&url).unwrap());
    let sealed = Owner::new().seal(KEY);
    let error = run(&source, variables(&[("KEY", &sealed)]), &[])
        .err()
        .unwrap();
    assert!(error.to_string().contains(&url), "{error}");
}
