//! `strongroom doctor`: the way from a guest to its secret, step by step.

mod owner;
mod storage;
mod symptoms;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use strongroom_attester::{AttestError, Attester, Bound, LaunchRegister};
use strongroom_client::ClientError;
use strongroom_client::guest_api::GuestApi;
use strongroom_client::http::{Endpoint, EndpointOptions, Roots};
use strongroom_guest::agent_policy::AgentPolicy;
use strongroom_guest::{Agent, Places, UnverifiedInitdata};
use strongroom_wire::initdata::Initdata;
use strongroom_wire::resource::ResourceUri;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::commands::guest::AttestArgs;
use crate::commands::initdata;
use crate::connect::block_on;
use crate::files;
use crate::outcome::{self, Outcome};

/// Walk the way from a guest to its secret, and say for what fails the cause and the command that mends it
///
/// In the guest: init-data, broker, TLS, clocks, platform, what was measured, policy, attestation, each RESOURCE, each
/// storage, and the guest's own API. On the owner's side (--owner), what can be known there. A step that was skipped is not
/// one that passed. Ends with 1 when a step failed. With --symptom, no step is taken: it says what a message means.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Resources that this guest is to get: kbs:///repository/type/tag. What is fetched is thrown away.
    #[arg(value_name = "RESOURCE")]
    resources: Vec<ResourceUri>,

    #[command(flatten)]
    attest: AttestArgs,

    /// Only what the owner's side can see: no platform is looked for, and nothing attested. With --admin-key the broker
    /// is asked as well: whether each RESOURCE is there, whether a policy names this init-data, which reference values
    /// have ended.
    #[arg(long)]
    owner: bool,

    /// The private key (PEM) of an admin of the broker, for what only admins may know.
    #[arg(long, env = "STRONGROOM_ADMIN_KEY", value_name = "PEM")]
    admin_key: Option<PathBuf>,

    /// The admin's name, as the broker knows it.
    #[arg(
        long,
        env = "STRONGROOM_ADMIN",
        default_value = "admin",
        value_name = "NAME"
    )]
    admin: String,

    /// Storage that encrypted data comes from: an https:// address, or a file. May be given several times.
    #[arg(long, value_name = "URL|FILE")]
    storage: Vec<String>,

    /// Where the guest's own API is.
    #[arg(long, env = "STRONGROOM_GUEST", default_value = GuestApi::DEFAULT_URL, value_name = "URL")]
    guest: String,

    /// Say what a message means that was seen somewhere, such as "ExecProcessRequest is blocked by policy"; `all` for
    /// every one that is known.
    #[arg(long, value_name = "MESSAGE")]
    symptom: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    if let Some(message) = &args.symptom {
        return Ok(explain(message));
    }
    let mut walk = Walk::default();
    block_on(walk.walk(args))?;
    let failed = walk.count(Status::Fail);
    let skipped = walk.count(Status::Skipped);
    let mut text = String::new();
    for (step, number) in walk.steps.iter().zip(1..) {
        let word = match step.status {
            Status::Pass => "PASS",
            Status::Fail => "FAIL",
            Status::Skipped => "SKIPPED",
        };
        text.push_str(&format!(
            "{number:>2}. {word:<8}{:<12}{}\n",
            step.name,
            outcome::shown(&step.detail)
        ));
        if let (Some(cause), Some(mend)) = (&step.cause, &step.mend) {
            text.push_str(&format!(
                "    cause: {}\n    mend:  {mend}\n",
                outcome::shown(cause)
            ));
        }
    }
    text.push_str(&match (failed, skipped) {
        (0, 0) => "\nEvery step passed.".to_owned(),
        (0, skipped) => format!("\nNo step failed; {skipped} skipped, which is not passed."),
        (failed, skipped) => format!("\n{failed} failed, {skipped} skipped."),
    });
    let document =
        json!({ "good": failed == 0, "failed": failed, "skipped": skipped, "steps": walk.steps });
    Ok(Outcome::new(text, document).code(u8::from(failed > 0)))
}

