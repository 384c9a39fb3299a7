//! What a broker's record says of the releases that a receipt names.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use strongroom_scoring::receipt::ReleasedKey;
use strongroom_wire::ear::EarClaims;
use strongroom_wire::jwk::TeePublicKey;
use strongroom_wire::resource::ResourceUri;

use super::token::of_the_cpu;
use crate::commands::audit::{Source, named_verifier, verify_record};

/// The entries of a copied record that have one of the given events, once the whole of it is verified.
pub(super) fn entries(
    folder: &Path,
    key: &str,
    releases: &[ReleasedKey],
) -> anyhow::Result<BTreeMap<String, Value>> {
    let wanted: Vec<&String> = releases.iter().filter_map(|it| it.event.as_ref()).collect();
    let mut found = BTreeMap::new();
    let source = Source::Folder(folder.to_owned());
    verify_record(&source, &named_verifier(key)?, &[], |_, bytes| {
        let Ok(entry) = serde_json::from_slice::<Value>(bytes) else {
            return;
        };
        let event = entry["event"].as_str().map(str::to_owned);
        if let Some(event) = event.filter(|event| wanted.contains(&event)) {
            found.insert(event, entry);
        }
    })?;
    Ok(found)
}

/// Whether a release must be in this record: all but those of other brokers that the guest lists, whose records have them.
pub(super) fn must_have(release: &ReleasedKey, entries: &BTreeMap<String, Value>) -> bool {
    let is_own = release.resource.starts_with("kbs:///");
    let event = release.event.as_ref();
    is_own || event.is_none_or(|event| entries.contains_key(event))
}

/// The event of a release, and the SHA-256 of the policy that allowed it.
pub(super) fn policy(
    release: &ReleasedKey,
    entries: &BTreeMap<String, Value>,
) -> Option<(String, String)> {
    let event = release.event.clone()?;
    let policy = entries.get(&event)?["policy"].as_str()?.to_owned();
    Some((event, policy))
}

/// Whether the record has a release as the receipt has it: allowed, of this resource, on this token; and, where the
/// receipt's own token is that one, to the key that this token binds; `Ok(false)` where it is not, so that nothing is known
/// of the key.
pub(super) fn agrees(
    release: &ReleasedKey,
    entries: &BTreeMap<String, Value>,
    token: Option<&EarClaims>,
) -> Result<bool, String> {
    let Some(event) = &release.event else {
        return Err(format!(
            "{}: the receipt names no event of its release",
            release.resource
        ));
    };
    let Some(entry) = entries.get(event) else {
        return Err(format!(
            "{}: the record has no event {event}",
            release.resource
        ));
    };
    let said = |name: &str| entry[name].as_str().unwrap_or_default();
    let uri = release.resource.parse::<ResourceUri>().ok();
    let path = uri.and_then(|uri| uri.to_resource_path().ok());
    let path = path.map(|path| path.to_string());
    let expect = |what: &str, expected: &str, actual: &str| match expected == actual {
        true => Ok(()),
        false => Err(format!(
            "event {event}: the receipt says {what} {expected}, the record {actual}"
        )),
    };
    expect("kind", "release", said("kind"))?;
    expect("outcome", "allowed", said("outcome"))?;
    expect(
        "resource",
        path.as_deref().unwrap_or(&release.resource),
        said("resource"),
    )?;
    expect(
        "token",
        release.token.as_deref().unwrap_or_default(),
        said("token"),
    )?;
    let Some(token) = token.filter(|token| token.jti == release.token) else {
        return Ok(false);
    };
    let key = of_the_cpu(token, "runtime_data_claims").and_then(|claims| claims.get("tee-pubkey"));
    let key = key.and_then(|key| serde_json::from_value::<TeePublicKey>(key.clone()).ok());
    let key = key.map(|key| key.thumbprint()).unwrap_or_default();
    expect("key", &key, said("tee_key"))?;
    Ok(true)
}
