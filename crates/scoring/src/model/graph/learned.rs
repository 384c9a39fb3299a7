//! The operators of `ai.onnx.ml` (ONNX, "Operators-ml") that exports of scikit-learn, XGBoost and LightGBM are made of.
//! Where the specification leaves something open, what onnxruntime does is what exporters rely on, and what is done here.

use tract_onnx::pb::NodeProto;
use tract_onnx::pb::attribute_proto::AttributeType;

use super::attributes::Attributes;
use super::combine::with_constant;
use super::elements::Elementwise;
use super::operators::{elementwise, make, matrix, one_input, place, rows_of, select, to_kind};
use super::{Arithmetic, Form, Kind, Known, Norm, Operator, Rows, Values};
use crate::model::trees::{Ensemble, OTHERWISE, Transform, Trees};

/// Reads a node of the domain.
pub(super) fn read(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    match node.op_type.as_str() {
        "Scaler" => scaler(node, values),
        "Normalizer" => normalizer(node, values),
        "LinearClassifier" => linear_classifier(node, values),
        "LinearRegressor" => linear_regressor(node, values),
        "TreeEnsembleClassifier" => tree_classifier(node, values),
        "TreeEnsembleRegressor" => tree_regressor(node, values),
        "ArrayFeatureExtractor" => array_feature_extractor(node, values),
        "OneHotEncoder" => one_hot_encoder(node, values),
        "FeatureVectorizer" => feature_vectorizer(node, values),
        _ => Err(super::UNKNOWN.into()),
    }
}

/// The only input, cast to f32 as these operators do.
fn float_input(node: &NodeProto, values: &mut Values<'_>) -> Result<(Rows, usize), String> {
    let rows = matrix(one_input(node, values)?)?;
    let rows = to_kind(rows, Kind::Float, values)?;
    let (width, _) = values.shape(rows);
    Ok((rows, width))
}

fn widened(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().copied().map(f64::from).collect()
}

/// `(x - offset) * scale`
fn scaler(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let known = [
        ("offset", AttributeType::Floats),
        ("scale", AttributeType::Floats),
    ];
    let attributes = Attributes::of(node, &known)?;
    let (rows, _) = float_input(node, values)?;
    let offset = attributes.floats("offset")?.ok_or("has no offset")?;
    let scale = attributes.floats("scale")?.ok_or("has no scale")?;
    let made = with_constant(rows, Arithmetic::Sub, widened(offset).into(), false, values)?;
    let made = with_constant(made, Arithmetic::Mul, widened(scale).into(), false, values)?;
    make(node, made, values)
}

/// Each row divided by its norm.
fn normalizer(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let attributes = Attributes::of(node, &[("norm", AttributeType::String)])?;
    let (rows, width) = float_input(node, values)?;
    let norm = match attributes.text("norm") {
        "L1" => Norm::L1,
        "L2" => Norm::L2,
        _ => return Err("its norm is neither L1 nor L2".into()),
    };
    let made = values.step(Operator::Normalize(norm), &[rows.value], width, Kind::Float)?;
    make(node, made, values)
}

/// Products and intercepts; the coefficients lie output by output.
fn linear(
    node: &NodeProto,
    attributes: &Attributes<'_>,
    outputs: usize,
    values: &mut Values<'_>,
) -> Result<Rows, String> {
    let (rows, inputs) = float_input(node, values)?;
    let coefficients = attributes
        .floats("coefficients")?
        .ok_or("has no coefficients")?;
    let intercepts = attributes.floats("intercepts")?;
    if outputs == 0 || Some(coefficients.len()) != outputs.checked_mul(inputs) {
        return Err(format!("its coefficients do not fit {inputs} columns"));
    }
    let bias = match intercepts {
        Some(intercepts) if intercepts.len() == outputs => widened(intercepts),
        None => vec![0.0; outputs],
        Some(_) => return Err("its intercepts do not fit its coefficients".into()),
    };
    let mut weights = Vec::with_capacity(coefficients.len());
    for input in 0..inputs {
        weights.extend(
            coefficients
                .iter()
                .skip(input)
                .step_by(inputs)
                .copied()
                .map(f64::from),
        );
    }
    let operator = Operator::Dense {
        weights: weights.into(),
        bias: bias.into(),
    };
    values.step(operator, &[rows.value], outputs, Kind::Float)
}

