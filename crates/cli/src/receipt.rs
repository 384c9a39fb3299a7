//! A receipt in the making: the key and its evidence first, digests while the job runs, the signature last.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::value::RawValue;
use strongroom_client::ClientError;
use strongroom_scoring::batch::{Options, Summary};
use strongroom_scoring::read_at::ReadAt;
use strongroom_scoring::receipt::{
    Attestation, Digesting, DigestingAt, Handling, Input, KeyFrom, MAX_RELEASES, Predicate,
    Protection, ReceiptKey, ReleasedKey, Statement, StreamDigest, Subject, check_names,
};

use crate::connect::block_on;
use crate::evidence::now;
use crate::files::{Existing, Output};
use crate::keys::GuestArgs;
use crate::storage::Source;

/// A job whose receipt is not written yet.
pub(crate) struct Receipting {
    key: ReceiptKey,
    attestation: Attestation,
    guest: GuestArgs,
    /// Appears when the job succeeded.
    output: Output,
    started: u64,
    inputs: Vec<Hashing>,
    token: Option<String>,
}

impl Receipting {
    /// Makes the key and has the guest vouch for it, before any work.
    pub(crate) fn begin(
        target: &Path,
        existing: Existing,
        guest: &GuestArgs,
    ) -> anyhow::Result<Self> {
        let started = now()?;
        let key = ReceiptKey::generate()?;
        let attestation = attestation(guest, &key).with_context(|| {
            format!(
                "a receipt needs a guest that attests and gives evidence (guest run --features all), and the one at {} gives none",
                guest.url()
            )
        })?;
        Ok(Self {
            key,
            attestation,
            guest: guest.clone(),
            output: Output::create(target, existing, 0o644)?,
            started,
            inputs: Vec::new(),
            token: None,
        })
    }

    /// Whether there can be a receipt of a job over inputs and results of these names.
    pub(crate) fn check(inputs: &[String], results: &[String]) -> anyhow::Result<()> {
        let checked = check_names(
            inputs.iter().map(String::as_str),
            results.iter().map(String::as_str),
        );
        checked.context("no receipt can be made of this job, so nothing was scored")
    }

    /// Has an input hashed as it is read from storage, by whichever of its two ways it will be.
    pub(crate) fn input(&mut self, source: Source) -> Source {
        let (reader, stream) = Digesting::new(source.reader);
        let at = source.at.map(|at| Arc::new(DigestingAt::new(at)));
        self.inputs.push(Hashing {
            name: source.label.clone(),
            stream,
            at: at.clone(),
            protection: Protection::None,
            keys: BTreeSet::new(),
        });
        Source {
            reader: Box::new(reader),
            at: at.map(|at| at as Arc<dyn ReadAt>),
            ..source
        }
    }

    /// Says of the last input how it was opened.
    pub(crate) fn opened(&mut self, protection: Protection, keys: &BTreeSet<KeyFrom>) {
        if let Some(input) = self.inputs.last_mut() {
            (input.protection, input.keys) = (protection, keys.clone());
        }
    }

    /// Takes the token under which the first key was released, while it is in force.
    pub(crate) fn key_was_fetched(&mut self) -> anyhow::Result<()> {
        // What other brokers released has no token of the guest's own broker.
        let released = self.guest.released();
        anyhow::ensure!(
            released.len() <= MAX_RELEASES,
            "no receipt can be made of this job: it names at most {MAX_RELEASES} releases of keys"
        );
        let is_own = |release: &ReleasedKey| release.resource.starts_with("kbs:///");
        if self.token.is_some() || !released.iter().any(is_own) {
            return Ok(());
        }
        let api = self.guest.api()?;
        let token = block_on(api.attestation_token())?;
        self.token = Some(token.context("the guest gives no token for the receipt")?);
        Ok(())
    }

    /// The inputs, once all of them were read.
    pub(crate) fn take_inputs(&mut self) -> anyhow::Result<Vec<Input>> {
        let digested = |hashing: Hashing| -> anyhow::Result<Input> {
            let name = hashing.name;
            let unread = || format!("no receipt can name {name}");
            let digest = match (hashing.stream.finish().with_context(unread)?, hashing.at) {
                (Some(digest), _) => digest,
                (None, Some(at)) => at.finish().with_context(unread)?,
                (None, None) => anyhow::bail!("{}: it was not read", unread()),
            };
            let input = Input::new(name, &digest);
            Ok(input.opened(hashing.protection, hashing.keys))
        };
        self.inputs.drain(..).map(digested).collect()
    }

    /// Signs, once the results are sealed. Nothing appears before [`Signed::commit`].
    pub(crate) fn sign(
        self,
        results: Vec<Subject>,
        inputs: Vec<Input>,
        summary: &Summary,
        (options, handling): (&Options, &Handling),
    ) -> anyhow::Result<Signed> {
        let times = (self.started, now()?);
        let mut predicate = Predicate::of(summary, options, handling, inputs, SOFTWARE, times);
        predicate.releases = self.guest.released();
        predicate.token = self.token;
        let statement = Statement::new(results, predicate);
        let receipt = self.key.sign(&statement, self.attestation);
        let mut output = self.output;
        output.write_all(&receipt.context("no receipt can be made of this job")?)?;
        Ok(Signed(output))
    }
}

/// An input whose digest grows while it is read.
struct Hashing {
    name: String,
    stream: StreamDigest,
    at: Option<Arc<DigestingAt>>,
    protection: Protection,
    keys: BTreeSet<KeyFrom>,
}

/// A receipt that waits for its results to be in place.
pub(crate) struct Signed(Output);

impl Signed {
    /// Makes it appear.
    pub(crate) fn commit(self) -> anyhow::Result<()> {
        self.0.commit()
    }
}

fn attestation(guest: &GuestArgs, key: &ReceiptKey) -> anyhow::Result<Attestation> {
    let api = guest.api()?;
    let report_data = URL_SAFE_NO_PAD.encode(key.report_data());
    let asked = block_on(async {
        let info = api.info().await?;
        let evidence = api.evidence(&report_data).await?;
        Ok::<_, ClientError>((info, evidence, api.initdata().await?))
    })?;
    let (info, evidence, initdata) = asked?;
    anyhow::ensure!(
        evidence.len() <= MAX_EVIDENCE,
        "its evidence has more than {MAX_EVIDENCE} bytes"
    );
    let evidence: Box<RawValue> =
        serde_json::from_slice(&evidence).context("its evidence is no JSON")?;
    Ok(Attestation {
        tee: info.tee.context("it names no platform")?,
        evidence,
        initdata,
    })
}

const SOFTWARE: &str = concat!("strongroom ", env!("CARGO_PKG_VERSION"));
const MAX_EVIDENCE: usize = 4 * 1024 * 1024;
