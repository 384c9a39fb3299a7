//! A broker on a loopback port, an admin and a guest that speak to it.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Method, Response, StatusCode};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use strongroom_broker::audit::Outcome;
use strongroom_broker::{
    Broker, Config, DEFAULT_PCRS, Entry, Handle, InitOptions, InitSummary, Sealing, init,
};
use strongroom_wire::admin::{AUDIENCE, AdminClaims};
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::error_information::ErrorInformation;
use strongroom_wire::initdata::Initdata;
use strongroom_wire::jwe::{DecryptionKey, Jwe, KeyAlgorithm};
use strongroom_wire::kbs::{Nonce, RuntimeData};
use strongroom_wire::tlog::{
    CHECKPOINT_PATH, Checkpoint, TilePath, VerifierKey, tiles_added, verify_log,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The time at which every broker here starts.
pub(crate) const START: u64 = 1_800_000_000;

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) summary: InitSummary,
    pub(crate) folder: Arc<tempfile::TempDir>,
    pub(crate) handle: Handle,
    /// Where metrics are, when the configuration wants them anywhere.
    pub(crate) metrics: Option<SocketAddr>,
    clock: Arc<AtomicU64>,
    tokens: AtomicU64,
    client: reqwest::Client,
    base: String,
    shutdown: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl Running {
    /// The broker as `init` makes it: nothing loosened.
    pub(crate) async fn strict() -> Self {
        Self::start(|config| config).await
    }

    /// A broker that accepts sample evidence and has reference values and a policy that let it through.
    pub(crate) async fn development() -> Self {
        let broker = Self::accepting_sample().await;
        broker.register_reference_values().await;
        broker.set_policy(AFFIRMING).await;
        broker
    }

    /// A broker that accepts sample evidence, and still has the default policies.
    pub(crate) async fn accepting_sample() -> Self {
        Self::start(|config| config + "\n[development]\naccept_sample_evidence = true\n").await
    }

    pub(crate) async fn start(edit: impl FnOnce(String) -> String) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let summary = init(
            &folder.path().join("broker"),
            InitOptions::new("127.0.0.1:0".parse().unwrap()),
        )
        .unwrap();
        let text = edit(std::fs::read_to_string(&summary.config).unwrap());
        std::fs::write(&summary.config, text).unwrap();
        Self::serve(folder, summary, Arc::new(AtomicU64::new(START)))
    }

    /// A broker that keeps everything in a database, and accepts sample evidence.
    pub(crate) fn on_database(url: &str) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let mut options = InitOptions::new("127.0.0.1:0".parse().unwrap());
        options.postgres_url = Some(url.to_owned());
        options.accept_sample_evidence = true;
        let summary = init(&folder.path().join("broker"), options).unwrap();
        Self::serve(folder, summary, Arc::new(AtomicU64::new(START)))
    }

    /// A broker whose storage key a TPM seals, while PCR 7 is as it is. The recovery key lies beside its folder.
    pub(crate) async fn sealed_by(tpm: &str) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let mut options = InitOptions::new("127.0.0.1:0".parse().unwrap());
        options.sealing = Some(Sealing {
            tpm: tpm.parse().unwrap(),
            pcrs: DEFAULT_PCRS,
        });
        options.recovery_key = Some(folder.path().join("recovery.key"));
        options.accept_sample_evidence = true;
        let summary = init(&folder.path().join("broker"), options).unwrap();
        let broker = Self::serve(folder, summary, Arc::new(AtomicU64::new(START)));
        broker.register_reference_values().await;
        broker.set_policy(AFFIRMING).await;
        broker
    }

    /// A further broker on the same database: its folder is a copy of this one's.
    pub(crate) fn twin(&self) -> Self {
        let (folder, summary) = self.copied();
        Self::serve(folder, summary, Arc::clone(&self.clock))
    }

    /// A copy of this broker's folder.
    pub(crate) fn copied(&self) -> (Arc<tempfile::TempDir>, InitSummary) {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let copy = folder.path().join("broker");
        std::fs::create_dir(&copy).unwrap();
        for file in std::fs::read_dir(self.summary.config.parent().unwrap()).unwrap() {
            let file = file.unwrap();
            if file.file_type().unwrap().is_file() {
                std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
            }
        }
        let there = |path: &PathBuf| copy.join(path.file_name().unwrap());
        let mut summary = self.summary.clone();
        summary.config = there(&self.summary.config);
        summary.certificate = there(&self.summary.certificate);
        summary.admin_key = there(&self.summary.admin_key);
        summary.store = there(&self.summary.store);
        (folder, summary)
    }

    /// Ends without a shutdown: nobody listens any more.
    pub(crate) async fn kill(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    fn serve(folder: Arc<tempfile::TempDir>, summary: InitSummary, clock: Arc<AtomicU64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = Config::load(&summary.config).unwrap();
        let scheme = if config.insecure_http {
            "http"
        } else {
            "https"
        };
        let ticking = Arc::clone(&clock);
        let metrics = config
            .metrics
            .listen
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let metrics_address = metrics
            .as_ref()
            .map(|listener| listener.local_addr().unwrap());
        let mut broker =
            Broker::open_with_clock(config, Arc::new(move || ticking.load(Ordering::SeqCst)))
                .unwrap();
        if let Some(metrics) = metrics {
            broker = broker.with_metrics_on(metrics);
        }
        let handle = broker.handle();
        let (shutdown, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            broker
                .serve(listener, async { stopped.await.unwrap_or_default() })
                .await
                .unwrap();
        });
        let certificate = std::fs::read(&summary.certificate).unwrap();
        Self {
            address,
            client: client(&certificate),
            base: format!("{scheme}://{address}"),
            summary,
            folder,
            handle,
            metrics: metrics_address,
            clock,
            tokens: AtomicU64::new(0),
            shutdown: Some(shutdown),
            task: Some(task),
        }
    }

    /// Stops gracefully and starts again on the same folder with another configuration.
    pub(crate) async fn restart(mut self, edit: impl FnOnce(String) -> String) -> Self {
        self.stop().await;
        let text = edit(std::fs::read_to_string(&self.summary.config).unwrap());
        std::fs::write(&self.summary.config, text).unwrap();
        Self::serve(
            Arc::clone(&self.folder),
            self.summary.clone(),
            Arc::clone(&self.clock),
        )
    }

    /// Starts again after [`Self::stop`], on the same folder.
    pub(crate) fn start_again(self) -> Self {
        Self::serve(
            Arc::clone(&self.folder),
            self.summary.clone(),
            Arc::clone(&self.clock),
        )
    }

    pub(crate) async fn stop(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
        self.task.take().unwrap().await.unwrap();
    }

    pub(crate) fn pass(&self, seconds: u64) {
        self.clock.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.summary.store.clone()
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub(crate) fn admin_token(&self) -> String {
        self.sign(&AdminClaims {
            usage: None,
            sub: "admin".into(),
            role: "admin".into(),
            aud: AUDIENCE.into(),
            iat: self.now(),
            exp: self.now() + 60,
            jti: self.token_id(),
        })
    }

    /// A fresh id for an admin token.
    pub(crate) fn token_id(&self) -> String {
        // Brokers on one database know each other's.
        let number = self.tokens.fetch_add(1, Ordering::SeqCst);
        format!("{}-{number}", self.address.port())
    }

    pub(crate) fn sign(&self, claims: &AdminClaims) -> String {
        let pem = std::fs::read(&self.summary.admin_key).unwrap();
        let key = EncodingKey::from_ed_pem(&pem).unwrap();
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &key).unwrap()
    }

    pub(crate) async fn admin(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let request = self
            .request(method, path)
            .bearer_auth(self.admin_token())
            .body(body.into());
        Answer::of(request.send().await.unwrap()).await
    }

    pub(crate) async fn put(&self, path: &str, secret: &str) {
        let path = format!("/kbs/v0/resource/{path}");
        self.admin(Method::POST, &path, secret)
            .await
            .expect(StatusCode::OK);
    }

    pub(crate) async fn set_policy(&self, rego: &str) {
        let body = json!({"policy": URL_SAFE_NO_PAD.encode(rego)}).to_string();
        self.admin(Method::POST, "/kbs/v0/resource-policy", body)
            .await
            .expect(StatusCode::OK);
    }

    pub(crate) async fn register_reference_values(&self) {
        let values = json!({
            "launch_digest": ["abcde"], "svn": ["1"], "major_version": 1, "minimum_minor_version": 1,
            "accept_development_assurance": true,
        });
        let payload = STANDARD.encode(values.to_string());
        let body = json!({"version": "0.1.0", "type": "sample", "payload": payload}).to_string();
        self.admin(Method::POST, "/kbs/v0/reference-value", body)
            .await
            .expect(StatusCode::OK);
    }

    pub(crate) async fn audit(&self) -> Vec<Entry> {
        let answer = self
            .admin(Method::GET, "/strongroom/v1/audit?limit=1000", "")
            .await;
        serde_json::from_slice(&answer.expect(StatusCode::OK).body).unwrap()
    }

    /// Why evidence was refused, which the record says and the answer must not: it names the event alone.
    pub(crate) async fn refused_because(&self, answer: &Answer) -> String {
        let said = answer.refused(StatusCode::FORBIDDEN, "AttestationError");
        let entries = self.audit().await;
        let entry = entries.iter().find(|entry| {
            let event = &entry.record.event;
            said == format!(
                "the evidence was refused; the broker's owner can explain event {event}"
            )
        });
        let entry = entry.unwrap_or_else(|| panic!("{said:?} names no event of {entries:?}"));
        assert_eq!(entry.record.outcome, Outcome::Denied);
        entry.record.detail.clone().unwrap()
    }

    /// Verifies the record as an auditor would, with the public key and the log's files alone; gives how many entries
    /// it has.
    pub(crate) async fn verified_entries(&self) -> usize {
        let key = std::fs::read_to_string(self.store().with_file_name("audit.pub")).unwrap();
        let key: VerifierKey = key.trim().parse().unwrap();
        let file = |path: String| async move {
            let path = format!("/strongroom/v1/log/{path}");
            self.admin(Method::GET, &path, "").await
        };
        let note = file(CHECKPOINT_PATH.to_owned())
            .await
            .expect(StatusCode::OK);
        let size = Checkpoint::open(&note.body, std::slice::from_ref(&key))
            .unwrap()
            .size();
        let mut files = HashMap::new();
        for path in tiles_added(0, size) {
            let answer = file(path.to_string()).await.expect(StatusCode::OK);
            files.insert(path, answer.body.to_vec());
        }
        let read = |path: &TilePath| Ok::<_, std::convert::Infallible>(files.get(path).cloned());
        let mut entries = 0;
        verify_log(&note.body, &[key], 0, read, |_, _| entries += 1).unwrap();
        entries
    }

    pub(crate) async fn last_entry(&self) -> Entry {
        self.audit().await.pop().unwrap()
    }

    /// Opens a session: its cookie and its nonce.
    pub(crate) async fn auth(&self) -> (String, Nonce) {
        let answer = self.post("/kbs/v0/auth", None, &json!({
            "version": "0.4.0", "tee": "sample", "extra-params": {"supported-hash-algorithms": ["sha384"]},
        })).await;
        let answer = answer.expect(StatusCode::OK);
        let nonce = serde_json::from_value(answer.json()["nonce"].clone()).unwrap();
        (answer.cookie.unwrap(), nonce)
    }

    pub(crate) async fn post(&self, path: &str, cookie: Option<&str>, body: &Value) -> Answer {
        let mut request = self.request(Method::POST, path).body(body.to_string());
        if let Some(cookie) = cookie {
            request = request.header("cookie", cookie);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    /// A whole handshake; gives the cookie and the token.
    pub(crate) async fn attest(&self, guest: &Guest) -> (String, String) {
        let (cookie, nonce) = self.auth().await;
        let answer = self
            .post("/kbs/v0/attest", Some(&cookie), &guest.attestation(&nonce))
            .await;
        let token = answer.expect(StatusCode::OK).json()["token"]
            .as_str()
            .unwrap()
            .to_owned();
        (cookie, token)
    }

    pub(crate) async fn get_with_token(&self, path: &str, token: &str) -> Answer {
        let request = self
            .request(Method::GET, &format!("/kbs/v0/resource/{path}"))
            .bearer_auth(token);
        Answer::of(request.send().await.unwrap()).await
    }

    pub(crate) async fn get_with_cookie(&self, path: &str, cookie: &str) -> Answer {
        let request = self
            .request(Method::GET, &format!("/kbs/v0/resource/{path}"))
            .header("cookie", cookie);
        Answer::of(request.send().await.unwrap()).await
    }
}

pub(crate) fn client(certificate: &[u8]) -> reqwest::Client {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(certificate).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .build()
        .unwrap()
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) cookie: Option<String>,
    pub(crate) set_cookie: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) async fn of(response: Response) -> Self {
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let set_cookie = header("set-cookie");
        let cookie = set_cookie
            .as_ref()
            .map(|text| text.split(';').next().unwrap().to_owned());
        assert_eq!(header("cache-control").as_deref(), Some("no-store"));
        let content_type = header("content-type");
        let status = response.status();
        let body = response.bytes().await.unwrap().to_vec();
        Self {
            status,
            cookie,
            set_cookie,
            content_type,
            body,
        }
    }

    #[track_caller]
    pub(crate) fn expect(self, status: StatusCode) -> Self {
        assert_eq!(
            self.status,
            status,
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        self
    }

    /// The status, and an error body of this kind. Gives the detail.
    #[track_caller]
    pub(crate) fn refused(&self, status: StatusCode, kind: &str) -> String {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{text}");
        assert_eq!(self.content_type.as_deref(), Some("application/json"));
        let error = ErrorInformation::parse(&self.body).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(error.kind(), kind, "{text}");
        error.detail
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A guest with a key, and perhaps init-data.
pub(crate) struct Guest {
    pub(crate) key: DecryptionKey,
    pub(crate) initdata: Option<Initdata>,
    /// What the stand-in register holds.
    pub(crate) register: Option<Vec<u8>>,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let key = DecryptionKey::generate(KeyAlgorithm::EcdhP256).unwrap();
        Self {
            key,
            initdata: None,
            register: None,
        }
    }

    pub(crate) fn with_initdata(text: &str) -> Self {
        let initdata = Initdata::parse(text).unwrap();
        let register = Some(initdata.digest());
        Self {
            initdata: Some(initdata),
            register,
            ..Self::new()
        }
    }

    pub(crate) fn attestation(&self, nonce: &Nonce) -> Value {
        self.composite_attestation(nonce, |_device| String::new())
    }

    /// As [`Self::attestation`], with device evidence that is made from a device's report data.
    pub(crate) fn composite_attestation(
        &self,
        nonce: &Nonce,
        devices: impl FnOnce(&[u8]) -> String,
    ) -> Value {
        let runtime_data = RuntimeData {
            nonce: nonce.clone(),
            tee_pubkey: self.key.public().clone(),
        };
        let hash = HashAlgorithm::Sha384;
        let additional = devices(&runtime_data.device_report_data(hash));
        let report_data = runtime_data.primary_report_data(&additional, hash);
        let mut evidence = json!({"svn": "1", "report_data": STANDARD.encode(report_data)});
        if let Some(register) = &self.register {
            evidence["init_data"] = json!(STANDARD.encode(register));
        }
        let init_data = self
            .initdata
            .as_ref()
            .map(|i| json!({"format": "toml", "body": i.as_str()}));
        json!({
            "init-data": init_data,
            "runtime-data": runtime_data,
            "tee-evidence": {"primary_evidence": evidence, "additional_evidence": additional},
        })
    }

    pub(crate) fn decrypt(&self, answer: Answer) -> Vec<u8> {
        let answer = answer.expect(StatusCode::OK);
        assert_eq!(answer.content_type.as_deref(), Some("application/json"));
        let jwe: Jwe = serde_json::from_slice(&answer.body).unwrap();
        self.key.decrypt(&jwe).unwrap().to_vec()
    }
}

/// Lets affirming tokens have everything, whatever they rest on.
pub(crate) const AFFIRMING: &str = r#"package policy

import rego.v1

default allow := false

allow if {
	data.plugin == "resource"
	input.submods.cpu0["ear.status"] == "affirming"
}
"#;
