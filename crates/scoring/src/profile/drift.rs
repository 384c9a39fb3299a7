//! How far a column has moved from what the model was trained on, over the training profile's own
//! bins: the population stability index and the distance of Kolmogorov and Smirnov. Few rows differ
//! by chance, so a distance that chance explains is called stable.

use serde::Serialize;

/// How far a column has moved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Drift {
    /// The population stability index: 0 when nothing moved.
    pub psi: f64,
    /// The greatest difference of the two distribution functions at an edge of a bin.
    pub ks: f64,
    /// Both in a word.
    pub level: DriftLevel,
}

/// How far in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftLevel {
    /// As in training, as far as so many rows can tell.
    Stable,
    /// Worth a look: an index above 0.1 or a distance above 0.1.
    Moderate,
    /// Not what the model was trained on: an index above 0.25 or a distance above 0.2.
    Strong,
}

impl std::fmt::Display for DriftLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Stable => "stable",
            Self::Moderate => "moderate",
            Self::Strong => "strong",
        })
    }
}

impl Drift {
    /// Compares counts over the same bins; none when one side is empty.
    pub(super) fn between(training: &[u64], here: &[u64]) -> Option<Self> {
        let total = |counts: &[u64]| counts.iter().map(|&count| count as f64).sum::<f64>();
        let (trained, seen) = (total(training), total(here));
        if trained == 0.0 || seen == 0.0 {
            return None;
        }
        let bins = training.len() as f64;
        let (mut psi, mut ks) = (0.0_f64, 0.0_f64);
        let (mut trained_below, mut seen_below) = (0.0, 0.0);
        for (&a, &b) in training.iter().zip(here) {
            let (a, b) = (a as f64, b as f64);
            // Half a row in each bin: an empty one has no logarithm.
            let expected = (a + 0.5) / (trained + 0.5 * bins);
            let actual = (b + 0.5) / (seen + 0.5 * bins);
            psi += (actual - expected) * libm::log(actual / expected);
            trained_below += a / trained;
            seen_below += b / seen;
            ks = ks.max((trained_below - seen_below).abs());
        }
        let rows = 1.0 / trained + 1.0 / seen;
        let by_index = level(psi, [0.1, 0.25], psi_by_chance(bins, rows));
        let by_distance = level(ks, [0.1, 0.2], KS_BY_CHANCE * rows.sqrt());
        Some(Self {
            psi,
            ks,
            level: by_index.max(by_distance),
        })
    }
}

fn level(distance: f64, [moderate, strong]: [f64; 2], by_chance: f64) -> DriftLevel {
    match distance {
        d if d <= moderate || d <= by_chance => DriftLevel::Stable,
        d if d <= strong => DriftLevel::Moderate,
        _ => DriftLevel::Strong,
    }
}

/// The index that rows of one distribution hardly exceed: over their numbers it is chi-squared
/// distributed, and four standard deviations above its mean are rarer than one in a thousand.
fn psi_by_chance(bins: f64, rows: f64) -> f64 {
    let freedom = (bins - 1.0).max(1.0);
    (freedom + 4.0 * (2.0 * freedom).sqrt()) * rows
}

/// The distance that rows of one distribution exceed in one of a thousand cases, for one row.
const KS_BY_CHANCE: f64 = 1.95;

#[cfg(test)]
mod tests {
    use super::*;

    fn between(training: &[u64], here: &[u64]) -> Drift {
        Drift::between(training, here).unwrap()
    }

    #[test]
    fn index_and_distance_are_others_than_by_hand() {
        let drift = between(&[40_000, 30_000, 30_000], &[20_000, 30_000, 50_000]);
        // (0.2-0.4) ln(0.2/0.4) + (0.5-0.3) ln(0.5/0.3)
        assert!((drift.psi - 0.240_79).abs() < 1e-4, "{}", drift.psi);
        assert!((drift.ks - 0.2).abs() < 1e-9, "{}", drift.ks);
        assert_eq!(drift.level, DriftLevel::Moderate);
    }

    #[test]
    fn equal_columns_drift() {
        let drift = between(&[1000, 2000, 3000], &[1_000_000, 2_000_000, 3_000_000]);
        assert!(drift.psi < 1e-6 && drift.ks < 1e-9);
        assert_eq!(drift.level, DriftLevel::Stable);
    }

    #[test]
    fn moved_column_is_stable() {
        let drift = between(&[9000, 1000], &[1000, 9000]);
        assert_eq!(drift.level, DriftLevel::Strong);
        assert_eq!(
            between(&[9000, 1000], &[7500, 2500]).level,
            DriftLevel::Moderate
        );
    }

    #[test]
    fn few_rows_differ_by_chance_and_are_called_drift() {
        // Ten rows over ten bins, of which six are hit.
        let training = [60_000; 10];
        let drift = between(&training, &[3, 0, 1, 0, 2, 0, 1, 2, 0, 1]);
        assert!(drift.psi > 0.25);
        assert_eq!(drift.level, DriftLevel::Stable);
        // The same shares of many rows are no chance.
        let many = [3, 0, 1, 0, 2, 0, 1, 2, 0, 1].map(|count| count * 1000);
        assert_eq!(between(&training, &many).level, DriftLevel::Strong);
    }

    #[test]
    fn empty_bin_or_side_is_infinitely_far() {
        let drift = between(&[0, 1000], &[1000, 0]);
        assert!(drift.psi.is_finite() && drift.ks == 1.0);
        assert_eq!(Drift::between(&[1, 2], &[0, 0]), None);
        assert_eq!(Drift::between(&[0, 0], &[1, 2]), None);
    }
}
