//! The operators of the default domain (ONNX, "Operators"), as far as they leave rows as they are.

use tract_onnx::pb::NodeProto;
use tract_onnx::pb::attribute_proto::AttributeType;

use super::attributes::Attributes;
use super::elements::Elementwise;
use super::weights::Weight;
use super::{Arithmetic, Element, Kind, Known, LEARNED, Numbers, Operator, Rows, Values, learned};
use crate::shown;

/// Reads a node: what it makes gets its names.
pub(super) fn read(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    match node.domain.as_str() {
        "" | "ai.onnx" => {}
        LEARNED => return learned::read(node, values),
        other => return Err(format!("of the unknown domain \"{}\"", shown(other))),
    }
    if let Some(function) = Elementwise::of(node)? {
        let rows = one_input(node, values)?;
        let made = elementwise(function, rows, values)?;
        return make(node, made, values);
    }
    match node.op_type.as_str() {
        "Identity" => {
            Attributes::of(node, &[])?;
            let rows = one_input(node, values)?;
            make(node, rows, values)
        }
        "Add" => arithmetic(node, Arithmetic::Add, values),
        "Sub" => arithmetic(node, Arithmetic::Sub, values),
        "Mul" => arithmetic(node, Arithmetic::Mul, values),
        "Div" => arithmetic(node, Arithmetic::Div, values),
        "MatMul" => {
            Attributes::of(node, &[])?;
            let (rows, weight) = rows_and_weight(node, values)?;
            let made = product(rows, weight, None, values)?.step(values)?;
            make(node, made, values)
        }
        "Gemm" => gemm(node, values),
        "BatchNormalization" => batch_normalization(node, values),
        "Constant" => constant(node, values),
        "Dropout" => dropout(node, values),
        "Flatten" => {
            let axis = Attributes::of(node, &[("axis", AttributeType::Int)])?.integer("axis", 1);
            let rows = matrix(one_input(node, values)?)?;
            if !matches!(axis, 1 | -1) {
                return Err("does not leave the rows as they are".into());
            }
            make(node, rows, values)
        }
        "Reshape" => reshape(node, values),
        "Squeeze" | "Unsqueeze" => squeeze(node, values),
        "Softmax" => {
            // Before operator set 13 all axes from this one on were taken together: of two, the same.
            let axis = Attributes::of(node, &[("axis", AttributeType::Int)])?;
            let axis = axis.integer("axis", if values.opset < 13 { 1 } else { -1 });
            let rows = matrix(one_input(node, values)?)?;
            let (width, kind) = arithmetic_shape(rows, values)?;
            column_axis(axis)?;
            let made = values.step(Operator::Softmax, &[rows.value], width, kind)?;
            make(node, made, values)
        }
        "ReduceSum" => reduce_sum(node, values),
        "Concat" => concat(node, values),
        "Gather" => gather(node, values),
        "Slice" => slice(node, values),
        "Split" => split(node, values),
        "Cast" => cast(node, values),
        "Clip" => clip(node, values),
        _ => Err("unknown operator".into()),
    }
}

/// Names what a node with one output makes.
pub(super) fn make(node: &NodeProto, rows: Rows, values: &mut Values<'_>) -> Result<(), String> {
    match &node.output[..] {
        [output] => values.name(output, Known::Rows(rows)),
        outputs => Err(format!("{} outputs, not 1", outputs.len())),
    }
}

/// An input that depends on the rows.
pub(super) fn rows_of(name: &str, values: &Values<'_>) -> Result<Rows, String> {
    match values.of(name)? {
        Known::Rows(rows) => Ok(*rows),
        Known::Weight(_) => Err("has constants only".into()),
    }
}

/// The only input, which depends on the rows.
pub(super) fn one_input(node: &NodeProto, values: &Values<'_>) -> Result<Rows, String> {
    match &node.input[..] {
        [input] => rows_of(input, values),
        inputs => Err(format!("{} inputs, not 1", inputs.len())),
    }
}

