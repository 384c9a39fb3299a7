//! `strongroom verify receipt`: which model scored which bytes into which result, inside which machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use strongroom_scoring::batch::Results;
use strongroom_scoring::receipt::{
    Digest, Digesting, Input, KeyFrom, OptionsUsed, Predicate, Protection, Receipt, ReceiptError,
    ResultsFor, ResultsFormat, Subject, UnverifiedReceipt,
};
use strongroom_verifier::{
    Assurance, Check, Evidence, Expected, ExpectedInitdata, StepOutcome, VerifyError,
    launched_claims, measurement_claim,
};
use strongroom_wire::ear::{EarClaims, Tier};
use strongroom_wire::initdata::Initdata;
use strongroom_wire::tee::Tee;

use super::evidence;
use super::lines::{Line, Verdict, paragraphs};
use super::record;
use super::token::{self, BrokerKeys, check, of_the_cpu};
use crate::commands::audit::moment;
use crate::commands::initdata;
use crate::commands::model::ModelArgs;
use crate::evidence::{EvidenceArgs, Examined};
use crate::files::{self, Existing};
use crate::keys::{GuestArgs, KeySource};
use crate::outcome::{Outcome, shown};

/// Verify a job's receipt: its signature, the machine behind its key, and the files that it names.
///
/// Each step is PASS, FAIL or SKIPPED, and nothing is asked over a network. The exit code is 0 only when every check
/// passed: a skip is not a pass, unless --allow-skipped names it. The last line is the verdict, and says VERIFIED
/// (DEVELOPMENT) for what rests on no hardware.
#[derive(clap::Args)]
pub(super) struct VerifyReceipt {
    /// The receipt, as `strongroom score --receipt` wrote it.
    file: PathBuf,

    /// The result, as it lies sealed, and a table's manifest beside it; with the receipt's name for it where the two differ.
    /// May be repeated.
    #[arg(long, value_name = "[NAME=]FILE")]
    result: Vec<String>,

    /// The model that must have scored: a packed model, a folder, or its digest (sha256:...).
    #[arg(long, value_name = "PATH|DIGEST")]
    model: Option<String>,

    /// The key of an encrypted model.
    #[arg(long, value_name = "FILE", requires = "model")]
    model_key: Option<PathBuf>,

    /// What the model was encrypted as [default: its name without ".enc"].
    #[arg(long, value_name = "NAME", requires = "model_key")]
    model_name: Option<String>,

    /// A file that must have been read, as it lies in storage; with the receipt's name for it where the two differ. May be
    /// repeated.
    #[arg(long, value_name = "[NAME=]FILE")]
    input: Vec<String>,

    /// What must have been launched, as the platform measures it; with the claim's name, such as quote.body.rtmr_1, where it
    /// is another than the launch measurement. Of one claim repeated, any; of several claims, all [default: what the
    /// broker's token affirms].
    #[arg(long, value_name = "[CLAIM=]HEX", value_parser = parse_measurement)]
    measurement: Vec<Launched>,

    /// Fail unless each input was under encryption that tells changed bytes.
    #[arg(long)]
    require_authenticated: bool,

    /// Fail unless a broker released the keys of every input, and the one that the results are under.
    #[arg(long)]
    require_broker_keys: bool,

    /// The init-data with which the machine must have been started.
    #[arg(long, value_name = "FILE", conflicts_with = "no_initdata")]
    initdata: Option<PathBuf>,

    /// The machine must have been started without init-data.
    #[arg(long)]
    no_initdata: bool,

    /// The broker's keys (a JWK set), its key or its certificate for tokens (PEM).
    #[arg(long, value_name = "JWKS|PEM")]
    broker_key: Option<PathBuf>,

    /// A copy of the broker's record, as `strongroom audit export` writes it: it must have every release.
    #[arg(long, value_name = "DIR", requires = "audit_key")]
    audit: Option<PathBuf>,

    /// The key that verifies the record: the broker's audit.pub, or the key itself.
    #[arg(long, value_name = "FILE|KEY", requires = "audit")]
    audit_key: Option<String>,

    /// The release policy that must have allowed each release, by the record: its text, or its digest (sha256:...).
    #[arg(long, value_name = "FILE|DIGEST", requires = "audit")]
    release_policy: Option<String>,

    /// Write the evidence in the receipt to this file, for `strongroom broker collateral fetch --evidence`.
    #[arg(long, value_name = "FILE")]
    keep_evidence: Option<PathBuf>,

    #[command(flatten)]
    evidence: EvidenceArgs,

    /// Checks that may be skipped, by the names that --json gives, such as Inputs,Releases.
    #[arg(long, value_name = "CHECK", value_delimiter = ',', value_parser = parse_check)]
    allow_skipped: Vec<&'static str>,
}

