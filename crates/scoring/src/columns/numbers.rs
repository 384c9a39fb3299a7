//! A column of an Arrow array as f64. What f64 cannot hold exactly is not rounded: the row is bad.
//! Decimals are the exception, as a CSV's numbers are: they become the nearest f64.

use std::fmt::Write as _;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType, Float16Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrowPrimitiveType};
use arrow_schema::DataType;

use super::batch::{Bad, Values};
use crate::model::Preprocessing;
use crate::results::BadReason;

/// Whether values of this type are read as numbers.
pub(super) fn is_number(kind: &DataType) -> bool {
    match kind {
        DataType::Boolean => true,
        DataType::Dictionary(_, values) => {
            !matches!(**values, DataType::Dictionary(..)) && is_number(values)
        }
        kind => kind.is_numeric(),
    }
}

/// The column's values, and its bad rows. `None` for a type that [`is_number`] does not take.
pub(super) fn numbers(
    array: &dyn Array,
    column: usize,
    preprocessing: &Preprocessing,
    bad: &mut Vec<Bad>,
) -> Option<Values> {
    let mut faults = Vec::new();
    let values = convert(array, &mut faults)?;
    let nulls = array.logical_nulls();
    let values_of = values.as_slice();
    if let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) {
        // What stands behind a null is nobody's value.
        faults.retain(|(row, _)| nulls.is_valid(*row));
        for (row, &value) in values_of.iter().enumerate() {
            if nulls.is_null(row) {
                faults.push((row, BadReason::Empty));
            } else if let Some(reason) = fault(value, column, preprocessing) {
                faults.push((row, reason));
            }
        }
    } else if !values_of
        .iter()
        // Not `all`: without a way out the compiler takes many values at once.
        .fold(true, |good, &value| good & preprocessing.surely_takes(column, value))
    {
        for (row, &value) in values_of.iter().enumerate() {
            faults.extend(fault(value, column, preprocessing).map(|reason| (row, reason)));
        }
    }
    bad.extend(faults.into_iter().map(|(row, reason)| Bad {
        row,
        column,
        reason,
    }));
    Some(values)
}

fn fault(value: f64, column: usize, preprocessing: &Preprocessing) -> Option<BadReason> {
    if !value.is_finite() {
        Some(BadReason::NotFinite)
    } else if !preprocessing.takes(column, value) {
        Some(BadReason::TooLarge)
    } else {
        None
    }
}

type Faults = Vec<(usize, BadReason)>;

fn convert(array: &dyn Array, faults: &mut Faults) -> Option<Values> {
    fn lossless<T: ArrowPrimitiveType>(array: &dyn Array) -> Option<Values>
    where
        T::Native: Into<f64>,
    {
        let values = array.as_primitive::<T>().values();
        Some(Values::Owned(
            values.iter().map(|&value| value.into()).collect(),
        ))
    }
    match array.data_type() {
        DataType::Float64 => Some(Values::Shared(
            array.as_primitive::<Float64Type>().values().clone(),
        )),
        DataType::Float32 => lossless::<Float32Type>(array),
        DataType::Float16 => lossless::<Float16Type>(array),
        DataType::Int8 => lossless::<Int8Type>(array),
        DataType::Int16 => lossless::<Int16Type>(array),
        DataType::Int32 => lossless::<Int32Type>(array),
        DataType::UInt8 => lossless::<UInt8Type>(array),
        DataType::UInt16 => lossless::<UInt16Type>(array),
        DataType::UInt32 => lossless::<UInt32Type>(array),
        DataType::Int64 => {
            let values = array.as_primitive::<Int64Type>().values();
            inexact(values.iter().map(|value| value.unsigned_abs()), faults);
            Some(Values::Owned(
                values.iter().map(|&value| value as f64).collect(),
            ))
        }
        DataType::UInt64 => {
            let values = array.as_primitive::<UInt64Type>().values();
            inexact(values.iter().copied(), faults);
            Some(Values::Owned(
                values.iter().map(|&value| value as f64).collect(),
            ))
        }
        DataType::Boolean => {
            let values = array.as_boolean().values();
            Some(Values::Owned(
                values
                    .iter()
                    .map(|value| f64::from(u8::from(value)))
                    .collect(),
            ))
        }
        DataType::Decimal32(_, scale) => Some(decimals::<Decimal32Type>(array, *scale)),
        DataType::Decimal64(_, scale) => Some(decimals::<Decimal64Type>(array, *scale)),
        DataType::Decimal128(_, scale) => Some(decimals::<Decimal128Type>(array, *scale)),
        DataType::Decimal256(_, scale) => Some(decimals::<Decimal256Type>(array, *scale)),
        DataType::Dictionary(_, kind) if !matches!(**kind, DataType::Dictionary(..)) => {
            Some(dictionary(array, faults)?)
        }
        _ => None,
    }
}

