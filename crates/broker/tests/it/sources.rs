//! Secrets from mounted folders, through the whole handshake; what is listed, and what the store goes before.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use reqwest::{Method, StatusCode};
use serde_json::json;
use strongroom_broker::audit::Outcome;

use crate::support::{AFFIRMING, Guest, Running};

/// A broker that reads a folder of mounted secrets, and a guest with a token.
pub(crate) struct Bench {
    pub(crate) broker: Running,
    pub(crate) guest: Guest,
    pub(crate) token: String,
}

impl Bench {
    pub(crate) async fn new(sources: &str) -> Self {
        let lines = format!("\n[development]\naccept_sample_evidence = true\n{sources}\n");
        let broker = Running::start(|config| config + &lines).await;
        broker.register_reference_values().await;
        broker.set_policy(AFFIRMING).await;
        let guest = Guest::new();
        let (_, token) = broker.attest(&guest).await;
        Self {
            broker,
            guest,
            token,
        }
    }

    pub(crate) async fn released(&self, path: &str) -> Vec<u8> {
        self.guest
            .decrypt(self.broker.get_with_token(path, &self.token).await)
    }

    pub(crate) async fn is_missing(&self, path: &str) {
        let answer = self.broker.get_with_token(path, &self.token).await;
        answer.refused(StatusCode::NOT_FOUND, "ResourceNotFound");
        assert_eq!(
            self.broker.last_entry().await.record.outcome,
            Outcome::Missing
        );
    }

    /// The reason in the record for which a source gives nothing; the guest learns only the event.
    pub(crate) async fn failed(&self, path: &str) -> String {
        let answer = self.broker.get_with_token(path, &self.token).await;
        let said = answer.refused(StatusCode::SERVICE_UNAVAILABLE, "PluginInternalError");
        let record = self.broker.last_entry().await.record;
        assert_eq!(record.outcome, Outcome::Failed);
        let expected = format!(
            "what keeps this resource does not give it now; the broker's owner can explain event {}",
            record.event
        );
        assert_eq!(said, expected);
        record.detail.unwrap()
    }
}

/// A folder of secrets, and the setting that names it.
fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let sources = format!("[sources]\nfolder = {:?}", folder.path());
    (folder, sources)
}

fn write(folder: &Path, secret: &str, key: &str, content: &str) {
    std::fs::create_dir_all(folder.join(secret)).unwrap();
    std::fs::write(folder.join(secret).join(key), content).unwrap();
}

/// Puts a version in force as the kubelet does.
fn mount(folder: &Path, secret: &str, version: &str, key: &str, content: &str) {
    let place: PathBuf = folder.join(secret);
    write(&place, version, key, content);
    symlink(version, place.join("..data_tmp")).unwrap();
    std::fs::rename(place.join("..data_tmp"), place.join("..data")).unwrap();
    symlink(format!("..data/{key}"), place.join(key)).ok();
}

#[tokio::test]
async fn mounted_secret_is_not_released_until_a_restart() {
    let (folder, sources) = folder();
    let bench = Bench::new(&sources).await;
    bench.is_missing("default/db/password").await;

    mount(folder.path(), "db", "..1", "password", "first");
    assert_eq!(bench.released("default/db/password").await, b"first");
    let record = bench.broker.last_entry().await.record;
    let source = format!("folder {} at ..1", folder.path().display());
    assert_eq!((record.source, record.version), (Some(source), None));

    mount(folder.path(), "db", "..2", "password", "second");
    assert_eq!(bench.released("default/db/password").await, b"second");
    std::fs::remove_dir_all(folder.path().join("db")).unwrap();
    bench.is_missing("default/db/password").await;
}

#[tokio::test]
async fn policy_is_not_asked_for_what_a_folder_has() {
    let (folder, sources) = folder();
    mount(folder.path(), "db", "..1", "password", "first");
    let bench = Bench::new(&sources).await;
    bench
        .broker
        .set_policy("package policy\n\nallow := false")
        .await;
    let path = "default/db/password";
    let answer = bench.broker.get_with_token(path, &bench.token).await;
    answer.refused(StatusCode::FORBIDDEN, "PolicyDeny");
    assert_eq!(bench.broker.last_entry().await.record.source, None);
}

