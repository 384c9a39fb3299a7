//! Who administers with a key: listed, added, revoked.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::AdminClient;
use crate::error::ClientError;

/// An admin with a key, as the broker knows one.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AdminSummary {
    /// The name, as the record has it.
    pub name: String,
    /// What the admin may do: `admin`, `policy`, `secrets` or `auditor`.
    pub role: String,
    /// The SHA-256 of the key's `SubjectPublicKeyInfo`.
    pub key: String,
    /// `configuration` or `store`.
    pub source: String,
    /// When the admin was added, in seconds since 1970; a configuration does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_at: Option<u64>,
    /// Who added the admin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_by: Option<String>,
}

impl AdminClient {
    /// Every admin with a key, those of the broker's configuration first.
    ///
    /// # Errors
    /// As [`AdminClient::put_resource`].
    pub async fn list_admins(&self) -> Result<Vec<AdminSummary>, ClientError> {
        self.read("/strongroom/v1/admin", None, "listing admins")
            .await
    }

    /// Every version of an admin that was added here, oldest first; one without a role is a revocation.
    ///
    /// # Errors
    /// [`ClientError::NoSuch`] besides those of [`AdminClient::put_resource`].
    pub async fn admin_history(&self, name: &str) -> Result<Vec<Value>, ClientError> {
        let path = path_of(name)?;
        self.read(&path, None, &format!("the admin {name}")).await
    }

    /// Adds an admin, who may act once this returns. The key is PEM, Ed25519 or P-256.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] when the name is taken or the key is of no use, besides those of
    /// [`AdminClient::put_resource`].
    pub async fn add_admin(
        &self,
        name: &str,
        role: &str,
        public_key: &str,
    ) -> Result<(), ClientError> {
        let path = path_of(name)?;
        let body = json!({ "role": role, "public_key": public_key }).to_string();
        let body = Some(("application/json", body.into_bytes()));
        let what = format!("adding the admin {name}");
        self.call(Method::PUT, &path, None, body, &what)
            .await
            .map(drop)
    }

    /// Revokes an admin, whose tokens are refused once this returns.
    ///
    /// # Errors
    /// [`ClientError::NoSuch`], and [`ClientError::Rejected`] for the last admin and for one of the configuration,
    /// besides those of [`AdminClient::put_resource`].
    pub async fn revoke_admin(&self, name: &str) -> Result<(), ClientError> {
        let path = path_of(name)?;
        let what = format!("the admin {name}");
        self.call(Method::DELETE, &path, None, None, &what)
            .await
            .map(drop)
    }
}

/// A name is a part of the URL, and some names would mean another place.
fn path_of(name: &str) -> Result<String, ClientError> {
    let is_name = !name.is_empty()
        && !name.bytes().all(|byte| byte == b'.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte));
    match is_name {
        true => Ok(format!("/strongroom/v1/admin/{name}")),
        false => Err(ClientError::Rejected {
            what: format!("the admin {name:?}"),
            status: 400,
            detail: "an admin's name has letters, digits and . _ @ + -".to_owned(),
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn name_that_leads_elsewhere_is_sent() {
        for name in ["", ".", "..", "a/b", "a?b", "a%2fb", "a b", "ä"] {
            assert!(path_of(name).is_err(), "{name}");
        }
        let path = path_of("ann.b+c@example").unwrap();
        assert_eq!(path, "/strongroom/v1/admin/ann.b+c@example");
    }
}
