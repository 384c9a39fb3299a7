//! What a policy sees of one NVIDIA device: upstream's names and types, and below them ours.
//!
//! Ours are `verifier`, `driver_version` and `vbios_version` at the top, `rim_checked`, and, when that is true,
//! `measurements_match`. Whether the measurements are the maker's is known only then: without manifests a policy has
//! to compare `measurements` with reference values.

use serde_json::{Map, Value, json};

use super::abi::{Device, Field, Report};

pub(crate) fn claims(device: &Device, rim_checked: bool) -> Map<String, Value> {
    let report = &device.report;
    let mut claims = Map::new();
    claims.insert("verifier".into(), json!("local"));
    claims.insert("arch".into(), json!("Hopper"));
    if let Some(uuid) = &device.uuid {
        claims.insert("uuid".into(), json!(uuid));
    }
    if let Some(version) = report.text(Field::DriverVersion) {
        claims.insert("driver_version".into(), json!(version));
    }
    if let Some(version) = report.vbios_version() {
        claims.insert("vbios_version".into(), json!(version));
    }
    claims.insert("config".into(), Value::Object(config(report)));
    let measurements: Map<String, Value> = report
        .measurements
        .iter()
        .map(|(index, value)| (index.to_string(), json!(hex::encode(value))))
        .collect();
    claims.insert("measurements".into(), Value::Object(measurements));
    claims.insert("rim_checked".into(), json!(rim_checked));
    if rim_checked {
        claims.insert("measurements_match".into(), json!(true));
    }
    claims
}

/// The opaque data by name. A field that has none here is `opaque_<number>`.
fn config(report: &Report) -> Map<String, Value> {
    report
        .fields()
        .map(|(number, bytes)| {
            let name = NAMES
                .iter()
                .find(|(known, _)| *known == number)
                .map_or_else(
                    || format!("opaque_{number}"),
                    |(_, name)| (*name).to_owned(),
                );
            let value = match number {
                3 | 11 | 15 | 16 | 17 | 18 | 21 | 35 => text(bytes),
                6 => report.vbios_version().map_or(Value::Null, Value::String),
                12 => counts(bytes),
                34 => little_endian(bytes).map_or_else(|| json!(hex::encode(bytes)), |n| json!(n)),
                36 => json!(match little_endian(bytes) {
                    Some(0) => "SPT",
                    Some(1) => "MPT",
                    Some(2) => "PPCIE",
                    _ => "unknown",
                }),
                _ => json!(hex::encode(bytes)),
            };
            (name, value)
        })
        .collect()
}

fn text(bytes: &[u8]) -> Value {
    json!(String::from_utf8_lossy(bytes).trim_end_matches('\0'))
}

/// How often each measurement was extended, by its index from 1.
fn counts(bytes: &[u8]) -> Value {
    let (chunks, _) = bytes.as_chunks::<4>();
    let counts: Map<String, Value> = chunks
        .iter()
        .enumerate()
        .map(|(at, count)| ((at + 1).to_string(), json!(u32::from_le_bytes(*count))))
        .collect();
    Value::Object(counts)
}

fn little_endian(bytes: &[u8]) -> Option<u64> {
    let mut number = [0; 8];
    number.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(number))
}

const NAMES: [(u16, &str); 24] = [
    (1, "cert_issuer_name"),
    (2, "cert_authority_key_identifier"),
    (3, "driver_version"),
    (4, "gpu_info"),
    (5, "sku"),
    (6, "vbios_version"),
    (7, "manufacturer_id"),
    (8, "tamper_detection"),
    (9, "smc"),
    (10, "vpr"),
    (11, "nvdec0_status"),
    (12, "measurement_count"),
    (13, "cpr_info"),
    (14, "board_id"),
    (15, "chip_sku"),
    (16, "chip_sku_mod"),
    (17, "project"),
    (18, "project_sku"),
    (19, "project_sku_mod"),
    (20, "fwid"),
    (21, "protected_pcie_status"),
    (34, "opaque_data_version"),
    (35, "chip_info"),
    (36, "feature_flag"),
];
