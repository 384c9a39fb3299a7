//! Reference values: what a policy compares claims with, by name, each with an end.
//!
//! Upstream stores an expiry and never looks at it; here an expired value is absent.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
}

impl ReferenceValues {
    /// Reads upstream's register message `{"version","type","payload"}` of type `sample`: the payload is
    /// standard base64 of a JSON map from name to value.
    ///
    /// # Errors
    /// [`ReferenceValueError`] for another type or version, a payload that is not such a map, or too much of it.
    pub fn parse_message(json: &[u8], now: u64) -> Result<Self, ReferenceValueError> {
        let message: Message = serde_json::from_slice(json)
            .map_err(|e| ReferenceValueError::Malformed(e.to_string()))?;
        if message.version != MESSAGE_VERSION {
            return Err(ReferenceValueError::Version {
                actual: shorten(&message.version),
            });
        }
        if message.r#type != "sample" {
            return Err(ReferenceValueError::Type {
                actual: shorten(&message.r#type),
            });
        }
        let payload = STANDARD.decode(&message.payload).map_err(|e| {
            ReferenceValueError::Malformed(format!("payload is not standard base64: {e}"))
        })?;
        let values: Map<String, Value> = serde_json::from_slice(&payload).map_err(|e| {
            ReferenceValueError::Malformed(format!("payload is not a JSON map: {e}"))
        })?;
        if values.is_empty() || values.len() > MAX_VALUES {
            return Err(ReferenceValueError::Count {
                actual: values.len(),
                limit: MAX_VALUES,
            });
        }
        let expires = now.saturating_add(DEFAULT_LIFE_SECONDS);
        values
            .into_iter()
            .map(|(name, value)| {
                if name.is_empty() || name.len() > MAX_NAME {
                    return Err(ReferenceValueError::Name { limit: MAX_NAME });
                }
                Ok((name, ReferenceValue { value, expires }))
            })
            .collect::<Result<_, _>>()
            .map(Self)
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

#[derive(Deserialize)]
struct Message {
    version: String,
    r#type: String,
    payload: String,
}

/// Why a register message was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceValueError {
    /// It is not the message that was expected.
    #[error("the reference-value message is malformed: {0}")]
    Malformed(String),
    /// It has another version.
    #[error("reference-value message version {actual:?} is not supported, only \"0.1.0\"")]
    Version {
        /// The version sent, cut short.
        actual: String,
    },
    /// Its payload has a type for which there is no extractor.
    #[error("reference-value message type {actual:?} is not supported, only \"sample\"")]
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
}

fn shorten(text: &str) -> String {
    text.chars().take(32).collect()
}

const MESSAGE_VERSION: &str = "0.1.0";
const MAX_VALUES: usize = 1_000;
const MAX_NAME: usize = 256;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(r#type: &str, payload: &str) -> Vec<u8> {
        json!({"version": "0.1.0", "type": r#type, "payload": STANDARD.encode(payload)})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn upstream_message_is_read() {
        let values = ReferenceValues::parse_message(
            br#"{"payload":"eyJsYXVuY2hfZGlnZXN0IjpbImFiY2RlIl19","type":"sample","version":"0.1.0"}"#,
            1_000,
        )
        .unwrap();
        assert_eq!(
            values.value("launch_digest", 1_000),
            Some(&json!(["abcde"]))
        );
    }

    #[test]
    fn expired_value_is_absent() {
        let values =
            ReferenceValues::parse_message(&message("sample", r#"{"svn":["1"]}"#), 1_000).unwrap();
        let end = 1_000 + DEFAULT_LIFE_SECONDS;
        assert!(values.value("svn", end - 1).is_some());
        assert_eq!(values.value("svn", end), None);
    }

    #[test]
    fn unsupported_extractor_is_refused_by_name() {
        let error = ReferenceValues::parse_message(&message("corim", "{}"), 0).unwrap_err();
        assert_eq!(
            error,
            ReferenceValueError::Type {
                actual: "corim".into()
            }
        );
    }

    #[test]
    fn empty_payload_is_refused() {
        assert!(matches!(
            ReferenceValues::parse_message(&message("sample", "{}"), 0),
            Err(ReferenceValueError::Count { actual: 0, .. })
        ));
    }

    #[test]
    fn payload_that_is_no_map_is_refused() {
        assert!(matches!(
            ReferenceValues::parse_message(&message("sample", "[1]"), 0),
            Err(ReferenceValueError::Malformed(_))
        ));
    }
}