pub(super) fn run(args: &VerifyReceipt) -> anyhow::Result<Outcome> {
    let mut verification = Verification::default();
    match verification.make(args) {
        Ok(()) | Err(Stop::Failed) => {}
        Err(Stop::Unable(error)) => return Err(error),
    }
    let Verification {
        lines,
        receipt,
        examined,
        token,
        policies,
        ..
    } = verification;
    let assurance = examined
        .as_ref()
        .map_or(Assurance::Development, |examined| {
            examined.examination.assurance
        });
    let verdict = Verdict::of(&lines, assurance, &args.allow_skipped);
    let mut text = match &receipt {
        Some(receipt) => summary(receipt, &policies),
        None => "Receipt".to_owned(),
    };
    let measured = examined.as_ref().map(measurements).unwrap_or_default();
    for (claim, value) in &measured {
        text.push_str(&format!("\n  launched  {claim} {}", shown(value)));
    }
    let warnings = receipt.as_ref().map(warnings).unwrap_or_default();
    text.push_str(&format!("\n{}\n\n", paragraphs(&lines)));
    if let Some(examined) = &examined {
        text.push_str(&missing(examined, args, &verdict));
    }
    for warning in &warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    if let Some(remark) = verdict.remark() {
        text.push_str(&format!("{remark}\n"));
    }
    text.push_str(&verdict.line());
    let document = json!({
        "verdict": verdict.name(),
        "assurance": match &verdict {
            Verdict::Refused => Value::Null,
            _ => json!(assurance.as_str()),
        },
        "tee": examined.as_ref().map(|examined| examined.tee),
        "at": examined.as_ref().map(|examined| examined.at),
        "steps": lines.iter().map(Line::document).collect::<Vec<_>>(),
        "measurements": measured,
        "token_status": token.as_ref().map(statuses),
        "policies": policies,
        "warnings": warnings,
        "statement": receipt.as_ref().map(|receipt| &receipt.statement),
    });
    // The verdict is the last line.
    Ok(Outcome::new(text, document).code(verdict.code()))
}

/// Why no further step is made.
enum Stop {
    /// A step failed; it is in the list.
    Failed,
    /// What was named to compare with cannot be used.
    Unable(anyhow::Error),
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Unable(error)
    }
}

/// The steps so far, and what they gave.
#[derive(Default)]
struct Verification {
    lines: Vec<Line>,
    receipt: Option<Receipt>,
    examined: Option<Examined>,
    token: Option<EarClaims>,
    /// The init-data that the evidence was compared with.
    initdata: ExpectedInitdata,
    /// Whether the token is of a machine that was launched as this one.
    same_machine: bool,
    /// By the event of a release, the digest of the policy that allowed it, by the broker's record.
    policies: BTreeMap<String, String>,
}

impl Verification {
    fn make(&mut self, args: &VerifyReceipt) -> Result<(), Stop> {
        let receipt = self.signature(&args.file)?;
        if let Some(path) = &args.keep_evidence {
            let evidence = receipt.attestation.evidence.get();
            files::write(path, Existing::Replace, 0o644, evidence.as_bytes())?;
        }
        self.receipt = Some(receipt.clone());
        self.evidence(args, &receipt)?;
        self.configuration(args)?;
        self.token(args, &receipt)?;
        self.same_machine(&receipt)?;
        self.measurement(args)?;
        self.result(args, &receipt)?;
        self.model(args, &receipt)?;
        self.inputs(args, &receipt.statement.predicate)?;
        self.protection(args, &receipt.statement.predicate)?;
        self.releases(args, &receipt.statement.predicate)
    }

    fn signature(&mut self, file: &Path) -> Result<Receipt, Stop> {
        let bytes = files::read_limited(file, UnverifiedReceipt::MAX_BYTES as u64 + 1)?;
        let unverified = self.step(FORM, UnverifiedReceipt::parse(&bytes))?;
        let receipt = match unverified.verify() {
            Err(error @ ReceiptError::Signature) => return self.step(SIGNATURE, Err(error)),
            other => {
                self.step(SIGNATURE, Ok::<_, ReceiptError>(()))?;
                other
            }
        };
        self.step(STATEMENT, receipt)
    }

    /// Every check of the platform; that it binds the receipt's key is one of them.
    fn evidence(&mut self, args: &VerifyReceipt, receipt: &Receipt) -> Result<(), Stop> {
        let attestation = &receipt.attestation;
        let tee: Tee = match attestation.tee.parse() {
            Ok(tee) => tee,
            Err(error) => return self.step(STATEMENT, Err(error)),
        };
        if args.evidence.tee.is_some_and(|named| named != tee) {
            let why = format!("the receipt's evidence is of platform {tee}, not of the one named");
            return self.step(STATEMENT, Err(why));
        }
        self.initdata = match (&args.initdata, args.no_initdata, &attestation.initdata) {
            (Some(path), ..) => ExpectedInitdata::Digest(initdata::read(path)?.digest()),
            (None, true, _) => ExpectedInitdata::None,
            (None, false, Some(text)) => match Initdata::parse(text) {
                Ok(document) => ExpectedInitdata::Digest(document.digest()),
                Err(error) => {
                    let why = format!("the init-data in the receipt is none: {error}");
                    return self.step(STATEMENT, Err(why));
                }
            },
            (None, false, None) => ExpectedInitdata::None,
        };
        let expected = Expected {
            report_data: Some(receipt.report_data()),
            initdata: self.initdata.clone(),
        };
        let parsed = Evidence::parse(tee, attestation.evidence.get().as_bytes());
        let examined = args.evidence.examine_parsed(tee, parsed, &expected)?;
        for mut line in evidence::lines(&examined, &expected) {
            if line.name == Check::ReportData.name() {
                (line.sentence, line.clause) = BINDING;
            }
            self.lines.push(line);
        }
        let refused = examined.examination.error.is_some();
        self.examined = Some(examined);
        match refused {
            true => Err(Stop::Failed),
            false => Ok(()),
        }
    }

