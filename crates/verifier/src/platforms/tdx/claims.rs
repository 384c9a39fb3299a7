//! What a policy sees of a TD: the quote's fields by upstream's names, hex where they are bytes.

use serde_json::{Map, Value, json};

use crate::dcap::{PckChain, Quote, TdReport};
use crate::event_log::EventLog;

/// The claims of a TD's quote, before what collateral says of its platform.
pub(crate) fn claims(
    quote: &Quote,
    report: &TdReport,
    pck: &PckChain,
    event_log: Option<&EventLog>,
) -> Map<String, Value> {
    let header = &quote.header;
    let mut claims = Map::new();
    let mut quote_claims = json!({
        "header": {
            "version": hex::encode(header.version.to_le_bytes()),
            "att_key_type": hex::encode(header.att_key_type.to_le_bytes()),
            "tee_type": hex::encode(header.tee_type.to_le_bytes()),
            "reserved": hex::encode(header.reserved),
            "vendor_id": hex::encode(header.vendor_id),
            "user_data": hex::encode(header.user_data),
        },
        "body": body(report),
    });
    if let (Some((kind, size)), Some(members)) = (quote.descriptor, quote_claims.as_object_mut()) {
        members.insert("type".into(), json!(hex::encode(kind.to_le_bytes())));
        members.insert("size".into(), json!(hex::encode(size.to_le_bytes())));
    }
    claims.insert("quote".into(), quote_claims);
    claims.insert("td_attributes".into(), td_attributes(report));
    if let Some(id) = pck.platform_instance_id() {
        claims.insert("platform_instance_id".into(), json!(id));
    }
    if let Some(log) = event_log {
        claims.insert("uefi_event_logs".into(), log.claims());
    }
    claims
}

fn body(report: &TdReport) -> Value {
    let [rtmr_0, rtmr_1, rtmr_2, rtmr_3] = report.rtmrs.map(hex::encode);
    let mut body = json!({
        "tcb_svn": hex::encode(report.tcb_svn),
        "mr_seam": hex::encode(report.mr_seam),
        "mrsigner_seam": hex::encode(report.mrsigner_seam),
        "seam_attributes": hex::encode(report.seam_attributes),
        "td_attributes": hex::encode(report.td_attributes),
        "xfam": hex::encode(report.xfam),
        "mr_td": hex::encode(report.mr_td),
        "mr_config_id": hex::encode(report.mr_config_id),
        "mr_owner": hex::encode(report.mr_owner),
        "mr_owner_config": hex::encode(report.mr_owner_config),
        "rtmr_0": rtmr_0,
        "rtmr_1": rtmr_1,
        "rtmr_2": rtmr_2,
        "rtmr_3": rtmr_3,
        "report_data": hex::encode(report.report_data),
    });
    if let (Some((svn, service_td)), Some(members)) = (&report.tdx15, body.as_object_mut()) {
        members.insert("tee_tcb_svn2".into(), json!(hex::encode(svn)));
        members.insert("mr_servicetd".into(), json!(hex::encode(service_td)));
    }
    body
}

/// Intel TDX Module ABI, ATTRIBUTES.
fn td_attributes(report: &TdReport) -> Value {
    let attributes = u64::from_le_bytes(report.td_attributes);
    let bit = |number: u32| attributes & (1 << number) != 0;
    json!({
        "debug": report.is_debug(),
        "septve_disable": bit(28),
        "protection_keys": bit(30),
        "key_locker": bit(31),
        "perfmon": bit(63),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dcap::tests::recorded;

    fn read(name: &str) -> Option<(Quote, PckChain)> {
        let quote = Quote::parse(&recorded(&format!("verifier/test_data/{name}"))?).unwrap();
        let pck = PckChain::of(&quote).unwrap();
        Some((quote, pck))
    }

    #[test]
    fn recorded_quote_and_log_give_upstreams_claims() {
        let Some((quote, pck)) = read("tdx_quote_4.dat") else {
            return;
        };
        let log = recorded("verifier/test_data/CCEL_data").unwrap();
        let log = EventLog::parse(&log).unwrap();
        let report = quote.td_report().unwrap();
        let mut found = claims(&quote, report, &pck, Some(&log));
        // A verdict carries these two beside the platform's own claims.
        found.insert("report_data".into(), json!(hex::encode(report.report_data)));
        found.insert("init_data".into(), json!(hex::encode(report.mr_config_id)));
        let expected = recorded("verifier/test_data/parse_tdx_claims_expected.json").unwrap();
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        assert_eq!(Value::Object(found), expected);
    }

    #[test]
    fn quote_of_version_5_has_its_body_type_and_the_fields_of_tdx_1_5() {
        let Some((quote, pck)) = read("tdx_quote_5.dat") else {
            return;
        };
        let found = Value::Object(claims(&quote, quote.td_report().unwrap(), &pck, None));
        assert_eq!(found["quote"]["type"], "0300");
        assert_eq!(found["quote"]["size"], "88020000");
        assert_eq!(found["quote"]["header"]["version"], "0500");
        assert_eq!(found["td_attributes"]["debug"], false);
        for member in ["tee_tcb_svn2", "mr_servicetd"] {
            assert!(found["quote"]["body"][member].is_string(), "{member}");
        }
        assert!(found.get("uefi_event_logs").is_none());
    }

    #[test]
    fn debug_td_says_so() {
        let Some((quote, pck)) = read("tdx_quote_4.dat") else {
            return;
        };
        let found = Value::Object(claims(&quote, quote.td_report().unwrap(), &pck, None));
        assert_eq!(found["td_attributes"]["debug"], true);
    }

    #[test]
    fn init_data_register_is_mr_config_id() {
        let Some((quote, _)) = read("tdx_quote_6.dat") else {
            return;
        };
        let report = quote.td_report().unwrap();
        let register = hex::encode(report.mr_config_id);
        assert!(register.starts_with("889abf47") && register.ends_with("ed67"));
        assert!(hex::encode(report.report_data).starts_with("26cae1c7"));
        assert_eq!(report.report_data[48..], [0; 16]);
    }
}
