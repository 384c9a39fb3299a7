//! Rows counted by file, by hour, or by blocks of their numbers, in bounded memory: blocks widen
//! when there are too many of them.

use std::collections::BTreeMap;

use crate::results::{Header, InputSummary, ResultRow, Summary};

/// Rows counted by where or when they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Groups {
    /// What the rows are counted by.
    pub by: GroupedBy,
    /// The groups, in order.
    pub groups: Vec<Group>,
    /// Rows of files beyond the most that are told apart.
    pub others: u64,
}

/// What rows are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupedBy {
    /// The files of the data set.
    File,
    /// So many hours of a time that rows have.
    Hours(u64),
    /// So many row numbers.
    Rows(u64),
}

impl GroupedBy {
    /// The name of a group's column in a table.
    pub fn heading(self) -> String {
        match self {
            Self::File => "File".to_owned(),
            Self::Hours(1) => "Hour".to_owned(),
            Self::Hours(hours) => format!("{hours} hours from"),
            Self::Rows(_) => "Rows".to_owned(),
        }
    }
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name: a file, the time at which it begins, or the numbers of its first and last row.
    pub name: String,
    /// Its rows that have a score; of hours and blocks, those in the result file.
    pub rows: u64,
    /// Those of them that are flagged.
    pub flagged: u64,
}

/// Counts rows in all three ways, until it is known which of them the file allows.
pub(super) struct Grouper {
    time_column: Option<usize>,
    /// None once a row had no time.
    hours: Option<Blocks>,
    /// Times count from 1970 and not from the first transaction.
    calendar: bool,
    rows: Blocks,
}

impl Grouper {
    pub(super) fn new(header: &Header) -> Self {
        let is_time = |name: &String| {
            TIME_COLUMNS
                .iter()
                .any(|time| name.eq_ignore_ascii_case(time))
        };
        Self {
            time_column: header.columns.iter().position(is_time),
            hours: Some(Blocks::new(HOURS)),
            calendar: false,
            rows: Blocks::new(ROWS),
        }
    }

    pub(super) fn add(&mut self, row: &ResultRow, flagged: bool) {
        let counted = [1, u64::from(flagged)];
        let number = i64::try_from(row.row).unwrap_or(i64::MAX).saturating_sub(1);
        self.rows.add(number, counted);
        if let Some(hours) = &mut self.hours {
            match self.time_column.and_then(|at| row.features.get(at)) {
                Some(&seconds) => {
                    // Milliseconds since 1970 are far above seconds since then.
                    let seconds = if seconds.abs() > 1e11 {
                        seconds / 1e3
                    } else {
                        seconds
                    };
                    self.calendar |= seconds > 1e8;
                    hours.add((seconds / 3600.0).floor() as i64, counted);
                }
                None => match row.key.as_deref().and_then(hour_of) {
                    Some(hour) => {
                        self.calendar = true;
                        hours.add(hour, counted);
                    }
                    None => self.hours = None,
                },
            }
        }
    }

    /// The groups of a data set of one file; several are groups themselves.
    pub(super) fn finish(self, inputs: &[InputSummary], summary: &Summary) -> Groups {
        if inputs.len() > 1 {
            let group = |input: &InputSummary| Group {
                name: input.file.clone(),
                rows: input.rows.saturating_sub(input.bad_rows),
                flagged: input.flagged,
            };
            let groups: Vec<Group> = inputs.iter().map(group).collect();
            let told_apart: u64 = groups.iter().map(|group| group.rows).sum();
            return Groups {
                by: GroupedBy::File,
                groups,
                others: summary.scored().saturating_sub(told_apart),
            };
        }
        let hours = self.hours.filter(|hours| !hours.counts.is_empty());
        let (by, blocks) = match hours {
            Some(hours) => (GroupedBy::Hours(hours.width), hours),
            None => (GroupedBy::Rows(self.rows.width), self.rows),
        };
        let width = blocks.width.cast_signed();
        let name = |block: i64| match by {
            GroupedBy::Hours(_) if self.calendar => date_of(block.saturating_mul(width)),
            GroupedBy::Hours(_) => format!("hour {}", block.saturating_mul(width)),
            _ => {
                let first = block.saturating_mul(width).saturating_add(1);
                let last = first.saturating_add(width - 1);
                if first == last {
                    first.to_string()
                } else {
                    format!("{first}–{last}")
                }
            }
        };
        let group = |(block, [rows, flagged]): (i64, [u64; 2])| Group {
            name: name(block),
            rows,
            flagged,
        };
        Groups {
            by,
            groups: blocks.counts.into_iter().map(group).collect(),
            others: 0,
        }
    }
}

