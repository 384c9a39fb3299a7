//! What an admin of the broker can know before a guest has started: resources, policies and reference values.

use std::collections::BTreeMap;

use anyhow::Context as _;
use strongroom_client::admin::{
    AdminClient, AdminKey, ListedReferenceValue, Policy, ResourceSummary,
};
use strongroom_wire::initdata::Initdata;
use strongroom_wire::resource::{ResourcePath, ResourceUri};

use super::{Args, OWNER, Walk};
use crate::commands::initdata::unix_now;
use crate::files;

/// What the broker knows.
struct Known {
    resources: Vec<ResourceSummary>,
    policies: Vec<Policy>,
    values: Vec<ListedReferenceValue>,
}

impl Walk {
    pub(super) async fn owner(&mut self, args: &Args, document: Option<&Initdata>, reached: bool) {
        self.skip("attestation", OWNER);
        let why_not = match (&args.admin_key, reached) {
            (None, _) => Some("only an admin can know: --admin-key PEM"),
            (_, false) => Some("the broker was not reached"),
            _ => None,
        };
        if let Some(why_not) = why_not {
            for name in [RESOURCE, POLICY, VALUES] {
                self.skip(name, why_not);
            }
            return;
        }
        match ask(args, document).await {
            Ok(known) => {
                if args.resources.is_empty() {
                    self.skip(
                        RESOURCE,
                        "none is named: strongroom doctor --owner kbs:///repository/type/tag",
                    );
                }
                for uri in &args.resources {
                    self.resource(uri, &known.resources, unix_now());
                }
                self.release_policy(document, &known.policies);
                self.reference_values(&known.values, unix_now());
            }
            Err(error) => {
                self.fail(
                    RESOURCE,
                    format!("{error:#}"),
                    "the broker does not take this key for an admin's who may read what is listed",
                    "name the key and the name that it has there: --admin-key PEM --admin NAME; strongroom admin list",
                );
                self.skip(POLICY, "the broker does not say");
                self.skip(VALUES, "the broker does not say");
            }
        }
    }

    fn resource(&mut self, uri: &ResourceUri, listed: &[ResourceSummary], now: u64) {
        if !uri.host().is_empty() {
            return self.skip(
                RESOURCE,
                "another broker has it: name that one with --broker",
            );
        }
        let path: Result<ResourcePath, _> = uri.to_resource_path();
        let found = path.as_ref().ok().and_then(|path| {
            let mut named = listed.iter().filter(|one| one.path == *path);
            named.find(|one| !one.shadowed)
        });
        let put = format!(
            "strongroom resource put {} FILE",
            uri.to_string().trim_start_matches("kbs:///")
        );
        match found {
            None => self.fail(
                RESOURCE,
                format!("{uri} is not at the broker"),
                "nobody stored it, or under another name",
                &put,
            ),
            Some(one) if one.deleted_at.is_some() => {
                self.fail(
                    RESOURCE,
                    format!("{uri} was deleted"),
                    "somebody deleted it: strongroom resource history says who",
                    &put,
                );
            }
            Some(one) if one.expires.is_some_and(|end| end <= now) => {
                self.fail(
                    RESOURCE,
                    format!("{uri} has ended, and is not released any more"),
                    "it was stored with an end",
                    &put,
                );
            }
            Some(one) => self.pass(
                RESOURCE,
                format!("{uri}: {} bytes, in {}", one.size, one.source),
            ),
        }
    }

    /// Policies are programs, so what is looked for is the digest itself, as `policy allow --initdata` writes it.
    fn release_policy(&mut self, document: Option<&Initdata>, policies: &[Policy]) {
        let Some(document) = document else {
            return self.skip(
                POLICY,
                "there is no init-data to look for (--initdata FILE)",
            );
        };
        let digest = hex::encode(document.digest());
        let in_force = policies.iter().filter_map(|policy| {
            let text = policy.text.as_deref()?;
            Some((policy.summary.id.as_str(), text))
        });
        let (mut naming, mut others) = (Vec::new(), Vec::new());
        for (id, text) in in_force {
            match text.to_ascii_lowercase().contains(&digest) {
                true => naming.push(id),
                false if text.contains("init_data") => others.push(id),
                false => {}
            }
        }
        match (naming.is_empty(), others.is_empty()) {
            (false, _) => self.pass(POLICY, format!("{} names this init-data", naming.join(", "))),
            (true, true) => self.skip(POLICY, "no policy that was set asks for an init-data, so any one passes, and none"),
            (true, false) => self.fail(
                POLICY,
                format!("{} ask for an init-data, and none names this one ({digest})", others.join(", ")),
                "the document was changed after it was allowed: one byte is enough",
                "strongroom policy allow 'REPOSITORY/*/*' --initdata FILE, with the document that the machine is launched with",
            ),
        }
    }

