//! Recognises a dense network in the steps of a graph, folds all that is linear in f64, and packs it for the vector kernel.
//!
//! Read backwards, from the number that is the score to the columns. On the way back a value is either one number a row
//! (what follows the last layer) or a whole vector; before the first layer each number is followed to its column by itself.

use strongroom_kernel::{Activation, Front, Layer, Network, Path, Unfit};

use super::Preprocessing;
use super::graph::{Arithmetic, Elementwise, Graph, Kind, Numbers, Operator, Step, ValueId};

/// A graph that the kernel computes.
pub(super) struct Fused {
    pub(super) network: Network,
    /// For each of the kernel's inputs the column of a tile.
    pub(super) columns: Vec<usize>,
}

impl Fused {
    /// Fuses a graph for a path, or says why it cannot be. `places` has for each input of the graph its columns.
    pub(super) fn new(
        graph: &Graph,
        places: &[Vec<usize>],
        preprocessing: &Preprocessing,
        path: Path,
    ) -> Result<Self, String> {
        let (operations, entries) = trace(graph)?;
        let columns: Vec<usize> = entries
            .iter()
            .map(|entry| places[entry.input][entry.place])
            .collect();
        let layers = fold(operations, entries.len())?;
        let standardise = preprocessing.scaler().map(|(mean, scale)| {
            let of = |numbers: &[f64]| columns.iter().map(|&column| numbers[column]).collect();
            (of(mean), of(scale))
        });
        let rescaled = entries
            .iter()
            .any(|entry| (entry.centre, entry.factor) != (0.0, 1.0));
        let rescale = rescaled.then(|| {
            let centre = entries.iter().map(|entry| entry.centre as f32).collect();
            let factor = entries.iter().map(|entry| entry.factor as f32).collect();
            (centre, factor)
        });
        let front = Front {
            standardise,
            rescale,
        };
        let network = Network::on(path, front, layers).map_err(|unfit: Unfit| unfit.to_string())?;
        Ok(Self { network, columns })
    }
}

/// What happens to a vector, or at the end to one number.
enum Operation {
    /// Numbers input by input.
    Dense {
        weights: Numbers,
        bias: Numbers,
    },
    /// `scale * x + offset`
    Affine {
        scale: Numbers,
        offset: Numbers,
    },
    Activate(Activation),
}

/// A number that the first layer takes: `factor * (x - centre)` of one number of an input.
struct Entry {
    input: usize,
    place: usize,
    centre: f64,
    factor: f64,
}

/// All operations in their order, and what the first one takes.
fn trace(graph: &Graph) -> Result<(Vec<Operation>, Vec<Entry>), String> {
    let mut backwards = Vec::new();
    let (mut value, place) = graph.score;
    let mut place = Some(place);
    while let Some(step) = graph.step(value) {
        if place.is_none() && is_entry(graph, value) {
            break;
        }
        in_f32(step)?;
        match &*step.operator {
            Operator::Dense { weights, bias } => {
                let (weights, bias) = match place.take() {
                    Some(place) => {
                        let column = weights.iter().skip(place).step_by(step.width).copied();
                        (column.collect::<Vec<_>>().into(), vec![bias[place]].into())
                    }
                    None => (weights.clone(), bias.clone()),
                };
                backwards.push(Operation::Dense { weights, bias });
            }
            Operator::Constant {
                operation,
                constant,
                first,
            } => {
                let constant = match place {
                    Some(place) => vec![constant[place]].into(),
                    None => constant.clone(),
                };
                backwards.push(affine(*operation, &constant, *first)?);
            }
            Operator::Elementwise(function) => {
                backwards.push(Operation::Activate(activation(*function)?))
            }
            Operator::Softmax => {
                let (Some(of), 2) = (place, step.width) else {
                    return Err("it has a softmax of more than two numbers".into());
                };
                // e^a / (e^a + e^b) is a sigmoid of a - b.
                backwards.push(Operation::Activate(Activation::Sigmoid));
                let weights = if of == 0 {
                    vec![1.0, -1.0]
                } else {
                    vec![-1.0, 1.0]
                };
                backwards.push(Operation::Dense {
                    weights: weights.into(),
                    bias: vec![0.0].into(),
                });
                place = None;
            }
            Operator::Select(places) if let Some(at) = place => place = Some(places[at]),
            Operator::Concat if let Some(at) = place => {
                let (of, at) = piece(graph, step, at)?;
                (value, place) = (of, Some(at));
                continue;
            }
            other => return Err(format!("it has {}", named(other))),
        }
        value = step.of[0];
    }
    backwards.reverse();
    let (width, _) = graph.shape(value);
    let entries = match place {
        Some(place) => vec![entry(graph, value, place)?],
        None => (0..width)
            .map(|at| entry(graph, value, at))
            .collect::<Result<_, _>>()?,
    };
    Ok((backwards, entries))
}

