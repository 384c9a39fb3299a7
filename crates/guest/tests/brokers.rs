//! Several brokers: chosen by the host of a URI from a list, and each at several addresses.

#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/support/mod.rs"]
mod broker;
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use broker::{ScriptedBroker, error};
use strongroom_attester::Attester;
use strongroom_client::session::RetryPolicy;
use strongroom_client::{ClientError, GuestApi};
use strongroom_guest::config::Credential;
use strongroom_guest::data::credentials::place;
use strongroom_guest::{
    Agent, AgentConfig, BrokerAddress, GuestError, Placement, ServeOptions, Source,
};
use support::Guest;

const KEY: &str = "default/key/one";

fn agent(own: &[&ScriptedBroker], named: &[(&str, &ScriptedBroker)]) -> Agent {
    let mut config = AgentConfig::new(&own[0].url, Attester::named("sample").unwrap());
    config.broker.standby_urls = own[1..].iter().map(|broker| broker.url.clone()).collect();
    config.named_brokers = named
        .iter()
        .map(|(host, broker)| ((*host).to_owned(), BrokerAddress::new(&broker.url)))
        .collect::<BTreeMap<_, _>>();
    config.retry = RetryPolicy {
        attempts: 2,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(1),
    };
    Agent::new(config).unwrap()
}

async fn get(agent: &Agent, uri: &str) -> Result<Vec<u8>, ClientError> {
    let secret = agent.get_resource(&uri.parse().unwrap()).await;
    secret.map(|secret| secret.to_vec())
}

fn with(secret: &[u8]) -> ScriptedBroker {
    ScriptedBroker::start().with_resource(KEY, secret)
}

#[tokio::test]
async fn host_of_a_uri_is_asked_and_no_other() {
    let (own, models) = (with(b"own"), with(b"models"));
    let agent = agent(&[&own], &[("models.example", &models)]);
    let of_models = get(&agent, &format!("kbs://models.example/{KEY}")).await;
    assert_eq!(of_models.unwrap(), b"models");
    assert_eq!(own.auths(), 0);
    assert_eq!(get(&agent, &format!("kbs:///{KEY}")).await.unwrap(), b"own");
    let address = own.url.trim_start_matches("http://");
    let by_address = get(&agent, &format!("kbs://{address}/{KEY}")).await;
    assert_eq!(by_address.unwrap(), b"own");
}

/// Over REST as in the process: what one listed host's broker has is not answered by another, nor without the list.
#[test]
fn host_of_a_uri_is_lost_over_rest() {
    let (own, models) = (with(b"own"), with(b"models"));
    let agent = agent(&[&own], &[("models:8080", &models)]);
    let guest = Guest::start(agent, ServeOptions::default());
    let source = Source::Rest(GuestApi::new(&guest.url()).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let get = |uri: &str| runtime.block_on(source.resource(&uri.parse().unwrap()));
    assert_eq!(
        **get(&format!("kbs://models:8080/{KEY}")).unwrap(),
        *b"models"
    );
    assert_eq!(own.gets(), 0);
    assert_eq!(**get(&format!("kbs:///{KEY}")).unwrap(), *b"own");
    let error = get(&format!("kbs://evil/{KEY}")).unwrap_err().to_string();
    assert!(error.contains("no broker is listed"), "{error}");
    let missing = get("kbs://models:8080/default/none/none").unwrap_err();
    assert!(matches!(missing, ClientError::NotFound { .. }), "{missing}");
    for path in ["models", "models/a/b", "/a/b/c", "models/a/b/c/d"] {
        let answer = guest.get(&format!("/cdh/resource-of/{path}"));
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn host_that_is_not_listed_is_asked_or_answered_by_another() {
    let (own, models) = (with(b"own"), with(b"models"));
    let agent = agent(&[&own], &[("models.example", &models)]);
    let address = models.url.trim_start_matches("http://");
    for host in ["evil.example", "models.example:80", address] {
        let error = get(&agent, &format!("kbs://{host}/{KEY}"))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("no broker is listed"),
            "{host}: {error}"
        );
    }
    assert_eq!((own.auths(), models.auths()), (0, 0));
}

#[tokio::test]
async fn broker_that_is_gone_is_replaced_by_its_standby_and_stays_replaced() {
    let (mut first, standby) = (with(b"secret"), with(b"secret"));
    let agent = agent(&[&first, &standby], &[]);
    let uri = format!("kbs:///{KEY}");
    get(&agent, &uri).await.unwrap();
    assert_eq!((first.auths(), standby.auths()), (1, 0));
    first.stop();
    get(&agent, &uri).await.unwrap();
    get(&agent, &uri).await.unwrap();
    assert_eq!((standby.auths(), standby.gets()), (1, 2));
    assert_eq!(agent.broker(), standby.url);
}

#[tokio::test]
async fn denial_or_missing_resource_is_asked_for_at_the_standby() {
    let (first, standby) = (with(b"secret"), with(b"secret"));
    let agent = agent(&[&first, &standby], &[]);
    first.on_get([error(403, "PolicyDeny")]);
    let denied = get(&agent, &format!("kbs:///{KEY}")).await;
    assert!(matches!(denied, Err(ClientError::Denied { .. })));
    let missing = get(&agent, "kbs:///default/none/none").await;
    assert!(matches!(missing, Err(ClientError::NotFound { .. })));
    assert_eq!((standby.auths(), standby.gets()), (0, 0));
}

#[tokio::test]
async fn nobody_at_any_address_is_told_with_all_of_them() {
    let (mut first, mut standby) = (with(b""), with(b""));
    let agent = agent(&[&first, &standby], &[]);
    first.stop();
    standby.stop();
    let error = get(&agent, &format!("kbs:///{KEY}")).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&first.url) && text.contains(&standby.url) && error.is_transient(),
        "{text}"
    );
}

