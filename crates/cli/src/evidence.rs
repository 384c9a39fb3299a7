//! Evidence in a file, for the commands that look at it offline: which platform it is of, what it is checked against,
//! and where the collateral lies that it does not carry.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::Value;
use strongroom_broker::Config;
use strongroom_verifier::{
    Assurance, Check, Collateral, CollateralItem, CollateralRequest, Evidence, Examination,
    Expected, Step, StepOutcome, TrustAnchors, VerifyError, Wanted, examine,
};
use strongroom_wire::tee::Tee;

use crate::connect::read_pem;
use crate::files;

/// What evidence is checked against.
#[derive(clap::Args)]
pub(crate) struct EvidenceArgs {
    /// The platform, such as snp or az-tdx-vtpm [default: what the evidence looks like].
    #[arg(long, value_name = "TEE")]
    pub(crate) tee: Option<Tee>,

    /// Verify as of this time: RFC 3339, or seconds since 1970 [default: now].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) at: Option<u64>,

    /// A broker's folder, or a folder of collateral as `strongroom broker collateral` fills it.
    #[arg(long, value_name = "DIR")]
    pub(crate) collateral: Option<PathBuf>,

    /// Trust this development root too: its folder, or its certificate in PEM. The verdict says so.
    #[arg(long, value_name = "DIR|PEM")]
    pub(crate) development_root: Option<PathBuf>,

    /// Trust a maker of TPMs, or whoever certifies the attestation keys of yours (PEM).
    #[arg(long, value_name = "PEM")]
    pub(crate) tpm_root: Vec<PathBuf>,

    /// Trust one attestation key of a TPM that you know: its public key, PEM or DER.
    #[arg(long, value_name = "FILE")]
    pub(crate) attestation_key: Vec<PathBuf>,
}

/// Evidence whose checks were made.
pub(crate) struct Examined {
    pub(crate) tee: Tee,
    /// The time as of which, in seconds since 1970.
    pub(crate) at: u64,
    pub(crate) examination: Examination,
    /// The collateral that the evidence calls for and that was not found, required or not.
    pub(crate) missing: Vec<Wanted>,
    /// Where it was looked for.
    pub(crate) folder: Option<PathBuf>,
    /// The folder that was named for it, which may be a broker's.
    given: Option<PathBuf>,
}

impl EvidenceArgs {
    /// Makes every check over the evidence in a file.
    ///
    /// What is wrong with the evidence is in the result; an error is what keeps it from being looked at.
    pub(crate) fn examine(&self, file: &Path, expected: &Expected) -> anyhow::Result<Examined> {
        let (tee, parsed) = parse_file(file, self.tee)?;
        self.examine_parsed(tee, parsed, expected)
    }

    /// As [`Self::examine`], over evidence that was parsed already.
    pub(crate) fn examine_parsed(
        &self,
        tee: Tee,
        parsed: Result<Evidence, VerifyError>,
        expected: &Expected,
    ) -> anyhow::Result<Examined> {
        let at = self.at.map_or_else(now, Ok)?;
        let anchors = self.anchors()?;
        let folder = self.folder()?;
        let (examination, missing) = match parsed {
            Ok(evidence) => {
                let request = evidence.collateral_request();
                let (collateral, missing) = read_collateral(folder.as_deref(), &request)?;
                let examination = examine(evidence, &collateral, &anchors, expected, at);
                (complete(examination), missing)
            }
            Err(error) => (refused(error), Vec::new()),
        };
        Ok(Examined {
            tee,
            at,
            examination,
            missing,
            folder,
            given: self.collateral.clone(),
        })
    }

    fn anchors(&self) -> anyhow::Result<TrustAnchors> {
        let mut anchors = TrustAnchors::vendors();
        if let Some(root) = &self.development_root {
            let path = match root.is_dir() {
                true => root.join(DEVELOPMENT_ROOT),
                false => root.clone(),
            };
            anchors = anchors
                .with_development_root(&read_pem(&path)?)
                .with_context(|| format!("{} is no development root", path.display()))?;
        }
        for path in &self.tpm_root {
            anchors = anchors
                .with_tpm_root(&read_pem(path)?)
                .with_context(|| format!("{} is no root of TPMs", path.display()))?;
        }
        for path in &self.attestation_key {
            anchors = anchors
                .with_attestation_key(&files::read_limited(path, MAX_KEY)?)
                .with_context(|| format!("{} is no public key", path.display()))?;
        }
        Ok(anchors)
    }

    /// A broker's folder says where its collateral is, and a development root's has the collateral that it made.
    fn folder(&self) -> anyhow::Result<Option<PathBuf>> {
        let Some(folder) = &self.collateral else {
            let development = self.development_root.as_ref();
            let folder = development.map(|root| root.join("collateral"));
            return Ok(folder.filter(|folder| folder.is_dir()));
        };
        let config = folder.join("broker.toml");
        if config.is_file() {
            let config = Config::load(&config).with_context(|| {
                format!("the configuration {} cannot be used", config.display())
            })?;
            return Ok(Some(config.collateral_folder()));
        }
        anyhow::ensure!(folder.is_dir(), "{} is no folder", folder.display());
        Ok(Some(folder.clone()))
    }
}

