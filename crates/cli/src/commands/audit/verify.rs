//! `strongroom audit verify`: whether the record is whole, from copied files or from the broker itself.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::json;
use strongroom_wire::tlog::{
    CHECKPOINT_PATH, Checkpoint, TilePath, VerifierKey, prove_consistency, tile_from_bytes,
    verify_log,
};

use super::verifier;
use crate::connect::{AdminArgs, block_on};
use crate::files::{self, Existing};
use crate::outcome::Outcome;

/// Verify the record: every entry, every hash, the signature over it all, and that an older record is its beginning
///
/// With a folder that `strongroom audit export` wrote, no broker is needed. An entry that was altered, dropped, added or
/// moved is named. A record that was set back to an older state shows only against a checkpoint that somebody kept:
/// keep one, and name it with --since.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder with the copied log; without one, the broker is asked.
    folder: Option<PathBuf>,

    /// The key that verifies it: a file, or the key itself [default: audit.pub in the broker's folder]
    #[arg(long, value_name = "FILE|KEY")]
    key: Option<String>,

    /// An older checkpoint of the same log: the record must begin with what it signs. May be given more than once.
    #[arg(long, value_name = "FILE")]
    since: Vec<PathBuf>,

    /// Write the newest checkpoint here, to be named with --since another time.
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
}

pub(super) fn run(admin: &AdminArgs, args: &Args) -> anyhow::Result<Outcome> {
    let key = verifier(admin, args.key.as_deref())?;
    let source = match &args.folder {
        Some(folder) => Source::Folder(folder.clone()),
        None => Source::Broker(Box::new(admin.client()?)),
    };
    let verified = verify(&source, &key, &args.since, |_, _| ())?;
    if let Some(path) = &args.keep {
        files::write(path, Existing::Replace, 0o644, verified.note.as_bytes())?;
    }
    let mut text = format!(
        "The record holds: {} entries, each where it was written, under a checkpoint that {} signed.",
        verified.size,
        key.name(),
    );
    for path in &args.since {
        text.push_str(&format!("\nIt begins with what {} signs.", path.display()));
    }
    let document = json!({
        "entries": verified.size, "root": verified.root, "since": args.since, "holds": true,
    });
    let outcome = Outcome::new(text, document);
    Ok(match (&args.keep, args.since.is_empty()) {
        (Some(path), _) => outcome.next(format!(
            "strongroom audit verify --since {}",
            path.display()
        )),
        (None, true) => {
            outcome.next("strongroom audit verify --keep checkpoint    # for the next time")
        }
        (None, false) => outcome,
    })
}

/// Where a log is read from.
pub(super) enum Source {
    Folder(PathBuf),
    Broker(Box<strongroom_client::admin::AdminClient>),
}

impl Source {
    /// A file of the log; nothing when it is not there.
    pub(super) fn read(&self, path: &str, most: usize) -> anyhow::Result<Option<Vec<u8>>> {
        match self {
            Self::Folder(folder) => {
                let file = folder.join(path);
                match file.try_exists() {
                    Ok(false) => Ok(None),
                    _ => {
                        let most = u64::try_from(most).unwrap_or(u64::MAX);
                        files::read_limited(&file, most).map(|bytes| Some(bytes.to_vec()))
                    }
                }
            }
            Self::Broker(client) => Ok(block_on(client.log_file(path))??),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Broker(_) => "the broker's record".to_owned(),
        }
    }
}

impl Source {
    fn without_checkpoint(&self) -> String {
        let next = match self {
            Self::Folder(_) => {
                "is it a copy of a record? `strongroom audit export FOLDER` writes one, with the checkpoint"
            }
            Self::Broker(_) => "it has never been started: `strongroom broker run`",
        };
        format!("{} has no file {CHECKPOINT_PATH}: {next}", self.name())
    }
}

/// What was verified.
pub(super) struct Verified {
    pub(super) note: String,
    pub(super) size: u64,
    pub(super) root: String,
}

/// Verifies a log and gives each entry to `each`, in order, with its position from 0.
pub(super) fn verify(
    source: &Source,
    key: &VerifierKey,
    since: &[PathBuf],
    each: impl FnMut(u64, &[u8]),
) -> anyhow::Result<Verified> {
    let keys = std::slice::from_ref(key);
    let note = source
        .read(CHECKPOINT_PATH, MAX_CHECKPOINT)?
        .with_context(|| source.without_checkpoint())?;
    let read = |path: &TilePath| source.read(&path.to_string(), path.max_bytes());
    verify_log(&note, keys, 0, read, each)
        .map_err(|fault| anyhow::anyhow!("{fault}"))
        .with_context(|| {
            format!(
                "{} does not hold: keep a copy of it for the investigation",
                source.name()
            )
        })?;
    let newest = Checkpoint::open(&note, keys)?;
    for path in since {
        begins_with(source, &newest, keys, path)?;
    }
    Ok(Verified {
        note: String::from_utf8(note)?,
        size: newest.size(),
        root: newest.root().to_string(),
    })
}

/// That a log continues what an older checkpoint signs.
fn begins_with(
    source: &Source,
    newest: &Checkpoint,
    keys: &[VerifierKey],
    path: &Path,
) -> anyhow::Result<()> {
    let note = files::read_text(path, MAX_CHECKPOINT.try_into()?)?;
    let older = Checkpoint::open(note.as_bytes(), keys)
        .with_context(|| format!("{} is no checkpoint of this log", path.display()))?;
    let shown = path.display();
    if older.size() > newest.size() {
        bail!(
            "{shown} signs {} entries, and there are {} now: the end was dropped, or the record was set back",
            older.size(),
            newest.size()
        );
    }
    let tile = |path: &TilePath| -> anyhow::Result<Vec<_>> {
        let bytes = source.read(&path.to_string(), path.max_bytes())?;
        let bytes = match bytes {
            Some(bytes) => bytes,
            // A log that grew may keep the full tile only.
            None => source
                .read(&path.to_full().to_string(), path.to_full().max_bytes())?
                .with_context(|| format!("{path} is not there"))?,
        };
        let mut hashes = tile_from_bytes(&bytes)?;
        hashes.truncate(usize::from(path.width()));
        Ok(hashes)
    };
    let proof = prove_consistency(older.size(), newest.size(), tile)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    newest.extends(&older, &proof).with_context(|| {
        format!("the record does not begin with what {shown} signs: it was rewritten since")
    })
}

const MAX_CHECKPOINT: usize = 64 * 1024;
