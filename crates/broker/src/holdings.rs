//! How much each source holds at once, of something that there is little of: connections, or memory for bodies.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::client::Client;

/// What is held, in all and by each source. A source that holds nothing is forgotten, so there are never more of them than
/// things held.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holdings(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    all: usize,
    sources: HashMap<Client, usize>,
}

impl Holdings {
    /// Takes some of `room`, of which one source may hold a quarter; nothing when there is not enough left.
    pub(crate) fn take(
        &self,
        source: Option<Client>,
        amount: usize,
        room: usize,
    ) -> Option<Holding> {
        self.take_of(source, amount, room, room / 4)
    }

    /// As [`Self::take`], where one source may hold this much.
    pub(crate) fn take_of(
        &self,
        source: Option<Client>,
        amount: usize,
        room: usize,
        of_one: usize,
    ) -> Option<Holding> {
        let mut held = self.held();
        let all = held.all.checked_add(amount).filter(|all| *all <= room)?;
        if let Some(source) = source {
            let own = held.sources.get(&source).copied().unwrap_or(0);
            let own = own.checked_add(amount).filter(|own| *own <= of_one)?;
            held.sources.insert(source, own);
        }
        held.all = all;
        drop(held);
        Some(Holding {
            of: self.clone(),
            source,
            amount,
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Each call leaves the counts whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is given back when it is dropped.
#[derive(Debug)]
#[must_use = "what is not kept is given back at once"]
pub(crate) struct Holding {
    of: Holdings,
    source: Option<Client>,
    amount: usize,
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut held = self.of.held();
        held.all = held.all.saturating_sub(self.amount);
        let Some(source) = self.source else { return };
        let left = held.sources.get(&source).copied().unwrap_or(0);
        match left.saturating_sub(self.amount) {
            0 => held.sources.remove(&source),
            left => held.sources.insert(source, left),
        };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use axum::http::HeaderMap;

    use super::*;
    use crate::client;

    fn source(number: u32) -> Option<Client> {
        let address = IpAddr::V4(Ipv4Addr::from(number));
        Some(client::behind(address, &HeaderMap::new(), &[]))
    }

    #[test]
    fn one_source_takes_what_others_need() {
        let holdings = Holdings::default();
        let first = holdings.take(source(1), 25, 100).unwrap();
        assert!(holdings.take(source(1), 1, 100).is_none());
        let others: Vec<_> = (2..5)
            .map(|n| holdings.take(source(n), 25, 100).unwrap())
            .collect();
        assert!(holdings.take(source(9), 1, 100).is_none());
        drop(first);
        let again = holdings.take(source(1), 25, 100).unwrap();
        drop((others, again));
        let held = holdings.held();
        assert_eq!((held.all, held.sources.len()), (0, 0));
    }

    #[test]
    fn amount_beyond_all_numbers_is_taken() {
        let holdings = Holdings::default();
        let one = holdings.take(None, 1, usize::MAX).unwrap();
        assert!(holdings.take(None, usize::MAX, usize::MAX).is_none());
        drop(one);
        assert!(holdings.take(None, usize::MAX, usize::MAX).is_some());
    }
}
