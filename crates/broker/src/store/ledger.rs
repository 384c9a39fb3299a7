//! The one way to change anything: one thread writes, and what comes in while it writes is written together next.
//!
//! A durable write costs a flush of the disk and a signed checkpoint, whatever is in it. So nobody writes alone when
//! others wait, and nobody who waits holds a thread: a request is a task until its entry is on the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{JoinHandle, spawn};
use std::time::Instant;

use tokio::sync::oneshot;

use super::{Change, Committed, Store, StoreError};
use crate::audit::{Entry, LogKey, Record};
use crate::metrics::Metrics;

/// A store and the key that signs its record.
pub(crate) struct Ledger {
    store: Arc<dyn Store>,
    key: Arc<LogKey>,
    /// None once it is told to stop.
    queue: Option<Sender<Waiting>>,
    writer: Option<JoinHandle<()>>,
    metrics: Option<Arc<Metrics>>,
}

struct Waiting {
    change: Change,
    record: Record,
    reply: Reply,
}

/// Who is told what became of a change.
enum Reply {
    Thread(SyncSender<Committed>),
    Task(oneshot::Sender<Committed>),
}

impl Reply {
    /// Who does not wait any more has lost nothing: the change is durable all the same.
    fn give(self, committed: Committed) {
        match self {
            Self::Thread(sender) => sender.send(committed).unwrap_or_default(),
            Self::Task(sender) => sender.send(committed).map(drop).unwrap_or_else(drop),
        }
    }
}

impl Ledger {
    pub(crate) fn new(store: Box<dyn Store>, key: LogKey) -> Self {
        let (store, key): (Arc<dyn Store>, _) = (store.into(), Arc::new(key));
        let (queue, waiting) = channel();
        let (pen, signer) = (Arc::clone(&store), Arc::clone(&key));
        Self {
            store,
            key,
            queue: Some(queue),
            writer: Some(spawn(move || write(&*pen, &signer, &waiting))),
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

    /// Makes a change and appends its record: both are durable once this returns, or neither is there. Blocks.
    pub(crate) fn commit(&self, change: Change, record: Record) -> Result<Entry, StoreError> {
        let began = Instant::now();
        let (reply, committed) = sync_channel(1);
        self.enqueue(change, record, Reply::Thread(reply));
        let committed = committed.recv().unwrap_or_else(|_| Err(lost()));
        self.counted(began, committed)
    }

    /// As [`Self::commit`], for a task. What is in line is written whether or not the task still waits.
    pub(crate) async fn committed(
        &self,
        change: Change,
        record: Record,
    ) -> Result<Entry, StoreError> {
        let began = Instant::now();
        let (reply, committed) = oneshot::channel();
        self.enqueue(change, record, Reply::Task(reply));
        let committed = committed.await.unwrap_or_else(|_| Err(lost()));
        self.counted(began, committed)
    }

    fn enqueue(&self, change: Change, record: Record, reply: Reply) {
        let waiting = Waiting {
            change,
            record,
            reply,
        };
        // What nobody takes is dropped, its reply with it, and whoever waits is told that it is lost.
        if let Some(queue) = &self.queue {
            queue.send(waiting).unwrap_or_else(drop);
        }
    }

    fn counted(&self, began: Instant, committed: Committed) -> Committed {
        if let Some(metrics) = &self.metrics {
            metrics.committed(began.elapsed(), committed.is_ok());
        }
        committed
    }
}

/// What is in line is written before the store closes.
impl Drop for Ledger {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            // It catches what panics.
            writer.join().unwrap_or_default();
        }
    }
}

fn write(store: &dyn Store, key: &LogKey, waiting: &Receiver<Waiting>) {
    while let Ok(first) = waiting.recv() {
        let mut group = vec![first];
        while group.len() < MAX_GROUP
            && let Ok(next) = waiting.try_recv()
        {
            group.push(next);
        }
        // A group that panics is undone by the store, and whoever waits for it is told by its replies' end.
        if catch_unwind(AssertUnwindSafe(|| write_group(store, key, group))).is_err() {
            tracing::error!("writing to the store panicked");
        }
    }
}

