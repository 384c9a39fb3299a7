//! What a model computes, in operators of our own: read off an ONNX graph and checked, so that every value is
//! `[rows, width]` with a known width, and every constant is in the file.
//!
//! No engine sees the graph itself. An engine trusts its graph: it opens files that a weight names, folds constants of
//! any size and may panic on shapes that cannot be. What it gets is written anew from the steps here, whose memory and
//! time have a bound that is known before the first multiplication. Nothing goes by a node's name, and what the score
//! does not depend on (labels, the names of classes) is not looked at.

mod attributes;
mod combine;
mod elements;
mod learned;
mod operators;
mod reduce;
mod weights;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use zeroize::Zeroizing;

pub(super) use elements::Elementwise;
use weights::{Beside, Weight};

use super::trees::Trees;
use crate::shown;

/// A graph that was checked, as the steps from its inputs to a row's score.
pub(super) struct Graph {
    pub(super) inputs: Vec<Input>,
    /// In an order in which each needs earlier ones only.
    pub(super) steps: Vec<Step>,
    /// The name of the output that holds the score.
    pub(super) output: String,
    /// The value that holds it, and which of its numbers it is.
    pub(super) score: (ValueId, usize),
    /// Whether a weight lies in the file beside the model.
    pub(super) uses_beside: bool,
}

/// An input of the graph, or after the inputs the value that a step makes.
pub(super) type ValueId = usize;

/// Constants, which may be somebody's secret.
pub(super) type Numbers = Zeroizing<Vec<f64>>;

/// What the graph is given.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) width: usize,
    pub(super) element: Element,
}

/// The types of inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// float32.
    Float,
    /// float64.
    Double,
    /// int64.
    Int64,
    /// int32.
    Int32,
    /// Truth values: 0 or 1.
    Bool,
}

/// How the numbers of a value are held. Whole numbers are held in f64, which has all of them that a data set's columns
/// do; no arithmetic is done on them before they are cast. Truth values are 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Float,
    Double,
    Whole,
    Truth,
}

impl Element {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Float => Kind::Float,
            Self::Double => Kind::Double,
            Self::Int64 | Self::Int32 => Kind::Whole,
            Self::Bool => Kind::Truth,
        }
    }

    fn of(data_type: i32) -> Option<Self> {
        match DataType::try_from(data_type).ok()? {
            DataType::Float => Some(Self::Float),
            DataType::Double => Some(Self::Double),
            DataType::Int64 => Some(Self::Int64),
            DataType::Int32 => Some(Self::Int32),
            DataType::Bool => Some(Self::Bool),
            _ => None,
        }
    }
}

/// One operation on whole values.
pub(super) struct Step {
    pub(super) operator: Arc<Operator>,
    pub(super) of: Vec<ValueId>,
    pub(super) width: usize,
    pub(super) kind: Kind,
}

/// What a step does, row by row.
pub(super) enum Operator {
    /// The product with a matrix, whose numbers lie input by input, and a bias for each output.
    Dense { weights: Numbers, bias: Numbers },
    /// An operation with a constant for each column; `first` is where the constant stands.
    Constant {
        operation: Arithmetic,
        constant: Numbers,
        first: bool,
    },
    /// An operation on two values, of which the second may be one number a row.
    Arithmetic(Arithmetic),
    /// A function of each number.
    Elementwise(Elementwise),
    /// Exponentials divided by their sum.
    Softmax,
    /// One number for each row.
    Reduce(Reduction),
    /// Each row divided by its norm.
    Normalize(Norm),
    /// Each row less its mean, divided by its deviation, scaled and shifted.
    LayerNorm(LayerNorm),
    /// By the truth values of the first value the numbers of one side or of the other. A side is constant, one number or
    /// one for each column, or the next value.
    Choose {
        when: Option<Numbers>,
        otherwise: Option<Numbers>,
    },
    /// For each whole number an entry of a table, whose entries are as long as said; no number where there is none.
    Embed { table: Numbers, long: usize },
    /// Values side by side.
    Concat,
    /// Some numbers of a row, by their places.
    Select(Vec<usize>),
    /// To the step's kind.
    Cast,
    /// For each category whether the one number is it.
    OneHot(Vec<f64>),
    /// Decision trees.
    Trees(Trees),
}

/// An operation on two numbers, of which comparisons make truth values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Max,
    Min,
    /// The second is the slope below zero.
    PRelu,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Equal,
    And,
    Or,
}

/// What a row's numbers become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reduction {
    Sum,
    Mean,
    Max,
    Min,
}

/// The length of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Norm {
    L1,
    L2,
}