    /// What was launched is what the owner expects, and not merely what came along.
    fn configuration(&mut self, args: &VerifyReceipt) -> Result<(), Stop> {
        let checked = |line: &Line| {
            line.name == Check::InitData.name() && line.outcome == StepOutcome::Passed
        };
        let checked = self.lines.iter().any(checked);
        match (&args.initdata, args.no_initdata) {
            (None, false) => self.skip(
                CONFIGURATION,
                "the init-data in the receipt, or that it has none, was compared with the evidence, and not with what you \
                 expect",
                Some("--initdata FILE or --no-initdata"),
            ),
            (Some(_), _) if checked => self.pass(CONFIGURATION),
            // The evidence's own check says what there was to see.
            _ => {}
        }
        Ok(())
    }

    fn token(&mut self, args: &VerifyReceipt, receipt: &Receipt) -> Result<(), Stop> {
        let predicate = &receipt.statement.predicate;
        let Some(token) = &predicate.token else {
            self.skip(
                TOKEN,
                "the receipt has no token: the guest's own broker released nothing for the job",
                None,
            );
            return Ok(());
        };
        let Some(keys) = &args.broker_key else {
            self.skip(
                TOKEN,
                "no key of the broker was given",
                Some("--broker-key FILE"),
            );
            return Ok(());
        };
        let claims = BrokerKeys::read(keys)?.verify(token);
        let claims = self.step(TOKEN, claims)?;
        let overlaps = claims.iat <= predicate.finished.saturating_add(token::SKEW)
            && predicate.started < claims.exp.saturating_add(token::SKEW);
        let why = format!(
            "it was good from {} to {}, and the job ran from {} to {}",
            moment(claims.iat),
            moment(claims.exp),
            moment(predicate.started),
            moment(predicate.finished)
        );
        self.outcome(TOKEN_TIME, check(overlaps, why))?;
        let found = statuses(&claims);
        let bad = found.iter().find(|(_, status)| **status != AFFIRMING);
        self.token = Some(claims);
        match bad {
            None if !found.is_empty() => self.outcome(TOKEN_STATUS, StepOutcome::Passed),
            None => {
                let why = "it appraises nothing".to_owned();
                self.outcome(TOKEN_STATUS, StepOutcome::Failed(why))
            }
            Some((name, status)) => {
                let why = format!("its ear.status of {} is {status}", shown(name));
                self.outcome(TOKEN_STATUS, StepOutcome::Failed(why))
            }
        }
    }

    /// The broker's verdict was over a machine that was launched alike.
    fn same_machine(&mut self, receipt: &Receipt) -> Result<(), Stop> {
        let Some(claims) = self.token.take() else {
            if receipt.statement.predicate.token.is_some() {
                self.skip(
                    MACHINE,
                    "the token was not verified",
                    Some("--broker-key FILE"),
                );
            }
            return Ok(());
        };
        let outcome = compare_machines(&claims, self.examined.as_ref(), &self.initdata);
        self.token = Some(claims);
        match outcome {
            Ok(true) => {
                self.same_machine = true;
                self.outcome(MACHINE, StepOutcome::Passed)
            }
            Ok(false) => {
                let why = "the platform measures no launch";
                self.skip(MACHINE, why, None);
                Ok(())
            }
            Err(why) => self.outcome(MACHINE, StepOutcome::Failed(why)),
        }
    }

    /// What was launched is what you name, or else what the broker's reference values affirm.
    fn measurement(&mut self, args: &VerifyReceipt) -> Result<(), Stop> {
        let Some(examined) = &self.examined else {
            return Ok(());
        };
        if args.measurement.is_empty() {
            let executables = |claims: &EarClaims| {
                let cpu = claims.submods.get(token::CPU)?;
                Some(Tier::of(cpu.trust_vector.executables))
            };
            let affirmed = self.token.as_ref().and_then(executables) == Some(Tier::Affirming);
            if affirmed && self.same_machine {
                self.pass(MEASUREMENT);
            } else {
                self.skip(
                    MEASUREMENT,
                    "what was launched was not compared with what you expect, and no token that was verified affirms it",
                    Some("--measurement HEX"),
                );
            }
            return Ok(());
        }
        let compared = compare_launched(&examined.claims(), examined.tee, &args.measurement);
        self.step(MEASUREMENT, compared)
    }

    fn result(&mut self, args: &VerifyReceipt, receipt: &Receipt) -> Result<(), Stop> {
        let subjects = receipt.statement.subjects();
        let names: Vec<&str> = subjects.iter().map(Subject::name).collect();
        let given = named_results(&args.result, &names)?;
        for subject in subjects {
            let Some(path) = given.get(subject.name()) else {
                continue;
            };
            let (found, said) = (digest_of(path)?.sha256, subject.sha256());
            if found != said {
                let why = format!("{} has the SHA-256 {found}, not {said}", path.display());
                return self.outcome(RESULT, StepOutcome::Failed(why));
            }
        }
        let missing = names.into_iter().filter(|name| !given.contains_key(*name));
        let missing: Vec<String> = missing.map(shown).collect();
        if missing.is_empty() {
            return self.outcome(RESULT, StepOutcome::Passed);
        }
        let why = format!("not given: {}", missing.join(", "));
        self.skip(RESULT, why, Some("--result [NAME=]FILE"));
        Ok(())
    }

    fn model(&mut self, args: &VerifyReceipt, receipt: &Receipt) -> Result<(), Stop> {
        let Some(model) = &args.model else {
            self.skip(
                MODEL,
                "the model was not given",
                Some("--model PATH or DIGEST"),
            );
            return Ok(());
        };
        let found = match model.starts_with("sha256:") {
            true => model.clone(),
            false => args.load(model)?,
        };
        let said = &receipt.statement.predicate.model.digest;
        let why = format!("the model given is {}, and {said} scored", shown(&found));
        self.outcome(MODEL, check(found == *said, why))
    }

