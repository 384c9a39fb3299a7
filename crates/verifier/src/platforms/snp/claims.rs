//! What a policy sees of `snp` evidence: upstream's names and types, and ours beside them.

use serde_json::{Map, Value, json};

use super::report::{Report, Signer};
use super::verify::VerifiedReport;
use crate::collateral::VcekTcb;

pub(crate) fn claims(report: &Report, verified: &VerifiedReport) -> Map<String, Value> {
    let mut claims = Map::new();
    let mut claim = |name: &str, value: Value| {
        claims.insert(name.to_owned(), value);
    };

    // Upstream's.
    claim("measurement", json!(hex::encode(report.measurement)));
    claim("policy_abi_major", json!(report.policy.abi_major()));
    claim("policy_abi_minor", json!(report.policy.abi_minor()));
    claim("policy_smt_allowed", json!(report.policy.smt_allowed()));
    claim("policy_migrate_ma", json!(report.policy.migrate_ma()));
    claim("policy_debug_allowed", json!(report.policy.debug_allowed()));
    claim("policy_single_socket", json!(report.policy.single_socket()));
    claim(
        "platform_smt_enabled",
        json!(report.platform_info.smt_enabled()),
    );
    claim(
        "platform_tsme_enabled",
        json!(report.platform_info.tsme_enabled()),
    );
    for (name, number) in components("reported_tcb", report.reported_tcb) {
        claim(&name, json!(number));
    }

    // Ours.
    for (prefix, tcb) in [
        ("current_tcb", report.current_tcb),
        ("committed_tcb", report.committed_tcb),
        ("launch_tcb", report.launch_tcb),
    ] {
        for (name, number) in components(prefix, tcb) {
            claim(&name, json!(number));
        }
    }
    claim("version", json!(report.version));
    claim("vmpl", json!(report.vmpl));
    claim("guest_svn", json!(report.guest_svn));
    claim("family_id", json!(hex::encode(report.family_id)));
    claim("image_id", json!(hex::encode(report.image_id)));
    claim("id_key_digest", json!(hex::encode(report.id_key_digest)));
    // Without the bit the field's content says nothing.
    if report.key_info.author_key() {
        claim(
            "author_key_digest",
            json!(hex::encode(report.author_key_digest)),
        );
    }
    claim("report_id", json!(hex::encode(report.report_id)));
    claim("report_id_ma", json!(hex::encode(report.report_id_ma)));
    claim("policy_cxl_allowed", json!(report.policy.cxl_allowed()));
    claim(
        "policy_mem_aes_256_xts",
        json!(report.policy.mem_aes_256_xts()),
    );
    claim("policy_rapl_disabled", json!(report.policy.rapl_disabled()));
    claim(
        "policy_ciphertext_hiding",
        json!(report.policy.ciphertext_hiding()),
    );
    claim(
        "policy_page_swap_disabled",
        json!(report.policy.page_swap_disabled()),
    );
    claim(
        "platform_ecc_enabled",
        json!(report.platform_info.ecc_enabled()),
    );
    claim(
        "platform_rapl_disabled",
        json!(report.platform_info.rapl_disabled()),
    );
    claim(
        "platform_ciphertext_hiding",
        json!(report.platform_info.ciphertext_hiding()),
    );
    claim(
        "platform_alias_check_complete",
        json!(report.platform_info.alias_check_complete()),
    );
    claim(
        "platform_tio_enabled",
        json!(report.platform_info.tio_enabled()),
    );
    claim("current_firmware", json!(report.current.to_string()));
    claim("committed_firmware", json!(report.committed.to_string()));
    if let Some((launch, current)) = report.mitigations {
        claim("launch_mit_vector", json!(launch));
        claim("current_mit_vector", json!(current));
    }
    claim("product", json!(verified.product.to_string()));
    claim("signer", json!(verified.signer.as_str()));
    claim("crl_checked", json!(verified.crl_checked));
    if verified.signer == Signer::Vcek {
        claim("chip_id", json!(hex::encode(report.hardware_id())));
    }
    claims
}

fn components(prefix: &str, tcb: VcekTcb) -> impl Iterator<Item = (String, u8)> {
    [
        ("bootloader", Some(tcb.bootloader)),
        ("microcode", Some(tcb.microcode)),
        ("snp", Some(tcb.snp)),
        ("tee", Some(tcb.tee)),
        ("fmc", tcb.fmc),
    ]
    .into_iter()
    .filter_map(move |(name, number)| number.map(|number| (format!("{prefix}_{name}"), number)))
}