fn transformed(transform: Transform, rows: Rows, values: &mut Values<'_>) -> Result<Rows, String> {
    match transform {
        Transform::None => Ok(rows),
        Transform::Logistic => elementwise(Elementwise::Sigmoid, rows, values),
        Transform::Softmax => {
            let (width, kind) = values.shape(rows);
            values.step(Operator::Softmax, &[rows.value], width, kind)
        }
    }
}

fn linear_classifier(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let known = [
        ("classlabels_ints", AttributeType::Ints),
        ("classlabels_strings", AttributeType::Strings),
        ("coefficients", AttributeType::Floats),
        ("intercepts", AttributeType::Floats),
        ("multi_class", AttributeType::Int),
        ("post_transform", AttributeType::String),
    ];
    let attributes = Attributes::of(node, &known)?;
    let outputs = attributes.floats("intercepts")?.map_or(0, <[f32]>::len);
    let classes = classes(&attributes, "classlabels_ints", "classlabels_strings")?;
    if classes != outputs || classes < 2 {
        return Err(format!("{outputs} scores for {classes} classes"));
    }
    let rows = linear(node, &attributes, outputs, values)?;
    let made = transformed(
        Transform::of(attributes.text("post_transform"))?,
        rows,
        values,
    )?;
    scores_of_a_classifier(node, made, values)
}

fn linear_regressor(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let known = [
        ("coefficients", AttributeType::Floats),
        ("intercepts", AttributeType::Floats),
        ("post_transform", AttributeType::String),
        ("targets", AttributeType::Int),
    ];
    let attributes = Attributes::of(node, &known)?;
    let targets = usize::try_from(attributes.integer("targets", 1)).unwrap_or(0);
    let transform = Transform::of(attributes.text("post_transform"))?;
    if targets == 1 && transform != Transform::None {
        return Err(format!(
            "its post_transform is one for several targets and it has one, {OTHERWISE}; give NONE and a Sigmoid after it"
        ));
    }
    let rows = linear(node, &attributes, targets, values)?;
    let made = transformed(transform, rows, values)?;
    make(node, made, values)
}

/// How many classes there are, by their labels.
fn classes(attributes: &Attributes<'_>, integers: &str, texts: &str) -> Result<usize, String> {
    match (attributes.integers(integers), attributes.texts(texts)) {
        (Some(labels), None) => Ok(labels.len()),
        (None, Some(labels)) => Ok(labels.len()),
        _ => Err("has not one list of classes".into()),
    }
}

/// The second output of a classifier is its scores. The first, the label, gets no name: what takes it finds nothing.
fn scores_of_a_classifier(
    node: &NodeProto,
    made: Rows,
    values: &mut Values<'_>,
) -> Result<(), String> {
    match &node.output[..] {
        [_, scores] => values.name(scores, Known::Rows(made)),
        outputs => Err(format!("{} outputs, not 2", outputs.len())),
    }
}

const NODES: [(&str, AttributeType); 10] = [
    ("nodes_treeids", AttributeType::Ints),
    ("nodes_nodeids", AttributeType::Ints),
    ("nodes_featureids", AttributeType::Ints),
    ("nodes_values", AttributeType::Floats),
    ("nodes_values_as_tensor", AttributeType::Tensor),
    ("nodes_hitrates", AttributeType::Floats),
    ("nodes_hitrates_as_tensor", AttributeType::Tensor),
    ("nodes_modes", AttributeType::Strings),
    ("nodes_truenodeids", AttributeType::Ints),
    ("nodes_falsenodeids", AttributeType::Ints),
];
const MORE: [(&str, AttributeType); 4] = [
    ("nodes_missing_value_tracks_true", AttributeType::Ints),
    ("base_values", AttributeType::Floats),
    ("base_values_as_tensor", AttributeType::Tensor),
    ("post_transform", AttributeType::String),
];