    fn inputs(&mut self, args: &VerifyReceipt, predicate: &Predicate) -> Result<(), Stop> {
        let names: Vec<&str> = predicate.inputs.iter().map(|it| &*it.name).collect();
        let given = named(&args.input, &names, "input")?;
        for (name, path) in &given {
            let said = predicate.inputs.iter().find(|input| &input.name == name);
            let found = digest_of(path)?;
            if !said.is_some_and(|said| said.is_file(&found)) {
                let why = format!("{} is not what was read as {}", path.display(), shown(name));
                return self.outcome(INPUTS, StepOutcome::Failed(why));
            }
        }
        let mut missing = predicate
            .inputs
            .iter()
            .filter(|input| !given.contains_key(&input.name));
        let first = missing.next();
        match (first, missing.count()) {
            (None, _) => self.outcome(INPUTS, StepOutcome::Passed),
            (Some(input), others) => {
                let more = match others {
                    0 => String::new(),
                    others => format!(", and {others} more"),
                };
                let why = format!("not given: {}{more}", shown(&input.name));
                self.skip(INPUTS, why, Some("--input [NAME=]FILE"));
                Ok(())
            }
        }
    }

    /// How the inputs were protected and where the keys came from is for you to require; without that it is a warning.
    fn protection(&mut self, args: &VerifyReceipt, predicate: &Predicate) -> Result<(), Stop> {
        match unauthenticated(predicate) {
            None => self.pass(PROTECTION),
            Some(why) if args.require_authenticated => {
                return self.outcome(PROTECTION, StepOutcome::Failed(why));
            }
            Some(_) => {}
        }
        match (args.require_broker_keys, key_of_no_broker(predicate)) {
            (true, Some(why)) => self.outcome(KEYS, StepOutcome::Failed(why)),
            (true, None) => self.outcome(KEYS, StepOutcome::Passed),
            (false, _) => Ok(()),
        }
    }

    fn releases(&mut self, args: &VerifyReceipt, predicate: &Predicate) -> Result<(), Stop> {
        if predicate.releases.is_empty() {
            const NONE: &str = "the receipt names no release";
            self.skip(RELEASES, NONE, None);
            if args.release_policy.is_some() {
                self.skip(RELEASE_POLICY, NONE, None);
            }
            return Ok(());
        }
        let (Some(folder), Some(key)) = (&args.audit, &args.audit_key) else {
            let why = "no copy of the broker's record was given";
            self.skip(RELEASES, why, Some("--audit DIR --audit-key FILE"));
            return Ok(());
        };
        let entries = record::entries(folder, key, &predicate.releases)?;
        let (here, elsewhere): (Vec<_>, Vec<_>) = predicate
            .releases
            .iter()
            .partition(|release| record::must_have(release, &entries));
        let mut other_key = None;
        let agree = here.iter().try_for_each(|release| {
            let same_key = record::agrees(release, &entries, self.token.as_ref())?;
            if !same_key {
                other_key.get_or_insert_with(|| shown(&release.resource));
            }
            Ok::<_, String>(())
        });
        let mut nameless = None;
        for release in &here {
            match record::policy(release, &entries) {
                Some((event, policy)) => drop(self.policies.insert(event, policy)),
                None => nameless = Some(shown(&release.resource)),
            }
        }
        let is_elsewhere = !elsewhere.is_empty();
        match (agree, elsewhere.first(), other_key) {
            (Ok(()), Some(release), _) => {
                let named = shown(&release.resource);
                let why = format!("the record of another broker would have the release of {named}");
                self.skip(RELEASES, why, Some("--audit DIR of that broker"));
                Ok(())
            }
            (Ok(()), None, Some(resource)) => {
                let why = format!(
                    "{resource} was released on a token that was not verified here, so to which key is not known"
                );
                self.skip(RELEASES, why, Some("--broker-key FILE"));
                Ok(())
            }
            (agree, ..) => self.step(RELEASES, agree),
        }?;
        if is_elsewhere && args.release_policy.is_some() {
            let why = "not every release is in the record that was given";
            self.skip(RELEASE_POLICY, why, Some("--audit DIR of that broker"));
            return Ok(());
        }
        self.release_policy(args, nameless)
    }

    fn release_policy(
        &mut self,
        args: &VerifyReceipt,
        nameless: Option<String>,
    ) -> Result<(), Stop> {
        let Some(policy) = &args.release_policy else {
            return Ok(());
        };
        let wanted = match policy.strip_prefix("sha256:") {
            Some(digest) => digest.to_owned(),
            None => digest_of(Path::new(policy))?.sha256,
        };
        let mut other = self.policies.iter().filter(|(_, found)| **found != wanted);
        let outcome = match (other.next(), nameless) {
            (None, Some(resource)) => StepOutcome::Failed(format!(
                "the record names no policy that released {resource}"
            )),
            (None, None) => StepOutcome::Passed,
            (Some((event, found)), _) => StepOutcome::Failed(format!(
                "event {event} was allowed by the policy sha256:{found}, and the one named is sha256:{wanted}"
            )),
        };
        self.outcome(RELEASE_POLICY, outcome)
    }

    fn step<T, E: ToString>(&mut self, kind: Kind, result: Result<T, E>) -> Result<T, Stop> {
        match result {
            Ok(value) => {
                self.pass(kind);
                Ok(value)
            }
            Err(error) => {
                let outcome = StepOutcome::Failed(error.to_string());
                self.lines.push(token::line(kind, outcome));
                Err(Stop::Failed)
            }
        }
    }

