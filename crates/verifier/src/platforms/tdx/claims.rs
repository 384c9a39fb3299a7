//! What a policy sees of a TD: the quote's fields by upstream's names, hex where they are bytes.

use serde_json::{Map, Value, json};

use crate::dcap::{PckChain, Quote, TdReport};

/// The claims of a TD's quote, before what collateral says of its platform.
pub(crate) fn claims(quote: &Quote, report: &TdReport, pck: &PckChain) -> Map<String, Value> {
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
    if let Some(id) = &pck.extension.platform_instance_id {
        claims.insert("platform_instance_id".into(), json!(hex::encode(id)));
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