/// A value that has its dimension of columns.
pub(super) fn matrix(rows: Rows) -> Result<Rows, String> {
    if rows.flat {
        return Err("its input has one dimension, not 2".into());
    }
    Ok(rows)
}

/// The shape of a value that is calculated with.
pub(super) fn arithmetic_shape(rows: Rows, values: &Values<'_>) -> Result<(usize, Kind), String> {
    match values.shape(rows) {
        (_, Kind::Whole) => {
            Err("calculates with whole numbers; they are cast to float first".into())
        }
        shape => Ok(shape),
    }
}

pub(super) fn elementwise(
    function: Elementwise,
    rows: Rows,
    values: &mut Values<'_>,
) -> Result<Rows, String> {
    let (width, kind) = arithmetic_shape(rows, values)?;
    let made = values.step(Operator::Elementwise(function), &[rows.value], width, kind)?;
    Ok(Rows {
        flat: rows.flat,
        ..made
    })
}

/// A constant for each column, by Numpy's broadcasting.
pub(super) fn with_constant(
    rows: Rows,
    operation: Arithmetic,
    constant: Numbers,
    first: bool,
    values: &mut Values<'_>,
) -> Result<Rows, String> {
    let (width, kind) = arithmetic_shape(rows, values)?;
    let constant = match constant.len() {
        1 => vec![constant[0]; width].into(),
        columns if columns == width => constant,
        columns => return Err(format!("{columns} constants do not fit {width} columns")),
    };
    let operator = Operator::Constant {
        operation,
        constant,
        first,
    };
    let made = values.step(operator, &[rows.value], width, kind)?;
    Ok(Rows {
        flat: rows.flat,
        ..made
    })
}

fn arithmetic(
    node: &NodeProto,
    operation: Arithmetic,
    values: &mut Values<'_>,
) -> Result<(), String> {
    Attributes::of(node, &[])?;
    let [a, b] = &node.input[..] else {
        return Err(format!("{} inputs, not 2", node.input.len()));
    };
    let made = match (values.of(a)?, values.of(b)?) {
        (Known::Weight(_), Known::Weight(_)) => return Err("has constants only".into()),
        (Known::Rows(a), Known::Rows(b)) => of_two(*a, *b, operation, values)?,
        (Known::Rows(rows), Known::Weight(weight)) => {
            let (rows, constant) = (*rows, for_each_column(*rows, weight, values)?);
            with_constant(rows, operation, constant, false, values)?
        }
        (Known::Weight(weight), Known::Rows(rows)) => {
            let (rows, constant) = (*rows, for_each_column(*rows, weight, values)?);
            with_constant(rows, operation, constant, true, values)?
        }
    };
    make(node, made, values)
}

/// The numbers of a constant that leaves the rows as they are.
fn for_each_column(rows: Rows, weight: &Weight, values: &Values<'_>) -> Result<Numbers, String> {
    let (width, kind) = values.shape(rows);
    if weight.element.kind() != kind {
        return Err("a constant is not of the type of the rows".into());
    }
    match weight.shape[..] {
        [] | [1] => Ok(weight.numbers.clone()),
        [1, 1] if !rows.flat => Ok(weight.numbers.clone()),
        [columns] | [1, columns] if columns == width && !rows.flat => Ok(weight.numbers.clone()),
        _ => Err(format!(
            "a weight of shape {:?} does not fit {width} columns",
            weight.shape
        )),
    }
}

/// Two values, of which one may be a number a row.
fn of_two(
    a: Rows,
    b: Rows,
    operation: Arithmetic,
    values: &mut Values<'_>,
) -> Result<Rows, String> {
    let ((a_width, kind), (b_width, b_kind)) =
        (arithmetic_shape(a, values)?, arithmetic_shape(b, values)?);
    if kind != b_kind || a.flat != b.flat {
        return Err("its inputs are of different types or dimensions".into());
    }
    if a_width != b_width && b_width != 1 {
        return Err(format!("{a_width} and {b_width} columns"));
    }
    let operator = Operator::Arithmetic(operation);
    let made = values.step(operator, &[a.value, b.value], a_width, kind)?;
    Ok(Rows {
        flat: a.flat,
        ..made
    })
}

