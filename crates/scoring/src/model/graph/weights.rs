//! Constants of a graph: all their numbers in the file or in the one beside it, finite, as many as their shape says
//! (onnx.proto, `TensorProto`; ONNX, "External Data").

use std::cell::Cell;

use tract_onnx::pb::TensorProto;
use tract_onnx::pb::tensor_proto::DataLocation;

use super::{Element, Kind, MAX_TOTAL_WEIGHTS, Numbers};
use crate::model::WEIGHTS_BESIDE;
use crate::shown;

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
    pub(super) fn read(tensor: &TensorProto, beside: &Beside<'_>) -> Result<Self, String> {
        let weight = Self::read_any(tensor, beside)?;
        if weight.numbers.iter().any(|value| !value.is_finite()) {
            return Err("holds a value that is not finite".into());
        }
        Ok(weight)
    }

    /// As [`Weight::read`], whatever its numbers are.
    pub(super) fn read_any(tensor: &TensorProto, beside: &Beside<'_>) -> Result<Self, String> {
        let element = Element::of(tensor.data_type).ok_or("is of a type that is not understood")?;
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
        // Before any of them is read.
        let count = shape
            .iter()
            .try_fold(1_usize, |count, &size| count.checked_mul(size))
            .filter(|&count| count <= MAX_TOTAL_WEIGHTS)
            .ok_or("is larger than a model may be")?;
        beside.count(count)?;
        let length = count * size(element);
        let external = tensor
            .data_location
            .is_some_and(|at| at != DataLocation::Default as i32);
        let raw = if external || !tensor.external_data.is_empty() {
            if !tensor.raw_data.is_empty() {
                return Err("is in another file and in this one".into());
            }
            Some(beside.find(tensor, length)?)
        } else {
            Some(&tensor.raw_data[..]).filter(|raw| !raw.is_empty())
        };
        let numbers = numbers(tensor, raw, element, count)
            .ok_or("has another number of values than its shape")?;
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

/// The file of weights beside a model, as PyTorch writes it by default.
pub(super) struct Beside<'a> {
    bytes: Option<&'a [u8]>,
    used: Cell<bool>,
    /// Numbers of all constants so far: several tensors may lie at one place.
    numbers: Cell<usize>,
}

impl<'a> Beside<'a> {
    pub(super) fn new(bytes: Option<&'a [u8]>) -> Self {
        Self {
            bytes,
            used: Cell::new(false),
            numbers: Cell::new(0),
        }
    }

    /// Counts the numbers of a constant before they are read.
    fn count(&self, more: usize) -> Result<(), String> {
        let all = self.numbers.get().saturating_add(more);
        self.numbers.set(all);
        match all <= MAX_TOTAL_WEIGHTS {
            true => Ok(()),
            false => Err("makes the constants together larger than a model may be".into()),
        }
    }

    /// Whether a weight that was read lies in it.
    pub(super) fn is_used(&self) -> bool {
        self.used.get()
    }

    /// The bytes of a tensor. No other file is ever looked for, whatever a model names.
    fn find(&self, tensor: &TensorProto, length: usize) -> Result<&'a [u8], String> {
        let (mut location, mut offset, mut long) = (None, None, None);
        for entry in &tensor.external_data {
            let twice = match entry.key.as_str() {
                "location" => location.replace(entry.value.as_str()).is_some(),
                "offset" => offset.replace(entry.value.parse::<usize>()).is_some(),
                "length" => long.replace(entry.value.parse::<usize>()).is_some(),
                // Of the whole file, by a function that binds nothing.
                "checksum" => false,
                _ => true,
            };
            if twice {
                return Err("lies in another file in a way that is not understood".into());
            }
        }
        let location = location.unwrap_or_default();
        let (WEIGHTS_BESIDE, Some(bytes)) = (location, self.bytes) else {
            return Err(format!(
                "is in another file, \"{}\": a bundle may have {WEIGHTS_BESIDE} beside its model; or put all in one: \
                 python -c \"import onnx; onnx.save(onnx.load('exported.onnx'), 'model.onnx', save_as_external_data=False)\" \
                 (docs/model.md)",
                shown(location)
            ));
        };
        self.used.set(true);
        let from = offset.unwrap_or(Ok(0)).ok();
        let long = long.unwrap_or(Ok(length)).ok();
        from.filter(|_| long == Some(length))
            .and_then(|from| bytes.get(from..)?.get(..length))
            .ok_or_else(|| format!("lies beyond {WEIGHTS_BESIDE}, or has another length there"))
    }
}

/// How many bytes a number takes.
fn size(element: Element) -> usize {
    match element {
        Element::Float | Element::Int32 => 4,
        Element::Double | Element::Int64 => 8,
        Element::Bool => 1,
    }
}

/// The numbers of a tensor, which lie raw or in the field of their type; `None` when there are not `count`.
fn numbers(
    tensor: &TensorProto,
    raw: Option<&[u8]>,
    element: Element,
    count: usize,
) -> Option<Numbers> {
    let (single, double) = (&tensor.float_data, &tensor.double_data);
    let (long, short) = (&tensor.int64_data, &tensor.int32_data);
    let elsewhere = single.len() + double.len() + long.len() + short.len();
    let Some(raw) = raw else {
        let here = match element {
            Element::Float => single.len(),
            Element::Double => double.len(),
            Element::Int64 => long.len(),
            Element::Int32 | Element::Bool => short.len(),
        };
        if here != count || elsewhere != count {
            return None;
        }
        let mut numbers = Numbers::new(Vec::with_capacity(count));
        match element {
            Element::Float => numbers.extend(single.iter().copied().map(f64::from)),
            Element::Double => numbers.extend(double),
            Element::Int64 => numbers.extend(long.iter().map(|&value| value as f64)),
            Element::Int32 | Element::Bool => numbers.extend(short.iter().copied().map(f64::from)),
        }
        return Some(numbers);
    };
    if elsewhere != 0 || raw.len() != count * size(element) {
        return None;
    }
    let mut numbers = Numbers::new(Vec::with_capacity(count));
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn constants_at_one_place_fill_memory() {
        let beside = Beside::new(None);
        assert!(beside.count(MAX_TOTAL_WEIGHTS - 1).is_ok());
        assert!(beside.count(1).is_ok());
        assert!(beside.count(1).unwrap_err().contains("together larger"));
        assert!(beside.count(usize::MAX).is_err());
    }
}
