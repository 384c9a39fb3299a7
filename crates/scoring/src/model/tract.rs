//! Runs a checked graph on tract. What tract gets is a model written here from the steps of [`Graph`]: a dozen operators
//! of ONNX's operator set 13 on matrices of known sizes, and trees as an operator of our own.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use tract_onnx::prelude::{
    Framework, InferenceModelExt, IntoRunnable, Tensor, TractResult, TypedRunnableModel,
    TypedSimpleState,
};
use tract_onnx::tract_hir::internal::*;

use super::graph::{Arithmetic, Elementwise, Graph, Kind, Operator, Step, ValueId};
use super::trees::Trees;

/// Rows that tract takes at a time. It is fastest near this size, and with a known one twice as fast as without; a rest
/// is padded.
pub(crate) const BATCH: usize = 1024;

/// A graph as tract plans it.
pub(super) struct Plan {
    plan: Arc<TypedRunnableModel>,
}

impl Plan {
    /// Plans a graph.
    pub(super) fn of(graph: &Graph) -> TractResult<Self> {
        let mut written = Written::default();
        let proto = written.write(graph);
        let mut model = tract_onnx::onnx().model_for_proto_model(&proto)?;
        for node in model.nodes_mut() {
            let trees = node
                .name
                .strip_prefix(TREES)
                .and_then(|at| at.parse::<usize>().ok());
            if let Some(trees) = trees.and_then(|at| written.trees.get(at)) {
                node.op = expand(trees.clone());
            }
        }
        let plan = model.into_optimized()?.into_runnable()?;
        Ok(Self { plan })
    }

    /// What one thread needs to run it.
    pub(super) fn run(&self) -> TractResult<Run> {
        let state = self.plan.spawn()?;
        Ok(Run { state })
    }
}

/// One thread's use of a [`Plan`].
pub(super) struct Run {
    state: TypedSimpleState,
}

/// The rows of one input, one after the other, [`BATCH`] of them: f64 where the graph does not take f32.
pub(super) enum Rows {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

impl Run {
    /// Appends the scores of the first `count` rows.
    pub(super) fn score(
        &mut self,
        inputs: &[Rows],
        count: usize,
        scores: &mut Vec<f32>,
    ) -> TractResult<()> {
        let tensor = |rows: &Rows| match rows {
            Rows::Single(rows) => Tensor::from_shape(&[BATCH, rows.len() / BATCH], rows),
            Rows::Double(rows) => Tensor::from_shape(&[BATCH, rows.len() / BATCH], rows),
        };
        let inputs: TVec<TValue> = inputs
            .iter()
            .map(|rows| Ok(tensor(rows)?.into_tvalue()))
            .collect::<TractResult<_>>()?;
        let outputs = self.state.run(inputs)?;
        scores.extend(outputs[0].to_plain_array_view::<f32>()?.iter().take(count));
        Ok(())
    }
}

/// The name of a node that stands for trees, before their number.
const TREES: &str = "trees ";
const SCORE: &str = "score";
const OPSET: i64 = 13;

/// A graph in ONNX's words.
#[derive(Default)]
struct Written {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    trees: Vec<TreesOp>,
}

impl Written {
    fn write(&mut self, graph: &Graph) -> ModelProto {
        let inputs = graph.inputs.iter().enumerate();
        let inputs =
            inputs.map(|(id, input)| source(&value(id), input.width, input.element.kind()));
        let inputs = inputs.collect();
        for (at, step) in graph.steps.iter().enumerate() {
            self.step(step, &value(graph.inputs.len() + at), graph);
        }
        let (scored, place) = graph.score;
        let places = self.whole(&[place as i64]);
        self.attributed(
            "Gather",
            &[&value(scored), &places],
            "column",
            integer("axis", 1),
        );
        self.cast("column", Kind::Float, SCORE);
        ModelProto {
            ir_version: 8,
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: OPSET,
            }],
            graph: Some(GraphProto {
                node: std::mem::take(&mut self.nodes),
                initializer: std::mem::take(&mut self.constants),
                input: inputs,
                output: vec![ValueInfoProto {
                    name: SCORE.to_owned(),
                    ..ValueInfoProto::default()
                }],
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        }
    }

