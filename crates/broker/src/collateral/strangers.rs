//! What evidence of strangers may cost: so many new things a minute, and the same refusal not asked for twice.
//!
//! Without IO: each call takes `now`. Chips, FMSPCs and manifests are named by evidence that nobody has believed yet.
//! What is kept already, and the few lists that every guest shares, is not counted here.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use strongroom_verifier::Wanted;

use super::CollateralError;
use super::service::Service;

#[derive(Default)]
pub(super) struct Strangers {
    /// From when, until when, and why.
    refused: HashMap<Wanted, (Range<u64>, CollateralError)>,
    begun: HashMap<Service, VecDeque<u64>>,
}

impl Strangers {
    /// The refusal that still holds.
    pub(super) fn refused(&self, wanted: &Wanted, now: u64) -> Option<CollateralError> {
        self.refused
            .get(wanted)
            .filter(|(lasting, _)| lasting.contains(&now))
            .map(|(_, error)| error.clone())
    }

    /// Remembers a refusal for so many seconds.
    pub(super) fn refuse(
        &mut self,
        wanted: &Wanted,
        error: CollateralError,
        now: u64,
        seconds: u64,
    ) {
        if self.refused.len() >= MAX_REFUSED {
            self.refused
                .retain(|_, (lasting, _)| lasting.contains(&now));
        }
        if self.refused.len() >= MAX_REFUSED {
            self.refused.clear();
        }
        let lasting = now..now.saturating_add(seconds);
        self.refused.insert(wanted.clone(), (lasting, error));
    }

    /// Takes one of this minute's requests, or says in how many seconds there is another.
    pub(super) fn begin(&mut self, service: Service, now: u64) -> Result<(), u64> {
        let begun = self.begun.entry(service).or_default();
        // What lies ahead was begun before the clock was set back.
        begun.retain(|at| *at <= now && now < at.saturating_add(60));
        match begun.front() {
            Some(oldest) if begun.len() >= PER_MINUTE => {
                Err(oldest.saturating_add(60).saturating_sub(now))
            }
            _ => {
                begun.push_back(now);
                Ok(())
            }
        }
    }
}

/// More than a fleet of new machines starts in a minute; far less than a service notices.
pub(super) const PER_MINUTE: usize = 60;
const MAX_REFUSED: usize = 4_096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn flood_is_asked_for_without_end() {
        let mut strangers = Strangers::default();
        for _ in 0..PER_MINUTE {
            strangers.begin(Service::AmdKds, 100).unwrap();
        }
        assert_eq!(strangers.begin(Service::AmdKds, 130), Err(30));
        strangers.begin(Service::Intel, 130).unwrap();
        strangers.begin(Service::AmdKds, 160).unwrap();
    }

    #[test]
    fn clock_that_was_set_back_refuses_for_ever() {
        let mut strangers = Strangers::default();
        for _ in 0..PER_MINUTE {
            strangers.begin(Service::AmdKds, 1_000_000).unwrap();
        }
        strangers.begin(Service::AmdKds, 10).unwrap();
        let rim = Wanted::NvidiaRim { id: "1".into() };
        let error = CollateralError::Internal;
        strangers.refuse(&rim, error, 1_000_000, 3_600);
        assert!(strangers.refused(&rim, 10).is_none());
    }

    #[test]
    fn refusals_grow_without_end_or_for_ever() {
        let mut strangers = Strangers::default();
        let rim = |number: usize| Wanted::NvidiaRim {
            id: number.to_string(),
        };
        for number in 0..3 * MAX_REFUSED {
            let error = CollateralError::Implausible {
                wanted: number.to_string(),
            };
            strangers.refuse(&rim(number), error, 0, 10);
        }
        assert!(strangers.refused.len() <= MAX_REFUSED);
        let newest = rim(3 * MAX_REFUSED - 1);
        assert!(strangers.refused(&newest, 9).is_some());
        assert!(strangers.refused(&newest, 10).is_none());
    }
}
