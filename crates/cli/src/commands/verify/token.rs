//! `strongroom verify token`: a broker's word on a machine, and whether it is the broker's.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use der::{Decode as _, Encode as _};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::JwkSet;
use pem::parse;
use serde_json::{Value, json};
use strongroom_verifier::{Assurance, StepOutcome};
use strongroom_wire::ear::{EarClaims, EarError, MAX_TOKEN, UnverifiedEar, insecure_expiry};

use super::lines::{Line, Verdict, paragraphs};
use crate::commands::audit::moment;
use crate::evidence::{now, parse_time};
use crate::files;
use crate::outcome::Outcome;

/// Verify an attestation token: that the broker signed it, and that it is in force.
///
/// Show its claims only when both hold. The broker's keys are at /.well-known/jwks.json, and its certificate for tokens is
/// token.crt in its folder.
#[derive(clap::Args)]
pub(super) struct VerifyToken {
    /// The token, a JWT; - for standard input.
    file: PathBuf,

    /// The broker's keys (a JWK set), its key or its certificate for tokens (PEM).
    #[arg(long, value_name = "JWKS|PEM")]
    broker_key: PathBuf,

    /// Verify as of this time: RFC 3339, or seconds since 1970 [default: now].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<u64>,
}

pub(super) fn run(args: &VerifyToken) -> anyhow::Result<Outcome> {
    let keys = BrokerKeys::read(&args.broker_key)?;
    let text = files::read_text(&args.file, MAX_TOKEN as u64 + 1)?;
    let at = args.at.map_or_else(now, Ok)?;
    let (mut lines, mut claims) = (Vec::new(), None);
    match keys.verify(text.trim_end()) {
        Err(error) => lines.push(signed(Err(error))),
        Ok(found) => {
            lines.push(signed(Ok(())));
            let (issued, expires) = (found.iat, found.exp);
            let within = issued <= at.saturating_add(SKEW) && at < expires;
            let why = format!(
                "it was issued at {} and expires at {}; verified as of {}",
                moment(issued),
                moment(expires),
                moment(at)
            );
            lines.push(line(IN_FORCE, check(within, why)));
            claims = Some(found);
        }
    }
    // Only the token's own word on this: it is shown, and changes no verdict.
    let assurance = claims.as_ref().map_or(Assurance::Development, assurance);
    let verdict = Verdict::of(&lines, assurance, &[]);
    let claims = claims.filter(|_| matches!(verdict, Verdict::Verified(_)));
    let mut text = format!("Token, as of {}\n{}\n\n", moment(at), paragraphs(&lines));
    for (name, submod) in claims.iter().flat_map(|claims| &claims.submods) {
        text.push_str(&format!("{name}: {}\n", submod.status.as_str()));
    }
    text.push_str(&verdict.line());
    let document = json!({
        "verdict": verdict.name(), "at": at, "steps": lines.iter().map(Line::document).collect::<Vec<_>>(),
        "claims": claims,
    });
    Ok(Outcome::new(text, document).code(verdict.code()))
}

/// The keys by which a broker's tokens are verified.
pub(super) enum BrokerKeys {
    Set(JwkSet),
    One(Box<DecodingKey>),
}

impl BrokerKeys {
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = files::read_text(path, MAX_KEYS)?;
        let failed = || {
            format!(
                "{} holds no broker's keys: give the answer of /.well-known/jwks.json, or token.crt of the broker's folder",
                path.display()
            )
        };
        if text.trim_start().starts_with('{') {
            return serde_json::from_str(&text)
                .map(Self::Set)
                .with_context(failed);
        }
        let found = parse(&text).with_context(failed)?;
        let spki = match found.tag() {
            "PUBLIC KEY" => found.contents().to_vec(),
            "CERTIFICATE" => {
                let certificate =
                    x509_cert::Certificate::from_der(found.contents()).with_context(failed)?;
                let spki = certificate.tbs_certificate().subject_public_key_info();
                spki.to_der()?
            }
            other => bail!("{} holds a {other}, and no broker's key", path.display()),
        };
        let spki =
            x509_cert::spki::SubjectPublicKeyInfoRef::from_der(&spki).with_context(failed)?;
        let point = spki.subject_public_key.as_bytes().with_context(failed)?;
        let point = point.strip_prefix(&[0x04]).with_context(failed)?;
        anyhow::ensure!(point.len() == 64, "{}: it is no P-256 key", failed());
        let (x, y) = point.split_at(32);
        let base64url = |bytes: &[u8]| {
            use base64::Engine as _;
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
        };
        let key = DecodingKey::from_ec_components(&base64url(x), &base64url(y))?;
        Ok(Self::One(Box::new(key)))
    }

    /// The claims of a token that one of the keys signed. Whether it is in force is for the caller to say.
    pub(super) fn verify(&self, text: &str) -> Result<EarClaims, String> {
        let token = UnverifiedEar::parse(text).map_err(|error| error.to_string())?;
        let key = match self {
            Self::One(key) => DecodingKey::clone(key),
            Self::Set(keys) => {
                let jwk = token.kid().and_then(|kid| keys.find(kid));
                let jwk = jwk.ok_or("none of the broker's keys has the token's key id")?;
                DecodingKey::from_jwk(jwk).map_err(|error| error.to_string())?
            }
        };
        // As of the last moment at which it is in force, so that its signature alone decides.
        let expiry = insecure_expiry(text).map_err(|error| error.to_string())?;
        let verified = token.verify(&key, expiry.saturating_sub(1));
        verified.map_err(|error: EarError| error.to_string())
    }
}

/// What the token says that it rests on; what does not say so is no hardware.
fn assurance(claims: &EarClaims) -> Assurance {
    let said = |name: &str| {
        let submod = claims.submods.get(name)?;
        submod.annotated_evidence.get("assurance")?.as_str()
    };
    let all = claims
        .submods
        .keys()
        .all(|name| said(name) == Some("hardware"));
    match all && claims.submods.contains_key(CPU) {
        true => Assurance::Hardware,
        false => Assurance::Development,
    }
}

/// A claim of the CPU's appraisal.
pub(super) fn of_the_cpu<'a>(claims: &'a EarClaims, name: &str) -> Option<&'a Value> {
    let submod = claims.submods.get(CPU)?;
    submod.annotated_evidence.get(name)
}

const SIGNED: (&str, &str, &str) = (
    "TokenSignature",
    "the broker signed the token",
    "RFC 7515, 5.2; draft-ietf-rats-ear",
);
const IN_FORCE: (&str, &str, &str) = (
    "TokenTime",
    "the token is in force",
    "RFC 7519, 4.1.4 and 4.1.6",
);

pub(super) fn signed(outcome: Result<(), String>) -> Line {
    let outcome = match outcome {
        Ok(()) => StepOutcome::Passed,
        Err(why) => StepOutcome::Failed(why),
    };
    line(SIGNED, outcome)
}

pub(super) fn line(
    (name, sentence, clause): (&'static str, &'static str, &'static str),
    outcome: StepOutcome,
) -> Line {
    Line {
        name,
        sentence,
        clause,
        outcome,
        mend: None,
    }
}

pub(super) fn check(holds: bool, why: String) -> StepOutcome {
    match holds {
        true => StepOutcome::Passed,
        false => StepOutcome::Failed(why),
    }
}

/// The name that a token gives the appraisal of the primary evidence.
pub(super) const CPU: &str = "cpu0";
/// How far another machine's clock may be ahead.
pub(super) const SKEW: u64 = 60;
const MAX_KEYS: u64 = 1024 * 1024;
