//! What a program that opens or encrypts images asks a key provider (ocicrypt's key provider protocol, `UnWrapKey` and
//! `WrapKey`), and the answers.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::ocicrypt::{Packet, PrivateOptions, WrapError};
use super::{FormatError, bounded_json};
use crate::b64;

/// Parses a request to unwrap: `{"op":"keyunwrap","keyunwrapparams":{"annotation":"<base64 of a packet>"}}`.
///
/// # Errors
/// [`FormatError`] when something else is asked for, or the packet cannot be read.
pub fn parse_unwrap(request: &[u8]) -> Result<Packet, FormatError> {
    let request: Request = bounded_json(WHAT, request, MAX_REQUEST)?;
    if request.op != "keyunwrap" {
        return Err(FormatError::invalid(
            WHAT,
            "only keyunwrap is answered: keys are wrapped by their owner",
        ));
    }
    let annotation = request
        .keyunwrapparams
        .and_then(|parameters| parameters.annotation)
        .ok_or_else(|| FormatError::invalid(WHAT, "it has no annotation to unwrap"))?;
    let packet = b64::std_decode(&annotation)
        .map_err(|_| FormatError::invalid(WHAT, "its annotation is not base64"))?;
    Packet::parse(&packet)
}

/// Whether a request is one to wrap a key, `{"op":"keywrap",...}`; anything else is for [`parse_unwrap`] to refuse.
pub fn is_wrap(request: &[u8]) -> bool {
    let request: Result<Request, FormatError> = bounded_json(WHAT, request, MAX_REQUEST);
    request.is_ok_and(|request| request.op == "keywrap")
}

/// A layer's key that is to be wrapped, and what the person who encrypts says about how.
#[derive(Debug)]
pub struct WrapRequest {
    /// The layer's private options.
    pub options: PrivateOptions,
    /// The words behind `provider:attestation-agent:`.
    pub parameters: String,
}

impl WrapRequest {
    /// Parses a request to wrap:
    /// `{"op":"keywrap","keywrapparams":{"ec":{"Parameters":{"attestation-agent":["<base64>"]}},"optsdata":"<base64>"}}`.
    /// ocicrypt's Go writes bytes as base64, its Rust as lists of numbers.
    ///
    /// # Errors
    /// [`FormatError`] when something else is asked for, or for another provider.
    pub fn parse(request: &[u8]) -> Result<Self, FormatError> {
        let invalid = |reason: &str| FormatError::invalid(WHAT, reason.to_owned());
        let request: Request = bounded_json(WHAT, request, MAX_REQUEST)?;
        let wrap = request
            .keywrapparams
            .filter(|_| request.op == "keywrap")
            .ok_or_else(|| invalid("it does not ask to wrap a key"))?;
        let named = wrap.ec.and_then(|ec| ec.parameters);
        let words = named.and_then(|mut named| named.remove(NAME));
        let [words] = <[Bytes; 1]>::try_from(words.unwrap_or_default())
            .map_err(|_| invalid("it has no parameters, or several, for attestation-agent"))?;
        let parameters = String::from_utf8(words.decoded()?.to_vec())
            .map_err(|_| invalid("its parameters are not UTF-8"))?;
        let options = wrap
            .optsdata
            .ok_or_else(|| invalid("it has no options to wrap"))?
            .decoded()?;
        Ok(Self {
            options: PrivateOptions::parse(&options)?,
            parameters,
        })
    }

    /// One of the parameters, which are written `keypath=FILE::keyid=kbs:///repository/type/tag::algorithm=A256GCM`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut pairs = self
            .parameters
            .split("::")
            .filter_map(|pair| pair.split_once('='));
        pairs.find_map(|(found, value)| (found == name).then_some(value))
    }
}

