//! `attest`: one handshake, and the verdict in it; or without a broker, what this machine is.

use anyhow::Context as _;
use base64::Engine as _;
use serde_json::{Value, json};

use strongroom_attester::{Attester, Outcome as Seen, Probe};

use super::outcome::Outcome;
use super::{AttestArgs, Program, block_on};

/// Attest to a broker once and show what it says of this machine.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    attest: AttestArgs,

    /// Ask no broker: say which platform was found, how, and why each other was not.
    #[arg(long)]
    explain: bool,
}

impl Args {
    /// Attests, or says what this machine is.
    ///
    /// # Errors
    /// Why the broker does not believe this machine.
    pub fn run(&self, program: Program) -> anyhow::Result<Outcome> {
        match self.explain {
            true => explain(self, program),
            false => attest(self, program),
        }
    }
}

fn attest(args: &Args, program: Program) -> anyhow::Result<Outcome> {
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
    .next(format!("{} run", program.command()))
    .next("strongroom get kbs:///default/fraud-dataset/dataset_key --output KEYFILE"))
}

/// What this machine is, and how that is known.
fn explain(args: &Args, program: Program) -> anyhow::Result<Outcome> {
    let (attester, probes, devices) = match args.attest.named() {
        Some(_) => (Some(args.attest.attester()?), Vec::new(), Vec::new()),
        None => match Attester::detect(&args.attest.devices()?) {
            Ok(found) => (Some(found.attester), found.probes, found.devices),
            Err(none) => (None, none.probes, Vec::new()),
        },
    };
    let mut text = match (&attester, args.attest.named()) {
        (None, _) => "No TEE that can be used was found on this machine. A guest does not start: `sample` and \
                      `development` are never taken by themselves."
            .to_owned(),
        (Some(attester), Some(name)) => format!(
            "The platform {} was named (--platform {name}), so none was looked for.",
            attester.tee()
        ),
        (Some(attester), None) => format!("This machine's platform is {}.", attester.tee()),
    };
    let mut document = json!({
        "platform": attester.as_ref().map(Attester::tee),
        "named": args.attest.named(),
        "probes": probes.iter().map(told).collect::<Vec<_>>(),
        "devices": devices.iter().map(told).collect::<Vec<_>>(),
    });
    if let Some(attester) = &attester {
        let (line, value) = initdata(args, attester);
        document["initdata"] = value;
        document["runtime_registers"] = json!(attester.has_runtime_registers());
        text.push_str(&format!(
            "\n  init-data       {line}\n  event log       {}",
            match attester.has_runtime_registers() {
                true => "events can be measured into a register",
                false => "the platform has no register that a running guest can extend",
            }
        ));
    }
    if !probes.is_empty() {
        text.push_str("\n\nLooked for, in this order; the first that is found wins:");
    }
    probes.iter().for_each(|probe| shown(probe, &mut text));
    if !devices.is_empty() {
        text.push_str("\n\nBeside it:");
    }
    devices.iter().for_each(|probe| shown(probe, &mut text));
    Ok(match attester {
        Some(_) => Outcome::new(text, document).next(format!("{} --broker URL", program.attest())),
        None => Outcome::new(text, document).code(1).next(format!(
            "{} --platform development --development-root DIR --explain   # to try it out",
            program.attest()
        )),
    })
}

fn shown(probe: &Probe, text: &mut String) {
    text.push_str(&format!(
        "\n  {:<12}{:<13}{} ({})",
        probe.outcome.word(),
        probe.tee.as_str(),
        probe.by,
        probe.path
    ));
    if let Seen::Unusable { reason, .. } = &probe.outcome {
        text.push_str(&format!("\n{:27}{reason}", ""));
    }
    if let Some(mend) = probe.outcome.mend() {
        text.push_str(&format!("\n{:27}mend: {mend}", ""));
    }
}

fn told(probe: &Probe) -> Value {
    json!({
        "platform": probe.tee,
        "by": probe.by,
        "path": probe.path,
        "outcome": probe.outcome.word(),
        "reason": match &probe.outcome {
            Seen::Unusable { reason, .. } => Some(reason),
            _ => None,
        },
        "mend": probe.outcome.mend(),
    })
}

/// What the hardware holds, and whether a document was found that goes with it.
fn initdata(args: &Args, attester: &Attester) -> (String, Value) {
    let held = match attester.init_data() {
        Ok(register) => register,
        Err(error) => return (error.to_string(), json!({ "error": error.to_string() })),
    };
    let mut value = json!({ "register": held.name(), "value": held.value().iter().map(|byte| format!("{byte:02x}")).collect::<String>() });
    // Only compared: it is the guest, when it starts, that extends a PCR.
    let compared = args.attest.initdata(attester).and_then(|found| {
        let from = found
            .as_ref()
            .map(|found| found.from().display().to_string());
        Ok(match found {
            Some(found) => (found.check(&held)?, from),
            None => (held.check(None)?, from),
        })
    });
    match compared {
        Ok((bound, from)) => {
            let line = match &from {
                Some(from) => format!("{bound} ({from})"),
                None => bound.to_string(),
            };
            value["from"] = json!(from);
            value["ok"] = json!(true);
            (line, value)
        }
        Err(error) => {
            value["ok"] = json!(false);
            value["error"] = json!(format!("{error:#}"));
            (format!("{error:#}"), value)
        }
    }
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
