//! The client of a running guest's REST API on loopback (guest-components' api-server-rest).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use strongroom_wire::resource::{ResourcePath, ResourceUri};
use zeroize::Zeroizing;

use crate::error::{ClientError, one_line};
use crate::http::{Answer, Endpoint, EndpointOptions, Outgoing, Released, is_loopback, parse_base};

/// Longer than a guest may take to reach its broker, so that its own words arrive.
const TIMEOUT: Duration = Duration::from_secs(90);

/// A guest that runs beside this process.
#[derive(Clone)]
pub struct GuestApi {
    endpoint: Endpoint,
    token: Option<Arc<Zeroizing<String>>>,
}

impl GuestApi {
    /// Where guests listen unless told otherwise.
    pub const DEFAULT_URL: &'static str = "http://127.0.0.1:8006";

    /// Prepares a client of the guest at `http://127.0.0.1:port` or `unix:/path`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`], also for an address beyond this machine: what answers there proved nothing to anybody
    /// here, and its answers are taken for secrets.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let socket = url.strip_prefix("unix:").map(PathBuf::from);
        if socket.is_none() && !is_loopback(&parse_base(url)?) {
            return Err(ClientError::BadUrl {
                url: one_line(url, 200),
                reason: "a guest is asked on its own machine only: http://127.0.0.1:8006, http://localhost:8006 or \
                         unix:/path"
                    .to_owned(),
            });
        }
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
            token: None,
        })
    }

    /// Shows a guest that answers known containers alone the token of this one.
    #[must_use]
    pub fn token(mut self, token: Zeroizing<String>) -> Self {
        self.token = Some(Arc::new(token));
        self
    }

    /// The bytes of a resource. The guest attests when it has to.
    ///
    /// # Errors
    /// [`ClientError::NotFound`], [`ClientError::Denied`], or [`ClientError::GuestFailed`] with the guest's words.
    pub async fn resource(&self, path: &ResourcePath) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        self.release(path).await.map(|released| released.secret)
    }

    /// As [`Self::resource`], with where the broker's record has the release, if the guest and its broker say so.
    ///
    /// # Errors
    /// As [`Self::resource`].
    pub async fn release(&self, path: &ResourcePath) -> Result<Released, ClientError> {
        self.released(&format!("/cdh/resource/{path}"), &path.to_uri())
            .await
    }

    /// The bytes of a resource of the broker that a URI names, the guest's own where it names none.
    ///
    /// # Errors
    /// As [`Self::resource`]; [`ClientError::Rejected`] when the URI is of another plugin, or its host not listed.
    pub async fn resource_at(&self, uri: &ResourceUri) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        self.release_at(uri).await.map(|released| released.secret)
    }

    /// As [`Self::resource_at`], with where that broker's record has the release, if the guest and the broker say so.
    ///
    /// # Errors
    /// As [`Self::resource_at`].
    pub async fn release_at(&self, uri: &ResourceUri) -> Result<Released, ClientError> {
        let path = uri
            .to_resource_path()
            .map_err(|error| ClientError::Rejected {
                what: uri.to_string(),
                status: 400,
                detail: error.to_string(),
            })?;
        match uri.host() {
            "" => self.release(&path).await,
            // A path of its own: guests that know no hosts do not have it, and another broker must not answer.
            host => {
                let path = format!("/cdh/resource-of/{host}/{path}");
                self.released(&path, &uri.to_string()).await
            }
        }
    }

    /// The token that the guest's broker gave it, which is attested when there is none. The guest's private key, which
    /// comes along, is wiped unread.
    ///
    /// # Errors
    /// As [`Self::resource`], or [`ClientError::Protocol`] when something else answers.
    pub async fn attestation_token(&self) -> Result<String, ClientError> {
        #[derive(Deserialize)]
        struct TokenAnswer {
            token: String,
        }
        let answer = self.get("/aa/token", Some("token_type=kbs")).await?;
        let answer = self.checked(answer, "the guest's token")?;
        let TokenAnswer { token } = answer.json("a token")?;
        Ok(token)
    }

    /// The configuration that the guest was launched with, if there is one and the guest tells it.
    ///
    /// # Errors
    /// As [`Self::resource`], or [`ClientError::Protocol`] when it is no text.
    pub async fn initdata(&self) -> Result<Option<String>, ClientError> {
        let answer = self.get("/aa/initdata", None).await?;
        let answer = match self.checked(answer, "the guest's init-data") {
            Err(ClientError::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        let text = std::str::from_utf8(&answer.body);
        let text = text.map_err(|_| answer.protocol("its init-data is no text".to_owned()))?;
        Ok(Some(text.to_owned()))
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

    async fn released(&self, path: &str, what: &str) -> Result<Released, ClientError> {
        let answer = self.get(path, None).await?;
        let answer = self.checked(answer, what)?;
        Ok(Released {
            secret: answer.body,
            release: answer.release,
        })
    }

    async fn get(&self, path: &str, query: Option<&str>) -> Result<Answer, ClientError> {
        self.endpoint
            .send(Outgoing {
                query,
                bearer: self.token.as_deref().map(|token| token.as_str()),
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
            404 => unwrapped(detail, |detail| ClientError::NotFound {
                what: what.clone(),
                detail,
            }),
            403 => unwrapped(detail, |detail| ClientError::Denied {
                what: what.clone(),
                detail,
            }),
            500.. if !detail.is_empty() => ClientError::GuestFailed {
                peer: self.endpoint.peer().to_owned(),
                status,
                detail,
            },
            500.. => ClientError::Unavailable {
                peer: self.endpoint.peer().to_owned(),
                status,
                detail: "it gives no reason".to_owned(),
            },
            _ => ClientError::Rejected {
                what,
                status,
                detail,
            },
        })
    }
}

/// Takes the guest's words for the error that they are, without what the same error's text here would say again.
fn unwrapped(words: String, error: impl Fn(String) -> ClientError) -> ClientError {
    let around = error("\0".to_owned()).to_string();
    let inner = around.split_once('\0').and_then(|(before, after)| {
        let words = words.strip_prefix(before)?;
        Some(words.strip_suffix(after).unwrap_or(words).to_owned())
    });
    error(inner.unwrap_or(words))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn guest_beyond_this_machine_is_refused() {
        for bad in [
            "http://10.0.0.1:8006",
            "https://guest.example",
            "http://localhost.evil.example:8006",
            "http://127.0.0.1.evil.example",
        ] {
            assert!(
                matches!(GuestApi::new(bad), Err(ClientError::BadUrl { .. })),
                "{bad}"
            );
        }
        for good in [
            "http://127.0.0.1:8006",
            "http://localhost:1",
            "http://[::1]:1",
            "unix:/run/guest",
        ] {
            assert!(GuestApi::new(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn words_of_the_guest_are_not_said_twice() {
        let missing = |detail: String| ClientError::NotFound {
            what: "kbs:///a/b/c".to_owned(),
            detail,
        };
        let said = missing("there is no such resource".to_owned());
        assert_eq!(unwrapped(said.to_string(), missing), said);
        let other = unwrapped("no such path".to_owned(), missing);
        assert_eq!(other, missing("no such path".to_owned()));
    }
}
