//! A guest as the broker sees one: it attests, gets a token, reads a resource.
//!
//! It keeps its key and its chip's certificates, as a machine does, and signs a fresh report for each nonce.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{AUTHORIZATION, COOKIE, SET_COOKIE};
use serde::Deserialize;
use serde_json::value::RawValue;
use strongroom_attester::Attester;
use strongroom_attester::development::{DevelopmentRoot, snp};
use strongroom_client::handshake::session_cookie;
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::jwe::{DecryptionKey, Jwe, KeyAlgorithm};
use strongroom_wire::kbs::{
    AttestResponse, Attestation, Challenge, CompositeEvidence, Request, RuntimeData,
};
use strongroom_wire::tee::Tee;

use crate::connection::{Answer, Connection, Target};

/// One guest.
pub(crate) struct Guest {
    target: Target,
    connection: Option<Connection>,
    machine: Machine,
    key: DecryptionKey,
    request: Bytes,
    session: Option<Session>,
}

/// What an attestation gave.
pub(crate) struct Session {
    cookie: String,
    bearer: String,
    /// The token's id, under which the broker records it.
    pub(crate) token: String,
}

/// How a guest shows that it attested.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Show {
    Cookie,
    Bearer,
}

/// How long the broker took for each request of a handshake; what the guest itself did is not in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waited {
    pub(crate) auth: Duration,
    pub(crate) attest: Duration,
    pub(crate) resource: Duration,
}

impl Guest {
    pub(crate) fn new(target: Target, machine: Machine) -> anyhow::Result<Self> {
        let request = serde_json::to_vec(&Request::new(machine.tee()))?.into();
        Ok(Self {
            target,
            connection: None,
            key: DecryptionKey::generate(KeyAlgorithm::EcdhP256)?,
            machine,
            request,
            session: None,
        })
    }

    /// Goes on at a broker that was started again, with nothing of the last one.
    pub(crate) fn move_to(&mut self, target: Target) {
        self.target = target;
        self.hang_up();
        self.session = None;
    }

    /// The next request comes over a new connection.
    pub(crate) fn hang_up(&mut self) {
        self.connection = None;
    }

    /// Asks for a nonce and never comes back for it.
    pub(crate) async fn auth(&mut self) -> anyhow::Result<(String, Challenge)> {
        let body = self.request.clone();
        let answer = self.send(Method::POST, AUTH, None, body).await?.ok()?;
        let cookies = answer.headers.get_all(SET_COOKIE);
        let cookie = session_cookie(cookies.iter().map(|value| value.as_bytes()))
            .context("the broker set no session cookie")?;
        Ok((cookie, serde_json::from_slice(&answer.body)?))
    }

    /// A full handshake: nonce, evidence, token, and the resource that the token opens.
    pub(crate) async fn handshake(&mut self, path: &str) -> anyhow::Result<(Waited, Bytes)> {
        let (auth, attest) = self.attest().await?;
        let asked = Instant::now();
        let answer = self.read(path, Show::Cookie).await?.ok()?;
        let waited = Waited {
            auth,
            attest,
            resource: asked.elapsed(),
        };
        Ok((waited, answer.body))
    }

    /// The first two requests of a handshake.
    pub(crate) async fn attest(&mut self) -> anyhow::Result<(Duration, Duration)> {
        self.session = None;
        let asked = Instant::now();
        let (cookie, challenge) = self.auth().await?;
        let auth = asked.elapsed();
        let body = self.attestation(challenge)?;
        let asked = Instant::now();
        let show = Some((COOKIE, cookie.as_str()));
        let answer = self.send(Method::POST, ATTEST, show, body).await?.ok()?;
        let attest = asked.elapsed();
        let AttestResponse { token } = serde_json::from_slice(&answer.body)?;
        self.session = Some(Session {
            cookie,
            bearer: format!("Bearer {token}"),
            token: token_id(&token)?,
        });
        Ok((auth, attest))
    }