impl Examined {
    /// The claims of the first piece of evidence, the CPU's.
    pub(crate) fn claims(&self) -> Value {
        let claims = self.examination.claims.first();
        claims.map_or(Value::Null, |(_, claims)| Value::Object(claims.clone()))
    }

    /// What mends evidence of a development root that is none of those given. AMD's chains name the root that they lack;
    /// of others there is a digest, or nothing.
    pub(crate) fn development_hint(&self) -> Option<&'static str> {
        let error = self.examination.error.as_ref()?;
        let is_likely = match error.check() {
            Check::SnpChain => error.to_string().contains(DEVELOPMENT),
            Check::IntelRoot | Check::TpmAkCertificate => true,
            _ => false,
        };
        is_likely.then_some(
            "If the machine is one for development, its root is none of those that were given: name the root's folder with --development-root DIR",
        )
    }

    /// The command that fetches what is missing.
    pub(crate) fn fetch(&self, file: &Path) -> String {
        let folder = self.given.as_deref().unwrap_or_else(|| Path::new("DIR"));
        format!(
            "strongroom broker collateral fetch --evidence {} {}",
            file.display(),
            folder.display()
        )
    }

    /// Where a piece of collateral would be found.
    pub(crate) fn place(&self, wanted: &Wanted) -> PathBuf {
        let folder = self.folder.as_deref();
        folder
            .unwrap_or_else(|| Path::new("DIR"))
            .join(wanted.path())
    }
}

/// The steps with the first and the last one that the checks themselves do not record: that the evidence was read,
/// and what ended them.
fn complete(mut examination: Examination) -> Examination {
    if !examination
        .steps
        .iter()
        .any(|step| step.check == Check::Structure)
    {
        examination.steps.insert(
            0,
            Step {
                check: Check::Structure,
                outcome: StepOutcome::Passed,
            },
        );
    }
    if let Some(error) = &examination.error
        && !examination
            .steps
            .iter()
            .any(|step| matches!(step.outcome, StepOutcome::Failed(_)))
    {
        examination.steps.push(failed(error));
    }
    examination
}

fn refused(error: VerifyError) -> Examination {
    Examination {
        steps: vec![failed(&error)],
        claims: Vec::new(),
        assurance: Assurance::Development,
        error: Some(error),
    }
}

fn failed(error: &VerifyError) -> Step {
    Step {
        check: error.check(),
        outcome: StepOutcome::Failed(error.to_string()),
    }
}

/// Parses the evidence in a file, as JSON or in the platform's own form. Nothing of it is believed.
pub(crate) fn parse_file(
    file: &Path,
    tee: Option<Tee>,
) -> anyhow::Result<(Tee, Result<Evidence, VerifyError>)> {
    let bytes = files::read_limited(file, MAX_EVIDENCE)?;
    let Some(tee) = tee.or_else(|| guess(&bytes)) else {
        bail!(
            "{} looks like the evidence of no platform: if it is, name the platform with --tee",
            file.display()
        );
    };
    let parsed = match is_json(&bytes) {
        true => Evidence::parse(tee, &bytes),
        false => Evidence::parse_raw(tee, &bytes),
    };
    Ok((tee, parsed))
}

/// Reads what a folder has of what is wanted, and tells what it has not.
fn read_collateral(
    folder: Option<&Path>,
    request: &CollateralRequest,
) -> anyhow::Result<(Collateral, Vec<Wanted>)> {
    let mut collateral = Collateral::none();
    let mut missing = Vec::new();
    for wanted in request.iter() {
        let path = folder.map(|folder| (folder, folder.join(wanted.path())));
        let Some((folder, path)) = path.filter(|(_, path)| path.exists()) else {
            missing.push(wanted.clone());
            continue;
        };
        let issuer_chain = match wanted.chain_path().map(|path| folder.join(path)) {
            Some(chain) => files::read_text(&chain, MAX_COLLATERAL)
                .with_context(|| format!("{} is there without its issuer chain", path.display()))?,
            None => String::new(),
        };
        let item = CollateralItem {
            body: files::read_limited(&path, MAX_COLLATERAL)?.to_vec(),
            issuer_chain,
        };
        collateral.insert(wanted.clone(), item);
    }
    Ok((collateral, missing))
}

/// The platform that evidence looks like, by the members that its attester writes or by its first bytes.
fn guess(bytes: &[u8]) -> Option<Tee> {
    if !is_json(bytes) {
        return guess_raw(bytes);
    }
    let json: Value = serde_json::from_slice(bytes).ok()?;
    let has = |member: &str| json.get(member).is_some();
    if has("hcl_report") || has("report") {
        return Some(match has("td_quote") {
            true => Tee::AzTdxVtpm,
            false => Tee::AzSnpVtpm,
        });
    }
    if let Some(report) = json.get("attestation_report") {
        return Some(match report.get("measurement").is_some() {
            true => Tee::Snp,
            false => Tee::Csv,
        });
    }
    if let Some(quote) = json.get("quote").and_then(Value::as_str) {
        let quote = STANDARD.decode(quote).or_else(|_| URL_SAFE.decode(quote));
        return quote.ok().and_then(|quote| guess_raw(&quote));
    }
    [
        ("ak_public", Tee::Tpm),
        ("device_evidence_list", Tee::Nvidia),
        ("attestation_reports", Tee::Hygondcu),
        ("token", Tee::Cca),
        ("image_hdr_tags", Tee::Se),
        ("devices", Tee::NvidiaDpu),
        ("svn", Tee::Sample),
    ]
    .into_iter()
    .find_map(|(member, tee)| has(member).then_some(tee))
}

