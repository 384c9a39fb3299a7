//! Messages of type `swid`: a manifest of measurements as NVIDIA publishes it for a driver or a VBIOS.
//!
//! The names are upstream's: `NVIDIA_Corporation.GPU.measurement_12`, with the index of the manifest, which counts
//! from 0 where a report counts from 1. A measurement that is not active, or whose every value is zero, is left out.

use serde_json::{Value, json};

use super::{Extracted, ReferenceValueError, malformed};
use crate::rim::Rim;

pub(super) fn extract(payload: &[u8]) -> Result<Extracted, ReferenceValueError> {
    let rim = Rim::parse(payload).map_err(malformed)?;
    let prefix = format!("{}.{}", rim.manufacturer, rim.edition).replace('-', "_");
    Ok(rim
        .measurements
        .iter()
        .filter(|(_, golden)| golden.active)
        .filter_map(|(index, golden)| {
            let values: Vec<Value> = golden
                .values
                .iter()
                .filter(|value| value.iter().any(|byte| *byte != 0))
                .map(|value| json!(hex::encode(value)))
                .collect();
            let name = format!("{prefix}.measurement_{index}");
            (!values.is_empty()).then_some((name, Value::Array(values)))
        })
        .collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::rim::forge;

    #[test]
    fn real_manifest_gives_upstreams_names() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/fixtures/trustee/rvps/src/extractors/swid/test-rim.b64"
        );
        let Ok(text) = std::fs::read_to_string(path) else {
            assert!(
                !std::path::Path::new(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/../../../shared/fixtures"
                ))
                .is_dir(),
                "what this test reads is missing from a folder of fixtures that is there"
            );
            println!("SKIPPED: no NVIDIA manifest beside the checkout");
            return;
        };
        let values = extract(&STANDARD.decode(text.trim()).unwrap()).unwrap();
        let twelfth = values["NVIDIA_Corporation.GPU.measurement_12"]
            .as_array()
            .unwrap();
        assert_eq!(
            twelfth[0],
            json!(
                "758af96044c700f98a85347be27124d51c05b8784ba216b629b9aaab6d538c759aed9922a133e4ac473564d359b271d5"
            )
        );
        assert_eq!(twelfth.len(), 3, "the zeros are no value");
        assert!(!values.contains_key("NVIDIA_Corporation.GPU.measurement_0"));
        assert!(!values.contains_key("NVIDIA_Corporation.GPU.measurement_7"));
        assert!(
            values
                .keys()
                .all(|name| name.starts_with("NVIDIA_Corporation.GPU.measurement_"))
        );
    }

    #[test]
    fn zeros_and_what_is_not_active_are_no_values() {
        let manifest = forge::manifest(
            "1",
            &[
                (0, true, &[&[0; 48]]),
                (1, false, &[&[1; 48]]),
                (2, true, &[&[0; 48], &[2; 48], &[3; 48]]),
            ],
        );
        let values = extract(manifest.as_bytes()).unwrap();
        assert_eq!(
            values.into_iter().collect::<Vec<_>>(),
            [(
                "NVIDIA_Corporation.GPU.measurement_2".to_owned(),
                json!(["02".repeat(48), "03".repeat(48)])
            )]
        );
    }

    #[test]
    fn bombs_are_refused() {
        let entities = "<!DOCTYPE a [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]><SoftwareIdentity>&b;</SoftwareIdentity>";
        let nested = "<SoftwareIdentity>".repeat(10_000);
        let wide = format!(
            "<SoftwareIdentity>{}</SoftwareIdentity>",
            "<a/>".repeat(100_000)
        );
        let long = " ".repeat(1024 * 1024);
        for bomb in [entities, &nested, &wide, &long] {
            assert!(matches!(
                extract(bomb.as_bytes()),
                Err(ReferenceValueError::Malformed(_))
            ));
        }
    }
}
