//! `strongroom initdata new`: a document from a few answers.

use std::collections::BTreeMap;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::json;
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::image_policy::Policy;
use strongroom_wire::initdata::{self as wire, Initdata};
use strongroom_wire::resource::ResourceUri;

use super::agent_policy::{self, Host};
use crate::connect::read_pem;
use crate::files::{self, Existing};
use crate::outcome::Outcome;

/// Write a document that names the broker and its certificate, and what the host may ask of the guest
///
/// The guest measures the document when it starts, and the broker releases secrets to the measured one alone. It holds
/// aa.toml and cdh.toml (which broker, which certificate, which image policy) and policy.rego, by which Kata's agent
/// refuses what the host asks of it: containers and commands (`kubectl exec`) that are not named, and logs. Without
/// --broker, and at a terminal, what is missing is asked for.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where to write, - for standard output.
    file: PathBuf,
    /// The broker's URL, as the guest reaches it.
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// The broker's certificate (PEM), the only one the guest will trust.
    #[arg(long, value_name = "PEM")]
    broker_cert: Option<PathBuf>,
    /// Which images may run: a resource of the broker's (kbs:///default/security-policy/image), or a policy.json of
    /// containers/image, which is put into the document.
    #[arg(long, value_name = "URI|FILE")]
    image_policy: Option<String>,
    /// The command of a container, with all of its arguments (the pod's command and args, else the image's): words, or a
    /// JSON list where one holds a space. May be given several times; no other container starts.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["policy", "insecure_any_container"])]
    container: Vec<String>,
    /// A variable that containers and allowed commands may have: NAME with any value, or NAME=VALUE. Kubernetes' own,
    /// and the usual PATH, need not be named. May be given several times.
    #[arg(long, value_name = "NAME[=VALUE]", conflicts_with = "policy")]
    allow_env: Vec<String>,
    /// Where a ConfigMap, a Secret or an emptyDir may be mounted in a container. What the host mounts there is not measured.
    /// May be given several times.
    #[arg(long, value_name = "PATH", conflicts_with = "policy")]
    allow_mount: Vec<String>,
    /// A working directory of containers and allowed commands besides /. May be given several times.
    #[arg(long, value_name = "PATH", conflicts_with = "policy")]
    allow_workdir: Vec<String>,
    /// As whom containers and allowed commands may run besides 0:0. May be given several times.
    #[arg(long, value_name = "UID:GID", conflicts_with = "policy")]
    allow_user: Vec<String>,
    /// Let the host start containers of any command, environment and mounts. It can run a program that reads every secret
    /// of the guest, in any image that the image policy allows.
    #[arg(long, conflicts_with = "policy")]
    insecure_any_container: bool,
    /// A command that may be run in a container (`kubectl exec`), with exactly these arguments: words, or a JSON list
    /// where one holds a space. May be given several times.
    #[arg(long, value_name = "COMMAND", conflicts_with = "policy")]
    allow_exec: Vec<String>,
    /// Let the host read what containers print (`kubectl logs`), and what allowed commands do.
    #[arg(long, conflicts_with = "policy")]
    allow_logs: bool,
    /// A policy for the agent (policy.rego), such as genpolicy writes, in the place of one made here.
    #[arg(long, value_name = "REGO")]
    policy: Option<PathBuf>,
    /// The hash: sha256 fits every platform, also those with a vTPM
    #[arg(long, default_value = "sha256", value_parser = ["sha256", "sha384", "sha512"])]
    algorithm: String,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let answers = Answers::of(args)?;
    let cert = answers.broker_cert.as_deref().map(read_pem).transpose()?;
    let url: reqwest::Url = answers
        .broker
        .parse()
        .ok()
        .filter(|url: &reqwest::Url| url.has_host())
        .with_context(|| {
            format!(
                "--broker {:?} is no URL: write it as https://host:port",
                answers.broker
            )
        })?;
    if url.scheme() == "http" {
        eprintln!(
            "warning: {url} is not protected by TLS; whoever sits between may answer in the broker's place"
        );
    } else if cert.is_none() {
        eprintln!(
            "warning: without --broker-cert the guest trusts every certificate authority of its image"
        );
    }
    let policy = match &args.policy {
        Some(path) => files::read_text(path, wire::MAX_DOCUMENT as u64)?,
        None => agent_policy::write(&answers.host)?,
    };
    if args.policy.is_none() && answers.host.insecure_any_container {
        eprintln!(
            "warning: --insecure-any-container: the host can start any command with any environment in any image that the image policy allows, and such a container reads every secret of this guest; bind them with --container, or take a policy that Kata's genpolicy writes from the pod's manifest (--policy)"
        );
    } else if args.policy.is_none() && answers.host.containers.is_empty() {
        eprintln!(
            "note: no container is named, so Kata's agent will start none with this policy (a guest without Kata does not ask it): name their commands with --container, or take a policy that Kata's genpolicy writes from the pod's manifest (--policy). A policy that allows all of them lets the host start a program that reads every secret"
        );
    }
    if !answers.host.exec.is_empty() && !answers.host.logs {
        eprintln!(
            "warning: an allowed command runs, and nobody sees what it prints: add --allow-logs"
        );
    }
    let document = compose_with(
        args.algorithm.parse()?,
        &answers.broker,
        cert.as_deref(),
        answers
            .image_policy
            .as_deref()
            .map(ImagePolicyFrom::read)
            .transpose()?,
        Some(policy),
    )?;
    files::write(
        &args.file,
        Existing::from_force(args.force),
        0o644,
        document.as_str().as_bytes(),
    )?;
    if args.file.as_os_str() == "-" {
        return Ok(Outcome::silent());
    }
    let digest = hex::encode(document.digest());
    let shown = args.file.display();
    Ok(Outcome::new(
        format!("Wrote {shown}\n{} {digest}", document.algorithm().as_str()),
        json!({ "file": args.file, "digest": digest }),
    )
    .next(format!("strongroom initdata check {shown}"))
    .next(format!(
        "strongroom policy allow 'default/fraud-*/*' --initdata {shown}   # to try it out with sample evidence: --assurance development"
    ))
    .next(format!("strongroom guest run --initdata {shown}   # on a machine without a TEE, to try it out: --platform sample")))
}

