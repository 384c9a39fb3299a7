//! `strongroom reference-value diff`: which claims drifted between two evidences, and what that touches.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde_json::{Value, json};
use strongroom_verifier::{Expected, VerifyError};

use super::list;
use crate::evidence::{EvidenceArgs, Examined};
use crate::outcome::Outcome;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The evidence of before.
    before: PathBuf,
    /// The evidence of after.
    after: PathBuf,

    #[command(flatten)]
    evidence: EvidenceArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let before = examined(args, &args.before)?;
    let after = examined(args, &args.after)?;
    if before.tee != after.tee {
        bail!(
            "{} is evidence of platform {} and {} of {}: their claims cannot be compared",
            args.before.display(),
            before.tee,
            args.after.display(),
            after.tee
        );
    }
    let tee = before.tee.as_str();
    let drifts = drifts(tee, &flat(&before.claims()), &flat(&after.claims()));
    let document = json!({
        "tee": tee,
        "drifts": drifts.iter().map(Drift::document).collect::<Vec<_>>(),
    });
    if drifts.is_empty() {
        return Ok(Outcome::new(
            format!(
                "Both {tee} evidences make the same claims: what is good for one is good for the other."
            ),
            document,
        ));
    }
    let lines: Vec<String> = drifts.iter().map(Drift::text).collect();
    let concerned: BTreeSet<&str> = drifts
        .iter()
        .flat_map(|drift| drift.reference_values.iter().map(String::as_str))
        .collect();
    let end = match concerned.is_empty() {
        true => "No reference value of the shipped policies is concerned.".to_owned(),
        false => format!(
            "Reference values to look at before the later machine is let in: {}",
            concerned.iter().copied().collect::<Vec<_>>().join(", ")
        ),
    };
    let mut outcome = Outcome::new(format!("{}\n\n{end}", lines.join("\n")), document);
    for name in concerned {
        outcome = outcome.next(format!("strongroom reference-value get {name}"));
    }
    Ok(outcome)
}

/// Claims come only from evidence whose checks hold; what was not given to compare with is left out.
fn examined(args: &Args, file: &Path) -> anyhow::Result<Examined> {
    let examined = args.evidence.examine(file, &Expected::default())?;
    match &examined.examination.error {
        None => Ok(examined),
        Some(VerifyError::MissingCollateral { wanted }) => bail!(
            "{} cannot be verified without {wanted}, which belongs to {}. To fetch it: `{}`, then name the folder with --collateral",
            file.display(),
            examined.place(wanted).display(),
            examined.fetch(file)
        ),
        Some(error) => bail!(
            "{} does not verify, so its claims mean nothing: {error}. `strongroom verify evidence {}` shows every check",
            file.display(),
            file.display()
        ),
    }
}

/// One claim that is not the same in both.
struct Drift {
    claim: String,
    before: Value,
    after: Value,
    meaning: Option<&'static str>,
    reference_values: BTreeSet<String>,
}

impl Drift {
    fn text(&self) -> String {
        let shown = |value: &Value| match value {
            Value::Null => "absent".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let mut text = format!(
            "{}\n    before  {}\n    after   {}",
            self.claim,
            shown(&self.before),
            shown(&self.after)
        );
        if let Some(meaning) = self.meaning {
            text.push_str(&format!("\n    {meaning}"));
        }
        if !self.reference_values.is_empty() {
            let names: Vec<&str> = self.reference_values.iter().map(String::as_str).collect();
            text.push_str(&format!("\n    reference value {}", names.join(", ")));
        }
        text
    }

    fn document(&self) -> Value {
        json!({
            "claim": self.claim, "before": self.before, "after": self.after,
            "meaning": self.meaning, "reference_values": self.reference_values,
        })
    }
}

fn drifts(
    tee: &str,
    before: &BTreeMap<String, Value>,
    after: &BTreeMap<String, Value>,
) -> Vec<Drift> {
    let asked = list::asked();
    let claims: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    claims
        .into_iter()
        .filter_map(|claim| {
            let value =
                |side: &BTreeMap<String, Value>| side.get(claim).cloned().unwrap_or_default();
            let (before, after) = (value(before), value(after));
            if before == after {
                return None;
            }
            let full = format!("{tee}.{claim}");
            let reference_values = asked
                .iter()
                .filter(|(_, claims)| claims.iter().any(|asked| covers(asked, &full)))
                .map(|(name, _)| name.clone())
                .collect();
            Some(Drift {
                meaning: meaning(claim),
                claim: full,
                before,
                after,
                reference_values,
            })
        })
        .collect()
}

/// Whether a claim is the one that a policy looks at, or a member of it.
fn covers(asked: &str, claim: &str) -> bool {
    claim
        .strip_prefix(asked)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Every claim by its path, lists as one value.
fn flat(claims: &Value) -> BTreeMap<String, Value> {
    fn into(path: &str, value: &Value, flat: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    let path = match path {
                        "" => name.clone(),
                        path => format!("{path}.{name}"),
                    };
                    into(&path, value, flat);
                }
            }
            other => {
                flat.insert(path.to_owned(), other.clone());
            }
        }
    }
    let mut all = BTreeMap::new();
    into("", claims, &mut all);
    all
}