    fn step(&mut self, step: &Step, made: &str, graph: &Graph) {
        let of: Vec<String> = step.of.iter().map(|&id| value(id)).collect();
        let (of_width, of_kind) = step
            .of
            .first()
            .map_or((0, Kind::Float), |&id| graph.shape(id));
        match &step.operator {
            Operator::Dense { weights, bias } => {
                let weights = self.constant(&[of_width, step.width], weights, step.kind);
                let bias = self.constant(&[1, step.width], bias, step.kind);
                let product = format!("{made} product");
                self.node("MatMul", &[&of[0], &weights], &product);
                self.node("Add", &[&product, &bias], made);
            }
            Operator::Constant {
                operation,
                constant,
                first,
            } => {
                let constant = self.constant(&[1, step.width], constant, step.kind);
                let inputs = [&of[0], &constant];
                let [a, b] = if *first {
                    [inputs[1], inputs[0]]
                } else {
                    inputs
                };
                self.node(arithmetic(*operation), &[a, b], made);
            }
            Operator::Arithmetic(operation) => {
                self.node(arithmetic(*operation), &[&of[0], &of[1]], made)
            }
            Operator::Elementwise(function) => {
                self.in_f32(&of[0], step.kind, made, |written, of, made| {
                    written.elementwise(*function, of, made);
                })
            }
            Operator::Softmax => self.in_f32(&of[0], step.kind, made, |written, of, made| {
                written.attributed("Softmax", &[of], made, integer("axis", -1));
            }),
            Operator::Sum => {
                let axes = self.whole(&[1]);
                self.attributed("ReduceSum", &[&of[0], &axes], made, integer("keepdims", 1));
            }
            Operator::Concat => {
                let of: Vec<&str> = of.iter().map(String::as_str).collect();
                self.attributed("Concat", &of, made, integer("axis", 1));
            }
            Operator::Select(places) => {
                let places: Vec<i64> = places.iter().map(|&place| place as i64).collect();
                let places = self.whole(&places);
                self.attributed("Gather", &[&of[0], &places], made, integer("axis", 1));
            }
            Operator::Cast => self.cast(&of[0], step.kind, made),
            Operator::OneHot(categories) => {
                let categories = self.constant(&[1, step.width], categories, of_kind);
                let is_it = format!("{made} is it");
                self.node("Equal", &[&of[0], &categories], &is_it);
                self.cast(&is_it, step.kind, made);
            }
            Operator::Trees(trees) => {
                self.nodes.push(NodeProto {
                    name: format!("{TREES}{}", self.trees.len()),
                    op_type: "Trees".to_owned(),
                    input: of,
                    output: vec![made.to_owned()],
                    ..NodeProto::default()
                });
                let trees = Arc::clone(trees);
                self.trees.push(TreesOp {
                    trees,
                    width: of_width,
                });
            }
        }
    }

    /// A function by way of f32, because tract has few of them for f64.
    fn in_f32(
        &mut self,
        of: &str,
        kind: Kind,
        made: &str,
        function: impl FnOnce(&mut Self, &str, &str),
    ) {
        if kind == Kind::Float {
            return function(self, of, made);
        }
        let (before, after) = (format!("{made} before"), format!("{made} after"));
        self.cast(of, Kind::Float, &before);
        function(self, &before, &after);
        self.cast(&after, kind, made);
    }

    fn elementwise(&mut self, function: Elementwise, of: &str, made: &str) {
        let plain = match function {
            Elementwise::LeakyRelu(alpha) => {
                return self.attributed("LeakyRelu", &[of], made, float("alpha", alpha));
            }
            Elementwise::Elu(alpha) => {
                return self.attributed("Elu", &[of], made, float("alpha", alpha));
            }
            Elementwise::Selu { alpha, gamma } => {
                self.attributed("Selu", &[of], made, float("alpha", alpha));
                if let Some(node) = self.nodes.last_mut() {
                    node.attribute.push(float("gamma", gamma));
                }
                return;
            }
            Elementwise::Clip(low, high) => {
                let low = low
                    .map(|low| self.constant(&[], &[low], Kind::Float))
                    .unwrap_or_default();
                let high = high
                    .map(|high| self.constant(&[], &[high], Kind::Float))
                    .unwrap_or_default();
                return self.node("Clip", &[of, &low, &high], made);
            }
            Elementwise::Relu => "Relu",
            Elementwise::Sigmoid => "Sigmoid",
            Elementwise::Tanh => "Tanh",
            Elementwise::Softplus => "Softplus",
            Elementwise::Exp => "Exp",
            Elementwise::Log => "Log",
            Elementwise::Sqrt => "Sqrt",
            Elementwise::Abs => "Abs",
            Elementwise::Neg => "Neg",
            Elementwise::Reciprocal => "Reciprocal",
            Elementwise::Erf => "Erf",
        };
        self.node(plain, &[of], made);
    }

    fn cast(&mut self, of: &str, kind: Kind, made: &str) {
        let to = data_type(kind) as i64;
        self.attributed("Cast", &[of], made, integer("to", to));
    }