    fn reference_values(&mut self, values: &[ListedReferenceValue], now: u64) {
        let ended: BTreeMap<&str, u64> = values
            .iter()
            .filter(|value| value.expires <= now)
            .map(|value| (value.name.as_str(), value.expires))
            .collect();
        match (values.is_empty(), ended.is_empty()) {
            (true, _) => self.skip(
                VALUES,
                "none is registered: what is measured is compared with nothing",
            ),
            (false, true) => self.pass(
                VALUES,
                format!("{} registered, none has ended", values.len()),
            ),
            (false, false) => {
                let names: Vec<&str> = ended.into_keys().collect();
                self.fail(
                    VALUES,
                    format!("{} have ended", names.join(", ")),
                    "a value that has ended counts as none, so evidence is not affirmed any more",
                    &format!(
                        "strongroom reference-value set {}=VALUE",
                        names.first().unwrap_or(&"NAME")
                    ),
                );
            }
        }
    }
}

async fn ask(args: &Args, document: Option<&Initdata>) -> anyhow::Result<Known> {
    let path = args.admin_key.as_deref().context("no key")?;
    let pem = files::read_limited(path, MAX_PEM)?;
    let key = AdminKey::from_pem(&args.admin, std::str::from_utf8(&pem)?)?;
    let (address, _) = args.attest.unverified_broker(document)?;
    let client = AdminClient::new(&address.url, address.root_certificate_pem, key)?;
    let mut policies = Vec::new();
    for summary in client.policies().await? {
        policies.push(client.policy(&summary.id, None).await?);
    }
    Ok(Known {
        resources: client.list_resources().await?,
        policies,
        values: client.list_reference_values().await?,
    })
}

const RESOURCE: &str = "resource";
const POLICY: &str = "release policy";
const VALUES: &str = "reference values";
const MAX_PEM: u64 = 256 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Status, Step};
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn one(walk: impl FnOnce(&mut Walk)) -> Step {
        let mut walked = Walk::default();
        walk(&mut walked);
        walked.steps.remove(0)
    }

    fn resource(more: Value) -> Step {
        let mut listed = json!({
            "path": "a/b/c", "version": 1, "size": 16, "stored_at": 1, "stored_by": "ann",
        });
        let members = listed.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        let listed = [serde_json::from_value(listed).unwrap()];
        one(|walk| walk.resource(&"kbs:///a/b/c".parse().unwrap(), &listed, NOW))
    }

    #[test]
    fn resource_that_is_not_released_any_more_passes() {
        assert_eq!(resource(json!({})).status, Status::Pass);
        assert_eq!(resource(json!({"expires": NOW + 1})).status, Status::Pass);
        for gone in [
            json!({"expires": NOW}),
            json!({"deleted_at": 5}),
            json!({"path": "a/b/d"}),
        ] {
            let step = resource(gone);
            assert_eq!(step.status, Status::Fail, "{}", step.detail);
            assert!(step.mend.unwrap().contains("resource put a/b/c"));
        }
    }

    #[test]
    fn reference_value_that_has_ended_passes() {
        let values = |ends: &[u64]| -> Vec<ListedReferenceValue> {
            let value = |(n, end): (usize, &u64)| json!({"name": format!("v{n}"), "value": ["x"], "expires": end});
            let values = ends.iter().enumerate().map(value);
            values
                .map(|value| serde_json::from_value(value).unwrap())
                .collect()
        };
        let walk = |ends: &[u64]| one(|walk| walk.reference_values(&values(ends), NOW));
        assert_eq!(walk(&[]).status, Status::Skipped);
        assert_eq!(walk(&[NOW + 1]).status, Status::Pass);
        let ended = walk(&[NOW + 1, NOW]);
        assert_eq!(ended.status, Status::Fail);
        assert!(ended.mend.unwrap().contains("reference-value set v1=VALUE"));
    }
}
