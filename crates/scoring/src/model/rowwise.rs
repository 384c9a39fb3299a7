//! Operators evaluated here, for tract's own kernels lose a number that is none: a sigmoid of NaN comes out as a score,
//! and a product with the constant zero as zero. Whatever an operator here calculates from NaN is NaN, as IEEE 754 has
//! it, so that a row which overflowed gets no score. Comparisons and what they choose are onnxruntime's.
//!
//! Numbers are widened to f64, calculated with there, and rounded once to the type of the value that is made.

use super::graph::{Arithmetic, Elementwise, LayerNorm, Norm, Numbers, Operator, Reduction};

/// Rows of one value, one after the other.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) numbers: &'a [f64],
    pub(super) width: usize,
}

impl Block<'_> {
    fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.numbers.chunks_exact(self.width)
    }
}

impl Operator {
    /// Makes rows of `width` numbers from the same number of rows of each value that it takes.
    pub(super) fn evaluate(&self, of: &[Block<'_>], width: usize, made: &mut [f64]) {
        match (self, of) {
            (
                Self::Constant {
                    operation,
                    constant,
                    first,
                },
                [of],
            ) => {
                let constant = Block {
                    numbers: constant,
                    width,
                };
                for (of, made) in of.rows().zip(made.chunks_exact_mut(width)) {
                    let of = Block { numbers: of, width };
                    if *first {
                        operation.evaluate(constant, of, width, made);
                    } else {
                        operation.evaluate(of, constant, width, made);
                    }
                }
            }
            (Self::Arithmetic(operation), [a, b]) => operation.evaluate(*a, *b, width, made),
            (Self::Elementwise(function), [of]) => function.evaluate(of.numbers, made),
            (Self::Softmax, [of]) => {
                made.copy_from_slice(of.numbers);
                made.chunks_exact_mut(width).for_each(softmax);
            }
            (Self::Reduce(reduction), [of]) => {
                for (of, made) in of.rows().zip(made) {
                    *made = reduction.of(of);
                }
            }
            (Self::Normalize(norm), [of]) => {
                for (of, made) in of.rows().zip(made.chunks_exact_mut(width)) {
                    let norm = norm.of(of);
                    // A row of zeros stays one.
                    let norm = if norm == 0.0 { 1.0 } else { norm };
                    each(of, made, |x| x / norm);
                }
            }
            (Self::LayerNorm(settings), [of]) => {
                for (of, made) in of.rows().zip(made.chunks_exact_mut(width)) {
                    settings.evaluate(of, made);
                }
            }
            (Self::Choose { when, otherwise }, [condition, values @ ..]) => {
                let mut values = values.iter().copied();
                // A constant is one row, the same for all.
                let sides = [when, otherwise].map(|constant| match constant {
                    Some(numbers) => Some((constant_row(numbers), true)),
                    None => values.next().map(|rows| (rows, false)),
                });
                let [Some(when), Some(otherwise)] = sides else {
                    return made.fill(f64::NAN);
                };
                for (row, made) in made.chunks_exact_mut(width).enumerate() {
                    for (column, made) in made.iter_mut().enumerate() {
                        let holds = number(*condition, row, column) != 0.0;
                        let (side, is_constant) = if holds { when } else { otherwise };
                        *made = number(side, if is_constant { 0 } else { row }, column);
                    }
                }
            }
            (Self::Embed { table, long }, [of]) => {
                for (&at, made) in of.numbers.iter().zip(made.chunks_exact_mut(*long)) {
                    match entry(table, *long, at) {
                        Some(entry) => made.copy_from_slice(entry),
                        None => made.fill(f64::NAN),
                    }
                }
            }
            (Self::OneHot(categories), [of]) => {
                for (of, made) in of.numbers.iter().zip(made.chunks_exact_mut(width)) {
                    each(categories, made, |category| truth(*of == category));
                }
            }
            // None that a graph holds.
            _ => made.fill(f64::NAN),
        }
    }
}

fn constant_row(numbers: &Numbers) -> Block<'_> {
    let width = numbers.len();
    Block { numbers, width }
}

/// A number of a row, which has one for all columns or one for each.
fn number(block: Block<'_>, row: usize, column: usize) -> f64 {
    let column = if block.width == 1 { 0 } else { column };
    let at = row * block.width + column;
    block.numbers.get(at).copied().unwrap_or(f64::NAN)
}

