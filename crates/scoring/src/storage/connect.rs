//! From a location and what is known of its storage to something that can be asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::aws::AmazonS3Builder;
use object_store::azure::{AzureCredential, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider,
};
use reqwest::Url;
use strongroom_client::http::Roots;

use super::credentials::{Credential, Credentials, Sas, account_key};
use super::error::Cause;
use super::location::{Location, Place};
use super::patience::Patience;
use super::transport::{Transport, cause_of};

/// Everything that connections are made from.
pub(super) struct Connections {
    pub(super) credentials: Credentials,
    pub(super) roots: Roots,
    pub(super) insecure_http: bool,
    pub(super) patience: Patience,
    /// By scheme, host and port: connections that stand are used again.
    transports: Mutex<HashMap<String, Transport>>,
}

/// An object's place in a storage that can be asked.
pub(super) struct Target {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) parts: Option<Arc<dyn MultipartStore>>,
    pub(super) path: Path,
    pub(super) location: Location,
    pub(super) patience: Patience,
    /// Whether the end of a multipart upload can be made to fail where something is.
    pub(super) refuses_existing: bool,
    advice: String,
}

/// What a target is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Use {
    Read,
    /// Whether an object that is there may be replaced.
    Write {
        replace: bool,
    },
}

impl Target {
    /// Why a call failed, and what to look at.
    pub(super) fn cause(&self, error: &object_store::Error) -> Cause {
        match cause_of(error) {
            Cause::Refused {
                status: status @ (401 | 403),
                code,
                ..
            } => Cause::Denied {
                status,
                code,
                advice: self.advice.clone(),
            },
            Cause::Redirected { .. } if matches!(self.location.0, Place::S3 { .. }) => {
                Cause::Settings(
                    "the bucket is in another region: name it with --s3-region or AWS_REGION"
                        .to_owned(),
                )
            }
            cause => cause,
        }
    }
}

impl Connections {
    pub(super) fn new(
        credentials: Credentials,
        roots: Roots,
        insecure_http: bool,
        patience: Patience,
    ) -> Self {
        Self {
            credentials,
            roots,
            insecure_http,
            patience,
            transports: Mutex::default(),
        }
    }

    /// Makes a target. Nothing is sent.
    pub(super) fn target(&self, location: &Location, purpose: Use) -> Result<Target, Cause> {
        match &location.0 {
            Place::Azure {
                account,
                container,
                key,
            } => self.azure(location, account, container, key, purpose),
            Place::S3 { bucket, key } => self.s3(location, bucket, key, purpose),
            Place::Gcs { bucket, key } => self.gcs(location, bucket, key),
            Place::Http(url) => self.http(location, url, purpose),
            Place::File(_) => Err(Cause::Unsupported("this lies on this machine")),
        }
    }

