//! A data set in numbers: its rows are read as they are for scoring, by one thread, and looked at
//! instead.

use std::io::Read;

use super::columns::take;
use super::csv::Lines;
use super::header::Layout;
use super::part::Sink;
use super::pipeline::PART;
use super::record::MAX_LINE;
use super::score::{Beginning, HeaderFault, too_long};
use super::{HeaderRow, Options, Progress, Results, ScoreError};
use crate::columns::{ColumnsError, ColumnsInput};
use crate::model::Bundle;
use crate::profile::ProfileBuilder;

/// Reads a CSV and hands its rows to a builder, which is given back. Memory does not grow with the
/// number of rows. Rows that cannot be read are counted.
///
/// # Errors
/// [`ScoreError`] says what is wrong with the file as a whole.
pub fn profile(
    input: &mut dyn Read,
    bundle: &Bundle,
    builder: ProfileBuilder,
    file: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<ProfileBuilder, ScoreError> {
    let failed = |source| ScoreError::Read {
        file: file.to_owned(),
        source,
    };
    let refused = |source| ScoreError::Header {
        file: file.to_owned(),
        source,
    };
    let preprocessing = bundle.preprocessing();
    let mut sink = sink(bundle, builder)?;

    // What is read and not yet looked at: the beginning of a line, then a part of the file.
    let mut bytes = Vec::with_capacity(PART + MAX_LINE);
    let mut more = |bytes: &mut Vec<u8>| {
        let mut part = Read::take(&mut *input, PART as u64);
        part.read_to_end(bytes).map_err(failed)
    };
    let mut read = more(&mut bytes)?;
    let begin = Beginning::of(&bytes, HeaderRow::Present).map_err(|fault| match fault {
        HeaderFault::Refused(source) => refused(source),
        HeaderFault::LineTooLong(line) => too_long(file, line),
    })?;
    let header = begin.header.unwrap_or_default();
    let layout = Layout::of_header(header, preprocessing, None).map_err(refused)?;
    let mut lines = Lines::new(&layout, preprocessing);
    let (mut number, header_bytes) = (begin.lines, begin.bytes);
    bytes.drain(..header_bytes);
    let mut seen = Progress {
        rows: 0,
        bytes: read as u64,
    };
    while read > 0 || !bytes.is_empty() {
        let whole = match bytes.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => end + 1,
            // The last line needs no end.
            None if read == 0 => bytes.len(),
            None => 0,
        };
        let outcome = lines.read(&bytes[..whole], &mut sink);
        let part = sink.finish()?;
        number += part.lines;
        bytes.drain(..whole);
        if outcome.is_err() || bytes.len() > MAX_LINE {
            return Err(too_long(file, number + 1));
        }
        seen.rows += part.rows;
        progress(seen);
        read = more(&mut bytes)?;
        seen.bytes += read as u64;
    }
    Ok(sink.into_profile().expect("the sink was made of a builder"))
}

/// The same of a file of columns, which has so many bytes.
///
/// # Errors
/// When a part of it cannot be read.
pub fn profile_columns(
    input: &ColumnsInput,
    bundle: &Bundle,
    builder: ProfileBuilder,
    (file, size): (&str, u64),
    progress: &mut dyn FnMut(Progress),
) -> Result<ProfileBuilder, ScoreError> {
    let mut sink = sink(bundle, builder)?;
    let mut rows = 0;
    for part in 0..input.parts() {
        let read = input.read(part, &mut |batch| {
            take(&mut sink, batch, 0..batch.rows());
            rows += batch.rows() as u64;
            Ok::<_, ColumnsError>(())
        });
        read.map_err(|source| ScoreError::Columns {
            file: file.to_owned(),
            source,
        })?;
        sink.finish()?;
        let share = u128::from(size) * u128::from(part + 1) / u128::from(input.parts());
        progress(Progress {
            rows,
            bytes: u64::try_from(share).unwrap_or(size),
        });
    }
    Ok(sink.into_profile().expect("the sink was made of a builder"))
}

/// Takes rows to look at, and counts the bad ones.
fn sink(bundle: &Bundle, builder: ProfileBuilder) -> Result<Sink<'_>, ScoreError> {
    let options = Options {
        skip_bad_rows: true,
        results: Results::Summary,
        ..Options::default()
    };
    Ok(Sink::of_profile(bundle, &options, builder)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Statistics;

    const HEADER: &str = "distance_from_last_transaction,ratio_to_median_purchase_price,\
        used_chip,used_pin_number,online_order\n";

    fn read(csv: &str) -> Result<Statistics, ScoreError> {
        let bundle = Bundle::built_in();
        let builder = ProfileBuilder::new(bundle.preprocessing(), None);
        profile(
            &mut csv.as_bytes(),
            &bundle,
            builder,
            "rows.csv",
            &mut |_| {},
        )
        .map(ProfileBuilder::finish)
    }

    #[test]
    fn rows_at_the_ends_of_parts_are_lost() {
        let row = "1.25,2.5,1.0,0.0,1.0\n";
        for rows in [0, 1, PART / row.len(), PART / row.len() + 1, 150_000] {
            let csv = format!("{HEADER}{}", row.repeat(rows));
            let statistics = read(&csv).unwrap();
            assert_eq!((statistics.rows, statistics.bad_rows), (rows as u64, 0));
            assert_eq!(statistics.columns[1].values, rows as u64);
            // The last line is looked at by itself then, and sums are rounded elsewhere.
            let trimmed = read(csv.trim_end()).unwrap();
            assert_eq!((trimmed.rows, trimmed.bad_rows), (rows as u64, 0));
            let (column, other) = (&statistics.columns[1], &trimmed.columns[1]);
            assert_eq!(
                (other.values, &other.quantiles),
                (column.values, &column.quantiles)
            );
        }
    }

    #[test]
    fn bad_rows_stop_it_or_go_uncounted() {
        let csv = format!("{HEADER}1,,0,0,1\n1,x,0,0,1\n1\n1,1,0,0,1\n");
        let statistics = read(&csv).unwrap();
        assert_eq!((statistics.rows, statistics.bad_rows), (4, 3));
        let column = &statistics.columns[1];
        assert_eq!((column.values, column.nulls, column.bad), (1, 1, 1));
    }

    #[test]
    fn line_without_end_fills_memory() {
        for rows in [0, 3] {
            let long = format!(
                "{HEADER}{}{}",
                "1,1,1,1,1\n".repeat(rows),
                "1".repeat(3 * PART)
            );
            let error = read(&long).unwrap_err().to_string();
            assert!(error.contains(&format!("line {}", rows + 2)), "{error}");
        }
        assert!(read("").unwrap_err().to_string().contains("empty"));
        assert!(read("a,b\n").unwrap_err().to_string().contains("unknown"));
    }
}