fn credential(path: &std::path::Path, uri: &str) -> Credential {
    Credential {
        path: path.to_owned(),
        resource_uri: uri.to_owned(),
    }
}

#[tokio::test]
async fn credentials_lie_on_a_disk_or_one_of_them_is_missing() {
    let own = with(b"secret");
    let agent = agent(&[&own], &[]);
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let good = memory.path().join("aws/credential.json");
    let other = memory.path().join("other");
    let list = [
        credential(&good, &format!("kbs:///{KEY}")),
        credential(&other, "kbs:///default/none/none"),
    ];
    let error = place(&list, &agent, Placement::MemoryOnly, Duration::ZERO)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("other"), "{error}");
    assert!(!good.exists(), "all or none");
    place(&list[..1], &agent, Placement::MemoryOnly, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(std::fs::read(&good).unwrap(), b"secret");
    let mode = std::os::unix::fs::PermissionsExt::mode(&good.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let on_disk = [credential(&disk.path().join("c"), &format!("kbs:///{KEY}"))];
    let refused = place(&on_disk, &agent, Placement::MemoryOnly, Duration::ZERO).await;
    assert!(matches!(refused, Err(GuestError::NotInMemory { .. })));
}

#[tokio::test]
async fn broker_that_is_not_up_yet_ends_the_guest() {
    let mut gone = with(b"");
    let agent = agent(&[&gone], &[]);
    let address: std::net::SocketAddr = gone.url.trim_start_matches("http://").parse().unwrap();
    gone.stop();
    // Who comes first finds nobody who answers, and only then there is a broker.
    let closed = support::eventually(|| std::net::TcpListener::bind(address).ok());
    let late = std::thread::spawn(move || {
        drop(closed.accept().unwrap());
        drop(closed);
        support::eventually(|| ScriptedBroker::try_start_at(address)).with_resource(KEY, b"secret")
    });
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = memory.path().join("credential");
    let list = [credential(&path, &format!("kbs:///{KEY}"))];
    let wait = Duration::from_secs(60);
    let placed = place(&list, &agent, Placement::MemoryOnly, wait).await;
    placed.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"secret");
    drop(late.join().unwrap());
}

#[tokio::test]
async fn denied_credential_is_asked_for_again_and_again() {
    let own = with(b"secret");
    own.on_get([error(403, "PolicyDeny")]);
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let list = [credential(
        &memory.path().join("c"),
        &format!("kbs:///{KEY}"),
    )];
    let wait = Duration::from_secs(60);
    let denied = place(&list, &agent(&[&own], &[]), Placement::MemoryOnly, wait).await;
    assert!(denied.unwrap_err().to_string().contains("den"));
    assert_eq!(own.gets(), 1);
}
