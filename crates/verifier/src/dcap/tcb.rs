//! What the collateral says of a platform, as claims: names and types of upstream's, and some of ours.

use dcap_qvl::{PckCertFlag, QuoteClaims, TcbStatus};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The claims. `collateral_expiration_status` is always `"0"`: collateral that has expired is refused.
pub(super) fn claims(quote: &QuoteClaims, now: u64) -> Map<String, Value> {
    let platform = &quote.platform;
    let pck = &platform.pck;
    let mut claims = Map::new();
    let mut insert = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    insert("tcb_status", json!(quote.tcb.status.to_string()));
    insert("tcb_date", date(platform.tcb_date_tag));
    insert("advisory_ids", json!(quote.tcb.advisory_ids));
    insert("tcb_eval_num", json!(quote.tcb.eval_data_number));
    insert("collateral_expiration_status", json!("0"));
    insert("earliest_issue_date", date(quote.earliest_issue_date));
    insert("latest_issue_date", date(quote.latest_issue_date));
    insert(
        "earliest_expiration_date",
        date(quote.earliest_expiration_date),
    );
    insert("pck_crl_num", json!(platform.pck_crl_num));
    insert("root_ca_crl_num", json!(platform.root_ca_crl_num));
    insert("root_key_id", json!(hex::encode(&platform.root_key_id)));
    insert("platform_provider_id", json!(hex::encode(&pck.ppid)));
    insert(
        "sgx_type",
        match pck.sgx_type {
            0 => json!("Standard"),
            1 => json!("Scalable"),
            2 => json!("Scalable with Integrity"),
            other => json!(format!("Unknown ({other})")),
        },
    );
    if pck.sgx_type > 0 {
        let flag = |flag: PckCertFlag| json!(flag == PckCertFlag::True);
        insert("is_dynamic_platform", flag(pck.dynamic_platform));
        insert("is_cached_keys", flag(pck.cached_keys));
        insert("is_smt_enabled", flag(pck.smt_enabled));
    }
    if let Some(level) = &platform.current_tcb_level {
        insert("tcb_status_current", json!(level.tcb_status.to_string()));
        insert("tcb_date_current", json!(level.tcb_date));
        insert("advisory_ids_current", json!(level.advisory_ids));
    }
    // Ours.
    insert(
        "tcb_age_days",
        json!(now.saturating_sub(oldest_date(quote)) / SECONDS_OF_A_DAY),
    );
    insert("fmspc", json!(hex::encode(pck.fmspc)));
    insert(
        "qe_tcb_status",
        json!(quote.qe.tcb_level.tcb_status.to_string()),
    );
    insert("qe_tcb_date", json!(quote.qe.tcb_level.tcb_date));
    insert("qe_advisory_ids", json!(quote.qe.tcb_level.advisory_ids));
    claims
}

/// Since when what the status is about may be out of date. `dcap-qvl` dates the platform's level by the older of the
/// platform and its TDX module; a quoting enclave that is not up to date counts by its own level's date, or it would be
/// tolerated for as long as the platform below it is kept fresh.
fn oldest_date(quote: &QuoteClaims) -> u64 {
    let platform = quote.platform.tcb_date_tag;
    let level = &quote.qe.tcb_level;
    if level.tcb_status == TcbStatus::UpToDate {
        return platform;
    }
    // A date that cannot be read is as old as can be.
    let enclave = OffsetDateTime::parse(&level.tcb_date, &Rfc3339)
        .ok()
        .and_then(|date| u64::try_from(date.unix_timestamp()).ok())
        .unwrap_or_default();
    platform.min(enclave)
}

fn date(seconds: u64) -> Value {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .map_or(Value::Null, Value::String)
}

const SECONDS_OF_A_DAY: u64 = 24 * 60 * 60;
