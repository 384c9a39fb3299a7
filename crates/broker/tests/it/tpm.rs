//! A machine with a TPM (`swtpm`), from its quote to the secret: under the policies that a broker has by itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use strongroom_attester::{Attester, Devices};
use strongroom_testkit::swtpm::Swtpm;

use crate::development::attest_as;
use crate::support::{Answer, Running};

struct Machine {
    tpm: Swtpm,
    folder: tempfile::TempDir,
}

impl Machine {
    fn evidence(&self, report_data: &[u8]) -> Value {
        let mut devices = Devices::under(self.folder.path());
        devices.tpm = vec![self.tpm.address().into()];
        let found = Attester::detect(&devices).unwrap();
        let evidence = found.attester.evidence(report_data).unwrap();
        serde_json::from_str(evidence.get()).unwrap()
    }

    async fn attest(&self, broker: &Running) -> (String, Answer) {
        attest_as(broker, "tpm", |report_data| self.evidence(report_data)).await
    }
}

#[tokio::test]
async fn secret_reaches_an_enrolled_tpm_until_a_register_is_extended_once_more() {
    let Some(tpm) = Swtpm::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine { tpm, folder };
    machine.tpm.tool(
        "tpm2_pcrextend",
        &[&format!("11:sha256={}", "22".repeat(32))],
    );
    let measured = machine.evidence(&[0; 48]);
    let key = measured["ak_public"].as_str().unwrap();

    let broker = Running::strict().await;
    broker.put("default/key/1", "secret").await;
    let values = json!({
        "tpm_pcr11": [measured["tpm_quote"]["pcrs"][11]], "trusted_aks": [key],
    });
    let payload = STANDARD.encode(values.to_string());
    let body = json!({"version": "0.1.0", "type": "sample", "payload": payload}).to_string();
    let registered = broker
        .admin(Method::POST, "/kbs/v0/reference-value", body)
        .await;
    registered.expect(StatusCode::OK);

    // Anybody can make a key. Reference values that name it do not make it a TPM's.
    let (_, answer) = machine.attest(&broker).await;
    answer.refused(StatusCode::FORBIDDEN, "AttestationError");

    let enrolled = machine.folder.path().join("ak.der");
    std::fs::write(&enrolled, STANDARD.decode(key).unwrap()).unwrap();
    let anchors = format!("\n[anchors]\nattestation_keys = [{:?}]\n", enrolled);
    let broker = broker.restart(|config| config + &anchors).await;
    let (cookie, answer) = machine.attest(&broker).await;
    answer.expect(StatusCode::OK);
    broker
        .get_with_cookie("default/key/1", &cookie)
        .await
        .expect(StatusCode::OK);

    machine.tpm.tool(
        "tpm2_pcrextend",
        &[&format!("11:sha256={}", "33".repeat(32))],
    );
    let (cookie, answer) = machine.attest(&broker).await;
    answer.expect(StatusCode::OK);
    let denied = broker.get_with_cookie("default/key/1", &cookie).await;
    denied.refused(StatusCode::FORBIDDEN, "PolicyDeny");
    let event = broker.last_entry().await.record.event;
    let explained = broker
        .ok(Method::GET, &format!("explain/{event}"), "")
        .await;
    let advice = explained["advice"].as_array().unwrap();
    let mend = advice
        .iter()
        .find(|one| one["claim"] == "tpm.pcr11")
        .unwrap_or_else(|| panic!("{explained}"));
    let now = machine.evidence(&[0; 48]);
    assert_eq!(mend["actual"], now["tpm_quote"]["pcrs"][11]);
    assert_ne!(mend["actual"], measured["tpm_quote"]["pcrs"][11]);
}