/// Whether each number of a value is one of the inputs, at most scaled.
fn is_entry(graph: &Graph, value: ValueId) -> bool {
    let Some(step) = graph.step(value) else {
        return true;
    };
    match *step.operator {
        Operator::Cast | Operator::Concat | Operator::Select(_) | Operator::Constant { .. } => {
            step.of.iter().all(|&of| is_entry_of(graph, of))
        }
        _ => false,
    }
}

/// As [`is_entry`], for what a value is made of: steps take earlier ones only, so the chain of first inputs ends.
fn is_entry_of(graph: &Graph, mut value: ValueId) -> bool {
    while let Some(step) = graph.step(value) {
        match *step.operator {
            Operator::Cast | Operator::Select(_) | Operator::Constant { .. } => value = step.of[0],
            // Whatever is beside the first piece is found out when its numbers are followed.
            Operator::Concat => value = step.of[0],
            _ => return false,
        }
    }
    true
}

/// Follows one number back to its column.
fn entry(graph: &Graph, mut value: ValueId, mut place: usize) -> Result<Entry, String> {
    let (mut centre, mut factor) = (0.0, 1.0);
    while let Some(step) = graph.step(value) {
        match &*step.operator {
            Operator::Cast => {}
            Operator::Select(places) => place = places[place],
            Operator::Concat => {
                (value, place) = piece(graph, step, place)?;
                continue;
            }
            Operator::Constant {
                operation,
                constant,
                first,
            } => {
                in_f32(step)?;
                let number = constant[place];
                // factor * (y - centre), where y is what this step makes of x
                match (operation, first) {
                    (Arithmetic::Add, _) => centre -= number,
                    (Arithmetic::Sub, false) => centre += number,
                    (Arithmetic::Sub, true) => (centre, factor) = (number - centre, -factor),
                    (Arithmetic::Mul, _) => (centre, factor) = (centre / number, factor * number),
                    (Arithmetic::Div, false) => {
                        (centre, factor) = (centre * number, factor / number)
                    }
                    (Arithmetic::Div, true) => return Err("it divides by a column".into()),
                    _ => return Err(format!("it has the operator {operation:?}")),
                }
                let fits = |number: f64| (number as f32).is_finite();
                if !fits(centre) || !fits(factor) {
                    return Err("it scales a column by zero or beyond f32".into());
                }
            }
            other => return Err(format!("it has {}", named(other))),
        }
        value = step.of[0];
    }
    Ok(Entry {
        input: value,
        place,
        centre,
        factor,
    })
}

/// Which of the values side by side holds a number, and where.
fn piece(graph: &Graph, step: &Step, mut place: usize) -> Result<(ValueId, usize), String> {
    for &of in &step.of {
        let (width, _) = graph.shape(of);
        if place < width {
            return Ok((of, place));
        }
        place -= width;
    }
    Err("it joins values that do not fit".into())
}

fn in_f32(step: &Step) -> Result<(), String> {
    if step.kind == Kind::Float {
        return Ok(());
    }
    Err("it calculates in float64".into())
}