    fn azure(
        &self,
        location: &Location,
        account: &str,
        container: &str,
        key: &str,
        purpose: Use,
    ) -> Result<Target, Cause> {
        let endpoint = match &self.credentials.azure_endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://{account}.blob.core.windows.net"),
        };
        let mut transport = self.transport(&endpoint, "--azure-endpoint", false)?;
        let mut builder = MicrosoftAzureBuilder::new()
            .with_account(account)
            .with_container_name(container)
            .with_endpoint(endpoint)
            .with_retry(never())
            .with_client_options(ClientOptions::new().with_allow_http(true));
        let sas = self.credentials.sas_for(&location.to_string());
        let mut refuses_existing = true;
        let advice = if let Some(sas) = sas {
            let sas = Sas::parse(sas)?;
            if purpose != Use::Read {
                may_write(&sas)?;
            }
            builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(
                AzureCredential::SASToken(sas.to_pairs()),
            )));
            format!(
                "the SAS that was sent ({}) may have ended, may not permit this (r to read, l to list, c or w to write), or may be for another container",
                sas.terms()
            )
        } else if let Some(key) = &self.credentials.azure_key {
            builder = builder.with_access_key(account_key(key));
            // The key's signature covers this header, and is made before we could add it.
            refuses_existing = false;
            "the account's key that was sent may have been renewed, or be another account's"
                .to_owned()
        } else {
            builder = builder.with_skip_signature(true);
            "nothing was sent to prove who asks: give a SAS with --azure-sas FILE|kbs:///…, or the account's key with --azure-key"
                .to_owned()
        };
        transport.only_if_new = refuses_existing && purpose == Use::Write { replace: false };
        let store = builder
            .with_http_connector(transport)
            .build()
            .map_err(|_| {
                Cause::Settings(
                    "the account's key is not one: it is the base64 text that the portal shows"
                        .to_owned(),
                )
            })?;
        self.in_parts(store, location, key, refuses_existing, advice)
    }

    fn s3(
        &self,
        location: &Location,
        bucket: &str,
        key: &str,
        purpose: Use,
    ) -> Result<Target, Cause> {
        let credentials = &self.credentials;
        let region = credentials.s3_region.as_deref().unwrap_or("us-east-1");
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if region.is_empty() || !region.chars().all(plain) {
            return Err(Cause::Settings(
                "a region of S3 has letters, digits and hyphens, such as eu-central-1".to_owned(),
            ));
        }
        let endpoint = match &credentials.s3_endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://s3.{region}.amazonaws.com"),
        };
        let mut transport = self.transport(&endpoint, "--s3-endpoint", false)?;
        transport.only_if_new = purpose == Use::Write { replace: false };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(region)
            .with_endpoint(endpoint)
            .with_disable_bulk_delete(true)
            .with_retry(never())
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_http_connector(transport);
        let advice = match (&credentials.s3_access_key_id, &credentials.s3_secret_key) {
            (Some(id), Some(secret)) => {
                builder = builder
                    .with_access_key_id(id)
                    .with_secret_access_key(secret.expose());
                if let Some(token) = &credentials.s3_session_token {
                    builder = builder.with_token(token.expose());
                }
                format!(
                    "the access key {} may not be allowed to do this, may be another storage's, or its secret key is another (this machine's clock counts, too)",
                    crate::shown(id)
                )
            }
            (None, None) => {
                builder = builder.with_skip_signature(true);
                "nothing was sent to prove who asks: give --s3-access-key-id with --s3-secret-key FILE|kbs:///…, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                    .to_owned()
            }
            _ => {
                return Err(Cause::Settings(
                    "an access key of S3 has two halves: give --s3-access-key-id and --s3-secret-key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                        .to_owned(),
                ));
            }
        };
        let store = builder
            .build()
            .map_err(|_| Cause::Settings("these settings of S3 do not go together".to_owned()))?;
        self.in_parts(store, location, key, true, advice)
    }

    fn gcs(&self, location: &Location, bucket: &str, key: &str) -> Result<Target, Cause> {
        let mut endpoint = "https://storage.googleapis.com".to_owned();
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(bucket)
            .with_retry(never())
            .with_client_options(ClientOptions::new().with_allow_http(true));
        let advice = if let Some(credential) = &self.credentials.gcs_credentials {
            let account = ServiceAccount::parse(credential)?;
            if let Some(other) = &account.gcs_base_url {
                other.trim_end_matches('/').clone_into(&mut endpoint);
            }
            builder = builder.with_service_account_key(credential.expose());
            format!(
                "the service account {} may not be allowed to do this (roles/storage.objectViewer to read, objectCreator to write), or its key was withdrawn",
                crate::shown(&account.client_email)
            )
        } else {
            // Else the library looks for credentials on this machine, and asks its metadata service.
            builder = builder.with_bearer_token("").with_skip_signature(true);
            "nothing was sent to prove who asks: give a service account's JSON with --gcs-credentials FILE|kbs:///…"
                .to_owned()
        };
        let transport = self.transport(&endpoint, "gcs_base_url of the service account", false)?;
        let store = builder
            .with_base_url(&endpoint)
            .with_http_connector(transport)
            .build()
            .map_err(|_| {
                Cause::Settings("the service account's JSON has no usable private key".to_owned())
            })?;
        // Google's multipart uploads know no conditions.
        self.in_parts(store, location, key, false, advice)
    }

    fn http(&self, location: &Location, url: &Url, purpose: Use) -> Result<Target, Cause> {
        if purpose != Use::Read {
            return Err(Cause::Unsupported(
                "https:// is read and not written: results go to az://, s3://, gs:// or a file",
            ));
        }
        let query = self.credentials.https_query.as_ref();
        let mut asked = url.clone();
        asked.set_query(query.map(|query| query.expose().trim_start_matches('?')));
        let transport = self.transport(url.as_str(), "the location", query.is_none())?;
        let store = HttpBuilder::new()
            // The address as it was written: the library's own path would be encoded again.
            .with_url(asked)
            .with_retry(never())
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_http_connector(transport)
            .build()
            .map_err(|_| Cause::Settings("the address is none".to_owned()))?;
        Ok(Target {
            objects: Arc::new(store),
            parts: None,
            path: Path::default(),
            location: location.clone(),
            patience: self.patience,
            refuses_existing: false,
            advice: match query {
                Some(_) => "what --https-query adds to the address may have ended, or be for another object",
                None => "nothing was sent to prove who asks: a signed address goes into two parts, the location and --https-query FILE|kbs:///…",
            }
            .to_owned(),
        })
    }

    /// What is asked for a key of a store that takes uploads in parts.
    fn in_parts(
        &self,
        store: impl ObjectStore + MultipartStore,
        location: &Location,
        key: &str,
        refuses_existing: bool,
        advice: String,
    ) -> Result<Target, Cause> {
        let store = Arc::new(store);
        Ok(Target {
            objects: store.clone(),
            parts: Some(store),
            path: path(key)?,
            location: location.clone(),
            patience: self.patience,
            refuses_existing,
            advice,
        })
    }

    fn transport(&self, url: &str, what: &str, redirects: bool) -> Result<Transport, Cause> {
        let url = checked_url(url, what, self.insecure_http)?;
        let name = format!("{} {redirects}", url.origin().ascii_serialization());
        let mut transports = self
            .transports
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(transport) = transports.get(&name) {
            return Ok(transport.clone());
        }
        let transport = Transport::new(&url, &self.roots, self.patience, redirects)?;
        transports.insert(name, transport.clone());
        Ok(transport)
    }
}