/// Columns that hold a time in seconds.
const TIME_COLUMNS: [&str; 4] = ["time", "timestamp", "event_time", "transaction_time"];

const MOST_BLOCKS: usize = 60;

/// How much wider the next wider blocks are, over and over again.
const ROWS: &[u64] = &[5, 2];
const HOURS: &[u64] = &[6, 4, 7];

/// Counts by a number, in blocks of equal width.
struct Blocks {
    width: u64,
    wider: &'static [u64],
    step: usize,
    counts: BTreeMap<i64, [u64; 2]>,
}

impl Blocks {
    fn new(wider: &'static [u64]) -> Self {
        Self {
            width: 1,
            wider,
            step: 0,
            counts: BTreeMap::new(),
        }
    }

    fn add(&mut self, number: i64, counted: [u64; 2]) {
        let block = number.div_euclid(self.width.cast_signed());
        add(self.counts.entry(block).or_default(), counted);
        while self.counts.len() > MOST_BLOCKS {
            let factor = self.wider[self.step % self.wider.len()];
            // Beyond this width every number is in one of a few blocks.
            let Some(width) = self.width.checked_mul(factor).filter(|w| *w < 1 << 62) else {
                return;
            };
            (self.width, self.step) = (width, self.step + 1);
            for (block, counts) in std::mem::take(&mut self.counts) {
                let wider = block.div_euclid(factor.cast_signed());
                add(self.counts.entry(wider).or_default(), counts);
            }
        }
    }
}

fn add(counts: &mut [u64; 2], more: [u64; 2]) {
    counts
        .iter_mut()
        .zip(more)
        .for_each(|(count, more)| *count += more);
}

/// The hour of a time as written: `2026-11-23T07:59:03Z`, or with a space. The zone is the file's.
fn hour_of(text: &str) -> Option<i64> {
    let text = text.trim().as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        let all = digits.iter().all(u8::is_ascii_digit);
        all.then(|| {
            digits
                .iter()
                .fold(0, |n, digit| n * 10 + i64::from(digit - b'0'))
        })
    };
    let mark = |at: usize, marks: &[u8]| text.get(at).is_some_and(|mark| marks.contains(mark));
    let holds = mark(4, b"-") && mark(7, b"-") && mark(10, b"Tt ") && mark(13, b":");
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, _minute) = (number(11, 13)?, number(14, 16)?);
    if !holds || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 {
        return None;
    }
    Some(days(year, month, day) * 24 + hour)
}

/// Days since 1970-01-01 in the Gregorian calendar, with years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month < 3 { year - 1 } else { year };
    let in_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + in_year
        - 719_468
}