    fn outcome(&mut self, kind: Kind, outcome: StepOutcome) -> Result<(), Stop> {
        let failed = matches!(outcome, StepOutcome::Failed(_));
        self.lines.push(token::line(kind, outcome));
        match failed {
            true => Err(Stop::Failed),
            false => Ok(()),
        }
    }

    fn pass(&mut self, kind: Kind) {
        self.lines.push(token::line(kind, StepOutcome::Passed));
    }

    fn skip(&mut self, kind: Kind, why: impl Into<String>, mend: Option<&'static str>) {
        let line = token::line(kind, StepOutcome::Skipped(why.into()));
        self.lines.push(Line { mend, ..line });
    }
}

impl VerifyReceipt {
    fn load(&self, model: &str) -> anyhow::Result<String> {
        let args = ModelArgs {
            model: Some(model.into()),
            model_key: self.model_key.clone().map(KeySource::File),
            model_name: self.model_name.clone(),
            // A key in a file asks no guest.
            guest: GuestArgs::default(),
        };
        Ok(args.load()?.digest().to_owned())
    }
}

/// Whether a token and evidence speak of machines that were launched alike; `Ok(false)` when neither launch nor init-data
/// can be compared.
fn compare_machines(
    claims: &EarClaims,
    examined: Option<&Examined>,
    initdata: &ExpectedInitdata,
) -> Result<bool, String> {
    let Some(examined) = examined else {
        return Ok(false);
    };
    let tee = examined.tee;
    let Some(said) = of_the_cpu(claims, tee.as_str()) else {
        return Err(format!(
            "the token's {} is not of platform {tee}",
            token::CPU
        ));
    };
    let mut compared = false;
    let here_claims = examined.claims();
    for path in launched_claims(tee) {
        let at = |claims: &Value| {
            let found = path
                .iter()
                .try_fold(claims, |claims, name| claims.get(name));
            found.filter(|found| !found.is_null()).cloned()
        };
        let (broker, here) = (at(said), at(&here_claims));
        if broker != here || here.is_none() {
            return Err(format!(
                "{}: the token is of a machine that measured {}, the evidence of one that measured {}",
                path.join("."),
                broker.unwrap_or_default(),
                here.unwrap_or_default()
            ));
        }
        compared = true;
    }
    let digest = of_the_cpu(claims, "init_data_digest").and_then(Value::as_str);
    let expected = match initdata {
        ExpectedInitdata::Digest(digest) => Some(hex::encode(digest)),
        ExpectedInitdata::None => None,
        ExpectedInitdata::Unknown => return Ok(compared),
    };
    if digest != expected.as_deref() {
        return Err(format!(
            "the token is of a machine with init-data {}, the evidence of one with {}",
            digest.unwrap_or("of no kind"),
            expected.as_deref().unwrap_or("none")
        ));
    }
    Ok(compared)
}

/// Whether one of the values that are expected of each claim is what the evidence has.
fn compare_launched(claims: &Value, tee: Tee, wanted: &[Launched]) -> Result<(), String> {
    let launch = measurement_claim(tee).map(|path| path.join("."));
    let mut by_claim: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for Launched { claim, value } in wanted {
        let claim = claim.as_ref().or(launch.as_ref()).ok_or_else(|| {
            format!("platform {tee} has no single launch measurement: write CLAIM={value}")
        })?;
        by_claim.entry(claim.clone()).or_default().push(value);
    }
    for (claim, values) in by_claim {
        let found = claim.split('.').try_fold(claims, |at, name| at.get(name));
        let found = found
            .and_then(Value::as_str)
            .ok_or_else(|| format!("the evidence of platform {tee} has no claim {claim}"))?;
        let found = in_hex(tee, &claim, found);
        if !values
            .iter()
            .any(|value| value.eq_ignore_ascii_case(&found))
        {
            let values = values.join(" or ");
            return Err(format!(
                "its {claim} is {found}, and {values} was to be launched"
            ));
        }
    }
    Ok(())
}

/// A claim as people write it: Azure's SNP has its launch measurement in base64.
fn in_hex(tee: Tee, claim: &str, value: &str) -> String {
    let bytes = match (tee, claim) {
        (Tee::AzSnpVtpm, "measurement") => STANDARD.decode(value).ok(),
        _ => None,
    };
    bytes.map_or_else(|| value.to_owned(), hex::encode)
}

/// What was launched, by claim: the launch measurement, and the registers that hold what came after it.
fn measurements(examined: &Examined) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    if examined.examination.error.is_some() {
        return found;
    }
    let launch = measurement_claim(examined.tee).map(|path| path.join("."));
    let mut left = vec![(String::new(), examined.claims())];
    while let Some((path, value)) = left.pop() {
        let name = path.rsplit('.').next().unwrap_or_default();
        let register = name.starts_with("rtmr") || name.starts_with("pcr");
        match value {
            Value::Object(members) => left.extend(members.into_iter().map(|(name, value)| {
                let dot = if path.is_empty() { "" } else { "." };
                (format!("{path}{dot}{name}"), value)
            })),
            Value::String(text) if register || Some(&path) == launch.as_ref() => {
                let text = in_hex(examined.tee, &path, &text);
                found.insert(path, text);
            }
            _ => {}
        }
    }
    found
}

