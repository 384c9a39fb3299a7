//! For how long the record is kept: entries older than the configuration says are pruned, in whole bundles.
//!
//! Pruning is that of C2SP tlog-tiles: the log keeps its size, its root and every hash, so that what is left verifies and
//! continues every checkpoint that was ever signed; what goes are the oldest entries. Each pruning is an entry of its own,
//! and that entry alone says which may be missing: an auditor takes nothing else for a pruning.

use strongroom_wire::tlog::{FULL_WIDTH, leaf_hash};

use crate::Inner;
use crate::audit::{Entry, LogError, Record};
use crate::store::{Change, Head, Store, StoreError};

/// What was pruned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Pruned {
    /// How many entries went.
    pub(crate) entries: u64,
    /// The number of the first that is there.
    pub(crate) first: u64,
}

/// Removes the entries that are older than the configuration keeps, or older than an earlier time.
pub(crate) fn prune(
    broker: &Inner,
    before: Option<u64>,
    record: &Record,
) -> Result<Pruned, RetentionError> {
    let days = broker.config.audit.keep_days;
    let days = days.ok_or(RetentionError::KeptForever)?;
    let oldest = broker.now().saturating_sub(days.saturating_mul(DAY));
    let before = before.unwrap_or(oldest);
    if before > oldest {
        return Err(RetentionError::TooYoung { days });
    }
    let store = broker.ledger.store();
    let mut entries = 0;
    loop {
        let Some(head) = store.head()? else {
            return Ok(Pruned { entries, first: 1 });
        };
        let Some(minimum) = prunable(store, &head, before)? else {
            let first = head.minimum + 1;
            return Ok(Pruned { entries, first });
        };
        let mut record = record.fresh();
        record.detail = Some(format!(
            "entries {} to {minimum} were removed: each is older than {days} days",
            head.minimum + 1
        ));
        match broker.ledger.commit(Change::PruneLog { minimum }, record) {
            Ok(_) => entries += minimum - head.minimum,
            // Another broker on the same store was first.
            Err(StoreError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Up to where all entries are older than a time: whole bundles, so many at once, and never the newest. What was altered
/// is not removed: who looks into it needs it.
fn prunable(store: &dyn Store, head: &Head, before: u64) -> Result<Option<u64>, StoreError> {
    let bundle = u64::from(FULL_WIDTH);
    let last = head.size.saturating_sub(1) / bundle * bundle;
    let last = last.min(head.minimum.saturating_add(AT_ONCE));
    let mut end = head.minimum;
    while end < last {
        let entries = store.log_entries(end, u32::from(FULL_WIDTH))?;
        let hashes = store.log_hashes(0, end, u32::from(FULL_WIDTH))?;
        if entries.len() != usize::from(FULL_WIDTH) || hashes.len() != entries.len() {
            return Err(LogError::Missing { seq: end + 1 }.into());
        }
        let mut all_older = true;
        for (seq, (text, hash)) in (end + 1..).zip(entries.iter().zip(&hashes)) {
            let altered = || LogError::Altered { seq };
            if leaf_hash(text.as_bytes()) != *hash {
                return Err(altered().into());
            }
            let entry: Entry = serde_json::from_str(text).map_err(|_| altered())?;
            all_older &= entry.record.at < before;
        }
        if !all_older {
            break;
        }
        end += bundle;
    }
    Ok((end > head.minimum).then_some(end))
}

/// Why nothing was pruned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RetentionError {
    #[error(
        "this broker keeps its record for good: whoever runs it says otherwise with keep_days in [audit] of its \
         configuration, and nobody else does"
    )]
    KeptForever,
    #[error("this broker keeps its record for {days} days: name an earlier day")]
    TooYoung { days: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The action of an entry that says what was pruned.
pub(crate) const ACTION: &str = "prune audit log";
const DAY: u64 = 24 * 60 * 60;
/// A write that others wait for stays short.
const AT_ONCE: u64 = 32_768;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;
    use crate::audit::{Kind, LogKey, Outcome};
    use crate::store::{Ledger, SqliteStore};

    /// A record whose entries are of these times.
    fn ledger(times: impl Iterator<Item = u64>) -> Ledger {
        let key = LogKey::generate().unwrap();
        let ledger = Ledger::new(Box::new(SqliteStore::in_memory(&key).unwrap()), key);
        let record = |at| Record::new(Kind::Release, Outcome::Denied, "get resource", at);
        let group = times.map(|at| (Change::Nothing, record(at))).collect();
        ledger.store().commit(group, ledger.key()).unwrap();
        ledger
    }

    fn up_to(ledger: &Ledger, before: u64) -> Option<u64> {
        let head = ledger.store().head().unwrap().unwrap();
        prunable(ledger.store(), &head, before).unwrap()
    }

    #[test]
    fn bundle_with_one_younger_entry_goes() {
        let ledger = ledger(0..1_000);
        for (before, wanted) in [
            (0, None),
            (255, None),
            (256, Some(256)),
            (511, Some(256)),
            (512, Some(512)),
            (u64::MAX, Some(768)),
        ] {
            assert_eq!(up_to(&ledger, before), wanted, "{before}");
        }
    }

    #[test]
    fn clock_that_ran_behind_takes_younger_entries_with_it() {
        let ledger = ledger((0..1_000).map(|number| match number {
            300 => 9,
            _ => 1,
        }));
        assert_eq!(up_to(&ledger, 5), Some(256));
    }

    #[test]
    fn newest_bundle_goes() {
        for (size, wanted) in [(0, None), (256, None), (257, Some(256)), (512, Some(256))] {
            assert_eq!(up_to(&ledger((0..size).map(|_| 1)), 5), wanted, "{size}");
        }
    }
}