    fn node(&mut self, op_type: &str, of: &[&str], made: &str) {
        self.nodes.push(NodeProto {
            op_type: op_type.to_owned(),
            input: of.iter().map(|&of| of.to_owned()).collect(),
            output: vec![made.to_owned()],
            ..NodeProto::default()
        });
    }

    fn attributed(&mut self, op_type: &str, of: &[&str], made: &str, attribute: AttributeProto) {
        self.node(op_type, of, made);
        if let Some(node) = self.nodes.last_mut() {
            node.attribute.push(attribute);
        }
    }

    /// Writes a constant and names it.
    fn constant(&mut self, shape: &[usize], numbers: &[f64], kind: Kind) -> String {
        let mut tensor = TensorProto {
            name: format!("constant {}", self.constants.len()),
            dims: shape.iter().map(|&size| size as i64).collect(),
            data_type: data_type(kind) as i32,
            ..TensorProto::default()
        };
        match kind {
            Kind::Float => {
                tensor.float_data = numbers.iter().map(|&number| number as f32).collect()
            }
            Kind::Double | Kind::Whole => tensor.double_data = numbers.to_vec(),
        }
        let name = tensor.name.clone();
        self.constants.push(tensor);
        name
    }

    /// Writes axes or places and names them.
    fn whole(&mut self, numbers: &[i64]) -> String {
        let name = format!("constant {}", self.constants.len());
        self.constants.push(TensorProto {
            name: name.clone(),
            dims: vec![numbers.len() as i64],
            data_type: DataType::Int64 as i32,
            int64_data: numbers.to_vec(),
            ..TensorProto::default()
        });
        name
    }
}

fn value(id: ValueId) -> String {
    format!("value {id}")
}

fn arithmetic(operation: Arithmetic) -> &'static str {
    match operation {
        Arithmetic::Add => "Add",
        Arithmetic::Sub => "Sub",
        Arithmetic::Mul => "Mul",
        Arithmetic::Div => "Div",
    }
}

fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Float => DataType::Float,
        Kind::Double | Kind::Whole => DataType::Double,
    }
}

fn source(name: &str, width: usize, kind: Kind) -> ValueInfoProto {
    let dim = [BATCH, width].map(|size| Dimension {
        denotation: String::new(),
        value: Some(dimension::Value::DimValue(size as i64)),
    });
    let tensor = type_proto::Tensor {
        elem_type: data_type(kind) as i32,
        shape: Some(TensorShapeProto { dim: dim.into() }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            denotation: String::new(),
            value: Some(type_proto::Value::TensorType(tensor)),
        }),
        ..ValueInfoProto::default()
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

fn float(name: &str, value: f64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Float as i32,
        f: value as f32,
        ..AttributeProto::default()
    }
}

/// Trees as an operator of tract.
#[derive(Clone)]
struct TreesOp {
    trees: Arc<Trees>,
    width: usize,
}

impl PartialEq for TreesOp {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.trees, &other.trees)
    }
}

impl Eq for TreesOp {}

impl Hash for TreesOp {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.trees).hash(state);
    }
}

impl std::fmt::Debug for TreesOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TreesOp")
    }
}

impl Expansion for TreesOp {
    fn name(&self) -> StaticName {
        "Trees".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        solver.equals(&outputs[0].datum_type, f32::datum_type())?;
        solver.equals(&outputs[0].rank, 2)?;
        solver.equals(&outputs[0].shape[0], &inputs[0].shape[0])?;
        solver.equals(&outputs[0].shape[1], self.trees.outputs().to_dim())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for TreesOp {
    fn name(&self) -> StaticName {
        "Trees".into()
    }

    op_as_typed_op!();
}

impl EvalOp for TreesOp {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let rows = input.len() / self.width;
        let mut scores = vec![0.0_f32; rows * self.trees.outputs()];
        if input.datum_type() == f64::datum_type() {
            let view = input.to_plain_array_view::<f64>()?;
            let view = view
                .as_slice()
                .context("rows that do not lie one after the other")?;
            self.trees.evaluate(view, self.width, &mut scores);
        } else {
            let view = input.to_plain_array_view::<f32>()?;
            let view = view
                .as_slice()
                .context("rows that do not lie one after the other")?;
            self.trees.evaluate(view, self.width, &mut scores);
        }
        let scores = Tensor::from_shape(&[rows, self.trees.outputs()], &scores)?;
        Ok(tvec!(scores.into_tvalue()))
    }
}

impl TypedOp for TreesOp {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let rows = &inputs[0].shape[0];
        Ok(tvec!(f32::fact(&[
            rows.clone(),
            self.trees.outputs().into()
        ])))
    }

    as_op!();
}
