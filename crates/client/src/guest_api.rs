//! The client of a running guest's REST API on loopback (guest-components' api-server-rest).

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use strongroom_wire::resource::ResourcePath;
use zeroize::Zeroizing;

use crate::error::{ClientError, one_line};
use crate::http::{Answer, Endpoint, EndpointOptions, Outgoing};

/// Longer than a guest may take to reach its broker, so that its own words arrive.
const TIMEOUT: Duration = Duration::from_secs(90);

/// A guest that runs beside this process.
#[derive(Clone)]
pub struct GuestApi {
    endpoint: Endpoint,
}

impl GuestApi {
    /// Where guests listen unless told otherwise.
    pub const DEFAULT_URL: &'static str = "http://127.0.0.1:8006";

    /// Prepares a client of the guest at `http://host:port` or `unix:/path`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`].
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let socket = url.strip_prefix("unix:").map(PathBuf::from);
        Ok(Self {
            endpoint: Endpoint::new(
                // Over a socket the name is only what the Host header says.
                if socket.is_some() {
                    "http://localhost"
                } else {
                    url
                },
                EndpointOptions {
                    timeout: TIMEOUT,
                    socket,
                    ..EndpointOptions::default()
                },
            )?,
        })
    }

    /// The bytes of a resource. The guest attests when it has to.
    ///
    /// # Errors
    /// [`ClientError::NotFound`], [`ClientError::Denied`], or [`ClientError::Unavailable`] with the guest's words.
    pub async fn resource(&self, path: &ResourcePath) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let answer = self.get(&format!("/cdh/resource/{path}"), None).await?;
        self.checked(answer, &path.to_string())
            .map(|answer| answer.body)
    }

    /// What the guest says of itself.
    ///
    /// # Errors
    /// As [`Self::resource`], or [`ClientError::Protocol`] when something else answers.
    pub async fn info(&self) -> Result<GuestInfo, ClientError> {
        let answer = self.get("/info", None).await?;
        self.checked(answer, "the guest's information")?
            .json("a guest's information")
    }

    /// Evidence of the guest's platform over `runtime_data`, given as base64url without padding.
    ///
    /// # Errors
    /// As [`Self::resource`].
    pub async fn evidence(&self, runtime_data_base64url: &str) -> Result<Vec<u8>, ClientError> {
        let query = format!("runtime_data={runtime_data_base64url}&encoding=base64");
        let answer = self.get("/aa/evidence", Some(&query)).await?;
        self.checked(answer, "evidence")
            .map(|answer| answer.body.to_vec())
    }

    async fn get(&self, path: &str, query: Option<&str>) -> Result<Answer, ClientError> {
        self.endpoint
            .send(Outgoing {
                query,
                ..Outgoing::new(Method::GET, path)
            })
            .await
    }

    /// A guest's error bodies are plain text.
    fn checked(&self, answer: Answer, what: &str) -> Result<Answer, ClientError> {
        let status = answer.status;
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let (what, detail) = (
            what.to_owned(),
            one_line(&String::from_utf8_lossy(&answer.body), 1024),
        );
        Err(match status {
            404 => ClientError::NotFound { what, detail },
            403 => ClientError::Denied { what, detail },
            500.. => ClientError::Unavailable {
                peer: self.endpoint.peer().to_owned(),
                status,
                detail,
            },
            _ => ClientError::Rejected {
                what,
                status,
                detail,
            },
        })
    }
}

/// What a guest says of itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct GuestInfo {
    /// Name and version of the program.
    pub version: String,
    /// The platform it attests with.
    pub tee: Option<String>,
    /// Which parts of the API it serves.
    pub feature: String,
}