/// What the token says of each piece of evidence.
fn statuses(claims: &EarClaims) -> BTreeMap<String, &'static str> {
    let submods = claims.submods.iter();
    submods
        .map(|(name, submod)| (name.clone(), submod.status.as_str()))
        .collect()
}

/// The inputs whose bytes could have been changed unnoticed before they were read.
fn unauthenticated(predicate: &Predicate) -> Option<String> {
    let weak = |input: &&Input| input.protection != Protection::Authenticated;
    let mut weak = predicate.inputs.iter().filter(weak);
    let first = weak.next()?;
    let how = match first.protection {
        Protection::None => "was not encrypted",
        Protection::Unauthenticated => {
            "was encrypted by `openssl enc`, which does not tell changed bytes"
        }
        Protection::PlainColumns => "holds columns that were read and are not encrypted",
        Protection::Unbound => {
            "is encrypted Parquet that was not held to a name (--aad-prefix): another file under its key would have been read too"
        }
        Protection::Authenticated => "was authenticated",
    };
    let more = match weak.count() {
        0 => String::new(),
        others => format!(", and {others} more inputs were not protected either"),
    };
    Some(format!(
        "{} {how}: whoever stored it could have changed it{more}",
        shown(&first.name)
    ))
}

/// Keys that somebody on the machine chose, or inputs that have none.
fn key_of_no_broker(predicate: &Predicate) -> Option<String> {
    if predicate.options.results_key == KeyFrom::File {
        return Some("the key that the results are under came from a file".to_owned());
    }
    let other = |input: &&Input| input.keys != [KeyFrom::Broker];
    let input = predicate.inputs.iter().find(other)?;
    let how = match input.keys.is_empty() {
        true => "was read without a key",
        false => "was opened with a key from a file",
    };
    Some(format!("{} {how}", shown(&input.name)))
}

/// What holds, and yet is worth knowing.
fn warnings(receipt: &Receipt) -> Vec<String> {
    let predicate = &receipt.statement.predicate;
    let changed = unauthenticated(predicate).map(|why| format!("{why} (--require-authenticated)"));
    let from_file = |input: &Input| input.keys.contains(&KeyFrom::File);
    let any =
        predicate.options.results_key == KeyFrom::File || predicate.inputs.iter().any(from_file);
    let keys = key_of_no_broker(predicate).filter(|_| any);
    let keys = keys.map(|why| {
        format!("{why}: who had the machine's files had the key too (--require-broker-keys)")
    });
    changed.into_iter().chain(keys).collect()
}

/// What the receipt names a result that was given: by the last part of its name, and the first of a single one however it
/// is called.
fn named_results(given: &[String], known: &[&str]) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let is_known = |text: &str| {
        known.iter().any(|name| {
            let prefixed = text
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('='));
            prefixed || last(name) == last(text)
        })
    };
    match (given, known) {
        ([only], [first, ..]) if !is_known(only) => {
            named(&[format!("{first}={only}")], known, "result")
        }
        _ => named(given, known, "result"),
    }
}

/// The files that were given, by the receipt's name for each.
fn named(
    given: &[String],
    known: &[&str],
    what: &str,
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut all = BTreeMap::new();
    for text in given {
        let prefixed = known.iter().find_map(|name| {
            let path = text.strip_prefix(name)?.strip_prefix('=')?;
            Some(((*name).to_owned(), PathBuf::from(path)))
        });
        let (name, path) = match prefixed {
            Some(found) => found,
            None => (own_name(text, known, what)?, PathBuf::from(text)),
        };
        if all.insert(name.clone(), path).is_some() {
            bail!("the {what} {} was given twice", shown(&name));
        }
    }
    Ok(all)
}

fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

/// The receipt's name for a file whose own is the last part of it.
fn own_name(path: &str, known: &[&str], what: &str) -> anyhow::Result<String> {
    let mut alike = known.iter().filter(|name| last(name) == last(path));
    match (alike.next(), alike.next()) {
        (Some(only), None) => Ok((*only).to_owned()),
        (None, _) => {
            let names: Vec<String> = known.iter().take(5).map(|name| shown(name)).collect();
            bail!(
                "the receipt names no {what} {path}: write NAME={path}, with one of its names ({}{})",
                names.join(", "),
                if known.len() > names.len() {
                    ", ..."
                } else {
                    ""
                }
            )
        }
        (Some(_), Some(_)) => bail!(
            "several {what}s of the receipt are called {}: write NAME={path}",
            last(path)
        ),
    }
}

fn digest_of(path: &Path) -> anyhow::Result<Digest> {
    let (mut reader, digest) = Digesting::new(files::open(path)?);
    let read = std::io::copy(&mut reader, &mut std::io::sink());
    read.with_context(|| format!("cannot read {}", path.display()))?;
    digest.finish()?.context("it was not read")
}

