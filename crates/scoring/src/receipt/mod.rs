//! A job's receipt: which model scored which bytes into which result, signed by a key that was made inside the job and
//! that the machine's evidence vouches for.
//!
//! The form is a DSSE envelope (DSSE protocol 1.0, `envelope.rs`) around an in-toto Statement v1. It says nothing of any
//! row or score. What is in here runs nowhere: time, evidence and tokens come in as arguments.

mod digest;
mod envelope;
mod job;

use std::collections::BTreeSet;
use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use strongroom_wire::canonical::{HashAlgorithm, to_jcs};

pub use digest::{Digest, Digesting, DigestingAt, DigestingWriter, StreamDigest};
pub use envelope::UnverifiedReceipt;
pub use job::{
    Handling, Input, KeyFrom, ModelUsed, OptionsUsed, Protection, ResultsFor, ResultsFormat,
};

use crate::batch::{Options, Summary};
use crate::results::{Counts, MAX_INPUTS};
use envelope::PublicKey;

/// What a receipt says (in-toto Statement v1).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: StatementType,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: PredicateType,
    /// How the result came about.
    pub predicate: Predicate,
}

impl Statement {
    /// Says of results how they came about: of the result file, and, where that is a table, of its manifest behind it.
    pub fn new(subjects: Vec<Subject>, predicate: Predicate) -> Self {
        Self {
            kind: StatementType::V1,
            subject: subjects,
            predicate_type: PredicateType::V2,
            predicate,
        }
    }

    /// Reads a payload. It must be in the canonical form (RFC 8785), which is the only one that is written.
    ///
    /// # Errors
    /// When it is not, or says what cannot be.
    pub fn parse(payload: &[u8]) -> Result<Self, ReceiptError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(ReceiptError::TooLong { limit: MAX_PAYLOAD });
        }
        let statement: Self = serde_json::from_slice(payload).map_err(ReceiptError::statement)?;
        if statement.payload()? != payload {
            return Err(ReceiptError::NotCanonical);
        }
        Ok(statement)
    }

    /// The files that the results are: the result file first, then a table's manifest.
    pub fn subjects(&self) -> &[Subject] {
        &self.subject
    }

    /// What the result file is called.
    pub fn result_name(&self) -> &str {
        self.subject.first().map_or("", Subject::name)
    }

    /// The SHA-256 of the result file as it lies sealed, in hex.
    pub fn result_sha256(&self) -> &str {
        self.subject.first().map_or("", Subject::sha256)
    }

    /// The payload, once it is known that it can be read again.
    fn payload(&self) -> Result<Vec<u8>, ReceiptError> {
        self.check()?;
        let payload = to_jcs(self).map_err(ReceiptError::statement)?;
        match payload.len() > MAX_PAYLOAD {
            true => Err(ReceiptError::TooLong { limit: MAX_PAYLOAD }),
            false => Ok(payload),
        }
    }

    fn check(&self) -> Result<(), ReceiptError> {
        let predicate = &self.predicate;
        let holds = |holds: bool, what: &'static str| match holds {
            true => Ok(()),
            false => Err(ReceiptError::Member(what)),
        };
        let model = predicate.model.digest.strip_prefix("sha256:");
        let names: BTreeSet<&str> = predicate.inputs.iter().map(|input| &*input.name).collect();
        let counts = &predicate.counts;
        let subjects: BTreeSet<&str> = self.subject.iter().map(Subject::name).collect();
        holds(
            self.subject.len() == predicate.options.results_format.files()
                && subjects.len() == self.subject.len(),
            "subject",
        )?;
        holds(subjects.into_iter().all(is_name), "subject.name")?;
        let mut digests = self.subject.iter().map(Subject::sha256);
        holds(digests.all(is_sha256), "subject.digest")?;
        holds(model.is_some_and(is_sha256), "model.digest")?;
        holds((0.0..=1.0).contains(&predicate.threshold), "threshold")?;
        holds(
            (1..=MAX_INPUTS).contains(&predicate.inputs.len())
                && names.len() == predicate.inputs.len()
                && predicate.inputs.iter().all(Input::holds),
            "inputs",
        )?;
        holds(
            counts
                .flagged
                .checked_add(counts.bad_rows)
                .is_some_and(|rows| rows <= counts.rows),
            "counts",
        )?;
        holds(is_name(&predicate.software), "software")?;
        holds(predicate.started <= predicate.finished, "finished")?;
        holds(
            predicate.releases.len() <= MAX_RELEASES
                && predicate.releases.iter().all(ReleasedKey::holds),
            "releases",
        )
    }
}