fn explain(message: &str) -> Outcome {
    let known: Vec<&symptoms::Symptom> = match message {
        "all" => symptoms::ALL.iter().collect(),
        message => symptoms::of(message),
    };
    let text: Vec<String> = known
        .iter()
        .map(|one| {
            format!(
                "- {}\n  cause: {}\n  mend:  {}",
                one.symptom, one.cause, one.mend
            )
        })
        .collect();
    let found = !known.is_empty();
    let text = match found {
        true => text.join("\n"),
        false => {
            "Nobody here knows this message. Without --symptom, the way is walked step by step."
                .to_owned()
        }
    };
    Outcome::new(text, json!({ "symptoms": known })).code(u8::from(!found))
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Pass,
    Fail,
    Skipped,
}

#[derive(Serialize)]
struct Step {
    name: &'static str,
    status: Status,
    detail: String,
    cause: Option<String>,
    mend: Option<String>,
}

#[derive(Default)]
struct Walk {
    steps: Vec<Step>,
    /// The guest measures its init-data when it starts, and has not started yet. To attest would be to do it in its place.
    to_be_measured: bool,
}

impl Walk {
    async fn walk(&mut self, args: &Args) {
        let attester = match args.owner {
            true => None,
            false => Some(args.attest.attester()),
        };
        let document = self.document(
            args,
            attester.as_ref().and_then(|found| found.as_ref().ok()),
        );
        let reached = self.broker(args, document.as_ref()).await;
        match &attester {
            None => {
                self.skip("platform", OWNER);
                self.skip(MEASURED, OWNER);
            }
            Some(Err(error)) => {
                self.fail("platform", format!("{error:#}"), "there is no TEE here that can be used, and `sample` is never taken by itself",
                    "strongroom attest --explain says what was looked for and why each was not found");
                self.skip(MEASURED, "there is no platform to ask");
            }
            Some(Ok(attester)) => {
                self.pass(
                    "platform",
                    format!(
                        "{} (strongroom attest --explain says how it was found)",
                        attester.tee()
                    ),
                );
                self.measured(args, attester);
            }
        }
        self.policy(document.as_ref());
        match args.owner {
            true => self.owner(args, document.as_ref(), reached).await,
            false => self.attestation(args, reached).await,
        }
        for storage in &args.storage {
            self.storage(storage).await;
        }
        if args.storage.is_empty() {
            self.skip("storage", "none is named (--storage)");
        }
        match args.owner {
            true => self.skip("guest API", OWNER),
            false => self.guest(&args.guest).await,
        }
    }

