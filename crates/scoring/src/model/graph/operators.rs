//! The operators of the default domain (ONNX, "Operators"), as far as they leave rows as they are.

use tract_onnx::pb::NodeProto;
use tract_onnx::pb::attribute_proto::AttributeType;

use super::attributes::Attributes;
use super::combine::with_constant;
use super::elements::Elementwise;
use super::weights::Weight;
use super::{
    Arithmetic, Element, Form, Kind, Known, LEARNED, Numbers, Operator, Rows, Values, combine,
    learned, reduce,
};
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
        "Identity" => identity(node, values),
        "Transpose" => transpose(node, values),
        "Not" => {
            Attributes::of(node, &[])?;
            let rows = one_input(node, values)?;
            if values.shape(rows).1 != Kind::Truth {
                return Err("its input is not made of truth values".into());
            }
            let made = function_to(Elementwise::Not, rows, Kind::Truth, values)?;
            make(node, made, values)
        }
        "IsNaN" => {
            Attributes::of(node, &[])?;
            let rows = one_input(node, values)?;
            arithmetic_shape(rows, values)?;
            let made = function_to(Elementwise::IsNan, rows, Kind::Truth, values)?;
            make(node, made, values)
        }
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
            let rows = one_input(node, values)?;
            let form = match (rows.form, axis) {
                (Form::Matrix, 1 | -1) | (Form::Deep(_), 1 | -2) => Form::Matrix,
                _ => return Err(CHANGES_ROWS.into()),
            };
            make(node, Rows { form, ..rows }, values)
        }
        "Reshape" => reshape(node, values),
        "Squeeze" | "Unsqueeze" => squeeze(node, values),
        "Softmax" => reduce::softmax(node, values),
        "LayerNormalization" => reduce::layer_normalization(node, values),
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" => reduce::read(node, values),
        "Concat" => concat(node, values),
        "Gather" => gather(node, values),
        "Slice" => slice(node, values),
        "Split" => split(node, values),
        "Cast" => cast(node, values),
        "Clip" => clip(node, values),
        _ => combine::read(node, values),
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
    match rows.form {
        Form::Matrix => Ok(rows),
        Form::Flat => Err("its input has one dimension, not 2".into()),
        Form::Deep(_) => Err("its input has three dimensions, not 2".into()),
    }
}

/// The shape of a value that is calculated with.
pub(super) fn arithmetic_shape(rows: Rows, values: &Values<'_>) -> Result<(usize, Kind), String> {
    match values.shape(rows) {
        (_, Kind::Whole) => {
            Err("calculates with whole numbers; they are cast to float first".into())
        }
        (_, Kind::Truth) => {
            Err("calculates with truth values; they are cast to float first".into())
        }
        shape => Ok(shape),
    }
}

pub(super) fn elementwise(
    function: Elementwise,
    rows: Rows,
    values: &mut Values<'_>,
) -> Result<Rows, String> {
    let (_, kind) = arithmetic_shape(rows, values)?;
    function_to(function, rows, kind, values)
}