/// Whole numbers that f64 does not hold: their significant bits do not fit into 53.
fn inexact(magnitudes: impl Iterator<Item = u64> + Clone, faults: &mut Faults) {
    if magnitudes.clone().fold(0, u64::max) <= 1 << 53 {
        return;
    }
    let lost = |magnitude: u64| {
        magnitude != 0 && 64 - magnitude.leading_zeros() - magnitude.trailing_zeros() > 53
    };
    let rows = magnitudes
        .enumerate()
        .filter(|(_, magnitude)| lost(*magnitude));
    faults.extend(rows.map(|(row, _)| (row, BadReason::NotExact)));
}

fn decimals<T: DecimalType>(array: &dyn Array, scale: i8) -> Values
where
    T::Native: std::fmt::Display,
{
    let mut text = String::new();
    let values = array.as_primitive::<T>().values().iter().map(|value| {
        // Through text: the standard library rounds once, and correctly.
        text.clear();
        let written = write!(text, "{}e{}", value, -i16::from(scale));
        debug_assert!(written.is_ok(), "a string grows");
        text.parse().unwrap_or(f64::NAN)
    });
    Values::Owned(values.collect())
}

fn dictionary(array: &dyn Array, faults: &mut Faults) -> Option<Values> {
    let dictionary = array.as_any_dictionary();
    if dictionary.values().is_empty() {
        // Every row is a null.
        return Some(Values::Owned(vec![f64::NAN; array.len()]));
    }
    let mut of_values = Vec::new();
    let values = convert(dictionary.values(), &mut of_values)?;
    let values = values.as_slice();
    let keys = dictionary.normalized_keys();
    if !of_values.is_empty() {
        of_values.sort_unstable();
        for (row, key) in keys.iter().enumerate() {
            if let Ok(at) = of_values.binary_search_by_key(key, |(value, _)| *value) {
                faults.push((row, of_values[at].1));
            }
        }
    }
    // A key behind a null may be any number.
    let value = |key: &usize| values.get(*key).copied().unwrap_or(f64::NAN);
    Some(Values::Owned(keys.iter().map(value).collect()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::types::Int8Type;
    use arrow_array::{
        ArrayRef, BooleanArray, Decimal128Array, DictionaryArray, Float16Array, Float32Array,
        Float64Array, Int8Array, Int64Array, StringArray, UInt64Array,
    };
    use arrow_buffer::i256;

    use super::super::tests::preprocessing;
    use super::*;

    fn read(array: impl Array + 'static) -> (Vec<f64>, Vec<(usize, BadReason)>) {
        let array: ArrayRef = Arc::new(array);
        assert!(is_number(array.data_type()));
        let mut bad = Vec::new();
        let values = numbers(&array, 0, &preprocessing(&["a"], &[]), &mut bad).unwrap();
        bad.sort();
        let bad = bad.iter().map(|bad| (bad.row, bad.reason)).collect();
        (values.as_slice().to_vec(), bad)
    }

    #[test]
    fn every_kind_of_number_is_read() {
        let half = Float16Array::from_iter_values([0.5_f32, -2.0].map(half_of));
        for (values, bad) in [
            read(Float64Array::from(vec![0.5, -2.0])),
            read(Float32Array::from(vec![0.5, -2.0])),
            read(half),
            read(
                Decimal128Array::from(vec![50, -200])
                    .with_precision_and_scale(9, 2)
                    .unwrap(),
            ),
        ] {
            assert_eq!((values, bad), (vec![0.5, -2.0], vec![]));
        }
        assert_eq!(read(Int8Array::from(vec![-128, 127])).0, [-128.0, 127.0]);
        assert_eq!(read(BooleanArray::from(vec![true, false])).0, [1.0, 0.0]);
    }

    fn half_of(value: f32) -> <Float16Type as ArrowPrimitiveType>::Native {
        <Float16Type as ArrowPrimitiveType>::Native::from_f32(value)
    }

    #[test]
    fn whole_number_is_rounded() {
        let edge = 1_i64 << 53;
        let numbers = vec![edge, edge + 1, -edge - 1, edge + 2, i64::MIN, i64::MAX, 0];
        let (values, bad) = read(Int64Array::from(numbers));
        let inexact = |row| (row, BadReason::NotExact);
        assert_eq!(bad, [inexact(1), inexact(2), inexact(5)]);
        assert_eq!(
            (values[3], values[4]),
            (9_007_199_254_740_994.0, -(2.0_f64.powi(63)))
        );
        let (_, bad) = read(UInt64Array::from(vec![u64::MAX, 1 << 63, (1 << 53) + 1]));
        assert_eq!(bad, [inexact(0), inexact(2)]);
    }

    #[test]
    fn decimal_is_rounded_twice() {
        // Neither the digits nor the power of ten are exact in f64; their quotient is off by a bit.
        let digits = 12_345_678_901_234_567_890_123_i128;
        let array = Decimal128Array::from(vec![digits])
            .with_precision_and_scale(38, 23)
            .unwrap();
        assert_eq!(
            read(array).0,
            ["0.12345678901234567890123".parse::<f64>().unwrap()]
        );
        let wide = arrow_array::Decimal256Array::from(vec![i256::from_i128(-15)])
            .with_precision_and_scale(76, 1)
            .unwrap();
        assert_eq!(read(wide).0, [-1.5]);
    }

    #[test]
    fn null_is_a_number() {
        let (_, bad) = read(Float64Array::from(vec![
            Some(1.0),
            None,
            Some(f64::NAN),
            None,
        ]));
        let expected = [
            (1, BadReason::Empty),
            (2, BadReason::NotFinite),
            (3, BadReason::Empty),
        ];
        assert_eq!(bad, expected);
        let (_, bad) = read(Int64Array::new(
            vec![i64::MAX, 5].into(),
            Some(vec![false, true].into()),
        ));
        assert_eq!(bad, [(0, BadReason::Empty)]);
    }

    #[test]
    fn value_that_no_model_takes_is_scored() {
        let (_, bad) = read(Float64Array::from(vec![
            1.0,
            f64::INFINITY,
            -1e300,
            f64::NAN,
        ]));
        let expected = [
            (1, BadReason::NotFinite),
            (2, BadReason::TooLarge),
            (3, BadReason::NotFinite),
        ];
        assert_eq!(bad, expected);
    }

    #[test]
    fn dictionary_s_keys_are_taken_for_values() {
        let values = Arc::new(Int64Array::from(vec![Some(7), Some(i64::MAX), None]));
        let keys = Int8Array::from(vec![Some(0), Some(1), None, Some(2), Some(0)]);
        let (values, bad) = read(DictionaryArray::<Int8Type>::new(keys, values));
        assert_eq!((values[0], values[4]), (7.0, 7.0));
        let expected = [
            (1, BadReason::NotExact),
            (2, BadReason::Empty),
            (3, BadReason::Empty),
        ];
        assert_eq!(bad, expected);
    }

    #[test]
    fn text_is_a_number() {
        let array: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
        assert!(!is_number(array.data_type()));
        for kind in [
            DataType::Date32,
            DataType::Null,
            DataType::Timestamp(arrow_schema::TimeUnit::Second, None),
        ] {
            assert!(!is_number(&kind), "{kind}");
        }
    }
}
