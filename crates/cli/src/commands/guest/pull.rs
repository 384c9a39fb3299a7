//! `strongroom guest pull`, with a bar while it lasts.

use std::sync::Arc;

use strongroom_guest::cli::pull::Args;
use strongroom_guest::image::Progress;

use crate::outcome::Outcome;
use crate::progress;

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let bar = progress::bytes(Some(0))?;
    let shown = bar.clone();
    let outcome = args.run(Arc::new(move |event| match event {
        Progress::Verified { bytes, .. } => shown.set_length(bytes),
        Progress::Fetched(bytes) => shown.inc(bytes),
        _ => {}
    }))?;
    bar.finish_and_clear();
    Ok(outcome)
}
