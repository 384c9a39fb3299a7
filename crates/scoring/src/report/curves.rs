//! How well scores tell fraud from honest rows: the receiver operating characteristic and precision
//! over recall, from counts in bins, so that memory does not grow with the rows. The bins are fine
//! where models put their scores, near 0 and near 1: each is a 4,096th of the distance to the nearer
//! end. Scores within one bin count as equal, and how much that can matter is given with the area.

/// What labels say of the scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Fraud among the rows that are judged.
    pub frauds: u64,
    /// Honest rows among them.
    pub honest: u64,
    /// Rows of the file without a label.
    pub unlabelled: u64,
    /// Whether the file has every row, so that the curves are whole.
    pub whole: bool,
    /// The area under the ROC curve; none when it is not whole, or one kind of row is missing.
    pub roc_auc: Option<f64>,
    /// How far the area can be off, because scores close together count as equal.
    pub roc_auc_within: f64,
    /// The average precision; none as the area.
    pub average_precision: Option<f64>,
    /// False alarms over honest rows, and caught over all fraud, from the greatest score down.
    pub roc: Vec<(f64, f64)>,
    /// Recall and precision, from the greatest score down.
    pub precision_recall: Vec<(f64, f64)>,
}

/// Counts labelled scores.
pub(super) struct Curves {
    /// For each bin, fraud and honest rows.
    bins: Vec<[u64; 2]>,
    unlabelled: u64,
}

impl Curves {
    pub(super) fn new() -> Self {
        Self {
            bins: vec![[0; 2]; LAST + 1],
            unlabelled: 0,
        }
    }

    pub(super) fn add(&mut self, probability: f64, label: Option<bool>) {
        match label {
            Some(true) => self.bins[bin(probability)][0] += 1,
            Some(false) => self.bins[bin(probability)][1] += 1,
            None => self.unlabelled += 1,
        }
    }

    /// The curves of a file that has every row.
    pub(super) fn whole(&self) -> Evaluation {
        let [frauds, honest] = [0, 1].map(|label| self.bins.iter().map(|bin| bin[label]).sum());
        self.evaluate(frauds, honest, true)
    }

    /// The curves of a file that ends at its threshold, with all the labels that there are. Rows
    /// with a label that are not in the file lie below it.
    pub(super) fn above_the_threshold(&self, frauds: u64, honest: u64) -> Evaluation {
        self.evaluate(frauds, honest, false)
    }

    fn evaluate(&self, frauds: u64, honest: u64, whole: bool) -> Evaluation {
        let (all_frauds, all_honest) = (frauds.max(1) as f64, honest.max(1) as f64);
        let (mut caught, mut alarms) = (0_u64, 0_u64);
        let (mut area, mut ties, mut precision_sum) = (0.0, 0.0, 0.0);
        let mut roc = Line::beginning_at((0.0, 0.0));
        let mut precision_recall = Line::default();
        for &[frauds, honest] in self.bins.iter().rev().filter(|bin| **bin != [0, 0]) {
            let (here, honest_here) = (frauds as f64, honest as f64);
            area += honest_here * (caught as f64 + here / 2.0);
            ties += honest_here * here / 2.0;
            caught += frauds;
            alarms += honest;
            let precision = caught as f64 / (caught + alarms) as f64;
            precision_sum += here * precision;
            let recall = caught as f64 / all_frauds;
            roc.to((alarms as f64 / all_honest, recall));
            if precision_recall.points.is_empty() {
                // Nothing is known of fewer rows than those of the greatest score.
                precision_recall.to((0.0, precision));
            }
            precision_recall.to((recall, precision));
        }
        let known = whole && frauds > 0 && honest > 0;
        let pairs = all_frauds * all_honest;
        Evaluation {
            frauds,
            honest,
            unlabelled: self.unlabelled,
            whole,
            roc_auc: known.then_some(area / pairs),
            roc_auc_within: ties / pairs,
            average_precision: known.then_some(precision_sum / all_frauds),
            roc: roc.finish(),
            precision_recall: precision_recall.finish(),
        }
    }
}

/// A line through points, without those that nobody would see.
#[derive(Default)]
struct Line {
    points: Vec<(f64, f64)>,
    last: Option<(f64, f64)>,
}

impl Line {
    fn beginning_at(point: (f64, f64)) -> Self {
        Self {
            points: vec![point],
            last: None,
        }
    }

    fn to(&mut self, point: (f64, f64)) {
        const SEEN: f64 = 1.0 / 400.0;
        let is_far =
            |&(x, y): &(f64, f64)| (x - point.0).abs() >= SEEN || (y - point.1).abs() >= SEEN;
        if self.points.last().is_none_or(is_far) {
            // The point before a jump is where the jump begins.
            self.points.extend(self.last);
            self.points.push(point);
            self.last = None;
        } else {
            self.last = Some(point);
        }
    }

    fn finish(mut self) -> Vec<(f64, f64)> {
        self.points.extend(self.last);
        self.points
    }
}

