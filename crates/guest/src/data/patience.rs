//! Trying again while the way to the broker fails, for a time that somebody named. A denial is never tried again.

use std::future::Future;
use std::time::{Duration, Instant};

use strongroom_client::jitter;
use strongroom_client::session::RetryPolicy;

use crate::error::GuestError;

/// Until when it is tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    end: Instant,
    whole: Duration,
}

impl Patience {
    /// From now on; none, where there is no time.
    pub(super) fn from_now(whole: Duration) -> Option<Self> {
        let end = Instant::now().checked_add(whole)?;
        Some(Self { end, whole }).filter(|_| !whole.is_zero())
    }
}

/// Does the work, and again while what fails may pass; `saying` so once.
pub(super) async fn patiently<T, F>(
    patience: Option<Patience>,
    saying: &'static str,
    mut work: impl FnMut() -> F,
) -> Result<T, GuestError>
where
    F: Future<Output = Result<T, GuestError>>,
{
    let mut failed = 0u32;
    loop {
        let error = match work().await {
            Err(error) if error.may_pass() => error,
            outcome => return outcome,
        };
        let Some(Patience { end, whole }) = patience else {
            return Err(error);
        };
        failed = failed.saturating_add(1);
        let delay = WAITING.delay(failed, jitter()).unwrap_or(WAITING.cap);
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(GuestError::GaveUp {
                seconds: whole.as_secs(),
                source: Box::new(error),
            });
        }
        if failed == 1 {
            tracing::warn!(%error, seconds = left.as_secs(), "{saying}");
        }
        tokio::time::sleep(delay.min(left)).await;
    }
}

const WAITING: RetryPolicy = RetryPolicy {
    attempts: u32::MAX,
    base: Duration::from_millis(500),
    cap: Duration::from_secs(10),
};
