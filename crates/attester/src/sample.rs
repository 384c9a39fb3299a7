//! The `sample` platform of the KBS protocol: evidence without hardware, for tests and development.
//!
//! Upstream's two members, in its order, and one of ours: `init_data`, which stands for the launch register.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::AttestError;

#[derive(Serialize)]
struct SampleEvidence {
    #[serde(skip_serializing_if = "Option::is_none")]
    init_data: Option<String>,
    report_data: String,
    svn: &'static str,
}

pub(crate) fn evidence(
    report_data: &[u8],
    initdata_digest: Option<&[u8]>,
) -> Result<Box<RawValue>, AttestError> {
    let evidence = SampleEvidence {
        init_data: initdata_digest.map(|digest| STANDARD.encode(digest)),
        report_data: STANDARD.encode(report_data),
        svn: "1",
    };
    to_raw_value(&evidence).map_err(|_| AttestError::Json)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn without_initdata_it_is_upstreams_byte_for_byte() {
        assert_eq!(
            evidence(b"abc", None).unwrap().get(),
            r#"{"report_data":"YWJj","svn":"1"}"#
        );
    }

    #[test]
    fn initdata_digest_is_standard_base64() {
        let evidence = evidence(b"abc", Some(&[0xfb; 3])).unwrap();
        assert_eq!(
            evidence.get(),
            r#"{"init_data":"+/v7","report_data":"YWJj","svn":"1"}"#
        );
    }
}
