//! A pull that the attestation agent measures, as guest-components' data hub has it done.

use std::path::Path;

use super::{ImageError, PullOptions, PulledImage, bundle, pull};
use crate::attestation::{Agent, Measured};
use crate::data::resource::Source;
use crate::error::GuestError;

/// Why no image was pulled, or none that could be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasuredPullError {
    /// It was not pulled.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It was not measured.
    #[error("the image could not be measured, and was taken away again: {0}")]
    Event(#[from] GuestError),
}

/// As [`pull`], and measures what was pulled into the event log where the configuration asks for one. An image that
/// cannot be measured then does not run: what was unpacked is taken away again.
///
/// # Errors
/// [`MeasuredPullError`].
pub async fn pull_and_measure(
    agent: &Agent,
    image: &str,
    dest: &Path,
    options: &PullOptions,
    source: &Source,
) -> Result<(PulledImage, Measured), MeasuredPullError> {
    let pulled = pull(image, dest, options, Some(source)).await?;
    let event = pulled.event();
    let measured = agent
        .measure(event.domain, event.operation, &event.content, None)
        .await;
    match measured {
        Ok(measured) => {
            tracing::info!(image, digest = %pulled.manifest_digest, ?measured, "an image was pulled");
            Ok((pulled, measured))
        }
        Err(error) => {
            let removed = [
                std::fs::remove_dir_all(dest.join(bundle::ROOT)),
                std::fs::remove_file(dest.join("config.json")),
            ];
            if let Some(error) = removed.into_iter().find_map(Result::err) {
                tracing::error!(%error, dest = %dest.display(), "an image that was not measured stays there");
            }
            Err(error.into())
        }
    }
}
