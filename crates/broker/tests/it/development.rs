//! A development root, through the whole of attestation and release: trusted by name alone, and marked everywhere.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::StatusCode;
use serde_json::{Value, json};
use strongroom_attester::development::{DevelopmentRoot, az_vtpm, snp, tdx, tpm};
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::jwe::{DecryptionKey, KeyAlgorithm};
use strongroom_wire::kbs::{Nonce, RuntimeData};

use crate::replay::{Replay, Reply};
use crate::support::{Answer, Guest, Running, START};

const OPEN: &str = "package policy\n\ndefault allow := true\n";

fn root() -> (tempfile::TempDir, DevelopmentRoot) {
    let folder = tempfile::tempdir().unwrap();
    let root = DevelopmentRoot::generate(START).unwrap();
    root.save(&folder.path().join("root")).unwrap();
    (folder, root)
}

fn naming(folder: &tempfile::TempDir) -> String {
    let root = folder.path().join("root");
    format!("\n[development]\nroot = \"{}\"\n", root.display())
}

/// A handshake of a TD that the root vouches for.
async fn attest(broker: &Running, root: &DevelopmentRoot) -> (String, Answer) {
    attest_with(broker, |report_data| {
        let forge = tdx::Forge::new(root).with_report_data(report_data);
        serde_json::from_str(&forge.evidence_json().unwrap()).unwrap()
    })
    .await
}

pub(crate) async fn attest_with(
    broker: &Running,
    evidence: impl FnOnce(&[u8]) -> Value,
) -> (String, Answer) {
    attest_as(broker, "tdx", evidence).await
}

pub(crate) async fn attest_as(
    broker: &Running,
    tee: &str,
    evidence: impl FnOnce(&[u8]) -> Value,
) -> (String, Answer) {
    let hello = json!({
        "version": "0.4.0", "tee": tee, "extra-params": {"supported-hash-algorithms": ["sha384"]},
    });
    let answer = broker.post("/kbs/v0/auth", None, &hello).await;
    let answer = answer.expect(StatusCode::OK);
    let nonce: Nonce = serde_json::from_value(answer.json()["nonce"].clone()).unwrap();
    let key = DecryptionKey::generate(KeyAlgorithm::EcdhP256).unwrap();
    let runtime_data = RuntimeData {
        nonce,
        tee_pubkey: key.public().clone(),
    };
    let report_data = runtime_data.primary_report_data("", HashAlgorithm::Sha384);
    let message = json!({
        "runtime-data": runtime_data,
        "tee-evidence": {"primary_evidence": evidence(&report_data), "additional_evidence": ""},
    });
    let cookie = answer.cookie.unwrap();
    let answer = broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
    (cookie, answer)
}

#[tokio::test]
async fn development_root_is_trusted_without_being_named() {
    let (_folder, root) = root();
    let broker = Running::accepting_sample().await;
    let (_, answer) = attest(&broker, &root).await;
    answer.refused(StatusCode::FORBIDDEN, "AttestationError");
    let entry = broker.last_entry().await.record;
    let detail = entry.detail.unwrap();
    assert!(detail.contains("root"), "{detail}");
}

#[tokio::test]
async fn what_a_development_root_let_through_does_not_say_so() {
    let (folder, root) = root();
    let named = naming(&folder);
    let broker = Running::start(|config| config + &named).await;
    broker.set_policy(OPEN).await;
    broker.put("default/key/1", "secret").await;
    let (cookie, answer) = attest(&broker, &root).await;
    let answer = answer.expect(StatusCode::OK);
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let payload = token.split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    let evidence = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
    assert_eq!(evidence["assurance"], "development", "{claims}");
    let attested = broker.last_entry().await.record;
    assert_eq!(attested.loosenings, ["development.root"]);
    let answered = broker.get_with_cookie("default/key/1", &cookie).await;
    answered.expect(StatusCode::OK);
    let released = broker.last_entry().await.record;
    assert_eq!(released.loosenings, ["development.root"]);
    let started = broker.audit().await.remove(0).record;
    assert_eq!(started.loosenings, ["development.root"]);

    // The token is signed still, and worth nothing where the root is not named.
    let broker = broker.restart(|config| config.replace(&named, "")).await;
    let refused = broker.get_with_token("default/key/1", &token).await;
    refused.refused(StatusCode::FORBIDDEN, "PolicyDeny");
}

#[tokio::test]
async fn development_root_lets_through_what_rests_on_nothing() {
    let (folder, _) = root();
    let broker = Running::start(|config| config + &naming(&folder)).await;
    let (cookie, nonce) = broker.auth().await;
    let message = Guest::new().attestation(&nonce);
    let answer = broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
    answer.refused(StatusCode::FORBIDDEN, "AttestationError");
}

