//! A job's receipt: which model scored which bytes into which result, signed by a key that was made inside the job and
//! that the machine's evidence vouches for.
//!
//! The form is a DSSE envelope (DSSE protocol 1.0, `envelope.rs`) around an in-toto Statement v1. It says nothing of any
//! row or score. What is in here runs nowhere: time, evidence and tokens come in as arguments.

mod digest;
mod envelope;

use std::collections::BTreeSet;
use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use strongroom_wire::canonical::{HashAlgorithm, to_jcs};

pub use digest::{Digest, Digesting, DigestingAt, DigestingWriter, StreamDigest};
pub use envelope::UnverifiedReceipt;

use crate::batch::{HeaderRow, Options, Results, Summary};
use crate::results::{Counts, MAX_INPUTS};
use envelope::PublicKey;

/// What a receipt says (in-toto Statement v1).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: StatementType,
    subject: [Subject; 1],
    #[serde(rename = "predicateType")]
    predicate_type: PredicateType,
    /// How the result came about.
    pub predicate: Predicate,
}

impl Statement {
    /// Says of a result file how it came about.
    pub fn new(result_name: &str, result: &Digest, predicate: Predicate) -> Self {
        Self {
            kind: StatementType::V1,
            subject: [Subject {
                name: result_name.to_owned(),
                digest: Sha256Of {
                    sha256: result.sha256.clone(),
                },
            }],
            predicate_type: PredicateType::V1,
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

    /// What the result file is called.
    pub fn result_name(&self) -> &str {
        &self.subject[0].name
    }

    /// The SHA-256 of the result file as it lies sealed, in hex.
    pub fn result_sha256(&self) -> &str {
        &self.subject[0].digest.sha256
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
        holds(is_name(self.result_name()), "subject.name")?;
        holds(is_sha256(self.result_sha256()), "subject.digest")?;
        holds(model.is_some_and(is_sha256), "model.digest")?;
        holds((0.0..=1.0).contains(&predicate.threshold), "threshold")?;
        holds(
            (1..=MAX_INPUTS).contains(&predicate.inputs.len())
                && names.len() == predicate.inputs.len()
                && names.into_iter().all(is_name)
                && predicate
                    .inputs
                    .iter()
                    .all(|input| is_sha256(&input.sha256)),
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
                skip_bad_rows: options.skip_bad_rows,
                header_row: options.header_row,
                key_column: options.key_column.clone(),
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

/// The model that scored.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelUsed {
    /// The bundle's digest: weights, preprocessing and the model's own threshold.
    pub digest: String,
}

/// How the batch was scored.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OptionsUsed {
    /// Which rows the owner gets.
    pub results: Results,
    /// Whether bad rows were counted instead of ending the job.
    pub skip_bad_rows: bool,
    /// Whether the first row names the columns.
    pub header_row: HeaderRow,
    /// The column whose text names a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_column: Option<String>,
}

/// A file that was read, as it lay in storage: where it is encrypted, its ciphertext.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// What it was called.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
}

impl Input {
    /// A file and its digest.
    pub fn new(name: impl Into<String>, digest: &Digest) -> Self {
        Self {
            name: name.into(),
            bytes: digest.bytes,
            sha256: digest.sha256.clone(),
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

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    name: String,
    digest: Sha256Of,
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
    #[serde(rename = "urn:strongroom:receipt:1")]
    V1,
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
const MAX_RELEASES: usize = 1_024;

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

    fn statement() -> Statement {
        let summary = summary();
        let inputs = vec![Input::new("data.csv.enc", &digest("01"))];
        let times = (1_800_000_000, 1_800_000_009);
        let mut predicate = Predicate::of(
            &summary,
            &Options::default(),
            inputs,
            "strongroom 0.1.0",
            times,
        );
        predicate.releases.push(ReleasedKey {
            resource: "kbs:///a/b/c".to_owned(),
            event: Some("0123456789abcdef01234567".to_owned()),
            token: Some("t".to_owned()),
        });
        Statement::new("results.jsonl.enc", &digest("02"), predicate)
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
            ("receipt:1", "receipt:2"),
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
    fn clock_that_is_set_back_costs_the_receipt() {
        let mut summary = summary();
        summary.flagged = 0;
        let inputs = vec![Input::new("a", &digest("01"))];
        let predicate = Predicate::of(&summary, &Options::default(), inputs, "s", (9, 8));
        let statement = Statement::new("r", &digest("02"), predicate);
        assert!(statement.payload().is_ok());
    }
}