/// What a receipt says, for people. Only after its signature holds.
fn summary(receipt: &Receipt, policies: &BTreeMap<String, String>) -> String {
    let predicate = &receipt.statement.predicate;
    let (counts, options) = (predicate.counts, &predicate.options);
    let mut text = format!(
        "Receipt of {}: {counts} (threshold {})\n  model     {}\n  software  {}\n  ran       {} to {}, by the machine's own clock",
        shown(receipt.statement.result_name()),
        predicate.threshold,
        predicate.model.digest,
        shown(&predicate.software),
        moment(predicate.started),
        moment(predicate.finished),
    );
    text.push_str(&format!(
        "\n  results   {}, key from {}",
        said_of_results(options),
        options.results_key.as_str()
    ));
    for input in predicate.inputs.iter().take(SHOWN) {
        let keys: Vec<&str> = input.keys.iter().map(|key| key.as_str()).collect();
        let keys = match keys.is_empty() {
            true => String::new(),
            false => format!(", key from {}", keys.join(" and ")),
        };
        text.push_str(&format!(
            "\n  input     {} ({} bytes, sha256 {})\n            protection: {}{keys}",
            shown(&input.name),
            input.bytes,
            input.sha256,
            input.protection.as_str(),
        ));
    }
    if predicate.inputs.len() > SHOWN {
        text.push_str(&format!(
            "\n            and {} more",
            predicate.inputs.len() - SHOWN
        ));
    }
    for release in predicate.releases.iter().take(SHOWN) {
        let event = release.event.as_deref().unwrap_or("that it does not name");
        let policy = policies.get(event).map(|digest| {
            let digest = shown(digest);
            format!(", by the policy sha256:{digest}")
        });
        text.push_str(&format!(
            "\n  release   {} (event {}{})",
            shown(&release.resource),
            shown(event),
            policy.unwrap_or_default()
        ));
    }
    text
}

fn said_of_results(options: &OptionsUsed) -> String {
    let rows = match options.results {
        Results::Flagged => "flagged rows",
        Results::All => "all rows",
        Results::Summary => "the summary",
    };
    let format = match options.results_format {
        ResultsFormat::Jsonl => "JSON lines",
        ResultsFormat::Csv => "CSV",
        ResultsFormat::Parquet => "Parquet",
    };
    let for_whom = match options.results_for {
        ResultsFor::Recipient => "sealed to a recipient",
        ResultsFor::Key => "encrypted under a key",
    };
    let plain = match options.insecure_plain_columns {
        true => ", plain columns of encrypted files allowed",
        false => "",
    };
    format!("{rows} as {format}, {for_whom}{plain}")
}

/// Where the collateral that was not found belongs, and how it comes there; or the root that would mend it.
fn missing(examined: &Examined, args: &VerifyReceipt, verdict: &Verdict) -> String {
    if let Some(hint) = examined.development_hint() {
        return format!("{hint}\n");
    }
    let mut text = String::new();
    let error = &examined.examination.error;
    let lacks = matches!(error, Some(VerifyError::MissingCollateral { .. }));
    if matches!(verdict, Verdict::Refused) && !lacks {
        return text;
    }
    for wanted in &examined.missing {
        text.push_str(&format!(
            "{wanted} was not given: it belongs to {}\n",
            examined.place(wanted).display()
        ));
    }
    if !examined.missing.is_empty() {
        let kept = args.keep_evidence.as_deref();
        let file = kept.unwrap_or_else(|| Path::new("EVIDENCE"));
        let first = match kept {
            Some(_) => "",
            None => "write the evidence with --keep-evidence EVIDENCE, then ",
        };
        text.push_str(&format!(
            "To fetch it: {first}{}   # then name the folder with --collateral\n",
            examined.fetch(file)
        ));
    }
    text
}

/// What must have been launched.
#[derive(Clone)]
struct Launched {
    /// None for the platform's launch measurement.
    claim: Option<String>,
    value: String,
}

fn parse_measurement(text: &str) -> anyhow::Result<Launched> {
    let (claim, value) = match text.split_once('=') {
        Some((claim, value)) => (Some(claim.to_owned()), value),
        None => (None, text),
    };
    anyhow::ensure!(!value.is_empty(), "write the measurement in hex");
    Ok(Launched {
        claim,
        value: value.to_owned(),
    })
}

fn parse_check(name: &str) -> anyhow::Result<&'static str> {
    let own = KINDS.iter().find(|(own, ..)| *own == name);
    match own {
        Some((own, ..)) => Ok(own),
        None => evidence::parse_check(name).map(Check::name),
    }
}

