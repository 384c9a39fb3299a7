//! Functions of each number of a value by itself.

use tract_onnx::pb::NodeProto;
use tract_onnx::pb::attribute_proto::AttributeType;

use super::attributes::Attributes;

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::model) enum Elementwise {
    Relu,
    LeakyRelu(f64),
    Elu(f64),
    Selu {
        alpha: f64,
        gamma: f64,
    },
    Sigmoid,
    Tanh,
    Softplus,
    Softsign,
    HardSigmoid {
        alpha: f64,
        beta: f64,
    },
    HardSwish,
    Gelu,
    GeluByTanh,
    Exp,
    Log,
    Sqrt,
    Abs,
    Neg,
    Reciprocal,
    Erf,
    Clip(Option<f64>, Option<f64>),
    /// Of truth values.
    Not,
    /// To truth values.
    IsNan,
    /// To truth values.
    IsNotZero,
    /// To whole numbers.
    Truncate {
        least: f64,
        most: f64,
    },
}

impl Elementwise {
    /// The function that a node of the default domain names; `None` when it names another thing.
    pub(super) fn of(node: &NodeProto) -> Result<Option<Self>, String> {
        let alpha = ("alpha", AttributeType::Float);
        let gamma = ("gamma", AttributeType::Float);
        let known = match node.op_type.as_str() {
            "LeakyRelu" | "Elu" => &[alpha][..],
            "Selu" => &[alpha, gamma],
            "HardSigmoid" => &[alpha, ("beta", AttributeType::Float)],
            "Gelu" => &[("approximate", AttributeType::String)],
            _ => &[],
        };
        let function = match node.op_type.as_str() {
            "LeakyRelu" => Self::LeakyRelu(Attributes::of(node, known)?.float("alpha", 0.01)),
            "Elu" => Self::Elu(Attributes::of(node, known)?.float("alpha", 1.0)),
            "Selu" => {
                let attributes = Attributes::of(node, known)?;
                Self::Selu {
                    alpha: attributes.float("alpha", 1.673_263_2),
                    gamma: attributes.float("gamma", 1.050_701),
                }
            }
            "HardSigmoid" => {
                let attributes = Attributes::of(node, known)?;
                Self::HardSigmoid {
                    alpha: attributes.float("alpha", 0.2),
                    beta: attributes.float("beta", 0.5),
                }
            }
            "Gelu" => match Attributes::of(node, known)?.text("approximate") {
                "" | "none" => Self::Gelu,
                "tanh" => Self::GeluByTanh,
                _ => return Err("its approximate is neither none nor tanh".into()),
            },
            "HardSwish" => Self::HardSwish,
            "Softsign" => Self::Softsign,
            "Relu" => Self::Relu,
            "Sigmoid" => Self::Sigmoid,
            "Tanh" => Self::Tanh,
            "Softplus" => Self::Softplus,
            "Exp" => Self::Exp,
            "Log" => Self::Log,
            "Sqrt" => Self::Sqrt,
            "Abs" => Self::Abs,
            "Neg" => Self::Neg,
            "Reciprocal" => Self::Reciprocal,
            "Erf" => Self::Erf,
            _ => return Ok(None),
        };
        Attributes::of(node, known)?;
        Ok(Some(function))
    }
}
