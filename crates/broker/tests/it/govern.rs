//! What an admin has beyond upstream's routes: versions, history and rollback, policies by pattern, explanations,
//! rehearsals, a fresh storage key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use strongroom_broker::audit::{Kind, Outcome};

use crate::support::{Answer, Guest, Running};

const DENY: &str = "package policy\n\nimport rego.v1\n\ndefault allow := false";
const ALLOW: &str = "package policy\n\nimport rego.v1\n\ndefault allow := true";

impl Running {
    pub(crate) async fn ok(&self, method: Method, path: &str, body: impl Into<Vec<u8>>) -> Value {
        let answer = self
            .admin(method, &format!("/strongroom/v1/{path}"), body)
            .await;
        answer.expect(StatusCode::OK).json()
    }

    pub(crate) async fn fails(&self, method: Method, path: &str, body: &str) -> Answer {
        self.admin(method, &format!("/strongroom/v1/{path}"), body)
            .await
    }
}

#[tokio::test]
async fn older_version_of_a_secret_is_the_newest_again_after_a_rollback() {
    let broker = Running::development().await;
    broker.put("a/b/c", "first").await;
    broker.put("a/b/c", "second").await;
    let guest = Guest::new();
    let (_, token) = broker.attest(&guest).await;
    let read = async || guest.decrypt(broker.get_with_token("a/b/c", &token).await);
    assert_eq!(read().await, b"second");
    let rolled = broker
        .ok(Method::POST, "rollback/resource/a/b/c?version=1", "")
        .await;
    assert_eq!(rolled, json!({"version": 3}));
    assert_eq!(read().await, b"first");
    let versions = broker.ok(Method::GET, "resource/a/b/c", "").await;
    let numbers: Vec<u64> = versions
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["version"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [1, 2, 3]);
    for (path, status) in [
        ("rollback/resource/a/b/c?version=9", StatusCode::NOT_FOUND),
        (
            "rollback/resource/a/b/none?version=1",
            StatusCode::NOT_FOUND,
        ),
        ("rollback/resource/a/b/c", StatusCode::BAD_REQUEST),
        ("rollback/resource/a/b/c?version=x", StatusCode::BAD_REQUEST),
        ("rollback/resource/a/b?version=1", StatusCode::BAD_REQUEST),
    ] {
        let answer = broker.fails(Method::POST, path, "").await;
        assert_eq!(answer.status, status, "{path}");
    }
    let missing = broker.fails(Method::GET, "resource/a/b/none", "").await;
    missing.refused(StatusCode::NOT_FOUND, "ResourceNotFound");
}

#[tokio::test]
async fn only_as_many_versions_are_kept_as_the_configuration_says() {
    let config = |text: String| text + "\n[secrets]\nkeep_versions = 2\n";
    let broker = Running::start(config).await;
    for secret in ["first", "second", "third"] {
        broker.put("a/b/c", secret).await;
    }
    let versions = broker.ok(Method::GET, "resource/a/b/c", "").await;
    let first = &versions.as_array().unwrap()[0];
    assert_eq!(
        (versions.as_array().unwrap().len(), &first["version"]),
        (2, &json!(2))
    );
}

#[tokio::test]
async fn expired_secret_is_not_released_and_the_record_says_so() {
    let broker = Running::development().await;
    let path = |end: u64| format!("/kbs/v0/resource/a/b/c?expires={end}");
    let end = broker.now() + 100;
    let put = broker.admin(Method::POST, &path(end), "secret").await;
    put.expect(StatusCode::OK);
    let guest = Guest::new();
    let (_, token) = broker.attest(&guest).await;
    let released = broker.get_with_token("a/b/c", &token).await;
    assert_eq!(guest.decrypt(released), b"secret");
    broker.pass(100);
    let answer = broker.get_with_token("a/b/c", &token).await;
    answer.refused(StatusCode::NOT_FOUND, "ResourceNotFound");
    let entry = broker.last_entry().await.record;
    assert_eq!((entry.outcome, entry.version), (Outcome::Missing, Some(1)));
    assert_eq!(entry.detail.as_deref(), Some("this version has expired"));
    let listed = broker.ok(Method::GET, "resource", "").await;
    assert_eq!(listed[0]["expires"], json!(end));
    for end in [broker.now(), 0] {
        let answer = broker.admin(Method::POST, &path(end), "secret").await;
        answer.refused(StatusCode::BAD_REQUEST, "SerdeError");
    }
}