/// The numbers of a table's row, which may be counted from the end.
fn entry(table: &[f64], long: usize, at: f64) -> Option<&[f64]> {
    let count = (table.len() / long) as f64;
    let at = if at < 0.0 { at + count } else { at };
    // Not so for NaN
    if !(0.0..count).contains(&at) {
        return None;
    }
    table.chunks_exact(long).nth(at as usize)
}

fn each(of: &[f64], made: &mut [f64], function: impl Fn(f64) -> f64) {
    for (&of, made) in of.iter().zip(made) {
        *made = function(of);
    }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// The greater number, or NaN if one is.
fn greater(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// The smaller number, or NaN if one is.
fn smaller(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

fn softmax(row: &mut [f64]) {
    let greatest = row.iter().copied().fold(f64::NEG_INFINITY, greater);
    let mut total = 0.0;
    for number in &mut *row {
        *number = (*number - greatest).exp();
        total += *number;
    }
    for number in row {
        *number /= total;
    }
}

impl Reduction {
    fn of(self, row: &[f64]) -> f64 {
        let sum = || row.iter().sum::<f64>();
        match self {
            Self::Sum => sum(),
            Self::Mean => sum() / row.len() as f64,
            Self::Max => row.iter().copied().fold(f64::NEG_INFINITY, greater),
            Self::Min => row.iter().copied().fold(f64::INFINITY, smaller),
        }
    }
}

impl Norm {
    /// In f32, as onnxruntime and scikit-learn have it: a sum that vanishes there is zero, and one that overflows is none.
    fn of(self, row: &[f64]) -> f64 {
        let norm = match self {
            Self::L1 => row.iter().map(|x| x.abs() as f32).sum::<f32>(),
            Self::L2 => row.iter().map(|x| (x * x) as f32).sum::<f32>().sqrt(),
        };
        if norm.is_infinite() {
            return f64::NAN;
        }
        f64::from(norm)
    }
}

impl LayerNorm {
    fn evaluate(&self, of: &[f64], made: &mut [f64]) {
        let count = of.len() as f64;
        let mean = of.iter().sum::<f64>() / count;
        let variance = of.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
        let deviation = (variance + self.epsilon).sqrt();
        each(of, made, |x| (x - mean) / deviation);
        for (made, scale) in made.iter_mut().zip(self.scale.iter()) {
            *made *= scale;
        }
        for (made, shift) in made.iter_mut().zip(self.shift.iter()) {
            *made += shift;
        }
    }
}

impl Arithmetic {
    /// Rows of which one value may have one number only.
    fn evaluate(self, a: Block<'_>, b: Block<'_>, width: usize, made: &mut [f64]) {
        let both = |made: &mut [f64], function: fn(f64, f64) -> f64| {
            let rows = a.rows().zip(b.rows()).zip(made.chunks_exact_mut(width));
            for ((a, b), made) in rows {
                match (a, b) {
                    (a, [b]) if width > 1 => each(a, made, |a| function(a, *b)),
                    ([a], b) if width > 1 => each(b, made, |b| function(*a, b)),
                    (a, b) => {
                        for ((made, &a), &b) in made.iter_mut().zip(a).zip(b) {
                            *made = function(a, b);
                        }
                    }
                }
            }
        };
        match self {
            Self::Add => both(made, |a, b| a + b),
            Self::Sub => both(made, |a, b| a - b),
            Self::Mul => both(made, |a, b| a * b),
            Self::Div => both(made, |a, b| a / b),
            // 1 to the power of NaN is 1, by IEEE 754.
            Self::Pow => both(made, |a, b| {
                if a.is_nan() || b.is_nan() {
                    f64::NAN
                } else {
                    a.powf(b)
                }
            }),
            Self::Max => both(made, greater),
            Self::Min => both(made, smaller),
            Self::PRelu => both(made, |x, slope| if x < 0.0 { slope * x } else { x }),
            Self::Greater => both(made, |a, b| truth(a > b)),
            Self::GreaterOrEqual => both(made, |a, b| truth(a >= b)),
            Self::Less => both(made, |a, b| truth(a < b)),
            Self::LessOrEqual => both(made, |a, b| truth(a <= b)),
            Self::Equal => both(made, |a, b| truth(a == b)),
            Self::And => both(made, |a, b| truth(a != 0.0 && b != 0.0)),
            Self::Or => both(made, |a, b| truth(a != 0.0 || b != 0.0)),
        }
    }
}

impl Elementwise {
    fn evaluate(self, of: &[f64], made: &mut [f64]) {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        // No comparison with NaN holds, so it is left as it is.
        let within = |x: f64, low: f64, high: f64| {
            let x = if x < low { low } else { x };
            if x > high { high } else { x }
        };
        match self {
            Self::Relu => each(of, made, |x| if x < 0.0 { 0.0 } else { x }),
            Self::LeakyRelu(slope) => each(of, made, |x| if x < 0.0 { slope * x } else { x }),
            Self::Elu(alpha) => each(of, made, |x| if x < 0.0 { alpha * x.exp_m1() } else { x }),
            Self::Selu { alpha, gamma } => each(of, made, |x| {
                gamma * if x < 0.0 { alpha * x.exp_m1() } else { x }
            }),
            Self::Sigmoid => each(of, made, sigmoid),
            Self::Tanh => each(of, made, f64::tanh),
            Self::Softplus => each(of, made, |x| {
                if x > 0.0 {
                    x + (-x).exp().ln_1p()
                } else {
                    x.exp().ln_1p()
                }
            }),
            Self::Softsign => each(of, made, |x| x / (1.0 + x.abs())),
            Self::HardSigmoid { alpha, beta } => {
                each(of, made, |x| within(alpha * x + beta, 0.0, 1.0));
            }
            Self::HardSwish => each(of, made, |x| x * within(x / 6.0 + 0.5, 0.0, 1.0)),
            Self::Gelu => each(of, made, |x| {
                0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
            }),
            Self::GeluByTanh => each(of, made, |x| {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }),
            Self::Exp => each(of, made, f64::exp),
            Self::Log => each(of, made, f64::ln),
            Self::Sqrt => each(of, made, f64::sqrt),
            Self::Abs => each(of, made, f64::abs),
            Self::Neg => each(of, made, |x| -x),
            Self::Reciprocal => each(of, made, |x| 1.0 / x),
            Self::Erf => each(of, made, libm::erf),
            Self::Clip(low, high) => {
                let (low, high) = (
                    low.unwrap_or(f64::NEG_INFINITY),
                    high.unwrap_or(f64::INFINITY),
                );
                each(of, made, |x| within(x, low, high));
            }
            Self::Not => each(of, made, |x| truth(x == 0.0)),
            Self::IsNan => each(of, made, |x| truth(x.is_nan())),
            Self::IsNotZero => each(of, made, |x| truth(x != 0.0)),
            Self::Truncate { least, most } => each(of, made, |x| {
                let whole = x.trunc();
                // What does not fit the type is no number here, and anything at all elsewhere.
                if (least..=most).contains(&whole) {
                    whole
                } else {
                    f64::NAN
                }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(operator: &Operator, of: &[(&[f64], usize)], width: usize, rows: usize) -> Vec<f64> {
        let of: Vec<Block<'_>> = of
            .iter()
            .map(|&(numbers, width)| Block { numbers, width })
            .collect();
        let mut made = vec![7.0; rows * width];
        operator.evaluate(&of, width, &mut made);
        made
    }

    #[test]
    fn number_that_is_none_becomes_one() {
        let functions = [
            Elementwise::Relu,
            Elementwise::LeakyRelu(0.1),
            Elementwise::Elu(1.0),
            Elementwise::Selu {
                alpha: 1.0,
                gamma: 1.0,
            },
            Elementwise::Sigmoid,
            Elementwise::Tanh,
            Elementwise::Softplus,
            Elementwise::Softsign,
            Elementwise::HardSigmoid {
                alpha: 0.0,
                beta: 0.5,
            },
            Elementwise::HardSwish,
            Elementwise::Gelu,
            Elementwise::GeluByTanh,
            Elementwise::Exp,
            Elementwise::Log,
            Elementwise::Sqrt,
            Elementwise::Abs,
            Elementwise::Neg,
            Elementwise::Reciprocal,
            Elementwise::Erf,
            Elementwise::Clip(Some(0.0), Some(1.0)),
            Elementwise::Clip(None, None),
            Elementwise::Truncate {
                least: -9.0,
                most: 9.0,
            },
        ];
        for function in functions {
            let made = made(
                &Operator::Elementwise(function),
                &[(&[f64::NAN, 0.5], 1)],
                1,
                2,
            );
            assert!(made[0].is_nan() && !made[1].is_nan(), "{function:?}");
        }
        for operation in [
            Arithmetic::Add,
            Arithmetic::Sub,
            Arithmetic::Mul,
            Arithmetic::Div,
            Arithmetic::Pow,
            Arithmetic::Max,
            Arithmetic::Min,
            Arithmetic::PRelu,
        ] {
            for (a, b) in [(f64::NAN, 0.0), (0.0, f64::NAN), (1.0, f64::NAN)] {
                // What is not below zero does not see its slope.
                let looked_at = operation != Arithmetic::PRelu || a.is_nan();
                let made = made(
                    &Operator::Arithmetic(operation),
                    &[(&[a], 1), (&[b], 1)],
                    1,
                    1,
                );
                assert_eq!(made[0].is_nan(), looked_at, "{operation:?} {a} {b}");
            }
        }
        for operator in [
            Operator::Softmax,
            Operator::Normalize(Norm::L1),
            Operator::Normalize(Norm::L2),
        ] {
            for row in [[f64::NAN, 1.0], [1.0, f64::NAN], [f64::INFINITY, 1.0]] {
                let made = made(&operator, &[(&row, 2)], 2, 1);
                assert!(made.iter().all(|number| number.is_nan()), "{made:?}");
            }
        }
        for reduction in [
            Reduction::Sum,
            Reduction::Mean,
            Reduction::Max,
            Reduction::Min,
        ] {
            for row in [[f64::NAN, 1.0], [1.0, f64::NAN]] {
                let made = made(&Operator::Reduce(reduction), &[(&row, 2)], 1, 1);
                assert!(made[0].is_nan(), "{reduction:?}");
            }
        }
    }

    /// Its length is zero, or beyond f32.
    #[test]
    fn row_is_divided_by_no_length() {
        for norm in [Norm::L1, Norm::L2] {
            let operator = Operator::Normalize(norm);
            assert_eq!(made(&operator, &[(&[0.0, 0.0], 2)], 2, 1), [0.0, 0.0]);
            let made = made(&operator, &[(&[3e38, 3e38], 2)], 2, 1);
            assert!(made.iter().all(|number| number.is_nan()), "{norm:?}");
        }
        let tiny = made(&Operator::Normalize(Norm::L2), &[(&[1e-30, 0.0], 2)], 2, 1);
        assert_eq!(tiny, [1e-30, 0.0]);
    }

    #[test]
    fn entry_beyond_the_table() {
        let table = vec![1.0, 2.0, 3.0, 4.0].into();
        let operator = Operator::Embed { table, long: 2 };
        for at in [2.0, -3.0, f64::NAN, f64::INFINITY, -1e300] {
            let made = made(&operator, &[(&[at], 1)], 2, 1);
            assert!(made.iter().all(|number| number.is_nan()), "{at}");
        }
        assert_eq!(made(&operator, &[(&[1.0], 1)], 2, 1), [3.0, 4.0]);
        assert_eq!(made(&operator, &[(&[-2.0], 1)], 2, 1), [1.0, 2.0]);
    }

    #[test]
    fn whole_number_beyond_its_type() {
        let cast = Operator::Elementwise(Elementwise::Truncate {
            least: f64::from(i32::MIN),
            most: f64::from(i32::MAX),
        });
        assert_eq!(made(&cast, &[(&[-1.9], 1)], 1, 1), [-1.0]);
        for number in [2_147_483_648.0, -2_147_483_649.0, f64::INFINITY] {
            assert!(made(&cast, &[(&[number], 1)], 1, 1)[0].is_nan());
        }
    }

    #[test]
    fn one_number_a_row_is_taken_for_a_column() {
        let sub = Operator::Arithmetic(Arithmetic::Sub);
        let (wide, one) = (&[1.0, 2.0, 3.0, 4.0][..], &[10.0, 20.0][..]);
        let made_one = made(&sub, &[(wide, 2), (one, 1)], 2, 2);
        assert_eq!(made_one, [-9.0, -8.0, -17.0, -16.0]);
        let made_other = made(&sub, &[(one, 1), (wide, 2)], 2, 2);
        assert_eq!(made_other, [9.0, 8.0, 17.0, 16.0]);
        let choose = Operator::Choose {
            when: None,
            otherwise: Some(vec![7.0, 8.0].into()),
        };
        let chosen = made(&choose, &[(&[0.0, 1.0], 1), (wide, 2)], 2, 2);
        assert_eq!(chosen, [7.0, 8.0, 3.0, 4.0]);
    }
}
