//! Policies: every one in force, its history, and what it would change.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::AdminClient;
use crate::error::ClientError;

impl AdminClient {
    /// Every policy in force, the shipped ones too.
    ///
    /// # Errors
    /// As [`AdminClient::put_resource`].
    pub async fn policies(&self) -> Result<Vec<PolicySummary>, ClientError> {
        let path = "/strongroom/v1/policy";
        self.read(path, None, "listing policies").await
    }

    /// A policy's text and history: the version in force, or another one.
    ///
    /// # Errors
    /// [`ClientError::NoSuch`] besides those of [`AdminClient::put_resource`].
    pub async fn policy(&self, id: &str, version: Option<u64>) -> Result<Policy, ClientError> {
        let query = version.map(|version| format!("version={version}"));
        let what = match version {
            Some(version) => format!("version {version} of the policy {id}"),
            None => format!("the policy {id}"),
        };
        self.read(&policy_path("policy", id), query.as_deref(), &what)
            .await
    }

    /// Sets a policy: `resource-policy`, `resource-policy/PATTERN`, `default_cpu` or `default_gpu`.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] with line and column when it does not compile, besides those of
    /// [`AdminClient::put_resource`].
    pub async fn set_policy(&self, id: &str, rego: &str) -> Result<PolicySummary, ClientError> {
        let body = Some(("text/plain", rego.as_bytes().to_vec()));
        let (path, what) = (policy_path("policy", id), "setting the policy");
        let answer = self.call(Method::PUT, &path, None, body, what).await?;
        answer.json("a policy")
    }

    /// Takes a policy out of force.
    ///
    /// # Errors
    /// [`ClientError::NoSuch`] besides those of [`AdminClient::put_resource`].
    pub async fn remove_policy(&self, id: &str) -> Result<PolicySummary, ClientError> {
        let (path, what) = (policy_path("policy", id), format!("the policy {id}"));
        let answer = self.call(Method::DELETE, &path, None, None, &what).await?;
        answer.json("a policy")
    }

    /// Puts the text of an older version in force again.
    ///
    /// # Errors
    /// [`ClientError::NoSuch`] besides those of [`AdminClient::put_resource`].
    pub async fn rollback_policy(
        &self,
        id: &str,
        version: u64,
    ) -> Result<PolicySummary, ClientError> {
        let (path, query) = (
            policy_path("rollback/policy", id),
            format!("version={version}"),
        );
        let what = format!("version {version} of the policy {id}");
        let answer = self.call(Method::POST, &path, Some(&query), None, &what);
        answer.await?.json("a policy")
    }

    /// Takes past decisions again under changed policies and reference values; nothing is changed by it.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] when a policy does not compile, besides those of [`AdminClient::put_resource`].
    pub async fn rehearse(&self, changes: &Rehearse) -> Result<Value, ClientError> {
        let body = serde_json::to_vec(changes).map_err(|error| ClientError::Rejected {
            what: "rehearsing".to_owned(),
            status: 400,
            detail: error.to_string(),
        })?;
        let body = Some(("application/json", body));
        let path = "/strongroom/v1/rehearse";
        let answer = self.call(Method::POST, path, None, body, "rehearsing");
        answer.await?.json("a rehearsal")
    }

    /// Why an event ended as it did, and what would mend it.
    ///
    /// # Errors
    /// [`ClientError::NoSuch`] besides those of [`AdminClient::put_resource`].
    pub async fn explain(&self, event: &str) -> Result<Value, ClientError> {
        let what = format!("the event {event}");
        let known = !event.is_empty() && event.bytes().all(|byte| byte.is_ascii_alphanumeric());
        // An event is hexadecimal, and nothing else may get into the path.
        let event = if known { event } else { "0" };
        let path = format!("/strongroom/v1/explain/{event}");
        self.read(&path, None, &what).await
    }
}

/// What is known of one version of a policy without its text. Version 0 is the policy that ships.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PolicySummary {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: u64,
    /// The SHA-256 of its text; nothing where the policy was removed.
    pub digest: Option<String>,
    /// When it was set, in seconds since 1970.
    pub set_at: u64,
    /// Who set it.
    pub set_by: String,
}

/// A policy with its text and every version it had, oldest first.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Policy {
    /// What is known of it.
    #[serde(flatten)]
    pub summary: PolicySummary,
    /// Its Rego; nothing where the policy was removed.
    pub text: Option<String>,
    /// Every version that was set.
    pub versions: Vec<PolicySummary>,
}

/// What to change for a rehearsal.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rehearse {
    /// Policies by id: the text to put in force, or none to take the policy out of force.
    pub policies: std::collections::BTreeMap<String, Option<String>>,
    /// Reference values by name: what to accept, or null to remove the value.
    pub reference_values: std::collections::BTreeMap<String, Value>,
    /// How many of the newest decisions to take again.
    pub limit: Option<u32>,
}

/// An id may hold slashes and a star, and nothing else that means something in a URL.
fn policy_path(of: &str, id: &str) -> String {
    let id: String = id
        .chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || "_-./*".contains(c) => c,
            _ => '~',
        })
        .collect();
    format!("/strongroom/v1/{of}/{id}")
}