fn affine(operation: Arithmetic, constant: &Numbers, first: bool) -> Result<Operation, String> {
    let numbers = |number: &dyn Fn(f64) -> f64| {
        constant
            .iter()
            .map(|&constant| number(constant))
            .collect::<Vec<_>>()
    };
    let (scale, offset) = match (operation, first) {
        (Arithmetic::Add, _) => (numbers(&|_| 1.0), numbers(&|constant| constant)),
        (Arithmetic::Sub, false) => (numbers(&|_| 1.0), numbers(&|constant| -constant)),
        (Arithmetic::Sub, true) => (numbers(&|_| -1.0), numbers(&|constant| constant)),
        (Arithmetic::Mul, _) => (numbers(&|constant| constant), numbers(&|_| 0.0)),
        (Arithmetic::Div, false) => (numbers(&|constant| 1.0 / constant), numbers(&|_| 0.0)),
        (Arithmetic::Div, true) => return Err("it divides by a value".into()),
        _ => return Err(format!("it has the operator {operation:?}")),
    };
    Ok(Operation::Affine {
        scale: scale.into(),
        offset: offset.into(),
    })
}

fn activation(function: Elementwise) -> Result<Activation, String> {
    match function {
        Elementwise::Relu => Ok(Activation::Relu),
        Elementwise::LeakyRelu(slope) => Ok(Activation::LeakyRelu(slope as f32)),
        Elementwise::Sigmoid => Ok(Activation::Sigmoid),
        Elementwise::Tanh => Ok(Activation::Tanh),
        other => Err(format!("it has the function {}", shown_function(other))),
    }
}

/// The name of a function, without its settings.
fn shown_function(function: Elementwise) -> String {
    let all = format!("{function:?}");
    let end = all
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(all.len());
    all[..end].to_owned()
}

fn named(operator: &Operator) -> &'static str {
    match operator {
        Operator::Trees(_) => "decision trees",
        Operator::OneHot(_) => "categories",
        Operator::Arithmetic(_) => "arithmetic between values",
        Operator::Reduce(_) => "sums of rows or the like",
        Operator::Normalize(_) | Operator::LayerNorm(_) => "rows that are normalized",
        Operator::Choose { .. } => "choices between values",
        Operator::Embed { .. } => "tables of entries",
        Operator::Cast => "a cast between its layers",
        Operator::Select(_) | Operator::Concat => "values joined or taken apart between its layers",
        Operator::Dense { .. }
        | Operator::Constant { .. }
        | Operator::Elementwise(_)
        | Operator::Softmax => "layers in an order that is not understood",
    }
}

/// A layer in f64, its weights input by input.
struct Folded {
    weights: Numbers,
    bias: Numbers,
    activation: Activation,
}

impl Folded {
    /// A diagonal, for what cannot be folded into a layer before or after it.
    fn diagonal(scale: &[f64], offset: &[f64]) -> Result<Self, String> {
        let width = scale.len();
        if width > 64 {
            return Err("it has an activation that follows no layer".into());
        }
        let mut weights = Numbers::new(vec![0.0; width * width]);
        for (at, &scale) in scale.iter().enumerate() {
            weights[at * width + at] = scale;
        }
        Ok(Self {
            weights,
            bias: offset.to_vec().into(),
            activation: Activation::None,
        })
    }

    fn is_open(&self) -> bool {
        self.activation == Activation::None
    }

    /// Follows the layer by a scale and an offset for each output.
    fn scale(&mut self, scale: &[f64], offset: &[f64]) {
        for row in self.weights.chunks_exact_mut(scale.len()) {
            for (weight, scale) in row.iter_mut().zip(scale) {
                *weight *= scale;
            }
        }
        for ((bias, scale), offset) in self.bias.iter_mut().zip(scale).zip(offset) {
            *bias = *bias * scale + offset;
        }
    }