#[tokio::test]
async fn policies_by_pattern_are_set_listed_and_removed() {
    let broker = Running::development().await;
    for path in [
        "default/fraud-model/key",
        "default/fraud-data/key",
        "other/x/y",
    ] {
        broker.put(path, "secret").await;
    }
    broker.set_policy(DENY).await;
    let guest = Guest::new();
    let (_, token) = broker.attest(&guest).await;
    let released = async || {
        let mut released = Vec::new();
        for path in [
            "default/fraud-model/key",
            "default/fraud-data/key",
            "other/x/y",
        ] {
            let answer = broker.get_with_token(path, &token).await;
            released.push(answer.status == StatusCode::OK);
        }
        released
    };
    assert_eq!(released().await, [false, false, false]);
    let set = broker
        .ok(
            Method::PUT,
            "policy/resource-policy/default/fraud-*/*",
            ALLOW,
        )
        .await;
    // In its one spelling.
    assert_eq!(set["id"], "resource-policy/default/fraud-*");
    assert_eq!(released().await, [true, true, false]);
    let narrower = "policy/resource-policy/default/fraud-data/*";
    broker.ok(Method::PUT, narrower, DENY).await;
    assert_eq!(released().await, [true, false, false]);
    let entry = broker
        .audit()
        .await
        .into_iter()
        .rev()
        .find(|e| e.record.resource.as_deref() == Some("default/fraud-data/key"));
    let record = entry.unwrap().record;
    assert_eq!(
        record.policy_id.as_deref(),
        Some("resource-policy/default/fraud-data/*")
    );
    // They hold after a restart.
    let broker = broker.restart(|config| config).await;
    let listed = broker.ok(Method::GET, "policy", "").await;
    let ids: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["id"].as_str().unwrap())
        .collect();
    assert_eq!(
        ids,
        [
            "default_cpu",
            "default_gpu",
            "resource-policy",
            "resource-policy/default/fraud-*",
            "resource-policy/default/fraud-data/*",
        ]
    );
    assert_eq!(
        (&listed[0]["version"], &listed[2]["version"]),
        (&json!(0), &json!(2))
    );
    broker.ok(Method::DELETE, narrower, "").await;
    let removed = broker.ok(Method::GET, narrower, "").await;
    assert_eq!(
        (&removed["text"], &removed["version"]),
        (&Value::Null, &json!(2))
    );
    assert_eq!(removed["versions"][0]["version"], 1);
    let (_, token) = broker.attest(&guest).await;
    let answer = broker
        .get_with_token("default/fraud-data/key", &token)
        .await;
    assert_eq!(guest.decrypt(answer), b"secret");
    let again = broker.fails(Method::DELETE, narrower, "").await;
    again.refused(StatusCode::NOT_FOUND, "ResourceNotFound");
    // The root falls back to what ships.
    broker
        .ok(Method::DELETE, "policy/resource-policy", "")
        .await;
    let root = broker.ok(Method::GET, "policy/resource-policy", "").await;
    assert_eq!(root["version"], 0);
    assert!(root["text"].as_str().unwrap().contains("package policy"));
}

#[tokio::test]
async fn policy_of_an_id_that_nothing_asks_for_is_refused() {
    let broker = Running::strict().await;
    for id in [
        "other",
        "default_switch",
        "resource-policy/a/*/c",
        "resource-policy/a",
        "resource-policyx",
    ] {
        let answer = broker
            .fails(Method::PUT, &format!("policy/{id}"), ALLOW)
            .await;
        answer.refused(StatusCode::BAD_REQUEST, "ParsePolicyError");
        let answer = broker.fails(Method::GET, &format!("policy/{id}"), "").await;
        answer.refused(StatusCode::NOT_FOUND, "ResourceNotFound");
    }
    let broken = broker
        .fails(
            Method::PUT,
            "policy/resource-policy/a/*",
            "package policy\n\nallow := if {",
        )
        .await;
    let detail = broken.refused(StatusCode::BAD_REQUEST, "ParsePolicyError");
    assert!(detail.contains("line 3"), "{detail}");
    let entries = broker.audit().await;
    assert!(
        !entries
            .iter()
            .any(|entry| entry.record.action == "set policy")
    );
}