    /// Asks for a resource with what the last attestation gave.
    pub(crate) async fn read(&mut self, path: &str, show: Show) -> anyhow::Result<Answer> {
        let session = self.session.take().context("this guest has not attested")?;
        let header = match show {
            Show::Cookie => (COOKIE, session.cookie.as_str()),
            Show::Bearer => (AUTHORIZATION, session.bearer.as_str()),
        };
        let answer = self
            .send(Method::GET, path, Some(header), Bytes::new())
            .await;
        self.session = Some(session);
        answer
    }

    /// What the last attestation gave.
    pub(crate) fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Opens an answer: proof that a resource came, and not something of its length.
    pub(crate) fn open(&self, answer: &[u8]) -> anyhow::Result<Vec<u8>> {
        let jwe: Jwe = serde_json::from_slice(answer)?;
        Ok(self.key.decrypt(&jwe)?.to_vec())
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        header: Option<(hyper::header::HeaderName, &str)>,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.target.connect().await?,
        };
        let answer = connection.send(method, path, header, body).await?;
        self.connection = Some(connection);
        Ok(answer)
    }

    fn attestation(&self, challenge: Challenge) -> anyhow::Result<Vec<u8>> {
        let hash = challenge.selected_hash()?;
        ensure!(hash == HashAlgorithm::Sha384, "another hash than SHA-384");
        let runtime_data = RuntimeData {
            nonce: challenge.nonce,
            tee_pubkey: self.key.public().clone(),
        };
        let report_data = runtime_data.primary_report_data("", hash);
        let attestation = Attestation {
            init_data: None,
            runtime_data,
            tee_evidence: CompositeEvidence {
                primary_evidence: self.machine.evidence(&report_data)?,
                additional_evidence: String::new(),
            },
        };
        Ok(serde_json::to_vec(&attestation)?)
    }
}

/// What signs a guest's evidence.
#[derive(Clone)]
pub(crate) enum Machine {
    /// Nothing does.
    Sample,
    /// A chip of a development root, with the certificates that it was made with: they are signed once, as AMD does,
    /// so that what the broker remembers of them counts here as it does in the field.
    Snp {
        forge: Box<snp::Forge>,
        certificates: String,
    },
}

impl Machine {
    pub(crate) fn snp(root: &DevelopmentRoot) -> anyhow::Result<Self> {
        let mut forge = snp::Forge::new(root);
        let whole = forge.evidence_json()?;
        let whole: Whole<'_> = serde_json::from_str(&whole)?;
        let certificates = whole.cert_chain.get().to_owned();
        forge.with_certificates = false;
        Ok(Self::Snp {
            forge: Box::new(forge),
            certificates,
        })
    }

    fn tee(&self) -> Tee {
        match self {
            Self::Sample => Tee::Sample,
            Self::Snp { .. } => Tee::Snp,
        }
    }

    fn evidence(&self, report_data: &[u8]) -> anyhow::Result<Box<RawValue>> {
        match self {
            Self::Sample => Ok(Attester::named("sample")?.evidence(report_data)?),
            Self::Snp {
                forge,
                certificates,
            } => {
                let forge = forge.as_ref().clone().with_report_data(report_data);
                let bare = forge.evidence_json()?;
                let bare: Whole<'_> = serde_json::from_str(&bare)?;
                let report = bare.attestation_report.get();
                Ok(RawValue::from_string(format!(
                    r#"{{"attestation_report":{report},"cert_chain":{certificates}}}"#
                ))?)
            }
        }
    }
}

#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow)]
    attestation_report: &'a RawValue,
    #[serde(borrow)]
    cert_chain: &'a RawValue,
}

/// The `jti` of a token. Its signature is the broker's business.
fn token_id(token: &str) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Claims {
        jti: String,
    }
    let payload = token.split('.').nth(1).context("the token is no JWT")?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    Ok(claims.jti)
}

const AUTH: &str = "/kbs/v0/auth";
const ATTEST: &str = "/kbs/v0/attest";
