//! What is checked of a graph before the engine sees it: that it is a dense network over rows, made
//! of known operators with constant weights, and how wide each of its values is.
//!
//! The engine trusts its graph: it opens files that a weight names, folds constants of any size and
//! may panic on shapes that cannot be. Every value here is `[rows, width]` or a weight that is in
//! the file, so memory and time have a bound that is known before the first multiplication.

use std::collections::HashMap;

use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType,
    tensor_shape_proto, type_proto,
};

use crate::shown;

/// A graph that was checked: one input of `[rows, width]`, one output of `[rows, 1]`.
#[derive(Debug)]
pub(super) struct DenseGraph {
    pub(super) input: String,
    pub(super) output: String,
    pub(super) width: usize,
    proto: ModelProto,
}

impl DenseGraph {
    /// Checks a decoded model and keeps of it what the checks covered, nothing else.
    pub(super) fn check(model: ModelProto) -> Result<Self, String> {
        let opset = opset(&model)?;
        if !model.functions.is_empty() {
            return Err("it defines functions of its own".into());
        }
        let graph = model.graph.ok_or("it has no graph")?;
        if !graph.sparse_initializer.is_empty() {
            return Err("it has sparse weights".into());
        }
        if graph.node.len() > MAX_NODES {
            return Err(format!("it has more than {MAX_NODES} nodes"));
        }

        let mut values = Values::default();
        for weight in &graph.initializer {
            values.insert(&weight.name, Value::Weight(weight_shape(weight)?))?;
        }
        let (input, width) = input(&graph)?;
        values.insert(&input, Value::Rows(width))?;
        for node in &graph.node {
            let value = infer(node, &values).map_err(|why| {
                format!(
                    "node \"{}\" ({}): {why}",
                    shown(&node.name),
                    shown(&node.op_type)
                )
            })?;
            values.insert(&node.output[0], value)?;
        }
        let output = output(&graph, &values)?;

        let proto = ModelProto {
            ir_version: model.ir_version,
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: opset,
            }],
            graph: Some(GraphProto {
                node: graph.node,
                initializer: graph.initializer,
                input: vec![ValueInfoProto {
                    name: input.clone(),
                    ..Default::default()
                }],
                output: vec![ValueInfoProto {
                    name: output.clone(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        Ok(Self {
            input,
            output,
            width,
            proto,
        })
    }

    /// The model with a batch of a fixed number of rows: free of names and expressions that the
    /// checks did not cover.
    pub(super) fn into_proto(mut self, rows: usize) -> ModelProto {
        let shape = TensorShapeProto {
            dim: [rows, self.width]
                .map(|size| tensor_shape_proto::Dimension {
                    denotation: String::new(),
                    value: Some(dimension::Value::DimValue(size as i64)),
                })
                .into(),
        };
        let tensor = type_proto::Tensor {
            elem_type: DataType::Float as i32,
            shape: Some(shape),
        };
        if let Some(graph) = &mut self.proto.graph {
            for input in &mut graph.input {
                input.r#type = Some(TypeProto {
                    denotation: String::new(),
                    value: Some(type_proto::Value::TensorType(tensor.clone())),
                });
            }
        }
        self.proto
    }
}

/// The operator sets in which the operators below mean the same, and that the engine is tested on.
const OPSETS: std::ops::RangeInclusive<i64> = 9..=18;
const MAX_NODES: usize = 1024;
const MAX_WIDTH: usize = 4096;
/// Of all values together: what one row may take in memory, in numbers.
const MAX_TOTAL_WIDTH: usize = 32 * 1024;

#[derive(Debug, Clone, PartialEq)]
enum Value {
    /// A constant of the given shape.
    Weight(Vec<usize>),
    /// Depends on the input: as many rows as the batch, of the given width.
    Rows(usize),
}

/// The values known so far, by name. A name is given once.
#[derive(Default)]
struct Values {
    by_name: HashMap<String, Value>,
    total_width: usize,
}

impl Values {
    fn insert(&mut self, name: &str, value: Value) -> Result<(), String> {
        if let Value::Rows(width) = value {
            if width > MAX_WIDTH {
                return Err(format!("\"{}\" is wider than {MAX_WIDTH}", shown(name)));
            }
            self.total_width += width;
            if self.total_width > MAX_TOTAL_WIDTH {
                return Err(format!(
                    "its values take more than {MAX_TOTAL_WIDTH} numbers a row"
                ));
            }
        }
        if name.is_empty() {
            return Err("a value has no name".into());
        }
        if self.by_name.insert(name.to_owned(), value).is_some() {
            return Err(format!("\"{}\" is made twice", shown(name)));
        }
        Ok(())
    }

    fn of(&self, name: &str) -> Result<&Value, String> {
        self.by_name
            .get(name)
            .ok_or_else(|| format!("\"{}\" is not made before it", shown(name)))
    }
}

fn opset(model: &ModelProto) -> Result<i64, String> {
    let mut versions = model
        .opset_import
        .iter()
        .filter(|set| is_default_domain(&set.domain));
    let version = versions
        .next()
        .map(|set| set.version)
        .ok_or("it names no operator set")?;
    if versions.next().is_some() {
        return Err("it names its operator set twice".into());
    }
    if !OPSETS.contains(&version) {
        return Err(format!(
            "operator set {version}; {} to {} are understood",
            OPSETS.start(),
            OPSETS.end()
        ));
    }
    Ok(version)
}

fn is_default_domain(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// The one input that is not a weight, and its width.
fn input(graph: &GraphProto) -> Result<(String, usize), String> {
    let is_weight = |name: &str| graph.initializer.iter().any(|weight| weight.name == name);
    let mut inputs = graph.input.iter().filter(|input| !is_weight(&input.name));
    let (Some(input), None) = (inputs.next(), inputs.next()) else {
        return Err("it must have one input".into());
    };
    let dimensions = float_dimensions(input).ok_or("its input is not a matrix of f32")?;
    let [_rows, width] = dimensions[..] else {
        return Err(format!(
            "its input has {} dimensions, not 2",
            dimensions.len()
        ));
    };
    let width = width
        .and_then(|width| usize::try_from(width).ok())
        .filter(|width| (1..=MAX_WIDTH).contains(width))
        .ok_or_else(|| format!("its input is not between 1 and {MAX_WIDTH} wide"))?;
    Ok((input.name.clone(), width))
}

/// The one output, which must be one number a row.
fn output(graph: &GraphProto, values: &Values) -> Result<String, String> {
    let [output] = &graph.output[..] else {
        return Err("it must have one output".into());
    };
    match values.of(&output.name)? {
        Value::Rows(1) => Ok(output.name.clone()),
        Value::Rows(width) => Err(format!("its output is {width} numbers a row, not 1")),
        Value::Weight(_) => Err("its output does not depend on its input".into()),
    }
}

/// The declared dimensions of an f32 tensor; a symbolic one is `None`.
fn float_dimensions(value: &ValueInfoProto) -> Option<Vec<Option<i64>>> {
    let type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    if tensor.elem_type != DataType::Float as i32 {
        return None;
    }
    let dimensions = &tensor.shape.as_ref()?.dim;
    Some(
        dimensions
            .iter()
            .map(|dimension| match dimension.value {
                Some(dimension::Value::DimValue(size)) => Some(size),
                _ => None,
            })
            .collect(),
    )
}

/// The shape of a weight, whose numbers must all be in the file and finite.
fn weight_shape(weight: &TensorProto) -> Result<Vec<usize>, String> {
    let refused = |why: &str| Err(format!("weight \"{}\" {why}", shown(&weight.name)));
    if weight.data_type != DataType::Float as i32 {
        return refused("is not f32");
    }
    let in_another_file = weight
        .data_location
        .is_some_and(|at| at != DataLocation::Default as i32);
    if in_another_file || !weight.external_data.is_empty() {
        return refused("is in another file");
    }
    if weight.segment.is_some() {
        return refused("is in segments");
    }
    if weight.dims.len() > 2 {
        return refused("has more than 2 dimensions");
    }
    let Ok(shape) = weight
        .dims
        .iter()
        .map(|&size| usize::try_from(size))
        .collect::<Result<Vec<_>, _>>()
    else {
        return refused("has a negative dimension");
    };
    if shape.contains(&0) {
        return refused("is empty");
    }
    let Some(count) = shape
        .iter()
        .try_fold(1_usize, |count, &size| count.checked_mul(size))
    else {
        return refused("is larger than memory");
    };
    let finite = if weight.raw_data.is_empty() {
        if weight.float_data.len() != count {
            return refused("has another number of values than its shape");
        }
        weight.float_data.iter().all(|value| value.is_finite())
    } else {
        if !weight.float_data.is_empty() || Some(weight.raw_data.len()) != count.checked_mul(4) {
            return refused("has another number of values than its shape");
        }
        weight.raw_data.chunks_exact(4).all(|bytes| {
            bytes
                .try_into()
                .is_ok_and(|bytes| f32::from_le_bytes(bytes).is_finite())
        })
    };
    if !finite {
        return refused("holds a value that is not finite");
    }
    Ok(shape)
}

/// The one value that a node makes, by the rules of its operator (ONNX "Operators").
fn infer(node: &NodeProto, values: &Values) -> Result<Value, String> {
    if !is_default_domain(&node.domain) {
        return Err(format!("of the unknown domain \"{}\"", shown(&node.domain)));
    }
    if node.output.len() != 1 {
        return Err(format!("{} outputs, not 1", node.output.len()));
    }
    let inputs = node
        .input
        .iter()
        .map(|name| values.of(name))
        .collect::<Result<Vec<_>, _>>()?;
    match (node.op_type.as_str(), &inputs[..]) {
        ("Relu" | "Sigmoid" | "Tanh" | "Identity", [Value::Rows(width)]) => {
            attributes(node, &[])?;
            Ok(Value::Rows(*width))
        }
        ("LeakyRelu", [Value::Rows(width)]) => {
            attributes(node, &[("alpha", AttributeType::Float)])?;
            Ok(Value::Rows(*width))
        }
        ("Add" | "Sub" | "Mul" | "Div", [a, b]) => {
            attributes(node, &[])?;
            elementwise(a, b)
        }
        ("MatMul", [Value::Rows(width), Value::Weight(shape)]) => {
            attributes(node, &[])?;
            product(*width, shape)
        }
        ("Gemm", [Value::Rows(width), Value::Weight(shape), bias @ ..]) if bias.len() <= 1 => {
            gemm(node, *width, shape, bias.first().copied())
        }
        ("BatchNormalization", [Value::Rows(width), statistics @ ..]) => {
            let known = [
                ("epsilon", AttributeType::Float),
                ("momentum", AttributeType::Float),
                ("training_mode", AttributeType::Int),
            ];
            attributes(node, &known)?;
            if integer(node, "training_mode") != 0 {
                return Err("in training mode".into());
            }
            let vector = Value::Weight(vec![*width]);
            if statistics.len() != 4 || statistics.iter().any(|value| **value != vector) {
                return Err("needs four weights as wide as its input".into());
            }
            Ok(Value::Rows(*width))
        }
        ("Constant", []) => {
            attributes(node, &[("value", AttributeType::Tensor)])?;
            let weight = node
                .attribute
                .first()
                .and_then(|attribute| attribute.t.as_ref());
            Ok(Value::Weight(weight_shape(weight.ok_or("has no value")?)?))
        }
        (
            "Relu" | "Sigmoid" | "Tanh" | "Identity" | "LeakyRelu" | "MatMul" | "Gemm"
            | "BatchNormalization" | "Add" | "Sub" | "Mul" | "Div" | "Constant",
            _,
        ) => Err("its inputs are not those of a dense layer over rows".into()),
        _ => Err("unknown operator".into()),
    }
}

fn product(width: usize, shape: &[usize]) -> Result<Value, String> {
    match *shape {
        [rows, columns] if rows == width => Ok(Value::Rows(columns)),
        _ => Err(format!(
            "a weight of shape {shape:?} does not fit {width} columns"
        )),
    }
}

fn gemm(
    node: &NodeProto,
    width: usize,
    shape: &[usize],
    bias: Option<&Value>,
) -> Result<Value, String> {
    let known = [
        ("alpha", AttributeType::Float),
        ("beta", AttributeType::Float),
        ("transA", AttributeType::Int),
        ("transB", AttributeType::Int),
    ];
    attributes(node, &known)?;
    if integer(node, "transA") != 0 {
        return Err("transposes its rows".into());
    }
    let shape: Vec<usize> = match integer(node, "transB") {
        0 => shape.to_vec(),
        1 => shape.iter().rev().copied().collect(),
        _ => return Err("transB is neither 0 nor 1".into()),
    };
    let product = product(width, &shape)?;
    match bias {
        None => Ok(product),
        Some(bias @ Value::Weight(_)) => elementwise(&product, bias),
        Some(Value::Rows(_)) => Err("its bias depends on the rows".into()),
    }
}

/// Numpy's broadcasting, as far as it leaves the rows as they are.
fn elementwise(a: &Value, b: &Value) -> Result<Value, String> {
    match (a, b) {
        (Value::Rows(a), Value::Rows(b)) if a == b => Ok(Value::Rows(*a)),
        (Value::Rows(width), Value::Weight(shape)) | (Value::Weight(shape), Value::Rows(width)) => {
            match shape[..] {
                [] | [1] | [1, 1] => Ok(Value::Rows(*width)),
                [columns] | [1, columns] if columns == *width => Ok(Value::Rows(*width)),
                _ => Err(format!(
                    "a weight of shape {shape:?} does not fit {width} columns"
                )),
            }
        }
        (Value::Rows(a), Value::Rows(b)) => Err(format!("{a} and {b} columns")),
        (Value::Weight(_), Value::Weight(_)) => Err("has constants only".into()),
    }
}

/// Fails on an attribute that is not known or not of its type.
fn attributes(node: &NodeProto, known: &[(&str, AttributeType)]) -> Result<(), String> {
    for (at, attribute) in node.attribute.iter().enumerate() {
        let AttributeProto {
            name,
            ref_attr_name,
            ..
        } = attribute;
        let type_ok = known
            .iter()
            .any(|(known, kind)| known == name && attribute.r#type == *kind as i32);
        let twice = node.attribute[..at]
            .iter()
            .any(|before| before.name == *name);
        if !type_ok || twice || !ref_attr_name.is_empty() || !attribute.f.is_finite() {
            return Err(format!("attribute \"{}\" is not understood", shown(name)));
        }
    }
    Ok(())
}

/// The value of an integer attribute, whose default is 0.
fn integer(node: &NodeProto, name: &str) -> i64 {
    node.attribute
        .iter()
        .find(|attribute| attribute.name == name)
        .map_or(0, |found| found.i)
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::{FunctionProto, StringStringEntryProto};
    use tract_onnx::prelude::Framework;

    use super::*;

    fn good() -> ModelProto {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/fraud/model.onnx");
        tract_onnx::onnx().proto_model_for_path(path).unwrap()
    }

    /// The refusal after one change.
    fn refusal(change: impl FnOnce(&mut ModelProto)) -> String {
        let mut model = good();
        change(&mut model);
        DenseGraph::check(model).unwrap_err()
    }

    fn graph_refusal(change: impl FnOnce(&mut GraphProto)) -> String {
        refusal(|model| change(model.graph.as_mut().unwrap()))
    }

    fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: op_type.to_owned(),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            ..Default::default()
        }
    }

    fn weight(name: &str, dims: &[i64], values: usize) -> TensorProto {
        TensorProto {
            name: name.to_owned(),
            dims: dims.to_vec(),
            data_type: DataType::Float as i32,
            float_data: vec![0.5; values],
            ..Default::default()
        }
    }

    fn integer_attribute(name: &str, value: i64) -> AttributeProto {
        AttributeProto {
            name: name.to_owned(),
            r#type: AttributeType::Int as i32,
            i: value,
            ..Default::default()
        }
    }

    #[test]
    fn tutorial_form_is_refused() {
        let graph = DenseGraph::check(good()).unwrap();
        assert_eq!(
            (graph.input.as_str(), graph.output.as_str()),
            ("dense_input", "dense_3")
        );
        assert_eq!(graph.width, 5);
    }

    #[test]
    fn weight_names_a_file_of_the_machine() {
        let error = graph_refusal(|graph| {
            graph.initializer[0].external_data = vec![StringStringEntryProto {
                key: "location".to_owned(),
                value: "/etc/passwd".to_owned(),
            }];
        });
        assert!(error.contains("is in another file"), "{error}");
        let error = graph_refusal(|graph| {
            graph.initializer[0].data_location = Some(DataLocation::External as i32);
        });
        assert!(error.contains("is in another file"), "{error}");
    }

    #[test]
    fn weight_shorter_than_its_shape() {
        let error = graph_refusal(|graph| {
            graph.initializer[0].raw_data.pop();
        });
        assert!(error.contains("another number of values"), "{error}");
        let error = graph_refusal(|graph| graph.initializer[0].float_data = vec![1.0]);
        assert!(error.contains("another number of values"), "{error}");
    }

    #[test]
    fn weight_of_a_shape_that_overflows() {
        let error = graph_refusal(|graph| graph.initializer[0].dims = vec![i64::MAX, i64::MAX]);
        assert!(error.contains("larger than memory"), "{error}");
        let error = graph_refusal(|graph| graph.initializer[0].dims = vec![-5, -32]);
        assert!(error.contains("negative"), "{error}");
        let error = graph_refusal(|graph| graph.initializer[0].dims = vec![0, 32]);
        assert!(error.contains("is empty"), "{error}");
        let error = graph_refusal(|graph| graph.initializer[0].dims = vec![1, 5, 32]);
        assert!(error.contains("more than 2 dimensions"), "{error}");
    }

    #[test]
    fn weight_that_is_not_finite() {
        let error = graph_refusal(|graph| {
            graph.initializer[0].raw_data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        });
        assert!(error.contains("not finite"), "{error}");
    }

    #[test]
    fn weight_of_another_type() {
        let error = graph_refusal(|graph| graph.initializer[0].data_type = DataType::Double as i32);
        assert!(error.contains("is not f32"), "{error}");
    }

    #[test]
    fn unknown_operator() {
        let error = graph_refusal(|graph| graph.node[2].op_type = "Loop".to_owned());
        assert!(error.contains("(Loop): unknown operator"), "{error}");
    }

    #[test]
    fn operator_of_another_domain() {
        let error = graph_refusal(|graph| graph.node[2].domain = "com.example".to_owned());
        assert!(error.contains("unknown domain"), "{error}");
    }

    #[test]
    fn operators_of_its_own() {
        let error = refusal(|model| model.functions.push(FunctionProto::default()));
        assert!(error.contains("functions"), "{error}");
    }

    #[test]
    fn operator_set_that_nobody_tested() {
        for version in [0, 8, 19, i64::MIN] {
            let error = refusal(|model| model.opset_import[0].version = version);
            assert!(error.contains("operator set"), "{error}");
        }
        assert!(refusal(|model| model.opset_import.clear()).contains("no operator set"));
    }

    #[test]
    fn no_graph() {
        assert_eq!(refusal(|model| model.graph = None), "it has no graph");
    }

    #[test]
    fn constants_that_fold_into_something_huge() {
        let error = graph_refusal(|graph| {
            graph.initializer.push(weight("tall", &[4000, 1], 4000));
            graph.initializer.push(weight("wide", &[1, 4000], 4000));
            graph
                .node
                .insert(0, node("Mul", &["tall", "wide"], "square"));
        });
        assert!(error.contains("constants only"), "{error}");
    }

    #[test]
    fn weight_that_multiplies_the_rows() {
        let error = graph_refusal(|graph| {
            graph.initializer.push(weight("tall", &[4000, 1], 4000));
            graph
                .node
                .insert(0, node("Mul", &["dense_input", "tall"], "more"));
        });
        assert!(error.contains("does not fit 5 columns"), "{error}");
    }

    #[test]
    fn values_wider_than_memory() {
        let error = graph_refusal(|graph| {
            graph.initializer.push(weight("wide", &[5, 4097], 5 * 4097));
            graph
                .node
                .insert(0, node("MatMul", &["dense_input", "wide"], "wider"));
        });
        assert!(error.contains("wider than"), "{error}");
        let error = graph_refusal(|graph| {
            graph.initializer.push(weight("wide", &[5, 4096], 5 * 4096));
            for at in 0..9 {
                let name = format!("wider{at}");
                graph
                    .node
                    .insert(0, node("MatMul", &["dense_input", "wide"], &name));
            }
        });
        assert!(error.contains("numbers a row"), "{error}");
    }

    #[test]
    fn more_nodes_than_a_network_has() {
        let error = graph_refusal(|graph| {
            for at in 0..MAX_NODES {
                graph
                    .node
                    .push(node("Relu", &["dense_3"], &format!("relu{at}")));
            }
        });
        assert!(error.contains("nodes"), "{error}");
    }

    #[test]
    fn value_used_before_it_is_made() {
        let error = graph_refusal(|graph| graph.node.swap(0, 1));
        assert!(error.contains("is not made before it"), "{error}");
        let error = graph_refusal(|graph| {
            let own = graph.node[0].output[0].clone();
            graph.node[0].input[0] = own;
        });
        assert!(error.contains("is not made before it"), "{error}");
    }

    #[test]
    fn value_made_twice() {
        let error = graph_refusal(|graph| {
            let node = graph.node[0].clone();
            graph.node.push(node);
        });
        assert!(error.contains("is made twice"), "{error}");
    }

    #[test]
    fn two_inputs() {
        let error = graph_refusal(|graph| {
            let mut second = graph.input[0].clone();
            second.name = "more".to_owned();
            graph.input.push(second);
        });
        assert_eq!(error, "it must have one input");
    }

    #[test]
    fn input_of_unknown_width() {
        let error = graph_refusal(|graph| {
            let Some(type_proto::Value::TensorType(tensor)) =
                &mut graph.input[0].r#type.as_mut().unwrap().value
            else {
                panic!("a tensor");
            };
            tensor.shape.as_mut().unwrap().dim[1].value = None;
        });
        assert!(error.contains("wide"), "{error}");
    }

    #[test]
    fn two_outputs() {
        let error = graph_refusal(|graph| {
            let output = graph.output[0].clone();
            graph.output.push(output);
        });
        assert_eq!(error, "it must have one output");
    }

    #[test]
    fn output_of_several_numbers_a_row() {
        let error = graph_refusal(|graph| graph.output[0].name = "dense/Relu".to_owned());
        assert!(error.contains("32 numbers a row"), "{error}");
    }

    #[test]
    fn output_that_is_a_constant() {
        let error = graph_refusal(|graph| graph.output[0].name = "dense/bias".to_owned());
        assert!(error.contains("does not depend"), "{error}");
    }

    #[test]
    fn attribute_that_changes_the_meaning() {
        let mut gemm = node("Gemm", &["dense_input", "w"], "g");
        gemm.attribute.push(integer_attribute("transA", 1));
        let error = graph_refusal(|graph| {
            graph.initializer.push(weight("w", &[5, 32], 160));
            graph.node.insert(0, gemm);
        });
        assert!(error.contains("transposes its rows"), "{error}");
        let error =
            graph_refusal(|graph| graph.node[0].attribute.push(integer_attribute("axis", 1)));
        assert!(error.contains("\"axis\" is not understood"), "{error}");
    }
}
