//! A storage key that a TPM seals: made, opened at each start, rotated, kept back when a register changes, sealed anew.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use reqwest::{Method, StatusCode};
use strongroom_broker::{
    Broker, BrokerError, Config, InitOptions, PcrSet, SealedFor, Sealing, StorageKeyError, check,
    copy_storage_key, init, seal_storage_key,
};
use strongroom_testkit::swtpm::Swtpm;

use crate::support::{Guest, Running};

async fn released(broker: &Running) -> Vec<u8> {
    let guest = Guest::new();
    let (_, token) = broker.attest(&guest).await;
    guest.decrypt(broker.get_with_token("a/b/c", &token).await)
}

fn extend(tpm: &Swtpm, pcr: &str) {
    tpm.tool(
        "tpm2_pcrextend",
        &[&format!("{pcr}:sha256={}", "11".repeat(32))],
    );
}

fn config(broker: &Running) -> Config {
    Config::load(&broker.summary.config).unwrap()
}

fn refusal(config: Config) -> String {
    let Err(error) = Broker::open(config) else {
        panic!("the broker started")
    };
    assert!(matches!(error, BrokerError::StorageKey { .. }), "{error}");
    error.to_string()
}

fn recovery_key(broker: &Running) -> PathBuf {
    broker.folder.path().join("recovery.key")
}