/// A step's name, the sentence that holds when it passes, and where it comes from.
type Kind = (&'static str, &'static str, &'static str);

const FORM: Kind = (
    "Receipt",
    "the receipt has its form, with one signature and the key behind it",
    "DSSE 1.0, envelope",
);
const SIGNATURE: Kind = (
    "ReceiptSignature",
    "that key signed it",
    "DSSE 1.0, protocol; ECDSA P-256 with SHA-256",
);
const STATEMENT: Kind = (
    "Statement",
    "what it signed is a statement of a job",
    "in-toto Statement v1; docs/receipts.md",
);
/// In place of what the same check says of a handshake.
const BINDING: (&str, &str) = (
    "the evidence binds the receipt's key, for receipts and nothing else",
    "RFC 7638; docs/receipts.md",
);
const CONFIGURATION: Kind = (
    "Configuration",
    "the machine was started with the configuration that you named",
    "CoCo init-data 0.1.0",
);
const TOKEN: Kind = (
    "TokenSignature",
    "the broker signed the token in the receipt",
    "RFC 7515, 5.2; draft-ietf-rats-ear",
);
const TOKEN_TIME: Kind = (
    "TokenTime",
    "the token was in force while the job ran",
    "RFC 7519, 4.1.4 and 4.1.6",
);
const TOKEN_STATUS: Kind = (
    "TokenStatus",
    "the broker affirms the machine, all of it",
    "draft-ietf-rats-ear, ear.status",
);
const MEASUREMENT: Kind = (
    "Measurement",
    "what was launched is what you named, or else what the broker's token affirms",
    "docs/receipts.md",
);
const PROTECTION: Kind = (
    "Protection",
    "each input was under encryption that tells changed bytes",
    "docs/receipts.md",
);
const KEYS: Kind = (
    "Keys",
    "a broker released the keys of every input and of the results",
    "docs/receipts.md",
);
const RELEASE_POLICY: Kind = (
    "ReleasePolicy",
    "the policy that you named allowed every release",
    "docs/receipts.md",
);
const MACHINE: Kind = (
    "TokenMachine",
    "the token is of a machine that was launched as the evidence's",
    "docs/receipts.md",
);
const RESULT: Kind = (
    "Result",
    "the result is the one that the receipt is for",
    "in-toto Statement v1, subject",
);
const MODEL: Kind = (
    "Model",
    "the model scored: weights, preprocessing and threshold",
    "docs/receipts.md",
);
const INPUTS: Kind = (
    "Inputs",
    "the inputs are the ones that were read",
    "docs/receipts.md",
);
const RELEASES: Kind = (
    "Releases",
    "the broker's record has every release, for this token and its key",
    "docs/decisions/0012",
);
const KINDS: &[Kind] = &[
    FORM,
    SIGNATURE,
    STATEMENT,
    CONFIGURATION,
    TOKEN,
    TOKEN_TIME,
    TOKEN_STATUS,
    MACHINE,
    MEASUREMENT,
    RESULT,
    MODEL,
    INPUTS,
    PROTECTION,
    KEYS,
    RELEASES,
    RELEASE_POLICY,
];

/// What an appraisal must come to.
const AFFIRMING: &str = "affirming";

/// Inputs and releases that are shown.
const SHOWN: usize = 10;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn input_is_compared_with_another_ones_digest() {
        let known = ["in/a.csv.enc", "b=c.csv", "x/d", "y/d"];
        let one = |text: &str| {
            let named = named(&[text.to_owned()], &known, "input");
            named.map(|named| named.into_iter().next().unwrap())
        };
        let pair = |name: &str, path: &str| (name.to_owned(), PathBuf::from(path));
        for (text, expected) in [
            ("/copy/a.csv.enc", pair("in/a.csv.enc", "/copy/a.csv.enc")),
            ("in/a.csv.enc=else", pair("in/a.csv.enc", "else")),
            ("b=c.csv", pair("b=c.csv", "b=c.csv")),
            ("b=c.csv=f", pair("b=c.csv", "f")),
            ("x/d=f", pair("x/d", "f")),
        ] {
            assert_eq!(one(text).unwrap(), expected, "{text}");
        }
        for text in ["none.csv", "d", "a.csv.enc=else"] {
            assert!(one(text).is_err(), "{text}");
        }
        let twice = ["a.csv.enc", "in/a.csv.enc=f"].map(str::to_owned);
        assert!(named(&twice, &known, "input").is_err());
    }

    #[test]
    fn manifest_is_taken_for_the_table_or_a_renamed_table_for_none() {
        let known = ["t.csv.enc", "t.csv.manifest.json.enc"];
        let named = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(|&text| text.to_owned()).collect();
            let named = named_results(&given, &known);
            named.map(|named| named.into_keys().collect::<Vec<_>>())
        };
        assert_eq!(named(&["copy"]).unwrap(), ["t.csv.enc"]);
        assert_eq!(named(&["in/t.csv.manifest.json.enc"]).unwrap(), [known[1]]);
        let both = ["t.csv.enc=a", "t.csv.manifest.json.enc=b"];
        assert_eq!(named(&both).unwrap(), known);
        assert!(named(&["a", "b"]).is_err());
        assert!(named(&[]).unwrap().is_empty());
    }

    #[test]
    fn other_launch_passes_for_the_one_expected() {
        let claims = json!({"quote": {"body": {"mr_td": "AB", "rtmr_1": "cd"}}});
        let compare = |tee: Tee, wanted: &[&str]| {
            let wanted: Vec<_> = wanted
                .iter()
                .map(|it| parse_measurement(it).unwrap())
                .collect();
            compare_launched(&claims, tee, &wanted)
        };
        for good in [
            &["ab"][..],
            &["00", "ab"],
            &["ab", "quote.body.rtmr_1=cd"],
            &["quote.body.rtmr_1=CD"],
        ] {
            assert_eq!(compare(Tee::Tdx, good), Ok(()), "{good:?}");
        }
        for (bad, why) in [
            (&["00"][..], "its quote.body.mr_td is AB, and 00 was"),
            (&["00", "a"], "00 or a was to be"),
            (&["ab", "quote.body.rtmr_1=ab"], "rtmr_1 is cd"),
            (&["quote.body.rtmr_2=ab"], "has no claim quote.body.rtmr_2"),
            (&["quote.body=ab"], "has no claim quote.body"),
        ] {
            let error = compare(Tee::Tdx, bad).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let azure = json!({"measurement": STANDARD.encode([0xab, 0xcd])});
        let wanted = parse_measurement("abcd").unwrap();
        assert_eq!(compare_launched(&azure, Tee::AzSnpVtpm, &[wanted]), Ok(()));
        let error = compare(Tee::Tpm, &["ab"]).unwrap_err();
        assert!(error.contains("write CLAIM=ab"), "{error}");
        assert!(parse_measurement("a=").is_err());
    }

    #[test]
    fn check_has_no_name_of_its_own() {
        for (name, ..) in KINDS {
            assert_eq!(parse_check(name).unwrap(), *name);
            assert!(!Check::ALL.iter().any(|check| check.name() == *name));
        }
        assert_eq!(parse_check("InitData").unwrap(), "InitData");
        assert!(parse_check("Everything").is_err());
    }
}
