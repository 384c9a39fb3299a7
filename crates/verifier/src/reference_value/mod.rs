//! Reference values: what a policy compares claims with, by name, each with an end and with where it came from.
//!
//! They arrive in upstream's register message `{"version","type","payload"}`, the payload standard base64 of what the
//! type says: [`sample`] a JSON map, [`swid`] a maker's manifest, [`corim`] a `CoRIM`. Ours may add `expires` and
//! `signature` ([`signature`]), which upstream ignores. Upstream stores an expiry and never looks at it; here an
//! expired value is absent.
//!
//! An extractor reads names and values and checks no signature of the manifest's maker: a value is worth what the
//! message's signer is worth, or else the admin who registered it. A manifest whose maker's signature is to count
//! goes to the verifier as collateral.

mod corim;
mod sample;
mod signature;
mod swid;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use signature::{SignerError, Signers};

use signature::Signature;

/// The life of a reference value whose message names none: twelve months.
pub const DEFAULT_LIFE_SECONDS: u64 = 365 * 24 * 60 * 60;

/// Reference values by name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ReferenceValues(BTreeMap<String, ReferenceValue>);

/// One reference value.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ReferenceValue {
    /// A list of accepted values, or one value.
    pub value: Value,
    /// Seconds since 1970; from this second on the value counts as absent.
    pub expires: u64,
    /// Where it came from. A value that was stored before this was kept has the default.
    #[serde(default)]
    pub provenance: Provenance,
}

/// Where a reference value came from.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Provenance {
    /// The type of its message: `sample`, `swid` or `corim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_type: Option<String>,
    /// When it was registered, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registered: Option<u64>,
    /// The admin who registered it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registered_by: Option<String>,
    /// The id of the key that signed its message. Absent when the message was not signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
}

impl ReferenceValue {
    /// A value of which nothing but its end is known.
    pub fn new(value: Value, expires: u64) -> Self {
        Self {
            value,
            expires,
            provenance: Provenance::default(),
        }
    }
}

impl ReferenceValues {
    /// Reads a register message, checks its signature against `signers`, and its end against `now`.
    ///
    /// Where there are signers, a message without the signature of one of them is refused. The caller still owes that
    /// whoever sent the message may register values.
    ///
    /// # Errors
    /// [`ReferenceValueError`] for a message that is not current, not signed as demanded, or not of its type's form.
    pub fn parse_message(
        json: &[u8],
        now: u64,
        signers: &Signers,
    ) -> Result<Self, ReferenceValueError> {
        if json.len() > MAX_MESSAGE {
            return Err(ReferenceValueError::TooLarge { limit: MAX_MESSAGE });
        }
        let message: Message = serde_json::from_slice(json).map_err(malformed)?;
        if message.version != MESSAGE_VERSION {
            return Err(ReferenceValueError::Version {
                actual: shorten(&message.version),
            });
        }
        let signer = signers.check(&message)?;
        if let Some(expires) = message.expires
            && expires <= now
        {
            return Err(ReferenceValueError::Expired { expires, now });
        }
        let payload = STANDARD
            .decode(&message.payload)
            .map_err(|e| malformed(format!("payload is not standard base64: {e}")))?;
        let values = match message.r#type.as_str() {
            "sample" => sample::extract(&payload),
            "swid" => swid::extract(&payload),
            "corim" => corim::extract(&payload),
            other => Err(ReferenceValueError::Type {
                actual: shorten(other),
            }),
        }?;
        if values.is_empty() || values.len() > MAX_VALUES {
            return Err(ReferenceValueError::Count {
                actual: values.len(),
                limit: MAX_VALUES,
            });
        }
        if values
            .keys()
            .any(|name| name.is_empty() || name.len() > MAX_NAME)
        {
            return Err(ReferenceValueError::Name { limit: MAX_NAME });
        }
        let expires = message
            .expires
            .unwrap_or_else(|| now.saturating_add(DEFAULT_LIFE_SECONDS));
        let provenance = Provenance {
            message_type: Some(message.r#type),
            registered: Some(now),
            registered_by: None,
            signer,
        };
        Ok(values
            .into_iter()
            .map(|(name, value)| {
                let value = ReferenceValue {
                    value,
                    expires,
                    provenance: provenance.clone(),
                };
                (name, value)
            })
            .collect())
    }

    /// Writes down who registers the values.
    #[must_use]
    pub fn registered_by(mut self, admin: &str) -> Self {
        for known in self.0.values_mut() {
            known.provenance.registered_by = Some(admin.to_owned());
        }
        self
    }

