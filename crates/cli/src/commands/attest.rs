//! `strongroom attest`: one handshake, and the verdict in it.

use anyhow::Context as _;
use base64::Engine as _;
use serde_json::{Value, json};

use crate::commands::guest::AttestArgs;
use crate::connect::block_on;
use crate::outcome::Outcome;

/// Attest to a broker once and show what it says of this machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    attest: AttestArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let agent = args.attest.agent()?;
    let attested = block_on(agent.token())??;
    let claims = unverified_claims(attested.token().expose())?;
    let mut text = format!(
        "The broker {} believes this machine's evidence (platform {}).",
        agent.broker(),
        agent.tee()
    );
    for (name, submod) in claims["submods"].as_object().into_iter().flatten() {
        let annotated = &submod["ear.veraison.annotated-evidence"];
        text.push_str(&format!(
            "\n{name}: {}",
            submod["ear.status"].as_str().unwrap_or("-")
        ));
        for (what, claim) in [
            ("assurance", "assurance"),
            ("init-data", "init_data_digest"),
            ("bound", "init_data_bound"),
        ] {
            if !annotated[claim].is_null() {
                text.push_str(&format!(
                    "\n  {what:<12}{}",
                    annotated[claim].to_string().trim_matches('"')
                ));
            }
        }
        for (claim, value) in submod["ear.trustworthiness-vector"]
            .as_object()
            .into_iter()
            .flatten()
        {
            text.push_str(&format!("\n  {claim:<18}{value}"));
        }
    }
    Ok(Outcome::new(
        text,
        json!({ "broker": agent.broker(), "tee": agent.tee(), "claims": claims }),
    )
    .next("strongroom guest run")
    .next("strongroom get kbs:///default/fraud-dataset/dataset_key --output KEYFILE"))
}

/// For showing only: this side has no key to verify the token with, and needs none.
fn unverified_claims(token: &str) -> anyhow::Result<Value> {
    let payload = token
        .split('.')
        .nth(1)
        .context("the broker's token is no JWT")?;
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload)?;
    Ok(serde_json::from_slice(&json)?)
}