/// A report of SNP has a fixed length; a quote has its version, its key type and then its TEE type.
fn guess_raw(bytes: &[u8]) -> Option<Tee> {
    const SNP_REPORT: usize = 1184;
    const TDX: [u8; 4] = 0x81u32.to_le_bytes();
    if bytes.len() == SNP_REPORT {
        return Some(Tee::Snp);
    }
    let [version @ 3..=5, 0, _, _, tee @ ..] = bytes.first_chunk::<8>()? else {
        return None;
    };
    Some(match *version > 3 && *tee == TDX {
        true => Tee::Tdx,
        false => Tee::Sgx,
    })
}

fn is_json(bytes: &[u8]) -> bool {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    matches!(first, Some(b'{' | b'['))
}

/// This machine's time.
pub(crate) fn now() -> anyhow::Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(since
        .context("this machine's clock stands before 1970")?
        .as_secs())
}

pub(crate) fn parse_time(text: &str) -> anyhow::Result<u64> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(seconds);
    }
    let format = &time::format_description::well_known::Rfc3339;
    let moment = time::OffsetDateTime::parse(text, format)
        .context("write the time as 2026-01-31T12:00:00Z, or in seconds since 1970")?;
    u64::try_from(moment.unix_timestamp()).context("the time lies before 1970")
}

/// In the names of all certificates that the development platform makes.
const DEVELOPMENT: &str = "Strongroom development";

/// The certificate in a development root's folder.
const DEVELOPMENT_ROOT: &str = "root.pem";

/// Evidence of eight GPUs with their chains has less than 1 MiB; an event log has up to 1 MiB before its base64.
const MAX_EVIDENCE: u64 = 4 * 1024 * 1024;
const MAX_COLLATERAL: u64 = 4 * 1024 * 1024;
const MAX_KEY: u64 = 64 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_taken_for_that_of_another_platform() {
        let quote = |version: u8, tee: u8| {
            let header = [version, 0, 2, 0, tee, 0, 0, 0];
            format!(
                "{{\"quote\":\"{}\",\"cc_eventlog\":null}}",
                STANDARD.encode(header)
            )
        };
        for (json, tee) in [
            (r#"{"svn":"1","report_data":"YWJj"}"#, Some(Tee::Sample)),
            (
                r#" {"attestation_report":{"measurement":[]},"cert_chain":null}"#,
                Some(Tee::Snp),
            ),
            (r#"{"attestation_report":{"data":[]}}"#, Some(Tee::Csv)),
            (
                r#"{"quote":{"message":[]},"report":[],"vcek":""}"#,
                Some(Tee::AzSnpVtpm),
            ),
            (
                r#"{"quote":{"message":[]},"report":[],"td_quote":[]}"#,
                Some(Tee::AzTdxVtpm),
            ),
            (
                r#"{"version":2,"tpm_quote":{},"hcl_report":"","vcek":""}"#,
                Some(Tee::AzSnpVtpm),
            ),
            (
                r#"{"version":2,"tpm_quote":{},"hcl_report":"","td_quote":""}"#,
                Some(Tee::AzTdxVtpm),
            ),
            (r#"{"ak_public":"","tpm_quote":{}}"#, Some(Tee::Tpm)),
            (r#"{"device_evidence_list":[]}"#, Some(Tee::Nvidia)),
            (&quote(4, 0x81), Some(Tee::Tdx)),
            (&quote(5, 0x81), Some(Tee::Tdx)),
            (&quote(3, 0), Some(Tee::Sgx)),
            (r#"{"quote":"AAAA"}"#, None),
            ("{}", None),
            ("{", None),
            ("[1]", None),
            ("", None),
        ] {
            assert_eq!(guess(json.as_bytes()), tee, "{json}");
        }
        assert_eq!(guess(&[2; 1184]), Some(Tee::Snp));
        assert_eq!(guess(&[4, 0, 2, 0, 0x81, 0, 0, 0, 9]), Some(Tee::Tdx));
    }

    #[test]
    fn time_is_read_as_another_one() {
        assert_eq!(parse_time("1700000000").unwrap(), 1_700_000_000);
        assert_eq!(parse_time("2023-11-14T22:13:20Z").unwrap(), 1_700_000_000);
        assert_eq!(
            parse_time("2023-11-14T23:13:20+01:00").unwrap(),
            1_700_000_000
        );
        for wrong in ["yesterday", "2023-11-14", "1969-01-01T00:00:00Z", "-1", ""] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