/// What a layer normalization does after it has normalized; the shift is empty where there is none.
pub(super) struct LayerNorm {
    pub(super) epsilon: f64,
    pub(super) scale: Numbers,
    pub(super) shift: Numbers,
}

impl Graph {
    /// Checks a decoded model, whose weights may lie in a file beside it. `positive` is the place of the class that a score is the probability of, if the model
    /// gives several and it is not the second of two.
    pub(super) fn check(
        model: &ModelProto,
        beside: Option<&[u8]>,
        positive: Option<usize>,
    ) -> Result<Self, String> {
        let opset = opset(model)?;
        if !model.functions.is_empty() {
            return Err("it defines functions of its own".into());
        }
        let graph = model.graph.as_ref().ok_or("it has no graph")?;
        if !graph.sparse_initializer.is_empty() {
            return Err("it has sparse weights".into());
        }
        if graph.node.len() > MAX_NODES {
            return Err(format!("it has more than {MAX_NODES} nodes"));
        }
        check_made_once(graph)?;
        let output = output(graph)?;
        let needed = needed(graph, output);

        let mut values = Values::new(graph, opset, &needed, Beside::new(beside))?;
        for (node, _) in graph
            .node
            .iter()
            .zip(&needed.nodes)
            .filter(|(_, needed)| **needed)
        {
            operators::read(node, &mut values).map_err(|why| {
                let (name, operator) = (shown(&node.name), shown(&node.op_type));
                format!("node \"{name}\" ({operator}): {why}")
            })?;
        }
        let score = score(&values, output, positive)?;
        Ok(Self {
            inputs: values.inputs,
            steps: values.steps,
            output: output.to_owned(),
            score,
            uses_beside: values.beside.is_used(),
        })
    }

    /// The width and the kind of a value.
    pub(super) fn shape(&self, value: ValueId) -> (usize, Kind) {
        match value.checked_sub(self.inputs.len()) {
            None => (self.inputs[value].width, self.inputs[value].element.kind()),
            Some(step) => (self.steps[step].width, self.steps[step].kind),
        }
    }

    /// The step that makes a value, unless it is an input.
    pub(super) fn step(&self, value: ValueId) -> Option<&Step> {
        let step = value.checked_sub(self.inputs.len())?;
        self.steps.get(step)
    }

    /// How many numbers it takes for a row.
    pub(super) fn width(&self) -> usize {
        self.inputs.iter().map(|input| input.width).sum()
    }
}

/// The operator sets in which the operators that are read mean the same.
const OPSETS: std::ops::RangeInclusive<i64> = 9..=25;
/// The same of `ai.onnx.ml`.
const LEARNED_OPSETS: std::ops::RangeInclusive<i64> = 1..=4;
const MAX_NODES: usize = 1024;
const MAX_INPUTS: usize = 256;
const MAX_WIDTH: usize = 4096;
/// Of all values together: what one row may take in memory, in numbers.
const MAX_TOTAL_WIDTH: usize = 32 * 1024;

/// Of all dense layers together, in numbers. A weight counts each time it is used: a file could name one in all its layers.
const MAX_TOTAL_WEIGHTS: usize = 1 << 24;

/// What a name in the graph stands for.
enum Known {
    Weight(Weight),
    Rows(Rows),
}

/// A value that depends on the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rows {
    value: ValueId,
    form: Form,
}

/// The dimensions of a value of a known width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `[rows]`: one number a row that has no dimension of its own.
    Flat,
    /// `[rows, width]`
    Matrix,
    /// `[rows, n, width / n]`
    Deep(usize),
}

/// The values known so far, by name. A name is given once.
struct Values<'a> {
    opset: i64,
    beside: Beside<'a>,
    initializers: HashMap<&'a str, &'a TensorProto>,
    by_name: HashMap<String, Known>,
    inputs: Vec<Input>,
    steps: Vec<Step>,
    total_width: usize,
    total_weights: usize,
}

impl<'a> Values<'a> {
    fn new(
        graph: &'a GraphProto,
        opset: i64,
        needed: &Needed<'_>,
        beside: Beside<'a>,
    ) -> Result<Self, String> {
        let weights = graph.initializer.iter();
        let initializers: HashMap<_, _> = weights
            .map(|weight| (weight.name.as_str(), weight))
            .collect();
        let mut values = Self {
            opset,
            beside,
            initializers,
            by_name: HashMap::new(),
            inputs: Vec::new(),
            steps: Vec::new(),
            total_width: 0,
            total_weights: 0,
        };
        for (name, weight) in values.initializers.clone() {
            if needed.names.contains(name) {
                let weight = Weight::read(weight, &values.beside)
                    .map_err(|why| format!("weight \"{}\" {why}", shown(name)))?;
                values.name(name, Known::Weight(weight))?;
            }
        }
        for input in &graph.input {
            if !values.initializers.contains_key(input.name.as_str()) {
                values.input(input)?;
            }
        }
        if values.inputs.is_empty() {
            return Err("it has no input".into());
        }
        Ok(values)
    }

