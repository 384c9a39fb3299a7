//! The guest against the broker of this workspace, over TLS: the statuses that a workload sees.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::json;
use strongroom_attester::Attester;
use strongroom_broker::{Broker, Config, InitOptions, init};
use strongroom_client::admin::{AdminClient, AdminKey};
use strongroom_client::seal::seal_vault;
use strongroom_client::{ClientError, KbsClient};
use strongroom_guest::{Agent, AgentConfig, ServeOptions};
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::initdata::compose;
use strongroom_wire::kbs::CompositeEvidence;
use strongroom_wire::resource::ResourcePath;
use strongroom_wire::sealed_secret::SigningJwk;
use strongroom_wire::tee::Tee;
use support::Guest;

const KEY: &str = "default/fraud-dataset/dataset_key";
const ALLOW: &str = "package policy\n\ndefault allow = true\n";
const DENY: &str = "package policy\n\ndefault allow = false\n";

struct RealBroker {
    url: String,
    certificate: String,
    admin_key: PathBuf,
    folder: tempfile::TempDir,
    runtime: Option<tokio::runtime::Runtime>,
}

impl RealBroker {
    fn start(accept_sample_evidence: bool) -> Self {
        Self::start_with(accept_sample_evidence, None)
    }

    /// A broker that was given a development root, and reaches nobody's collateral service.
    fn start_with(accept_sample_evidence: bool, development_root: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let mut options = InitOptions::new(address);
        options.accept_sample_evidence = accept_sample_evidence;
        let summary = init(&folder.path().join("broker"), options).unwrap();
        if let Some(root) = development_root {
            let text = std::fs::read_to_string(&summary.config).unwrap();
            let text = text.replace("offline = false", "offline = true");
            let root = format!("{text}\n[development]\nroot = {root:?}\n");
            std::fs::write(&summary.config, root).unwrap();
        }
        let broker = Broker::open(Config::load(&summary.config).unwrap()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            broker
                .serve(listener, std::future::pending())
                .await
                .unwrap()
        });
        Self {
            url: format!("https://{address}"),
            certificate: std::fs::read_to_string(&summary.certificate).unwrap(),
            admin_key: summary.admin_key,
            folder,
            runtime: Some(runtime),
        }
    }

    fn admin(&self) -> AdminClient {
        let pem = std::fs::read_to_string(&self.admin_key).unwrap();
        let key = AdminKey::from_pem("admin", &pem).unwrap();
        AdminClient::new(&self.url, Some(self.certificate.clone()), key).unwrap()
    }

    fn agent(&self) -> Agent {
        self.agent_of(Attester::named("sample").unwrap())
    }

    fn agent_of(&self, attester: Attester) -> Agent {
        let mut config = AgentConfig::new(&self.url, attester);
        config.broker.root_certificate_pem = Some(self.certificate.clone());
        Agent::new(config).unwrap()
    }

    fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for RealBroker {
    fn drop(&mut self) {
        self.stop();
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

fn key() -> ResourcePath {
    KEY.parse().unwrap()
}

fn ready() -> RealBroker {
    let broker = RealBroker::start(true);
    block_on(async {
        let admin = broker.admin();
        admin
            .put_resource(&key(), b"0123456789abcdef")
            .await
            .unwrap();
        admin.set_policy("resource-policy", ALLOW).await.unwrap();
    });
    broker
}

fn resource() -> String {
    format!("/cdh/resource/{KEY}")
}

#[test]
fn released_then_deleted_then_denied_then_stopped() {
    let mut broker = ready();
    let admin = broker.admin();
    let guest = Guest::start(broker.agent(), ServeOptions::default());
    assert_eq!(guest.get(&resource()).body, b"0123456789abcdef");

    block_on(admin.delete_resource(&key())).unwrap();
    assert_eq!(guest.get(&resource()).status, 404);

    block_on(async {
        admin.put_resource(&key(), b"again").await.unwrap();
        admin.set_policy("resource-policy", DENY).await.unwrap();
    });
    let denied = guest.get(&resource());
    assert_eq!(denied.status, 403);
    assert!(denied.text().contains("denied"), "{}", denied.text());

    broker.stop();
    let unreachable = guest.get(&resource());
    assert_eq!(unreachable.status, 502);
    assert!(
        unreachable.text().contains(&broker.url),
        "{}",
        unreachable.text()
    );
}

#[test]
fn a_hundred_applications_leave_one_attestation_in_the_record() {
    let broker = ready();
    let guest = Guest::start(broker.agent(), ServeOptions::default());
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..100)
            .map(|_| scope.spawn(|| guest.get(&resource()).status))
            .collect();
        for answer in asked {
            assert_eq!(answer.join().unwrap(), 200);
        }
    });
    let entries = block_on(broker.admin().audit(1_000)).unwrap();
    let of = |kind: &str| entries.iter().filter(|entry| entry["kind"] == kind).count();
    assert_eq!((of("attestation"), of("release")), (1, 100), "{entries:?}");
}

