//! What evidence must bind, for every platform in this one file: the runtime data (nonce and TEE key) and the
//! init-data.
//!
//! A platform says in which form it carries report data ([`ReportDataForm`]) and which register holds the digest of
//! the init-data ([`Register`]); how a digest is fitted to a field is [`fitted`] and nothing else
//! (docs/decisions/0009).

use aws_lc_rs::digest;
use serde_json::{Map, Value, json};
use strongroom_wire::attestation_service::{StatedInitData, StatedRuntimeData};
use strongroom_wire::bounded_toml;
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::initdata::{Initdata, registers};
use strongroom_wire::jwk::TeePublicKey;
use strongroom_wire::kbs::RuntimeData;

use crate::VerifyError;
use crate::check::{Check, Steps};

/// The data that one session's evidence must vouch for.
///
/// The caller still owes that the nonce in the runtime data is the one that it gave out, once.
#[derive(Clone, Debug)]
pub struct Binding {
    primary: Expected,
    device: Expected,
    primary_claims: Value,
    device_claims: Value,
    tee_key: Option<TeePublicKey>,
    devices_digest: [u8; 32],
    initdata_claims: Option<Value>,
}

impl Binding {
    /// Computes what the evidence must show: SHA-384 over the canonical JSON of the runtime data
    /// (KBS protocol, "Attestation"), and the digest of the init-data document.
    pub fn new(
        runtime_data: &RuntimeData,
        additional_evidence: &str,
        initdata: Option<&Initdata>,
    ) -> Self {
        let hash = HashAlgorithm::Sha384;
        Self {
            primary: Expected {
                report_data: Some(runtime_data.primary_report_data(additional_evidence, hash)),
                initdata: initdata.map_or(ExpectedInitdata::None, |document| {
                    ExpectedInitdata::Digest(document.digest())
                }),
            },
            device: Expected {
                report_data: Some(runtime_data.device_report_data(hash)),
                initdata: ExpectedInitdata::Unknown,
            },
            primary_claims: json!({
                "additional-evidence": additional_evidence,
                "nonce": runtime_data.nonce,
                "tee-pubkey": runtime_data.tee_pubkey,
            }),
            device_claims: json!({
                "nonce": runtime_data.nonce,
                "tee-pubkey": runtime_data.tee_pubkey,
            }),
            tee_key: Some(runtime_data.tee_pubkey.clone()),
            devices_digest: devices_digest(additional_evidence),
            initdata_claims: initdata.map(initdata_claims),
        }
    }

    /// What a caller states that one piece of evidence must show, where nobody but the caller knows whose nonce it binds.
    ///
    /// Without report data that check is skipped. Without init-data a launch register must be empty, as in
    /// [`Self::new`]. The key is the one that the stated runtime data name, if they do.
    pub fn stated(
        runtime_data: Option<&StatedRuntimeData>,
        initdata: Option<&StatedInitData>,
    ) -> Self {
        let claims = runtime_data.map_or(Value::Null, |stated| stated.claims.clone());
        let expected = Expected {
            report_data: runtime_data.map(|stated| stated.report_data.clone()),
            initdata: match initdata {
                None => ExpectedInitdata::None,
                Some(StatedInitData::Digest(digest)) => ExpectedInitdata::Digest(digest.clone()),
                Some(StatedInitData::Document(document)) => {
                    ExpectedInitdata::Digest(document.digest())
                }
            },
        };
        let tee_key = claims.get("tee-pubkey").cloned();
        Self {
            device: expected.clone(),
            primary: expected,
            primary_claims: claims.clone(),
            device_claims: claims,
            tee_key: tee_key.and_then(|key| serde_json::from_value(key).ok()),
            devices_digest: devices_digest(""),
            initdata_claims: match initdata {
                Some(StatedInitData::Document(document)) => Some(initdata_claims(document)),
                Some(StatedInitData::Digest(_)) | None => None,
            },
        }
    }

    /// The digest of the evidence of further devices that the primary evidence binds.
    pub(crate) fn devices_digest(&self) -> [u8; 32] {
        self.devices_digest
    }

    /// What the primary evidence must show.
    pub(crate) fn primary(&self) -> &Expected {
        &self.primary
    }

    /// What a device's evidence must show.
    pub(crate) fn device(&self) -> &Expected {
        &self.device
    }

    /// The key that the runtime data name.
    pub fn tee_key(&self) -> Option<&TeePublicKey> {
        self.tee_key.as_ref()
    }

    pub(crate) fn runtime_data_claims(&self, primary: bool) -> &Value {
        match primary {
            true => &self.primary_claims,
            false => &self.device_claims,
        }
    }

    /// The claims `init_data_digest` and `init_data_claims` of the document that was sent. The register's own
    /// content is another claim, `init_data`: a platform may hold a digest padded or cut.
    pub(crate) fn initdata_claims(&self) -> Option<(String, Option<&Value>)> {
        match &self.primary.initdata {
            ExpectedInitdata::Digest(digest) => {
                Some((hex::encode(digest), self.initdata_claims.as_ref()))
            }
            ExpectedInitdata::Unknown | ExpectedInitdata::None => None,
        }
    }
}

/// What one piece of evidence must show.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Expected {
    /// The report data, before a platform pads or cuts it. Without it that check is skipped.
    pub report_data: Option<Vec<u8>>,
    /// The init-data.
    pub initdata: ExpectedInitdata,
}

/// What is known of the init-data with which a platform was started.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum ExpectedInitdata {
    /// Nothing: the check is skipped. Only for evidence that somebody kept.
    #[default]
    Unknown,
    /// The guest sent none.
    None,
    /// The digest of the document that the guest sent.
    Digest(Vec<u8>),
}

