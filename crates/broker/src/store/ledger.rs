//! The one way to change anything: who comes while another's change is being written is written with the next group.
//!
//! A durable write costs a flush of the disk and a signed checkpoint, whatever is in it. So nobody writes alone when
//! others wait: the first to get the pen writes for all who stand in line.

use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Change, Committed, Store, StoreError};
use crate::audit::{Entry, LogKey, Record};
use crate::metrics::Metrics;

/// A store and the key that signs its record.
pub(crate) struct Ledger {
    store: Box<dyn Store>,
    key: LogKey,
    waiting: Mutex<Vec<Waiting>>,
    pen: Mutex<()>,
    metrics: Option<Arc<Metrics>>,
}

struct Waiting {
    change: Change,
    record: Record,
    outcome: Outcome,
}

/// Where whoever wrote leaves what became of a change.
type Outcome = Arc<Mutex<Option<Committed>>>;

impl Ledger {
    pub(crate) fn new(store: Box<dyn Store>, key: LogKey) -> Self {
        Self {
            store,
            key,
            waiting: Mutex::default(),
            pen: Mutex::default(),
            metrics: None,
        }
    }

    /// Has commits counted and timed.
    pub(crate) fn watched(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// What is asked of the store.
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The key that signs the record.
    pub(crate) fn key(&self) -> &LogKey {
        &self.key
    }

    /// Makes a change and appends its record: both are durable once this returns, or neither is there.
    pub(crate) fn commit(&self, change: Change, record: Record) -> Result<Entry, StoreError> {
        let commit = || self.commit_with_others(change, record);
        match &self.metrics {
            Some(metrics) => metrics.committed(commit),
            None => commit(),
        }
    }

    fn commit_with_others(&self, change: Change, record: Record) -> Result<Entry, StoreError> {
        let outcome = Outcome::default();
        lock(&self.waiting).push(Waiting {
            change,
            record,
            outcome: Arc::clone(&outcome),
        });
        let pen = lock(&self.pen);
        if let Some(committed) = lock(&outcome).take() {
            return committed;
        }
        self.write(take(&mut *lock(&self.waiting)));
        drop(pen);
        lock(&outcome)
            .take()
            .unwrap_or_else(|| Err(StoreError::Group(LOST.to_owned())))
    }

    fn write(&self, group: Vec<Waiting>) {
        if group.is_empty() {
            return;
        }
        let (changes, outcomes): (Vec<_>, Vec<_>) = group
            .into_iter()
            .map(|waiting| ((waiting.change, waiting.record), waiting.outcome))
            .unzip();
        let sign = |size, root: &_| self.key.checkpoint(size, root);
        match self.store.commit(changes, &sign) {
            Ok(committed) => {
                for (outcome, committed) in outcomes.iter().zip(committed) {
                    *lock(outcome) = Some(committed);
                }
            }
            Err(error) => {
                let others = error.again();
                let mut error = Some(error);
                for outcome in &outcomes {
                    let failed = error.take().unwrap_or_else(|| others.again());
                    *lock(outcome) = Some(Err(failed));
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A group that panicked left its outcomes empty, and the store undid it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const LOST: &str = "the write that this one was grouped with did not end";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::{Kind, Outcome as Ended};
    use crate::store::SqliteStore;

    fn record(action: &str) -> Record {
        Record::new(Kind::Admin, Ended::Allowed, action, 7)
    }

    fn ledger() -> Ledger {
        let key = LogKey::generate().unwrap();
        Ledger::new(Box::new(SqliteStore::in_memory(&key).unwrap()), key)
    }

    #[test]
    fn each_of_many_writers_at_once_gets_its_own_entry() {
        let ledger = ledger();
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let ledger = &ledger;
                scope.spawn(move || {
                    for number in 0..50 {
                        let action = format!("{writer}/{number}");
                        let entry = ledger.commit(Change::Nothing, record(&action)).unwrap();
                        assert_eq!(entry.record.action, action);
                    }
                });
            }
        });
        let entries = ledger.store().audit(1_000, None).unwrap();
        assert_eq!(entries.len(), 400);
        assert!((1u64..).zip(&entries).all(|(seq, entry)| entry.seq == seq));
        assert_eq!(ledger.store().head().unwrap().unwrap().size, 400);
    }

    #[test]
    fn change_that_fails_spoils_no_other_of_its_group() {
        let ledger = ledger();
        let missing = || Change::DeleteSecret {
            path: "a/b/c".parse().unwrap(),
        };
        let sign = |size, root: &_| ledger.key().checkpoint(size, root);
        let group = vec![
            (Change::Nothing, record("first")),
            (missing(), record("second")),
            (Change::Nothing, record("third")),
        ];
        let committed = ledger.store().commit(group, &sign).unwrap();
        assert_eq!(committed[0].as_ref().unwrap().seq, 1);
        assert!(matches!(committed[1], Err(StoreError::NotFound)));
        assert_eq!(committed[2].as_ref().unwrap().seq, 2);
    }

    #[test]
    fn record_that_cannot_be_signed_is_not_written() {
        let ledger = ledger();
        let refuse = |_, _: &_| Err(StoreError::Sign("no key".to_owned()));
        let group = vec![(Change::Nothing, record("first"))];
        assert!(ledger.store().commit(group, &refuse).is_err());
        assert!(ledger.store().audit(10, None).unwrap().is_empty());
    }
}
