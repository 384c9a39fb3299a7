//! The HCL report: what the paravisor of an Azure confidential VM writes into the vTPM's index 0x01400001
//! (Azure guest attestation, "HCL report"). Little-endian: a header of 32 bytes, 1184 bytes of the hardware's report,
//! a runtime header of 20, the variable data as JSON, and padding.
//!
//! Of all that the hardware signs its own report, and in it the digest of the variable data; the headers are nobody's
//! word.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::platforms::tpm::keys::rsa_key;
use crate::x509::PublicKey;

/// An HCL report, parsed and not believed.
#[derive(Clone, Debug)]
pub(crate) struct HclReport {
    /// The hardware's report: of SNP an attestation report, of TDX a TD report.
    pub(crate) hardware_report: Vec<u8>,
    /// 2 for SNP, 4 for TDX.
    pub(crate) report_type: u32,
    /// 1 for SHA-256.
    pub(crate) hash_type: u32,
    /// The bytes that the hardware's report binds.
    pub(crate) variable_data: Vec<u8>,
    /// `HCLAkPub`: the vTPM's attestation key.
    pub(crate) ak: PublicKey,
    /// How the VM is set up.
    pub(crate) vm_configuration: Map<String, Value>,
    /// What the guest had bound into the report.
    pub(crate) user_data: Option<Vec<u8>>,
}

impl HclReport {
    /// Parses a report. The error says which part is wrong.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_REPORT {
            return Err(format!("{} bytes, at most {MAX_REPORT}", bytes.len()));
        }
        let short = || format!("{} bytes are too few", bytes.len());
        let (header, rest) = bytes.split_at_checked(HEADER).ok_or_else(short)?;
        if !header.starts_with(SIGNATURE) {
            return Err("it does not begin with HCLA".to_owned());
        }
        let (hardware_report, rest) = rest.split_at_checked(HARDWARE_REPORT).ok_or_else(short)?;
        let (runtime, rest) = rest.split_at_checked(RUNTIME_HEADER).ok_or_else(short)?;
        let [size, _version, report_type, hash_type, length] = words(runtime);
        if u64::from(size) != u64::from(length) + RUNTIME_HEADER as u64 {
            return Err(format!(
                "the runtime data has {size} bytes, and its variable data {length}"
            ));
        }
        let variable_data = usize::try_from(length)
            .ok()
            .and_then(|length| rest.get(..length))
            .ok_or_else(|| {
                format!(
                    "the variable data has {length} bytes, of which {} are there",
                    rest.len()
                )
            })?;
        let parsed: VariableData =
            serde_json::from_slice(variable_data).map_err(|e| format!("variable data: {e}"))?;
        Ok(Self {
            hardware_report: hardware_report.to_vec(),
            report_type,
            hash_type,
            variable_data: variable_data.to_vec(),
            ak: attestation_key(&parsed.keys)?,
            vm_configuration: parsed.vm_configuration,
            user_data: parsed
                .user_data
                .map(hex::decode)
                .transpose()
                .map_err(|e| format!("user-data: {e}"))?,
        })
    }
}

#[derive(Deserialize)]
struct VariableData {
    keys: Vec<Jwk>,
    #[serde(default, rename = "vm-configuration")]
    vm_configuration: Map<String, Value>,
    #[serde(default, rename = "user-data")]
    user_data: Option<String>,
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    kty: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
}

/// The one RSA key with the id `HCLAkPub`.
fn attestation_key(keys: &[Jwk]) -> Result<PublicKey, String> {
    let mut found = keys.iter().filter(|key| key.kid == AK);
    let (Some(key), None) = (found.next(), found.next()) else {
        return Err(format!("variable data: not exactly one key {AK}"));
    };
    if key.kty != "RSA" {
        return Err(format!(
            "variable data: {AK} is of kind {:?}, not RSA",
            key.kty
        ));
    }
    let refused = |e: &dyn std::fmt::Display| format!("variable data: {AK} is no RSA key: {e}");
    let number = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|e| refused(&e));
    rsa_key(&number(&key.n)?, &number(&key.e)?).map_err(|e| refused(&e))
}

fn words(header: &[u8]) -> [u32; RUNTIME_HEADER / 4] {
    let mut words = [0; RUNTIME_HEADER / 4];
    for (word, bytes) in words.iter_mut().zip(header.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

const AK: &str = "HCLAkPub";
const SIGNATURE: &[u8] = b"HCLA";
const HEADER: usize = 32;
const HARDWARE_REPORT: usize = 1184;
const RUNTIME_HEADER: usize = 20;
/// The index holds 2600 bytes.
const MAX_REPORT: usize = 16 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn report(variable_data: &str) -> Vec<u8> {
        let length = u32::try_from(variable_data.len()).unwrap();
        let mut bytes = b"HCLA".to_vec();
        bytes.resize(HEADER + HARDWARE_REPORT, 0);
        for word in [length + 20, 1, 2, 1, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(variable_data.as_bytes());
        bytes.extend([0; 64]);
        bytes
    }

    fn refusal(bytes: &[u8]) -> String {
        HclReport::parse(bytes).unwrap_err()
    }

    const KEY: &str = r#"{"kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":"xv7_"}"#;

    #[test]
    fn attestation_key_and_padding_parse() {
        let parsed = HclReport::parse(&report(&format!(r#"{{"keys":[{KEY}]}}"#))).unwrap();
        assert_eq!((parsed.report_type, parsed.hash_type), (2, 1));
        assert_eq!(
            hex::encode(parsed.ak.bits().unwrap()),
            "300b020400c6feff0203010001".to_owned()
        );
    }

    #[test]
    fn every_truncation_is_refused() {
        let whole = report(&format!(r#"{{"keys":[{KEY}]}}"#));
        let end = whole.len() - 64;
        for length in 0..end {
            HclReport::parse(&whole[..length]).unwrap_err();
        }
        HclReport::parse(&whole[..end]).unwrap();
    }

    #[test]
    fn a_second_attestation_key_is_refused() {
        assert!(refusal(&report(&format!(r#"{{"keys":[{KEY},{KEY}]}}"#))).contains("exactly one"));
    }

    #[test]
    fn no_attestation_key_is_refused() {
        assert!(refusal(&report(r#"{"keys":[]}"#)).contains("exactly one"));
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let key = KEY.replace("RSA", "EC");
        assert!(refusal(&report(&format!(r#"{{"keys":[{key}]}}"#))).contains("not RSA"));
    }

    #[test]
    fn an_empty_modulus_is_refused() {
        let key = KEY.replace("xv7_", "");
        assert!(refusal(&report(&format!(r#"{{"keys":[{key}]}}"#))).contains("no RSA key"));
    }

    #[test]
    fn members_given_twice_are_refused() {
        let text = format!(r#"{{"keys":[{KEY}],"user-data":"00","user-data":"01"}}"#);
        assert!(refusal(&report(&text)).contains("duplicate"));
    }

    #[test]
    fn a_huge_length_is_refused() {
        let mut bytes = report(&format!(r#"{{"keys":[{KEY}]}}"#));
        let at = HEADER + HARDWARE_REPORT;
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes[at + 16..at + 20].copy_from_slice(&(u32::MAX - 20).to_le_bytes());
        assert!(refusal(&bytes).contains("of which"));
        bytes[at + 16..at + 20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(refusal(&bytes).contains("and its variable data"));
    }

    #[test]
    fn oversized_reports_are_refused_before_parsing() {
        assert!(refusal(&vec![0; MAX_REPORT + 1]).contains("at most"));
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        refusal(&report(&"[".repeat(10_000)));
    }
}