#[tokio::test]
async fn policies_have_a_history_and_go_back() {
    let broker = Running::strict().await;
    for text in [ALLOW, DENY] {
        broker.ok(Method::PUT, "policy/resource-policy", text).await;
    }
    let rolled = broker
        .ok(
            Method::POST,
            "rollback/policy/resource-policy?version=1",
            "",
        )
        .await;
    assert_eq!(rolled["version"], 3);
    let policy = broker.ok(Method::GET, "policy/resource-policy", "").await;
    assert_eq!(
        (&policy["text"], &policy["version"]),
        (&json!(ALLOW), &json!(3))
    );
    let versions = policy["versions"].as_array().unwrap();
    assert_eq!(versions[0]["digest"], versions[2]["digest"]);
    assert_eq!(versions[1]["set_by"], "admin");
    let second = broker
        .ok(Method::GET, "policy/resource-policy?version=2", "")
        .await;
    assert_eq!(second["text"], DENY);
    for path in [
        "policy/resource-policy?version=9",
        "policy/default_cpu?version=1",
    ] {
        let answer = broker.fails(Method::GET, path, "").await;
        answer.refused(StatusCode::NOT_FOUND, "ResourceNotFound");
    }
    let entry = broker
        .audit()
        .await
        .into_iter()
        .rev()
        .find(|e| e.record.kind == Kind::Admin);
    let record = entry.unwrap().record;
    assert_eq!(record.action, "roll back policy");
    assert_eq!(record.policy.as_deref(), versions[0]["digest"].as_str());
}

#[tokio::test]
async fn removed_reference_value_spoils_the_grade_and_keeps_its_history() {
    let broker = Running::development().await;
    let (_, before) = broker.attest(&Guest::new()).await;
    broker.put("a/b/c", "secret").await;
    broker
        .get_with_token("a/b/c", &before)
        .await
        .expect(StatusCode::OK);
    let name = "reference-value/launch_digest";
    let removed = broker.fails(Method::DELETE, name, "").await;
    removed.expect(StatusCode::OK);
    let (_, after) = broker.attest(&Guest::new()).await;
    let denied = broker.get_with_token("a/b/c", &after).await;
    denied.refused(StatusCode::FORBIDDEN, "PolicyDeny");
    let history = broker.ok(Method::GET, name, "").await;
    assert_eq!(history[0]["value"]["value"], json!(["abcde"]));
    assert_eq!(
        (&history[1]["value"], &history[1]["set_by"]),
        (&Value::Null, &json!("admin"))
    );
    for method in [Method::DELETE, Method::GET] {
        let answer = broker.fails(method, "reference-value/none", "").await;
        answer.refused(StatusCode::NOT_FOUND, "ResourceNotFound");
    }
}

