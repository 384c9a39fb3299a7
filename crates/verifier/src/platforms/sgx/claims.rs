//! What a policy sees of an enclave: the quote's fields by upstream's names, in hex; and `debug`, which is ours.

use serde_json::{Map, Value, json};

use crate::dcap::{EnclaveReport, PckChain, Quote};

/// The claims of an enclave's quote, before what collateral says of its platform.
pub(crate) fn claims(quote: &Quote, report: &EnclaveReport, pck: &PckChain) -> Map<String, Value> {
    let header = &quote.header;
    let [qe_svn_low, qe_svn_high, pce_svn_low, pce_svn_high] = header.reserved;
    let mut claims = Map::new();
    claims.insert(
        "header".into(),
        json!({
            "version": hex::encode(header.version.to_le_bytes()),
            "att_key_type": hex::encode(header.att_key_type.to_le_bytes()),
            "att_key_data_0": hex::encode(header.tee_type.to_le_bytes()),
            "qe_svn": hex::encode([qe_svn_low, qe_svn_high]),
            "pce_svn": hex::encode([pce_svn_low, pce_svn_high]),
            "vendor_id": hex::encode(header.vendor_id),
            "user_data": hex::encode(header.user_data),
        }),
    );
    claims.insert(
        "body".into(),
        json!({
            "cpu_svn": hex::encode(report.cpu_svn),
            "misc_select": hex::encode(report.misc_select),
            "reserved1": hex::encode(report.reserved1),
            "isv_ext_prod_id": hex::encode(report.isv_ext_prod_id),
            "attributes.flags": hex::encode(report.attributes_flags),
            "attributes.xfrm": hex::encode(report.attributes_xfrm),
            "mr_enclave": hex::encode(report.mr_enclave),
            "reserved2": hex::encode(report.reserved2),
            "mr_signer": hex::encode(report.mr_signer),
            "reserved3": hex::encode(report.reserved3),
            "config_id": hex::encode(report.config_id),
            "isv_prod_id": hex::encode(report.isv_prod_id),
            "isv_svn": hex::encode(report.isv_svn),
            "config_svn": hex::encode(report.config_svn),
            "reserved4": hex::encode(report.reserved4),
            "isv_family_id": hex::encode(report.isv_family_id),
            "report_data": hex::encode(report.report_data),
        }),
    );
    claims.insert("debug".into(), json!(report.is_debug()));
    if let Some(id) = pck.platform_instance_id() {
        claims.insert("platform_instance_id".into(), json!(id));
    }
    claims
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dcap::tests::recorded;

    #[test]
    fn recorded_quote_gives_upstreams_claims() {
        let Some(bytes) = recorded("verifier/test_data/occlum_quote.dat") else {
            return;
        };
        let quote = Quote::parse(&bytes).unwrap();
        let pck = PckChain::of(&quote).unwrap();
        let mut found = claims(&quote, quote.enclave_report().unwrap(), &pck);
        // Ours.
        assert_eq!(found.remove("debug"), Some(json!(true)));
        let zeros = |bytes: usize| "00".repeat(bytes);
        let expected = json!({
            "header": {
                "version": "0300",
                "att_key_type": "0200",
                "att_key_data_0": "00000000",
                "qe_svn": "0800",
                "pce_svn": "0d00",
                "vendor_id": "939a7233f79c4ca9940a0db3957f0607",
                "user_data": "dccde9b31ce8860548173bb4a2a57a1600000000",
            },
            "body": {
                "cpu_svn": "06060c0cffff00000000000000000000",
                "misc_select": "01000000",
                "reserved1": zeros(12),
                "isv_ext_prod_id": zeros(16),
                "attributes.flags": "0700000000000000",
                "attributes.xfrm": "e700000000000000",
                "mr_enclave": "8f173e4613ff05c52aaf04162d234edae8c9977eae47eb2299ae16a553011c68",
                "reserved2": zeros(32),
                "mr_signer": "83d719e77deaca1470f6baf62a4d774303c899db69020f9c70ee1dfc08c7ce9e",
                "reserved3": zeros(32),
                "config_id": zeros(64),
                "isv_prod_id": "0000",
                "isv_svn": "0000",
                "config_svn": "0000",
                "reserved4": zeros(42),
                "isv_family_id": zeros(16),
                "report_data": format!("74657374{}", zeros(60)),
            },
            "platform_instance_id": "7a3a6941065cd5060bd93d3db2cfc0c8",
        });
        assert_eq!(Value::Object(found), expected);
    }
}