/// Writes the answer to a request to wrap: `{"keywrapresults":{"annotation":[…]}}`, the packet as a list of numbers.
///
/// # Errors
/// [`WrapError`] when the packet cannot be written.
pub fn wrapped(packet: &Packet) -> Result<Zeroizing<Vec<u8>>, WrapError> {
    let packet = serde_json::to_vec(packet).map_err(|_| WrapError::Encoding)?;
    Ok(numbers(br#"{"keywrapresults":{"annotation":["#, &packet))
}

/// Writes the answer to a request to unwrap: `{"keyunwrapresults":{"optsdata":[…]}}`, the private options as a list of
/// numbers.
pub fn unwrapped(options: &[u8]) -> Zeroizing<Vec<u8>> {
    numbers(br#"{"keyunwrapresults":{"optsdata":["#, options)
}

fn numbers(before: &[u8], bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    // Three digits and a comma each, so that nothing moves and leaves a copy behind.
    let mut answer = Zeroizing::new(Vec::with_capacity(
        bytes.len().saturating_mul(4).saturating_add(64),
    ));
    answer.extend_from_slice(before);
    for (at, byte) in (0_usize..).zip(bytes) {
        if at > 0 {
            answer.push(b',');
        }
        let digits = [byte / 100, byte / 10 % 10, byte % 10].map(|digit| b'0' + digit);
        let zeros = match byte {
            100.. => 0,
            10.. => 1,
            _ => 2,
        };
        answer.extend(digits.iter().skip(zeros));
    }
    answer.extend_from_slice(b"]}}");
    answer
}

#[derive(Deserialize)]
struct Request {
    op: String,
    keyunwrapparams: Option<Parameters>,
    keywrapparams: Option<Wrap>,
}

#[derive(Deserialize)]
struct Wrap {
    ec: Option<Ec>,
    optsdata: Option<Bytes>,
}

#[derive(Deserialize)]
struct Ec {
    #[serde(rename = "Parameters")]
    parameters: Option<BTreeMap<String, Vec<Bytes>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Bytes {
    Base64(String),
    Numbers(Vec<u8>),
}

impl Bytes {
    fn decoded(self) -> Result<Zeroizing<Vec<u8>>, FormatError> {
        match self {
            Self::Numbers(bytes) => Ok(Zeroizing::new(bytes)),
            Self::Base64(text) => b64::std_decode(&Zeroizing::new(text))
                .map(Zeroizing::new)
                .map_err(|_| FormatError::invalid(WHAT, "bytes in it are not base64")),
        }
    }
}

#[derive(Deserialize)]
struct Parameters {
    annotation: Option<String>,
    #[serde(rename = "dc")]
    _dc: Option<Value>,
}

const WHAT: &str = "key provider's request";

/// The provider, as the one who encrypts names it.
const NAME: &str = "attestation-agent";
const MAX_REQUEST: usize = 256 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::image::digest::Digest;

    #[test]
    fn upstream_request_is_answered_as_upstream_does() {
        let Some(vector) = crate::fixtures::json("guest/vectors/ocicrypt-unwrap.json") else {
            return;
        };
        let packet = parse_unwrap(vector["unwrap_request"].to_string().as_bytes()).unwrap();
        let kek = hex::decode(vector["kek_hex"].as_str().unwrap()).unwrap();
        let options = packet.open_with(&kek).unwrap();
        assert_eq!(
            hex::encode(&*options),
            vector["plaintext_hex"].as_str().unwrap()
        );
        let answer: Value = serde_json::from_slice(&unwrapped(&options)).unwrap();
        assert_eq!(answer, vector["unwrap_response"]);
    }

    #[test]
    fn every_byte_is_written_as_its_number() {
        let all: Vec<u8> = (0..=255).collect();
        let answer: Value = serde_json::from_slice(&unwrapped(&all)).unwrap();
        assert_eq!(
            answer["keyunwrapresults"]["optsdata"],
            serde_json::to_value(&all).unwrap()
        );
        let empty: Value = serde_json::from_slice(&unwrapped(b"")).unwrap();
        assert_eq!(empty["keyunwrapresults"]["optsdata"], serde_json::json!([]));
    }

    #[test]
    fn request_to_wrap_or_without_an_annotation_is_refused() {
        for bad in [
            r#"{"op":"keywrap","keywrapparams":{}}"#,
            r#"{"op":"keyunwrap"}"#,
            r#"{"op":"keyunwrap","keyunwrapparams":{"annotation":"!"}}"#,
            r#"{"op":"keyunwrap","keyunwrapparams":{"annotation":"e30="}}"#,
            "[]",
        ] {
            assert!(parse_unwrap(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn request_of_either_language_to_wrap_is_not_understood() {
        let options = PrivateOptions {
            key: Zeroizing::new([1; 32]),
            nonce: [2; 16],
            digest: Digest::sha256(b"layer"),
        };
        let options = options.to_json();
        let words = "keypath=/k::keyid=kbs:///a/b/c::algorithm=A256GCM";
        let request = |words: Value, options: Value| {
            serde_json::json!({
                "op": "keywrap",
                "keywrapparams": {
                    "ec": {"Parameters": {"attestation-agent": [words]}, "DecryptConfig": null},
                    "optsdata": options,
                },
                "keyunwrapparams": {"dc": null, "annotation": null},
            })
            .to_string()
        };
        let go = request(
            b64::std_encode(words).into(),
            b64::std_encode(&*options).into(),
        );
        let rust = request(
            serde_json::to_value(words.as_bytes()).unwrap(),
            serde_json::to_value(options.as_slice()).unwrap(),
        );
        for text in [go, rust] {
            assert!(is_wrap(text.as_bytes()));
            let asked = WrapRequest::parse(text.as_bytes()).unwrap();
            assert_eq!(asked.parameter("keyid"), Some("kbs:///a/b/c"));
            assert_eq!(asked.parameter("keypath"), Some("/k"));
            assert_eq!(asked.parameter("key"), None);
            let other = text.replace("attestation-agent", "other");
            assert!(WrapRequest::parse(other.as_bytes()).is_err());
            let packet = Packet::wrap("kbs:///a/b/c", &[7; 32], &asked.options).unwrap();
            let answer: Value = serde_json::from_slice(&wrapped(&packet).unwrap()).unwrap();
            let bytes: Vec<u8> =
                serde_json::from_value(answer["keywrapresults"]["annotation"].clone()).unwrap();
            assert!(Packet::parse(&bytes).unwrap().unwrap_with(&[7; 32]).is_ok());
        }
        assert!(!is_wrap(br#"{"op":"keyunwrap"}"#));
    }
}