/// How a platform carries report data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ReportDataForm {
    /// As it is (vTPM quotes of Azure, sample).
    Exact,
    /// In a field of 64 bytes (SNP, TDX, SGX).
    Padded64,
    /// The first 32 bytes (TPM quotes, NVIDIA nonces).
    First32,
}

/// The register of a platform that holds the digest of the init-data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Register<'a> {
    /// A field that whoever launches the guest sets: SNP's `HOST_DATA`, TDX's `MRCONFIGID`, SGX's `CONFIGID`.
    Launch(&'a [u8]),
    /// PCR 8 of the SHA-256 bank, extended once by the guest.
    Pcr8(&'a [u8]),
    /// The digest as it is (sample).
    Plain(&'a [u8]),
    /// The platform has none.
    None,
}

impl Expected {
    /// Compares the report data that a platform carries with the one wanted, to the last byte.
    pub(crate) fn check_report_data(
        &self,
        steps: &mut Steps,
        form: ReportDataForm,
        found: &[u8],
    ) -> Result<(), VerifyError> {
        let Some(wanted) = &self.report_data else {
            steps.skip(
                Check::ReportData,
                "no report data was given to compare with",
            );
            return Ok(());
        };
        let wanted = match form {
            ReportDataForm::Exact => wanted.clone(),
            ReportDataForm::Padded64 => fitted(wanted, 64),
            ReportDataForm::First32 => fitted(wanted, 32),
        };
        steps.run(Check::ReportData, || match found == wanted {
            true => Ok(()),
            false => Err(VerifyError::ReportData {
                expected: hex::encode(&wanted),
                actual: hex::encode(found),
            }),
        })
    }

    /// Compares a platform's register with the init-data that was sent.
    ///
    /// Gives `Some(true)` when they agree, `Some(false)` when init-data was sent and the platform has no register,
    /// `None` when there is neither. A launch register that is set without its document is refused: a policy that
    /// looks at the document would otherwise see nothing and might let it pass. PCR 8 without a document is not: boot
    /// loaders measure into it too.
    pub(crate) fn check_initdata(
        &self,
        steps: &mut Steps,
        register: Register<'_>,
    ) -> Result<Option<bool>, VerifyError> {
        let sent = match &self.initdata {
            ExpectedInitdata::Unknown => {
                steps.skip(Check::InitData, "no init-data was given to compare with");
                return Ok(None);
            }
            ExpectedInitdata::None => None,
            ExpectedInitdata::Digest(digest) => Some(digest.as_slice()),
        };
        let (held, wanted) = match (register, sent) {
            (Register::None, None) | (Register::Pcr8(_), None) => {
                steps.skip(Check::InitData, "no init-data was sent");
                return Ok(None);
            }
            (Register::None, Some(_)) => {
                steps.skip(
                    Check::InitData,
                    "the platform has no register for it: init_data_bound is false",
                );
                return Ok(Some(false));
            }
            (Register::Launch(held), None) if held.iter().all(|byte| *byte == 0) => {
                steps.skip(
                    Check::InitData,
                    "no init-data was sent, and none was launched with",
                );
                return Ok(None);
            }
            (Register::Launch(held) | Register::Plain(held), None) => (held, None),
            (Register::Launch(held), Some(digest)) => (held, Some(fitted(digest, held.len()))),
            (Register::Plain(held), Some(digest)) => (held, Some(digest.to_vec())),
            (Register::Pcr8(held), Some(digest)) => (held, registers(digest).vtpm_pcr8),
        };
        steps.run(Check::InitData, || match &wanted {
            Some(wanted) if wanted == held => Ok(Some(true)),
            _ => Err(VerifyError::Initdata {
                expected: hex::encode(held),
                actual: match (&wanted, sent) {
                    (Some(wanted), _) => hex::encode(wanted),
                    (None, None) => "no init-data".to_owned(),
                    (None, Some(digest)) => format!(
                        "a digest of {} bytes, which a SHA-256 PCR cannot be extended with",
                        digest.len()
                    ),
                },
            }),
        })
    }
}

/// The evidence of further devices, byte for byte as it was sent.
pub(crate) fn devices_digest(additional_evidence: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, additional_evidence.as_bytes()).as_ref());
    out
}

/// Fits a digest into a field: a shorter one is padded with zeros at its end, a longer one loses its end.
///
/// What is cut stays a prefix of a cryptographic hash of at least 256 bits, which is as hard to hit as the field
/// allows (docs/decisions/0009).
pub(crate) fn fitted(digest: &[u8], length: usize) -> Vec<u8> {
    let mut field = digest.to_vec();
    field.resize(length, 0);
    field
}

/// The `[data]` map, with the two TOML documents that policies look into parsed to JSON. Text that does
/// not parse stays text; `policy.rego` is kept as it is.
fn initdata_claims(document: &Initdata) -> Value {
    let claims: Map<String, Value> = document
        .data()
        .iter()
        .map(|(name, text)| {
            let value = match name.as_str() {
                "aa.toml" | "cdh.toml" => bounded_toml::from_str::<toml::Table>(text)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Tables within tables: eighty inline ones, each under a key of eighty parts.
    fn deep() -> String {
        let key = ["a"; 79].join(".");
        let open = format!("{key} = {{ ").repeat(78);
        format!("{open}{key} = 1{}", " }".repeat(78))
    }

    #[test]
    fn deep_configuration_in_init_data_does_not_overflow_the_stack() {
        let text = format!(
            "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n\"aa.toml\" = '''\n{}\n'''\n",
            deep()
        );
        let document = Initdata::parse(&text).unwrap();
        assert!(initdata_claims(&document)["aa.toml"].is_string());
    }
}
