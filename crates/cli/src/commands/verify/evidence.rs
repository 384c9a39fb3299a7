//! `strongroom verify evidence`: every check that the broker makes, over evidence in a file.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use strongroom_verifier::{Check, Expected, ExpectedInitdata, StepOutcome, VerifyError, Wanted};

use super::lines::{Line, Verdict, paragraphs};
use crate::commands::audit::moment;
use crate::commands::initdata;
use crate::evidence::{EvidenceArgs, Examined};
use crate::files;
use crate::outcome::Outcome;

/// Verify evidence as the broker does, and show every check: PASS, FAIL or SKIPPED.
///
/// The file holds what the platform's attester writes (JSON), or the report or quote itself. The exit code is 0 only
/// when every check passed: a skip is not a pass, unless --allow-skipped names it. The last line is the verdict, and
/// says VERIFIED (DEVELOPMENT) for what rests on no hardware.
#[derive(clap::Args)]
pub(super) struct VerifyEvidence {
    /// The evidence.
    file: PathBuf,

    #[command(flatten)]
    evidence: EvidenceArgs,

    /// The report data that the evidence must carry, in hex, or the file that holds it.
    #[arg(long, value_name = "HEX|@FILE", value_parser = parse_report_data)]
    report_data: Option<ReportData>,

    /// The init-data with which the machine must have been started.
    #[arg(long, value_name = "FILE", conflicts_with = "no_initdata")]
    initdata: Option<PathBuf>,

    /// The machine must have been started without init-data.
    #[arg(long)]
    no_initdata: bool,

    /// Checks that may be skipped, by the names that --json gives, such as ReportData,InitData.
    #[arg(long, value_name = "CHECK", value_delimiter = ',', value_parser = parse_check)]
    allow_skipped: Vec<Check>,
}

pub(super) fn run(args: &VerifyEvidence) -> anyhow::Result<Outcome> {
    let expected = args.expected()?;
    let examined = args.evidence.examine(&args.file, &expected)?;
    let lines = lines(&examined, &expected);
    let allowed: Vec<&str> = args
        .allow_skipped
        .iter()
        .map(|check| check.name())
        .collect();
    let verdict = Verdict::of(&lines, examined.examination.assurance, &allowed);
    let mut text = format!(
        "Evidence of platform {}, as of {}\n",
        examined.tee,
        moment(examined.at)
    );
    text.push_str(&paragraphs(&lines));
    text.push_str(&remarks(&verdict, &examined, &args.file));
    text.push_str(&verdict.line());
    let outcome = Outcome::new(text, document(&verdict, &examined, &lines));
    // The verdict is the last line.
    Ok(outcome.code(verdict.code()))
}

/// The steps of the evidence, with the options that would make those that were skipped.
pub(super) fn lines(examined: &Examined, expected: &Expected) -> Vec<Line> {
    let steps = examined.examination.steps.iter();
    steps
        .map(|step| {
            let why = match &step.outcome {
                StepOutcome::Skipped(why) => option(step.check, why, examined, expected),
                StepOutcome::Passed | StepOutcome::Failed(_) => None,
            };
            Line::of(step, why)
        })
        .collect()
}

impl VerifyEvidence {
    fn expected(&self) -> anyhow::Result<Expected> {
        let report_data = match &self.report_data {
            Some(ReportData::Bytes(bytes)) => Some(bytes.clone()),
            Some(ReportData::File(path)) => {
                let bytes = files::read_limited(path, MAX_REPORT_DATA as u64)?;
                anyhow::ensure!(!bytes.is_empty(), "{} is empty", path.display());
                Some(bytes.to_vec())
            }
            None => None,
        };
        let initdata = match (&self.initdata, self.no_initdata) {
            (Some(path), _) => ExpectedInitdata::Digest(initdata::read(path)?.digest()),
            (None, true) => ExpectedInitdata::None,
            (None, false) => ExpectedInitdata::Unknown,
        };
        Ok(Expected {
            report_data,
            initdata,
        })
    }
}

