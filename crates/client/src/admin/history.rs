//! Versions: of resources and of reference values; the storage key, which all of them rest on; and the record's files.

use reqwest::Method;
use serde_json::Value;
use strongroom_wire::resource::ResourcePath;

use super::{AdminClient, ResourceSummary, reference_value_path};
use crate::error::ClientError;

impl AdminClient {
    /// The versions of a resource that are kept, oldest first; never their contents.
    ///
    /// # Errors
    /// [`ClientError::NoSuch`] besides those of [`AdminClient::put_resource`].
    pub async fn resource_versions(
        &self,
        path: &ResourcePath,
    ) -> Result<Vec<ResourceSummary>, ClientError> {
        let (at, what) = (format!("/strongroom/v1/resource/{path}"), path.to_string());
        self.read(&at, None, &what).await
    }

    /// Makes what an older version holds the newest version, and gives its number.
    ///
    /// # Errors
    /// [`ClientError::NoSuch`] besides those of [`AdminClient::put_resource`].
    pub async fn rollback_resource(
        &self,
        path: &ResourcePath,
        version: u64,
    ) -> Result<u64, ClientError> {
        let at = format!("/strongroom/v1/rollback/resource/{path}");
        let query = format!("version={version}");
        let what = format!("version {version} of {path}");
        let answer = self.call(Method::POST, &at, Some(&query), None, &what);
        let stored: Value = answer.await?.json("a version")?;
        Ok(stored["version"].as_u64().unwrap_or_default())
    }

    /// Every version of a reference value, oldest first; one without a value is its removal.
    ///
    /// # Errors
    /// [`ClientError::NoSuch`] besides those of [`AdminClient::put_resource`].
    pub async fn reference_value_history(&self, name: &str) -> Result<Vec<Value>, ClientError> {
        let path = reference_value_path("/strongroom/v1/reference-value", name)?;
        let what = format!("the reference value {name}");
        self.read(&path, None, &what).await
    }

    /// Removes a reference value. Its history stays.
    ///
    /// # Errors
    /// [`ClientError::NoSuch`] besides those of [`AdminClient::put_resource`].
    pub async fn remove_reference_value(&self, name: &str) -> Result<(), ClientError> {
        let path = reference_value_path("/strongroom/v1/reference-value", name)?;
        let what = format!("the reference value {name}");
        let removed = self.call(Method::DELETE, &path, None, None, &what);
        removed.await.map(drop)
    }

    /// Makes a fresh storage key and has every data key wrapped by it. Gives the key's id, and how many were.
    ///
    /// # Errors
    /// As [`AdminClient::put_resource`].
    pub async fn rotate_storage_key(&self) -> Result<(String, u64), ClientError> {
        let (path, what) = (
            "/strongroom/v1/storage-key/rotate",
            "rotating the storage key",
        );
        let answer = self.call(Method::POST, path, None, None, what).await?;
        let rotated: Value = answer.json("a rotation")?;
        let key = rotated["key"].as_str().unwrap_or_default().to_owned();
        Ok((key, rotated["rewrapped"].as_u64().unwrap_or_default()))
    }

    /// Removes the entries of the audit log that are older than the broker's configuration keeps, and than `before` (in
    /// seconds since 1970) if it is named. Gives how many went, and the number of the first that is there.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] where the configuration keeps them, besides those of [`AdminClient::put_resource`].
    pub async fn prune_audit(&self, before: Option<u64>) -> Result<(u64, u64), ClientError> {
        let (path, what) = ("/strongroom/v1/audit/prune", "pruning the audit log");
        let query = before.map(|before| format!("before={before}"));
        let answer = self.call(Method::POST, path, query.as_deref(), None, what);
        let pruned: Value = answer.await?.json("a pruning")?;
        let number = |name: &str| pruned[name].as_u64().unwrap_or_default();
        Ok((number("entries"), number("first")))
    }

    /// A file of the audit log (C2SP tlog-tiles): `checkpoint` or `tile/...`; nothing when it is not there.
    ///
    /// # Errors
    /// As [`AdminClient::put_resource`].
    pub async fn log_file(&self, path: &str) -> Result<Option<Vec<u8>>, ClientError> {
        let at = format!("/strongroom/v1/log/{path}");
        let answer = self.call(Method::GET, &at, None, None, "reading the log");
        match answer.await {
            Ok(answer) => Ok(Some(answer.body.to_vec())),
            Err(ClientError::NoSuch { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
