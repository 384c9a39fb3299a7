//! A file of columns through the pipeline: each thread reads a part of the file, and hands out what
//! became of it in chunks of a fixed number of rows, so that a large part is no burden on memory and
//! sums are rounded at the same places on every machine.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::checkpoint::CheckpointError;
use super::part::{Part, Sink};
use super::pipeline::{self, Commit, Order};
use super::score::Job;
use super::state::Within;
use super::{Progress, ScoreError};
use crate::columns::{Batch, ColumnsError, ColumnsInput};
use crate::results::InputSummary;

impl Job<'_> {
    /// Scores a file of columns that is called `file` in errors and in the results and has so many
    /// bytes. It must have been opened with the key column of the job's options.
    ///
    /// # Errors
    /// As [`score`](super::score).
    pub fn columns(
        &mut self,
        file: &str,
        input: &ColumnsInput,
        bytes: u64,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), ScoreError> {
        let chunks = Chunks::of(input);
        let mut within = Within {
            input: InputSummary::of(file),
            ..Within::default()
        };
        if let Some(resumed) = self.resumed.take() {
            if resumed.input.file != file || resumed.next_part > chunks.count() {
                return Err(CheckpointError::OtherJob.into());
            }
            within = resumed;
        }
        let first = within.next_part;
        let threads = self
            .options
            .threads
            .map_or_else(pipeline::cores, Into::into);
        let mut sinks = Vec::new();
        for _ in 0..threads {
            sinks.push(Sink::new(self.bundle, self.options, self.threshold)?);
        }
        let mut commit = FileCommit {
            input: within.input,
            next_chunk: first,
            rows: input.rows(),
            bytes,
            job: self,
            progress,
        };
        let next_part = AtomicU64::new(chunks.part_of(first));
        pipeline::in_order(first, sinks, &mut commit, |mut sink, order| {
            loop {
                let part = next_part.fetch_add(1, Ordering::Relaxed);
                if order.has_ended() || part >= input.parts() {
                    return;
                }
                let mut feeder = Feeder {
                    sink: &mut sink,
                    order,
                    number: chunks.before(part),
                    rows: 0,
                    first,
                };
                let read = input.read(part, &mut |batch| feeder.batch(batch));
                match read.and_then(|()| feeder.end()) {
                    Ok(()) => {}
                    Err(Stop::Ended) => return,
                    Err(Stop::Columns(source)) => {
                        let file = file.to_owned();
                        order.put(feeder.number, Err(ScoreError::Columns { file, source }));
                        return;
                    }
                }
            }
        })?;
        commit.input.bytes = bytes;
        let FileCommit { input, .. } = commit;
        self.end_input(&input)
    }
}

/// Rows that are handed out together. They decide where sums are rounded.
const CHUNK: u64 = 1 << 16;

/// The chunks of a file: those of its first part, of its second, and so on.
struct Chunks {
    /// How many are in the parts before each, and in all.
    before: Vec<u64>,
}

impl Chunks {
    fn of(input: &ColumnsInput) -> Self {
        let mut before = vec![0];
        let mut sum = 0;
        for part in 0..input.parts() {
            let rows = input.rows_before(part + 1) - input.rows_before(part);
            sum += rows.div_ceil(CHUNK);
            before.push(sum);
        }
        Self { before }
    }

    fn count(&self) -> u64 {
        self.before.last().copied().unwrap_or(0)
    }

    fn before(&self, part: u64) -> u64 {
        let at = usize::try_from(part).unwrap_or(usize::MAX);
        self.before.get(at).copied().unwrap_or_else(|| self.count())
    }

    /// The part that has this chunk; after the last chunk, none that is there.
    fn part_of(&self, chunk: u64) -> u64 {
        (self.before.partition_point(|before| *before <= chunk) - 1) as u64
    }
}

/// Hands rows of a batch to a sink, good and bad, until it wants no more.
pub(super) fn take(sink: &mut Sink<'_>, batch: &Batch, rows: Range<usize>) {
    let bad = batch.bad();
    let bad = &bad[bad.partition_point(|bad| bad.row < rows.start)..];
    let mut start = rows.start;
    for bad in bad.iter().take_while(|bad| bad.row < rows.end) {
        take_good(sink, batch, start..bad.row);
        if sink.is_stopped() {
            return;
        }
        sink.bad_row(Some(bad.column), bad.reason);
        start = bad.row + 1;
        if sink.is_stopped() {
            return;
        }
    }
    take_good(sink, batch, start..rows.end);
}