/// How a result came about.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Predicate {
    /// The model.
    pub model: ModelUsed,
    /// A row was fraud above this.
    pub threshold: f64,
    /// What else decided which rows are in the result.
    pub options: OptionsUsed,
    /// What was read, as it lay in storage.
    pub inputs: Vec<Input>,
    /// The result in numbers.
    pub counts: Counts,
    /// Name and version of the program.
    pub software: String,
    /// When the job began, in seconds since 1970, by the machine's own clock.
    pub started: u64,
    /// When it ended.
    pub finished: u64,
    /// The secrets that were released for it, in the order in which they were asked for.
    pub releases: Vec<ReleasedKey>,
    /// The attestation token under which they were released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Predicate {
    /// What a finished batch says of itself. Releases and token are the caller's to add.
    pub fn of(
        summary: &Summary,
        options: &Options,
        handling: &Handling,
        inputs: Vec<Input>,
        software: &str,
        (started, finished): (u64, u64),
    ) -> Self {
        Self {
            model: ModelUsed {
                digest: summary.model_digest.clone(),
            },
            threshold: summary.threshold,
            options: OptionsUsed {
                results: options.results,
                results_format: handling.results_format,
                results_for: handling.results_for,
                results_key: handling.results_key,
                skip_bad_rows: options.skip_bad_rows,
                header_row: options.header_row,
                key_column: options.key_column.clone(),
                ignore_unknown_columns: handling.ignore_unknown_columns,
                insecure_plain_columns: handling.insecure_plain_columns,
                aad_prefix: handling.aad_prefix,
            },
            inputs,
            counts: summary.counts(),
            software: software.to_owned(),
            started,
            // A clock that is set back meanwhile costs no receipt.
            finished: finished.max(started),
            releases: Vec::new(),
            token: None,
        }
    }
}

/// A secret that a broker released for the job.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReleasedKey {
    /// Its URI.
    pub resource: String,
    /// The event in the broker's record; a broker that is none of this project's names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The id of the token on which it was released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl ReleasedKey {
    fn holds(&self) -> bool {
        let ids = [&self.event, &self.token];
        is_name(&self.resource) && ids.into_iter().flatten().all(|id| is_name(id))
    }
}

/// The key of one job. It signs one receipt and is gone with the process.
pub struct ReceiptKey {
    pair: EcdsaKeyPair,
    public: PublicKey,
}

impl ReceiptKey {
    /// Makes a key. The library keeps it in memory that it clears.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self, ReceiptError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map_err(|_| ReceiptError::Key)?;
        let public = PublicKey::of_point(pair.public_key().as_ref()).ok_or(ReceiptError::Key)?;
        Ok(Self { pair, public })
    }

    /// The report data that evidence must contain to vouch for this key.
    pub fn report_data(&self) -> Vec<u8> {
        report_data(&self.public.thumbprint())
    }

    /// Signs what a job says of itself, and gives the receipt.
    ///
    /// # Errors
    /// When a receipt cannot say it: then it could not be read again.
    pub fn sign(
        &self,
        statement: &Statement,
        attestation: Attestation,
    ) -> Result<Vec<u8>, ReceiptError> {
        let payload = statement.payload()?;
        let signature = self
            .pair
            .sign(&SystemRandom::new(), &envelope::signed_bytes(&payload))
            .map_err(|_| ReceiptError::Key)?;
        envelope::print(&payload, signature.as_ref(), &self.public, attestation)
    }
}