#[tokio::test]
async fn denial_is_explained_by_what_the_attestation_lacked() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    broker
        .fails(Method::DELETE, "reference-value/launch_digest", "")
        .await
        .expect(StatusCode::OK);
    let (_, token) = broker.attest(&Guest::new()).await;
    let detail = broker
        .get_with_token("a/b/c", &token)
        .await
        .refused(StatusCode::FORBIDDEN, "PolicyDeny");
    let event = broker.last_entry().await.record.event.to_string();
    // That is all the guest learns.
    assert!(
        detail.contains(&event) && !detail.contains("launch_digest"),
        "{detail}"
    );
    let explained = broker
        .ok(Method::GET, &format!("explain/{event}"), "")
        .await;
    assert_eq!(explained["now"], "denied");
    assert_eq!(explained["attestation"]["kind"], "attestation");
    assert!(
        explained["summary"]
            .as_str()
            .unwrap()
            .contains("resource-policy")
    );
    let advice = explained["advice"].as_array().unwrap();
    let mend = advice
        .iter()
        .find(|one| one["claim"] == "sample.launch_digest")
        .unwrap();
    assert_eq!(mend["actual"], "abcde");
    assert_eq!(
        mend["command"],
        r#"strongroom reference-value set launch_digest='"abcde"'"#
    );
    // The command's effect mends it.
    broker.register_reference_values().await;
    let explained = broker
        .ok(Method::GET, &format!("explain/{event}"), "")
        .await;
    assert_eq!(explained["now"], "allowed");
    let unknown = broker
        .fails(Method::GET, "explain/0000000000000000", "")
        .await;
    unknown.refused(StatusCode::NOT_FOUND, "ResourceNotFound");
}

#[tokio::test]
async fn missing_resource_and_refused_evidence_are_explained_too() {
    let broker = Running::development().await;
    let (_, token) = broker.attest(&Guest::new()).await;
    broker.get_with_token("a/b/none", &token).await;
    let event = broker.last_entry().await.record.event.to_string();
    let explained = broker
        .ok(Method::GET, &format!("explain/{event}"), "")
        .await;
    assert_eq!(
        explained["advice"][0]["command"],
        "strongroom resource put a/b/none FILE"
    );
    let (cookie, nonce) = broker.auth().await;
    let mut message = Guest::new().attestation(&nonce);
    message["tee-evidence"]["primary_evidence"]["report_data"] = json!("AAAA");
    let answer = broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let event = broker.last_entry().await.record.event.to_string();
    let explained = broker
        .ok(Method::GET, &format!("explain/{event}"), "")
        .await;
    assert_eq!(explained["entry"]["outcome"], "denied");
    assert_eq!(
        explained["advice"][0]["actual"],
        explained["entry"]["reasons"][0]["actual"]
    );
    assert_eq!(explained.get("now"), None);
    let warning = explained["advice"][0]["warning"].as_str().unwrap();
    assert!(warning.contains("replay"), "{warning}");
    // Evidence that nobody's attester wrote.
    let (cookie, nonce) = broker.auth().await;
    let mut message = Guest::new().attestation(&nonce);
    message["tee-evidence"]["primary_evidence"] = json!({"unheard": "of"});
    let answer = broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let event = broker.last_entry().await.record.event.to_string();
    let explained = broker
        .ok(Method::GET, &format!("explain/{event}"), "")
        .await;
    assert_eq!(explained["advice"][0]["claim"], "Structure");
    assert!(explained["advice"][0]["warning"].is_string(), "{explained}");
}

#[tokio::test]
async fn policy_that_does_not_explain_itself_is_explained_by_what_it_compares() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    broker
        .fails(Method::DELETE, "reference-value/launch_digest", "")
        .await
        .expect(StatusCode::OK);
    let (_, token) = broker.attest(&Guest::new()).await;
    let explain = async |policy: &str| {
        let policy =
            format!("package policy\n\nimport rego.v1\n\ndefault allow := false\n\n{policy}");
        broker.set_policy(&policy).await;
        let denied = broker.get_with_token("a/b/c", &token).await;
        denied.refused(StatusCode::FORBIDDEN, "PolicyDeny");
        let event = broker.last_entry().await.record.event.to_string();
        broker
            .ok(Method::GET, &format!("explain/{event}"), "")
            .await
    };
    let claims = |explained: &Value| -> Vec<String> {
        let advice = explained["advice"].as_array().unwrap().iter();
        advice
            .map(|one| one["claim"].as_str().unwrap().to_owned())
            .collect()
    };
    // It does not look at the grade, so what spoils the grade is no matter.
    let explained = explain("allow if input.assurance == \"hardware\"").await;
    assert_eq!(claims(&explained), ["a/b/c", "input.assurance"]);
    assert!(
        explained["advice"][0]["warning"]
            .as_str()
            .unwrap()
            .contains("denials")
    );
    assert_eq!(explained["advice"][1]["actual"], "development");
    let commands = explained["advice"].as_array().unwrap().iter();
    assert_eq!(
        commands.filter(|one| one.get("command").is_some()).count(),
        0
    );
    let explained = explain(
        "allow if {\n\tevery _, submod in input.submods {\n\t\tsubmod[\"ear.status\"] == \"affirming\"\n\t}\n}",
    )
    .await;
    let found = claims(&explained);
    assert_eq!(
        (found[0].as_str(), found[1].as_str()),
        ("a/b/c", "input.submods.cpu0[\"ear.status\"]")
    );
    assert!(
        found.contains(&"sample.launch_digest".to_owned()),
        "{found:?}"
    );
}