fn take_good(sink: &mut Sink<'_>, batch: &Batch, rows: Range<usize>) {
    if rows.is_empty() {
        return;
    }
    let columns: Vec<&[f64]> = (0..batch.width())
        .map(|column| &batch.column(column)[rows.clone()])
        .collect();
    sink.columns(&columns, &|row| batch.key(rows.start + row));
}

/// Why a part was not read to its end.
enum Stop {
    /// It cannot be read.
    Columns(ColumnsError),
    /// The batch ended, here or elsewhere.
    Ended,
}

impl From<ColumnsError> for Stop {
    fn from(error: ColumnsError) -> Self {
        Self::Columns(error)
    }
}

/// Takes the rows of one part, and puts a chunk in order whenever it is full.
struct Feeder<'f, 'a, 'o> {
    sink: &'f mut Sink<'a>,
    order: &'f Order<'o, Part>,
    /// The chunk that is being filled, and its rows so far.
    number: u64,
    rows: u64,
    /// The first chunk that is not done yet.
    first: u64,
}

impl Feeder<'_, '_, '_> {
    fn batch(&mut self, batch: &Batch) -> Result<(), Stop> {
        let mut start = 0;
        while start < batch.rows() {
            if self.order.has_ended() {
                return Err(Stop::Ended);
            }
            let room = usize::try_from(CHUNK - self.rows).unwrap_or(usize::MAX);
            let end = batch.rows().min(start.saturating_add(room));
            if self.number >= self.first {
                take(self.sink, batch, start..end);
            }
            self.rows += (end - start) as u64;
            if self.rows == CHUNK || self.sink.is_stopped() {
                self.put()?;
            }
            start = end;
        }
        Ok(())
    }

    fn put(&mut self) -> Result<(), Stop> {
        let stopped = self.sink.is_stopped();
        if self.number >= self.first {
            let part = self.sink.finish();
            let failed = part.is_err();
            self.order.put(self.number, part);
            if failed {
                return Err(Stop::Ended);
            }
        }
        self.number += 1;
        self.rows = 0;
        if stopped { Err(Stop::Ended) } else { Ok(()) }
    }

    /// Hands out the last chunk of the part.
    fn end(&mut self) -> Result<(), Stop> {
        if self.rows > 0 { self.put() } else { Ok(()) }
    }
}

/// Takes the chunks of one file in their order.
struct FileCommit<'j, 'a, 'p> {
    job: &'j mut Job<'a>,
    input: InputSummary,
    next_chunk: u64,
    rows: u64,
    bytes: u64,
    progress: &'p mut (dyn FnMut(Progress) + Send),
}