/// Bits of the mantissa that tell bins apart.
const BITS: u32 = 12;
const SHIFT: u32 = 52 - BITS;
/// Below this, distances from 0 and from 1 are one.
const NEAREST: f64 = 1.0 / (1_u64 << 41) as f64;
/// The bin of one half: 40 times two above the nearest.
const HALF: usize = 40 << BITS;
const LAST: usize = 2 * HALF;

/// The bin of a probability. It never falls when the probability rises.
fn bin(probability: f64) -> usize {
    let from_an_end = |distance: f64| {
        let bits = distance.max(NEAREST).to_bits() >> SHIFT;
        usize::try_from(bits - (NEAREST.to_bits() >> SHIFT)).unwrap_or(HALF)
    };
    if probability < 0.5 {
        from_an_end(probability)
    } else {
        LAST - from_an_end(1.0 - probability)
    }
}

#[cfg(test)]
mod tests {
    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::{Rng, SeedableRng};

    use super::*;

    /// Scores of which the greater are more often fraud, many of them close to an end.
    fn scored() -> Vec<(f64, bool)> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(8);
        let mut uniform = move || (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        (0..30_000)
            .map(|_| {
                let logit = 14.0 * (uniform() - 0.7);
                let is_fraud = uniform() < 1.0 / (1.0 + libm::exp(-logit));
                let noisy = logit + 6.0 * (uniform() - 0.5);
                (
                    f64::from((1.0 / (1.0 + libm::exp(-noisy))) as f32),
                    is_fraud,
                )
            })
            .collect()
    }

    fn curves(scored: &[(f64, bool)]) -> Curves {
        let mut curves = Curves::new();
        for (score, is_fraud) in scored {
            curves.add(*score, Some(*is_fraud));
        }
        curves
    }

    #[test]
    fn bins_are_out_of_order_or_wide() {
        let scores = [
            0.0,
            1e-300,
            1e-9,
            0.1,
            0.100_1,
            0.5,
            0.500_3,
            0.9,
            0.999_9,
            0.999_900_1,
            1.0,
        ];
        assert!(scores.map(bin).is_sorted());
        assert_eq!((bin(0.0), bin(0.5), bin(1.0)), (0, HALF, LAST));
        assert_ne!(bin(0.1), bin(0.100_1));
        assert_ne!(bin(0.999_9), bin(0.999_900_1));
        assert!(bin(0.499_999_999) < HALF);
    }

    #[test]
    fn area_and_precision_are_others_than_by_sorting() {
        let mut scored = scored();
        let evaluation = curves(&scored).whole();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        let frauds = scored.iter().filter(|(_, fraud)| *fraud).count() as f64;
        let honest = scored.len() as f64 - frauds;
        let (mut caught, mut seen, mut area, mut average) = (0.0, 0.0, 0.0, 0.0);
        for equal in scored.chunk_by(|a, b| a.0 == b.0) {
            let here = equal.iter().filter(|(_, fraud)| *fraud).count() as f64;
            area += (equal.len() as f64 - here) * (caught + here / 2.0);
            caught += here;
            seen += equal.len() as f64;
            average += here / frauds * caught / seen;
        }
        area /= frauds * honest;
        let found = evaluation.roc_auc.unwrap();
        assert!(
            (found - area).abs() <= evaluation.roc_auc_within,
            "{found} {area}"
        );
        assert!(
            evaluation.roc_auc_within < 2e-4,
            "{}",
            evaluation.roc_auc_within
        );
        let found = evaluation.average_precision.unwrap();
        assert!((found - average).abs() < 2e-4, "{found} {average}");
        assert!(evaluation.roc.is_sorted() && evaluation.roc.len() < 1700);
        assert_eq!(evaluation.roc.last(), Some(&(1.0, 1.0)));
    }

    #[test]
    fn perfect_or_useless_scores_are_misjudged() {
        let perfect = curves(&[(0.9, true), (0.8, true), (0.2, false)]).whole();
        assert_eq!(
            (perfect.roc_auc, perfect.average_precision),
            (Some(1.0), Some(1.0))
        );
        let useless = curves(&[(0.5, true), (0.5, false)]).whole();
        assert_eq!(
            (useless.roc_auc, useless.average_precision),
            (Some(0.5), Some(0.5))
        );
        let one_kind = curves(&[(0.5, false)]).whole();
        assert_eq!((one_kind.roc_auc, one_kind.average_precision), (None, None));
    }

    #[test]
    fn cut_file_claims_a_whole_curve() {
        let cut = curves(&[(0.9, true), (0.8, false)]).above_the_threshold(4, 10);
        assert_eq!((cut.roc_auc, cut.average_precision), (None, None));
        assert_eq!(cut.roc, [(0.0, 0.0), (0.0, 0.25), (0.1, 0.25)]);
        assert_eq!(cut.precision_recall, [(0.0, 1.0), (0.25, 1.0), (0.25, 0.5)]);
    }
}
