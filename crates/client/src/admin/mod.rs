//! A broker's admin: signs a short-lived token per request with the key file, and speaks the admin routes.
//!
//! Tokens are JWTs under `EdDSA` or ES256, with name and role, valid for two minutes and for brokers only.

mod admins;
mod history;
mod policy;

pub use admins::AdminSummary;
pub use policy::{Policy, PolicySummary, Rehearse};

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strongroom_wire::admin::{AUDIENCE, AdminClaims, SESSION};
use strongroom_wire::resource::ResourcePath;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::error::{Cause, ClientError, one_line};
use crate::http::{Answer, Endpoint, EndpointOptions, Outgoing, Refused, Roots};

/// An admin's client of one broker.
#[derive(Clone)]
pub struct AdminClient {
    endpoint: Endpoint,
    key: std::sync::Arc<AdminKey>,
    clock: Clock,
}

impl AdminClient {
    /// Prepares a client; nothing is sent yet. `roots` is the broker's certificate (PEM), if it has its own.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`], [`ClientError::BadRoots`].
    pub fn new(url: &str, roots: Option<String>, key: AdminKey) -> Result<Self, ClientError> {
        Self::with_options(
            url,
            EndpointOptions {
                roots: Roots::from(roots),
                ..EndpointOptions::default()
            },
            key,
        )
    }

    /// Prepares a client that reaches the broker in another way.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_options(
        url: &str,
        options: EndpointOptions,
        key: AdminKey,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            endpoint: Endpoint::new(url, options)?,
            key: std::sync::Arc::new(key),
            clock: Clock::system(),
        })
    }

    /// Stores a resource, replacing the one of that name.
    ///
    /// # Errors
    /// [`ClientError::AdminRefused`], [`ClientError::Rejected`] (too large, or one that a source of the broker's has),
    /// or how the broker could not be reached.
    pub async fn put_resource(
        &self,
        path: &ResourcePath,
        secret: &[u8],
    ) -> Result<(), ClientError> {
        self.put_resource_with(path, secret, PutOptions::default())
            .await
    }

    /// As [`Self::put_resource`], with more to say.
    ///
    /// # Errors
    /// As [`Self::put_resource`].
    pub async fn put_resource_with(
        &self,
        path: &ResourcePath,
        secret: &[u8],
        options: PutOptions,
    ) -> Result<(), ClientError> {
        let what = format!("storing {path}");
        let body = Some(("application/octet-stream", secret.to_vec()));
        let query = [
            options.expires.map(|expires| format!("expires={expires}")),
            options.before_sources.then(|| "shadow=true".to_owned()),
        ];
        let query: Vec<String> = query.into_iter().flatten().collect();
        let query = (!query.is_empty()).then(|| query.join("&"));
        let (at, query) = (resource_path(path), query.as_deref());
        self.call(Method::POST, &at, query, body, &what)
            .await
            .map(drop)
    }

    /// Removes a resource.
    ///
    /// # Errors
    /// [`ClientError::NoSuch`] besides those of [`Self::put_resource`].
    pub async fn delete_resource(&self, path: &ResourcePath) -> Result<(), ClientError> {
        self.call(
            Method::DELETE,
            &resource_path(path),
            None,
            None,
            &path.to_string(),
        )
        .await
        .map(drop)
    }

    /// Names and metadata of the resources; never their contents.
    ///
    /// # Errors
    /// As [`Self::put_resource`].
    pub async fn list_resources(&self) -> Result<Vec<ResourceSummary>, ClientError> {
        let answer = self
            .call(
                Method::GET,
                "/strongroom/v1/resource",
                None,
                None,
                "listing resources",
            )
            .await?;
        answer.json("a list of resources")
    }

    /// Sets reference values: by name, the list of values that count as good.
    ///
    /// # Errors
    /// As [`Self::put_resource`].
    pub async fn put_reference_values(
        &self,
        values: &BTreeMap<String, Value>,
    ) -> Result<(), ClientError> {
        let payload = serde_json::to_vec(values).map_err(|error| ClientError::Rejected {
            what: "setting reference values".to_owned(),
            status: 400,
            detail: error.to_string(),
        })?;
        let message =
            json!({ "version": "0.1.0", "type": "sample", "payload": STANDARD.encode(payload) });
        self.post(
            "/kbs/v0/reference-value",
            &message,
            "setting reference values",
        )
        .await
    }

    /// One reference value.
    ///
    /// # Errors
    /// [`ClientError::NoSuch`] besides those of [`Self::put_resource`].
    pub async fn get_reference_value(&self, id: &str) -> Result<Value, ClientError> {
        let path = reference_value_path("/kbs/v0/reference-value", id)?;
        let answer = self
            .call(
                Method::GET,
                &path,
                None,
                None,
                &format!("the reference value {id}"),
            )
            .await?;
        answer.json("a reference value")
    }

    /// Every reference value that the broker has, by name, the expired ones too.
    ///
    /// # Errors
    /// As [`Self::put_resource`].
    pub async fn list_reference_values(&self) -> Result<Vec<ListedReferenceValue>, ClientError> {
        let what = "listing reference values";
        let answer = self
            .call(Method::GET, "/kbs/v0/reference-value", None, None, what)
            .await?;
        answer.json("a list of reference values")
    }

    /// The newest entries of the record of releases, denials and admin actions.
    ///
    /// # Errors
    /// As [`Self::put_resource`].
    pub async fn audit(&self, limit: u32) -> Result<Vec<Value>, ClientError> {
        self.audit_entries(&format!("limit={limit}")).await
    }

    /// The newest entries of the record before the one of number `seq`: the page behind [`Self::audit`]'s.
    ///
    /// # Errors
    /// As [`Self::put_resource`].
    pub async fn audit_before(&self, seq: u64, limit: u32) -> Result<Vec<Value>, ClientError> {
        self.audit_entries(&format!("before={seq}&limit={limit}"))
            .await
    }

    /// The entry of one event, however old it is.
    ///
    /// # Errors
    /// As [`Self::put_resource`].
    pub async fn audit_event(&self, event: &str) -> Result<Option<Value>, ClientError> {
        // An event is hexadecimal, and nothing else may get into the query.
        if event.is_empty() || !event.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Ok(None);
        }
        let mut entries = self.audit_entries(&format!("event={event}")).await?;
        Ok(entries.pop())
    }

    async fn audit_entries(&self, query: &str) -> Result<Vec<Value>, ClientError> {
        let answer = self
            .call(
                Method::GET,
                "/strongroom/v1/audit",
                Some(query),
                None,
                "reading the audit log",
            )
            .await?;
        answer.json("a list of audit entries")
    }

    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        query: Option<&str>,
        what: &str,
    ) -> Result<T, ClientError> {
        let answer = self.call(Method::GET, path, query, None, what).await?;
        answer.json(what)
    }

    async fn post(&self, path: &str, message: &Value, what: &str) -> Result<(), ClientError> {
        let body = ("application/json", message.to_string().into_bytes());
        self.call(Method::POST, path, None, Some(body), what)
            .await
            .map(drop)
    }

    /// Admin requests change things, so none is sent a second time by itself.
    async fn call(
        &self,
        method: Method,
        path: &str,
        query: Option<&str>,
        body: Option<(&'static str, Vec<u8>)>,
        what: &str,
    ) -> Result<Answer, ClientError> {
        let token = self.key.token(self.clock.now())?;
        let outgoing = Outgoing {
            query,
            body,
            bearer: Some(&token),
            ..Outgoing::new(method, path)
        };
        self.endpoint
            .send(outgoing)
            .await?
            .success()
            .map_err(|refused| match refused {
                Refused::ByBroker(_, status, refusal)
                    if matches!(refusal.cause, Cause::Unauthenticated | Cause::Denied) =>
                {
                    ClientError::AdminRefused {
                        what: what.to_owned(),
                        status,
                        detail: refusal.detail,
                    }
                }
                Refused::ByBroker(_, _, refusal) if refusal.cause == Cause::NotFound => {
                    ClientError::NoSuch {
                        what: what.to_owned(),
                        detail: refusal.detail,
                        next: where_to_look(path, query),
                    }
                }
                other => other.into_error(what),
            })
    }
}