#[tokio::test]
async fn mending_a_denial_lets_in_again_what_was_removed() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let register = async |digests: Value| {
        let payload = STANDARD.encode(json!({"launch_digest": digests}).to_string());
        let body = json!({"version": "0.1.0", "type": "sample", "payload": payload});
        let path = "/kbs/v0/reference-value";
        let set = broker.admin(Method::POST, path, body.to_string()).await;
        set.expect(StatusCode::OK);
    };
    register(json!(["withdrawn", "good"])).await;
    let (_, token) = broker.attest(&Guest::new()).await;
    broker
        .get_with_token("a/b/c", &token)
        .await
        .refused(StatusCode::FORBIDDEN, "PolicyDeny");
    let event = broker.last_entry().await.record.event.to_string();
    register(json!(["good"])).await;
    let explained = broker
        .ok(Method::GET, &format!("explain/{event}"), "")
        .await;
    let advice = explained["advice"].as_array().unwrap();
    let mend = advice
        .iter()
        .find(|one| one["claim"] == "sample.launch_digest")
        .unwrap();
    assert_eq!(
        mend["command"],
        r#"strongroom reference-value set launch_digest='["good","abcde"]'"#
    );
    assert_eq!(mend["expected"], json!(["withdrawn", "good"]));
}

#[tokio::test]
async fn change_is_blamed_for_what_another_change_did() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let (_, token) = broker.attest(&Guest::new()).await;
    broker
        .get_with_token("a/b/c", &token)
        .await
        .expect(StatusCode::OK);
    broker.set_policy(DENY).await;
    let rehearse = async |changes: Value| {
        broker
            .ok(Method::POST, "rehearse", changes.to_string())
            .await
    };
    for changes in [
        json!({}),
        json!({"policies": {"resource-policy/other/*": DENY}}),
        json!({"policies": {"resource-policy": DENY}}),
    ] {
        let nothing = rehearse(changes).await;
        assert_eq!(
            (&nothing["flips"], &nothing["otherwise_already"]),
            (&json!([]), &json!(1))
        );
    }
    let back = rehearse(json!({"policies": {"resource-policy": ALLOW}})).await;
    let flip = &back["flips"][0];
    assert_eq!(
        (&flip["was"], &flip["now"], &flip["would_be"]),
        (&json!("allowed"), &json!("denied"), &json!("allowed"))
    );
    assert_eq!(back["otherwise_already"], 0);
}

#[tokio::test]
async fn decision_over_a_query_that_is_not_kept_is_taken_again_without_it() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let asking =
        "package policy\n\nimport rego.v1\n\ndefault allow := false\n\nallow if data.query.purpose";
    broker.set_policy(asking).await;
    let (_, token) = broker.attest(&Guest::new()).await;
    for length in [400, 600] {
        let path = format!("a/b/c?purpose={}", "x".repeat(length));
        broker
            .get_with_token(&path, &token)
            .await
            .expect(StatusCode::OK);
    }
    let event = broker.last_entry().await.record.event.to_string();
    let same = broker.ok(Method::POST, "rehearse", "{}").await;
    assert_eq!(
        (&same["decisions"], &same["forgotten"], &same["flips"]),
        (&json!(2), &json!(1), &json!([]))
    );
    assert_eq!(same["otherwise_already"], 0);
    let explained = broker
        .ok(Method::GET, &format!("explain/{event}"), "")
        .await;
    assert_eq!(explained.get("now"), None);
}

