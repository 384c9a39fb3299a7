//! Sample evidence as JSON: `{"svn":"1","report_data":"<base64>"}`, as upstream's attester writes it.
//!
//! Ours may add `"init_data":"<base64 digest>"`, which stands for the register that a hardware platform has.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use strongroom_wire::tee::Tee;

use crate::VerifyError;

/// Sample evidence, parsed and not believed.
#[derive(Clone, Debug)]
pub(crate) struct SampleEvidence {
    /// `sample`, or `sampledevice` for a device without hardware.
    pub(crate) tee: Tee,
    pub(crate) svn: String,
    pub(crate) report_data: Vec<u8>,
    pub(crate) init_data: Option<Vec<u8>>,
}

impl SampleEvidence {
    pub(crate) fn parse(tee: Tee, json: &[u8]) -> Result<Self, VerifyError> {
        if json.len() > MAX_BYTES {
            return Err(malformed(
                tee,
                format!("{} bytes, at most {MAX_BYTES}", json.len()),
            ));
        }
        let text: Text = serde_json::from_slice(json).map_err(|e| malformed(tee, e.to_string()))?;
        if text.svn.is_empty() || text.svn.len() > MAX_SVN {
            return Err(malformed(
                tee,
                format!("svn has {} bytes, wanted 1 to {MAX_SVN}", text.svn.len()),
            ));
        }
        let report_data = decode(tee, "report_data", &text.report_data)?;
        if report_data.is_empty() || report_data.len() > MAX_REPORT_DATA {
            return Err(malformed(
                tee,
                format!(
                    "report_data has {} bytes, wanted 1 to {MAX_REPORT_DATA}",
                    report_data.len()
                ),
            ));
        }
        let init_data = text
            .init_data
            .map(|t| decode(tee, "init_data", &t))
            .transpose()?;
        if let Some(digest) = &init_data
            && ![32, 48, 64].contains(&digest.len())
        {
            return Err(malformed(
                tee,
                format!(
                    "init_data has {} bytes, wanted a digest of 32, 48 or 64",
                    digest.len()
                ),
            ));
        }
        Ok(Self {
            tee,
            svn: text.svn,
            report_data,
            init_data,
        })
    }
}

#[derive(Deserialize)]
struct Text {
    svn: String,
    report_data: String,
    #[serde(default)]
    init_data: Option<String>,
}

fn decode(tee: Tee, member: &str, text: &str) -> Result<Vec<u8>, VerifyError> {
    STANDARD
        .decode(text)
        .map_err(|e| malformed(tee, format!("{member} is not standard base64: {e}")))
}

fn malformed(tee: Tee, detail: String) -> VerifyError {
    VerifyError::Malformed { tee, detail }
}

const MAX_BYTES: usize = 16 * 1024;
const MAX_SVN: usize = 32;
const MAX_REPORT_DATA: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> String {
        SampleEvidence::parse(Tee::Sample, json.as_bytes())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn upstream_form_parses() {
        let evidence =
            SampleEvidence::parse(Tee::Sample, br#"{"report_data":"YWJj","svn":"1"}"#).unwrap();
        assert_eq!(
            (evidence.svn.as_str(), evidence.report_data.as_slice()),
            ("1", b"abc".as_slice())
        );
        assert!(evidence.init_data.is_none());
    }

    #[test]
    fn init_data_of_a_wrong_length_is_refused() {
        assert!(
            refusal(r#"{"svn":"1","report_data":"YWJj","init_data":"YWJj"}"#)
                .contains("32, 48 or 64")
        );
    }

    #[test]
    fn missing_member_is_refused() {
        assert!(refusal(r#"{"svn":"1"}"#).contains("report_data"));
    }

    #[test]
    fn numeric_svn_is_refused() {
        assert!(
            refusal(r#"{"svn":1,"report_data":"YWJj"}"#).contains("svn")
                || !refusal(r#"{"svn":1,"report_data":"YWJj"}"#).is_empty()
        );
    }

    #[test]
    fn empty_report_data_is_refused() {
        assert!(refusal(r#"{"svn":"1","report_data":""}"#).contains("report_data has 0 bytes"));
    }

    #[test]
    fn oversized_evidence_is_refused_before_parsing() {
        assert!(refusal(&" ".repeat(MAX_BYTES + 1)).contains("at most"));
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        refusal(&"[".repeat(10_000));
    }
}