    /// Follows the layer by another, where nothing is between them.
    fn multiply(&mut self, weights: &[f64], bias: &Numbers) {
        let (inner, outputs) = (self.bias.len(), bias.len());
        let product = |row: &[f64], into: &mut [f64]| {
            for (value, weights) in row.iter().zip(weights.chunks_exact(outputs)) {
                for (sum, weight) in into.iter_mut().zip(weights) {
                    *sum += value * weight;
                }
            }
        };
        let mut multiplied = Numbers::new(vec![0.0; self.weights.len() / inner * outputs]);
        for (row, into) in self
            .weights
            .chunks_exact(inner)
            .zip(multiplied.chunks_exact_mut(outputs))
        {
            product(row, into);
        }
        let mut sums = bias.clone();
        product(&self.bias, &mut sums);
        (self.weights, self.bias) = (multiplied, sums);
    }
}

/// The most multiplications that are spent on making two layers one.
const MAX_FOLDING: usize = 1 << 16;

/// Folds operations into as few layers as can be.
fn fold(operations: Vec<Operation>, inputs: usize) -> Result<Vec<Layer>, String> {
    let mut layers: Vec<Folded> = Vec::new();
    // What is to happen to the values before the next layer takes them.
    let mut pending: Option<(Numbers, Numbers)> = None;
    let mut width = inputs;
    for operation in operations {
        match operation {
            Operation::Dense {
                mut weights,
                mut bias,
            } => {
                let outputs = bias.len();
                if let Some((scale, offset)) = pending.take() {
                    for ((row, scale), offset) in weights
                        .chunks_exact_mut(outputs)
                        .zip(scale.iter())
                        .zip(offset.iter())
                    {
                        for (weight, bias) in row.iter_mut().zip(bias.iter_mut()) {
                            *bias += offset * *weight;
                            *weight *= scale;
                        }
                    }
                }
                match layers.last_mut() {
                    Some(last)
                        if last.is_open()
                            && last.weights.len().saturating_mul(outputs) <= MAX_FOLDING =>
                    {
                        last.multiply(&weights, &bias);
                    }
                    _ => layers.push(Folded {
                        weights,
                        bias,
                        activation: Activation::None,
                    }),
                }
                width = outputs;
            }
            Operation::Affine { scale, offset } => match (layers.last_mut(), &mut pending) {
                (Some(last), None) if last.is_open() => last.scale(&scale, &offset),
                (_, Some((before, shift))) => {
                    for ((before, shift), (scale, offset)) in before
                        .iter_mut()
                        .zip(shift.iter_mut())
                        .zip(scale.iter().zip(offset.iter()))
                    {
                        *before *= scale;
                        *shift = *shift * scale + offset;
                    }
                }
                (_, pending) => *pending = Some((scale, offset)),
            },
            Operation::Activate(activation) => {
                let open = layers.last().is_some_and(Folded::is_open) && pending.is_none();
                if !open {
                    let (scale, offset) = pending
                        .take()
                        .unwrap_or_else(|| (vec![1.0; width].into(), vec![0.0; width].into()));
                    layers.push(Folded::diagonal(&scale, &offset)?);
                }
                if let Some(last) = layers.last_mut() {
                    last.activation = activation;
                }
            }
        }
    }
    if let Some((scale, offset)) = pending {
        layers.push(Folded::diagonal(&scale, &offset)?);
    }
    layers.into_iter().map(single).collect()
}

/// A layer in f32, its weights output by output.
fn single(folded: Folded) -> Result<Layer, String> {
    let outputs = folded.bias.len();
    let inputs = folded.weights.len() / outputs;
    let mut weights = Vec::with_capacity(folded.weights.len());
    for output in 0..outputs {
        let of_output = folded.weights.iter().skip(output).step_by(outputs);
        weights.extend(of_output.map(|&weight| weight as f32));
    }
    let bias: Vec<f32> = folded.bias.iter().map(|&bias| bias as f32).collect();
    if weights
        .iter()
        .chain(&bias)
        .any(|number| !number.is_finite())
    {
        return Err("a folded weight is beyond f32".into());
    }
    Ok(Layer {
        inputs,
        weights: weights.into(),
        bias: bias.into(),
        activation: folded.activation,
    })
}