    fn document(&mut self, args: &Args, attester: Option<&Attester>) -> Option<Initdata> {
        const NAME: &str = "init-data";
        let found = match (args.attest.initdata_file(), attester) {
            (Some(path), _) => Some(path.to_owned()),
            (None, Some(Attester::Hardware(_))) => {
                match UnverifiedInitdata::find(&Places::default()) {
                    Ok(found) => found.map(|found| found.from().to_owned()),
                    Err(error) => {
                        self.fail(
                            NAME,
                            error.to_string(),
                            "the disk or file that hands it over cannot be read",
                            MEND_INITDATA,
                        );
                        return None;
                    }
                }
            }
            _ => None,
        };
        let Some(path) = found else {
            self.skip(NAME, "there is none here (--initdata names one)");
            return None;
        };
        let bytes = match files::read_limited(&path, initdata::MAX_FILE) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.fail(
                    NAME,
                    format!("{error:#}"),
                    "the file cannot be read",
                    MEND_INITDATA,
                );
                return None;
            }
        };
        let findings = initdata::findings(&bytes);
        match findings.first() {
            None => self.pass(NAME, path.display().to_string()),
            Some(first) => {
                let more = match findings.len() - 1 {
                    0 => String::new(),
                    more => format!(
                        " (and {more} more: strongroom initdata check {})",
                        path.display()
                    ),
                };
                self.fail(
                    NAME,
                    format!("{}{more}", first.problem),
                    &first.cause,
                    &first.mend,
                );
            }
        }
        Initdata::from_file(&bytes).ok()
    }

    /// Address, connection, TLS and clock; whether all that is needed to attest is there.
    async fn broker(&mut self, args: &Args, document: Option<&Initdata>) -> bool {
        let chosen = args.attest.unverified_broker(document);
        let probed = match chosen {
            Err(error) => Err(format!("{error:#}")),
            Ok((address, insecure_http)) => {
                let url = address.url;
                let options = EndpointOptions {
                    roots: Roots::from(address.root_certificate_pem),
                    insecure_http,
                    timeout: PATIENCE,
                    ..EndpointOptions::default()
                };
                match Endpoint::new(&url, options) {
                    Err(error) => Err(error.to_string()),
                    Ok(endpoint) => Ok((url, endpoint.probe().await)),
                }
            }
        };
        let date = match probed {
            Err(reason) => {
                self.fail(
                    "broker",
                    reason,
                    "the guest cannot know whom to ask",
                    MEND_INITDATA,
                );
                Err("there is no broker's address that can be used")
            }
            Ok((
                url,
                Err(ClientError::UntrustedPeer {
                    reason, trusted, ..
                }),
            )) => {
                self.pass("broker", format!("somebody answers at {url}"));
                let cause = match reason.contains("valid for name") || reason.contains("NotValidForName") {
                    true => "the certificate is for other names than the url's (often the route was made anew, or it has no subject alternative name)".to_owned(),
                    false if reason.to_lowercase().contains("expired") => "the certificate is over, or the clock here is wrong".to_owned(),
                    false => format!("the broker shows another certificate than the one trusted here: {trusted}"),
                };
                self.fail("tls", reason, &cause,
                    "take the broker's own certificate (broker/tls.crt), or make one that names the host: strongroom broker init NEWDIR --name HOST");
                Err("the broker has not proved who it is")
            }
            Ok((url, Err(error))) => {
                self.fail("broker", error.to_string(), &format!("nobody answers at {url}: the broker does not run, or the way is closed (address, route, firewall, NAT gateway)"),
                    "strongroom broker run; strongroom broker health, on its machine; then from here: strongroom doctor");
                Err("the broker is not reached")
            }
            Ok((url, Ok(probed))) => {
                self.pass("broker", format!("{url} answers"));
                match url.starts_with("https:") {
                    true => self.pass(
                        "tls",
                        "its certificate is the one trusted here, and names it".to_owned(),
                    ),
                    false => self.skip("tls", "the address is http://: nothing proves who answers"),
                }
                Ok(probed.date)
            }
        };
        match date {
            Err(why) => {
                if self.steps.last().is_some_and(|step| step.name == "broker") {
                    self.skip("tls", why);
                }
                self.skip("clock", why);
                false
            }
            Ok(date) => {
                self.clock(date.as_deref());
                true
            }
        }
    }

    fn clock(&mut self, date: Option<&str>) {
        const NAME: &str = "clock";
        let theirs = date.map(|date| OffsetDateTime::parse(date, &Rfc2822));
        let Some(Ok(theirs)) = theirs else {
            return self.skip(NAME, "the broker does not say what time it is");
        };
        let ours = i64::try_from(initdata::unix_now()).unwrap_or(i64::MAX);
        let ahead = ours.saturating_sub(theirs.unix_timestamp());
        let word = if ahead < 0 { "behind" } else { "ahead of" };
        let detail = format!("{} s {word} the broker's", ahead.unsigned_abs());
        match ahead.unsigned_abs() <= MOST_APART {
            true => self.pass(NAME, detail),
            false => self.fail(NAME, format!("the clock here is {detail}"),
                "certificates and tokens are not valid yet here, or not any more: what is fresh to the broker is not here",
                "set the clock that is wrong: chronyc makestep, or timedatectl set-ntp true"),
        }
    }

    fn measured(&mut self, args: &Args, attester: &Attester) {
        match args.attest.initdata(attester) {
            Ok(found) => self.held(attester.init_data(), found.as_ref()),
            Err(error) => self.fail(
                MEASURED,
                format!("{error:#}"),
                "the document cannot be read",
                MEND_INITDATA,
            ),
        }
    }

    /// What was found, against what the hardware holds.
    fn held(
        &mut self,
        register: Result<LaunchRegister, AttestError>,
        found: Option<&UnverifiedInitdata>,
    ) {
        let register = match register {
            Ok(register) => register,
            Err(error) => {
                return self.fail(
                    MEASURED,
                    error.to_string(),
                    "the platform does not tell what it was launched with",
                    "strongroom attest --explain",
                );
            }
        };
        let checked = match found {
            Some(found) => found.check(&register),
            None => register.check(None),
        };
        match checked {
            Ok(bound @ (Bound::Nowhere { .. } | Bound::NoDocument)) => self.skip(MEASURED, &bound.to_string()),
            Ok(bound @ Bound::ToExtend { .. }) => {
                self.to_be_measured = true;
                self.skip(MEASURED, &bound.to_string());
            }
            Ok(bound) => self.pass(MEASURED, bound.to_string()),
            Err(error) => self.fail(MEASURED, error.to_string(),
                "the machine was launched with another document than this one (one byte is enough), and the broker knows neither",
                "launch it with this one, or take the one it was launched with; strongroom initdata digest FILE shows what the hardware must hold"),
        }
    }

    fn policy(&mut self, document: Option<&Initdata>) {
        const NAME: &str = "policy";
        let Some(rego) = document.and_then(|document| document.data().get("policy.rego")) else {
            return self.skip(
                NAME,
                "there is no policy.rego: the guest's image decides what the host may do",
            );
        };
        let asked = AgentPolicy::load(rego).and_then(|mut policy| {
            let mut allows =
                |request: &str| match policy.ask(request, &json!({ "process": { "Args": [] } })) {
                    Ok(verdict) if verdict.allowed => Ok("allowed"),
                    Ok(_) => Ok("refused"),
                    Err(error) => Err(error),
                };
            Ok((allows("ExecProcessRequest")?, allows("ReadStreamRequest")?))
        });
        match asked {
            Ok((exec, logs)) => self.pass(
                NAME,
                format!("any command (kubectl exec): {exec}; logs: {logs}"),
            ),
            Err(error) => self.fail(
                NAME,
                error.to_string(),
                "Kata's agent cannot use it either, and the pod does not start",
                MEND_INITDATA,
            ),
        }
    }

    async fn attestation(&mut self, args: &Args, reached: bool) {
        const NAME: &str = "attestation";
        let why_not = match reached {
            false => Some("the broker was not reached"),
            true if self.failed("platform") => Some("there is no platform"),
            true if self.failed(MEASURED) => Some("the init-data is not the measured one"),
            true if self.to_be_measured => {
                Some("the guest has not measured its init-data yet: strongroom guest run does")
            }
            _ => None,
        };
        let attested: Result<Agent, Option<String>> = match why_not {
            Some(_) => Err(None),
            None => match args.attest.agent() {
                Err(error) => Err(Some(format!("{error:#}"))),
                Ok(agent) => match agent.token().await {
                    Ok(_) => Ok(agent),
                    Err(error) => Err(Some(error.to_string())),
                },
            },
        };
        match &attested {
            Ok(agent) => self.pass(NAME, format!("the broker {} believes this machine's evidence", agent.broker())),
            Err(None) => self.skip(NAME, why_not.unwrap_or_default()),
            Err(Some(reason)) => self.fail(NAME, reason.clone(),
                "the broker does not believe this machine's evidence: a platform it does not take, stale collateral, or another init-data",
                "on the owner's side: strongroom audit, then strongroom audit explain EVENT"),
        }
        if args.resources.is_empty() {
            self.skip(
                "resource",
                "none is named: strongroom doctor kbs:///repository/type/tag",
            );
        }
        for uri in &args.resources {
            let Ok(agent) = &attested else {
                self.skip("resource", "this machine is not attested");
                continue;
            };
            match agent.get_resource(uri).await {
                Ok(secret) => self.pass("resource", format!("{uri}: {} bytes, thrown away", secret.len())),
                Err(error @ ClientError::Denied { .. }) => self.fail("resource", error.to_string(),
                    "the resource's policy says no to this machine: its init-data, its measurements or its platform are not what the owner asks for",
                    "on the owner's side: strongroom audit explain EVENT says what would mend it; often strongroom policy allow ... --initdata FILE"),
                Err(error @ ClientError::NotFound { .. }) => self.fail("resource", error.to_string(),
                    "nobody stored it, or under another name",
                    "on the owner's side: strongroom resource list; strongroom resource put repository/type/tag FILE"),
                Err(error) => self.fail("resource", error.to_string(), "the broker could not be asked for it", "strongroom doctor again; on its machine: strongroom broker health"),
            }
        }
    }

    async fn guest(&mut self, url: &str) {
        const NAME: &str = "guest API";
        let asked = match GuestApi::new(url) {
            Ok(guest) => guest.info().await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(info) => self.pass(NAME, format!("{url}: {}", info.version)),
            Err(error) => self.fail(
                NAME,
                error.to_string(),
                "no guest serves there: applications get no secret, and init containers wait",
                "strongroom guest run, or name where it serves with --guest",
            ),
        }
    }

    fn failed(&self, name: &str) -> bool {
        self.steps
            .iter()
            .any(|step| step.name == name && step.status == Status::Fail)
    }

    fn count(&self, status: Status) -> usize {
        self.steps
            .iter()
            .filter(|step| step.status == status)
            .count()
    }

    fn pass(&mut self, name: &'static str, detail: String) {
        self.steps.push(Step {
            name,
            status: Status::Pass,
            detail,
            cause: None,
            mend: None,
        });
    }

    fn skip(&mut self, name: &'static str, why: &str) {
        self.steps.push(Step {
            name,
            status: Status::Skipped,
            detail: why.to_owned(),
            cause: None,
            mend: None,
        });
    }

    fn fail(&mut self, name: &'static str, detail: impl Into<String>, cause: &str, mend: &str) {
        self.steps.push(Step {
            name,
            status: Status::Fail,
            detail: detail.into(),
            cause: Some(cause.to_owned()),
            mend: Some(mend.to_owned()),
        });
    }
}

