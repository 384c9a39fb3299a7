//! Refusals of those who proved nothing, without IO: so many entries a second, and the rest counted.
//!
//! Each entry costs a write to disk, and a stranger's request must not buy many of them. What an attested guest or
//! an admin is told is no business of this file: that is one entry each, always.

use std::collections::HashMap;

use crate::audit::{EventId, Record};

/// What was refused lately, by action. Actions are the broker's own words, so their number is small.
#[derive(Default)]
pub(crate) struct Strangers {
    by_action: HashMap<(String, u32), Window>,
    /// By key and policy, of guests that attested. Bounded: what is counted is given out before it is forgotten.
    denials: HashMap<(Option<String>, Option<String>), Window>,
    forgotten: Vec<Record>,
}

struct Window {
    /// Of the time, in seconds or minutes.
    unit: u64,
    entries: u32,
    /// The event of the newest entry.
    event: EventId,
    /// The newest refusal without an entry, and how many there are.
    counted: Option<(Record, u64)>,
}

impl Strangers {
    /// Gives the record back when it is to be written, with the number of those before it that were only
    /// counted; and the event that a refused client may name.
    pub(crate) fn admit(&mut self, record: Record, per_second: u32) -> (EventId, Option<Record>) {
        let window = self
            .by_action
            .entry((record.action.clone(), per_second))
            .or_insert_with(|| Window::of(&record));
        let unit = record.at;
        window.admit(record, unit, per_second)
    }

    /// As [`Self::admit`], of a guest that attested: by its key and the policy that refused it.
    pub(crate) fn admit_denial(
        &mut self,
        record: Record,
        per_minute: u32,
    ) -> (EventId, Option<Record>) {
        let by = (record.tee_key.clone(), record.policy.clone());
        if self.denials.len() >= MAX_DENIALS && !self.denials.contains_key(&by) {
            let forgotten = std::mem::take(&mut self.denials).into_values();
            let counted = forgotten.filter_map(|mut window| window.counted());
            // Who is refused again and again by thousands of keys is counted with the newest of them.
            let mut counted: Vec<Record> = self.forgotten.drain(..).chain(counted).collect();
            if let Some(mut newest) = counted.pop() {
                let others = counted
                    .iter()
                    .map(|record| 1 + record.suppressed.unwrap_or(0));
                let others: u64 = others.sum();
                let suppressed = newest.suppressed.unwrap_or(0).saturating_add(others);
                newest.suppressed = (suppressed > 0).then_some(suppressed);
                self.forgotten.push(newest);
            }
        }
        let window = self.denials.entry(by);
        let window = window.or_insert_with(|| Window::of(&record));
        let unit = record.at / 60;
        window.admit(record, unit, per_minute)
    }

    /// Takes what was counted: for each action its newest refusal, which stands for the others.
    pub(crate) fn counted(&mut self) -> Vec<Record> {
        let windows = self.by_action.values_mut().chain(self.denials.values_mut());
        let counted: Vec<Record> = windows.filter_map(Window::counted).collect();
        self.forgotten.drain(..).chain(counted).collect()
    }
}

impl Window {
    fn of(record: &Record) -> Self {
        Self {
            unit: 0,
            entries: 0,
            event: record.event.clone(),
            counted: None,
        }
    }

    fn admit(&mut self, mut record: Record, unit: u64, most: u32) -> (EventId, Option<Record>) {
        if self.unit != unit {
            (self.unit, self.entries) = (unit, 0);
        }
        if self.entries < most {
            self.entries += 1;
            self.event = record.event.clone();
            record.suppressed = self.counted.take().map(|(_, count)| count);
            return (record.event.clone(), Some(record));
        }
        let before = self.counted.take().map_or(0, |(_, count)| count);
        self.counted = Some((record, before.saturating_add(1)));
        (self.event.clone(), None)
    }

    fn counted(&mut self) -> Option<Record> {
        let (mut record, count) = self.counted.take()?;
        record.suppressed = (count > 1).then(|| count - 1);
        Some(record)
    }
}

/// For requests that cost a stranger nothing.
pub(crate) const PER_SECOND: u32 = 1;
/// For one key that one policy refuses: a workload with the wrong configuration asks for a handful of resources.
pub(crate) const DENIALS_PER_MINUTE: u32 = 30;
const MAX_DENIALS: usize = 4_096;

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
    fn one_key_that_is_refused_without_end_fills_the_record_or_hides_another() {
        let mut strangers = Strangers::default();
        let denial = |key: u32, at: u64| {
            let mut record = record("get resource", at);
            record.tee_key = Some(key.to_string());
            record.policy = Some("p".to_owned());
            record
        };
        let (mut entries, mut stands_for) = (0, 0);
        let mut take = |record: Record| {
            entries += 1;
            stands_for += 1 + record.suppressed.unwrap_or(0);
        };
        for number in 0..6_000 {
            let (_, written) = strangers.admit_denial(denial(1, number / 100), 30);
            written.into_iter().for_each(&mut take);
        }
        assert!(strangers.admit_denial(denial(2, 59), 30).1.is_some());
        strangers.counted().into_iter().for_each(&mut take);
        assert_eq!((entries, stands_for), (31, 6_000));
        // Keys without number take bounded memory, and nothing is lost.
        let mut stands_for = 0;
        for number in 0..3 * 10_000 {
            let (_, written) = strangers.admit_denial(denial(number / 3, 100), 1);
            stands_for += written.map_or(0, |record| 1 + record.suppressed.unwrap_or(0));
            assert!(strangers.denials.len() <= MAX_DENIALS && strangers.forgotten.len() <= 1);
        }
        let counted = strangers.counted();
        stands_for += counted
            .iter()
            .map(|record| 1 + record.suppressed.unwrap_or(0))
            .sum::<u64>();
        assert_eq!(stands_for, 30_000);
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