fn rows_and_weight<'v>(
    node: &NodeProto,
    values: &'v Values<'_>,
) -> Result<(Rows, &'v Weight), String> {
    match &node.input[..] {
        [rows, weight, ..] => match (values.of(rows)?, values.of(weight)?) {
            (Known::Rows(rows), Known::Weight(weight)) => Ok((*rows, weight)),
            _ => Err("its inputs are not those of a dense layer over rows".into()),
        },
        inputs => Err(format!("{} inputs, not 2", inputs.len())),
    }
}

/// What of a dense layer is not its weights.
struct Scales {
    alpha: f64,
    beta: f64,
    transposed: bool,
    bias: Option<Numbers>,
}

/// Rows times a weight; a Gemm's scales are folded into it.
fn product(
    rows: Rows,
    weight: &Weight,
    scales: Option<Scales>,
    values: &Values<'_>,
) -> Result<Dense, String> {
    let (width, kind) = arithmetic_shape(matrix(rows)?, values)?;
    if weight.element.kind() != kind {
        return Err("a weight is not of the type of the rows".into());
    }
    let scales = scales.unwrap_or(Scales {
        alpha: 1.0,
        beta: 1.0,
        transposed: false,
        bias: None,
    });
    let does_not_fit = || {
        format!(
            "a weight of shape {:?} does not fit {width} columns",
            weight.shape
        )
    };
    let [a, b] = weight.shape[..] else {
        return Err(does_not_fit());
    };
    let (inputs, outputs) = if scales.transposed { (b, a) } else { (a, b) };
    if inputs != width {
        return Err(does_not_fit());
    }
    let mut weights = Numbers::new(Vec::with_capacity(weight.numbers.len()));
    if scales.transposed {
        for input in 0..inputs {
            let column = weight.numbers.iter().skip(input).step_by(inputs);
            weights.extend(column.map(|number| scales.alpha * number));
        }
    } else {
        weights.extend(weight.numbers.iter().map(|number| scales.alpha * number));
    }
    let mut bias = match scales.bias {
        None => vec![0.0; outputs].into(),
        Some(bias) if bias.len() == 1 => vec![bias[0]; outputs].into(),
        Some(bias) if bias.len() == outputs => bias,
        Some(bias) => {
            return Err(format!(
                "{} biases do not fit {outputs} outputs",
                bias.len()
            ));
        }
    };
    for bias in bias.iter_mut() {
        *bias *= scales.beta;
    }
    Ok(Dense {
        rows,
        weights,
        bias,
        outputs,
        kind,
    })
}

/// A dense layer that fits its rows.
struct Dense {
    rows: Rows,
    weights: Numbers,
    bias: Numbers,
    outputs: usize,
    kind: Kind,
}

impl Dense {
    fn step(self, values: &mut Values<'_>) -> Result<Rows, String> {
        let Self {
            rows,
            weights,
            bias,
            outputs,
            kind,
        } = self;
        values.step(
            Operator::Dense { weights, bias },
            &[rows.value],
            outputs,
            kind,
        )
    }
}