fn write_group(store: &dyn Store, key: &LogKey, group: Vec<Waiting>) {
    let (changes, replies): (Vec<_>, Vec<_>) = group
        .into_iter()
        .map(|waiting| ((waiting.change, waiting.record), waiting.reply))
        .unzip();
    match store.commit(changes, key) {
        Ok(committed) => {
            let told = replies.into_iter().zip(committed);
            told.for_each(|(reply, committed)| reply.give(committed));
        }
        Err(error) => {
            let others = error.again();
            let mut error = Some(error);
            for reply in replies {
                reply.give(Err(error.take().unwrap_or_else(|| others.again())));
            }
        }
    }
}

fn lost() -> StoreError {
    StoreError::Group(LOST.to_owned())
}

const LOST: &str = "the write that this one was grouped with did not end";
/// More than ever wait at once but in a flood; what a transaction takes stays bounded.
const MAX_GROUP: usize = 256;

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

    #[tokio::test]
    async fn task_that_stops_waiting_takes_its_change_along() {
        let ledger = ledger();
        let mut waits = Box::pin(ledger.committed(Change::Nothing, record("first")));
        // Polled once, it stands in line.
        let polled = std::future::poll_fn(|context| {
            std::task::Poll::Ready(waits.as_mut().poll(context).is_ready())
        });
        polled.await;
        drop(waits);
        let second = ledger.committed(Change::Nothing, record("second")).await;
        assert_eq!(second.unwrap().seq, 2);
        assert_eq!(ledger.store().audit(10, None).unwrap().len(), 2);
    }

    #[test]
    fn write_that_panics_is_the_last_one() {
        let ledger = ledger();
        let panics = Change::PutSecret {
            path: "a/b/c".parse().unwrap(),
            seal: Box::new(|_| panic!("as a test")),
            expires: None,
            keep: 1,
        };
        let lost = ledger.commit(panics, record("first"));
        assert!(matches!(lost, Err(StoreError::Group(why)) if why == LOST));
        let next = ledger.commit(Change::Nothing, record("second")).unwrap();
        assert_eq!(next.seq, 1);
    }

    #[test]
    fn ledger_that_is_dropped_leaves_its_store_open() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (
            folder.path().join("store.sqlite"),
            LogKey::generate().unwrap(),
        );
        SqliteStore::create(&path, &key).unwrap();
        for _ in 0..2 {
            let key = LogKey::from_text(&key.to_text()).unwrap();
            let store = SqliteStore::open(&path, &key).unwrap();
            let ledger = Ledger::new(Box::new(store), key);
            ledger.commit(Change::Nothing, record("first")).unwrap();
        }
    }

    #[test]
    fn change_that_fails_spoils_no_other_of_its_group() {
        let ledger = ledger();
        let missing = || Change::DeleteSecret {
            path: "a/b/c".parse().unwrap(),
        };
        let group = vec![
            (Change::Nothing, record("first")),
            (missing(), record("second")),
            (Change::Nothing, record("third")),
        ];
        let committed = ledger.store().commit(group, ledger.key()).unwrap();
        assert_eq!(committed[0].as_ref().unwrap().seq, 1);
        assert!(matches!(committed[1], Err(StoreError::NotFound)));
        assert_eq!(committed[2].as_ref().unwrap().seq, 2);
    }

    #[test]
    fn record_of_another_key_is_not_continued() {
        let ledger = ledger();
        let other = LogKey::generate().unwrap();
        let group = vec![(Change::Nothing, record("first"))];
        assert!(ledger.store().commit(group, &other).is_err());
        assert!(ledger.store().audit(10, None).unwrap().is_empty());
    }
}
