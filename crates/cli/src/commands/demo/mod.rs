//! `strongroom demo`: the whole story on one machine, every step of it real.
//!
//! Broker, guest and scorer are child processes of this binary, speaking real TLS on loopback; a folder stands for
//! the untrusted bucket. What stands for hardware is the development platform: SNP reports in their real format under a
//! root that the demo makes, which proves nothing about a machine. The demo says so.

mod attacker;
mod child;
mod story;
mod telling;

use std::path::PathBuf;

use anyhow::Context as _;

use crate::cleanup;
use crate::outcome::Outcome;

/// Show the whole story on this machine: encrypt, attest, release, score, read the results, and a denial explained.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many transactions to score.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,

    /// Which transactions.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Keep everything in this new folder instead of removing it at the end.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, json: bool) -> anyhow::Result<Outcome> {
    let mut folder = match &args.keep {
        Some(dir) => {
            let path = std::path::absolute(dir)?;
            let made = cleanup::make(|| std::fs::create_dir(&path).map(|()| ((), path.clone())));
            made.with_context(|| {
                format!(
                    "--keep wants a new folder, and {} cannot be made",
                    dir.display()
                )
            })?;
            Folder { path, keep: false }
        }
        None => Folder::temporary()?,
    };
    let mut telling = telling::Telling::new(json);
    story::tell(args, &folder.path, &mut telling)?;
    let mut outcome = telling.end(args.rows);
    if args.keep.is_some() {
        folder.keep = true;
        cleanup::finish(&folder.path, || Ok(()))?;
        outcome = outcome.next(format!(
            "ls -R {}   # everything that the cloud and the broker had",
            folder.path.display()
        ));
    }
    let program = program();
    Ok(outcome
        .next(format!("{program} demo --rows 1000000 --keep demo-files   # a longer one, to look around in afterwards"))
        .next(format!("{program} broker init --insecure-accept-sample-evidence   # the same by hand: see README.md, \"Two terminals\""))
        .next(format!("{program} score --help")))
}

/// The demo's folder, removed at the end and on Ctrl-C.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn temporary() -> anyhow::Result<Self> {
        let made = cleanup::make(|| {
            let folder = tempfile::Builder::new()
                .prefix("strongroom-demo-")
                .tempdir()?;
            let path = folder.keep();
            Ok((path.clone(), path))
        });
        let path = made.context("cannot make a temporary folder")?;
        Ok(Self { path, keep: false })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            cleanup::discard(&self.path);
        }
    }
}

/// How this program can be called again: by its name when the shell finds it, else by its place.
fn program() -> String {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join("strongroom").is_file())
    });
    if found {
        return "strongroom".to_owned();
    }
    std::env::current_exe().map_or_else(
        |_| "strongroom".to_owned(),
        |path| path.display().to_string(),
    )
}