#[tokio::test]
async fn rehearsal_tells_which_decisions_flip_and_changes_nothing() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let (_, token) = broker.attest(&Guest::new()).await;
    broker
        .get_with_token("a/b/c", &token)
        .await
        .expect(StatusCode::OK);
    broker.get_with_token("a/b/none", &token).await;
    let rehearse = async |changes: Value| {
        broker
            .ok(Method::POST, "rehearse", changes.to_string())
            .await
    };
    let same = rehearse(json!({})).await;
    assert_eq!(
        (&same["decisions"], &same["flips"]),
        (&json!(3), &json!([]))
    );
    let stricter = rehearse(json!({"policies": {"resource-policy/a/*": DENY}})).await;
    let flips = stricter["flips"].as_array().unwrap();
    assert_eq!(flips.len(), 2, "{stricter}");
    assert_eq!(
        (
            &flips[0]["was"],
            &flips[0]["would_be"],
            &flips[0]["resource"]
        ),
        (&json!("allowed"), &json!("denied"), &json!("a/b/c"))
    );
    let without = rehearse(json!({"reference_values": {"launch_digest": null}})).await;
    let flips = without["flips"].as_array().unwrap();
    assert_eq!(flips.len(), 3, "{without}");
    assert_eq!(
        (&flips[0]["was"], &flips[0]["would_be"]),
        (&json!("affirming"), &json!("warning"))
    );
    let claims: Vec<&Value> = flips[0]["reasons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["claim"])
        .collect();
    assert!(
        claims.contains(&&json!("sample.launch_digest")),
        "{claims:?}"
    );
    let newest = rehearse(json!({"limit": 1})).await;
    assert_eq!(newest["decisions"], 1);
    // Nothing of it is in force.
    broker
        .get_with_token("a/b/c", &token)
        .await
        .expect(StatusCode::OK);
    for (changes, status) in [
        (
            json!({"policies": {"resource-policy": "package policy\n\nallow := if {"}}),
            StatusCode::BAD_REQUEST,
        ),
        (json!({"policies": {"other": ALLOW}}), StatusCode::NOT_FOUND),
        (json!({"unknown": 1}), StatusCode::BAD_REQUEST),
    ] {
        let answer = broker
            .fails(Method::POST, "rehearse", &changes.to_string())
            .await;
        assert_eq!(answer.status, status, "{changes}");
    }
}

#[tokio::test]
async fn denied_guest_would_be_let_in_by_a_wider_policy() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    broker.set_policy(DENY).await;
    let (_, token) = broker.attest(&Guest::new()).await;
    let denied = broker.get_with_token("a/b/c", &token).await;
    denied.refused(StatusCode::FORBIDDEN, "PolicyDeny");
    let changes = json!({"policies": {"resource-policy": ALLOW}}).to_string();
    let wider = broker.ok(Method::POST, "rehearse", changes).await;
    let flip = &wider["flips"][0];
    assert_eq!(
        (&flip["was"], &flip["would_be"]),
        (&json!("denied"), &json!("allowed"))
    );
}

#[tokio::test]
async fn fresh_storage_key_opens_everything_and_the_older_one_is_gone() {
    let broker = Running::development().await;
    for number in 0..300 {
        broker
            .put(&format!("a/b/{number}"), &format!("secret {number}"))
            .await;
    }
    let key_file = broker.store().with_file_name("storage.key");
    let before = std::fs::read_to_string(&key_file).unwrap();
    let rotated = broker.ok(Method::POST, "storage-key/rotate", "").await;
    assert_eq!(rotated["rewrapped"], 300);
    let after = std::fs::read_to_string(&key_file).unwrap();
    assert_eq!(after.lines().count(), 1);
    assert_ne!(before, after);
    let guest = Guest::new();
    let broker = broker.restart(|config| config).await;
    let (_, token) = broker.attest(&guest).await;
    for number in [0, 1, 255, 256, 299] {
        let answer = broker
            .get_with_token(&format!("a/b/{number}"), &token)
            .await;
        assert_eq!(guest.decrypt(answer), format!("secret {number}").as_bytes());
    }
    broker.put("a/b/new", "sealed under the fresh key").await;
    let answer = broker.get_with_token("a/b/new", &token).await;
    assert_eq!(guest.decrypt(answer), b"sealed under the fresh key");
    let actions: Vec<String> = broker
        .audit()
        .await
        .into_iter()
        .map(|e| e.record.action)
        .collect();
    assert!(
        actions
            .iter()
            .filter(|action| *action == "rotate storage key")
            .count()
            >= 3
    );
}

