//! `strongroom audit verify`: whether the record is whole, from copied files or from the broker itself.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use strongroom_wire::tlog::{
    CHECKPOINT_PATH, Checkpoint, FULL_WIDTH, LogFault, TileKind, TilePath, VerifierKey,
    prove_consistency, tile_from_bytes, verify_log,
};

use super::{moment, verifier};
use crate::connect::{AdminArgs, block_on};
use crate::files::{self, Existing};
use crate::outcome::Outcome;

/// Verify the record: every entry, every hash, the signature over it all, and that an older record is its beginning
///
/// With a folder that `strongroom audit export` wrote, no broker is needed. An entry that was altered, dropped, added or
/// moved is named. A record that was set back to an older state shows only against a checkpoint that somebody kept:
/// keep one, and name it with --since. Where the oldest entries were pruned, the rest is verified, and an entry of the record
/// must say that they were: others that are missing fail.
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
        verified.entries(),
        key.name(),
    );
    if let Some(said) = verified.pruned() {
        text.push_str(&format!("\n{said}"));
    }
    for path in &args.since {
        text.push_str(&format!("\nIt begins with what {} signs.", path.display()));
    }
    let document = json!({
        "entries": verified.entries(), "size": verified.size, "first": verified.first, "root": verified.root,
        "since": args.since, "holds": true,
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
pub(in crate::commands) enum Source {
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

    /// The first entry from which on there may be all, counted from 0: that of the oldest bundle there is.
    pub(super) fn lowest(&self, size: u64) -> anyhow::Result<u64> {
        let bundle = u64::from(FULL_WIDTH);
        let has = |number: u64| -> anyhow::Result<bool> {
            let width = u16::try_from(size - number * bundle)
                .map_or(FULL_WIDTH, |width| width.min(FULL_WIDTH));
            let path = TilePath::entries(number, width)?;
            let here = |path: &TilePath| self.read(&path.to_string(), path.max_bytes());
            Ok(here(&path)?.is_some() || (path.is_partial() && here(&path.to_full())?.is_some()))
        };
        if size == 0 || has(0)? {
            return Ok(0);
        }
        // Who pruned did it from the oldest on. Where others are missing, what is found here does not verify.
        let (mut missing, mut there) = (0, size.div_ceil(bundle));
        while there - missing > 1 {
            let middle = missing + (there - missing) / 2;
            match has(middle)? {
                true => there = middle,
                false => missing = middle,
            }
        }
        Ok((there * bundle).min(size))
    }

    fn name(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Broker(_) => "the broker's record".to_owned(),
        }
    }
}

impl Source {
    /// That there is no checkpoint, and where one comes from.
    pub(super) fn without_checkpoint(&self) -> String {
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
pub(in crate::commands) struct Verified {
    pub(super) note: String,
    pub(super) size: u64,
    pub(super) root: String,
    /// The number of the first entry that was there to verify.
    pub(super) first: u64,
    pruned: Option<Pruning>,
}

/// What the newest entry that tells of a pruning says.
struct Pruning {
    /// The first entry that was kept, counted from 0.
    minimum: u64,
    at: u64,
    event: String,
    admin: Option<String>,
}

impl Pruning {
    fn of(entry: &[u8]) -> Option<Self> {
        let entry: Value = serde_json::from_slice(entry).ok()?;
        Some(Self {
            minimum: entry["minimum_index"].as_u64()?,
            at: entry["at"].as_u64().unwrap_or_default(),
            event: entry["event"].as_str().unwrap_or_default().to_owned(),
            admin: entry["admin"].as_str().map(str::to_owned),
        })
    }
}

impl Verified {
    /// How many entries were verified.
    pub(super) fn entries(&self) -> u64 {
        self.size + 1 - self.first
    }

    /// What is not there any more, and who says so.
    pub(super) fn pruned(&self) -> Option<String> {
        let pruned = self.pruned.as_ref().filter(|_| self.first > 1)?;
        Some(format!(
            "Entries 1 to {} are not there any more: the record begins with entry {}. Those up to {} were pruned on {} by {} \
             (event {}).",
            self.first - 1,
            self.first,
            pruned.minimum,
            moment(pruned.at),
            pruned
                .admin
                .as_deref()
                .unwrap_or("the broker, as its configuration says"),
            pruned.event,
        ))
    }
}

/// Verifies a log and gives each entry to `each`, in order, with its position from 0.
pub(in crate::commands) fn verify(
    source: &Source,
    key: &VerifierKey,
    since: &[PathBuf],
    mut each: impl FnMut(u64, &[u8]),
) -> anyhow::Result<Verified> {
    let keys = std::slice::from_ref(key);
    let note = source
        .read(CHECKPOINT_PATH, MAX_CHECKPOINT)?
        .with_context(|| source.without_checkpoint())?;
    let read = |path: &TilePath| source.read(&path.to_string(), path.max_bytes());
    let broken = || {
        format!(
            "{} does not hold: keep a copy of it for the investigation",
            source.name()
        )
    };
    let newest = Checkpoint::open(&note, keys).with_context(broken)?;
    let mut lowest = source.lowest(newest.size())?;
    let mut pruned: Option<Pruning> = None;
    loop {
        let verified = verify_log(&note, keys, lowest, read, |index, entry| {
            pruned = Pruning::of(entry).or_else(|| pruned.take());
            each(index, entry);
        });
        match verified {
            Ok(_) => break,
            // A copy that was made again and again has what was there each time. Whether this may be missing is looked at
            // below.
            Err(LogFault::FileMissing { path })
                if path.kind() == TileKind::Entries && path.end_index() < newest.size() =>
            {
                lowest = path.end_index();
            }
            Err(fault) => return Err(anyhow::anyhow!("{fault}")).with_context(broken),
        }
    }
    let allowed = pruned.as_ref().map_or(0, |pruned| pruned.minimum);
    if lowest > allowed {
        // Says which file is the first that is missing and should not be.
        let missing = verify_log(&note, keys, allowed, read, |_, _| ());
        let fault = missing.err().map_or_else(
            || "it changed meanwhile".to_owned(),
            |fault| fault.to_string(),
        );
        return Err(anyhow::anyhow!("{fault}; no entry says that it was pruned"))
            .with_context(broken);
    }
    for path in since {
        begins_with(source, &newest, keys, path)?;
    }
    Ok(Verified {
        note: String::from_utf8(note)?,
        size: newest.size(),
        root: newest.root().to_string(),
        first: lowest + 1,
        pruned,
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