#[tokio::test]
async fn key_opens_at_each_start_and_lies_nowhere_in_the_open() {
    let Some(mut tpm) = Swtpm::start() else {
        return;
    };
    let mut broker = Running::sealed_by(&tpm.address()).await;
    broker.put("a/b/c", "secret").await;
    let recovery = recovery_key(&broker);
    assert_eq!(
        fs::metadata(&recovery).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let key = fs::read_to_string(&recovery).unwrap();
    let raw = hex::decode(key.trim()).unwrap();
    let dir = broker.summary.config.parent().unwrap();
    for file in fs::read_dir(dir).unwrap() {
        let file = file.unwrap().path();
        let Ok(content) = fs::read(&file) else {
            continue;
        };
        let in_text = content
            .windows(64)
            .any(|part| part == key.trim().as_bytes());
        let in_bytes = content.windows(32).any(|part| part == raw);
        assert!(!in_text && !in_bytes, "{}", file.display());
    }
    // Another register is not asked for, and a restart of the machine brings PCR 7 back.
    extend(&tpm, "8");
    let mut broker = {
        broker.stop().await;
        broker.start_again()
    };
    assert_eq!(released(&broker).await, b"secret");
    broker.stop().await;
    extend(&tpm, "7");
    tpm.restart();
    assert_eq!(released(&broker.start_again()).await, b"secret");
}

#[tokio::test]
async fn register_that_changed_keeps_the_broker_from_starting_until_the_key_is_sealed_anew() {
    let Some(tpm) = Swtpm::start() else { return };
    let mut broker = Running::sealed_by(&tpm.address()).await;
    broker.put("a/b/c", "secret").await;
    broker.stop().await;
    extend(&tpm, "7");
    let said = refusal(config(&broker));
    for part in [
        "PCR 7 is ",
        "and was 0000",
        "storage.sealed",
        "seal-key --from",
        "find out what changed",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let checked = check(&broker.summary.config, &Default::default());
    assert!(checked.problems.contains(&said), "{checked:?}");
    let sealed_for = seal_storage_key(&config(&broker), &recovery_key(&broker), None).unwrap();
    assert_eq!(sealed_for.pcrs.keys().collect::<Vec<_>>(), [&7]);
    assert!(sealed_for.unmeasured().is_empty());
    assert_eq!(released(&broker.start_again()).await, b"secret");
}

#[tokio::test]
async fn another_tpm_and_a_cleared_one_are_told_from_a_changed_register() {
    let (Some(tpm), Some(other)) = (Swtpm::start(), Swtpm::start()) else {
        return;
    };
    let mut broker = Running::sealed_by(&tpm.address()).await;
    broker.stop().await;
    let mut elsewhere = config(&broker);
    elsewhere.store.key_tpm = Some(other.address());
    let said = refusal(elsewhere);
    assert!(
        said.contains("is another") && said.contains("--from RECOVERY"),
        "{said}"
    );
    tpm.tool("tpm2_clear", &[]);
    assert!(refusal(config(&broker)).contains("was cleared"));
    let mut gone = config(&broker);
    gone.store.key_tpm = Some("/dev/no-such-tpm".to_owned());
    assert!(refusal(gone).contains("firmware's setup"));
}

#[tokio::test]
async fn rotated_key_is_sealed_for_the_values_of_before_and_the_older_copy_is_refused() {
    let Some(tpm) = Swtpm::start() else { return };
    let mut broker = Running::sealed_by(&tpm.address()).await;
    broker.put("a/b/c", "secret").await;
    let before = recovery_key(&broker);
    let rotated = broker.ok(Method::POST, "storage-key/rotate", "").await;
    assert_eq!(rotated["rewrapped"], 1);
    let later = broker.folder.path().join("later.key");
    let key = copy_storage_key(&config(&broker), &later).unwrap();
    assert_eq!(rotated["key"], key);
    assert_ne!(fs::read(&before).unwrap(), fs::read(&later).unwrap());
    broker.stop().await;
    let mut broker = broker.start_again();
    assert_eq!(released(&broker).await, b"secret");

    // A rotation while the machine is not what it was does not bless what it is.
    extend(&tpm, "7");
    broker.ok(Method::POST, "storage-key/rotate", "").await;
    broker.stop().await;
    assert!(refusal(config(&broker)).contains("PCR 7 is "));
    for copy in [&before, &later] {
        let stale = seal_storage_key(&config(&broker), copy, None).unwrap_err();
        assert!(
            matches!(&stale, BrokerError::StorageKey { source, .. } if matches!(**source, StorageKeyError::Stale { .. })),
            "{stale}"
        );
    }
}

#[tokio::test]
async fn rotation_without_the_tpm_loses_nothing() {
    let Some(mut tpm) = Swtpm::start() else {
        return;
    };
    let broker = Running::sealed_by(&tpm.address()).await;
    broker.put("a/b/c", "secret").await;
    tpm.stop();
    let answer = broker
        .fails(Method::POST, "storage-key/rotate", "")
        .await
        .refused(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    assert!(answer.contains("still readable"), "{answer}");
    assert_eq!(released(&broker).await, b"secret");
    tpm.restart();
    assert_eq!(
        released(&broker.restart(|config| config).await).await,
        b"secret"
    );
}

#[tokio::test]
async fn broker_with_an_open_key_moves_to_a_tpm() {
    let Some(tpm) = Swtpm::start() else { return };
    let mut broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    broker.stop().await;
    let open = broker.store().with_file_name("storage.key");
    let edit = |text: String, file: &str| {
        text.replace(
            "key_file = \"storage.key\"",
            &format!("key_file = \"{file}\"\nkey_tpm = \"{}\"", tpm.address()),
        )
    };
    let text = fs::read_to_string(&broker.summary.config).unwrap();
    fs::write(&broker.summary.config, edit(text.clone(), "storage.key")).unwrap();
    let said = refusal(config(&broker));
    assert!(
        said.contains("not sealed") && said.contains("another file"),
        "{said}"
    );
    let in_the_way = seal_storage_key(&config(&broker), &open, None).unwrap_err();
    assert!(
        in_the_way.to_string().contains("not replaced"),
        "{in_the_way}"
    );

    fs::write(&broker.summary.config, edit(text.clone(), "storage.sealed")).unwrap();
    let SealedFor { pcrs, .. } =
        seal_storage_key(&config(&broker), &open, Some(PcrSet::NONE)).unwrap();
    assert!(pcrs.is_empty());
    fs::rename(&open, broker.folder.path().join("recovery.key")).unwrap();
    let mut broker = broker.start_again();
    assert_eq!(released(&broker).await, b"secret");
    broker.stop().await;

    // And the sealed file without the setting.
    fs::write(
        &broker.summary.config,
        text.replace("storage.key", "storage.sealed"),
    )
    .unwrap();
    assert!(refusal(config(&broker)).contains("set store.key_tpm"));
}

#[test]
fn unfinished_init_leaves_neither_a_folder_nor_a_recovery_key() {
    let folder = tempfile::tempdir().unwrap();
    let options = |tpm: &str, recovery: &str| {
        let mut options = InitOptions::new("127.0.0.1:0".parse().unwrap());
        options.sealing = Some(Sealing {
            tpm: tpm.parse().unwrap(),
            pcrs: PcrSet::SECURE_BOOT,
        });
        options.recovery_key = Some(folder.path().join(recovery));
        options
    };
    let dir = folder.path().join("broker");
    let empty = || fs::read_dir(folder.path()).unwrap().count() == 0;
    let refused = init(&dir, options("/dev/no-such-tpm", "recovery.key")).unwrap_err();
    assert!(
        refused.to_string().contains("firmware's setup"),
        "{refused}"
    );
    let refused = init(&dir, options("/dev/no-such-tpm", "broker/recovery.key")).unwrap_err();
    assert!(
        refused.to_string().contains("name another place"),
        "{refused}"
    );
    assert!(empty());
    let Some(tpm) = Swtpm::start() else { return };
    // The database is the last thing that init makes.
    let mut on_database = options(&tpm.address(), "recovery.key");
    on_database.postgres_url = Some("postgres://u@127.0.0.1:1/d".to_owned());
    init(&dir, on_database).unwrap_err();
    assert!(empty());
    fs::write(folder.path().join("recovery.key"), "somebody's").unwrap();
    init(&dir, options(&tpm.address(), "recovery.key")).unwrap_err();
    assert_eq!(read(folder.path(), "recovery.key"), "somebody's");
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap()
}

#[tokio::test]
async fn sealed_file_that_was_changed_is_refused() {
    let Some(tpm) = Swtpm::start() else { return };
    let mut broker = Running::sealed_by(&tpm.address()).await;
    broker.stop().await;
    let path = broker.store().with_file_name("storage.sealed");
    let honest = fs::read_to_string(&path).unwrap();
    let zero = "0".repeat(64);
    for (from, to, reason) in [
        (
            "\"sealed_storage_key\": 1",
            "\"sealed_storage_key\": 2",
            "form 2 is not known",
        ),
        ("\"pcrs\"", "\"pcr\"", "unknown field"),
        ("\"7\"", "\"24\"", "a PCR beyond 23"),
        (&*zero, "00", "not 32 bytes in hex"),
        // Registers that it was not sealed for: the TPM's word counts.
        ("\"7\"", "\"9\"", "TPM_RC_POLICY_FAIL"),
        ("\"id\": \"", "\"id\": \"0", "not the one that it is called"),
        (
            "\"private\": \"A",
            "\"private\": \"!",
            "not standard base64",
        ),
    ] {
        let changed = honest.replacen(from, to, 1);
        assert_ne!(changed, honest, "{from}");
        fs::write(&path, changed).unwrap();
        let said = refusal(config(&broker));
        assert!(said.contains(reason), "{reason}: {said}");
    }
    fs::write(&path, &honest).unwrap();
    Broker::open(config(&broker)).unwrap();
}
