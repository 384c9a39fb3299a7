//! Results that a job put in place and did not live to say so: known again by the digests in its checkpoint.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aws_lc_rs::digest::{Context, SHA256};
use strongroom_scoring::batch::{PlacedFile, Placement, Summary};

use crate::keys::GuestArgs;
use crate::results::ResultsArgs;
use crate::storage::StorageArgs;

/// What there is of the results that earlier processes of the job were about to put in place.
pub(crate) enum Placed {
    /// All of them: the job is done.
    All(Box<Summary>),
    /// These files and no others of theirs, to be replaced.
    Some(Vec<PathBuf>),
}

impl Placed {
    /// Looks for them.
    pub(crate) fn find(
        placements: &[Placement],
        results: &ResultsArgs,
        storage: &StorageArgs,
        guest: &GuestArgs,
    ) -> anyhow::Result<Self> {
        let (form, places) = (results.form(), results.places()?);
        let mut found = Vec::new();
        for placement in placements.iter().filter(|placed| placed.form == form) {
            let mut all = placement.files.len() == places.len();
            for (place, file) in places.iter().zip(&placement.files) {
                if is_there(place, file, storage, guest)? {
                    found.push(place.clone());
                } else {
                    all = false;
                }
            }
            if all && !places.is_empty() {
                return Ok(Self::All(Box::new(placement.summary.clone())));
            }
        }
        Ok(Self::Some(found))
    }
}

/// Whether exactly these bytes are there. What cannot be opened is not; whoever may write need not be allowed to read.
fn is_there(
    place: &Path,
    file: &PlacedFile,
    storage: &StorageArgs,
    guest: &GuestArgs,
) -> anyhow::Result<bool> {
    if place == Path::new("-") {
        return Ok(false);
    }
    let Ok(source) = storage.open(place, guest) else {
        return Ok(false);
    };
    if source.length.is_some_and(|length| length != file.bytes) {
        return Ok(false);
    }
    let (mut reader, mut digest) = (source.reader, Context::new(&SHA256));
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = reader.read(&mut buffer);
        let read = read.with_context(|| format!("cannot read {}", source.label))?;
        match buffer.get(..read) {
            Some([]) | None => break,
            Some(bytes) => digest.update(bytes),
        }
    }
    Ok(hex::encode(digest.finish()) == file.sha256)
}