fn tree_classifier(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let own = [
        ("class_ids", AttributeType::Ints),
        ("class_nodeids", AttributeType::Ints),
        ("class_treeids", AttributeType::Ints),
        ("class_weights", AttributeType::Floats),
        ("class_weights_as_tensor", AttributeType::Tensor),
        ("classlabels_int64s", AttributeType::Ints),
        ("classlabels_strings", AttributeType::Strings),
    ];
    let known: Vec<_> = NODES.into_iter().chain(MORE).chain(own).collect();
    let attributes = Attributes::of(node, &known)?;
    let classes = classes(&attributes, "classlabels_int64s", "classlabels_strings")?;
    let made = trees(node, &attributes, "class", classes, true, values)?;
    scores_of_a_classifier(node, made, values)
}

fn tree_regressor(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let own = [
        ("target_ids", AttributeType::Ints),
        ("target_nodeids", AttributeType::Ints),
        ("target_treeids", AttributeType::Ints),
        ("target_weights", AttributeType::Floats),
        ("target_weights_as_tensor", AttributeType::Tensor),
        ("n_targets", AttributeType::Int),
        ("aggregate_function", AttributeType::String),
    ];
    let known: Vec<_> = NODES.into_iter().chain(MORE).chain(own).collect();
    let attributes = Attributes::of(node, &known)?;
    let targets = usize::try_from(attributes.integer("n_targets", 0)).unwrap_or(0);
    let made = trees(node, &attributes, "target", targets, false, values)?;
    make(node, made, values)
}

fn trees(
    node: &NodeProto,
    attributes: &Attributes<'_>,
    leaves: &str,
    outputs: usize,
    classifier: bool,
    values: &mut Values<'_>,
) -> Result<Rows, String> {
    let rows = matrix(one_input(node, values)?)?;
    // Whole numbers are compared as f32.
    let rows = match values.shape(rows) {
        (_, Kind::Whole | Kind::Truth) => to_kind(rows, Kind::Float, values)?,
        _ => rows,
    };
    let (width, _) = values.shape(rows);
    let integers = |name: &str| {
        attributes
            .integers(name)
            .ok_or_else(|| format!("has no {name}"))
    };
    let of_leaves = |name: &str| format!("{leaves}_{name}");
    let average = match attributes.text("aggregate_function") {
        "" | "SUM" => false,
        "AVERAGE" => true,
        _ => return Err("aggregates neither by SUM nor by AVERAGE".into()),
    };
    let ensemble = Ensemble {
        width,
        outputs,
        classifier,
        average,
        transform: Transform::of(attributes.text("post_transform"))?,
        tree_ids: integers("nodes_treeids")?,
        node_ids: integers("nodes_nodeids")?,
        features: integers("nodes_featureids")?,
        thresholds: &numbers(attributes, "nodes_values", values)?.unwrap_or_default(),
        modes: attributes
            .texts("nodes_modes")
            .ok_or("has no nodes_modes")?,
        when_true: integers("nodes_truenodeids")?,
        when_false: integers("nodes_falsenodeids")?,
        missing_is_true: attributes
            .integers("nodes_missing_value_tracks_true")
            .unwrap_or_default(),
        base: &numbers(attributes, "base_values", values)?.unwrap_or_default(),
        leaf_tree_ids: integers(&of_leaves("treeids"))?,
        leaf_node_ids: integers(&of_leaves("nodeids"))?,
        leaf_outputs: integers(&of_leaves("ids"))?,
        leaf_weights: &numbers(attributes, &of_leaves("weights"), values)?.unwrap_or_default(),
    };
    let trees = Trees::build(&ensemble)?;
    let width = trees.outputs();
    values.step(Operator::Trees(trees), &[rows.value], width, Kind::Float)
}

