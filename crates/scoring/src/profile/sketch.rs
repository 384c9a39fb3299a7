//! How the values of a column are spread, in bounded memory whatever their number: counts in bins
//! that are cut from the bits of an f64, so that their relative width is the same everywhere, and
//! halved in number (`DDSketch`'s uniform collapse) when there are too many. Two sketches of parts of
//! a column merge into the sketch of the whole.

use std::collections::HashMap;

/// Counts in bins of equal relative width.
#[derive(Debug, Clone)]
pub(super) struct Sketch {
    /// Bits of the mantissa that a bin's number keeps.
    bits: u32,
    bins: HashMap<i64, u64>,
    count: u64,
    most: usize,
}

impl Sketch {
    /// An empty one for each of so many columns, which share the memory that there is for them.
    pub(super) fn of_columns(columns: usize) -> Self {
        let share = BINS_OF_ALL / columns.max(1);
        Self {
            bits: FINEST,
            bins: HashMap::new(),
            count: 0,
            most: share.clamp(LEAST_BINS, MOST_BINS),
        }
    }

    /// Counts a finite value.
    pub(super) fn add(&mut self, value: f64) {
        *self.bins.entry(bin(value, self.bits)).or_default() += 1;
        self.count += 1;
        self.limit();
    }

    pub(super) fn merge(&mut self, mut other: Self) {
        while self.bits > other.bits {
            self.coarsen();
        }
        while other.bits > self.bits {
            other.coarsen();
        }
        for (bin, count) in other.bins {
            *self.bins.entry(bin).or_default() += count;
        }
        self.count += other.count;
        self.limit();
    }

    /// What is counted, in ascending order.
    pub(super) fn sorted(&self) -> Sorted {
        let mut bins: Vec<(i64, u64)> = self.bins.iter().map(|(&bin, &n)| (bin, n)).collect();
        bins.sort_unstable();
        Sorted {
            bits: self.bits,
            bins,
            count: self.count,
        }
    }

    fn limit(&mut self) {
        while self.bins.len() > self.most {
            self.coarsen();
        }
    }

    /// Makes one bin of two. Without any bit of the mantissa there are fewer bins than the limit.
    fn coarsen(&mut self) {
        self.bits -= 1;
        let mut coarse = HashMap::with_capacity(self.bins.len() / 2 + 1);
        for (bin, count) in self.bins.drain() {
            *coarse.entry(bin >> 1).or_default() += count;
        }
        self.bins = coarse;
    }
}

/// A sketch whose bins are in order.
pub(super) struct Sorted {
    bits: u32,
    bins: Vec<(i64, u64)>,
    count: u64,
}

impl Sorted {
    /// The least value of the bin in which a share of all values is reached; none without values.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0_u64;
        for (bin, count) in &self.bins {
            seen += count;
            if seen >= wanted {
                return Some(least(*bin, self.bits));
            }
        }
        self.bins.last().map(|(bin, _)| least(*bin, self.bits))
    }

    /// How many values lie below the first edge, between each two, and from the last on. Exact for
    /// edges that [`Sorted::quantile`] gave.
    pub(super) fn counts(&self, edges: &[f64]) -> Vec<u64> {
        let mut counts = vec![0; edges.len() + 1];
        for (bin, count) in &self.bins {
            let value = least(*bin, self.bits);
            counts[edges.partition_point(|edge| *edge <= value)] += count;
        }
        counts
    }
}

/// A thousandth of a value, while its column spans few orders of magnitude.
const FINEST: u32 = 10;

/// More than the bins that there can be without any bit of the mantissa.
const LEAST_BINS: usize = 4096;
const MOST_BINS: usize = 16_384;
const BINS_OF_ALL: usize = 1 << 18;

/// Bits of an f64's mantissa.
const MANTISSA: u32 = 52;