fn gemm(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let known = [
        ("alpha", AttributeType::Float),
        ("beta", AttributeType::Float),
        ("transA", AttributeType::Int),
        ("transB", AttributeType::Int),
    ];
    let attributes = Attributes::of(node, &known)?;
    if attributes.integer("transA", 0) != 0 {
        return Err("transposes its rows".into());
    }
    let transposed = match attributes.integer("transB", 0) {
        0 => false,
        1 => true,
        _ => return Err("transB is neither 0 nor 1".into()),
    };
    let (rows, weight) = rows_and_weight(node, values)?;
    let bias = match &node.input[2..] {
        [] => None,
        [absent] if absent.is_empty() => None,
        [bias] => match values.of(bias)? {
            Known::Weight(bias) if bias.element == weight.element && bias.shape.len() < 2 => {
                Some(bias.numbers.clone())
            }
            Known::Weight(bias) if bias.element == weight.element && bias.shape[0] == 1 => {
                Some(bias.numbers.clone())
            }
            Known::Weight(_) => return Err("its bias does not fit its weight".into()),
            Known::Rows(_) => return Err("its bias depends on the rows".into()),
        },
        more => return Err(format!("{} inputs, not 3", more.len() + 2)),
    };
    let scales = Scales {
        alpha: attributes.float("alpha", 1.0),
        beta: attributes.float("beta", 1.0),
        transposed,
        bias,
    };
    let made = product(rows, weight, Some(scales), values)?.step(values)?;
    make(node, made, values)
}

fn batch_normalization(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let known = [
        ("epsilon", AttributeType::Float),
        ("momentum", AttributeType::Float),
        ("training_mode", AttributeType::Int),
    ];
    let attributes = Attributes::of(node, &known)?;
    if attributes.integer("training_mode", 0) != 0 {
        return Err("in training mode".into());
    }
    let needs = || "needs rows and four weights as wide as they are".to_owned();
    let [rows, statistics @ ..] = &node.input[..] else {
        return Err(needs());
    };
    let rows = matrix(rows_of(rows, values)?)?;
    let (width, kind) = arithmetic_shape(rows, values)?;
    let mut numbers = Vec::new();
    for name in statistics {
        match values.of(name)? {
            Known::Weight(weight) if weight.shape == [width] && weight.element.kind() == kind => {
                numbers.push(&weight.numbers);
            }
            _ => return Err(needs()),
        }
    }
    let [scale, shift, mean, variance] = numbers[..] else {
        return Err(needs());
    };
    let epsilon = attributes.float("epsilon", 1e-5);
    let factor: Vec<f64> = scale
        .iter()
        .zip(variance.iter())
        .map(|(scale, variance)| scale / (variance + epsilon).sqrt())
        .collect();
    let offset: Vec<f64> = shift
        .iter()
        .zip(mean.iter())
        .zip(&factor)
        .map(|((shift, mean), factor)| shift - mean * factor)
        .collect();
    if factor
        .iter()
        .chain(&offset)
        .any(|number| !number.is_finite())
    {
        return Err("a variance is not greater than zero".into());
    }
    let made = with_constant(rows, Arithmetic::Mul, factor.into(), false, values)?;
    let made = with_constant(made, Arithmetic::Add, offset.into(), false, values)?;
    make(node, made, values)
}

fn constant(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let known = [
        ("value", AttributeType::Tensor),
        ("value_float", AttributeType::Float),
        ("value_floats", AttributeType::Floats),
        ("value_int", AttributeType::Int),
        ("value_ints", AttributeType::Ints),
    ];
    let attributes = Attributes::of(node, &known)?;
    let ([], [output], [attribute]) = (&node.input[..], &node.output[..], &node.attribute[..])
    else {
        return Err("needs one value".into());
    };
    let weight = match attribute.name.as_str() {
        "value" => Weight::read(attributes.tensor("value").ok_or("has no value")?)?,
        "value_float" => Weight::new(vec![], Element::Float, vec![f64::from(attribute.f)]),
        "value_int" => Weight::new(vec![], Element::Int64, vec![attribute.i as f64]),
        "value_floats" => {
            let floats = attributes.floats("value_floats")?.unwrap_or_default();
            let numbers: Vec<f64> = floats.iter().map(|&value| f64::from(value)).collect();
            Weight::new(vec![numbers.len()], Element::Float, numbers)
        }
        _ => {
            let integers = attributes.integers("value_ints").unwrap_or_default();
            let numbers: Vec<f64> = integers.iter().map(|&value| value as f64).collect();
            Weight::new(vec![numbers.len()], Element::Int64, numbers)
        }
    };
    values.name(output, Known::Weight(weight))
}