/// The option with which a check that was skipped is made.
fn option(
    check: Check,
    why: &str,
    examined: &Examined,
    expected: &Expected,
) -> Option<&'static str> {
    match check {
        Check::ReportData if expected.report_data.is_none() => Some("--report-data HEX"),
        Check::InitData if expected.initdata == ExpectedInitdata::Unknown => {
            Some("--initdata FILE or --no-initdata")
        }
        Check::TpmAkCertificate | Check::TpmAkAnchor => Some("--attestation-key FILE"),
        _ => {
            let mut missing = examined.missing.iter();
            missing
                .any(|wanted| why.contains(&wanted.to_string()))
                .then_some("--collateral DIR")
        }
    }
}

/// What would change the verdict.
pub(super) fn remarks(verdict: &Verdict, examined: &Examined, file: &Path) -> String {
    let mut lines = Vec::new();
    let fetch = format!(
        "To fetch it: {}   # then name the folder with --collateral",
        examined.fetch(file)
    );
    let needs = |wanted: &Wanted, what: &str| {
        format!(
            "{wanted} {what}: it belongs to {}",
            examined.place(wanted).display()
        )
    };
    if let Some(VerifyError::MissingCollateral { .. }) = &examined.examination.error {
        let required = examined
            .missing
            .iter()
            .filter(|wanted| wanted.is_required());
        lines.extend(required.map(|wanted| needs(wanted, "is missing")));
        lines.push(fetch);
    } else {
        if matches!(verdict, Verdict::Incomplete(_)) {
            let missing = examined.missing.iter();
            lines.extend(missing.map(|wanted| needs(wanted, "was not given")));
            if !examined.missing.is_empty() {
                lines.push(fetch);
            }
        }
        lines.extend(examined.development_hint().map(str::to_owned));
        lines.extend(verdict.remark());
    }
    lines.insert(0, "\n".to_owned());
    lines.push(String::new());
    lines.join("\n")
}

fn document(verdict: &Verdict, examined: &Examined, lines: &[Line]) -> Value {
    let examination = &examined.examination;
    let steps: Vec<Value> = lines.iter().map(Line::document).collect();
    let assurance = match verdict {
        Verdict::Refused => Value::Null,
        _ => json!(examination.assurance.as_str()),
    };
    let claims: Vec<Value> = examination
        .claims
        .iter()
        .map(|(tee, claims)| Value::Object(Map::from_iter([(tee.to_string(), json!(claims))])))
        .collect();
    let missing: Vec<Value> = examined
        .missing
        .iter()
        .map(|wanted| {
            json!({ "what": wanted.to_string(), "path": wanted.path(), "required": wanted.is_required() })
        })
        .collect();
    json!({
        "verdict": verdict.name(), "tee": examined.tee, "at": examined.at, "assurance": assurance,
        "steps": steps, "missing_collateral": missing, "claims": claims,
        "error": examination.error.as_ref().map(ToString::to_string),
    })
}

#[derive(Clone)]
enum ReportData {
    Bytes(Vec<u8>),
    File(PathBuf),
}

fn parse_report_data(text: &str) -> anyhow::Result<ReportData> {
    if let Some(path) = text.strip_prefix('@') {
        return Ok(ReportData::File(path.into()));
    }
    let bytes = hex::decode(text)
        .ok()
        .filter(|bytes| (1..=MAX_REPORT_DATA).contains(&bytes.len()))
        .with_context(|| format!("write 1 to {MAX_REPORT_DATA} bytes in hex, or @FILE"))?;
    Ok(ReportData::Bytes(bytes))
}

pub(super) fn parse_check(name: &str) -> anyhow::Result<Check> {
    let found = Check::ALL.iter().find(|check| check.name() == name);
    found
        .copied()
        .with_context(|| format!("there is no check {name:?}; --json gives the names"))
}

const MAX_REPORT_DATA: usize = 64;
