//! Whether a broker can do its work: alive, and ready. A probe says which part fails in a word, and why only to the log.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::Inner;
use crate::store::StoreError;

/// What is known of a broker's health.
#[derive(Default)]
pub(crate) struct Health {
    is_stopping: AtomicBool,
    /// What the last look found, and when. Whoever asks meanwhile waits for the look that is under way.
    last: Mutex<Option<(Instant, Reasons)>>,
}

/// Words for what keeps a broker from working.
pub(crate) type Reasons = BTreeSet<&'static str>;

impl Health {
    /// From here on the broker is not ready.
    pub(crate) fn stopping(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
    }

    /// Why the broker is not ready; nothing when it is. Looks at most once a while, because a look writes to the disk and
    /// anybody may ask.
    pub(crate) async fn reasons(broker: &Arc<Inner>) -> Reasons {
        if broker.health.is_stopping.load(Ordering::SeqCst) {
            return Reasons::from(["stopping"]);
        }
        let mut last = broker.health.last.lock().await;
        match &*last {
            Some((at, reasons)) if at.elapsed() < FRESH => reasons.clone(),
            _ => {
                let reasons = look(broker).await;
                *last = Some((Instant::now(), reasons.clone()));
                reasons
            }
        }
    }
}

async fn look(broker: &Arc<Inner>) -> Reasons {
    let broker = Arc::clone(broker);
    let looking = tokio::task::spawn_blocking(move || {
        let mut reasons = Reasons::new();
        if let Err(error) = broker.ledger.store().probe() {
            tracing::error!(%error, "not ready: the store cannot be read and written");
            reasons.insert(match error {
                StoreError::Full(_) => "store-full",
                StoreError::ReadOnly(_) => "store-read-only",
                _ => "store",
            });
        }
        if broker.has_storage_key().is_ok_and(|has_it| !has_it) {
            tracing::error!("not ready: the storage key in use is not in the key file");
            reasons.insert("storage-key");
        }
        if !broker.issuer.can_sign(broker.now()) {
            tracing::error!("not ready: the token key does not sign");
            reasons.insert("token-key");
        }
        if broker
            .live()
            .certificate_ends
            .is_some_and(|ends| ends <= broker.now())
        {
            tracing::error!("not ready: the server's certificate has ended");
            reasons.insert("certificate");
        }
        reasons
    });
    match timeout(LONGEST, looking).await {
        Ok(Ok(reasons)) => reasons,
        // It goes on, and the next look waits for the store behind it.
        Ok(Err(_)) | Err(_) => Reasons::from(["store"]),
    }
}

const FRESH: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(5);
