//! `keyprovider.KeyProviderService`: the keys of encrypted images, asked for by ocicrypt in its key provider protocol.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use strongroom_wire::image::ocicrypt::Packet;
use zeroize::Zeroizing;

use super::{Code, Refusal};
use crate::attestation::Agent;
use crate::data::resource::Source;
use crate::image::{LayerError, unwrap_layer_key};

#[derive(Deserialize)]
struct Input {
    op: String,
    keyunwrapparams: Option<UnwrapParameters>,
}

#[derive(Deserialize)]
struct UnwrapParameters {
    annotation: Annotation,
}

/// Go writes bytes as base64, and some versions of the Rust library as numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Annotation {
    Base64(String),
    Numbers(Vec<u8>),
}

/// Opens the packet of a layer with a key of the broker.
pub(super) async fn unwrap(agent: &Agent, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let packet = annotation(input).map_err(|text| Refusal::new(Code::InvalidArgument, text))?;
    if !packet.is_for_kbs() {
        return Err(Refusal::new(
            Code::Unimplemented,
            "the packet's key is held by another provider than a broker (kbs)",
        ));
    }
    let source = Source::Agent(agent.clone());
    let options = unwrap_layer_key(&packet, Some(&source)).await?;
    output(&options.to_json())
        .ok_or_else(|| Refusal::new(Code::Internal, "the key's options have no JSON form"))
}

/// The packet in an input. Never-panic entry for untrusted input.
pub(crate) fn annotation(input: &[u8]) -> Result<Packet, String> {
    let input: Input = serde_json::from_slice(input)
        .map_err(|error| format!("KeyProviderKeyWrapProtocolInput: {error}"))?;
    if input.op != "keyunwrap" {
        return Err("UnWrapKey carries out the op keyunwrap only".to_owned());
    }
    let bytes = match input
        .keyunwrapparams
        .map(|parameters| parameters.annotation)
    {
        Some(Annotation::Base64(text)) => STANDARD
            .decode(text.trim())
            .map_err(|_| "keyunwrapparams.annotation is not base64".to_owned())?,
        Some(Annotation::Numbers(bytes)) => bytes,
        None => return Err("keyunwrapparams is missing".to_owned()),
    };
    Packet::parse(&bytes).map_err(|error| error.to_string())
}

/// Numbers, which both Go's and Rust's library read as bytes. Written here, so that no copy stays behind.
fn output(options: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    #[derive(Serialize)]
    struct Output<'a> {
        keyunwrapresults: Results<'a>,
    }
    #[derive(Serialize)]
    struct Results<'a> {
        optsdata: &'a [u8],
    }
    let room = options.len().checked_mul(4)?.checked_add(64)?;
    let mut json = Zeroizing::new(Vec::with_capacity(room));
    let output = Output {
        keyunwrapresults: Results { optsdata: options },
    };
    serde_json::to_writer(&mut *json, &output).ok()?;
    Some(json)
}

impl From<LayerError> for Refusal {
    fn from(error: LayerError) -> Self {
        match error {
            LayerError::Key { source, .. } => (*source).into(),
            error @ LayerError::Unwrap { .. } => {
                Self::new(Code::FailedPrecondition, error.to_string())
            }
            error => Self::new(Code::Internal, error.to_string()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn annotation_in_either_form_of_bytes_is_not_read() {
        let packet = br#"{"kid":"kbs:///a/b/c","wrapped_data":"AA=="}"#;
        let numbers = serde_json::to_string(packet.as_slice()).unwrap();
        let text = format!("\"{}\"", STANDARD.encode(packet));
        for annotation_json in [text, numbers] {
            let input = format!(
                r#"{{"op":"keyunwrap","keyunwrapparams":{{"annotation":{annotation_json}}}}}"#
            );
            assert_eq!(annotation(input.as_bytes()).unwrap().kid, "kbs:///a/b/c");
        }
    }

    #[test]
    fn input_that_asks_for_something_else_is_carried_out() {
        for (bad, word) in [
            ("", "ProtocolInput"),
            (r#"{"op":"keywrap"}"#, "keyunwrap only"),
            (r#"{"op":"keyunwrap"}"#, "missing"),
            (
                r#"{"op":"keyunwrap","keyunwrapparams":{"annotation":"*"}}"#,
                "not base64",
            ),
        ] {
            let text = annotation(bad.as_bytes()).unwrap_err();
            assert!(text.contains(word), "{bad}: {text}");
        }
    }

    #[test]
    fn output_is_not_the_protocols() {
        let json = output(b"{}").unwrap();
        assert_eq!(
            json.as_slice(),
            br#"{"keyunwrapresults":{"optsdata":[123,125]}}"#
        );
    }
}
