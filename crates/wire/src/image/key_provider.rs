//! What a program that opens images asks a key provider (ocicrypt's key provider protocol, `UnWrapKey`), and the answer.

use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::ocicrypt::Packet;
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

/// Writes the answer: `{"keyunwrapresults":{"optsdata":[…]}}`, the private options as a list of numbers.
pub fn unwrapped(options: &[u8]) -> Zeroizing<Vec<u8>> {
    // Three digits and a comma each, so that nothing moves and leaves a copy behind.
    let mut answer = Zeroizing::new(Vec::with_capacity(
        options.len().saturating_mul(4).saturating_add(64),
    ));
    answer.extend_from_slice(br#"{"keyunwrapresults":{"optsdata":["#);
    for (at, byte) in (0_usize..).zip(options) {
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
}

#[derive(Deserialize)]
struct Parameters {
    annotation: Option<String>,
    #[serde(rename = "dc")]
    _dc: Option<Value>,
}

const WHAT: &str = "key provider's request";
const MAX_REQUEST: usize = 256 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
}