    /// All inputs are read, needed or not: whoever gives rows gives all of them.
    fn input(&mut self, input: &ValueInfoProto) -> Result<(), String> {
        let refused = |why: &str| Err(format!("its input \"{}\" {why}", shown(&input.name)));
        let Some((data_type, dimensions)) = tensor_type(input) else {
            return refused("is not a tensor of a known shape");
        };
        let Some(element) = Element::of(data_type) else {
            return refused("is not of float32, float64, int64, int32 or bool");
        };
        let [_rows, width] = dimensions[..] else {
            return refused(&format!("has {} dimensions, not 2", dimensions.len()));
        };
        let width = width.and_then(|width| usize::try_from(width).ok());
        let Some(width) = width.filter(|width| (1..=MAX_WIDTH).contains(width)) else {
            return refused(&format!("is not between 1 and {MAX_WIDTH} wide"));
        };
        if self.inputs.len() == MAX_INPUTS {
            return Err(format!("it has more than {MAX_INPUTS} inputs"));
        }
        self.account(width)?;
        let name = input.name.clone();
        self.inputs.push(Input {
            name,
            width,
            element,
        });
        let value = self.inputs.len() - 1;
        self.name(
            &input.name,
            Known::Rows(Rows {
                value,
                form: Form::Matrix,
            }),
        )
    }

    /// Adds a step, unless a row would take too much.
    fn step(
        &mut self,
        operator: Operator,
        of: &[ValueId],
        width: usize,
        kind: Kind,
    ) -> Result<Rows, String> {
        if !(1..=MAX_WIDTH).contains(&width) {
            return Err(format!("its output is not between 1 and {MAX_WIDTH} wide"));
        }
        self.account(width)?;
        if let Operator::Dense { weights, .. } | Operator::Embed { table: weights, .. } = &operator
        {
            self.account_weights(weights.len())?;
        }
        let (operator, of) = (Arc::new(operator), of.to_vec());
        self.steps.push(Step {
            operator,
            of,
            width,
            kind,
        });
        let value = self.inputs.len() + self.steps.len() - 1;
        Ok(Rows {
            value,
            form: Form::Matrix,
        })
    }

    fn account(&mut self, width: usize) -> Result<(), String> {
        self.total_width += width;
        if self.total_width > MAX_TOTAL_WIDTH {
            return Err(format!(
                "its values take more than {MAX_TOTAL_WIDTH} numbers a row"
            ));
        }
        Ok(())
    }

    fn account_weights(&mut self, count: usize) -> Result<(), String> {
        self.total_weights += count;
        if self.total_weights > MAX_TOTAL_WEIGHTS {
            return Err(format!(
                "its layers have more than {MAX_TOTAL_WEIGHTS} weights"
            ));
        }
        Ok(())
    }

    fn shape(&self, rows: Rows) -> (usize, Kind) {
        match rows.value.checked_sub(self.inputs.len()) {
            None => (
                self.inputs[rows.value].width,
                self.inputs[rows.value].element.kind(),
            ),
            Some(step) => (self.steps[step].width, self.steps[step].kind),
        }
    }

    fn name(&mut self, name: &str, known: Known) -> Result<(), String> {
        if name.is_empty() {
            return Err("a value has no name".into());
        }
        if self.by_name.insert(name.to_owned(), known).is_some() {
            return Err(format!("\"{}\" is made twice", shown(name)));
        }
        Ok(())
    }

    fn of(&self, name: &str) -> Result<&Known, String> {
        self.by_name
            .get(name)
            .ok_or_else(|| format!("\"{}\" is not made before it", shown(name)))
    }
}

/// The version of the default operator set. Some exporters name a set twice, or none when all nodes are of another.
fn opset(model: &ModelProto) -> Result<i64, String> {
    let mut version = None;
    for set in &model.opset_import {
        let versions = match set.domain.as_str() {
            "" | "ai.onnx" => {
                if version
                    .replace(set.version)
                    .is_some_and(|before| before != set.version)
                {
                    return Err("it names two operator sets".into());
                }
                OPSETS
            }
            LEARNED => LEARNED_OPSETS,
            _ => continue,
        };
        if !versions.contains(&set.version) {
            return Err(format!(
                "operator set {} of \"{}\"; {} to {} are understood: name one of them when you export it (docs/model.md)",
                set.version,
                shown(&set.domain),
                versions.start(),
                versions.end()
            ));
        }
    }
    let uses_it = |node: &NodeProto| matches!(node.domain.as_str(), "" | "ai.onnx");
    let used = model
        .graph
        .as_ref()
        .is_some_and(|graph| graph.node.iter().any(uses_it));
    match version {
        Some(version) => Ok(version),
        None if used => Err("it names no operator set".into()),
        None => Ok(*OPSETS.start()),
    }
}

