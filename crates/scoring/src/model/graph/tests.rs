//! What is refused of a graph, and why.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::{AttributeProto, FunctionProto, OperatorSetIdProto, StringStringEntryProto};
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
    Graph::check(&model, None, None)
        .err()
        .expect("taken for a graph")
}

fn graph_refusal(change: impl FnOnce(&mut GraphProto)) -> String {
    refusal(|model| change(model.graph.as_mut().unwrap()))
}

/// The refusal where the first node is another one, with weights of its own.
fn first_refusal(mut node: NodeProto, weights: &[TensorProto]) -> String {
    graph_refusal(|graph| {
        node.output = graph.node[0].output.clone();
        graph.node[0] = node;
        graph.initializer.extend_from_slice(weights);
    })
}

fn node(op_type: &str, inputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: op_type.to_owned(),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        ..NodeProto::default()
    }
}

/// A node after the rows.
fn on_rows(op_type: &str, more: &[&str], attributes: &[AttributeProto]) -> NodeProto {
    let mut node = node(op_type, &[&["dense_input"], more].concat());
    node.attribute = attributes.to_vec();
    node
}

fn weight(name: &str, dims: &[i64], values: usize) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        float_data: vec![0.5; values],
        ..TensorProto::default()
    }
}

fn whole(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: vec![values.len() as i64],
        data_type: DataType::Int64 as i32,
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..AttributeProto::default()
    }
}

fn assert_has(error: &str, why: &str) {
    assert!(error.contains(why), "{error}");
}

#[test]
fn tutorial_form_is_refused() {
    let graph = Graph::check(&good(), None, None).unwrap();
    assert_eq!(
        (graph.inputs[0].name.as_str(), graph.output.as_str()),
        ("dense_input", "dense_3")
    );
    assert_eq!(
        (graph.width(), graph.inputs[0].element),
        (5, Element::Float)
    );
    assert_eq!(graph.shape(graph.score.0), (1, Kind::Float));
}

#[test]
fn weight_names_a_file_of_the_machine() {
    let error = graph_refusal(|graph| {
        graph.initializer[0].external_data = vec![StringStringEntryProto {
            key: "location".to_owned(),
            value: "/etc/passwd".to_owned(),
        }];
    });
    assert_has(&error, "is in another file");
    let error = graph_refusal(|graph| {
        graph.initializer[0].data_location = Some(DataLocation::External as i32);
    });
    assert_has(&error, "is in another file");
}

