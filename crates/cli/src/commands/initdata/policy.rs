//! `strongroom initdata policy`: what the host of a guest may have, by the policy in its init-data.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};
use strongroom_guest::agent_policy::{AgentPolicy, Because};

use super::new::arguments;
use crate::files;
use crate::outcome::{self, Outcome};

/// Ask the policy in the init-data, as the agent in the guest does
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Test(TestArgs),
}

/// Show whether a request of the host would be allowed, and the rules that say so
///
/// The requests are those of Kata's agent: exec (kubectl exec), logs (kubectl logs), copy (files from the host), create
/// (a container), or any by its name, such as SetPolicyRequest. Ends with 1 when it would be refused.
#[derive(clap::Args)]
struct TestArgs {
    /// The document, a pod's annotation, or the image of a disk for init-data.
    file: PathBuf,
    /// exec, logs, copy, create, or the name of a request.
    #[arg(long, value_name = "REQUEST")]
    request: String,
    /// The command of exec: words, or a JSON list where one holds a space.
    #[arg(long, value_name = "COMMAND")]
    command: Option<String>,
    /// The path of copy, in the guest.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The request's message (JSON), as Kata's agent logs it; it goes before --command and --path.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let Action::Test(args) = &args.action;
    let document = super::read(&args.file)?;
    let rego = document.data().get("policy.rego").context(
        "the init-data has no policy.rego: the policy of the guest's image decides (strongroom initdata new writes one)",
    )?;
    let mut policy = AgentPolicy::load(rego)?;
    let request = match args.request.as_str() {
        "exec" => "ExecProcessRequest",
        "logs" => "ReadStreamRequest",
        "copy" => "CopyFileRequest",
        "create" => "CreateContainerRequest",
        name => name,
    };
    let input: Value = match &args.input {
        Some(path) => serde_json::from_str(&files::read_text(path, super::MAX_FILE)?)
            .with_context(|| format!("{} is not JSON", path.display()))?,
        None => json!({
            "container_id": "container",
            "exec_id": "exec",
            "string_user": null,
            "path": args.path.clone().unwrap_or_default(),
            "process": {
                "Args": args.command.as_deref().map(arguments).transpose()?.unwrap_or_default(),
                "User": { "UID": 0, "GID": 0, "AdditionalGids": [], "Username": "" }, "Env": [], "Cwd": "/",
                "SelinuxLabel": "", "ApparmorProfile": "", "Terminal": false,
            },
        }),
    };
    let verdict = policy.ask(request, &input)?;
    let because = match verdict.because {
        Because::Rule => "the rules of its name say so",
        Because::NoRule => "no rule has its name",
        Because::Undefined => "no rule of its name holds, and it has no default",
        Because::AllowRequestsFailingPolicy => {
            "AllowRequestsFailingPolicy lets pass whatever the rules refuse"
        }
    };
    let mut text = match verdict.allowed {
        true => format!("{} is allowed: {because}.", outcome::shown(request)),
        false => format!("{} is refused: {because}.", outcome::shown(request)),
    };
    for line in &verdict.rules {
        text.push_str(&format!(
            "\n  line {:<5}{}",
            line.number,
            outcome::shown(&line.text)
        ));
    }
    let document = json!({ "request": request, "allowed": verdict.allowed, "because": verdict.because, "rules": verdict.rules });
    Ok(Outcome::new(text, document).code(u8::from(!verdict.allowed)))
}
