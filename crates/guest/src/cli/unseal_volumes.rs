//! `unseal-volumes`: mounted volumes with sealed secrets in them, mirrored in plaintext.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, UNIX_EPOCH};

use super::told_to_stop;
use crate::volumes::{Pace, VolumeStatus};
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::cleanup;
use super::files;
use super::notify;
use super::outcome::Outcome;
use super::unsealing::{UnsealArgs, VolumeArgs, WaitArgs, placement};

/// Mirror mounted volumes in memory, unsealed, and keep the mirrors so while the volumes change.
///
/// A mirror is laid out as Kubernetes lays out a Secret's volume. It appears when every secret of every volume is
/// unsealed, or not at all. When a Secret is updated, its mirror changes in one step when all of it is unsealed again;
/// until then, and when that fails, the version before stays, and the log and --status say why.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    volumes: VolumeArgs,

    /// End when the mirrors are there, as an init container does.
    #[arg(long, conflicts_with_all = ["poll", "refresh", "status"])]
    once: bool,

    /// How often to look for changes where the kernel does not tell of them, as in a shared file system of the host.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    poll: u64,

    /// How often to fetch the secrets again although what points to them has not changed [default: never].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    refresh: Option<u64>,

    /// A file for what became of each volume, as JSON; it holds no secret.
    #[arg(long, value_name = "FILE")]
    status: Option<PathBuf>,

    /// Allow plaintext on any file system, disks included.
    #[arg(long)]
    insecure_any_filesystem: bool,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    unsealing: UnsealArgs,
}

impl Args {
    /// Keeps the mirrors until told to stop.
    ///
    /// # Errors
    /// When nothing is unsealed.
    pub fn run(&self, json: bool) -> anyhow::Result<Outcome> {
        keep(self, json)
    }
}

fn keep(args: &Args, json: bool) -> anyhow::Result<Outcome> {
    ensure!(
        !args.volumes.is_empty(),
        "name the mounted volume with --from, and with --to where it appears in plaintext"
    );
    let unsealer = args.unsealing.unsealer()?;
    let mut volumes = args.volumes.open(placement(args.insecure_any_filesystem))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut stop = pin!(told_to_stop()?);
        cleanup::take_over();
        let patient = args.wait.patient(&unsealer);
        // What is fetched is dropped on a signal; what is written is written to its end, which takes no time.
        let run = &mut |_: &Path, step: &mut dyn FnMut() -> std::io::Result<()>| step();
        tokio::select! {
            biased;
            code = &mut stop => return Ok(Outcome::silent().code(code)),
            started = volumes.start(&patient, run) => started.context("nothing was unsealed")?,
        }
        if args.once {
            let status = volumes.status();
            return Ok(Outcome::new(sentences(&status), document(&status)));
        }
        say_ready(&volumes.status(), json)?;
        let pace = Pace {
            poll: Duration::from_secs(args.poll),
            refresh: args.refresh.map(Duration::from_secs),
        };
        let mut on_status = |status: &[VolumeStatus]| {
            if let Some(path) = &args.status
                && let Err(error) = write_status(path, status)
            {
                tracing::error!(path = %path.display(), %error, "the status could not be written");
            }
        };
        let stopped = async {
            stop.await;
        };
        volumes.keep(&unsealer, pace, &mut on_status, stopped).await;
        notify::stopping();
        Ok(Outcome::silent())
    })
}

fn say_ready(status: &[VolumeStatus], json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        let mut document = document(status);
        document["ready"] = true.into();
        writeln!(out, "{document}")?;
    } else {
        writeln!(
            out,
            "{}\nKeeping them as the volumes are. Stop it with Ctrl-C.",
            sentences(status)
        )?;
    }
    out.flush()?;
    notify::ready("the volumes are unsealed");
    Ok(())
}

fn sentences(status: &[VolumeStatus]) -> String {
    let lines: Vec<String> = status
        .iter()
        .map(|one| {
            let (from, to) = (one.volume.from.display(), one.volume.to.display());
            format!("{from} is in plaintext at {to}.")
        })
        .collect();
    lines.join("\n")
}

fn document(status: &[VolumeStatus]) -> Value {
    let volumes: Vec<Value> = status
        .iter()
        .map(|one| {
            let updated = one
                .updated
                .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            json!({
                "from": one.volume.from,
                "to": one.volume.to,
                "state": if one.problem.is_none() { "current" } else { "stale" },
                "updated": updated.map(|since| since.as_secs()),
                "problem": one.problem,
            })
        })
        .collect();
    json!({ "volumes": volumes })
}

fn write_status(path: &Path, status: &[VolumeStatus]) -> anyhow::Result<()> {
    let text = format!("{}\n", document(status));
    files::replace(path, 0o644, text.as_bytes())
}