/// Of a node that is none of those that are read.
const UNKNOWN: &str =
    "not among the operators that docs/model.md names; export the model without it";

/// The domain of operators of classical machine learning.
const LEARNED: &str = "ai.onnx.ml";

/// The output that holds scores: the one of floating point, or the one map of classes to probabilities. Labels are
/// whole numbers or text.
fn output(graph: &GraphProto) -> Result<&str, String> {
    let maps: HashMap<&str, &str> = graph
        .node
        .iter()
        .filter(|node| node.domain == LEARNED && node.op_type == "ZipMap")
        .filter_map(|node| Some((node.output.first()?.as_str(), node.input.first()?.as_str())))
        .collect();
    let mut found = Vec::new();
    for output in &graph.output {
        match (maps.get(output.name.as_str()), tensor_type(output)) {
            (Some(mapped), _) => found.push(*mapped),
            (None, Some((data_type, _))) => {
                let element = Element::of(data_type);
                if matches!(element, Some(Element::Float | Element::Double)) {
                    found.push(&output.name);
                }
            }
            (None, None) => {}
        }
    }
    match found[..] {
        [output] => Ok(output),
        [] => Err("none of its outputs is a probability".into()),
        _ => Err(format!(
            "{} of its outputs may be the probability; export it with one",
            found.len()
        )),
    }
}

/// Fails where two things have one name, needed or not: who would take which?
fn check_made_once(graph: &GraphProto) -> Result<(), String> {
    let weights = graph.initializer.iter().map(|weight| &weight.name);
    let made = graph.node.iter().flat_map(|node| &node.output);
    let mut seen = HashSet::new();
    for name in weights.chain(made).filter(|name| !name.is_empty()) {
        if !seen.insert(name) {
            return Err(format!("\"{}\" is made twice", shown(name)));
        }
    }
    Ok(())
}

/// What an output depends on.
struct Needed<'a> {
    names: HashSet<&'a str>,
    /// For each node of the graph.
    nodes: Vec<bool>,
}

fn needed<'a>(graph: &'a GraphProto, output: &'a str) -> Needed<'a> {
    let mut names = HashSet::from([output]);
    let mut nodes = vec![false; graph.node.len()];
    // A node comes after those whose outputs it takes.
    for (node, needed) in graph.node.iter().zip(&mut nodes).rev() {
        if node
            .output
            .iter()
            .any(|output| names.contains(output.as_str()))
        {
            *needed = true;
            names.extend(node.input.iter().map(String::as_str));
        }
    }
    Needed { names, nodes }
}

/// The value with the score and the place in it.
fn score(
    values: &Values<'_>,
    output: &str,
    positive: Option<usize>,
) -> Result<(ValueId, usize), String> {
    let Known::Rows(rows) = values.of(output)? else {
        return Err("its output does not depend on its input".into());
    };
    let (width, kind) = values.shape(*rows);
    if matches!(kind, Kind::Whole | Kind::Truth) {
        return Err("its output is a label, not a probability".into());
    }
    let place = match (positive, width) {
        (Some(place), _) if place < width => place,
        (Some(place), _) => {
            return Err(format!(
                "it gives {width} numbers a row; positive_class is {place}"
            ));
        }
        (None, 1) => 0,
        (None, 2) => 1,
        (None, _) => {
            return Err(format!(
                "it gives {width} numbers a row; positive_class in preprocessing.json says which one is the score, \
                 counted from 0"
            ));
        }
    };
    Ok((rows.value, place))
}

/// The declared element type and dimensions of a tensor; a symbolic dimension is `None`.
fn tensor_type(value: &ValueInfoProto) -> Option<(i32, Vec<Option<i64>>)> {
    let type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    let size = |value: &Option<dimension::Value>| match value {
        Some(dimension::Value::DimValue(size)) => Some(*size),
        _ => None,
    };
    let shape = tensor.shape.as_ref();
    let dimensions = shape.map_or_else(Vec::new, |shape| {
        shape
            .dim
            .iter()
            .map(|dimension| size(&dimension.value))
            .collect()
    });
    Some((tensor.elem_type, dimensions))
}

#[cfg(test)]
mod tests;
