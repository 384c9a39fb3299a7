//! Credentials of registries (containers-auth.json(5)): Docker's `{"auths":{"host/path":{"auth":"base64(user:password)"}}}`.

use std::fmt;

use serde::Deserialize;
use serde_json::Map;
use zeroize::Zeroizing;

use super::reference::{Repository, normal_domain};
use super::{FormatError, bounded_json};
use crate::b64;

/// Who to be at which registry.
pub struct Credentials {
    entries: Vec<(String, Login)>,
}

/// A user and a password.
#[derive(Clone)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} entries)", self.entries.len())
    }
}

impl Credentials {
    /// Nobody anywhere.
    pub fn none() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// Parses the file. An entry without a login, as credential helpers leave them, is nobody.
    ///
    /// # Errors
    /// [`FormatError`] when it is another file, or an entry is not `user:password` in base64.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let file: File = bounded_json(WHAT, bytes, MAX_FILE)?;
        let mut entries = Vec::new();
        for (key, value) in file.auths {
            let entry: Entry = serde_json::from_value(value).map_err(|_| {
                FormatError::invalid(WHAT, "an entry of auths is not an object of strings")
            })?;
            let login = match (
                entry.auth.map(Zeroizing::new),
                entry.username,
                entry.password.map(Zeroizing::new),
            ) {
                (Some(auth), ..) if !auth.is_empty() => Login::decode(&auth)?,
                (_, Some(user), Some(password)) => Login { user, password },
                _ => continue,
            };
            entries.push((normalize(&key), login));
        }
        Ok(Self { entries })
    }

    /// The login for a repository: the entry with the longest path that covers it.
    pub fn for_repository(&self, repository: &Repository) -> Option<&Login> {
        let domain = match repository.domain() {
            "docker.io" => DOCKER_HUB,
            other => other,
        };
        let mut name = format!("{domain}/{}", repository.path());
        loop {
            if let Some((_, login)) = self.entries.iter().find(|(key, _)| *key == name) {
                return Some(login);
            }
            name.truncate(name.rfind('/')?);
        }
    }
}

impl Login {
    fn decode(auth: &str) -> Result<Self, FormatError> {
        let bad = || FormatError::invalid(WHAT, "an auth is not user:password in base64");
        let bytes = Zeroizing::new(b64::std_decode(auth.trim()).map_err(|_| bad())?);
        let text = std::str::from_utf8(&bytes).map_err(|_| bad())?;
        let (user, password) = text.split_once(':').ok_or_else(bad)?;
        // `echo secret | base64` leaves a newline, and C a NUL.
        let password = password.trim_end_matches(['\n', '\r', '\0']);
        Ok(Self {
            user: user.to_owned(),
            password: Zeroizing::new(password.to_owned()),
        })
    }
}

/// `https://index.docker.io/v1/` and its kin are hosts with something around them.
fn normalize(key: &str) -> String {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let name = match bare {
        Some(bare) => bare.split('/').next().unwrap_or(bare),
        None => key.trim_end_matches('/'),
    };
    let host = |domain: &str| match normal_domain(domain).as_str() {
        "docker.io" => DOCKER_HUB.to_owned(),
        domain => domain.to_owned(),
    };
    match name.split_once('/') {
        None if name == "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        None => host(name),
        Some((domain, path)) => format!("{}/{path}", host(domain)),
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

const WHAT: &str = "file of registry credentials";
const DOCKER_HUB: &str = "index.docker.io";
const MAX_FILE: usize = 1024 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::reference::Reference;
    use super::*;

    fn found<'a>(credentials: &'a Credentials, image: &str) -> Option<(&'a str, &'a str)> {
        let image: Reference = image.parse().unwrap();
        credentials
            .for_repository(image.repository())
            .map(|login| (login.user.as_str(), login.password.as_str()))
    }

    #[test]
    fn upstream_vectors() {
        let Some(vectors) = crate::fixtures::json("guest/vectors/registry-auth.json") else {
            return;
        };
        let credentials = Credentials::parse(vectors.to_string().as_bytes()).unwrap();
        for (image, expected) in vectors["expected"].as_object().unwrap() {
            let expected = expected["basic"]
                .as_array()
                .map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
            assert_eq!(found(&credentials, image), expected, "{image}");
        }
        for (key, normal) in vectors["normalize_key"].as_object().unwrap() {
            assert_eq!(normalize(key), normal.as_str().unwrap());
        }
    }

    #[test]
    fn narrowest_entry_counts_and_a_namesake_does_not() {
        let auth = |text: &str| b64::std_encode(text);
        let file = serde_json::json!({ "auths": {
            "quay.io": { "auth": auth("a:1") },
            "quay.io/x": { "auth": auth("b:2:3\n") },
            "quay.io/x/y": { "username": "c", "password": "4" },
            "empty.io": {},
        }});
        let credentials = Credentials::parse(file.to_string().as_bytes()).unwrap();
        assert_eq!(found(&credentials, "quay.io/z"), Some(("a", "1")));
        assert_eq!(found(&credentials, "quay.io/x/z"), Some(("b", "2:3")));
        assert_eq!(found(&credentials, "quay.io/x/y"), Some(("c", "4")));
        assert_eq!(found(&credentials, "quay.io/xx/y"), Some(("a", "1")));
        assert_eq!(found(&credentials, "quay.io:444/x"), None);
        assert_eq!(found(&credentials, "Quay.io:443/x"), Some(("b", "2:3")));
        assert_eq!(found(&credentials, "empty.io/x"), None);
        assert!(!format!("{credentials:?}{:?}", credentials.entries[0].1).contains('1'));
    }

    #[test]
    fn entry_that_is_no_login_is_refused_and_not_repeated() {
        for auth in ["hunter2!", "aHVudGVyMg=="] {
            let file = format!(r#"{{"auths":{{"a":{{"auth":"{auth}"}}}}}}"#);
            let error = Credentials::parse(file.as_bytes()).unwrap_err().to_string();
            assert!(
                !error.contains("unter2") && error.contains("user:password"),
                "{error}"
            );
        }
    }
}
