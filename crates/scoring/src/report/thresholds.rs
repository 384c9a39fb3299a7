//! How many rows would be flagged at other thresholds: exact where the rows are there, and between
//! two numbers where only the summary's histogram is.

use crate::batch::{Results, is_fraud};
use crate::results::{Header, Summary, histogram_bin};

/// What would be flagged above a threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// The threshold.
    pub at: f64,
    /// At least so many rows.
    pub least: u64,
    /// At most so many rows; the same number where it is known.
    pub most: u64,
    /// What labels say of the rows above it; none where these rows are not in the file.
    pub hits: Option<Hits>,
}

/// Flagged rows by their labels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hits {
    /// Fraud that is flagged.
    pub caught: u64,
    /// Honest rows that are flagged.
    pub false_alarms: u64,
}

/// Counts rows by the thresholds that flag them.
pub(super) struct Stops {
    at: Vec<f64>,
    /// For each number of thresholds, the rows that so many flag.
    rows: Vec<Counted>,
    labelled: bool,
}

#[derive(Clone, Copy, Default)]
struct Counted {
    rows: u64,
    hits: Hits,
}

impl Stops {
    pub(super) fn new(threshold: f64, labelled: bool) -> Self {
        let at = stops(threshold);
        let rows = vec![Counted::default(); at.len() + 1];
        Self { at, rows, labelled }
    }

    pub(super) fn add(&mut self, probability: f64, label: Option<bool>) {
        // A probability of exactly 1 is flagged everywhere.
        let flagged_by = self.at.partition_point(|&at| is_fraud(probability, at));
        let counted = &mut self.rows[flagged_by];
        counted.rows += 1;
        match label {
            Some(true) => counted.hits.caught += 1,
            Some(false) => counted.hits.false_alarms += 1,
            None => {}
        }
    }

    pub(super) fn finish(self, header: &Header, summary: &Summary) -> Vec<Threshold> {
        let mut above = Counted::default();
        let mut thresholds = Vec::with_capacity(self.at.len());
        for (stop, &at) in self.at.iter().enumerate().rev() {
            let next = self.rows[stop + 1];
            above.rows += next.rows;
            above.hits.caught += next.hits.caught;
            above.hits.false_alarms += next.hits.false_alarms;
            let known = match header.results {
                Results::All => true,
                Results::Flagged => at >= header.threshold,
                Results::Summary => false,
            };
            let (least, most) = match known {
                true => (above.rows, above.rows),
                false => bounds(at, header.threshold, summary),
            };
            thresholds.push(Threshold {
                at,
                least,
                most,
                hits: (known && self.labelled).then_some(above.hits),
            });
        }
        thresholds.reverse();
        thresholds
    }
}

/// What the histogram and the number of flagged rows say of another threshold. The bin of a score
/// never falls when the score rises, so rows of later bins are above the threshold, and rows above
/// it are in its bin or a later one.
fn bounds(at: f64, threshold: f64, summary: &Summary) -> (u64, u64) {
    let bin = histogram_bin(at);
    let most: u64 = summary.histogram[bin..].iter().sum();
    let least = most - summary.histogram[bin];
    match at.total_cmp(&threshold) {
        std::cmp::Ordering::Less => (least.max(summary.flagged), most.max(summary.flagged)),
        std::cmp::Ordering::Equal => (summary.flagged, summary.flagged),
        std::cmp::Ordering::Greater => (least.min(summary.flagged), most.min(summary.flagged)),
    }
}

/// The thresholds that are counted: each thousandth, finer ones near both ends, where models put
/// most of their scores, and the file's own.
fn stops(threshold: f64) -> Vec<f64> {
    const WHOLE: u32 = 10_000_000;
    let mut parts: Vec<u32> = (0..=1000).map(|at| at * (WHOLE / 1000)).collect();
    for step in [1000, 100, 10, 1] {
        parts.extend((1..10).flat_map(|at| [at * step, WHOLE - at * step]));
    }
    let mut stops: Vec<f64> = parts
        .into_iter()
        // Both are exact, so each quotient is the f64 nearest to its decimal.
        .map(|part| f64::from(part) / f64::from(WHOLE))
        .chain([threshold])
        .collect();
    stops.sort_by(f64::total_cmp);
    stops.dedup();
    stops
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::{Rng, SeedableRng};

    use super::*;
    use crate::results::{FORMAT, HISTOGRAM_BINS};

    fn scores() -> Vec<f64> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        let mut scores: Vec<f64> = (0..20_000)
            .map(|_| (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64)
            .map(|uniform| f64::from((uniform * uniform * uniform) as f32))
            .collect();
        scores.extend([0.0, 1.0, 1.0, 0.27, 0.5, 0.95, 0.999, 0.999_999_9]);
        scores
    }

    fn thresholds(results: Results) -> Vec<Threshold> {
        let threshold = 0.27;
        let mut stops = Stops::new(threshold, true);
        let mut histogram = [0; HISTOGRAM_BINS];
        let mut flagged = 0;
        for (at, score) in scores().into_iter().enumerate() {
            histogram[histogram_bin(score)] += 1;
            flagged += u64::from(is_fraud(score, threshold));
            let wanted = match results {
                Results::All => true,
                Results::Flagged => is_fraud(score, threshold),
                Results::Summary => false,
            };
            if wanted {
                stops.add(score, Some(at % 3 == 0));
            }
        }
        let summary = Summary {
            rows: 20_008,
            bad_rows: 0,
            bad_rows_by_reason: BTreeMap::new(),
            first_bad_rows: Vec::new(),
            flagged,
            threshold,
            histogram,
            max: Some(1.0),
            mean: Some(0.25),
            bytes: 0,
            model_digest: String::new(),
            rows_outside_training_range: None,
            outside_training_range: BTreeMap::new(),
        };
        let header = Header {
            format: FORMAT.to_owned(),
            input: String::new(),
            model_digest: String::new(),
            threshold,
            results,
            columns: Vec::new(),
        };
        stops.finish(&header, &summary)
    }

    fn counted(at: f64) -> u64 {
        scores()
            .iter()
            .filter(|score| is_fraud(**score, at))
            .count() as u64
    }

    #[test]
    fn count_at_a_threshold_is_not_exact() {
        let all = thresholds(Results::All);
        assert!(all.iter().any(|threshold| threshold.at == 0.27));
        assert!(all.iter().any(|threshold| threshold.at == 0.999_999));
        for threshold in all.iter().step_by(7).chain(all.last()) {
            let exact = counted(threshold.at);
            assert_eq!(
                (threshold.least, threshold.most),
                (exact, exact),
                "{}",
                threshold.at
            );
            let hits = threshold.hits.unwrap();
            assert_eq!(hits.caught + hits.false_alarms, exact);
        }
    }

    #[test]
    fn count_is_out_of_its_bounds_or_said_to_be_known() {
        for results in [Results::Flagged, Results::Summary] {
            for threshold in thresholds(results).iter().step_by(5) {
                let exact = counted(threshold.at);
                assert!(
                    (threshold.least..=threshold.most).contains(&exact),
                    "{results:?} {threshold:?}: {exact}"
                );
                let known = results == Results::Flagged && threshold.at >= 0.27;
                assert_eq!(threshold.hits.is_some(), known);
                assert!(!known || threshold.least == threshold.most);
            }
        }
        let flagged = thresholds(Results::Flagged);
        let below = flagged
            .iter()
            .find(|threshold| threshold.at == 0.21)
            .unwrap();
        assert!(below.least < below.most);
    }
}
