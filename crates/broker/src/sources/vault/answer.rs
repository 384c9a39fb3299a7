//! What a Vault answers, decoded: a KV version 2 secret, a renewed token, an error.
//!
//! A value is a string, and its bytes are the secret; one that begins with `base64:` stands for the bytes that follow,
//! in the standard or the URL-safe alphabet, padded or not. What is not asked for stays undecoded.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// One key of a secret.
pub(super) struct Value {
    pub(super) content: Zeroizing<Vec<u8>>,
    /// The secret's version.
    pub(super) version: u64,
}

/// Reads the answer to `GET <mount>/data/<path>` of status 200: the value under `key`, if there is one.
pub(super) fn secret(body: &[u8], key: &str, limit: usize) -> Result<Option<Value>, Unfit> {
    let answer: Read<'_> = serde_json::from_slice(body).map_err(|_| Unfit::Shape)?;
    let version = answer.data.metadata.version;
    let Some(raw) = answer.data.data.as_ref().and_then(|data| data.get(key)) else {
        return Ok(None);
    };
    let text: Zeroizing<String> = serde_json::from_str(raw.get()).map_err(|_| Unfit::NotAString)?;
    let content = match text.strip_prefix(BASE64) {
        Some(encoded) => decode(encoded).ok_or(Unfit::Base64)?,
        None => Zeroizing::new(text.as_bytes().to_vec()),
    };
    match content.len() {
        0 => Err(Unfit::Empty),
        length if length > limit => Err(Unfit::TooLarge(limit)),
        _ => Ok(Some(Value { content, version })),
    }
}

/// Reads an answer of status 404: whether it says that the secret, or its newest version, is not there.
///
/// # Errors
/// What it says instead: that there is no such mount, or no such namespace.
pub(super) fn absent(body: &[u8]) -> Result<(), String> {
    if let Ok(Errors { errors: Some(said) }) = serde_json::from_slice(body) {
        return match said.first() {
            None => Ok(()),
            Some(said) => Err(one_line(said)),
        };
    }
    // A deleted version has its metadata still.
    match serde_json::from_slice::<Read<'_>>(body) {
        Ok(Read {
            data: Versioned { data: None, .. },
        }) => Ok(()),
        _ => Err("no reason that a Vault gives".to_owned()),
    }
}

/// The first of the errors in a body, for the broker's owner.
pub(super) fn error(body: &[u8]) -> Option<String> {
    let Errors { errors } = serde_json::from_slice(body).ok()?;
    errors?.first().map(|said| one_line(said))
}

/// The answer to `POST auth/token/renew-self`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub(super) struct Lease {
    /// How many seconds the token is good for from now; 0 is for ever.
    pub(super) lease_duration: u64,
    pub(super) renewable: bool,
}

/// Reads what a renewal gave.
pub(super) fn lease(body: &[u8]) -> Option<Lease> {
    let Renewed { auth } = serde_json::from_slice(body).ok()?;
    Some(auth)
}

/// Reads what `GET sys/internal/ui/mounts/<mount>` says of the engine: its kind and, of a KV engine, its version.
pub(super) fn engine(body: &[u8]) -> Option<(String, String)> {
    let Mounted { data } = serde_json::from_slice(body).ok()?;
    let version = data
        .options
        .and_then(|mut options| options.remove("version"));
    Some((
        one_line(&data.kind),
        version.map_or_else(String::new, |v| one_line(&v)),
    ))
}

/// Why an answer gives no secret.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("its answer is not that of a KV version 2 engine")]
    Shape,
    #[error("the value is no string: store text, or base64: and the bytes in base64")]
    NotAString,
    #[error("the value begins with base64: and what follows is not base64")]
    Base64,
    #[error("the value is empty, and a resource has at least one byte")]
    Empty,
    #[error("the value has more than {0} bytes")]
    TooLarge(usize),
}

#[derive(Deserialize)]
struct Read<'a> {
    #[serde(borrow)]
    data: Versioned<'a>,
}

#[derive(Deserialize)]
struct Versioned<'a> {
    #[serde(borrow)]
    data: Option<BTreeMap<String, &'a RawValue>>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    version: u64,
}

#[derive(Deserialize)]
struct Errors {
    errors: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Renewed {
    auth: Lease,
}

#[derive(Deserialize)]
struct Mounted {
    data: Mount,
}

#[derive(Deserialize)]
struct Mount {
    #[serde(rename = "type")]
    kind: String,
    options: Option<BTreeMap<String, String>>,
}

fn decode(encoded: &str) -> Option<Zeroizing<Vec<u8>>> {
    let url_safe = encoded.bytes().any(|b| matches!(b, b'-' | b'_'));
    let engine = if url_safe { &URL_SAFE } else { &STANDARD };
    engine.decode(encoded).ok().map(Zeroizing::new)
}

/// Somebody else's words, for a log: short, and without control characters.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>();
    line.join(" ").chars().take(MAX_SAID).collect()
}