/// Where an admin finds what there is, in place of what was asked for.
fn where_to_look(path: &str, query: Option<&str>) -> &'static str {
    let version = query.is_some_and(|query| query.starts_with("version="));
    let of = path
        .trim_start_matches("/strongroom/v1/")
        .trim_start_matches("/kbs/v0/")
        .trim_start_matches("rollback/");
    match (of.split('/').next().unwrap_or_default(), version) {
        ("explain", _) => "`strongroom audit` lists the events",
        ("resource", true) => "`strongroom resource history` lists the versions that are kept",
        ("resource", false) => "`strongroom resource list` names those that there are",
        ("policy", true) => "`strongroom policy history` lists the versions",
        ("policy", false) => "`strongroom policy list` names those in force",
        ("reference-value", _) => "`strongroom reference-value list` names those that there are",
        ("admin", _) => "`strongroom admin list` names those that there are",
        _ => "is the broker of an older version than this program?",
    }
}

/// What an admin may know of a resource without reading it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ResourceSummary {
    /// Its path.
    pub path: ResourcePath,
    /// How often this path was stored; a folder counts no versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Its length in bytes.
    pub size: u64,
    /// When it was stored, in seconds since 1970.
    pub stored_at: u64,
    /// Who stored it; a folder does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_by: Option<String>,
    /// Where it lies: `store`, or a folder that the broker reads.
    #[serde(default = "store")]
    pub source: String,
    /// Whether another of this path goes before it, so that this one is not released.
    #[serde(default)]
    pub shadowed: bool,
    /// The SHA-256 of the sealed version, as its audit entry names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// From when on it is not released, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// When it was deleted, in seconds since 1970: of what it held, nothing is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<u64>,
    /// Who deleted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_by: Option<String>,
}