/// An input that a node may leave out, by its place; a constant where it is there.
fn optional<'v>(
    node: &NodeProto,
    at: usize,
    values: &'v Values<'_>,
) -> Result<Option<&'v Weight>, String> {
    match node.input.get(at).map(String::as_str) {
        None | Some("") => Ok(None),
        Some(name) => match values.of(name)? {
            Known::Weight(weight) => Ok(Some(weight)),
            Known::Rows(_) => Err("one of its settings depends on the rows".into()),
        },
    }
}

fn dropout(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    Attributes::of(
        node,
        &[
            ("ratio", AttributeType::Float),
            ("seed", AttributeType::Int),
        ],
    )?;
    let training =
        optional(node, 2, values)?.is_some_and(|training| training.scalar() != Some(0.0));
    if training || node.input.len() > 3 {
        return Err("in training mode".into());
    }
    let rows = rows_of(node.input.first().ok_or("has no input")?, values)?;
    // The mask is made for training: whoever takes it finds that it is not there.
    match &node.output[..] {
        [output] | [output, _] => values.name(output, Known::Rows(rows)),
        outputs => Err(format!("{} outputs", outputs.len())),
    }
}

const CHANGES_ROWS: &str = "does not leave the rows as they are";

fn reshape(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let attributes = Attributes::of(node, &[("allowzero", AttributeType::Int)])?;
    if attributes.integer("allowzero", 0) != 0 || node.input.len() != 2 {
        return Err(CHANGES_ROWS.into());
    }
    let rows = rows_of(&node.input[0], values)?;
    let (width, _) = values.shape(rows);
    let shape = optional(node, 1, values)?
        .and_then(Weight::integers)
        .ok_or("its shape is not in the file")?;
    let flat = match shape[..] {
        [-1] if width == 1 => true,
        [0] if rows.flat => true,
        [-1, columns] if usize::try_from(columns) == Ok(width) => false,
        [0, columns] if columns == -1 || usize::try_from(columns) == Ok(width) => false,
        _ => return Err(CHANGES_ROWS.into()),
    };
    make(node, Rows { flat, ..rows }, values)
}

fn squeeze(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let attributes = Attributes::of(node, &[("axes", AttributeType::Ints)])?;
    let rows = rows_of(node.input.first().ok_or("has no input")?, values)?;
    let axes = match attributes.integers("axes") {
        Some(axes) if node.input.len() == 1 => axes.to_vec(),
        None => optional(node, 1, values)?
            .and_then(Weight::integers)
            .ok_or("its axes are not in the file")?,
        Some(_) => return Err("has its axes twice".into()),
    };
    let to_flat = node.op_type == "Squeeze";
    let (width, _) = values.shape(rows);
    if width != 1 || rows.flat == to_flat || !matches!(axes[..], [1 | -1]) {
        return Err(CHANGES_ROWS.into());
    }
    make(
        node,
        Rows {
            flat: to_flat,
            ..rows
        },
        values,
    )
}

/// Fails on any axis but that of the columns.
pub(super) fn column_axis(axis: i64) -> Result<(), String> {
    match axis {
        1 | -1 => Ok(()),
        _ => Err("works across the rows".into()),
    }
}

fn reduce_sum(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let known = [
        ("axes", AttributeType::Ints),
        ("keepdims", AttributeType::Int),
        ("noop_with_empty_axes", AttributeType::Int),
    ];
    let attributes = Attributes::of(node, &known)?;
    let rows = matrix(rows_of(node.input.first().ok_or("has no input")?, values)?)?;
    let (_, kind) = arithmetic_shape(rows, values)?;
    let axes = match attributes.integers("axes") {
        Some(axes) => axes.to_vec(),
        None => optional(node, 1, values)?
            .and_then(Weight::integers)
            .ok_or("its axes are not in the file")?,
    };
    let [axis] = axes[..] else {
        return Err("works across the rows".into());
    };
    column_axis(axis)?;
    let made = values.step(Operator::Sum, &[rows.value], 1, kind)?;
    let flat = attributes.integer("keepdims", 1) == 0;
    make(node, Rows { flat, ..made }, values)
}