/// Numbers that an attribute gives as f32, or as a tensor of f32 or f64 under a longer name. Trees are trained to
/// thresholds that are infinite; [`Trees::build`] says what may be.
fn numbers(
    attributes: &Attributes<'_>,
    name: &str,
    values: &Values<'_>,
) -> Result<Option<super::Numbers>, String> {
    let as_tensor = attributes.tensor(&format!("{name}_as_tensor"));
    match (attributes.any_floats(name), as_tensor) {
        (Some(floats), None) => Ok(Some(widened(floats).into())),
        (None, Some(tensor)) => {
            let weight = super::Weight::read_any(tensor, &values.beside)
                .map_err(|why| format!("{name} {why}"))?;
            if !matches!(weight.element.kind(), Kind::Float | Kind::Double)
                || weight.shape.len() > 1
            {
                return Err(format!("{name} is not a list of floats"));
            }
            Ok(Some(weight.numbers))
        }
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(format!("{name} is there twice")),
    }
}

fn array_feature_extractor(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    Attributes::of(node, &[])?;
    let [rows, indices] = &node.input[..] else {
        return Err(format!("{} inputs, not 2", node.input.len()));
    };
    let rows = matrix(rows_of(rows, values)?)?;
    let (width, _) = values.shape(rows);
    let Known::Weight(indices) = values.of(indices)? else {
        return Err("its indices depend on the rows".into());
    };
    // [n] or [1, n]
    let places = indices.numbers.iter().map(|&at| place(at as i64, width));
    let places = places.collect::<Result<_, _>>()?;
    let made = select(rows, places, values)?;
    make(node, made, values)
}

/// One column of whole numbers to one column for each category; a number that is none of them gives zeros. Its output
/// has a dimension more, which exports take away again.
fn one_hot_encoder(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let known = [
        ("cats_int64s", AttributeType::Ints),
        ("zeros", AttributeType::Int),
    ];
    let attributes = Attributes::of(node, &known)?;
    let categories = attributes
        .integers("cats_int64s")
        .ok_or("its categories are not whole numbers")?;
    if attributes.integer("zeros", 1) == 0 {
        return Err("fails on a category that it does not know".into());
    }
    let rows = one_input(node, values)?;
    let form = match (values.shape(rows), rows.form) {
        ((1, Kind::Whole), Form::Matrix) => Form::Deep(1),
        ((1, Kind::Whole), Form::Flat) => Form::Matrix,
        ((1, _), _) => return Err("encodes what is no whole number".into()),
        _ => return Err("encodes more than one column at a time".into()),
    };
    let categories: Vec<f64> = categories.iter().map(|&category| category as f64).collect();
    let width = categories.len();
    let made = values.step(
        Operator::OneHot(categories),
        &[rows.value],
        width,
        Kind::Float,
    )?;
    make(node, Rows { form, ..made }, values)
}

/// Values side by side, as f32.
fn feature_vectorizer(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let attributes = Attributes::of(node, &[("inputdimensions", AttributeType::Ints)])?;
    let (mut of, mut widths) = (Vec::new(), Vec::new());
    for name in &node.input {
        let rows = to_kind(matrix(rows_of(name, values)?)?, Kind::Float, values)?;
        of.push(rows.value);
        widths.push(values.shape(rows).0);
    }
    let declared = attributes.integers("inputdimensions").unwrap_or_default();
    let same = declared
        .iter()
        .map(|&width| usize::try_from(width).unwrap_or(0))
        .eq(widths.iter().copied());
    if !same {
        return Err("its inputs are not as wide as it says".into());
    }
    let made = values.step(Operator::Concat, &of, widths.iter().sum(), Kind::Float)?;
    make(node, made, values)
}
