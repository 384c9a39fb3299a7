//! What evidence must bind: the runtime data (nonce and TEE key) and the init-data.
//!
//! A platform calls [`Binding::check_report_data`] with the bytes it found in its report, and
//! [`Binding::check_initdata_digest`] with its register. Both name expected and actual when they refuse.

use serde_json::{Map, Value, json};
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::initdata::Initdata;
use strongroom_wire::jwk::TeePublicKey;
use strongroom_wire::kbs::RuntimeData;

use crate::VerifyError;

/// The data that one piece of primary evidence must vouch for.
///
/// The caller still owes that the nonce in the runtime data is the one that it gave out, once.
#[derive(Clone, Debug)]
pub struct Binding {
    report_data: Vec<u8>,
    runtime_data_claims: Value,
    tee_key: TeePublicKey,
    has_devices: bool,
    initdata: Option<SentInitdata>,
}

#[derive(Clone, Debug)]
struct SentInitdata {
    digest: Vec<u8>,
    claims: Value,
}

impl Binding {
    /// Computes what the evidence must show: SHA-384 over the canonical JSON of the runtime data
    /// (KBS protocol, "Attestation"), and the digest of the init-data document.
    pub fn new(
        runtime_data: &RuntimeData,
        additional_evidence: &str,
        initdata: Option<&Initdata>,
    ) -> Self {
        Self {
            report_data: runtime_data
                .primary_report_data(additional_evidence, HashAlgorithm::Sha384),
            runtime_data_claims: json!({
                "additional-evidence": additional_evidence,
                "nonce": runtime_data.nonce,
                "tee-pubkey": runtime_data.tee_pubkey,
            }),
            tee_key: runtime_data.tee_pubkey.clone(),
            has_devices: !additional_evidence.is_empty(),
            initdata: initdata.map(|document| SentInitdata {
                digest: document.digest(),
                claims: initdata_claims(document),
            }),
        }
    }

    /// Whether evidence of further devices was sent along.
    pub(crate) fn has_devices(&self) -> bool {
        self.has_devices
    }

    pub(crate) fn tee_key(&self) -> &TeePublicKey {
        &self.tee_key
    }

    pub(crate) fn runtime_data_claims(&self) -> &Value {
        &self.runtime_data_claims
    }

    /// The claims `init_data` (hex) and `init_data_claims` of the document that was sent.
    pub(crate) fn initdata_claims(&self) -> Option<(String, &Value)> {
        self.initdata
            .as_ref()
            .map(|sent| (hex::encode(&sent.digest), &sent.claims))
    }

    /// Compares the report data that a platform carries with the one wanted, to the last byte.
    pub(crate) fn check_report_data(&self, found: &[u8]) -> Result<(), VerifyError> {
        if found == self.report_data {
            return Ok(());
        }
        Err(VerifyError::ReportData {
            expected: hex::encode(&self.report_data),
            actual: hex::encode(found),
        })
    }

    /// Compares a platform's register with the init-data that was sent.
    ///
    /// Gives `Some(true)` when they agree, `Some(false)` when init-data was sent and the platform has no
    /// register, `None` when there is neither. A register without its document is refused: a policy that
    /// looks at the document would otherwise see nothing and might let it pass.
    pub(crate) fn check_initdata_digest(
        &self,
        register: Option<&[u8]>,
    ) -> Result<Option<bool>, VerifyError> {
        match (register, &self.initdata) {
            (None, None) => Ok(None),
            (None, Some(_)) => Ok(Some(false)),
            (Some(register), Some(sent)) if register == sent.digest => Ok(Some(true)),
            (Some(register), sent) => Err(VerifyError::Initdata {
                expected: hex::encode(register),
                actual: sent.as_ref().map_or_else(
                    || "no init-data".to_owned(),
                    |sent| hex::encode(&sent.digest),
                ),
            }),
        }
    }
}

/// The `[data]` map, with the two TOML documents that policies look into parsed to JSON. Text that does
/// not parse stays text; `policy.rego` is kept as it is.
fn initdata_claims(document: &Initdata) -> Value {
    let claims: Map<String, Value> = document
        .data()
        .iter()
        .map(|(name, text)| {
            let value = match name.as_str() {
                "aa.toml" | "cdh.toml" => toml::from_str::<toml::Table>(text)
                    .map_or_else(|_| json!(text), |table| to_json(toml::Value::Table(table))),
                _ => json!(text),
            };
            (name.clone(), value)
        })
        .collect();
    Value::Object(claims)
}

fn to_json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => json!(text),
        toml::Value::Integer(number) => json!(number),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)
            .map_or_else(|| json!(number.to_string()), Value::Number),
        toml::Value::Boolean(truth) => json!(truth),
        toml::Value::Datetime(time) => json!(time.to_string()),
        toml::Value::Array(items) => Value::Array(items.into_iter().map(to_json).collect()),
        toml::Value::Table(table) => Value::Object(
            table
                .into_iter()
                .map(|(name, value)| (name, to_json(value)))
                .collect(),
        ),
    }
}
