//! Some rows, column by column, and which of them are bad.

use std::borrow::Cow;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{AnyDictionaryArray, Array, ArrayRef};
use arrow_buffer::ScalarBuffer;
use arrow_schema::DataType;

use crate::batch::MAX_KEY;
use crate::results::BadReason;

/// Rows of a file, in its order.
pub struct Batch {
    pub(super) rows: usize,
    pub(super) columns: Vec<Values>,
    pub(super) bad: Vec<Bad>,
    pub(super) key: Option<ArrayRef>,
}

/// The values of a column: as they lie in the file, or converted.
pub(super) enum Values {
    Shared(ScalarBuffer<f64>),
    Owned(Vec<f64>),
}

impl Values {
    pub(super) fn as_slice(&self) -> &[f64] {
        match self {
            Self::Shared(values) => values,
            Self::Owned(values) => values,
        }
    }
}

/// A row that cannot be scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bad {
    /// Its place in the batch, the first being 0.
    pub row: usize,
    /// The column of the model at fault.
    pub column: usize,
    /// What is wrong.
    pub reason: BadReason,
}

impl Batch {
    /// How many rows there are, good and bad.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns there are: the model's.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// The values of a column of the model, one for each row. What stands in a bad row means
    /// nothing.
    ///
    /// # Panics
    /// When the model has no such column.
    pub fn column(&self, column: usize) -> &[f64] {
        self.columns[column].as_slice()
    }

    /// The bad rows, in their order, each with its first fault.
    pub fn bad(&self) -> &[Bad] {
        &self.bad
    }

    /// What the key column calls a row, cut where it is longer than a result file takes; none
    /// without a key column, or where it says nothing.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn key(&self, row: usize) -> Option<Cow<'_, str>> {
        let array = self.key.as_ref()?;
        assert!(row < self.rows, "a row of the batch");
        name(array, row).map(cut)
    }

    /// Sorts the faults by row and keeps the first of each.
    pub(super) fn settle(&mut self) {
        self.bad.sort_unstable();
        self.bad.dedup_by_key(|bad| bad.row);
    }
}

/// Whether values of this type can name rows.
pub(super) fn is_name(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => {
            !matches!(**values, DataType::Dictionary(..)) && is_name(values)
        }
        kind => kind.is_integer(),
    }
}

/// What a result file takes of a name.
fn cut(mut name: Cow<'_, str>) -> Cow<'_, str> {
    if name.len() > MAX_KEY {
        let end = name.floor_char_boundary(MAX_KEY);
        name = match name {
            Cow::Borrowed(name) => Cow::Borrowed(&name[..end]),
            Cow::Owned(name) => Cow::Owned(name[..end].to_owned()),
        };
    }
    name
}

fn name(array: &dyn Array, row: usize) -> Option<Cow<'_, str>> {
    fn whole<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> Option<Cow<'_, str>>
    where
        T::Native: ToString,
    {
        let value = array.as_primitive::<T>().value(row);
        Some(Cow::Owned(value.to_string()))
    }
    if array.is_null(row) {
        return None;
    }
    match array.data_type() {
        DataType::Utf8 => Some(Cow::Borrowed(array.as_string::<i32>().value(row))),
        DataType::LargeUtf8 => Some(Cow::Borrowed(array.as_string::<i64>().value(row))),
        DataType::Utf8View => Some(Cow::Borrowed(array.as_string_view().value(row))),
        DataType::Int8 => whole::<Int8Type>(array, row),
        DataType::Int16 => whole::<Int16Type>(array, row),
        DataType::Int32 => whole::<Int32Type>(array, row),
        DataType::Int64 => whole::<Int64Type>(array, row),
        DataType::UInt8 => whole::<UInt8Type>(array, row),
        DataType::UInt16 => whole::<UInt16Type>(array, row),
        DataType::UInt32 => whole::<UInt32Type>(array, row),
        DataType::UInt64 => whole::<UInt64Type>(array, row),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let value = dictionary_key(dictionary, row)?;
            name(dictionary.values(), value)
        }
        _ => None,
    }
}

/// The place of a row's value among those of a dictionary.
fn dictionary_key(dictionary: &dyn AnyDictionaryArray, row: usize) -> Option<usize> {
    fn at<T: ArrowPrimitiveType>(keys: &dyn Array, row: usize) -> Option<usize>
    where
        T::Native: TryInto<usize>,
    {
        keys.as_primitive::<T>().value(row).try_into().ok()
    }
    let keys = dictionary.keys();
    let key = match keys.data_type() {
        DataType::Int8 => at::<Int8Type>(keys, row),
        DataType::Int16 => at::<Int16Type>(keys, row),
        DataType::Int32 => at::<Int32Type>(keys, row),
        DataType::Int64 => at::<Int64Type>(keys, row),
        DataType::UInt8 => at::<UInt8Type>(keys, row),
        DataType::UInt16 => at::<UInt16Type>(keys, row),
        DataType::UInt32 => at::<UInt32Type>(keys, row),
        DataType::UInt64 => at::<UInt64Type>(keys, row),
        _ => None,
    };
    key.filter(|key| *key < dictionary.values().len())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        DictionaryArray, Int64Array, LargeStringArray, StringArray, StringViewArray, UInt8Array,
    };

    use super::*;

    fn arrays() -> Vec<ArrayRef> {
        let texts = vec![
            Some("tx-1"),
            None,
            Some("ein längerer Name als zwölf Bytes"),
        ];
        let dictionary: DictionaryArray<Int8Type> = texts.clone().into_iter().collect();
        vec![
            Arc::new(StringArray::from(texts.clone())),
            Arc::new(LargeStringArray::from(texts.clone())),
            Arc::new(StringViewArray::from(texts)),
            Arc::new(dictionary),
        ]
    }

    #[test]
    fn names_of_every_type_come_back() {
        for array in arrays() {
            assert!(is_name(array.data_type()));
            assert_eq!(name(&array, 0).unwrap(), "tx-1", "{}", array.data_type());
            assert_eq!(name(&array, 1), None);
            assert_eq!(
                name(&array, 2).unwrap(),
                "ein längerer Name als zwölf Bytes"
            );
        }
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![i64::MIN]));
        assert_eq!(name(&numbers, 0).unwrap(), "-9223372036854775808");
        let numbers: ArrayRef = Arc::new(UInt8Array::from(vec![255]));
        assert_eq!(name(&numbers, 0).unwrap(), "255");
        assert!(!is_name(&DataType::Float64) && !is_name(&DataType::Date32));
    }

    #[test]
    fn long_name_is_cut_within_a_letter() {
        let text = format!("{}é", "x".repeat(MAX_KEY - 1));
        assert_eq!(cut(Cow::Borrowed(&text)), "x".repeat(MAX_KEY - 1));
        assert_eq!(cut(Cow::Owned("é".to_owned())), "é");
    }

    #[test]
    fn second_fault_of_a_row_is_told() {
        let fault = |row, column, reason| Bad {
            row,
            column,
            reason,
        };
        let mut batch = Batch {
            rows: 3,
            columns: Vec::new(),
            bad: vec![
                fault(2, 0, BadReason::Empty),
                fault(1, 1, BadReason::Empty),
                fault(1, 0, BadReason::NotFinite),
            ],
            key: None,
        };
        batch.settle();
        let expected = [
            fault(1, 0, BadReason::NotFinite),
            fault(2, 0, BadReason::Empty),
        ];
        assert_eq!(batch.bad(), expected);
    }
}