/// Whether a receipt can name the inputs and the results of a job: what can be known before there is anything to sign.
///
/// # Errors
/// When it cannot.
pub fn check_names<'a>(
    inputs: impl IntoIterator<Item = &'a str>,
    results: impl IntoIterator<Item = &'a str>,
) -> Result<(), ReceiptError> {
    let (mut known, mut count, mut bytes) = (BTreeSet::new(), 0, 0);
    let refused = |name: &str| crate::shown(name);
    for name in inputs {
        count += 1;
        if !is_name(name) {
            return Err(ReceiptError::Name(refused(name)));
        }
        if !known.insert(name) {
            return Err(ReceiptError::SameInput(refused(name)));
        }
        let draft = Input {
            name: name.to_owned(),
            bytes: u64::MAX,
            sha256: "0".repeat(64),
            protection: Protection::Unauthenticated,
            keys: vec![KeyFrom::Broker, KeyFrom::File],
        };
        bytes += to_jcs(&draft).map_err(ReceiptError::statement)?.len() + 1;
    }
    if count > MAX_INPUTS {
        return Err(ReceiptError::TooManyInputs(count));
    }
    if bytes > MAX_PAYLOAD - RESERVED {
        return Err(ReceiptError::Names);
    }
    match results.into_iter().find(|name| !is_name(name)) {
        Some(name) => Err(ReceiptError::Name(refused(name))),
        None => Ok(()),
    }
}

/// What vouches for a receipt's key.
#[derive(Clone, Debug)]
pub struct Attestation {
    /// The platform, as the protocol calls it.
    pub tee: String,
    /// The evidence over [`ReceiptKey::report_data`], as the platform's attester writes it.
    pub evidence: Box<RawValue>,
    /// The configuration with which the machine was launched, where there is one and the guest tells it.
    pub initdata: Option<String>,
}

/// A receipt whose signature holds. Who signed it is for the evidence to say.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// What it says.
    pub statement: Statement,
    /// What is to vouch for its key, unverified.
    pub attestation: Attestation,
    key: PublicKey,
}

impl Receipt {
    /// The thumbprint of the key that signed (RFC 7638).
    pub fn thumbprint(&self) -> String {
        self.key.thumbprint()
    }

    /// The report data that the evidence must contain, or the key is somebody else's.
    pub fn report_data(&self) -> Vec<u8> {
        report_data(&self.thumbprint())
    }
}

/// Why a receipt is not made, or not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// Longer than any receipt.
    #[error("it is longer than the {limit} bytes that it may have")]
    TooLong {
        /// The most that is read.
        limit: usize,
    },
    /// Not an envelope of this profile.
    #[error("it is no DSSE envelope of a receipt: {0}")]
    Envelope(String),
    /// The payload is not a statement of this kind.
    #[error("its payload is no in-toto statement of a receipt: {0}")]
    Statement(String),
    /// The payload is not printed as it would be here.
    #[error("its payload is not canonical JSON (RFC 8785)")]
    NotCanonical,
    /// A member says what cannot be.
    #[error("its member {0:?} says what cannot be")]
    Member(&'static str),
    /// More inputs than a receipt names.
    #[error(
        "it names at most {MAX_INPUTS} inputs, and the job has {0}: score them in several jobs"
    )]
    TooManyInputs(usize),
    /// Inputs that could not be told apart in it.
    #[error("two inputs are called \"{0}\", and it tells inputs apart by their names")]
    SameInput(String),
    /// A name that it cannot hold.
    #[error("it cannot hold the name \"{0}\": a name has 1 to {MAX_NAME} bytes")]
    Name(String),
    /// Names that are too long all together.
    #[error(
        "the names of the inputs are longer than it can hold, all together: score them in several jobs"
    )]
    Names,
    /// The key id is not that of the key.
    #[error("its key id is not the thumbprint of its key")]
    KeyId,
    /// The signature is not of the key over the payload.
    #[error("its signature does not verify: it was changed, or another key signed it")]
    Signature,
    /// No key could be made or used.
    #[error("the receipt's key cannot be made or used: the cryptographic library refused")]
    Key,
}