#[tokio::test]
async fn file_that_gives_no_secret_is_taken_for_one_that_is_not_there() {
    let (folder, sources) = folder();
    write(folder.path(), "db", "empty", "");
    symlink("/etc/hostname", folder.path().join("db/out")).unwrap();
    let bench = Bench::new(&sources).await;
    let said = bench.failed("default/db/empty").await;
    assert!(
        said.ends_with("db/empty: it is empty, and a resource has at least one byte"),
        "{said}"
    );
    let said = bench.failed("default/db/out").await;
    assert!(
        said.ends_with("db/out: it is a link that leads out of its folder"),
        "{said}"
    );
}

#[tokio::test]
async fn list_hides_where_a_secret_comes_from() {
    let (folder, sources) = folder();
    let bench = Bench::new(&sources).await;
    bench.broker.put("default/db/both", "stored").await;
    bench.broker.put("a/b/c", "stored").await;
    write(folder.path(), "db", "both", "mounted");
    mount(folder.path(), "db2", "..1", "key", "mounted");
    let answer = bench
        .broker
        .admin(Method::GET, "/strongroom/v1/resource", "")
        .await;
    let listed = answer.expect(StatusCode::OK).json();
    let lines: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            json!([
                one["path"],
                one["source"],
                one["version"],
                one["shadowed"],
                one["size"]
            ])
        })
        .collect();
    let place = format!("folder {}", folder.path().display());
    let mounted = format!("{place} at ..1");
    assert_eq!(
        lines,
        [
            json!(["a/b/c", "store", 1, null, 6]),
            json!(["default/db/both", "store", 1, null, 6]),
            json!(["default/db/both", place, null, true, 7]),
            json!(["default/db2/key", mounted, null, false, 7]),
        ]
    );
    assert!(!listed.to_string().contains("\"mounted\""));
}

#[tokio::test]
async fn admin_hides_a_mounted_secret_without_knowing() {
    let (folder, sources) = folder();
    let bench = Bench::new(&sources).await;
    write(folder.path(), "db", "key", "mounted");
    let path = "/kbs/v0/resource/default/db/key";
    for (method, body) in [(Method::POST, "stored"), (Method::PUT, "stored")] {
        let answer = bench.broker.admin(method, path, body).await;
        let said = answer.refused(StatusCode::CONFLICT, "ResourceConflict");
        assert!(
            said.contains(&format!("folder {}", folder.path().display())),
            "{said}"
        );
    }
    let answer = bench.broker.admin(Method::DELETE, path, "").await;
    answer.refused(StatusCode::CONFLICT, "ResourceConflict");
    assert_eq!(bench.released("default/db/key").await, b"mounted");

    let in_front = format!("{path}?shadow=true");
    let answer = bench.broker.admin(Method::POST, &in_front, "stored").await;
    answer.expect(StatusCode::OK);
    let detail = bench.broker.last_entry().await.record.detail;
    assert_eq!(detail.as_deref(), Some("in front of every source"));
    assert_eq!(bench.released("default/db/key").await, b"stored");
    assert_eq!(bench.broker.last_entry().await.record.source, None);

    let answer = bench.broker.admin(Method::DELETE, path, "").await;
    answer.expect(StatusCode::OK);
    assert_eq!(bench.released("default/db/key").await, b"mounted");
}

#[tokio::test]
async fn second_folder_goes_before_the_first() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(first.path(), "db", "key", "first");
    write(second.path(), "db", "key", "second");
    write(second.path(), "db", "other", "second");
    let sources = format!(
        "[sources]\nfolder = [{:?}, {:?}]",
        first.path(),
        second.path()
    );
    let bench = Bench::new(&sources).await;
    assert_eq!(bench.released("default/db/key").await, b"first");
    assert_eq!(bench.released("default/db/other").await, b"second");
}