/// The bin of a value: its first bits, in the order of the values.
fn bin(value: f64, bits: u32) -> i64 {
    // The sum takes the sign from a zero.
    let value = value + 0.0;
    let magnitude = (value.abs().to_bits() >> (MANTISSA - bits)).cast_signed();
    if value < 0.0 { !magnitude } else { magnitude }
}

/// The least value of a bin.
fn least(bin: i64, bits: u32) -> f64 {
    let shift = MANTISSA - bits;
    if bin >= 0 {
        f64::from_bits(bin.cast_unsigned() << shift)
    } else {
        -f64::from_bits((((!bin) + 1).cast_unsigned() << shift) - 1)
    }
}

#[cfg(test)]
mod tests {
    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::{Rng, SeedableRng};

    use super::*;

    fn sketch(values: impl IntoIterator<Item = f64>) -> Sketch {
        let mut sketch = Sketch::of_columns(1);
        for value in values {
            sketch.add(value);
        }
        sketch
    }

    #[test]
    fn value_leaves_its_bin() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        for _ in 0..100_000 {
            let value = f64::from_bits(random.next_u64());
            if !value.is_finite() {
                continue;
            }
            for bits in [0, 5, FINEST] {
                let bin_of = bin(value, bits);
                assert!(least(bin_of, bits) <= value, "{value} {bits}");
                // Of the greatest bin there is no next one.
                if value.abs() < 1e308 {
                    assert!(value < least(bin_of + 1, bits), "{value} {bits}");
                }
                assert_eq!(bin(least(bin_of, bits), bits), bin_of, "{value} {bits}");
            }
        }
    }

    #[test]
    fn flags_are_not_exact() {
        let sorted = sketch([0.0, 1.0, -0.0, 1.0, 0.0]).sorted();
        assert_eq!(sorted.quantile(0.5), Some(0.0));
        assert_eq!(sorted.quantile(0.61), Some(1.0));
        assert_eq!(sorted.counts(&[1.0]), [3, 2]);
    }

    #[test]
    fn quantile_is_far_off() {
        let values = (1..=10_000).map(|n| f64::from(n - 5000) * 0.37);
        let sorted = sketch(values).sorted();
        for share in [0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0] {
            let exact = (share * 10_000.0 - 5000.0) * 0.37;
            let quantile = sorted.quantile(share).unwrap();
            assert!(
                (quantile - exact).abs() <= exact.abs() * 0.002 + 1e-9,
                "{share}: {quantile} for {exact}"
            );
        }
        assert_eq!(sketch([]).sorted().quantile(0.5), None);
    }

    #[test]
    fn memory_grows_with_the_values() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(2);
        let mut all = Sketch::of_columns(1000);
        let mut finite = 0;
        while finite < 50_000 {
            let value = f64::from_bits(random.next_u64());
            if value.is_finite() {
                all.add(value);
                finite += 1;
            }
            assert!(all.bins.len() <= LEAST_BINS);
        }
        assert_eq!(all.bits, 0);
        assert_eq!(all.bins.values().sum::<u64>(), 50_000);
    }

    #[test]
    fn parts_add_up_to_another_whole() {
        let values: Vec<f64> = (0..30_000)
            .map(|n| libm::exp(f64::from(n) / 100.0))
            .collect();
        let whole = sketch(values.iter().copied());
        let mut parts = sketch(values[..10].iter().copied());
        parts.merge(sketch(values[10..].iter().copied()));
        assert!(whole.bits < FINEST);
        assert_eq!(parts.bits, whole.bits);
        assert_eq!(parts.bins, whole.bins);
        let edges: Vec<f64> = [0.2, 0.5]
            .map(|share| whole.sorted().quantile(share).unwrap())
            .into();
        let exact: Vec<u64> = vec![
            values.iter().filter(|v| **v < edges[0]).count() as u64,
            values
                .iter()
                .filter(|v| **v >= edges[0] && **v < edges[1])
                .count() as u64,
            values.iter().filter(|v| **v >= edges[1]).count() as u64,
        ];
        assert_eq!(parts.sorted().counts(&edges), exact);
    }
}