/// What a change of a claim says, in words, by the last part of its name.
fn meaning(claim: &str) -> Option<&'static str> {
    let last = claim.rsplit('.').next().unwrap_or(claim);
    MEANINGS
        .iter()
        .find(|(parts, _)| parts.iter().any(|part| last.starts_with(part)))
        .map(|(_, meaning)| *meaning)
}

/// How the last part of a claim's name begins, and what another value means. The first that fits counts.
const MEANINGS: [(&[&str], &str); 16] = [
    (
        &["measurement", "launch_digest"],
        "another firmware, kernel, initrd, command line, vCPU count or vCPU type was launched",
    ),
    (&["mr_td"], "another TD firmware (TDVF) was launched"),
    (
        &["rtmr_0", "pcr00", "pcr01", "pcr02", "pcr03"],
        "the firmware, or its configuration, is another one",
    ),
    (
        &["rtmr_1", "pcr04", "pcr05"],
        "the boot loader or the kernel is another one",
    ),
    (
        &["rtmr_2", "pcr09", "pcr11", "pcr12"],
        "the kernel's command line, the initrd or a unified kernel image is another one",
    ),
    (
        &["pcr07", "pcr14"],
        "Secure Boot is set otherwise, or lets other keys sign",
    ),
    (
        &["rtmr_3", "pcr10"],
        "the guest measured other things while it ran",
    ),
    (
        &["host_data", "mr_config_id", "init_data", "config_id"],
        "the machine was started with other init-data",
    ),
    (
        &["pcr08"],
        "the machine was started with other init-data, or its boot loader ran other commands",
    ),
    (
        &[
            "advisory_ids",
            "tcb_status",
            "tcb_date",
            "collateral_expiration_status",
        ],
        "the vendor judges the platform's level otherwise",
    ),
    (
        &[
            "reported_tcb",
            "current_tcb",
            "committed_tcb",
            "launch_tcb",
            "tcb_",
            "tee_tcb",
            "svn",
            "current_firmware",
            "committed_firmware",
        ],
        "the platform's firmware or microcode was updated, or is older",
    ),
    (
        &[
            "policy",
            "debug",
            "td_attributes",
            "xfam",
            "platform_smt",
            "platform_tsme",
        ],
        "what the guest or its host may do is set otherwise",
    ),
    (
        &["chip_id", "platform_instance_id", "vmUniqueId"],
        "it is another machine",
    ),
    (
        &[
            "report_data",
            "report_id",
            "nonce",
            "clock",
            "reset_count",
            "restart_count",
        ],
        "differs between any two evidences, or two starts",
    ),
    (
        &["user_data_bound", "evidence_version"],
        "the evidence has another form",
    ),
    (
        &["uefi_event_logs"],
        "the boot was logged otherwise; the registers above say which part counts",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_reported_without_the_value_that_it_concerns() {
        let before = flat(
            &json!({"launch_digest": "a", "platform_version": {"major": 1, "minor": 4}, "same": [1]}),
        );
        let after = flat(
            &json!({"launch_digest": "b", "platform_version": {"major": 1, "minor": 5}, "same": [1]}),
        );
        let drifts = drifts("sample", &before, &after);
        let names: Vec<&str> = drifts.iter().map(|drift| drift.claim.as_str()).collect();
        assert_eq!(
            names,
            ["sample.launch_digest", "sample.platform_version.minor"]
        );
        assert!(drifts[0].reference_values.contains("launch_digest"));
        assert!(drifts[0].text().contains("firmware, kernel"));
        assert!(drifts[1].reference_values.contains("minimum_minor_version"));
    }

    #[test]
    fn claim_that_only_one_has_is_not_reported() {
        let only = flat(&json!({"a": 1}));
        let drifts = drifts("sample", &only, &BTreeMap::new());
        assert_eq!(drifts.len(), 1);
        assert!(drifts[0].text().contains("after   absent"));
    }

    #[test]
    fn longer_name_is_taken_for_the_one_that_a_policy_asks_for() {
        assert!(covers("snp.tcb", "snp.tcb.boot") && covers("snp.tcb", "snp.tcb"));
        assert!(!covers("snp.tcb", "snp.tcb_boot"));
    }
}