#[tokio::test]
async fn key_file_that_cannot_be_written_is_named_and_nothing_is_lost() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let key_file = broker.store().with_file_name("storage.key");
    // A folder in the place of the file that is written first.
    std::fs::create_dir(key_file.with_extension("new")).unwrap();
    let answer = broker
        .fails(Method::POST, "storage-key/rotate", "")
        .await
        .refused(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    assert!(
        answer.contains("storage.new") && answer.contains("still readable"),
        "{answer}"
    );
    let guest = Guest::new();
    let (_, token) = broker.attest(&guest).await;
    let released = broker.get_with_token("a/b/c", &token).await;
    assert_eq!(guest.decrypt(released), b"secret");
}

#[tokio::test]
async fn rotation_that_was_cut_off_goes_on_at_the_next_start() {
    let mut broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    broker.stop().await;
    // As a broker leaves it that is killed between the first write of the key file and the last.
    let key_file = broker.store().with_file_name("storage.key");
    let older = std::fs::read_to_string(&key_file).unwrap();
    std::fs::write(&key_file, format!("{}\n{older}", "5a".repeat(32))).unwrap();
    let broker = broker.start_again();
    let guest = Guest::new();
    let (_, token) = broker.attest(&guest).await;
    assert_eq!(
        guest.decrypt(broker.get_with_token("a/b/c", &token).await),
        b"secret"
    );
    for _ in 0..100 {
        if std::fs::read_to_string(&key_file).unwrap().lines().count() == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let left = std::fs::read_to_string(&key_file).unwrap();
    assert_eq!(left.trim_end(), "5a".repeat(32));
    assert_eq!(
        guest.decrypt(broker.get_with_token("a/b/c", &token).await),
        b"secret"
    );
}

#[tokio::test]
async fn secrets_that_are_stored_while_the_key_is_rotated_stay_readable() {
    let broker = Running::development().await;
    let guest = Guest::new();
    let writes = async {
        for number in 0..60 {
            broker
                .put(&format!("a/b/{number}"), &format!("secret {number}"))
                .await;
        }
    };
    let rotations = async {
        for _ in 0..5 {
            broker.ok(Method::POST, "storage-key/rotate", "").await;
        }
    };
    tokio::join!(writes, rotations);
    let broker = broker.restart(|config| config).await;
    let (_, token) = broker.attest(&guest).await;
    for number in 0..60 {
        let answer = broker
            .get_with_token(&format!("a/b/{number}"), &token)
            .await;
        assert_eq!(guest.decrypt(answer), format!("secret {number}").as_bytes());
    }
}

#[tokio::test]
async fn tokens_verify_by_the_published_keys() {
    let broker = Running::development().await;
    let (_, token) = broker.attest(&Guest::new()).await;
    let answer = broker.request(Method::GET, "/.well-known/jwks.json");
    let keys: jsonwebtoken::jwk::JwkSet = answer.send().await.unwrap().json().await.unwrap();
    let header = jsonwebtoken::decode_header(&token).unwrap();
    let jwk = keys.find(header.kid.as_deref().unwrap()).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(jwk).unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    validation.validate_exp = false;
    validation.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<Value>(&token, &key, &validation)
        .unwrap()
        .claims;
    assert!(claims["submods"]["cpu0"].is_object());
    assert!(!serde_json::to_string(&keys).unwrap().contains("\"d\""));
}