/// A function whose result is of another kind than what it takes.
fn function_to(
    function: Elementwise,
    rows: Rows,
    kind: Kind,
    values: &mut Values<'_>,
) -> Result<Rows, String> {
    let (width, _) = values.shape(rows);
    let made = values.step(Operator::Elementwise(function), &[rows.value], width, kind)?;
    Ok(Rows {
        form: rows.form,
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
        "value" => Weight::read(
            attributes.tensor("value").ok_or("has no value")?,
            &values.beside,
        )?,
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
pub(super) fn optional<'v>(
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
    let form = match shape[..] {
        [-1] if width == 1 => Form::Flat,
        [0] if rows.form == Form::Flat => Form::Flat,
        [-1, columns] if usize::try_from(columns) == Ok(width) => Form::Matrix,
        [0, columns] if columns == -1 || usize::try_from(columns) == Ok(width) => Form::Matrix,
        _ => return Err(CHANGES_ROWS.into()),
    };
    make(node, Rows { form, ..rows }, values)
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
    let (width, _) = values.shape(rows);
    let form = match (node.op_type.as_str(), rows.form, &axes[..]) {
        ("Squeeze", Form::Matrix, [1 | -1]) if width == 1 => Form::Flat,
        ("Squeeze", Form::Deep(1), [1 | -2]) => Form::Matrix,
        ("Squeeze", Form::Deep(count), [2 | -1]) if count == width => Form::Matrix,
        ("Unsqueeze", Form::Flat, [1 | -1]) => Form::Matrix,
        _ => return Err(CHANGES_ROWS.into()),
    };
    make(node, Rows { form, ..rows }, values)
}

/// Fails on any axis but that of the columns.
pub(super) fn column_axis(axis: i64) -> Result<(), String> {
    match axis {
        1 | -1 => Ok(()),
        _ => Err("works across the rows".into()),
    }
}

fn concat(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let axis = Attributes::of(node, &[("axis", AttributeType::Int)])?.integer("axis", 0);
    let (mut of, mut width, mut types) = (Vec::new(), 0, Vec::new());
    for name in &node.input {
        let rows = rows_of(name, values)?;
        let (columns, kind) = values.shape(rows);
        width += columns;
        types.push((kind, rows.form));
        of.push(rows.value);
    }
    types.dedup();
    let [(kind, form)] = types[..] else {
        return Err("its inputs are of different types or dimensions".into());
    };
    match (form, axis) {
        (Form::Deep(1), 2 | -1) => {}
        (Form::Matrix, axis) => column_axis(axis)?,
        _ => return Err("works across the rows".into()),
    }
    let made = values.step(Operator::Concat, &of, width, kind)?;
    make(node, Rows { form, ..made }, values)
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
    let axis = Attributes::of(node, &[("axis", AttributeType::Int)])?.integer("axis", 0);
    let [rows, indices] = &node.input[..] else {
        return Err(format!("{} inputs, not 2", node.input.len()));
    };
    if let (Known::Weight(_), Known::Rows(indices)) = (values.of(rows)?, values.of(indices)?) {
        let indices = *indices;
        return embedding(node, axis, indices, values);
    }
    column_axis(axis)?;
    let rows = matrix(rows_of(rows, values)?)?;
    let indices = optional(node, 1, values)?.ok_or("its indices are not in the file")?;
    let form = if indices.shape.is_empty() {
        Form::Flat
    } else {
        Form::Matrix
    };
    let (width, _) = values.shape(rows);
    let places = indices
        .integers()
        .ok_or("its indices are not a list of whole numbers")?;
    let places = places
        .into_iter()
        .map(|at| place(at, width))
        .collect::<Result<_, _>>()?;
    let made = select(rows, places, values)?;
    make(node, Rows { form, ..made }, values)
}

/// Entries of a table in the file, by whole numbers of the rows.
fn embedding(
    node: &NodeProto,
    axis: i64,
    indices: Rows,
    values: &mut Values<'_>,
) -> Result<(), String> {
    let (count, kind) = values.shape(indices);
    let Known::Weight(table) = values.of(&node.input[0])? else {
        return Err("its table is not in the file".into());
    };
    if axis != 0 || kind != Kind::Whole {
        return Err("takes no entries of a table by whole numbers".into());
    }
    let made_kind = table.element.kind();
    let (long, form) = match (&table.shape[..], indices.form) {
        ([_], Form::Flat | Form::Matrix) => (1, indices.form),
        ([_, long], Form::Flat) => (*long, Form::Matrix),
        ([_, long], Form::Matrix) => (*long, Form::Deep(count)),
        _ => return Err("its table has not one or two dimensions".into()),
    };
    let table = table.numbers.clone();
    let width = count.checked_mul(long).ok_or("is larger than memory")?;
    let made = values.step(
        Operator::Embed { table, long },
        &[indices.value],
        width,
        made_kind,
    )?;
    make(node, Rows { form, ..made }, values)
}

fn identity(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    Attributes::of(node, &[])?;
    let ([input], [output]) = (&node.input[..], &node.output[..]) else {
        return Err("has not one input and one output".into());
    };
    let known = match values.of(input)? {
        Known::Rows(rows) => Known::Rows(*rows),
        Known::Weight(weight) => {
            let weight = weight.clone();
            values.account_weights(weight.numbers.len())?;
            Known::Weight(weight)
        }
    };
    values.name(output, known)
}

/// Of a constant only: rows stay rows.
fn transpose(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let attributes = Attributes::of(node, &[("perm", AttributeType::Ints)])?;
    let ([input], [output]) = (&node.input[..], &node.output[..]) else {
        return Err("has not one input and one output".into());
    };
    let Known::Weight(weight) = values.of(input)? else {
        return Err("transposes its rows".into());
    };
    let made = match (&weight.shape[..], attributes.integers("perm")) {
        ([_, _], Some([0, 1])) | ([] | [_], None) | ([], Some([])) | ([_], Some([0])) => {
            weight.clone()
        }
        (&[tall, wide], None | Some([1, 0])) => {
            let numbers = &weight.numbers;
            let column = |at| numbers.iter().skip(at).step_by(wide).copied();
            let turned: Vec<f64> = (0..wide).flat_map(column).collect();
            Weight::new(vec![wide, tall], weight.element, turned)
        }
        _ => return Err("its perm does not fit its constant".into()),
    };
    values.account_weights(made.numbers.len())?;
    values.name(output, Known::Weight(made))
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

/// A value as numbers of a kind of floating point.
pub(super) fn to_kind(rows: Rows, kind: Kind, values: &mut Values<'_>) -> Result<Rows, String> {
    let (width, from) = values.shape(rows);
    if from == kind {
        return Ok(rows);
    }
    let made = values.step(Operator::Cast, &[rows.value], width, kind)?;
    Ok(Rows {
        form: rows.form,
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
        (Kind::Truth, Kind::Truth) => rows,
        (Kind::Whole, Kind::Whole) if same_input || to == Element::Int64 => rows,
        (_, Kind::Whole) => {
            // f64 has every whole number up to these.
            let (least, most) = match to {
                Element::Int32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
                _ => (-MOST_WHOLE, MOST_WHOLE),
            };
            function_to(
                Elementwise::Truncate { least, most },
                rows,
                Kind::Whole,
                values,
            )?
        }
        (_, Kind::Truth) => function_to(Elementwise::IsNotZero, rows, Kind::Truth, values)?,
        (_, kind) => to_kind(rows, kind, values)?,
    };
    make(node, made, values)
}

const MOST_WHOLE: f64 = 9_007_199_254_740_992.0;

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
