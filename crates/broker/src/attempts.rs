//! How often each client may try, without IO: a bucket for each that has tried lately, in bounded memory.
//!
//! A bucket is one number, the time at which it is full again (GCRA). One that was not touched for a minute is full and
//! needs no place: buckets lie in two generations, and the older one goes after a minute, or when the younger has no more
//! room. So a flood from very many addresses costs no memory. It can make a bucket be forgotten before its time, which
//! gives its client as much again, and nobody less.

use std::collections::HashMap;

use crate::client::Client;

/// The attempts of every client.
pub(crate) struct Attempts {
    /// Buckets in each generation.
    room: usize,
    young: HashMap<Client, u64>,
    old: HashMap<Client, u64>,
    /// When the young generation began, in milliseconds.
    began: u64,
}

impl Attempts {
    pub(crate) fn new() -> Self {
        Self::with_room(ROOM)
    }

    fn with_room(room: usize) -> Self {
        Self {
            room,
            young: HashMap::new(),
            old: HashMap::new(),
            began: 0,
        }
    }

    /// Takes one attempt from a client's bucket, which holds those of a minute.
    ///
    /// # Errors
    /// In how many seconds there is one again.
    pub(crate) fn take(&mut self, client: Client, per_minute: u32, now: u64) -> Result<(), u64> {
        if per_minute == 0 {
            return Ok(());
        }
        let now = now.saturating_mul(1_000);
        self.age(now);
        let known = self.young.get(&client).or_else(|| self.old.get(&client));
        let full_at = match known {
            // A clock that was set back makes nobody wait for longer than a minute.
            Some(full_at) => (*full_at).clamp(now, now.saturating_add(MINUTE)),
            None => now,
        };
        let each = MINUTE / u64::from(per_minute);
        let after = full_at.saturating_add(each.max(1));
        let wait = after.saturating_sub(now).saturating_sub(MINUTE);
        let (full_at, outcome) = match wait {
            0 => (after, Ok(())),
            wait => (full_at, Err(wait.div_ceil(1_000))),
        };
        self.young.insert(client, full_at);
        outcome
    }

    fn age(&mut self, now: u64) {
        let elapsed = now.checked_sub(self.began);
        let over = elapsed.is_none_or(|elapsed| elapsed > MINUTE);
        if over || self.young.len() >= self.room {
            self.old = std::mem::take(&mut self.young);
            self.began = now;
        }
    }

    #[cfg(test)]
    fn buckets(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

const MINUTE: u64 = 60_000;
/// Two generations take about 2 MB.
const ROOM: usize = 32_768;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use axum::http::HeaderMap;

    use super::*;
    use crate::client;

    fn client(number: u32) -> Client {
        let address = IpAddr::V4(Ipv4Addr::from(number));
        client::behind(address, &HeaderMap::new(), &[])
    }

    fn taken(attempts: &mut Attempts, client: Client, now: u64) -> usize {
        (0..1_000)
            .take_while(|_| attempts.take(client, 60, now).is_ok())
            .count()
    }

    #[test]
    fn source_tries_more_often_than_it_may() {
        let mut attempts = Attempts::new();
        assert_eq!(taken(&mut attempts, client(1), 100), 60);
        assert_eq!(attempts.take(client(1), 60, 100), Err(1));
        // Refused attempts cost nothing, and the bucket fills by one each second.
        assert_eq!(taken(&mut attempts, client(1), 101), 1);
        assert_eq!(taken(&mut attempts, client(1), 111), 10);
        assert_eq!(taken(&mut attempts, client(1), 1_000), 60);
    }

    #[test]
    fn one_source_uses_up_what_another_has() {
        let mut attempts = Attempts::new();
        taken(&mut attempts, client(1), 100);
        assert_eq!(taken(&mut attempts, client(2), 100), 60);
    }

    #[test]
    fn bucket_is_forgotten_between_generations() {
        let mut attempts = Attempts::with_room(10);
        assert_eq!(taken(&mut attempts, client(1), 100), 60);
        for number in 2..12 {
            attempts.take(client(number), 60, 100).unwrap();
        }
        // The bucket lies in the old generation now.
        assert_eq!(attempts.take(client(1), 60, 100), Err(1));
    }

    #[test]
    fn addresses_without_number_take_memory_without_end() {
        let mut attempts = Attempts::new();
        for number in 0..200_000 {
            attempts.take(client(number), 60, 100).unwrap();
            assert!(attempts.buckets() <= 2 * ROOM + 1);
        }
        assert!(attempts.young.capacity() + attempts.old.capacity() <= 4 * ROOM);
        attempts.take(client(0), 60, 100 + 61).unwrap();
        attempts.take(client(0), 60, 100 + 122).unwrap();
        assert!(attempts.buckets() <= 2, "{}", attempts.buckets());
    }

    #[test]
    fn clock_that_is_set_back_locks_a_source_out() {
        let mut attempts = Attempts::new();
        taken(&mut attempts, client(1), 1_000_000);
        assert_eq!(attempts.take(client(1), 60, 100), Err(1));
        assert_eq!(taken(&mut attempts, client(1), 160), 60);
    }

    #[test]
    fn no_limit_limits() {
        let mut attempts = Attempts::new();
        for _ in 0..10_000 {
            attempts.take(client(1), 0, 100).unwrap();
        }
        assert_eq!(attempts.buckets(), 0);
    }

    #[test]
    fn limit_above_one_in_a_millisecond_overflows() {
        for now in [0, 5, u64::MAX] {
            let mut attempts = Attempts::new();
            assert_eq!(attempts.take(client(1), u32::MAX, now), Ok(()));
            assert_eq!(attempts.take(client(1), u32::MAX, now), Ok(()));
        }
    }
}
