//! `strongroom audit export`: the record as files, for whoever verifies or searches it elsewhere.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::json;
use strongroom_wire::tlog::{CHECKPOINT_PATH, Checkpoint, TileKind, tiles_added};

use super::verifier;
use super::verify::{Source, verify};
use crate::connect::AdminArgs;
use crate::files::{self, Existing};
use crate::outcome::Outcome;

/// Copy the record: as a log that verifies anywhere, or as JSON lines
///
/// The folder gets what is new since the last time; what it has is left alone, also when the broker has pruned it. Everything is verified before this
/// answers.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder for the log's files: checkpoint, tiles and entry bundles.
    #[arg(required_unless_present = "jsonl")]
    folder: Option<PathBuf>,

    /// A file for the entries as JSON, one a line, oldest first; - for standard output
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,

    /// The key that verifies the record: a file, or the key itself [default: audit.pub in the broker's folder]
    #[arg(long, value_name = "FILE|KEY")]
    key: Option<String>,
}

pub(super) fn run(admin: &AdminArgs, args: &Args) -> anyhow::Result<Outcome> {
    let key = verifier(admin, args.key.as_deref())?;
    let broker = Source::Broker(Box::new(admin.client()?));
    let source = match &args.folder {
        Some(folder) => {
            copy(&broker, folder, &key)?;
            Source::Folder(folder.clone())
        }
        None => broker,
    };
    let mut lines = Vec::new();
    let verified = verify(&source, &key, &[], |_, entry| {
        if args.jsonl.is_some() {
            lines.extend_from_slice(entry);
            lines.push(b'\n');
        }
    })?;
    let mut text = format!("Verified and copied: {} entries.", verified.entries());
    if let Some(said) = verified.pruned() {
        text.push_str(&format!("\n{said}"));
    }
    if let Some(path) = &args.jsonl {
        files::write(path, Existing::Replace, 0o644, &lines)?;
        if path == Path::new("-") {
            return Ok(Outcome::silent());
        }
        text.push_str(&format!("\nAs JSON lines: {}", path.display()));
    }
    let document = json!({
        "entries": verified.entries(), "first": verified.first, "folder": args.folder, "jsonl": args.jsonl,
    });
    let outcome = Outcome::new(text, document);
    Ok(match &args.folder {
        Some(folder) => outcome.next(format!(
            "strongroom audit verify {} --key audit.pub    # anywhere",
            folder.display()
        )),
        None => outcome,
    })
}

/// Copies what the folder lacks. The checkpoint comes last: until then the folder's older one covers what it had.
fn copy(
    broker: &Source,
    folder: &Path,
    key: &strongroom_wire::tlog::VerifierKey,
) -> anyhow::Result<()> {
    let keys = std::slice::from_ref(key);
    let note = broker
        .read(CHECKPOINT_PATH, MAX_CHECKPOINT)?
        .with_context(|| broker.without_checkpoint())?;
    let newest = Checkpoint::open(&note, keys).context("the broker's checkpoint does not hold")?;
    let here = Source::Folder(folder.to_owned());
    let older = match here.read(CHECKPOINT_PATH, MAX_CHECKPOINT)? {
        Some(note) => Checkpoint::open(&note, keys)
            .with_context(|| format!("{} holds another log", folder.display()))?
            .size(),
        None => 0,
    };
    if older > newest.size() {
        bail!(
            "{} has {older} entries, and the broker {}: its record was set back, or this is another broker",
            folder.display(),
            newest.size()
        );
    }
    let lowest = broker.lowest(newest.size())?;
    for tile in tiles_added(older, newest.size()) {
        if tile.kind() == TileKind::Entries && tile.end_index() <= lowest {
            continue;
        }
        let path = tile.to_string();
        let bytes = broker
            .read(&path, tile.max_bytes())?
            .with_context(|| format!("the broker has no {path}"))?;
        let file = folder.join(&path);
        let parent = file.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent)
            .with_context(|| format!("{} cannot be made", parent.display()))?;
        files::write(&file, Existing::Replace, 0o644, &bytes)?;
    }
    files::write(
        &folder.join(CHECKPOINT_PATH),
        Existing::Replace,
        0o644,
        &note,
    )
}

const MAX_CHECKPOINT: usize = 64 * 1024;
