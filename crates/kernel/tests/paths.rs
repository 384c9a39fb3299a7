//! Every path against the plain twin, on networks and rows made up from a seed.

#![allow(clippy::unwrap_used)]

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use strongroom_kernel::{Activation, Front, Layer, Network, Path};

const ROWS: [usize; 14] = [0, 1, 2, 7, 8, 9, 15, 16, 17, 47, 48, 49, 100, 1024];

#[test]
fn path_differs_from_its_twin() {
    let shapes: [&[usize]; 9] = [
        &[5, 32, 32, 32, 1],
        &[1, 1],
        &[1, 2, 3, 4, 5, 6, 7, 8, 9, 1],
        &[7, 15, 1],
        &[30, 64, 17, 1],
        &[3, 11, 1],
        &[13, 1],
        &[512, 512, 1],
        &[2, 100, 1],
    ];
    let mut random = Random::new(1);
    for (at, shape) in shapes.iter().enumerate() {
        for inner in [
            Activation::None,
            Activation::Relu,
            Activation::LeakyRelu(0.2),
            Activation::LeakyRelu(1.5),
            Activation::Tanh,
            Activation::Sigmoid,
        ] {
            let seed = 100 + at as u64;
            let twin = network(Path::Scalar, shape, inner, seed);
            let columns = random.columns(shape[0], 1024);
            let expected = scores(&twin, &columns, 1024);
            for path in vector_paths() {
                let network = network(path, shape, inner, seed);
                assert_eq!(network.path(), path);
                for rows in ROWS {
                    let rows_of_each: Vec<_> = columns.iter().map(|all| &all[..rows]).collect();
                    let got = scores(&network, &rows_of_each, rows);
                    let what = format!("{path:?}, {shape:?}, {inner:?}, {rows} rows");
                    assert_close(&got, &expected[..rows], &what);
                }
                let mut workspace = network.workspace();
                for row in 0..20 {
                    let values: Vec<f64> = columns.iter().map(|column| column[row]).collect();
                    let got = network.score_row(&values, &mut workspace);
                    let what = format!("{path:?}, {shape:?}, {inner:?}, one row");
                    assert_close(&[got], &expected[row..=row], &what);
                }
            }
        }
    }
}

#[test]
fn neighbours_change_a_score() {
    let shape = [5, 32, 32, 32, 1];
    let columns = Random::new(2).columns(5, 200);
    let mut of_paths = Vec::new();
    for path in vector_paths() {
        let network = network(path, &shape, Activation::Relu, 7);
        let together = scores(&network, &columns, 200);
        for rows in [1, 3, 16, 17, 50] {
            for from in (0..200 - rows).step_by(7) {
                let some: Vec<_> = columns.iter().map(|all| &all[from..from + rows]).collect();
                let apart = scores(&network, &some, rows);
                assert_eq!(bits(&apart), bits(&together[from..from + rows]), "{path:?}");
            }
        }
        of_paths.push(bits(&together));
    }
    // Both add up in the same order, so a job may go on where another processor stopped.
    of_paths.dedup();
    assert!(of_paths.len() <= 1, "AVX2 and AVX-512 differ");
}

#[test]
fn sigmoid_or_tanh_is_off_by_more_than_1e_7() {
    let xs: Vec<f64> = (-200_000..=200_000)
        .map(|at| f64::from((f64::from(at) / 2000.0) as f32))
        .chain([
            -1e30,
            -1e4,
            -1e-30,
            -0.0,
            1e-30,
            1e-7,
            1e4,
            1e30,
            f64::MIN_POSITIVE,
        ])
        .collect();
    let exact = |x: f64, activation| match activation {
        Activation::Tanh => x.tanh(),
        _ => 1.0 / (1.0 + (-x).exp()),
    };
    for path in vector_paths() {
        for activation in [Activation::Sigmoid, Activation::Tanh] {
            let network = Network::on(path, Front::default(), vec![unit(activation)]).unwrap();
            let scores = scores(&network, &[&xs[..]], xs.len());
            for (&x, &score) in xs.iter().zip(&scores) {
                let apart = (f64::from(score) - exact(x, activation)).abs();
                assert!(
                    apart <= 1e-7,
                    "{path:?} {activation:?}({x}): {score}, {apart} off"
                );
            }
        }
    }
}