impl Commit<Part> for FileCommit<'_, '_, '_> {
    fn part(&mut self, part: Part) -> Result<(), ScoreError> {
        self.job.merge(&mut self.input, None, &part)?;
        self.next_chunk += 1;
        self.job.keep(|| {
            Some(Within {
                next_part: self.next_chunk,
                input: self.input.clone(),
                ..Within::default()
            })
        })?;
        // The file's bytes are where its columns are, so rows tell how far it is.
        let share =
            u128::from(self.bytes) * u128::from(self.input.rows) / u128::from(self.rows.max(1));
        (self.progress)(Progress {
            rows: self.job.rows + self.input.rows,
            bytes: self.job.bytes + u64::try_from(share).unwrap_or(self.bytes),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::Arc;
    use std::time::Duration;

    use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
    use arrow_ipc::writer::FileWriter;
    use bytes::Bytes;
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;
    use strongroom_cipherfile::FileKey;

    use super::*;
    use crate::batch::checkpoint::doubles::Memory;
    use crate::batch::{Checkpoints, Keeper, Options, Results, score};
    use crate::columns::ParquetKeys;
    use crate::detect::Format;
    use crate::model::Bundle;
    use crate::results::{BadReason, ResultReader, ResultRow, Summary, top};

    const COLUMNS: [&str; 5] = [
        "distance_from_last_transaction",
        "ratio_to_median_purchase_price",
        "used_chip",
        "used_pin_number",
        "online_order",
    ];

    /// A value of a row: some rows are fraud.
    fn value(row: usize, column: usize) -> f64 {
        match column {
            0 => (row % 101) as f64,
            1 => (row % 13) as f64 * 0.5,
            4 => f64::from(u8::from(row.is_multiple_of(3))),
            _ => f64::from(u8::from(row.is_multiple_of(column + 5))),
        }
    }

    /// Rows of which those in `holes` lack the second column.
    fn rows(range: Range<usize>, holes: &[usize]) -> RecordBatch {
        let ids = range.clone().map(|row| format!("tx-{row}"));
        let mut columns: Vec<(&str, ArrayRef)> =
            vec![("id", Arc::new(StringArray::from_iter_values(ids)))];
        for (at, name) in COLUMNS.iter().enumerate() {
            let value = |row| (at != 1 || !holes.contains(&row)).then(|| value(row, at));
            columns.push((
                name,
                Arc::new(Float64Array::from_iter(range.clone().map(value))),
            ));
        }
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn parquet(count: usize, holes: &[usize], group: usize) -> Vec<u8> {
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group));
        let batch = rows(0..count, holes);
        let mut writer =
            ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.build())).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    fn arrow(count: usize, holes: &[usize], batch: usize) -> Vec<u8> {
        let all = rows(0..count, holes);
        let mut writer = FileWriter::try_new(Vec::new(), &all.schema()).unwrap();
        for start in (0..count).step_by(batch) {
            writer
                .write(&all.slice(start, batch.min(count - start)))
                .unwrap();
        }
        writer.into_inner().unwrap()
    }

    fn csv(count: usize, holes: &[usize]) -> String {
        let mut text = format!("id,{}\n", COLUMNS.join(","));
        for row in 0..count {
            text.push_str(&format!("tx-{row}"));
            for column in 0..5 {
                if column == 1 && holes.contains(&row) {
                    text.push(',');
                } else {
                    text.push_str(&format!(",{}", value(row, column)));
                }
            }
            text.push('\n');
        }
        text
    }

    fn options(threads: usize) -> Options {
        Options {
            file_name: "rows".to_owned(),
            key_column: Some("id".to_owned()),
            results: Results::Flagged,
            skip_bad_rows: true,
            threads: NonZeroUsize::new(threads),
            ..Options::default()
        }
    }

    fn run(file: &[u8], options: &Options) -> Result<(Summary, Vec<u8>), ScoreError> {
        let bundle = Bundle::built_in();
        let source = Arc::new(Bytes::copy_from_slice(file));
        let input = ColumnsInput::open(
            Format::detect(file),
            source,
            bundle.preprocessing(),
            options.key_column.as_deref(),
            &ParquetKeys::default(),
        )
        .unwrap();
        let mut out = Vec::new();
        let mut job = Job::begin(&bundle, options, &mut out)?;
        let mut seen = Vec::new();
        let bytes = file.len() as u64;
        job.columns("rows", &input, bytes, &mut |progress| seen.push(progress))?;
        let summary = job.finish()?;
        assert!(seen.is_sorted_by_key(|progress| progress.rows));
        assert_eq!(
            seen.last().map(|last| (last.rows, last.bytes)),
            Some((summary.rows, bytes))
        );
        Ok((summary, out))
    }

    fn read(results: &[u8]) -> Vec<ResultRow> {
        let mut reader = ResultReader::open(results).unwrap();
        let mut rows = Vec::new();
        while let Some(row) = reader.next_row().unwrap() {
            rows.push(row);
        }
        rows
    }

    #[test]
    fn columns_score_otherwise_than_csv() {
        // Across chunks and groups; holes at their edges, and two in a row.
        let (count, holes) = (70_000, [0, 29_999, 30_000, 50_001, 50_002, 65_535, 69_999]);
        let (bundle, mut expected) = (Bundle::built_in(), Vec::new());
        let text = csv(count, &holes);
        let of_csv = score(
            &mut text.as_bytes(),
            &bundle,
            &options(1),
            &mut expected,
            &mut |_| {},
        )
        .unwrap();
        let expected = read(&expected);
        assert_eq!(expected.len() as u64, of_csv.flagged);
        assert!(expected.len() > 100, "{}", expected.len());
        for file in [parquet(count, &holes, 30_000), arrow(count, &holes, 20_000)] {
            let (summary, one) = run(&file, &options(1)).unwrap();
            assert!(read(&one) == expected);
            assert_eq!(summary.histogram, of_csv.histogram);
            assert_eq!(summary.bad_rows_by_reason, [(BadReason::Empty, 7)].into());
            let bad = summary.first_bad_rows.iter().map(|bad| (bad.row, bad.line));
            let places = [(1, 0), (30_000, 0), (30_001, 0), (50_002, 0), (50_003, 0)];
            assert_eq!(bad.collect::<Vec<_>>(), places);
            for threads in [2, 3] {
                let (_, many) = run(&file, &options(threads)).unwrap();
                assert!(many == one, "{threads} threads give other bytes");
            }
        }
    }

    #[test]
    fn large_group_is_one_part_for_one_thread() {
        // Two parts of one row group, the first of several chunks.
        let count = (1 << 19) + 70_000;
        let file = parquet(count, &[count - 1], count);
        let (summary, many) = run(&file, &options(3)).unwrap();
        assert_eq!((summary.rows, summary.bad_rows), (count as u64, 1));
        assert!(summary.flagged > 0);
        assert!(run(&file, &options(1)).unwrap().1 == many);
        for row in top(&many[..], 5).unwrap().rows {
            assert_eq!(row.key, Some(format!("tx-{}", row.row - 1)));
        }
    }

    #[test]
    fn bad_row_is_passed_over_unasked() {
        for threads in [1, 3] {
            let options = Options {
                skip_bad_rows: false,
                ..options(threads)
            };
            let file = parquet(70_000, &[40_000, 69_000], 30_000);
            let error = run(&file, &options).unwrap_err().to_string();
            let place = "rows: row 40001, column \"ratio_to_median_purchase_price\": nothing where";
            assert!(error.starts_with(place), "{error}");
        }
    }

    #[test]
    fn job_that_went_on_gives_another_result() {
        let count = 150_000;
        let file = parquet(count, &[7, 70_000], 100_000);
        let whole = run(&file, &options(2)).unwrap();
        let (bundle, options) = (Bundle::built_in(), options(2));
        let attempt_in = |store| {
            let checkpoints = Checkpoints {
                store: Box::new(store),
                key: FileKey::from_slice(&[7; 32]).unwrap(),
                every: Duration::ZERO,
                inputs: vec!["rows, version 1".to_owned()],
            };
            let mut out = Vec::new();
            let mut keeper = Keeper::open(checkpoints, &bundle, &options)?;
            let mut job = Job::begin_or_go_on(&bundle, &options, &mut out, Some(&mut keeper))?;
            if job.inputs_done() == 0 {
                let source = Arc::new(Bytes::from(file.clone()));
                let (keys, id) = (ParquetKeys::default(), Some("id"));
                let preprocessing = bundle.preprocessing();
                let format = Format::Parquet;
                let input = ColumnsInput::open(format, source, preprocessing, id, &keys).unwrap();
                job.columns("rows", &input, file.len() as u64, &mut |_| {})?;
            }
            let summary = job.finish()?;
            Ok::<_, ScoreError>((summary, out))
        };
        let attempt = |store: &mut Memory| store.lend(|store| attempt_in(store()));
        let mut cuts = 0;
        for puts in 0.. {
            let mut store = Memory {
                puts_left: Some(puts),
                ..Memory::default()
            };
            if attempt(&mut store).is_ok() {
                break;
            }
            cuts += 1;
            store.puts_left = None;
            assert!(attempt(&mut store).unwrap() == whole, "cut after {puts}");
        }
        assert!(cuts >= 6, "{cuts}");
    }

    #[test]
    fn damaged_part_passes_for_read() {
        let mut file = parquet(70_000, &[], 30_000);
        // Within the pages of the first columns.
        for byte in &mut file[1000..2000] {
            *byte = 0xff;
        }
        let error = run(&file, &options(2)).unwrap_err();
        assert!(matches!(error, ScoreError::Columns { .. }), "{error}");
    }
}
