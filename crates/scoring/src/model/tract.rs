//! Runs a checked graph on tract. What tract gets is a model written here from the steps of [`Graph`]: products of matrices
//! of known sizes and what moves numbers about, in operators of ONNX's set 13; all else as operators of our own.

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
use zeroize::Zeroizing;

use super::graph::{Graph, Kind, Operator, Step, ValueId};
use super::rowwise::Block;

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
            let own = node
                .name
                .strip_prefix(OWN)
                .and_then(|at| at.parse::<usize>().ok());
            if let Some(own) = own.and_then(|at| written.own.get(at)) {
                node.op = expand(own.clone());
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

/// The name of a node that stands for an operator of our own, before its number.
const OWN: &str = "own ";
const SCORE: &str = "score";
const OPSET: i64 = 13;

/// A graph in ONNX's words.
#[derive(Default)]
struct Written {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    own: Vec<Own>,
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
        let of_width = step.of.first().map_or(0, |&id| graph.shape(id).0);
        match &*step.operator {
            Operator::Dense { weights, bias } => {
                let weights = self.constant(&[of_width, step.width], weights, step.kind);
                let bias = self.constant(&[1, step.width], bias, step.kind);
                let product = format!("{made} product");
                self.node("MatMul", &[&of[0], &weights], &product);
                self.node("Add", &[&product, &bias], made);
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
            _ => {
                self.nodes.push(NodeProto {
                    name: format!("{OWN}{}", self.own.len()),
                    op_type: "Own".to_owned(),
                    input: of,
                    output: vec![made.to_owned()],
                    ..NodeProto::default()
                });
                self.own.push(Own {
                    operator: Arc::clone(&step.operator),
                    of: step.of.iter().map(|&id| graph.shape(id).0).collect(),
                    width: step.width,
                    kind: step.kind,
                });
            }
        }
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
            Kind::Double | Kind::Whole | Kind::Truth => tensor.double_data = numbers.to_vec(),
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

fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Float => DataType::Float,
        Kind::Double | Kind::Whole | Kind::Truth => DataType::Double,
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

/// An operator of our own within tract: trees, and what is evaluated row by row.
#[derive(Clone)]
struct Own {
    operator: Arc<Operator>,
    /// How wide the values are that it takes.
    of: Vec<usize>,
    width: usize,
    kind: Kind,
}

impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.operator, &other.operator)
    }
}

impl Eq for Own {}

impl Hash for Own {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.operator).hash(state);
    }
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Own")
    }
}

impl Own {
    fn made_type(&self) -> DatumType {
        match self.kind {
            Kind::Float => f32::datum_type(),
            Kind::Double | Kind::Whole | Kind::Truth => f64::datum_type(),
        }
    }

    /// Evaluates some rows at a time, which stay in the first cache.
    fn evaluate<T: Datum + Copy>(
        &self,
        inputs: &[TValue],
        narrow: impl Fn(f64) -> T,
    ) -> TractResult<Tensor> {
        let inputs: Vec<Input<'_>> = inputs.iter().map(Input::of).collect::<TractResult<_>>()?;
        let rows = match (inputs.first(), self.of.first()) {
            (Some(input), Some(&width)) => input.len() / width,
            _ => 0,
        };
        let widest = self.of.iter().copied().fold(self.width, usize::max);
        let at_once = (BLOCK / widest).max(1);
        let mut widened: Vec<Zeroizing<Vec<f64>>> = vec![Zeroizing::default(); self.of.len()];
        let mut made = Zeroizing::new(vec![0.0; at_once * self.width]);
        let mut narrowed: Vec<T> = Vec::with_capacity(rows * self.width);
        for from in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - from);
            for ((widened, input), &width) in widened.iter_mut().zip(&inputs).zip(&self.of) {
                input.widen(from * width, count * width, widened)?;
            }
            let blocks: Vec<Block<'_>> = widened
                .iter()
                .zip(&self.of)
                .map(|(numbers, &width)| Block { numbers, width })
                .collect();
            let made = &mut made[..count * self.width];
            self.operator.evaluate(&blocks, self.width, made);
            narrowed.extend(made.iter().map(|&number| narrow(number)));
        }
        Tensor::from_shape(&[rows, self.width], &narrowed)
    }
}

/// Numbers of all inputs of an operator that are held in f64 at once: 8 KiB each.
const BLOCK: usize = 1024;

/// The numbers of a value, row by row.
enum Input<'a> {
    Single(&'a [f32]),
    Double(&'a [f64]),
}

impl<'a> Input<'a> {
    fn of(value: &'a TValue) -> TractResult<Self> {
        const SCATTERED: &str = "rows that do not lie one after the other";
        if value.datum_type() == f64::datum_type() {
            let view = value.to_plain_array_view::<f64>()?;
            Ok(Self::Double(view.to_slice().context(SCATTERED)?))
        } else {
            let view = value.to_plain_array_view::<f32>()?;
            Ok(Self::Single(view.to_slice().context(SCATTERED)?))
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Single(numbers) => numbers.len(),
            Self::Double(numbers) => numbers.len(),
        }
    }

    fn widen(&self, from: usize, count: usize, widened: &mut Vec<f64>) -> TractResult<()> {
        const SHORT: &str = "fewer rows than the first value has";
        let range = from..from + count;
        widened.clear();
        match self {
            Self::Single(numbers) => {
                let numbers = numbers.get(range).context(SHORT)?;
                widened.extend(numbers.iter().copied().map(f64::from));
            }
            Self::Double(numbers) => {
                widened.extend_from_slice(numbers.get(range).context(SHORT)?);
            }
        }
        Ok(())
    }
}

impl Expansion for Own {
    fn name(&self) -> StaticName {
        "Own".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.of.len())?;
        check_output_arity(outputs, 1)?;
        solver.equals(&outputs[0].datum_type, self.made_type())?;
        solver.equals(&outputs[0].rank, 2)?;
        solver.equals(&outputs[0].shape[0], &inputs[0].shape[0])?;
        solver.equals(&outputs[0].shape[1], self.width.to_dim())
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

impl Op for Own {
    fn name(&self) -> StaticName {
        "Own".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Own {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let made = match (&*self.operator, self.kind) {
            (Operator::Trees(trees), _) => {
                let input = args_1!(inputs);
                let input = Input::of(&input)?;
                let (width, made) = (self.of[0], self.width);
                let mut scores = vec![0.0_f32; input.len() / width * made];
                match input {
                    Input::Single(rows) => trees.evaluate(rows, width, &mut scores),
                    Input::Double(rows) => trees.evaluate(rows, width, &mut scores),
                }
                Tensor::from_shape(&[scores.len() / made, made], &scores)?
            }
            (_, Kind::Float) => self.evaluate(&inputs, |number| number as f32)?,
            (_, Kind::Double | Kind::Whole | Kind::Truth) => {
                self.evaluate(&inputs, |number| number)?
            }
        };
        Ok(tvec!(made.into_tvalue()))
    }
}

impl TypedOp for Own {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let rows = &inputs[0].shape[0];
        let shape = [rows.clone(), self.width.into()];
        Ok(tvec!(self.made_type().fact(&shape)))
    }

    as_op!();
}