/// What may be said of a resource that is being stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct PutOptions {
    /// From when on it is not released, in seconds since 1970.
    pub expires: Option<u64>,
    /// Store it although a source of the broker's has something under that name, which it then hides.
    pub before_sources: bool,
}

/// Where all resources lay before there were sources.
fn store() -> String {
    "store".to_owned()
}

/// A reference value and what the broker knows of it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ListedReferenceValue {
    /// Its name.
    pub name: String,
    /// A list of accepted values, or one value.
    pub value: Value,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
    /// What else the broker says of it, such as where it comes from.
    #[serde(flatten)]
    pub more: serde_json::Map<String, Value>,
}

/// A name is a path of the URL, where some parts would mean another one.
fn reference_value_path(at: &str, name: &str) -> Result<String, ClientError> {
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(ClientError::Rejected {
            what: format!("the reference value {}", one_line(name, 200)),
            status: 400,
            detail: "a name has no empty part and none that is . or ..".to_owned(),
        });
    }
    Ok(format!("{at}/{}", name.replace('%', "%25")))
}

fn resource_path(path: &ResourcePath) -> String {
    format!("/kbs/v0/resource/{path}")
}

/// An admin's private key with the name that the broker knows it by.
pub struct AdminKey {
    name: String,
    role: String,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl AdminKey {
    /// Reads the key file that `strongroom broker init` wrote, or any PKCS#8 PEM of an Ed25519 or P-256 key.
    ///
    /// # Errors
    /// [`ClientError::BadAdminKey`] saying what the file holds instead.
    pub fn from_pem(name: impl Into<String>, pem: &str) -> Result<Self, ClientError> {
        let bad = |reason: &str| ClientError::BadAdminKey {
            reason: reason.to_owned(),
        };
        if pem.contains("BEGIN PUBLIC KEY") {
            return Err(bad(
                "this is the public half, which belongs into the broker's configuration",
            ));
        }
        if pem.contains("BEGIN EC PRIVATE KEY") {
            return Err(bad(
                "it is in the SEC1 form; convert it with `openssl pkcs8 -topk8 -nocrypt`",
            ));
        }
        if pem.contains("BEGIN ENCRYPTED PRIVATE KEY") {
            return Err(bad(
                "it is encrypted with a pass phrase; decrypt it with `openssl pkcs8` first",
            ));
        }
        let (algorithm, key) = EncodingKey::from_ed_pem(pem.as_bytes())
            .map(|key| (Algorithm::EdDSA, key))
            .or_else(|_| EncodingKey::from_ec_pem(pem.as_bytes()).map(|key| (Algorithm::ES256, key)))
            .map_err(|_| bad("it is not an Ed25519 or P-256 private key in PKCS#8 PEM (\"BEGIN PRIVATE KEY\")"))?;
        let key = Self {
            name: name.into(),
            role: "admin".to_owned(),
            algorithm,
            key,
        };
        // An elliptic curve key on another curve shows only when it signs.
        key.token(0)
            .map_err(|_| bad("it is not on the curve P-256, and not Ed25519"))?;
        Ok(key)
    }

    /// Asks for another role than `admin`.
    #[must_use]
    pub fn with_role(mut self, role: impl Into<String>) -> Self {
        self.role = role.into();
        self
    }

    /// The name that the broker knows this key by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Mints a token for as many requests as fit into its life, for clients that send the same one each time. A broker takes
    /// it only where `admin_tokens.reusable_minutes` of its configuration says so.
    ///
    /// # Errors
    /// [`ClientError::Crypto`].
    pub fn session_token(&self, seconds: u64) -> Result<Zeroizing<String>, ClientError> {
        self.sign(Clock::system().now(), seconds, Some(SESSION.to_owned()))
    }

    /// Mints the token of one request.
    fn token(&self, now: u64) -> Result<Zeroizing<String>, ClientError> {
        self.sign(now, LIFETIME_SECONDS, None)
    }

    fn sign(
        &self,
        now: u64,
        lifetime: u64,
        usage: Option<String>,
    ) -> Result<Zeroizing<String>, ClientError> {
        let failed = |_| ClientError::Crypto {
            doing: "signing an admin token",
        };
        let mut id = [0u8; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| ClientError::Crypto {
            doing: "drawing a token id",
        })?;
        let claims = AdminClaims {
            sub: self.name.clone(),
            role: self.role.clone(),
            aud: AUDIENCE.to_owned(),
            iat: now,
            exp: now.saturating_add(lifetime),
            jti: hex::encode(id),
            usage,
        };
        jsonwebtoken::encode(&Header::new(self.algorithm), &claims, &self.key)
            .map(Zeroizing::new)
            .map_err(failed)
    }
}

const LIFETIME_SECONDS: u64 = 120;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    fn claims_of(algorithm: &'static rcgen::SignatureAlgorithm) -> (Algorithm, AdminClaims) {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let key = AdminKey::from_pem("ann", &pair.serialize_pem()).unwrap();
        let public = pair.public_key_pem();
        let decoding = match key.algorithm {
            Algorithm::EdDSA => DecodingKey::from_ed_pem(public.as_bytes()).unwrap(),
            _ => DecodingKey::from_ec_pem(public.as_bytes()).unwrap(),
        };
        let mut validation = Validation::new(key.algorithm);
        validation.set_audience(&[AUDIENCE]);
        validation.validate_exp = false;
        let token = key.token(1_000).unwrap();
        let data =
            jsonwebtoken::decode::<AdminClaims>(token.as_str(), &decoding, &validation).unwrap();
        (key.algorithm, data.claims)
    }

