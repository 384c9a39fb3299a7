//! Guests at work: so many at once, each asking again as soon as it is answered, until time or count is up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::account::{Flushes, Usage, Used};
use crate::guest::{Guest, Show};

/// What guests do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// Full handshakes: auth, attest, resource.
    Handshakes(Connections),
    /// Reads of one resource on a token that is there.
    Reads(Show),
    /// Sessions that are opened and never attested.
    Abandon,
}

/// How guests come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Connections {
    /// Each over one connection that stays open.
    Kept,
    /// Each handshake over a connection of its own.
    Fresh,
}

/// When a phase is over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Elapsed(Duration),
    Done(u64),
}

/// What one phase showed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Phase {
    pub(crate) name: String,
    /// How many were done: handshakes, reads or sessions.
    pub(crate) done: u64,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    pub(crate) server: Used,
    pub(crate) server_cpu_ms_each: f64,
    pub(crate) server_switches_each: f64,
    pub(crate) server_written_bytes_each: f64,
    /// Of the whole, and of each request in it.
    pub(crate) latency: Vec<Latency>,
    /// Answers that were decrypted and compared with what was stored.
    pub(crate) opened: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) flushes_each: Option<f64>,
}

/// The spread of waiting times, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) of: &'static str,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// What is asked for, and what it must hold.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) path: Arc<str>,
    pub(crate) content: Arc<[u8]>,
}

/// Has all `guests` do `work`, and accounts for what the server used meanwhile.
pub(crate) async fn phase(
    name: &str,
    guests: &mut Vec<Guest>,
    work: Work,
    until: Until,
    wanted: &Wanted,
    server: u32,
    count_flushes: bool,
) -> anyhow::Result<Phase> {
    if matches!(work, Work::Reads(_)) {
        for guest in guests.iter_mut() {
            guest.attest().await?;
        }
    }
    let flushes = match count_flushes {
        true => {
            let flushes = Flushes::count(server);
            tokio::time::sleep(Duration::from_millis(300)).await;
            flushes
        }
        false => None,
    };
    let before = Usage::of(server)?;
    let started = Instant::now();
    let budget = Arc::new(Budget::new(until, started));
    let mut tasks = JoinSet::new();
    for guest in guests.drain(..) {
        tasks.spawn(one(guest, work, Arc::clone(&budget), wanted.clone()));
    }
    let mut all = Seen::default();
    while let Some(ended) = tasks.join_next().await {
        let (guest, seen) = ended??;
        guests.push(guest);
        all.add(seen);
    }
    let seconds = started.elapsed().as_secs_f64();
    let used = Usage::of(server)?.since(&before);
    let flushes = flushes.and_then(Flushes::end);
    let done = all.done.max(1);
    let each = |total: f64| total / done as f64;
    Ok(Phase {
        name: name.to_owned(),
        done: all.done,
        seconds,
        per_second: all.done as f64 / seconds,
        server_cpu_ms_each: each(used.cpu_seconds() * 1e3),
        server_switches_each: each(used.switches as f64),
        server_written_bytes_each: each(used.written_bytes as f64),
        server: used,
        opened: all.opened,
        flushes_each: flushes.map(|flushes| each(flushes as f64)),
        latency: all.latency(),
    })
}

async fn one(
    mut guest: Guest,
    work: Work,
    budget: Arc<Budget>,
    wanted: Wanted,
) -> anyhow::Result<(Guest, Seen)> {
    let mut seen = Seen::default();
    while budget.take() {
        let answer = match work {
            Work::Handshakes(connections) => {
                if let Connections::Fresh = connections {
                    guest.hang_up();
                }
                let (waited, answer) = guest.handshake(&wanted.path).await?;
                seen.auth.push(waited.auth);
                seen.attest.push(waited.attest);
                seen.resource.push(waited.resource);
                seen.whole
                    .push(waited.auth + waited.attest + waited.resource);
                Some(answer)
            }
            Work::Reads(show) => {
                let asked = Instant::now();
                let answer = guest.read(&wanted.path, show).await?.ok()?;
                seen.whole.push(asked.elapsed());
                Some(answer.body)
            }
            Work::Abandon => {
                let asked = Instant::now();
                guest.auth().await?;
                seen.whole.push(asked.elapsed());
                None
            }
        };
        if let Some(answer) = answer.filter(|_| seen.done.is_multiple_of(OPENED_EVERY)) {
            ensure!(
                guest.open(&answer)? == *wanted.content,
                "the broker released something else than what was stored"
            );
            seen.opened += 1;
        }
        seen.done += 1;
    }
    Ok((guest, seen))
}

struct Budget {
    until: Until,
    started: Instant,
    taken: AtomicU64,
}

impl Budget {
    fn new(until: Until, started: Instant) -> Self {
        Self {
            until,
            started,
            taken: AtomicU64::new(0),
        }
    }

    fn take(&self) -> bool {
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        match self.until {
            Until::Elapsed(limit) => self.started.elapsed() < limit,
            Until::Done(count) => taken < count,
        }
    }
}

#[derive(Default)]
struct Seen {
    done: u64,
    opened: u64,
    whole: Vec<Duration>,
    auth: Vec<Duration>,
    attest: Vec<Duration>,
    resource: Vec<Duration>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.opened += other.opened;
        self.whole.extend(other.whole);
        self.auth.extend(other.auth);
        self.attest.extend(other.attest);
        self.resource.extend(other.resource);
    }

    fn latency(self) -> Vec<Latency> {
        [
            ("whole", self.whole),
            ("auth", self.auth),
            ("attest", self.attest),
            ("resource", self.resource),
        ]
        .into_iter()
        .filter_map(|(of, waits)| Latency::of(of, waits))
        .collect()
    }
}

impl Latency {
    fn of(of: &'static str, mut waits: Vec<Duration>) -> Option<Self> {
        waits.sort_unstable();
        let at = |share: usize| {
            let place = (waits.len() * share / 100).min(waits.len().checked_sub(1)?);
            Some(waits.get(place)?.as_secs_f64() * 1e3)
        };
        Some(Self {
            of,
            p50_ms: at(50)?,
            p99_ms: at(99)?,
            max_ms: at(100)?,
        })
    }
}

/// Opening an answer costs the guest more than asking for it.
const OPENED_EVERY: u64 = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn percentile_beyond_the_end() {
        let waits = |count: u64| (1..=count).map(Duration::from_millis).collect();
        assert!(Latency::of("x", waits(0)).is_none());
        let one = Latency::of("x", waits(1)).unwrap();
        assert_eq!((one.p50_ms, one.p99_ms, one.max_ms), (1.0, 1.0, 1.0));
        let many = Latency::of("x", waits(200)).unwrap();
        assert_eq!(
            (many.p50_ms, many.p99_ms, many.max_ms),
            (101.0, 199.0, 200.0)
        );
    }
}
