//! `strongroom demo`: the whole story on one machine, every step of it real.
//!
//! Broker, guest and scorer are child processes of this binary, speaking real TLS on loopback; a folder stands for
//! the untrusted bucket. What stands for hardware is the `sample` platform, which proves nothing: the demo says so.

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
    let folder = match &args.keep {
        Some(dir) => {
            std::fs::create_dir(dir)
                .with_context(|| format!("cannot make the new folder {}", dir.display()))?;
            Folder {
                path: std::path::absolute(dir)?,
                keep: true,
            }
        }
        None => Folder::temporary()?,
    };
    let mut telling = telling::Telling::new(json);
    story::tell(args, &folder.path, &mut telling)?;
    let outcome = telling.end(args.rows);
    Ok(outcome
        .next("strongroom demo --rows 1000000 --keep demo-files   # a longer one, to look around in afterwards")
        .next("strongroom broker init --insecure-accept-sample-evidence   # the same by hand: see README.md, \"Two terminals\"")
        .next("strongroom score --help"))
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