#[test]
fn overflow_looks_like_a_score() {
    for path in Path::ALL.into_iter().filter(|path| path.is_available()) {
        for activation in [
            Activation::None,
            Activation::Relu,
            Activation::LeakyRelu(0.1),
            Activation::Tanh,
            Activation::Sigmoid,
        ] {
            let layers = vec![unit(activation), unit(Activation::Sigmoid)];
            let network = Network::on(path, Front::default(), layers).unwrap();
            let scores = scores(&network, &[&[f64::NAN, 0.5, f64::NAN][..]], 3);
            assert!(
                scores[0].is_nan() && scores[2].is_nan(),
                "{path:?} {activation:?}"
            );
            assert!(!scores[1].is_nan(), "{path:?} {activation:?}");
            let mut workspace = network.workspace();
            assert!(network.score_row(&[f64::NAN], &mut workspace).is_nan());
        }
    }
}

/// A value near its mean has its digits below f32's: a cast before the subtraction would lose them.
#[test]
fn scaler_works_in_f32() {
    for path in Path::ALL.into_iter().filter(|path| path.is_available()) {
        let front = Front {
            standardise: Some((vec![1.7e9], vec![1e3])),
            rescale: Some((vec![2.0], vec![4.0])),
        };
        let network = Network::on(path, front, vec![unit(Activation::None)]).unwrap();
        let column: Vec<f64> = (0..100).map(|at| 1.7e9 + f64::from(at) * 31.0).collect();
        for (value, score) in column.iter().zip(scores(&network, &[&column[..]], 100)) {
            let expected = (((value - 1.7e9) / 1e3) as f32 - 2.0) * 4.0;
            assert_eq!(score.to_bits(), expected.to_bits(), "{path:?}");
            let alone = network.score_row(&[*value], &mut network.workspace());
            assert_eq!(alone.to_bits(), expected.to_bits(), "{path:?}");
        }
    }
}

fn vector_paths() -> Vec<Path> {
    let paths = [Path::Avx512, Path::Avx2].into_iter();
    let paths: Vec<_> = paths.filter(|path| path.is_available()).collect();
    if paths.is_empty() {
        println!("SKIPPED: this processor has neither AVX-512 nor AVX2");
    }
    paths
}

fn scores<C: AsRef<[f64]>>(network: &Network, columns: &[C], rows: usize) -> Vec<f32> {
    let columns: Vec<&[f64]> = columns.iter().map(AsRef::as_ref).collect();
    let mut scores = vec![f32::NAN; rows];
    network.score(&columns, &mut network.workspace(), &mut scores);
    scores
}

fn bits(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|score| score.to_bits()).collect()
}

fn assert_close(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (got, expected) in got.iter().zip(expected) {
        assert!(
            (got - expected).abs() <= 1e-6,
            "{what}: {got}, not {expected}"
        );
    }
}

/// The number itself through an activation.
fn unit(activation: Activation) -> Layer {
    Layer {
        inputs: 1,
        weights: vec![1.0].into(),
        bias: vec![0.0].into(),
        activation,
    }
}

/// A network whose numbers stay near 1, as a trained one's do; it ends in a sigmoid.
fn network(path: Path, shape: &[usize], inner: Activation, seed: u64) -> Network {
    let mut random = Random::new(seed);
    let last = shape.len() - 2;
    let layers = shape.windows(2).enumerate().map(|(at, widths)| {
        let spread = (3.0 / widths[0] as f64).sqrt();
        let weights: Vec<f32> = (0..widths[0] * widths[1])
            .map(|_| (random.between(-1.0, 1.0) * spread) as f32)
            .collect();
        let bias: Vec<f32> = (0..widths[1])
            .map(|_| random.between(-0.2, 0.2) as f32)
            .collect();
        Layer {
            inputs: widths[0],
            weights: weights.into(),
            bias: bias.into(),
            activation: if at == last {
                Activation::Sigmoid
            } else {
                inner
            },
        }
    });
    let layers: Vec<_> = layers.collect();
    let mean: Vec<f64> = (0..shape[0]).map(|_| random.between(-5.0, 5.0)).collect();
    let scale: Vec<f64> = (0..shape[0]).map(|_| random.between(10.0, 30.0)).collect();
    let front = Front {
        standardise: Some((mean, scale)),
        rescale: None,
    };
    Network::on(path, front, layers).unwrap()
}

struct Random(Xoshiro256PlusPlus);

impl Random {
    fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn columns(&mut self, width: usize, rows: usize) -> Vec<Vec<f64>> {
        let mut column = || (0..rows).map(|_| self.between(-40.0, 40.0)).collect();
        (0..width).map(|_| column()).collect()
    }
}