    #[test]
    fn an_admin_is_sent_to_the_brokers_owner() {
        for (path, query, command) in [
            ("/strongroom/v1/explain/0011", None, "strongroom audit"),
            ("/kbs/v0/resource/a/b/c", None, "strongroom resource list"),
            (
                "/strongroom/v1/resource/a/b/c",
                None,
                "strongroom resource list",
            ),
            (
                "/strongroom/v1/rollback/resource/a/b/c",
                Some("version=9"),
                "strongroom resource history",
            ),
            ("/strongroom/v1/policy/x", None, "strongroom policy list"),
            (
                "/strongroom/v1/policy/x",
                Some("version=9"),
                "strongroom policy history",
            ),
            (
                "/strongroom/v1/rollback/policy/resource-policy",
                Some("version=9"),
                "strongroom policy history",
            ),
            (
                "/kbs/v0/reference-value/x",
                None,
                "strongroom reference-value list",
            ),
            ("/strongroom/v1/admin/ann", None, "strongroom admin list"),
        ] {
            let error = ClientError::NoSuch {
                what: "it".to_owned(),
                detail: "there is no such thing".to_owned(),
                next: where_to_look(path, query),
            };
            let said = error.to_string();
            assert!(said.contains(&format!("`{command}`")), "{path}: {said}");
            assert!(
                !said.contains("register") && !said.contains("owner"),
                "{said}"
            );
        }
    }

    #[test]
    fn both_kinds_of_key_sign_what_their_public_half_verifies() {
        for (kind, algorithm) in [
            (&PKCS_ED25519, Algorithm::EdDSA),
            (&PKCS_ECDSA_P256_SHA256, Algorithm::ES256),
        ] {
            let (used, claims) = claims_of(kind);
            assert_eq!(used, algorithm);
            assert_eq!(
                (
                    claims.sub.as_str(),
                    claims.role.as_str(),
                    claims.iat,
                    claims.exp
                ),
                ("ann", "admin", 1_000, 1_120)
            );
        }
    }

    #[test]
    fn no_two_tokens_share_an_id() {
        assert_ne!(
            claims_of(&PKCS_ED25519).1.jti,
            claims_of(&PKCS_ED25519).1.jti
        );
    }

    fn refused(pem: &str) -> String {
        AdminKey::from_pem("ann", pem).err().unwrap().to_string()
    }

    #[test]
    fn public_half_is_named_as_such() {
        let public = KeyPair::generate_for(&PKCS_ED25519)
            .unwrap()
            .public_key_pem();
        assert!(refused(&public).contains("public half"));
    }

    #[tokio::test]
    async fn event_that_is_no_event_is_asked_of_nobody() {
        let pem = KeyPair::generate_for(&PKCS_ED25519)
            .unwrap()
            .serialize_pem();
        let key = AdminKey::from_pem("ann", &pem).unwrap();
        let client = AdminClient::new("http://127.0.0.1:1", None, key).unwrap();
        for event in ["", "a&limit=1", "a b", "../a", "%61"] {
            assert_eq!(client.audit_event(event).await.unwrap(), None, "{event}");
        }
    }

    #[test]
    fn key_on_another_curve_is_refused_at_once() {
        let pem = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)
            .unwrap()
            .serialize_pem();
        assert!(refused(&pem).contains("P-256"));
    }

    #[test]
    fn sec1_form_names_the_command_that_converts_it() {
        assert!(
            refused("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----")
                .contains("openssl pkcs8")
        );
    }

    #[test]
    fn arbitrary_text_is_refused_without_being_repeated() {
        assert!(!refused("hunter2").contains("hunter2"));
    }
}