const BASE64: &str = "base64:";
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
const MAX_SAID: usize = 200;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(data: &serde_json::Value) -> Result<Option<(Vec<u8>, u64)>, Unfit> {
        let body =
            json!({"data": {"data": data, "metadata": {"version": 7}}, "auth": null}).to_string();
        let value = secret(body.as_bytes(), "key", 8)?;
        Ok(value.map(|value| (value.content.to_vec(), value.version)))
    }

    #[test]
    fn text_and_marked_base64_are_mixed_up() {
        for (value, content) in [
            ("a\"\n\u{e9}", "a\"\n\u{e9}".as_bytes()),
            ("base64:AAEC", &[0, 1, 2]),
            ("base64:AAE=", &[0, 1]),
            ("base64:AAE", &[0, 1]),
            ("base64:+/8=", &[0xfb, 0xff]),
            ("base64:-_8", &[0xfb, 0xff]),
            ("AAEC", b"AAEC"),
            ("BASE64:A", b"BASE64:A"),
        ] {
            assert_eq!(
                read(&json!({ "key": value })),
                Ok(Some((content.to_vec(), 7))),
                "{value}"
            );
        }
    }

    #[test]
    fn value_that_is_no_secret_is_released() {
        for (value, reason) in [
            (json!(5), Unfit::NotAString),
            (json!(null), Unfit::NotAString),
            (json!(["a"]), Unfit::NotAString),
            (json!({"a": "b"}), Unfit::NotAString),
            (json!(""), Unfit::Empty),
            (json!("base64:"), Unfit::Empty),
            (json!("base64:A"), Unfit::Base64),
            (json!("base64:AA\n=="), Unfit::Base64),
            (json!("base64:+_8="), Unfit::Base64),
            (json!("123456789"), Unfit::TooLarge(8)),
        ] {
            assert_eq!(read(&json!({ "key": value })), Err(reason), "{value}");
        }
    }

    #[test]
    fn other_key_or_no_data_is_not_the_secret() {
        assert_eq!(read(&json!({"Key": "a", "key ": "b"})), Ok(None));
        assert_eq!(read(&json!(null)), Ok(None));
    }

    #[test]
    fn answer_of_something_else_is_read() {
        for body in [
            "",
            "{}",
            "null",
            "<html>",
            // As KV version 1 answers.
            r#"{"data":{"key":"a"}}"#,
            r#"{"data":{"data":{"key":"a"}}}"#,
            r#"{"data":{"data":{"key":"a"},"metadata":{"version":-1}}}"#,
            r#"{"data":{"data":{"key":"a"},"metadata":{"version":1}}} x"#,
        ] {
            assert_eq!(
                secret(body.as_bytes(), "key", 8).err(),
                Some(Unfit::Shape),
                "{body}"
            );
        }
    }

    #[test]
    fn mount_that_is_not_there_is_taken_for_a_secret_that_is_not() {
        assert_eq!(absent(br#"{"errors":[]}"#), Ok(()));
        let deleted = br#"{"data":{"data":null,"metadata":{"version":1,"destroyed":false}}}"#;
        assert_eq!(absent(deleted), Ok(()));
        let wrong =
            br#"{"errors":["no handler for route \"nope/data/x\". route entry not found."]}"#;
        assert!(absent(wrong).unwrap_err().starts_with("no handler"));
        assert!(absent(b"<html>404").is_err());
        let there = br#"{"data":{"data":{},"metadata":{"version":1}}}"#;
        assert!(absent(there).is_err());
    }

    #[test]
    fn words_of_the_server_run_over_lines_or_pages() {
        let body = json!({"errors": [format!("1 error:\n\t* a\u{1b}[31m {}", "x".repeat(999))]});
        let said = error(body.to_string().as_bytes()).unwrap();
        assert!(said.starts_with("1 error: * a [31m x"), "{said}");
        assert_eq!(said.chars().count(), MAX_SAID);
        assert_eq!(error(b"sealed"), None);
    }

    #[test]
    fn lease_and_engine_are_read() {
        let body = br#"{"auth":{"client_token":"s.x","lease_duration":60,"renewable":true}}"#;
        let renewed = Lease {
            lease_duration: 60,
            renewable: true,
        };
        assert_eq!(lease(body), Some(renewed));
        assert_eq!(lease(br#"{"auth":null}"#), None);
        let body = br#"{"data":{"type":"kv","options":{"version":"1"},"path":"secret/"}}"#;
        assert_eq!(engine(body), Some(("kv".into(), "1".into())));
        let body = br#"{"data":{"type":"transit","options":null}}"#;
        assert_eq!(engine(body), Some(("transit".into(), String::new())));
    }
}
