//! `strongroom verify`: what was recorded, checked again, offline.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Map, Value, json};
use strongroom_verifier::{
    Assurance, Check, Expected, ExpectedInitdata, Step, StepOutcome, VerifyError, Wanted,
};

use crate::commands::audit::moment;
use crate::commands::initdata;
use crate::evidence::{EvidenceArgs, Examined};
use crate::files;
use crate::outcome::Outcome;

/// Check what was recorded, offline: numbered steps, each with the clause it comes from.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Evidence(VerifyEvidence),
}

/// Verify evidence as the broker does, and show every check: PASS, FAIL or SKIPPED.
///
/// The file holds what the platform's attester writes (JSON), or the report or quote itself. The exit code is 0 only
/// when every check passed: a skip is not a pass, unless --allow-skipped names it. The last line is the verdict, and
/// says VERIFIED (DEVELOPMENT) for what rests on no hardware.
#[derive(clap::Args)]
struct VerifyEvidence {
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

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.action {
        Action::Evidence(args) => evidence(args),
    }
}

fn evidence(args: &VerifyEvidence) -> anyhow::Result<Outcome> {
    let expected = args.expected()?;
    let examined = args.evidence.examine(&args.file, &expected)?;
    let verdict = Verdict::new(&examined, &args.allow_skipped);
    let mut text = format!(
        "Evidence of platform {}, as of {}\n",
        examined.tee,
        moment(examined.at)
    );
    for (step, number) in examined.examination.steps.iter().zip(1..) {
        text.push_str(&paragraph(step, number));
    }
    text.push_str(&remarks(&verdict, &examined, &args.file));
    text.push_str(&verdict.line(&examined, &expected));
    let outcome = Outcome::new(text, document(&verdict, &examined));
    // The verdict is the last line.
    Ok(outcome.code(u8::from(!matches!(verdict, Verdict::Verified(_)))))
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

/// What all steps together come to.
enum Verdict {
    Verified(Assurance),
    /// Every check that was made held, and these were not made.
    Incomplete(Vec<Check>),
    Refused,
}

impl Verdict {
    fn new(examined: &Examined, allowed: &[Check]) -> Self {
        let examination = &examined.examination;
        if examination.error.is_some() {
            return Self::Refused;
        }
        let mut skipped: Vec<Check> = examination
            .steps
            .iter()
            .filter(|step| matches!(step.outcome, StepOutcome::Skipped(_)))
            .map(|step| step.check)
            .filter(|check| !allowed.contains(check))
            .collect();
        skipped.dedup();
        match skipped.is_empty() {
            true => Self::Verified(examination.assurance),
            false => Self::Incomplete(skipped),
        }
    }

    fn line(&self, examined: &Examined, expected: &Expected) -> String {
        match self {
            Self::Verified(Assurance::Hardware) => "VERIFIED".to_owned(),
            Self::Verified(Assurance::Development) => "VERIFIED (DEVELOPMENT)".to_owned(),
            Self::Refused => "NOT VERIFIED: a check failed".to_owned(),
            Self::Incomplete(skipped) => {
                let skipped: Vec<String> = skipped
                    .iter()
                    .map(|check| match option(*check, examined, expected) {
                        Some(option) => format!("{} ({option})", check.name()),
                        None => check.name().to_owned(),
                    })
                    .collect();
                format!("NOT VERIFIED: skipped {}", skipped.join(", "))
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Verified(_) => "verified",
            Self::Incomplete(_) => "incomplete",
            Self::Refused => "refused",
        }
    }
}

/// The option with which a check that was skipped is made.
fn option(check: Check, examined: &Examined, expected: &Expected) -> Option<&'static str> {
    let wants_collateral = || {
        let mut steps = examined.examination.steps.iter();
        let step = steps.find(|step| step.check == check);
        let (_, Some(why)) = word(step?) else {
            return None;
        };
        let mut missing = examined.missing.iter();
        missing
            .any(|wanted| why.contains(&wanted.to_string()))
            .then_some("--collateral DIR")
    };
    match check {
        Check::ReportData if expected.report_data.is_none() => Some("--report-data HEX"),
        Check::InitData if expected.initdata == ExpectedInitdata::Unknown => {
            Some("--initdata FILE or --no-initdata")
        }
        Check::TpmAkCertificate | Check::TpmAkAnchor => Some("--attestation-key FILE"),
        _ => wants_collateral(),
    }
}

fn names(checks: &[Check]) -> Vec<&'static str> {
    checks.iter().map(|check| check.name()).collect()
}

fn paragraph(step: &Step, number: usize) -> String {
    let (word, detail) = word(step);
    // The error begins with what the line above it says.
    let detail = detail.map(|detail| {
        let said = format!("{}: ", step.check.sentence());
        detail.strip_prefix(&said).unwrap_or(detail)
    });
    let mut text = format!(
        "\n{number:>2}  {word:<8} {}\n             [{}]",
        step.check.sentence(),
        step.check.clause()
    );
    if let Some(detail) = detail {
        text.push_str(&format!("\n             {detail}"));
    }
    text
}

fn word(step: &Step) -> (&'static str, Option<&str>) {
    match &step.outcome {
        StepOutcome::Passed => ("PASS", None),
        StepOutcome::Failed(why) => ("FAIL", Some(why)),
        StepOutcome::Skipped(why) => ("SKIPPED", Some(why)),
    }
}

/// What would change the verdict.
fn remarks(verdict: &Verdict, examined: &Examined, file: &Path) -> String {
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
        lines.push(fetch.clone());
    } else if matches!(verdict, Verdict::Refused) {
        lines.push("The checks after it were not made.".to_owned());
    }
    if let Verdict::Incomplete(skipped) = verdict {
        lines.extend(
            examined
                .missing
                .iter()
                .map(|wanted| needs(wanted, "was not given")),
        );
        if !examined.missing.is_empty() {
            lines.push(fetch.clone());
        }
        lines.push(format!(
            "To do without: --allow-skipped {}",
            names(skipped).join(",")
        ));
    }
    lines.insert(0, "\n".to_owned());
    lines.push(String::new());
    lines.join("\n")
}

fn document(verdict: &Verdict, examined: &Examined) -> Value {
    let examination = &examined.examination;
    let steps: Vec<Value> = examination
        .steps
        .iter()
        .map(|step| {
            let (word, detail) = word(step);
            json!({
                "check": step.check.name(), "outcome": word, "sentence": step.check.sentence(),
                "clause": step.check.clause(), "detail": detail,
            })
        })
        .collect();
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

fn parse_check(name: &str) -> anyhow::Result<Check> {
    let found = Check::ALL.iter().find(|check| check.name() == name);
    found
        .copied()
        .with_context(|| format!("there is no check {name:?}; --json gives the names"))
}

const MAX_REPORT_DATA: usize = 64;