fn concat(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let axis = Attributes::of(node, &[("axis", AttributeType::Int)])?;
    column_axis(axis.integer("axis", 0))?;
    let (mut of, mut width, mut kinds) = (Vec::new(), 0, Vec::new());
    for name in &node.input {
        let rows = matrix(rows_of(name, values)?)?;
        let (columns, kind) = values.shape(rows);
        width += columns;
        kinds.push(kind);
        of.push(rows.value);
    }
    kinds.dedup();
    let [kind] = kinds[..] else {
        return Err("its inputs are of different types".into());
    };
    let made = values.step(Operator::Concat, &of, width, kind)?;
    make(node, made, values)
}

/// Some columns of a value, in any order.
pub(super) fn select(
    rows: Rows,
    places: Vec<usize>,
    values: &mut Values<'_>,
) -> Result<Rows, String> {
    let (width, kind) = values.shape(matrix(rows)?);
    if places.iter().any(|&place| place >= width) {
        return Err(format!("picks a column beyond {width}"));
    }
    if places.iter().copied().eq(0..width) {
        return Ok(rows);
    }
    let count = places.len();
    values.step(Operator::Select(places), &[rows.value], count, kind)
}

/// A place that may be counted from the end.
pub(super) fn place(at: i64, width: usize) -> Result<usize, String> {
    let signed = i64::try_from(width).map_err(|_| "is too wide")?;
    let at = if at < 0 {
        at.saturating_add(signed)
    } else {
        at
    };
    let at = usize::try_from(at).ok().filter(|&at| at < width);
    at.ok_or_else(|| format!("picks a column beyond {width}"))
}

fn gather(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let axis = Attributes::of(node, &[("axis", AttributeType::Int)])?;
    column_axis(axis.integer("axis", 0))?;
    let rows = matrix(rows_of(node.input.first().ok_or("has no input")?, values)?)?;
    let indices = optional(node, 1, values)?.ok_or("its indices are not in the file")?;
    let flat = indices.shape.is_empty();
    let (width, _) = values.shape(rows);
    let places = indices
        .integers()
        .ok_or("its indices are not a list of whole numbers")?;
    let places = places
        .into_iter()
        .map(|at| place(at, width))
        .collect::<Result<_, _>>()?;
    let made = select(rows, places, values)?;
    make(node, Rows { flat, ..made }, values)
}

fn slice(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let known = [
        ("starts", AttributeType::Ints),
        ("ends", AttributeType::Ints),
        ("axes", AttributeType::Ints),
    ];
    let attributes = Attributes::of(node, &known)?;
    let rows = matrix(rows_of(node.input.first().ok_or("has no input")?, values)?)?;
    let setting = |name: &str, at: usize| match attributes.integers(name) {
        Some(given) => Ok(Some(given.to_vec())),
        None => optional(node, at, values).map(|weight| weight.and_then(Weight::integers)),
    };
    let settings = [
        setting("starts", 1)?,
        setting("ends", 2)?,
        setting("axes", 3)?,
        setting("", 4)?,
    ];
    let [Some(starts), Some(ends), Some(axes), steps] = settings else {
        return Err("its range is not in the file".into());
    };
    let ([start], [end], [axis]) = (&starts[..], &ends[..], &axes[..]) else {
        return Err("works across the rows".into());
    };
    column_axis(*axis)?;
    if steps.is_some_and(|steps| steps != [1]) {
        return Err("takes steps that are not understood".into());
    }
    let (width, _) = values.shape(rows);
    let clamped = |at: i64| {
        let signed = width as i64;
        let at = if at < 0 {
            at.saturating_add(signed)
        } else {
            at
        };
        at.clamp(0, signed) as usize
    };
    let made = select(rows, (clamped(*start)..clamped(*end)).collect(), values)?;
    make(node, made, values)
}

