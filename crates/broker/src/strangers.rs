//! Refusals of those who proved nothing, without IO: so many entries a second, and the rest counted.
//!
//! Each entry costs a write to disk, and a stranger's request must not buy many of them. What an attested guest or
//! an admin is told is no business of this file: that is one entry each, always.

use std::collections::HashMap;

use crate::audit::{EventId, Record};

/// What was refused lately, by action. Actions are the broker's own words, so their number is small.
#[derive(Default)]
pub(crate) struct Strangers(HashMap<(String, u32), Window>);

struct Window {
    second: u64,
    entries: u32,
    /// The event of the newest entry.
    event: EventId,
    /// The newest refusal without an entry, and how many there are.
    counted: Option<(Record, u64)>,
}

impl Strangers {
    /// Gives the record back when it is to be written, with the number of those before it that were only
    /// counted; and the event that a refused client may name.
    pub(crate) fn admit(
        &mut self,
        mut record: Record,
        per_second: u32,
    ) -> (EventId, Option<Record>) {
        let window = self
            .0
            .entry((record.action.clone(), per_second))
            .or_insert_with(|| Window {
                second: record.at,
                entries: 0,
                event: record.event.clone(),
                counted: None,
            });
        if window.second != record.at {
            (window.second, window.entries) = (record.at, 0);
        }
        if window.entries < per_second {
            window.entries += 1;
            window.event = record.event.clone();
            record.suppressed = window.counted.take().map(|(_, count)| count);
            return (record.event.clone(), Some(record));
        }
        let before = window.counted.take().map_or(0, |(_, count)| count);
        window.counted = Some((record, before.saturating_add(1)));
        (window.event.clone(), None)
    }

    /// Takes what was counted: for each action its newest refusal, which stands for the others.
    pub(crate) fn counted(&mut self) -> Vec<Record> {
        self.0
            .values_mut()
            .filter_map(|window| window.counted.take())
            .map(|(mut record, count)| {
                record.suppressed = (count > 1).then(|| count - 1);
                record
            })
            .collect()
    }
}

/// For requests that cost a stranger nothing.
pub(crate) const PER_SECOND: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Kind, Outcome};

    fn record(action: &str, at: u64) -> Record {
        Record::new(Kind::Admin, Outcome::Denied, action, at)
    }

    #[test]
    fn flood_is_one_entry_a_second_and_each_refusal_is_counted_once() {
        let mut strangers = Strangers::default();
        let (mut entries, mut stands_for) = (0, 0);
        let mut take = |record: Record| {
            entries += 1;
            stands_for += 1 + record.suppressed.unwrap_or(0);
        };
        for number in 0..10_000 {
            let (_, written) = strangers.admit(record("a", number / 1_000), 1);
            written.into_iter().for_each(&mut take);
        }
        strangers.counted().into_iter().for_each(&mut take);
        assert_eq!((entries, stands_for), (11, 10_000));
        assert!(strangers.counted().is_empty());
    }

    #[test]
    fn flood_of_one_action_hides_no_other() {
        let mut strangers = Strangers::default();
        for _ in 0..100 {
            strangers.admit(record("a", 1), 1);
        }
        assert!(strangers.admit(record("b", 1), 1).1.is_some());
    }

    #[test]
    fn refusal_without_an_entry_names_the_entry_before_it() {
        let mut strangers = Strangers::default();
        let (first, written) = strangers.admit(record("a", 1), 1);
        assert_eq!(written.map(|record| record.event), Some(first.clone()));
        assert_eq!(strangers.admit(record("a", 1), 1).0, first);
    }
}