#[test]
fn default_policy_gives_sample_evidence_nothing() {
    let broker = RealBroker::start(true);
    block_on(broker.admin().put_resource(&key(), b"x")).unwrap();
    let guest = Guest::start(broker.agent(), ServeOptions::default());
    assert_eq!(guest.get(&resource()).status, 403);
}

#[test]
fn broker_that_does_not_take_sample_evidence_says_so() {
    let broker = RealBroker::start(false);
    let guest = Guest::start(broker.agent(), ServeOptions::default());
    let answer = guest.get(&resource());
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("evidence"), "{}", answer.text());
}

#[test]
fn certificate_of_another_broker_is_not_trusted_and_nothing_is_asked() {
    let (broker, other) = (ready(), RealBroker::start(true));
    let mut config = AgentConfig::new(&broker.url, Attester::named("sample").unwrap());
    config.broker.root_certificate_pem = Some(other.certificate.clone());
    let agent = Agent::new(config).unwrap();
    let error = block_on(agent.get_resource(&key().into())).unwrap_err();
    assert!(
        matches!(error, ClientError::UntrustedPeer { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("made anew"), "{error}");
    let guest = Guest::start(agent, ServeOptions::default());
    assert_eq!(guest.get(&resource()).status, 502);
}

#[test]
fn plain_http_to_a_tls_broker_is_no_secret() {
    let broker = ready();
    let agent = support::agent(&broker.url.replace("https", "http"));
    let error = block_on(agent.get_resource(&key().into())).unwrap_err();
    assert!(error.to_string().contains("try https://"), "{error}");
}

#[test]
fn agent_policy_of_110_000_bytes_still_attests() {
    let broker = ready();
    let files = [("policy.rego".to_owned(), "# policy\n".repeat(11_000))].into();
    let initdata = compose(HashAlgorithm::Sha256, &files).unwrap();
    let mut config = AgentConfig::new(&broker.url, Attester::named("sample").unwrap());
    config.broker.root_certificate_pem = Some(broker.certificate.clone());
    config.initdata = Some(initdata);
    let agent = Agent::new(config).unwrap();
    let secret = block_on(agent.get_resource(&key().into())).unwrap();
    assert_eq!(secret.as_slice(), b"0123456789abcdef");
    assert!(block_on(agent.token()).unwrap().token().expose().len() > 128 * 1024);
}

#[test]
fn host_that_the_certificate_does_not_name_is_not_trusted() {
    let broker = ready();
    let mut config = AgentConfig::new(
        broker.url.replace("127.0.0.1", "127.0.0.2"),
        Attester::named("sample").unwrap(),
    );
    config.broker.root_certificate_pem = Some(broker.certificate.clone());
    let error = block_on(Agent::new(config).unwrap().get_resource(&key().into())).unwrap_err();
    assert!(
        !matches!(
            error,
            ClientError::NotFound { .. } | ClientError::Denied { .. }
        ),
        "{error}"
    );
}

#[test]
fn evidence_over_other_data_is_refused() {
    let broker = ready();
    let client = KbsClient::builder(&broker.url)
        .root_certificate_pem(&broker.certificate)
        .evidence(Tee::Sample, |_: &[u8]| {
            let primary_evidence = Attester::named("sample")?.evidence(&[0; 48])?;
            Ok::<_, strongroom_attester::AttestError>(CompositeEvidence {
                primary_evidence,
                additional_evidence: String::new(),
            })
        })
        .build()
        .unwrap();
    let error = block_on(client.get_resource(&key().into())).unwrap_err();
    assert!(
        matches!(error, ClientError::EvidenceRefused { .. }),
        "{error}"
    );
}

#[test]
fn sealed_secret_is_opened_through_the_real_broker() {
    let broker = ready();
    let signing = SigningJwk::generate().unwrap();
    let uri = |path: &str| format!("kbs:///{path}").parse().unwrap();
    let path: ResourcePath = "default/sealed-signing-key/jwk_public".parse().unwrap();
    block_on(
        broker
            .admin()
            .put_resource(&path, signing.public_json("k").as_bytes()),
    )
    .unwrap();
    let sealed = seal_vault(&uri(KEY), &signing, &uri(&path.to_string())).unwrap();
    assert_eq!(
        block_on(broker.agent().unseal(&sealed)).unwrap().as_slice(),
        b"0123456789abcdef"
    );
}

#[test]
fn admin_reads_back_what_it_wrote() {
    let broker = ready();
    let admin = broker.admin();
    block_on(async {
        let listed = admin.list_resources().await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(
            (
                listed[0].path.to_string().as_str(),
                listed[0].size,
                listed[0].stored_by.as_deref()
            ),
            (KEY, 16, Some("admin"))
        );
        assert_eq!(
            admin
                .policy("resource-policy", None)
                .await
                .unwrap()
                .text
                .as_deref(),
            Some(ALLOW)
        );
        let values = [("launch_digest".to_owned(), json!(["abcde"]))].into();
        admin.put_reference_values(&values).await.unwrap();
        assert_eq!(
            admin.get_reference_value("launch_digest").await.unwrap(),
            json!(["abcde"])
        );
        let missing = admin
            .get_reference_value("none/of/these")
            .await
            .unwrap_err();
        assert!(matches!(missing, ClientError::NoSuch { .. }), "{missing}");
        assert!(!admin.audit(10).await.unwrap().is_empty());
    });
}

#[test]
fn policy_that_does_not_compile_is_refused_with_its_line() {
    let broker = ready();
    let error = block_on(
        broker
            .admin()
            .set_policy("resource-policy", "package policy\nallow {{"),
    )
    .unwrap_err();
    assert!(
        matches!(error, ClientError::Rejected { status: 400, .. }),
        "{error}"
    );
    assert!(error.to_string().contains('2'), "{error}");
}

#[test]
fn admin_key_of_another_broker_is_refused() {
    let (broker, other) = (ready(), RealBroker::start(true));
    let pem = std::fs::read_to_string(&other.admin_key).unwrap();
    let admin = AdminClient::new(
        &broker.url,
        Some(broker.certificate.clone()),
        AdminKey::from_pem("admin", &pem).unwrap(),
    );
    let error = block_on(admin.unwrap().put_resource(&key(), b"x")).unwrap_err();
    assert!(matches!(error, ClientError::AdminRefused { .. }), "{error}");
}

#[test]
fn role_that_the_key_does_not_have_is_refused() {
    let broker = ready();
    let pem = std::fs::read_to_string(&broker.admin_key).unwrap();
    let key_of_admin = AdminKey::from_pem("admin", &pem)
        .unwrap()
        .with_role("auditor");
    let admin =
        AdminClient::new(&broker.url, Some(broker.certificate.clone()), key_of_admin).unwrap();
    assert!(matches!(
        block_on(admin.delete_resource(&key())),
        Err(ClientError::AdminRefused { .. })
    ));
}

#[test]
fn secret_and_key_stay_out_of_the_brokers_folder() {
    let broker = ready();
    let guest = Guest::start(broker.agent(), ServeOptions::default());
    guest.get(&resource());
    let mut folders = vec![broker.folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap();
            let found = bytes
                .windows(16)
                .any(|window| window == b"0123456789abcdef");
            assert!(!found, "{}", entry.path().display());
        }
    }
}

/// Every platform in its real format, all the way: handshake, verification, token, release.
#[test]
fn development_root_is_believed_without_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (folder.path().join("own"), folder.path().join("other"));
    let attester = |platform: &str, root: &Path| {
        Attester::named_with_root(&format!("development:{platform}"), Some(root)).unwrap()
    };
    attester("snp", &own);
    let broker = RealBroker::start_with(false, Some(&own));
    block_on(async {
        let admin = broker.admin();
        admin
            .put_resource(&key(), b"0123456789abcdef")
            .await
            .unwrap();
        admin.set_policy("resource-policy", ALLOW).await.unwrap();
        let uri = format!("kbs:///{KEY}").parse().unwrap();
        for platform in ["snp", "tdx", "sgx", "tpm", "az-snp-vtpm", "az-tdx-vtpm"] {
            let believed = broker.agent_of(attester(platform, &own));
            let secret = believed.get_resource(&uri).await;
            assert_eq!(*secret.unwrap(), b"0123456789abcdef", "{platform}");
            let refused = broker.agent_of(attester(platform, &other));
            assert!(
                matches!(
                    refused.get_resource(&uri).await,
                    Err(ClientError::EvidenceRefused { .. })
                ),
                "{platform}"
            );
        }
    });
}