#[cfg(test)]
mod tests {
    use super::super::graph::{Element, Input};
    use super::*;

    /// Two columns through some steps, each of the width and on the values that are named.
    fn graph(steps: Vec<(Operator, &[ValueId], usize)>, score: (ValueId, usize)) -> Graph {
        let steps = steps.into_iter().map(|(operator, of, width)| Step {
            operator: operator.into(),
            of: of.to_vec(),
            width,
            kind: Kind::Float,
        });
        Graph {
            inputs: vec![Input {
                name: "x".to_owned(),
                width: 2,
                element: Element::Float,
            }],
            steps: steps.collect(),
            output: "y".to_owned(),
            score,
            uses_beside: false,
        }
    }

    fn preprocessing() -> Preprocessing {
        let json = br#"{"format": 1, "columns": ["a", "b"], "threshold": 0.5}"#;
        Preprocessing::parse(json).unwrap()
    }

    fn fuse(graph: &Graph) -> Result<Fused, String> {
        Fused::new(graph, &[vec![0, 1]], &preprocessing(), Path::Scalar)
    }

    fn score(graph: &Graph, row: [f64; 2]) -> f32 {
        let fused = fuse(graph).unwrap();
        let row: Vec<f64> = fused.columns.iter().map(|&column| row[column]).collect();
        fused
            .network
            .score_row(&row, &mut fused.network.workspace())
    }

    fn dense(weights: &[f64], bias: &[f64]) -> Operator {
        Operator::Dense {
            weights: weights.to_vec().into(),
            bias: bias.to_vec().into(),
        }
    }

    fn constant(operation: Arithmetic, constant: &[f64], first: bool) -> Operator {
        let constant = constant.to_vec().into();
        Operator::Constant {
            operation,
            constant,
            first,
        }
    }

    fn relu() -> Operator {
        Operator::Elementwise(Elementwise::Relu)
    }

    fn refusal(steps: Vec<(Operator, &[ValueId], usize)>, score: (ValueId, usize)) -> String {
        fuse(&graph(steps, score)).err().expect("fused")
    }

    #[test]
    fn scale_around_an_activation_goes_to_the_wrong_side() {
        let steps: Vec<(Operator, &[ValueId], usize)> = vec![
            (dense(&[1.0, -1.0, 2.0, 0.5], &[0.5, -0.5]), &[0], 2),
            (constant(Arithmetic::Mul, &[2.0, 3.0], false), &[1], 2),
            (relu(), &[2], 2),
            (constant(Arithmetic::Sub, &[1.0, 4.0], true), &[3], 2),
            (constant(Arithmetic::Div, &[2.0, 4.0], false), &[4], 2),
            (dense(&[1.0, 10.0], &[0.25]), &[5], 1),
        ];
        let graph = graph(steps, (6, 0));
        let by_hand = |a: f64, b: f64| {
            let hidden =
                [2.0 * (a + 2.0 * b + 0.5), 3.0 * (-a + 0.5 * b - 0.5)].map(|sum| sum.max(0.0));
            (1.0 - hidden[0]) / 2.0 + 10.0 * ((4.0 - hidden[1]) / 4.0) + 0.25
        };
        for (a, b) in [
            (0.0, 0.0),
            (1.0, 2.0),
            (-3.0, 1.0),
            (-1.0, -2.0),
            (4.0, -3.0),
        ] {
            assert!((f64::from(score(&graph, [a, b])) - by_hand(a, b)).abs() < 1e-5);
        }
    }

    #[test]
    fn column_far_from_zero_loses_its_digits() {
        let steps: Vec<(Operator, &[ValueId], usize)> = vec![
            (constant(Arithmetic::Sub, &[1e6, 0.0], false), &[0], 2),
            (constant(Arithmetic::Mul, &[100.0, 1.0], false), &[1], 2),
            (dense(&[1.0, 1.0], &[0.0]), &[2], 1),
        ];
        let score = score(&graph(steps, (3, 0)), [1_000_000.25, 0.0]);
        assert_eq!(score, 25.0);
    }