/// A model whose first weight lies beside it, after some other bytes.
fn beside(location: &str, offset: &str, length: &str) -> (ModelProto, Vec<u8>) {
    let mut model = good();
    let weight = &mut model.graph.as_mut().unwrap().initializer[0];
    let entry = |key: &str, value: &str| StringStringEntryProto {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    weight.data_location = Some(DataLocation::External as i32);
    weight.external_data = vec![
        entry("location", location),
        entry("offset", offset),
        entry("length", length),
    ];
    let bytes = [&[7; 16], &std::mem::take(&mut weight.raw_data)[..]].concat();
    (model, bytes)
}

#[test]
fn weight_beside_the_model_is_lost() {
    let dense = |graph: &Graph| match &*graph.steps[0].operator {
        Operator::Dense { weights, .. } => weights.to_vec(),
        _ => panic!("a dense layer"),
    };
    let plain = Graph::check(&good(), None, None).unwrap();
    assert!(!plain.uses_beside);
    let (model, bytes) = beside("model.onnx.data", "16", "640");
    let graph = Graph::check(&model, Some(&bytes), None).unwrap();
    assert!(graph.uses_beside);
    assert_eq!(dense(&graph), dense(&plain));
    let error = Graph::check(&model, None, None).err().unwrap();
    assert_has(&error, "save_as_external_data=False");
}

#[test]
fn weight_leaves_the_file_beside_the_model() {
    for location in [
        "/etc/passwd",
        "../model.onnx.data",
        "./model.onnx.data",
        "weights.bin",
        "",
    ] {
        let (model, bytes) = beside(location, "16", "640");
        let error = Graph::check(&model, Some(&bytes), None).err().unwrap();
        assert_has(&error, "is in another file");
    }
    for (offset, length) in [
        ("17", "640"),
        ("18446744073709551615", "640"),
        ("99999999999999999999", "640"),
        ("-1", "640"),
        ("16", "639"),
        ("16", "641"),
        ("16", ""),
        ("0", "656"),
    ] {
        let (model, bytes) = beside("model.onnx.data", offset, length);
        let error = Graph::check(&model, Some(&bytes), None).err().unwrap();
        assert_has(&error, "lies beyond model.onnx.data");
    }
    let (mut model, bytes) = beside("model.onnx.data", "16", "640");
    let weight = &mut model.graph.as_mut().unwrap().initializer[0];
    weight.external_data.push(weight.external_data[0].clone());
    let error = Graph::check(&model, Some(&bytes), None).err().unwrap();
    assert_has(&error, "not understood");
    let (mut model, bytes) = beside("model.onnx.data", "16", "640");
    model.graph.as_mut().unwrap().initializer[0].raw_data = vec![0; 640];
    let error = Graph::check(&model, Some(&bytes), None).err().unwrap();
    assert_has(&error, "and in this one");
}

#[test]
fn weight_shorter_than_its_shape() {
    let error = graph_refusal(|graph| {
        graph.initializer[0].raw_data.pop();
    });
    assert_has(&error, "another number of values");
    let error = graph_refusal(|graph| graph.initializer[0].float_data = vec![1.0]);
    assert_has(&error, "another number of values");
    let error = graph_refusal(|graph| graph.initializer[0].data_type = DataType::Double as i32);
    assert_has(&error, "another number of values");
}

#[test]
fn weight_of_a_shape_that_overflows() {
    for (dims, why) in [
        (vec![i64::MAX, i64::MAX], "larger than a model may be"),
        (vec![-5, -32], "negative"),
        (vec![0, 32], "is empty"),
        (vec![1, 5, 32], "more than 2 dimensions"),
    ] {
        assert_has(
            &graph_refusal(|graph| graph.initializer[0].dims = dims),
            why,
        );
    }
}

#[test]
fn weight_that_is_not_finite() {
    let error = graph_refusal(|graph| {
        graph.initializer[0].raw_data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    assert_has(&error, "not finite");
}

#[test]
fn weight_of_another_type() {
    let error = graph_refusal(|graph| graph.initializer[0].data_type = DataType::Float16 as i32);
    assert_has(&error, "of a type that is not understood");
    let mut double = weight("w", &[5, 32], 0);
    double.data_type = DataType::Double as i32;
    double.double_data = vec![0.5; 160];
    let error = first_refusal(on_rows("MatMul", &["w"], &[]), &[double]);
    assert_has(&error, "not of the type of the rows");
}

#[test]
fn page_names_an_operator_that_is_not_read() {
    let page = include_str!("../../../../../docs/model.md");
    let lists = |from: &str, to: &str| {
        let (_, rest) = page.split_once(from).unwrap();
        rest.split_once(to).unwrap().0.to_owned()
    };
    let plain = lists(
        "- **Operators** of operator sets",
        "- **Operators of `ai.onnx.ml`**",
    );
    let learned = lists("- **Operators of `ai.onnx.ml`**", "\n\n");
    for (domain, list, least) in [("", plain, 60), (LEARNED, learned, 9)] {
        let names: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
        assert!(names.len() >= least, "{names:?}");
        for name in names.into_iter().filter(|name| *name != "ZipMap") {
            let mut node = node(name, &["nothing"]);
            node.domain = domain.to_owned();
            let error = first_refusal(node, &[]);
            assert!(!error.contains(UNKNOWN), "{error}");
        }
    }
}

#[test]
fn unknown_operator() {
    let error = graph_refusal(|graph| graph.node[2].op_type = "Loop".to_owned());
    assert_has(&error, "(Loop): not among the operators");
    let error = graph_refusal(|graph| {
        graph.node[2].op_type = "SVMClassifier".to_owned();
        graph.node[2].domain = LEARNED.to_owned();
    });
    assert_has(&error, "(SVMClassifier): not among the operators");
}

#[test]
fn operator_of_another_domain() {
    let error = graph_refusal(|graph| graph.node[2].domain = "com.example".to_owned());
    assert_has(&error, "unknown domain");
}

#[test]
fn operators_of_its_own() {
    let error = refusal(|model| model.functions.push(FunctionProto::default()));
    assert_has(&error, "functions");
}

#[test]
fn operator_set_that_nobody_tested() {
    for version in [0, 8, 26, i64::MIN] {
        let error = refusal(|model| model.opset_import[0].version = version);
        assert_has(&error, "operator set");
        let error = refusal(|model| {
            model.opset_import.push(OperatorSetIdProto {
                domain: LEARNED.to_owned(),
                version,
            });
        });
        assert_has(&error, "\"ai.onnx.ml\"");
    }
    assert_has(
        &refusal(|model| model.opset_import.clear()),
        "no operator set",
    );
    let error = refusal(|model| {
        let mut other = model.opset_import[0].clone();
        other.version -= 1;
        model.opset_import.push(other);
    });
    assert_has(&error, "two operator sets");
}

#[test]
fn operator_set_is_named_again() {
    let mut model = good();
    let again = model.opset_import[0].clone();
    model.opset_import.push(again);
    Graph::check(&model, None, None).unwrap();
}

#[test]
fn no_graph() {
    assert_eq!(refusal(|model| model.graph = None), "it has no graph");
}

#[test]
fn constants_that_fold_into_something_huge() {
    let weights = [
        weight("tall", &[4000, 1], 4000),
        weight("wide", &[1, 4000], 4000),
    ];
    let error = first_refusal(node("Mul", &["tall", "wide"]), &weights);
    assert_has(&error, "constants only");
}

#[test]
fn weight_that_multiplies_the_rows() {
    let weights = [weight("tall", &[4000, 1], 4000)];
    let error = first_refusal(on_rows("Mul", &["tall"], &[]), &weights);
    assert_has(&error, "does not fit 5 columns");
}

#[test]
fn values_wider_than_memory() {
    let weights = [weight("wide", &[5, 4097], 5 * 4097)];
    let error = first_refusal(on_rows("MatMul", &["wide"], &[]), &weights);
    assert_has(&error, "not between 1 and 4096 wide");
    let error = first_refusal(
        on_rows("Concat", &["dense_input"; 1000], &[integer("axis", 1)]),
        &[],
    );
    assert_has(&error, "not between 1 and 4096 wide");
    let error = graph_refusal(|graph| {
        graph.initializer.push(weight("wide", &[5, 4096], 5 * 4096));
        let mut nodes = vec![on_rows("MatMul", &["wide"], &[])];
        nodes[0].output = vec!["wide 0".to_owned()];
        for at in 0..9 {
            let mut relu = node("Relu", &[&format!("wide {at}")]);
            relu.output = vec![format!("wide {}", at + 1)];
            nodes.push(relu);
        }
        graph.node[0].input[0] = "wide 9".to_owned();
        graph.node.splice(0..0, nodes);
    });
    assert_has(&error, "numbers a row");
}

#[test]
fn weight_used_in_every_layer() {
    let error = graph_refusal(|graph| {
        graph.initializer.push(weight("wide", &[5, 2000], 5 * 2000));
        graph
            .initializer
            .push(weight("vast", &[2000, 2000], 2000 * 2000));
        let mut wide = on_rows("MatMul", &["wide"], &[]);
        wide.output = vec!["layer 0".to_owned()];
        let mut nodes = vec![wide];
        for at in 0..5 {
            let mut vast = node("MatMul", &[&format!("layer {at}"), "vast"]);
            vast.output = vec![format!("layer {}", at + 1)];
            nodes.push(vast);
        }
        graph.node[0].input[0] = "layer 5".to_owned();
        graph.node.splice(0..0, nodes);
    });
    assert_has(&error, "weights");
}

#[test]
fn more_nodes_than_a_network_has() {
    let error = graph_refusal(|graph| {
        let relu = node("Relu", &["dense_3"]);
        graph.node.resize(MAX_NODES + 1, relu);
    });
    assert_has(&error, "nodes");
}

#[test]
fn value_used_before_it_is_made() {
    let error = graph_refusal(|graph| graph.node.swap(0, 1));
    assert_has(&error, "is not made before it");
    let error = graph_refusal(|graph| {
        let own = graph.node[0].output[0].clone();
        graph.node[0].input[0] = own;
    });
    assert_has(&error, "is not made before it");
}

#[test]
fn value_made_twice() {
    let error = graph_refusal(|graph| {
        let node = graph.node[0].clone();
        graph.node.push(node);
    });
    assert_has(&error, "is made twice");
    let error = graph_refusal(|graph| {
        let weight = graph.initializer[0].clone();
        graph.initializer.push(weight);
    });
    assert_has(&error, "is made twice");
}

#[test]
fn label_is_looked_at() {
    let mut model = good();
    let graph = model.graph.as_mut().unwrap();
    let mut labels = node("ArgMax", &["dense_3"]);
    labels.output = vec!["label".to_owned()];
    graph.node.push(labels);
    let mut output = graph.output[0].clone();
    output.name = "label".to_owned();
    let Some(type_proto::Value::TensorType(tensor)) = &mut output.r#type.as_mut().unwrap().value
    else {
        panic!("a tensor");
    };
    tensor.elem_type = DataType::Int64 as i32;
    graph.output.insert(0, output);
    assert_eq!(Graph::check(&model, None, None).unwrap().output, "dense_3");
}

#[test]
fn input_of_unknown_width_or_type() {
    let changed = |change: &dyn Fn(&mut type_proto::Tensor)| {
        graph_refusal(|graph| {
            let Some(type_proto::Value::TensorType(tensor)) =
                &mut graph.input[0].r#type.as_mut().unwrap().value
            else {
                panic!("a tensor");
            };
            change(tensor);
        })
    };
    let error = changed(&|tensor| tensor.shape.as_mut().unwrap().dim[1].value = None);
    assert_has(&error, "wide");
    let error = changed(&|tensor| tensor.shape.as_mut().unwrap().dim.truncate(1));
    assert_has(&error, "1 dimensions, not 2");
    let error = changed(&|tensor| tensor.elem_type = DataType::String as i32);
    assert_has(&error, "is not of float32");
    let error = changed(&|tensor| tensor.elem_type = DataType::Int64 as i32);
    assert_has(&error, "calculates with whole numbers");
}

#[test]
fn two_outputs() {
    let error = graph_refusal(|graph| {
        let output = graph.output[0].clone();
        graph.output.push(output);
    });
    assert_has(&error, "2 of its outputs may be the probability");
    assert_has(
        &graph_refusal(|graph| graph.output.clear()),
        "none of its outputs",
    );
}

#[test]
fn output_of_several_numbers_a_row() {
    let several = |graph: &mut GraphProto| graph.output[0].name = "dense/Relu".to_owned();
    assert_has(&graph_refusal(several), "32 numbers a row; positive_class");
    let mut model = good();
    several(model.graph.as_mut().unwrap());
    assert_eq!(Graph::check(&model, None, Some(31)).unwrap().score.1, 31);
    assert!(
        Graph::check(&model, None, Some(32)).is_err_and(|why| why.contains("positive_class is 32"))
    );
    assert!(Graph::check(&good(), None, Some(1)).is_err());
}

#[test]
fn output_that_is_a_constant() {
    let error = graph_refusal(|graph| graph.output[0].name = "dense/bias".to_owned());
    assert_has(&error, "does not depend");
}

#[test]
fn attribute_that_changes_the_meaning() {
    let weights = [weight("w", &[5, 32], 160)];
    let transposed = on_rows("Gemm", &["w"], &[integer("transA", 1)]);
    assert_has(&first_refusal(transposed, &weights), "transposes its rows");
    let error = graph_refusal(|graph| graph.node[0].attribute.push(integer("axis", 1)));
    assert_has(&error, "\"axis\" is not understood");
    let twice = on_rows(
        "Gemm",
        &["w"],
        &[integer("transB", 0), integer("transB", 1)],
    );
    assert_has(
        &first_refusal(twice, &weights),
        "\"transB\" is not understood",
    );
    let mut training = on_rows("BatchNormalization", &[], &[integer("training_mode", 1)]);
    assert_has(&first_refusal(training.clone(), &[]), "in training mode");
    training.attribute.clear();
    assert_has(&first_refusal(training, &[]), "four weights");
}

#[test]
fn shape_that_mixes_rows() {
    let shapes: [&[i64]; 7] = [
        &[-1],
        &[5, -1],
        &[1, 5],
        &[-1, 1],
        &[0, 0],
        &[-1, -1],
        &[i64::MAX, 5],
    ];
    for shape in shapes {
        let error = first_refusal(on_rows("Reshape", &["s"], &[]), &[whole("s", shape)]);
        assert_has(&error, "does not leave the rows");
    }
    let error = first_refusal(on_rows("Flatten", &[], &[integer("axis", 0)]), &[]);
    assert_has(&error, "does not leave the rows");
    let error = first_refusal(on_rows("Squeeze", &["s"], &[]), &[whole("s", &[1])]);
    assert_has(&error, "does not leave the rows");
    for (op_type, attributes) in [
        ("Concat", vec![integer("axis", 0)]),
        ("Softmax", vec![integer("axis", 0)]),
        ("Split", vec![]),
        ("LayerNormalization", vec![integer("axis", 0)]),
    ] {
        let error = first_refusal(on_rows(op_type, &[], &attributes), &[]);
        assert_has(&error, "works across the rows");
    }
    for op_type in [
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "Gather",
    ] {
        let error = first_refusal(on_rows(op_type, &["s"], &[]), &[whole("s", &[0])]);
        assert_has(&error, "works across the rows");
    }
    assert_has(
        &first_refusal(on_rows("Transpose", &[], &[]), &[]),
        "transposes its rows",
    );
}

/// What is one number a row is broadcast along the columns, never one column along the rows.
#[test]
fn dimensions_that_mix_rows() {
    let mut flat = on_rows("ReduceMean", &["one"], &[integer("keepdims", 0)]);
    flat.output = vec!["flat".to_owned()];
    for op_type in ["Add", "Max", "Greater", "Pow"] {
        let error = graph_refusal(|graph| {
            graph.initializer.push(whole("one", &[1]));
            let mut both = node(op_type, &["dense_input", "flat"]);
            both.output = graph.node[0].output.clone();
            graph.node[0] = both;
            graph.node.insert(0, flat.clone());
        });
        assert_has(&error, "of different types or dimensions");
    }
    let mut deep = node("Gather", &["table", "whole"]);
    deep.output = vec!["deep".to_owned()];
    let mut whole_numbers = on_rows("Cast", &[], &[integer("to", DataType::Int64 as i64)]);
    whole_numbers.output = vec!["whole".to_owned()];
    for (op_type, more) in [
        ("MatMul", "w"),
        ("ReduceSum", "one"),
        ("LayerNormalization", "w"),
        ("Squeeze", "one"),
        ("Reshape", "rows"),
        ("Concat", "deep"),
    ] {
        let error = graph_refusal(|graph| {
            graph.initializer.extend([
                whole("one", &[1]),
                whole("rows", &[-1, 3]),
                weight("table", &[4, 3], 12),
                weight("w", &[3, 3], 9),
            ]);
            let mut node = node(op_type, &["deep", more]);
            if op_type == "Concat" {
                node.attribute = vec![integer("axis", 1)];
            }
            node.output = graph.node[0].output.clone();
            graph.node[0] = node;
            graph
                .node
                .splice(0..0, [whole_numbers.clone(), deep.clone()]);
        });
        assert!(
            ["three dimensions", "rows"]
                .iter()
                .any(|why| error.contains(why)),
            "{op_type}: {error}"
        );
    }
}

#[test]
fn truth_values_are_calculated_with() {
    let mut truth = on_rows("Greater", &["w"], &[]);
    truth.output = vec!["truth".to_owned()];
    for (op_type, inputs) in [
        ("Add", &["truth", "truth"][..]),
        ("Relu", &["truth"]),
        ("Max", &["truth", "truth"]),
        ("Less", &["truth", "truth"]),
        ("MatMul", &["truth", "w"]),
        ("Where", &["dense_input", "dense_input", "w"]),
        ("And", &["dense_input", "dense_input"]),
        ("Not", &["dense_input"]),
        ("Gather", &["w", "dense_input"]),
        ("Where", &["truth", "dense_input", "truth"]),
        ("Max", &["w", "w"]),
        ("Where", &["w", "w", "w"]),
        ("PRelu", &["dense_input", "dense_input"]),
    ] {
        graph_refusal(|graph| {
            graph.initializer.push(weight("w", &[5], 5));
            let mut node = node(op_type, inputs);
            node.output = graph.node[0].output.clone();
            graph.node[0] = node;
            graph.node.insert(0, truth.clone());
        });
    }
}

#[test]
fn place_beyond_the_columns() {
    for at in [5, -6, i64::MAX, i64::MIN] {
        let gather = on_rows("Gather", &["s"], &[integer("axis", 1)]);
        assert_has(&first_refusal(gather, &[whole("s", &[at])]), "beyond 5");
        let mut extractor = on_rows("ArrayFeatureExtractor", &["s"], &[]);
        extractor.domain = LEARNED.to_owned();
        assert_has(&first_refusal(extractor, &[whole("s", &[at])]), "beyond 5");
    }
    for (start, end) in [(5, i64::MAX), (3, 3), (4, 1), (i64::MAX, i64::MIN)] {
        let weights = [
            whole("start", &[start]),
            whole("end", &[end]),
            whole("axis", &[1]),
        ];
        let slice = on_rows("Slice", &["start", "end", "axis"], &[]);
        assert_has(&first_refusal(slice, &weights), "wide");
    }
    for sizes in [&[2_i64][..], &[6], &[-1], &[i64::MAX]] {
        let split = on_rows("Split", &["s"], &[integer("axis", 1)]);
        let error = first_refusal(split, &[whole("s", sizes)]);
        assert!(
            error.contains("add up") || error.contains("below zero"),
            "{error}"
        );
    }
}

#[test]
fn input_left_out() {
    for op_type in [
        "Relu", "Add", "MatMul", "Gemm", "Concat", "Cast", "Clip", "Dropout", "Split", "Slice",
    ] {
        first_refusal(node(op_type, &[]), &[]);
        first_refusal(node(op_type, &[""]), &[]);
    }
    for op_type in [
        "Scaler",
        "Normalizer",
        "LinearClassifier",
        "TreeEnsembleRegressor",
        "OneHotEncoder",
    ] {
        let mut empty = node(op_type, &[]);
        empty.domain = LEARNED.to_owned();
        first_refusal(empty, &[]);
    }
}