/// What we read of a service account's JSON ourselves.
#[derive(serde::Deserialize)]
struct ServiceAccount {
    #[serde(rename = "type")]
    kind: Option<String>,
    client_email: String,
    gcs_base_url: Option<String>,
}

impl ServiceAccount {
    fn parse(credential: &Credential) -> Result<Self, Cause> {
        let account: Option<Self> = serde_json::from_str(credential.expose()).ok();
        account
            .filter(|account| account.kind.as_deref().is_none_or(|kind| kind == "service_account"))
            .ok_or_else(|| {
                Cause::Settings(
                    "--gcs-credentials holds no service account: it is the JSON file that Google's console makes as a key of one"
                        .to_owned(),
                )
            })
    }
}

/// An address of a storage: `https://`, or `http://` on this machine, or wherever somebody insisted.
fn checked_url(text: &str, what: &str, insecure_http: bool) -> Result<Url, Cause> {
    let bad = |why: &str| Cause::Settings(format!("{what} {why}"));
    let url =
        Url::parse(text).map_err(|_| bad("is no address: it reads like https://host:port"))?;
    let plain = !url.username().is_empty() || url.password().is_some();
    if plain || url.query().is_some() || url.fragment().is_some() {
        return Err(bad(
            "carries more than scheme, host, port and path: credentials have options of their own",
        ));
    }
    match (url.scheme(), url.host_str()) {
        ("https", Some(_)) => Ok(url),
        ("http", Some(host)) if insecure_http || is_loopback(host) => Ok(url),
        ("http", Some(_)) => Err(bad(
            "is http:// beyond this machine: nothing is encrypted on the way, credentials included; write https://, or insist with --insecure-storage-http",
        )),
        _ => Err(bad("is no https:// address with a host")),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// A signature that may only read is told before hours of work.
fn may_write(sas: &Sas) -> Result<(), Cause> {
    match sas.permissions() {
        Some(permissions) if !permissions.contains(['c', 'w']) => Err(Cause::Denied {
            status: 403,
            code: None,
            advice: format!(
                "the SAS for this location ({}) permits no writing, which wants c or w in sp=; give another with --azure-sas az://ACCOUNT/CONTAINER=FILE",
                sas.terms()
            ),
        }),
        _ => Ok(()),
    }
}

fn path(key: &str) -> Result<Path, Cause> {
    Path::parse(key.trim_end_matches('/')).map_err(|_| Cause::NotUnderstood("a name in it is none"))
}

/// The library tries nothing again: what is worth another attempt is decided here, by the cause.
fn never() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 0,
        retry_timeout: std::time::Duration::from_secs(1),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn connections(credentials: Credentials) -> Connections {
        Connections::new(credentials, Roots::Platform, false, Patience::default())
    }

    fn target(connections: &Connections, location: &str, purpose: Use) -> Result<Target, Cause> {
        connections.target(&Location::parse(location, None).unwrap(), purpose)
    }

    fn credential(text: &str) -> Credential {
        Credential::from_bytes("it", text.as_bytes()).unwrap()
    }

    #[test]
    fn plain_http_beyond_this_machine_is_spoken() {
        for address in [
            "http://10.0.0.1:9000",
            "http://127.0.0.1.evil.example",
            "http://localhost.evil",
        ] {
            let error = checked_url(address, "it", false).unwrap_err().to_string();
            assert!(error.contains("--insecure-storage-http"), "{error}");
            assert!(checked_url(address, "it", true).is_ok());
        }
        for address in [
            "http://127.0.0.1:1",
            "http://[::1]:1",
            "http://localhost",
            "https://10.0.0.1",
        ] {
            assert!(checked_url(address, "it", false).is_ok(), "{address}");
        }
        for address in [
            "ftp://h",
            "https://u:HUNTER2@h",
            "https://h?HUNTER2",
            "HUNTER2",
        ] {
            let error = checked_url(address, "it", true).unwrap_err().to_string();
            assert!(!error.contains("HUNTER2"), "{error}");
        }
        let found = target(
            &connections(Credentials::default()),
            "http://10.0.0.1/x",
            Use::Read,
        );
        assert!(matches!(found.err(), Some(Cause::Settings(_))));
    }

    #[test]
    fn signature_that_only_reads_is_noticed_after_the_work() {
        let sas = |text: &str| {
            connections(Credentials {
                azure_sas: vec![(None, credential(text))],
                ..Credentials::default()
            })
        };
        let write = Use::Write { replace: true };
        let error = target(&sas("sp=rl&sig=HUNTER2"), "az://bank/c/k", write)
            .err()
            .unwrap();
        assert!(error.to_string().contains("sp=rl"), "{error}");
        assert!(!error.to_string().contains("HUNTER2"), "{error}");
        assert!(target(&sas("sp=rl&sig=x"), "az://bank/c/k", Use::Read).is_ok());
        assert!(target(&sas("sp=rcw&sig=x"), "az://bank/c/k", write).is_ok());
        assert!(target(&sas("si=stored&sig=x"), "az://bank/c/k", write).is_ok());
    }

    #[test]
    fn half_a_credential_or_none_that_works_is_sent() {
        let half = Credentials {
            s3_access_key_id: Some("id".to_owned()),
            ..Credentials::default()
        };
        let bad_key = Credentials {
            azure_key: Some(credential("HUNTER2 is no base64!")),
            ..Credentials::default()
        };
        let user = Credentials {
            gcs_credentials: Some(credential(
                r#"{"type": "authorized_user", "client_email": "x"}"#,
            )),
            ..Credentials::default()
        };
        let no_key = Credentials {
            gcs_credentials: Some(credential(
                r#"{"type": "service_account", "client_email": "x", "private_key_id": "1", "private_key": "HUNTER2"}"#,
            )),
            ..Credentials::default()
        };
        for (credentials, location) in [
            (half, "s3://b/k"),
            (bad_key, "az://bank/c/k"),
            (user, "gs://b/k"),
            (no_key, "gs://b/k"),
        ] {
            let error = target(&connections(credentials), location, Use::Read)
                .err()
                .unwrap();
            assert!(matches!(error, Cause::Settings(_)), "{error}");
            assert!(!error.to_string().contains("HUNTER2"), "{error}");
        }
    }

    #[test]
    fn web_address_is_written_to() {
        let write = Use::Write { replace: true };
        let found = target(
            &connections(Credentials::default()),
            "https://host/x",
            write,
        );
        assert!(matches!(found.err(), Some(Cause::Unsupported(_))));
    }
}
