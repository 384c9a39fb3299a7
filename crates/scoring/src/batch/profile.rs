//! A data set in numbers: its rows are read as they are for scoring, and looked at instead.

use std::io::Read;

use super::input::{Rows, Table};
use super::{Progress, ScoreError};
use crate::model::Preprocessing;
use crate::profile::{Profile, ProfileBuilder, Statistics};

/// Reads a CSV and gives its columns in numbers, held against a training profile where there is one.
/// Memory does not grow with the number of rows. Rows that cannot be read are counted.
///
/// # Errors
/// [`ScoreError`] says what is wrong with the file as a whole.
pub fn profile(
    input: &mut dyn Read,
    preprocessing: &Preprocessing,
    training: Option<&Profile>,
    file_name: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<Statistics, ScoreError> {
    let mut table = Table::open(input, preprocessing, file_name)?;
    let mut builder = ProfileBuilder::new(preprocessing, training);
    let mut rows = Rows::new(preprocessing.columns().len());
    loop {
        let read = table.next_row(&mut rows)?;
        if let Some(Err(bad)) = &read {
            builder.add_bad(bad.column.as_deref(), bad.reason);
        }
        let ended = read.is_none();
        if ended || rows.values.is_full() {
            builder.add(&rows.values);
            rows.clear();
            progress(Progress {
                rows: table.rows(),
                bytes: table.bytes(),
            });
        }
        if ended {
            return Ok(builder.finish());
        }
    }
}