/// What the document is made of.
struct Answers {
    broker: String,
    broker_cert: Option<PathBuf>,
    image_policy: Option<String>,
    host: Host,
}

impl Answers {
    fn of(args: &Args) -> anyhow::Result<Self> {
        let mut answers = Self {
            broker: args.broker.clone().unwrap_or_default(),
            broker_cert: args.broker_cert.clone(),
            image_policy: args.image_policy.clone(),
            host: Host {
                containers: args.container.clone(),
                variables: args.allow_env.clone(),
                mounts: args.allow_mount.clone(),
                workdirs: args.allow_workdir.clone(),
                users: args.allow_user.clone(),
                insecure_any_container: args.insecure_any_container,
                exec: args.allow_exec.clone(),
                logs: args.allow_logs,
            },
        };
        if args.broker.is_some() {
            return Ok(answers);
        }
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            bail!("no broker is named: use --broker URL, as the guest reaches it");
        }
        answers.broker = ask("The broker's URL, as the guest reaches it (https://host:port)")?
            .context("without a broker's URL the guest has nobody to attest to")?;
        if answers.broker_cert.is_none() {
            answers.broker_cert =
                ask("The broker's certificate, a PEM file (empty: the authorities of the image)")?
                    .map(PathBuf::from);
        }
        if answers.image_policy.is_none() {
            answers.image_policy = ask(
                "Which images may run: kbs:///repository/type/tag, or a policy.json (empty: none set)",
            )?;
        }
        if args.policy.is_some() {
            return Ok(answers);
        }
        let host = &mut answers.host;
        if host.containers.is_empty() && !host.insecure_any_container {
            ask_all(
                "The command of a container, with all its arguments (empty: no more)",
                &mut host.containers,
            )?;
            if !host.containers.is_empty() {
                ask_all(
                    "A variable that containers may have, NAME or NAME=VALUE (empty: no more)",
                    &mut host.variables,
                )?;
                ask_all(
                    "A path where a volume may be mounted (empty: no more)",
                    &mut host.mounts,
                )?;
                ask_all(
                    "A working directory besides / (empty: no more)",
                    &mut host.workdirs,
                )?;
                ask_all(
                    "A user besides 0:0, as UID:GID (empty: no more)",
                    &mut host.users,
                )?;
            }
        }
        if host.exec.is_empty() {
            ask_all(
                "A command that may be run in a container (empty: no more)",
                &mut host.exec,
            )?;
        }
        if !host.logs {
            let answer = ask("May the host read what containers print? (y/N)")?;
            host.logs = answer.is_some_and(|answer| matches!(answer.as_str(), "y" | "Y" | "yes"));
        }
        Ok(answers)
    }
}

/// Asks until a line is empty.
fn ask_all(question: &str, answers: &mut Vec<String>) -> anyhow::Result<()> {
    while let Some(answer) = ask(question)? {
        answers.push(answer);
    }
    Ok(())
}