impl ReceiptError {
    fn statement(error: serde_json::Error) -> Self {
        Self::Statement(place(&error))
    }
}

/// Where a JSON error lies: serde's own text may quote the document.
fn place(error: &impl fmt::Display) -> String {
    crate::shown(&error.to_string())
}

/// A file of the results.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    name: String,
    digest: Sha256Of,
}

impl Subject {
    /// A file as it lies sealed.
    pub fn new(name: impl Into<String>, digest: &Digest) -> Self {
        Self {
            name: name.into(),
            digest: Sha256Of {
                sha256: digest.sha256.clone(),
            },
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its SHA-256 as it lies sealed, in hex.
    pub fn sha256(&self) -> &str {
        &self.digest.sha256
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Sha256Of {
    sha256: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
enum StatementType {
    #[serde(rename = "https://in-toto.io/Statement/v1")]
    V1,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
enum PredicateType {
    /// Version 1 said neither how the inputs were protected nor what a table's manifest was.
    #[serde(rename = "urn:strongroom:receipt:2")]
    V2,
}

/// 48 bytes, as the KBS protocol's own report data has, so that every platform carries them. What a guest attests to its
/// broker with is the digest of a JSON object, which never begins as this text does.
fn report_data(thumbprint: &str) -> Vec<u8> {
    HashAlgorithm::Sha384.digest(format!("{DOMAIN}{thumbprint}").as_bytes())
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What only a receipt's key is hashed behind.
const DOMAIN: &str = "strongroom receipt key, version 1\n";
const MAX_PAYLOAD: usize = 4 << 20;
const MAX_NAME: usize = 4_096;
/// The most releases that a receipt names.
pub const MAX_RELEASES: usize = 1_024;
/// What of a payload is not for the inputs: a token has up to 256 KiB, and a release some hundred bytes.
const RESERVED: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::results::HISTOGRAM_BINS;

    fn digest(byte: &str) -> Digest {
        Digest {
            bytes: 7,
            sha256: byte.repeat(32),
        }
    }

    fn summary() -> Summary {
        Summary {
            rows: 10,
            bad_rows: 1,
            bad_rows_by_reason: BTreeMap::new(),
            first_bad_rows: Vec::new(),
            flagged: 2,
            threshold: 0.25,
            histogram: [0; HISTOGRAM_BINS],
            max: None,
            mean: None,
            bytes: 7,
            model_digest: format!("sha256:{}", "ab".repeat(32)),
            rows_outside_training_range: None,
            outside_training_range: BTreeMap::new(),
        }
    }

    fn handling() -> Handling {
        Handling {
            results_format: ResultsFormat::Jsonl,
            results_for: ResultsFor::Recipient,
            results_key: KeyFrom::Broker,
            ignore_unknown_columns: false,
            insecure_plain_columns: false,
            aad_prefix: false,
        }
    }

    fn statement() -> Statement {
        let summary = summary();
        let input = Input::new("data.csv.enc", &digest("01"));
        let inputs = vec![input.opened(Protection::Authenticated, [KeyFrom::Broker])];
        let times = (1_800_000_000, 1_800_000_009);
        let mut predicate = Predicate::of(
            &summary,
            &Options::default(),
            &handling(),
            inputs,
            "strongroom 0.1.0",
            times,
        );
        predicate.releases.push(ReleasedKey {
            resource: "kbs:///a/b/c".to_owned(),
            event: Some("0123456789abcdef01234567".to_owned()),
            token: Some("t".to_owned()),
        });
        let result = Subject::new("results.jsonl.enc", &digest("02"));
        Statement::new(vec![result], predicate)
    }

    /// Of a table: it has a manifest too.
    fn table() -> Statement {
        let mut table = statement();
        table.predicate.options.results_format = ResultsFormat::Csv;
        let manifest = Subject::new("results.manifest.json.enc", &digest("03"));
        table.subject.push(manifest);
        table
    }

    fn attestation() -> Attestation {
        Attestation {
            tee: "sample".to_owned(),
            evidence: RawValue::from_string(r#"{"svn":"1"}"#.to_owned()).unwrap(),
            initdata: Some("x = 1\n".to_owned()),
        }
    }

    fn receipt() -> (ReceiptKey, Value) {
        let key = ReceiptKey::generate().unwrap();
        let bytes = key.sign(&statement(), attestation()).unwrap();
        (key, serde_json::from_slice(&bytes).unwrap())
    }

    fn verify(receipt: &Value) -> Result<Receipt, ReceiptError> {
        UnverifiedReceipt::parse(receipt.to_string().as_bytes())?.verify()
    }

    #[test]
    fn receipt_says_another_thing_than_was_signed() {
        let (key, document) = receipt();
        let read = verify(&document).unwrap();
        assert_eq!(read.statement, statement());
        assert_eq!(read.report_data(), key.report_data());
        assert_eq!(read.attestation.evidence.get(), r#"{"svn":"1"}"#);
        assert_eq!(read.attestation.initdata.as_deref(), Some("x = 1\n"));
        assert_eq!(document["payloadType"], "application/vnd.in-toto+json");
    }

    #[test]
    fn two_jobs_have_one_key() {
        let keys = [(); 2].map(|()| ReceiptKey::generate().unwrap().report_data());
        assert_ne!(keys[0], keys[1]);
        assert_eq!(keys[0].len(), 48);
    }

    #[test]
    fn report_data_are_those_of_the_bare_key() {
        let (key, document) = receipt();
        let thumbprint = key.public.thumbprint();
        assert_eq!(document["signatures"][0]["keyid"], thumbprint.as_str());
        let bare = HashAlgorithm::Sha384.digest(thumbprint.as_bytes());
        assert_ne!(key.report_data(), bare);
    }

    #[test]
    fn change_of_a_single_member_verifies() {
        let (_, good) = receipt();
        let other = receipt().1;
        let payload = other["payload"].clone();
        let swapped = |pointer: &str, value: &Value| {
            let mut changed = good.clone();
            *changed.pointer_mut(pointer).unwrap() = value.clone();
            verify(&changed).unwrap_err()
        };
        for (pointer, why) in [
            ("/signatures/0/sig", ReceiptError::Signature),
            ("/signatures/0/keyid", ReceiptError::KeyId),
            ("/signatures/0/extension/ext/key", ReceiptError::KeyId),
        ] {
            assert_eq!(
                swapped(pointer, other.pointer(pointer).unwrap()),
                why,
                "{pointer}"
            );
        }
        // The payloads are the same. One byte is not.
        assert_eq!(good["payload"], payload);
        let text = payload.as_str().unwrap();
        let byte = if &text[40..41] == "A" { "B" } else { "A" };
        let changed = format!("{}{byte}{}", &text[..40], &text[41..]);
        assert_eq!(
            swapped("/payload", &json!(changed)),
            ReceiptError::Signature
        );
    }

    #[test]
    fn malformed_envelope_is_taken() {
        let (_, good) = receipt();
        let double = json!([good["signatures"][0], good["signatures"][0]]);
        for (pointer, value) in [
            ("/payloadType", json!("application/json")),
            ("/payload", json!("%")),
            ("/payload", json!(7)),
            ("/signatures", json!([])),
            ("/signatures", double),
            ("/signatures/0/sig", json!("AA")),
            ("/signatures/0/extension/kind", json!("x")),
            ("/signatures/0/extension/ext/key/crv", json!("P-384")),
            ("/signatures/0/extension/ext/key/x", json!("AA")),
            ("/signatures/0/extension/ext/key/d", json!("AA")),
            ("/signatures/0/extension/ext/tee", json!(1)),
            ("/more", json!(1)),
        ] {
            let mut changed = good.clone();
            match changed.pointer_mut(pointer) {
                Some(member) => *member = value,
                None => {
                    let (parent, name) = pointer.rsplit_once('/').unwrap();
                    changed.pointer_mut(parent).unwrap()[name] = value;
                }
            }
            let error = verify(&changed).unwrap_err();
            assert!(
                matches!(error, ReceiptError::Envelope(_)),
                "{pointer}: {error}"
            );
        }
        let text = good.to_string();
        let twice = format!("{},\"payload\":\"\"}}", &text[..text.len() - 1]);
        assert!(UnverifiedReceipt::parse(twice.as_bytes()).is_err());
        assert!(UnverifiedReceipt::parse(b"").is_err());
        let long = vec![b' '; UnverifiedReceipt::MAX_BYTES + 1];
        let error = UnverifiedReceipt::parse(&long).err();
        assert!(matches!(error, Some(ReceiptError::TooLong { .. })));
    }

    #[test]
    fn statement_that_cannot_be_is_signed_or_read() {
        let key = ReceiptKey::generate().unwrap();
        let good: Value = serde_json::from_slice(&statement().payload().unwrap()).unwrap();
        assert!(Statement::parse(&to_jcs(&good).unwrap()).is_ok());
        for (pointer, value, member) in [
            ("/subject/0/name", json!(""), "subject.name"),
            (
                "/subject/0/digest/sha256",
                json!("AB".repeat(32)),
                "subject.digest",
            ),
            (
                "/predicate/model/digest",
                json!("ab".repeat(32)),
                "model.digest",
            ),
            ("/predicate/threshold", json!(1.5), "threshold"),
            ("/predicate/inputs", json!([]), "inputs"),
            ("/predicate/inputs/0/sha256", json!("x"), "inputs"),
            ("/predicate/counts/flagged", json!(10), "counts"),
            ("/predicate/counts/flagged", json!(u64::MAX), "counts"),
            ("/predicate/software", json!("x".repeat(5_000)), "software"),
            ("/predicate/finished", json!(1), "finished"),
            ("/predicate/releases/0/event", json!(""), "releases"),
        ] {
            let mut changed = good.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            let error = Statement::parse(changed.to_string().as_bytes()).unwrap_err();
            assert_eq!(error, ReceiptError::Member(member), "{pointer}");
            let statement: Statement = serde_json::from_value(changed).unwrap();
            let signed = key.sign(&statement, attestation()).err();
            assert_eq!(signed, Some(ReceiptError::Member(member)), "{pointer}");
        }
        for (protection, keys) in [
            ("none", json!(["broker"])),
            ("authenticated", json!([])),
            ("unauthenticated", json!(["file", "broker"])),
            ("plain_columns", json!(["file", "file"])),
        ] {
            let mut changed = good.clone();
            let input = &mut changed["predicate"]["inputs"][0];
            (input["protection"], input["keys"]) = (json!(protection), keys);
            let error = Statement::parse(&to_jcs(&changed).unwrap()).unwrap_err();
            assert_eq!(error, ReceiptError::Member("inputs"), "{protection}");
        }
        let mut twice = statement();
        let input = twice.predicate.inputs[0].clone();
        twice.predicate.inputs.push(input);
        assert_eq!(twice.payload(), Err(ReceiptError::Member("inputs")));
    }

    #[test]
    fn statement_of_another_kind_or_form_is_read() {
        let good = String::from_utf8(statement().payload().unwrap()).unwrap();
        for (from, to) in [
            ("Statement/v1", "Statement/v2"),
            ("receipt:2", "receipt:1"),
            ("receipt:2", "receipt:3"),
            ("\"threshold\"", "\"more\":1,\"threshold\""),
            (",\"skip_bad_rows\":false", ""),
        ] {
            let changed = good.replace(from, to);
            assert_ne!(changed, good);
            let error = Statement::parse(changed.as_bytes()).unwrap_err();
            assert!(
                matches!(error, ReceiptError::Statement(_)),
                "{from}: {error}"
            );
        }
        let spaced = good.replacen(':', ": ", 1);
        assert_eq!(
            Statement::parse(spaced.as_bytes()),
            Err(ReceiptError::NotCanonical)
        );
    }

    #[test]
    fn table_stands_without_its_manifest_or_lines_with_one() {
        assert!(table().payload().is_ok());
        let refused = |change: &dyn Fn(&mut Statement)| {
            let mut changed = table();
            change(&mut changed);
            changed.payload().unwrap_err()
        };
        let subject = ReceiptError::Member("subject");
        assert_eq!(refused(&|table| drop(table.subject.pop())), subject);
        assert_eq!(refused(&|table| table.subject.clear()), subject);
        let lines = ResultsFormat::Jsonl;
        let other = refused(&|table| table.predicate.options.results_format = lines);
        assert_eq!(other, subject);
        let name = refused(&|table| table.subject[1].name = table.subject[0].name.clone());
        assert_eq!(name, subject);
        let digest = refused(&|table| table.subject[1].digest.sha256 = "x".to_owned());
        assert_eq!(digest, ReceiptError::Member("subject.digest"));
    }

    #[test]
    fn receipt_that_cannot_be_is_found_out_after_the_job() {
        let numbered = |count: usize, name: &str| -> Vec<String> {
            (0..count).map(|at| format!("{name}{at}")).collect()
        };
        let check = |inputs: &[String], result: &str| {
            check_names(inputs.iter().map(String::as_str), [result])
        };
        assert_eq!(check(&numbered(MAX_INPUTS, "in/"), "r"), Ok(()));
        let long = "x".repeat(MAX_NAME - 4);
        for (inputs, result, expected) in [
            (
                numbered(MAX_INPUTS + 1, "in/"),
                "r",
                ReceiptError::TooManyInputs(MAX_INPUTS + 1),
            ),
            (numbered(2_000, &long), "r", ReceiptError::Names),
            (
                vec!["a".to_owned(), "b".to_owned(), "a".to_owned()],
                "r",
                ReceiptError::SameInput("a".to_owned()),
            ),
            (numbered(1, "a"), "", ReceiptError::Name(String::new())),
        ] {
            assert_eq!(check(&inputs, result), Err(expected));
        }
        let error = check(&["x".repeat(MAX_NAME + 1)], "r").unwrap_err();
        assert!(matches!(error, ReceiptError::Name(_)), "{error}");
        // What is let through can be signed, with all that goes beside the inputs.
        let mut statement = statement();
        let names = numbered(10_000, &"y".repeat(80));
        assert_eq!(check(&names, "r"), Ok(()));
        let inputs = names.iter().map(|name| {
            let input = Input::new(name, &digest("04"));
            input.opened(Protection::Authenticated, [KeyFrom::File, KeyFrom::Broker])
        });
        statement.predicate.inputs = inputs.collect();
        statement.predicate.token = Some("t".repeat(256 << 10));
        let release = statement.predicate.releases[0].clone();
        statement.predicate.releases = vec![release; MAX_RELEASES];
        assert!(statement.payload().is_ok());
    }

    #[test]
    fn clock_that_is_set_back_costs_the_receipt() {
        let mut summary = summary();
        summary.flagged = 0;
        let inputs = vec![Input::new("a", &digest("01"))];
        let options = Options::default();
        let predicate = Predicate::of(&summary, &options, &handling(), inputs, "s", (9, 8));
        let statement = Statement::new(vec![Subject::new("r", &digest("02"))], predicate);
        assert!(statement.payload().is_ok());
    }
}