    /// The value of a name, unless it has expired at `now`.
    pub fn value(&self, name: &str, now: u64) -> Option<&Value> {
        self.0
            .get(name)
            .filter(|known| now < known.expires)
            .map(|known| &known.value)
    }

    /// Adds or replaces one value.
    pub fn insert(&mut self, name: impl Into<String>, value: ReferenceValue) {
        self.0.insert(name.into(), value);
    }

    /// Adds the values of `newer`, which win over those of the same name.
    pub fn merge(&mut self, newer: Self) {
        self.0.extend(newer.0);
    }

    /// Every value, the expired ones too, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ReferenceValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl FromIterator<(String, ReferenceValue)> for ReferenceValues {
    fn from_iter<I: IntoIterator<Item = (String, ReferenceValue)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// What an extractor finds: values by name.
type Extracted = BTreeMap<String, Value>;

/// A register message. A misspelt `expires` must not pass for none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    version: String,
    r#type: String,
    payload: String,
    #[serde(default)]
    expires: Option<u64>,
    #[serde(default)]
    signature: Option<Signature>,
}

/// Why a register message was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceValueError {
    /// It is not the message that was expected.
    #[error("the reference-value message is malformed: {0}")]
    Malformed(String),
    /// It is too long.
    #[error("the reference-value message has more than {limit} bytes")]
    TooLarge {
        /// How many bytes it may have.
        limit: usize,
    },
    /// It has another version.
    #[error("reference-value message version {actual:?} is not supported, only \"0.1.0\"")]
    Version {
        /// The version sent, cut short.
        actual: String,
    },
    /// Its payload has a type for which there is no extractor.
    #[error(
        "reference-value message type {actual:?} is not supported, only \"corim\", \"sample\" and \"swid\""
    )]
    Type {
        /// The type sent, cut short.
        actual: String,
    },
    /// It carries no value, or too many.
    #[error("the payload has {actual} reference values, wanted 1 to {limit}")]
    Count {
        /// How many it carries.
        actual: usize,
        /// How many it may carry.
        limit: usize,
    },
    /// A name is empty or too long.
    #[error("a reference value's name must have 1 to {limit} bytes")]
    Name {
        /// How many bytes a name may have.
        limit: usize,
    },
    /// A name occurs twice, and which value counts is anybody's guess.
    #[error("the reference value {name:?} occurs twice")]
    Duplicate {
        /// The name, cut short.
        name: String,
    },
    /// Its end has passed.
    #[error(
        "the reference-value message expired at {expires} (seconds since 1970), and the time is {now}"
    )]
    Expired {
        /// Its end.
        expires: u64,
        /// The time.
        now: u64,
    },
    /// It must be signed, and is not.
    #[error("the reference-value message is not signed, and only signed ones are accepted here")]
    Unsigned,
    /// It is signed and has no end: it could be sent again for ever.
    #[error("the reference-value message is signed and names no `expires`")]
    NoExpiry,
    /// It names a key that is not among the signers.
    #[error("the reference-value message is signed by the key {kid:?}, which is no signer here")]
    UnknownSigner {
        /// The key's id, cut short.
        kid: String,
    },
    /// Its signature does not verify.
    #[error(
        "the signature of the reference-value message by the key {kid:?} does not count: {why}"
    )]
    Signature {
        /// The key's id.
        kid: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

fn malformed(why: impl ToString) -> ReferenceValueError {
    ReferenceValueError::Malformed(why.to_string())
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

const MESSAGE_VERSION: &str = "0.1.0";
const MAX_MESSAGE: usize = 1024 * 1024;
const MAX_VALUES: usize = 1_000;
const MAX_NAME: usize = 256;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(r#type: &str, payload: impl AsRef<[u8]>) -> Vec<u8> {
        json!({"version": "0.1.0", "type": r#type, "payload": STANDARD.encode(payload)})
            .to_string()
            .into_bytes()
    }

    fn parse(json: &[u8]) -> Result<ReferenceValues, ReferenceValueError> {
        ReferenceValues::parse_message(json, 1_000, &Signers::none())
    }

    #[test]
    fn upstream_message_is_read() {
        let values = parse(
            br#"{"payload":"eyJsYXVuY2hfZGlnZXN0IjpbImFiY2RlIl19","type":"sample","version":"0.1.0"}"#,
        )
        .unwrap();
        assert_eq!(
            values.value("launch_digest", 1_000),
            Some(&json!(["abcde"]))
        );
    }

    #[test]
    fn expired_value_is_absent() {
        let values = parse(&message("sample", r#"{"svn":["1"]}"#)).unwrap();
        let end = 1_000 + DEFAULT_LIFE_SECONDS;
        assert!(values.value("svn", end - 1).is_some());
        assert_eq!(values.value("svn", end), None);
    }

    #[test]
    fn end_that_the_message_names_counts() {
        let with = |expires: Value| {
            json!({"version": "0.1.0", "type": "sample", "payload": "eyJhIjoxfQ==", "expires": expires})
                .to_string()
        };
        let values = parse(with(json!(1_001)).as_bytes()).unwrap();
        assert_eq!(values.value("a", 1_000), Some(&json!(1)));
        assert_eq!(values.value("a", 1_001), None);
        for passed in [0, 999, 1_000] {
            assert_eq!(
                parse(with(json!(passed)).as_bytes()),
                Err(ReferenceValueError::Expired {
                    expires: passed,
                    now: 1_000
                })
            );
        }
        for bad in [
            json!(-1),
            json!("2000"),
            json!(1e300),
            json!([]),
            json!(1.5),
        ] {
            assert!(
                matches!(
                    parse(with(bad.clone()).as_bytes()),
                    Err(ReferenceValueError::Malformed(_))
                ),
                "{bad}"
            );
        }
    }

    #[test]
    fn provenance_is_kept_and_absent_in_what_was_stored_before() {
        let values = parse(&message("sample", r#"{"svn":["1"]}"#))
            .unwrap()
            .registered_by("alice");
        let (_, known) = values.iter().next().unwrap();
        assert_eq!(
            known.provenance,
            Provenance {
                message_type: Some("sample".into()),
                registered: Some(1_000),
                registered_by: Some("alice".into()),
                signer: None,
            }
        );
        let text = serde_json::to_string(known).unwrap();
        assert_eq!(
            &serde_json::from_str::<ReferenceValue>(&text).unwrap(),
            known
        );
        let before: ReferenceValue = serde_json::from_str(r#"{"value":1,"expires":9}"#).unwrap();
        assert_eq!(before, ReferenceValue::new(json!(1), 9));
    }

    #[test]
    fn message_of_another_form_is_refused() {
        for (message, wanted) in [
            (
                message("in-toto", "{}"),
                "type \"in-toto\" is not supported",
            ),
            (message("sample", "{}"), "has 0 reference values"),
            (message("sample", "[1]"), "malformed"),
            (message("sample", "{\"a\":1"), "malformed"),
            (
                message("sample", r#"{"a":1,"b":2,"a":1}"#),
                "\"a\" occurs twice",
            ),
            (message("sample", r#"{"":1}"#), "1 to 256 bytes"),
            (
                message("sample", format!("{{\"{}\":1}}", "n".repeat(257))),
                "1 to 256 bytes",
            ),
            (
                message("sample", format!("{{\"a\":{}}}", "[".repeat(10_000))),
                "malformed",
            ),
            (message("sample", b"\xff"), "malformed"),
            (message("swid", "{}"), "malformed"),
            (message("corim", "{}"), "malformed"),
            (message("corim", ""), "malformed"),
            (b"".to_vec(), "malformed"),
            (b"[]".to_vec(), "malformed"),
            (
                br#"{"version":"0.1.0","type":"sample"}"#.to_vec(),
                "missing field",
            ),
            (
                br#"{"version":"0.1.0","type":"sample","payload":"e30","type":"swid"}"#.to_vec(),
                "duplicate field",
            ),
            (
                br#"{"version":"0.1.0","type":"sample","payload":"e30=","expire":1}"#.to_vec(),
                "unknown field",
            ),
            (
                br#"{"version":"0.1.0","type":"sample","payload":"e30"}"#.to_vec(),
                "standard base64",
            ),
            (
                br#"{"version":"0.1.0","type":"sample","payload":{}}"#.to_vec(),
                "malformed",
            ),
            (
                br#"{"version":"0.2.0","type":"sample","payload":""}"#.to_vec(),
                "version \"0.2.0\"",
            ),
            (vec![b' '; MAX_MESSAGE + 1], "more than"),
        ] {
            let error = parse(&message).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        let many: BTreeMap<String, u32> = (0..1_001).map(|n| (format!("n{n}"), n)).collect();
        let many = message("sample", serde_json::to_vec(&many).unwrap());
        assert_eq!(
            parse(&many),
            Err(ReferenceValueError::Count {
                actual: 1_001,
                limit: 1_000
            })
        );
    }
}