const MEASURED: &str = "measured";
const OWNER: &str = "only a guest can know (--owner)";
const MEND_INITDATA: &str = "strongroom initdata new initdata.toml --broker https://HOST:PORT --broker-cert PEM, and strongroom initdata check initdata.toml";
const PATIENCE: Duration = Duration::from_secs(10);
/// Seconds; tokens and handshakes last minutes.
const MOST_APART: u64 = 60;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn document_that_is_not_the_one_of_the_launch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("initdata.toml");
        let text = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";
        std::fs::write(&path, text).unwrap();
        let document = Initdata::parse(text).unwrap();
        let held: [u8; 32] = document.digest().try_into().unwrap();
        let found = UnverifiedInitdata::read(&path).unwrap();
        let walk = |register, found| {
            let mut walk = Walk::default();
            walk.held(Ok(register), found);
            (walk.steps[0].status, walk.steps[0].mend.is_some())
        };
        let passed = walk(LaunchRegister::HostData(held), Some(&found));
        assert_eq!(passed, (Status::Pass, false));
        let mut other = held;
        other[31] ^= 1;
        for (register, found) in [
            (LaunchRegister::HostData(other), Some(&found)),
            (LaunchRegister::Pcr8(other), Some(&found)),
            (LaunchRegister::HostData(held), None),
        ] {
            assert_eq!(walk(register, found), (Status::Fail, true));
        }
        let unmeasured = LaunchRegister::Pcr8([0; 32]);
        assert_eq!(walk(unmeasured, Some(&found)), (Status::Skipped, false));
        let nowhere = LaunchRegister::None { why: "x" };
        assert_eq!(walk(nowhere, Some(&found)), (Status::Skipped, false));
    }
}
