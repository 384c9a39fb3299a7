//! Constants of a graph: all their numbers in the file, finite, as many as their shape says.

use tract_onnx::pb::TensorProto;
use tract_onnx::pb::tensor_proto::DataLocation;

use super::{Element, Kind, Numbers};

/// A constant. Its numbers are held in f64, which has every number of the supported types but for whole ones beyond
/// 2^53: where those stand for "to the end", the nearest does too.
#[derive(Clone, Debug)]
pub(super) struct Weight {
    pub(super) shape: Vec<usize>,
    pub(super) element: Element,
    pub(super) numbers: Numbers,
}

impl Weight {
    /// Reads a tensor of at most two dimensions and of finite numbers.
    pub(super) fn read(tensor: &TensorProto) -> Result<Self, String> {
        let weight = Self::read_any(tensor)?;
        if weight.numbers.iter().any(|value| !value.is_finite()) {
            return Err("holds a value that is not finite".into());
        }
        Ok(weight)
    }

    /// As [`Weight::read`], whatever its numbers are.
    pub(super) fn read_any(tensor: &TensorProto) -> Result<Self, String> {
        let element = Element::of(tensor.data_type).ok_or("is of a type that is not understood")?;
        let external = tensor
            .data_location
            .is_some_and(|at| at != DataLocation::Default as i32);
        if external || !tensor.external_data.is_empty() {
            return Err("is in another file".into());
        }
        if tensor.segment.is_some() {
            return Err("is in segments".into());
        }
        if tensor.dims.len() > 2 {
            return Err("has more than 2 dimensions".into());
        }
        let shape = tensor.dims.iter().map(|&size| usize::try_from(size));
        let shape = shape
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| "has a negative dimension")?;
        if shape.contains(&0) {
            return Err("is empty".into());
        }
        let count = shape
            .iter()
            .try_fold(1_usize, |count, &size| count.checked_mul(size))
            .ok_or("is larger than memory")?;
        let numbers =
            numbers(tensor, element, count).ok_or("has another number of values than its shape")?;
        Ok(Self {
            shape,
            element,
            numbers,
        })
    }

    /// A constant that a node gives as an attribute.
    pub(super) fn new(shape: Vec<usize>, element: Element, numbers: Vec<f64>) -> Self {
        let numbers = numbers.into();
        Self {
            shape,
            element,
            numbers,
        }
    }

    /// The only number of a constant that has one.
    pub(super) fn scalar(&self) -> Option<f64> {
        match self.numbers[..] {
            [number] => Some(number),
            _ => None,
        }
    }

    /// Whole numbers, such as axes and places.
    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        let whole = self.element.kind() == Kind::Whole && self.shape.len() < 2;
        whole.then(|| self.numbers.iter().map(|&number| number as i64).collect())
    }
}

/// The numbers of a tensor, which lie raw or in the field of their type; `None` when there are not `count`.
fn numbers(tensor: &TensorProto, element: Element, count: usize) -> Option<Numbers> {
    let fields = [
        tensor.float_data.len(),
        tensor.double_data.len(),
        tensor.int64_data.len(),
        tensor.int32_data.len(),
    ];
    let elsewhere: usize = fields.iter().sum();
    let mut numbers = Numbers::default();
    if tensor.raw_data.is_empty() {
        match element {
            Element::Float => {
                numbers.extend(tensor.float_data.iter().map(|&value| f64::from(value)))
            }
            Element::Double => numbers.extend(&tensor.double_data),
            Element::Int64 => numbers.extend(tensor.int64_data.iter().map(|&value| value as f64)),
            Element::Int32 | Element::Bool => {
                numbers.extend(tensor.int32_data.iter().map(|&value| f64::from(value)));
            }
        }
        return (numbers.len() == count && elsewhere == count).then_some(numbers);
    }
    let raw = &tensor.raw_data[..];
    let size = match element {
        Element::Float | Element::Int32 => 4,
        Element::Double | Element::Int64 => 8,
        Element::Bool => 1,
    };
    if elsewhere != 0 || Some(raw.len()) != count.checked_mul(size) {
        return None;
    }
    match element {
        Element::Float => {
            numbers.extend(words(raw).map(|word| f64::from(f32::from_le_bytes(word))))
        }
        Element::Int32 => {
            numbers.extend(words(raw).map(|word| f64::from(i32::from_le_bytes(word))))
        }
        Element::Double => numbers.extend(words(raw).map(f64::from_le_bytes)),
        Element::Int64 => numbers.extend(words(raw).map(|word| i64::from_le_bytes(word) as f64)),
        Element::Bool => numbers.extend(raw.iter().map(|&byte| f64::from(u8::from(byte != 0)))),
    }
    Some(numbers)
}

fn words<const N: usize>(raw: &[u8]) -> impl Iterator<Item = [u8; N]> {
    raw.as_chunks::<N>().0.iter().copied()
}