/// Asks at the terminal; nothing for an empty line.
fn ask(question: &str) -> anyhow::Result<Option<String>> {
    let mut terminal = std::io::stderr().lock();
    write!(terminal, "{question}: ")?;
    terminal.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(Some(line.trim().to_owned()).filter(|line| !line.is_empty()))
}

/// Where the policy for images is.
pub(super) enum ImagePolicyFrom {
    Broker(String),
    Document(String),
}

impl ImagePolicyFrom {
    fn read(named: &str) -> anyhow::Result<Self> {
        if named.starts_with("kbs:") {
            let uri = named.parse::<ResourceUri>();
            let path = uri
                .map_err(anyhow::Error::from)
                .and_then(|uri| Ok(uri.to_resource_path()?));
            path.with_context(|| {
                format!("--image-policy {named:?} names no resource: write kbs:///repository/type/tag, with three slashes")
            })?;
            return Ok(Self::Broker(named.to_owned()));
        }
        let text = files::read_text(Path::new(named), wire::MAX_DOCUMENT as u64)?;
        Policy::parse(text.as_bytes())
            .with_context(|| format!("--image-policy {named} is no policy for images"))?;
        Ok(Self::Document(text))
    }
}

/// Writes the document that a guest needs to find its broker.
pub(crate) fn compose(
    algorithm: HashAlgorithm,
    broker: &str,
    cert: Option<&str>,
    policy: Option<String>,
) -> anyhow::Result<Initdata> {
    compose_with(algorithm, broker, cert, None, policy)
}

pub(super) fn compose_with(
    algorithm: HashAlgorithm,
    broker: &str,
    cert: Option<&str>,
    image_policy: Option<ImagePolicyFrom>,
    policy: Option<String>,
) -> anyhow::Result<Initdata> {
    let mut agent = toml::Table::new();
    agent.insert("url".to_owned(), broker.into());
    let mut hub = agent.clone();
    hub.insert("name".to_owned(), "cc_kbc".into());
    if let Some(cert) = cert {
        agent.insert("cert".to_owned(), cert.into());
        hub.insert("kbs_cert".to_owned(), cert.into());
    }
    let table =
        |name: &str, inner: toml::Table| toml::Table::from_iter([(name.to_owned(), inner.into())]);
    let mut hub = table("kbc", hub);
    if let Some(policy) = image_policy {
        let (key, value) = match policy {
            ImagePolicyFrom::Broker(uri) => ("image_security_policy_uri", uri),
            ImagePolicyFrom::Document(text) => ("image_security_policy", text),
        };
        let image = toml::Table::from_iter([(key.to_owned(), value.into())]);
        hub.insert("image".to_owned(), image.into());
    }
    let mut files = BTreeMap::from([
        (
            "aa.toml".to_owned(),
            toml::to_string(&table("token_configs", table("kbs", agent)))?,
        ),
        ("cdh.toml".to_owned(), toml::to_string(&hub)?),
    ]);
    if let Some(policy) = policy {
        files.insert("policy.rego".to_owned(), policy);
    }
    Ok(wire::compose(algorithm, &files)?)
}

/// A command's arguments: words, or a JSON list.
pub(crate) fn arguments(command: &str) -> anyhow::Result<Vec<String>> {
    let arguments = match command.trim_start().starts_with('[') {
        true => serde_json::from_str(command).with_context(|| {
            format!(r#"{command:?} is no JSON list of arguments, such as ["sh", "-c", "date -u"]"#)
        })?,
        false => {
            if command.contains(['"', '\'', '\\']) {
                bail!(
                    "the command {command:?} has quotes, which are not read as a shell does: write it as a JSON list, such as [\"sh\", \"-c\", \"date -u\"]"
                );
            }
            command
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        }
    };
    if arguments.is_empty() {
        bail!("a command has at least its name");
    }
    Ok(arguments)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn command_in_quotes_would_be_split_where_a_shell_does_not() {
        assert_eq!(arguments("uname  -r").unwrap(), ["uname", "-r"]);
        assert_eq!(
            arguments(r#"["sh", "-c", "date -u"]"#).unwrap(),
            ["sh", "-c", "date -u"]
        );
        for wrong in ["sh -c 'date -u'", "[1]", "", "[]"] {
            assert!(arguments(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn image_policy_that_is_no_resource_is_refused() {
        for wrong in [
            "kbs://default/policy/x",
            "kbs:///default/policy",
            "no-such-file",
        ] {
            assert!(ImagePolicyFrom::read(wrong).is_err(), "{wrong}");
        }
        assert!(ImagePolicyFrom::read("kbs:///default/policy/x").is_ok());
    }
}
