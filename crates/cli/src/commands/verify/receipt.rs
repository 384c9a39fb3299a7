//! `strongroom verify receipt`: which model scored which bytes into which result, inside which machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use strongroom_scoring::receipt::{
    Digest, Digesting, Input, Predicate, Receipt, ReceiptError, UnverifiedReceipt,
};
use strongroom_verifier::{
    Assurance, Check, Evidence, Expected, ExpectedInitdata, StepOutcome, measurement_claim,
};
use strongroom_wire::ear::EarClaims;
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

    /// The result, as it lies sealed.
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,

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
        ..
    } = verification;
    let assurance = examined
        .as_ref()
        .map_or(Assurance::Development, |examined| {
            examined.examination.assurance
        });
    let verdict = Verdict::of(&lines, assurance, &args.allow_skipped);
    let mut text = match &receipt {
        Some(receipt) => summary(receipt),
        None => "Receipt".to_owned(),
    };
    text.push_str(&format!("\n{}\n\n", paragraphs(&lines)));
    if let Some(examined) = &examined {
        text.push_str(&missing(examined, args));
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
        self.result(args, &receipt)?;
        self.model(args, &receipt)?;
        self.inputs(args, &receipt.statement.predicate)?;
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
        self.token = Some(claims);
        Ok(())
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
            Ok(true) => self.outcome(MACHINE, StepOutcome::Passed),
            Ok(false) => {
                let why = "the platform measures no launch, and there is no init-data";
                self.skip(MACHINE, why, None);
                Ok(())
            }
            Err(why) => self.outcome(MACHINE, StepOutcome::Failed(why)),
        }
    }

    fn result(&mut self, args: &VerifyReceipt, receipt: &Receipt) -> Result<(), Stop> {
        let Some(path) = &args.result else {
            self.skip(RESULT, "the result was not given", Some("--result FILE"));
            return Ok(());
        };
        let found = digest_of(path)?.sha256;
        let said = receipt.statement.result_sha256();
        let why = format!("{} has the SHA-256 {found}, not {said}", path.display());
        self.outcome(RESULT, check(found == said, why))
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
        let given = named_inputs(&args.input, &predicate.inputs)?;
        for (name, path) in &given {
            let said = predicate.inputs.iter().find(|input| &input.name == name);
            let found = Input::new(name.as_str(), &digest_of(path)?);
            if said != Some(&found) {
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

    fn releases(&mut self, args: &VerifyReceipt, predicate: &Predicate) -> Result<(), Stop> {
        if predicate.releases.is_empty() {
            self.skip(RELEASES, "the receipt names no release", None);
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
        let agree = here
            .iter()
            .try_for_each(|release| record::agrees(release, &entries, self.token.as_ref()));
        match (agree, elsewhere.first()) {
            (Ok(()), Some(release)) => {
                let named = shown(&release.resource);
                let why = format!("the record of another broker would have the release of {named}");
                self.skip(RELEASES, why, Some("--audit DIR of that broker"));
                Ok(())
            }
            (agree, _) => self.step(RELEASES, agree),
        }
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
    if let Some(path) = measurement_claim(tee) {
        let at = |claims: &Value| {
            let found = path
                .iter()
                .try_fold(claims, |claims, name| claims.get(name));
            found.cloned()
        };
        let (broker, here) = (at(said), at(&examined.claims()));
        if broker != here {
            return Err(format!(
                "the token is of a machine that measured {}, the evidence of one that measured {}",
                broker.unwrap_or_default(),
                here.unwrap_or_default()
            ));
        }
        compared |= here.is_some();
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
    Ok(compared || expected.is_some())
}

/// The files that were given, by the receipt's name for each.
fn named_inputs(given: &[String], known: &[Input]) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut named = BTreeMap::new();
    for text in given {
        let prefixed = known.iter().find_map(|input| {
            let path = text.strip_prefix(&input.name)?.strip_prefix('=')?;
            Some((input.name.clone(), PathBuf::from(path)))
        });
        let (name, path) = match prefixed {
            Some(found) => found,
            None => (own_name(text, known)?, PathBuf::from(text)),
        };
        if named.insert(name.clone(), path).is_some() {
            bail!("the input {} was given twice", shown(&name));
        }
    }
    Ok(named)
}

/// The receipt's name for a file whose own is the last part of it.
fn own_name(path: &str, known: &[Input]) -> anyhow::Result<String> {
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let mut alike = known.iter().filter(|input| last(&input.name) == last(path));
    match (alike.next(), alike.next()) {
        (Some(only), None) => Ok(only.name.clone()),
        (None, _) => {
            let names: Vec<String> = known.iter().take(5).map(|it| shown(&it.name)).collect();
            bail!(
                "the receipt names no input {path}: write NAME={path}, with one of its names ({}{})",
                names.join(", "),
                if known.len() > names.len() {
                    ", ..."
                } else {
                    ""
                }
            )
        }
        (Some(_), Some(_)) => bail!(
            "several inputs of the receipt are called {}: write NAME={path}",
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
fn summary(receipt: &Receipt) -> String {
    let predicate = &receipt.statement.predicate;
    let counts = predicate.counts;
    let mut text = format!(
        "Receipt of {}: {counts} (threshold {})\n  model     {}\n  software  {}\n  ran       {} to {}, by the machine's own clock",
        shown(receipt.statement.result_name()),
        predicate.threshold,
        predicate.model.digest,
        shown(&predicate.software),
        moment(predicate.started),
        moment(predicate.finished),
    );
    for input in predicate.inputs.iter().take(SHOWN) {
        text.push_str(&format!(
            "\n  input     {} ({} bytes, sha256 {})",
            shown(&input.name),
            input.bytes,
            input.sha256
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
        text.push_str(&format!(
            "\n  release   {} (event {})",
            shown(&release.resource),
            shown(event)
        ));
    }
    text
}

/// Where the collateral that was not found belongs, and how it comes there.
fn missing(examined: &Examined, args: &VerifyReceipt) -> String {
    let mut text = String::new();
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
    MACHINE,
    RESULT,
    MODEL,
    INPUTS,
    RELEASES,
];

/// Inputs and releases that are shown.
const SHOWN: usize = 10;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn input(name: &str) -> Input {
        let digest = Digest {
            bytes: 0,
            sha256: String::new(),
        };
        Input::new(name, &digest)
    }

    #[test]
    fn input_is_compared_with_another_ones_digest() {
        let known = [
            input("in/a.csv.enc"),
            input("b=c.csv"),
            input("x/d"),
            input("y/d"),
        ];
        let named = |text: &str| {
            let named = named_inputs(&[text.to_owned()], &known);
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
            assert_eq!(named(text).unwrap(), expected, "{text}");
        }
        for text in ["none.csv", "d", "a.csv.enc=else"] {
            assert!(named(text).is_err(), "{text}");
        }
        let twice = ["a.csv.enc", "in/a.csv.enc=f"].map(str::to_owned);
        assert!(named_inputs(&twice, &known).is_err());
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
