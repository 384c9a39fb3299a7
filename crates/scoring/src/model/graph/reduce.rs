//! Operators that take a whole row: sums and the like along the columns, and what normalizes rows.

use tract_onnx::pb::NodeProto;
use tract_onnx::pb::attribute_proto::AttributeType;

use super::attributes::Attributes;
use super::operators::{arithmetic_shape, column_axis, make, matrix, one_input, optional, rows_of};
use super::weights::Weight;
use super::{Form, Known, LayerNorm, Numbers, Operator, Reduction, Rows, Values};

/// Reads a node that reduces each row to a number.
pub(super) fn read(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let reduction = match node.op_type.as_str() {
        "ReduceSum" => Reduction::Sum,
        "ReduceMean" => Reduction::Mean,
        "ReduceMax" => Reduction::Max,
        _ => Reduction::Min,
    };
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
    let made = values.step(Operator::Reduce(reduction), &[rows.value], 1, kind)?;
    let form = match attributes.integer("keepdims", 1) {
        0 => Form::Flat,
        _ => Form::Matrix,
    };
    make(node, Rows { form, ..made }, values)
}

pub(super) fn softmax(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    // Before operator set 13 all axes from this one on were taken together: of two, the same.
    let axis = Attributes::of(node, &[("axis", AttributeType::Int)])?;
    let axis = axis.integer("axis", if values.opset < 13 { 1 } else { -1 });
    let rows = matrix(one_input(node, values)?)?;
    let (width, kind) = arithmetic_shape(rows, values)?;
    column_axis(axis)?;
    let made = values.step(Operator::Softmax, &[rows.value], width, kind)?;
    make(node, made, values)
}

pub(super) fn layer_normalization(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let known = [
        ("axis", AttributeType::Int),
        ("epsilon", AttributeType::Float),
        ("stash_type", AttributeType::Int),
    ];
    let attributes = Attributes::of(node, &known)?;
    column_axis(attributes.integer("axis", -1))?;
    if attributes.integer("stash_type", 1) != 1 {
        return Err("calculates in a type that is not understood".into());
    }
    let rows = matrix(rows_of(node.input.first().ok_or("has no input")?, values)?)?;
    let (width, kind) = arithmetic_shape(rows, values)?;
    let setting = |at: usize| -> Result<Option<Numbers>, String> {
        let Some(weight) = optional(node, at, values)? else {
            return Ok(None);
        };
        if weight.shape != [width] || weight.element.kind() != kind {
            return Err(format!("its constants do not fit {width} columns"));
        }
        Ok(Some(weight.numbers.clone()))
    };
    let settings = LayerNorm {
        epsilon: attributes.float("epsilon", 1e-5),
        scale: setting(1)?.ok_or("has no scale")?,
        shift: setting(2)?.unwrap_or_default(),
    };
    let made = values.step(Operator::LayerNorm(settings), &[rows.value], width, kind)?;
    // The mean and the deviation are made for training: whoever takes them finds that they are not there.
    match &node.output[..] {
        [output, ..] => values.name(output, Known::Rows(made)),
        [] => Err("has no output".into()),
    }
}