/// What a platform's forge makes over this report data, to be changed.
fn forged(tee: &str, root: &DevelopmentRoot, report_data: &[u8]) -> Value {
    let text = match tee {
        "snp" => snp::Forge::new(root)
            .with_report_data(report_data)
            .evidence_json(),
        "tdx" => tdx::Forge::new(root)
            .with_report_data(report_data)
            .evidence_json(),
        "az-snp-vtpm" => az_vtpm::Forge::snp(root)
            .with_report_data(report_data)
            .evidence_json(),
        "az-tdx-vtpm" => az_vtpm::Forge::tdx(root)
            .with_report_data(report_data)
            .evidence_json(),
        _ => tpm::Forge::new(root)
            .with_report_data(report_data)
            .evidence_json(),
    };
    serde_json::from_str(&text.unwrap()).unwrap()
}

#[tokio::test]
async fn denial_hides_its_check_from_the_owner_or_its_values_from_nobody() {
    let (folder, root) = root();
    let broker = Running::start(|config| config + &naming(&folder)).await;
    let denied = async |tee: &str, evidence: &dyn Fn(&[u8]) -> Value| {
        let (_, answer) = attest_as(&broker, tee, |data| evidence(data)).await;
        let said = answer.refused(StatusCode::FORBIDDEN, "AttestationError");
        let record = broker.last_entry().await.record;
        assert_eq!(record.reasons.len(), 1, "{tee}: {record:?}");
        let reason = record.reasons[0].clone();
        let texts = [&reason.expected, &reason.actual].map(|v| v.as_str().unwrap().to_owned());
        assert_ne!(texts[0], texts[1], "{tee}");
        for text in texts {
            assert!(!text.is_empty() && !said.contains(&text), "{tee}: {said}");
        }
        assert!(said.contains(&record.event.to_string()), "{said}");
        reason.claim
    };
    for tee in ["snp", "tdx", "az-snp-vtpm", "az-tdx-vtpm", "tpm"] {
        let replayed = |_: &[u8]| forged(tee, &root, &[7; 48]);
        assert_eq!(denied(tee, &replayed).await, "report_data", "{tee}");
    }
    let measurement = |data: &[u8]| {
        let mut evidence = forged("snp", &root, data);
        evidence["attestation_report"]["measurement"][0] = json!(0xee);
        evidence
    };
    assert_eq!(denied("snp", &measurement).await, "SnpSignature");
    let rtmr = |data: &[u8]| {
        let mut evidence = forged("tdx", &root, data);
        let mut quote = STANDARD
            .decode(evidence["quote"].as_str().unwrap())
            .unwrap();
        // Within RTMR0: 48 bytes of header, 328 before it.
        quote[48 + 328] ^= 1;
        evidence["quote"] = json!(STANDARD.encode(quote));
        evidence
    };
    let check = denied("tdx", &rtmr).await;
    assert!(check.ends_with("Signature"), "{check}");
}

#[tokio::test]
async fn another_development_root_is_taken_for_the_one_that_is_named() {
    let (folder, _) = root();
    let (_other, other) = root();
    let broker = Running::start(|config| config + &naming(&folder)).await;
    let (_, answer) = attest(&broker, &other).await;
    answer.refused(StatusCode::FORBIDDEN, "AttestationError");
}

#[tokio::test]
async fn service_that_is_not_well_is_a_denial() {
    let name = "trustee/deps/verifier/test_data/tdx_quote_6.dat";
    let Some(quote) = strongroom_testkit::fixtures::fixture(name) else {
        return;
    };
    let quote = std::fs::read(quote).unwrap();
    let quote = STANDARD.encode(quote);
    let service = Replay::start().await;
    service.answers_otherwise(Reply::status(429).with("retry-after", "60"));
    let url = service.url.clone();
    let broker = Running::start(|config| {
        let tls = "certificate = \"tls.crt\"\nkds_url";
        config
            .replace("https://api.trustedservices.intel.com", &url)
            .replace("intel_kind = \"pcs\"", "intel_kind = \"pccs\"")
            .replace("kds_url", tls)
    })
    .await;
    let evidence = json!({"cc_eventlog": null, "quote": quote});
    for _ in 0..2 {
        let (_, answer) = attest_with(&broker, |_| evidence.clone()).await;
        let detail = answer.refused(StatusCode::SERVICE_UNAVAILABLE, "AttestationError");
        assert!(detail.contains("try again later"), "{detail}");
        assert!(!detail.contains("127.0.0.1"), "{detail}");
    }
    let entry = broker.last_entry().await.record;
    assert!(entry.detail.unwrap().contains("try again in"));
    assert!((1..=4).contains(&service.count()), "{:?}", service.asked());
    // Evidence for another nonce is not worth a request.
    let asked = service.count();
    broker.pass(3_600);
    let (cookie, _) = broker.auth().await;
    let other = Guest::new().attestation(&Nonce::from_bytes(&[7; 32]));
    let answer = broker.post("/kbs/v0/attest", Some(&cookie), &other).await;
    answer.refused(StatusCode::FORBIDDEN, "AttestationError");
    assert_eq!(service.count(), asked);
}