fn split(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let known = [
        ("axis", AttributeType::Int),
        ("split", AttributeType::Ints),
        ("num_outputs", AttributeType::Int),
    ];
    let attributes = Attributes::of(node, &known)?;
    column_axis(attributes.integer("axis", 0))?;
    let rows = matrix(rows_of(node.input.first().ok_or("has no input")?, values)?)?;
    let (width, _) = values.shape(rows);
    let parts = node.output.len().max(1);
    let sizes = match attributes.integers("split") {
        Some(sizes) => sizes.to_vec(),
        None => match optional(node, 1, values)? {
            Some(sizes) => sizes.integers().ok_or("its sizes are not whole numbers")?,
            // Equal parts, of which only the last may be smaller.
            None => {
                let size = width.div_ceil(parts);
                let sizes =
                    (0..parts).map(|part| size.min(width.saturating_sub(part * size)) as i64);
                sizes.collect()
            }
        },
    };
    let sizes = sizes
        .iter()
        .map(|&size| usize::try_from(size))
        .collect::<Result<Vec<_>, _>>();
    let sizes = sizes.map_err(|_| "has a size below zero")?;
    let total = sizes
        .iter()
        .try_fold(0_usize, |total, &size| total.checked_add(size));
    if sizes.len() != node.output.len() || total != Some(width) {
        return Err(format!("its sizes do not add up to {width} columns"));
    }
    let mut from = 0;
    for (output, size) in node.output.iter().zip(sizes) {
        let made = select(rows, (from..from + size).collect(), values)?;
        values.name(output, Known::Rows(made))?;
        from += size;
    }
    Ok(())
}

/// A value as numbers of a kind.
pub(super) fn to_kind(rows: Rows, kind: Kind, values: &mut Values<'_>) -> Result<Rows, String> {
    let (width, from) = values.shape(rows);
    if from == kind {
        return Ok(rows);
    }
    let made = values.step(Operator::Cast, &[rows.value], width, kind)?;
    Ok(Rows {
        flat: rows.flat,
        ..made
    })
}

fn cast(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let attributes = Attributes::of(
        node,
        &[("to", AttributeType::Int), ("saturate", AttributeType::Int)],
    )?;
    let rows = one_input(node, values)?;
    let to = i32::try_from(attributes.integer("to", 0))
        .ok()
        .and_then(Element::of);
    let to = to.ok_or("casts to a type that is not understood")?;
    let (_, from) = values.shape(rows);
    let same_input = values
        .inputs
        .get(rows.value)
        .is_some_and(|input| input.element == to);
    let made = match (from, to.kind()) {
        (Kind::Whole, Kind::Whole) if same_input || to == Element::Int64 => rows,
        (_, Kind::Whole) => return Err("casts to whole numbers".into()),
        (_, kind) => to_kind(rows, kind, values)?,
    };
    make(node, made, values)
}

fn clip(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let attributes = Attributes::of(
        node,
        &[("min", AttributeType::Float), ("max", AttributeType::Float)],
    )?;
    let rows = rows_of(node.input.first().ok_or("has no input")?, values)?;
    let given = |name: &str| {
        node.attribute
            .iter()
            .any(|attribute| attribute.name == name)
    };
    let bound = |name: &str, at: usize| -> Result<Option<f64>, String> {
        if given(name) {
            return Ok(Some(attributes.float(name, 0.0)));
        }
        match optional(node, at, values)? {
            None => Ok(None),
            Some(bound) => Ok(Some(bound.scalar().ok_or("its bounds are not numbers")?)),
        }
    };
    let function = Elementwise::Clip(bound("min", 1)?, bound("max", 2)?);
    let made = elementwise(function, rows, values)?;
    make(node, made, values)
}
