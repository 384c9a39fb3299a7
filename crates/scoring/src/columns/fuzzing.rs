//! One entry point per decoder of untrusted bytes, for fuzz targets. None may panic or take more
//! memory than a few pages of each column need, whatever the bytes.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use zeroize::Zeroizing;

use super::{Batch, ColumnsError, ColumnsInput, ParquetKeys};
use crate::detect::Format;
use crate::model::Preprocessing;

/// A Parquet file, read without a key and with one.
///
/// # Panics
/// When a batch contradicts itself.
pub fn parquet(data: &[u8]) {
    read(Format::Parquet, data, &ParquetKeys::default());
    let keys = ParquetKeys {
        footer: Some(Zeroizing::new(vec![0x5a; 16])),
        ..ParquetKeys::default()
    };
    read(Format::Parquet, data, &keys);
}

/// A file or a stream of Arrow's IPC format.
///
/// # Panics
/// When a batch contradicts itself.
pub fn arrow(data: &[u8]) {
    read(Format::ArrowFile, data, &ParquetKeys::default());
}

fn read(format: Format, data: &[u8], keys: &ParquetKeys) {
    static PREPROCESSING: LazyLock<Option<Preprocessing>> = LazyLock::new(|| {
        let json = br#"{"format":1,"columns":["a","b","c"],"ignored_columns":["note"],
            "scaler":{"mean":[0,0,0],"scale":[1,1,1]},"threshold":0.5}"#;
        Preprocessing::parse(json).ok()
    });
    let Some(preprocessing) = &*PREPROCESSING else {
        return;
    };
    let source = Arc::new(Bytes::copy_from_slice(data));
    let Ok(input) = ColumnsInput::open(format, source, preprocessing, Some("id"), keys) else {
        return;
    };
    let mut left = MOST_ROWS;
    for part in 0..input.parts() {
        let read = input.read(part, &mut |batch| {
            check(batch);
            left = left
                .checked_sub(batch.rows())
                .ok_or(ColumnsError::Unsupported("enough"))?;
            Ok::<_, ColumnsError>(())
        });
        if read.is_err() {
            return;
        }
    }
    assert_eq!(input.rows(), (MOST_ROWS - left) as u64, "rows were lost");
}

fn check(batch: &Batch) {
    for column in 0..3 {
        assert_eq!(batch.column(column).len(), batch.rows());
    }
    let mut bad = batch.bad().iter().peekable();
    for row in 0..batch.rows() {
        let _name = batch.key(row);
        if bad.next_if(|bad| bad.row == row).is_none() {
            let finite = (0..3).all(|column| batch.column(column)[row].is_finite());
            assert!(finite, "a good row holds what is no number");
        }
    }
    assert_eq!(bad.next(), None, "a bad row is none of the batch");
}

/// A few bytes can stand for very many rows.
const MOST_ROWS: usize = 200_000;
