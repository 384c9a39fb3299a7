//! What a policy sees of sample evidence: the constants that upstream's sample verifier emits, and the svn.

use serde_json::{Map, Value, json};

use super::abi::SampleEvidence;

pub(crate) fn claims(evidence: &SampleEvidence) -> Map<String, Value> {
    let mut claims = Map::new();
    claims.insert("svn".into(), json!(evidence.svn));
    claims.insert("launch_digest".into(), json!("abcde"));
    claims.insert("platform_version".into(), json!({"major": 1, "minor": 4}));
    claims.insert("debug".into(), json!(false));
    claims
}