/// The date of an hour since 1970.
fn date_of(hours: i64) -> String {
    let (day, hour) = (hours.div_euclid(24), hours.rem_euclid(24));
    // The year that the day is in, by trial: the mean length is off by less than a year.
    let mut year = 1970 + (day as f64 / 365.2425).floor() as i64;
    while days(year, 1, 1) > day {
        year -= 1;
    }
    while days(year + 1, 1, 1) <= day {
        year += 1;
    }
    let month = (1..=12)
        .rev()
        .find(|month| days(year, *month, 1) <= day)
        .unwrap_or(1);
    let in_month = day - days(year, month, 1) + 1;
    format!("{year:04}-{month:02}-{in_month:02} {hour:02}:00")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Results;
    use crate::results::FORMAT;

    fn groups(columns: &[&str], rows: impl IntoIterator<Item = ResultRow>) -> Groups {
        let header = Header {
            format: FORMAT.to_owned(),
            input: String::new(),
            model_digest: String::new(),
            threshold: 0.5,
            results: Results::All,
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
        };
        let mut grouper = Grouper::new(&header);
        for row in rows {
            grouper.add(&row, row.probability > 0.5);
        }
        grouper.finish(&[], &summary())
    }

    fn summary() -> Summary {
        serde_json::from_value(serde_json::json!({"rows": 9, "bad_rows": 1, "bad_rows_by_reason": {},
            "first_bad_rows": [], "flagged": 3, "threshold": 0.5, "histogram": [0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0], "max": 1.0, "mean": 0.5,
            "bytes": 0, "model_digest": ""}))
        .unwrap_or_else(|_| panic!("a summary"))
    }

    fn row(number: u64) -> ResultRow {
        ResultRow {
            row: number,
            probability: if number.is_multiple_of(2) { 0.9 } else { 0.1 },
            features: vec![number as f64 * 60.0],
            file: None,
            key: None,
        }
    }

    #[test]
    fn blocks_of_rows_grow_without_end_or_lose_rows() {
        for (rows, width, count) in [
            (1, 1, 1),
            (60, 1, 60),
            (61, 5, 13),
            (10_000, 500, 20),
            (123_456, 5000, 25),
        ] {
            let groups = groups(&["x"], (1..=rows).map(row));
            assert_eq!(groups.by, GroupedBy::Rows(width), "{rows}");
            assert_eq!(groups.groups.len(), count);
            assert_eq!(
                groups.groups.iter().map(|group| group.rows).sum::<u64>(),
                rows
            );
            assert_eq!(
                groups.groups.iter().map(|group| group.flagged).sum::<u64>(),
                rows / 2
            );
        }
        let groups = groups(&["x"], (1..=61).map(row));
        assert_eq!(
            (&*groups.groups[0].name, &*groups.groups[12].name),
            ("1–5", "61–65")
        );
    }

    #[test]
    fn huge_row_numbers_overflow() {
        let numbers = (0..200).map(|n| u64::MAX - n * (u64::MAX / 200)).chain([1]);
        let groups = groups(&["x"], numbers.map(row));
        assert_eq!(
            groups.groups.iter().map(|group| group.rows).sum::<u64>(),
            201
        );
    }

    #[test]
    fn files_are_not_groups_or_lose_rows() {
        let input = |file: &str, rows, bad_rows, flagged| InputSummary {
            file: file.to_owned(),
            rows,
            flagged,
            bad_rows,
            bytes: 0,
        };
        let header = Header {
            format: FORMAT.to_owned(),
            input: String::new(),
            model_digest: String::new(),
            threshold: 0.5,
            results: Results::Flagged,
            columns: Vec::new(),
        };
        let of = |inputs: &[InputSummary]| Grouper::new(&header).finish(inputs, &summary());
        let two = of(&[input("z.csv", 5, 1, 2), input("a.csv", 2, 0, 1)]);
        let found: Vec<_> = two
            .groups
            .iter()
            .map(|group| (group.name.as_str(), group.rows, group.flagged))
            .collect();
        assert_eq!(two.by, GroupedBy::File);
        assert_eq!(found, [("z.csv", 4, 2), ("a.csv", 2, 1)]);
        assert_eq!(two.others, 2);
        assert_eq!(of(&[input("z.csv", 9, 1, 3)]).by, GroupedBy::Rows(1));
    }

    #[test]
    fn times_of_keys_or_of_a_column_are_not_seen() {
        let keyed = (0..5).map(|n| ResultRow {
            key: Some(format!("2026-02-28T{:02}:30:00Z", 21 + n % 3)),
            ..row(n + 1)
        });
        let found = groups(&["x"], keyed);
        assert_eq!(found.by, GroupedBy::Hours(1));
        assert_eq!(found.groups[0].name, "2026-02-28 21:00");
        assert_eq!(
            found.groups.iter().map(|g| g.rows).collect::<Vec<_>>(),
            [2, 2, 1]
        );

        let found = groups(&["Time"], (1..=130).map(row));
        assert_eq!(found.by, GroupedBy::Hours(1));
        assert_eq!(
            found.groups.iter().map(|g| &*g.name).collect::<Vec<_>>(),
            ["hour 0", "hour 1", "hour 2"]
        );

        let unix = (0..3).map(|n| ResultRow {
            features: vec![1_700_000_000.0 + 90_000.0 * f64::from(n)],
            ..row(n as u64 + 1)
        });
        assert_eq!(
            groups(&["timestamp"], unix).groups[1].name,
            "2023-11-15 23:00"
        );

        let one_without = (0..5).map(|n| ResultRow {
            key: Some(
                if n == 3 {
                    "customer 17"
                } else {
                    "2026-02-28 21:30:00"
                }
                .to_owned(),
            ),
            ..row(n + 1)
        });
        assert_eq!(groups(&["x"], one_without).by, GroupedBy::Rows(1));
    }

    #[test]
    fn calendar_is_another() {
        for (text, hours) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29 12:00", Some(264_396)),
            ("1969-12-31T23:00:00", Some(-1)),
            ("2026-13-01T00:00:00", None),
            ("2026-01-01", None),
            ("20260101T000000", None),
            ("ä026-01-01T00:00", None),
        ] {
            assert_eq!(hour_of(text), hours, "{text}");
        }
        for hours in [0, -1, 264_396, 490_000, -5_000_000, 8_000_000] {
            assert_eq!(hour_of(&date_of(hours)), Some(hours), "{}", date_of(hours));
        }
    }
}
