//! Some rows, column by column, and which of them are bad.

use std::borrow::Cow;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{AnyDictionaryArray, Array, ArrayRef};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{DataType, TimeUnit};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => true,
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
        kind => moment(array, kind, row).map(Cow::Owned),
    }
}

/// A date as `2026-11-23`, a time as `2026-11-23T07:59:03.25` (RFC 3339) and with `Z` where the file says that it is one of
/// UTC. None for what lies beyond the years that have four digits.
fn moment(array: &dyn Array, kind: &DataType, row: usize) -> Option<String> {
    fn at<T: ArrowPrimitiveType<Native = i64>>(array: &dyn Array, row: usize) -> i128 {
        array.as_primitive::<T>().value(row).into()
    }
    const MILLI: i128 = 1_000_000;
    let nanoseconds = match kind {
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(row);
            i128::from(days) * 86_400_000 * MILLI
        }
        DataType::Date64 => at::<Date64Type>(array, row) * MILLI,
        DataType::Timestamp(TimeUnit::Second, _) => {
            at::<TimestampSecondType>(array, row) * 1000 * MILLI
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            at::<TimestampMillisecondType>(array, row) * MILLI
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            at::<TimestampMicrosecondType>(array, row) * 1000
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => at::<TimestampNanosecondType>(array, row),
        _ => return None,
    };
    let moment = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()?;
    let mut text = moment.format(&Rfc3339).ok()?;
    match kind {
        DataType::Date32 | DataType::Date64 => text.truncate("2026-11-23".len()),
        DataType::Timestamp(_, None) => text.truncate(text.len() - "Z".len()),
        _ => {}
    }
    Some(text)
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
        Date32Array, DictionaryArray, Int64Array, LargeStringArray, StringArray, StringViewArray,
        TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt8Array,
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
        assert!(!is_name(&DataType::Float64) && !is_name(&DataType::Boolean));
    }

    #[test]
    fn time_as_a_name_is_another_time() {
        let times = |array: ArrayRef| {
            assert!(is_name(array.data_type()));
            let names = (0..array.len()).map(|row| name(&array, row).map(Cow::into_owned));
            names.collect::<Vec<_>>()
        };
        let named = |text: &str| Some(text.to_owned());
        let array = TimestampMicrosecondArray::from(vec![Some(1_795_420_743_250_000), None]);
        let zoned = array.clone().with_timezone("Europe/Berlin");
        assert_eq!(
            times(Arc::new(array)),
            [named("2026-11-23T07:59:03.25"), None]
        );
        assert_eq!(
            times(Arc::new(zoned)),
            [named("2026-11-23T07:59:03.25Z"), None]
        );
        assert_eq!(
            times(Arc::new(TimestampSecondArray::from(vec![-1, i64::MAX]))),
            [named("1969-12-31T23:59:59"), None]
        );
        assert_eq!(
            times(Arc::new(TimestampNanosecondArray::from(vec![i64::MIN]))),
            [named("1677-09-21T00:12:43.145224192")]
        );
        assert_eq!(
            times(Arc::new(Date32Array::from(vec![20_780, i32::MAX]))),
            [named("2026-11-23"), None]
        );
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