    #[test]
    fn columns_are_picked_or_turned_around() {
        let steps: Vec<(Operator, &[ValueId], usize)> = vec![
            (Operator::Select(vec![1, 0, 1]), &[0], 3),
            (constant(Arithmetic::Sub, &[1.0], true), &[0], 2),
            (Operator::Concat, &[1, 2], 5),
            (
                dense(&[1.0, 10.0, 100.0, 1000.0, 10_000.0], &[0.0]),
                &[3],
                1,
            ),
        ];
        // The constants of a step are as many as its columns.
        let mut graph = graph(steps, (4, 0));
        graph.steps[1].operator = constant(Arithmetic::Sub, &[1.0, 1.0], true).into();
        assert_eq!(
            score(&graph, [2.0, 3.0]),
            3.0 + 20.0 + 300.0 - 1000.0 - 20_000.0
        );
    }

    #[test]
    fn class_is_another_one() {
        let steps = |last: Operator| -> Vec<(Operator, &[ValueId], usize)> {
            vec![
                (dense(&[1.0, 0.0, 0.0, 1.0], &[0.0, 0.0]), &[0], 2),
                (last, &[1], 2),
            ]
        };
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        for (place, row) in [(0, [0.5, 2.0]), (1, [2.0, 0.5])] {
            let softmax = score(&graph(steps(Operator::Softmax), (2, place)), row);
            assert!((softmax - sigmoid(-1.5)).abs() < 1e-6);
            let each = Operator::Elementwise(Elementwise::Sigmoid);
            let each = score(&graph(steps(each), (2, place)), row);
            assert!((each - sigmoid(0.5)).abs() < 1e-6);
        }
    }

    #[test]
    fn what_the_kernel_cannot_do_is_fused() {
        let elu = Operator::Elementwise(Elementwise::Elu(1.0));
        let layer = || dense(&[1.0, 1.0], &[0.0]);
        assert_eq!(
            refusal(vec![(layer(), &[0], 1), (elu, &[1], 1)], (2, 0)),
            "it has the function Elu"
        );
        let wide = dense(&[0.0; 6], &[0.0; 3]);
        let three: Vec<(Operator, &[ValueId], usize)> =
            vec![(wide, &[0], 3), (Operator::Softmax, &[1], 3)];
        assert!(refusal(three, (2, 0)).contains("more than two"));
        let between: Vec<(Operator, &[ValueId], usize)> = vec![
            (dense(&[1.0; 4], &[0.0; 2]), &[0], 2),
            (Operator::Select(vec![1, 0]), &[1], 2),
            (layer(), &[2], 1),
        ];
        assert!(refusal(between, (3, 0)).contains("between its layers"));
        let product: Vec<(Operator, &[ValueId], usize)> = vec![
            (Operator::Arithmetic(Arithmetic::Mul), &[0, 0], 2),
            (layer(), &[1], 1),
        ];
        assert!(refusal(product, (2, 0)).contains("arithmetic between values"));
        let zero: Vec<(Operator, &[ValueId], usize)> = vec![
            (constant(Arithmetic::Mul, &[0.0, 1.0], false), &[0], 2),
            (layer(), &[1], 1),
        ];
        assert!(refusal(zero, (2, 0)).contains("by zero"));
        let vast = dense(&vec![0.0; 2 * 513], &[0.0; 513]);
        let vast: Vec<(Operator, &[ValueId], usize)> = vec![
            (vast, &[0], 513),
            (relu(), &[1], 513),
            (dense(&[0.0; 513], &[0.0]), &[2], 1),
        ];
        assert!(refusal(vast, (3, 0)).contains("wider than 512"));
        let mut double = graph(vec![(layer(), &[0], 1)], (1, 0));
        double.steps[0].kind = Kind::Double;
        assert!(fuse(&double).is_err_and(|why| why.contains("float64")));
    }
}
