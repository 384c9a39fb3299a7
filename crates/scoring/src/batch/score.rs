//! A job: one file after another through the pipeline, what the owner wants of them handed out, and
//! everything counted.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use strongroom_cipherfile::tink_stream::Segments;
use zeroize::{Zeroize as _, Zeroizing};

use super::checkpoint::{CheckpointError, Keeper};
use super::csv::Lines;
use super::header::Layout;
use super::output::ResultWriter;
use super::part::{NAMED_BAD_ROWS, Part, Sink, Tally};
use super::pipeline::{self, Commit, CsvPart, PartDigest, Parts, Source, Worker};
use super::record::MAX_LINE;
use super::state::{Done, Within};
use super::{
    BadRow, HeaderError, HeaderRow, LineTooLong, Options, Progress, Results, ScoreError, Summary,
};
use crate::model::Bundle;
use crate::read_at::ReadAt;
use crate::results::{FORMAT, Header, InputSummary};

/// Scores one CSV. Rows stream through: memory does not grow with their number.
///
/// The results are written as they come and are whole only when this returns `Ok`: after an error
/// the caller throws them away or leaves them to be found cut. Equal inputs give equal results, to
/// the byte, on however many threads. `progress` is called after every part of a mebibyte.
///
/// # Errors
/// [`ScoreError`] says which row or what else; see there.
pub fn score(
    input: &mut (dyn Read + Send),
    bundle: &Bundle,
    options: &Options,
    out: &mut (dyn Write + Send),
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Summary, ScoreError> {
    let mut job = Job::begin(bundle, options, out)?;
    job.csv(&options.file_name, input, progress)?;
    job.finish()
}

/// A batch of one file or several, with one result.
pub struct Job<'a> {
    pub(super) bundle: &'a Bundle,
    pub(super) options: &'a Options,
    pub(super) threshold: f64,
    results: ResultWriter<'a>,
    keeper: Option<&'a mut Keeper>,
    /// Where the job goes on, until it is there.
    pub(super) resumed: Option<Within>,
    inputs_done: usize,
    tally: Tally,
    first_bad: Vec<BadRow>,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

impl<'a> Job<'a> {
    /// Begins the results.
    ///
    /// # Errors
    /// When the threshold is no probability, or the results cannot be written.
    pub fn begin(
        bundle: &'a Bundle,
        options: &'a Options,
        out: &'a mut (dyn Write + Send),
    ) -> Result<Self, ScoreError> {
        Self::begin_or_go_on(bundle, options, out, None)
    }

    /// The same, and goes on from a checkpoint of this very job if there is one; then
    /// [`Job::inputs_done`] says how many of its files need not be brought again. Nothing reaches
    /// `out` before [`Job::finish`].
    ///
    /// # Errors
    /// Also when the checkpoint cannot be written.
    pub fn begin_or_go_on(
        bundle: &'a Bundle,
        options: &'a Options,
        out: &'a mut (dyn Write + Send),
        keeper: Option<&'a mut Keeper>,
    ) -> Result<Self, ScoreError> {
        let threshold = options.threshold_for(bundle);
        if !(0.0..=1.0).contains(&threshold) {
            return Err(ScoreError::Threshold);
        }
        if options.header_row == HeaderRow::Absent && options.key_column.is_some() {
            return Err(ScoreError::KeyWithoutHeader);
        }
        let mut job = Self {
            bundle,
            options,
            threshold,
            results: ResultWriter::new(out, keeper.is_some()),
            keeper,
            resumed: None,
            inputs_done: 0,
            tally: Tally::default(),
            first_bad: Vec::new(),
            rows: 0,
            bytes: 0,
        };
        if let Some(keeper) = &mut job.keeper
            && let Some(done) = keeper.take_over()?
        {
            job.go_on_from(done);
            return Ok(job);
        }
        let header = Header {
            format: FORMAT.to_owned(),
            input: options.file_name.clone(),
            model_digest: bundle.digest().to_owned(),
            threshold,
            results: options.results,
            columns: if options.hands_out_features() {
                bundle.preprocessing().columns().to_vec()
            } else {
                Vec::new()
            },
        };
        job.results.header(&header).map_err(ScoreError::Write)?;
        Ok(job)
    }

    fn go_on_from(&mut self, done: Done) {
        self.inputs_done = done.inputs_done;
        self.resumed = done.within;
        self.rows = done.rows;
        self.bytes = done.bytes;
        self.first_bad = done.first_bad;
        self.tally = Tally {
            scored: done.scored,
            flagged: done.flagged,
            bad: done.bad,
            histogram: done.histogram,
            max: f64::from_bits(done.max),
            sum: f64::from_bits(done.sum),
            outside: done.outside,
        };
    }

    /// How many of the job's files are done, and must not be brought again.
    pub fn inputs_done(&self) -> usize {
        self.inputs_done
    }

    /// Rows that are done, of files that are not done too.
    pub fn rows_done(&self) -> u64 {
        let within = self.resumed.as_ref();
        self.rows + within.map_or(0, |within| within.input.rows)
    }

    /// Keeps how far the job is, when it is time.
    pub(super) fn keep(
        &mut self,
        within: impl FnOnce() -> Option<Within>,
    ) -> Result<(), ScoreError> {
        let in_hand = self.results.kept().map_or(0, |kept| kept.len());
        match &self.keeper {
            Some(keeper) if keeper.is_due(in_hand) => self.store(within()),
            _ => Ok(()),
        }
    }

    /// Keeps how far the job is.
    pub(super) fn store(&mut self, within: Option<Within>) -> Result<(), ScoreError> {
        let (Some(keeper), Some(kept)) = (&mut self.keeper, self.results.kept()) else {
            return Ok(());
        };
        let done = Done {
            inputs_done: self.inputs_done,
            within,
            rows: self.rows,
            bytes: self.bytes,
            first_bad: self.first_bad.clone(),
            scored: self.tally.scored,
            flagged: self.tally.flagged,
            bad: self.tally.bad.clone(),
            histogram: self.tally.histogram,
            max: self.tally.max.to_bits(),
            sum: self.tally.sum.to_bits(),
            outside: self.tally.outside.clone(),
        };
        keeper.store(kept, done)?;
        kept.zeroize();
        Ok(())
    }

    /// Scores a CSV that is called `file` in errors and in the results.
    ///
    /// # Errors
    /// As [`score`].
    pub fn csv(
        &mut self,
        file: &str,
        input: &mut (dyn Read + Send),
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), ScoreError> {
        self.rows_of(file, Source::Stream(input), progress)
    }

    /// Scores a CSV that lies encrypted in `source`; its segments are opened by all threads.
    ///
    /// # Errors
    /// As [`score`].
    pub fn csv_segments(
        &mut self,
        file: &str,
        source: &dyn ReadAt,
        segments: &Segments,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), ScoreError> {
        let source = Source::Segments {
            file: source,
            segments,
        };
        self.rows_of(file, source, progress)
    }

    fn rows_of(
        &mut self,
        file: &str,
        source: Source<'_>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), ScoreError> {
        let failed = |source| ScoreError::Read {
            file: file.to_owned(),
            source,
        };
        let is_kept = self.keeper.is_some();
        let mut parts = Parts::begin(source, is_kept).map_err(failed)?;
        let refused = |source| ScoreError::Header {
            file: file.to_owned(),
            source,
        };
        let (bundle, options) = (self.bundle, self.options);
        let preprocessing = bundle.preprocessing();
        let begin =
            Beginning::of(parts.first(), options.header_row).map_err(|fault| match fault {
                HeaderFault::Refused(source) => refused(source),
                HeaderFault::LineTooLong(line) => too_long(file, line),
            })?;
        let layout = match begin.header {
            Some(header) => Layout::of_header(header, preprocessing, options.key_column.as_deref()),
            None => Layout::of_names(preprocessing.columns(), preprocessing, None),
        }
        .map_err(refused)?;
        let (header_lines, header_bytes) = (begin.lines, begin.bytes);
        let mut within = Within {
            next_part: 0,
            input: InputSummary::of(file),
            lines: header_lines,
            ..Within::default()
        };
        within.input.bytes = header_bytes as u64;
        let mut digest = PartDigest::default();
        if let Some(resumed) = self.resumed.take() {
            if resumed.input.file != file {
                return Err(CheckpointError::OtherJob.into());
            }
            let read = parts
                .go_on_with(resumed.next_part, resumed.input.bytes)
                .map_err(failed)?;
            if read.is_some_and(|read| hex::encode(read) != resumed.digest) {
                let file = file.to_owned();
                return Err(CheckpointError::InputChanged { file }.into());
            }
            digest = read.unwrap_or_default();
            within = resumed;
        }
        // Gone already, where the job goes on behind it.
        parts.skip(header_bytes);
        let mut carry = Zeroizing::new(Vec::with_capacity(MAX_CARRY));
        carry.resize((within.carry.len() / 2).min(MAX_CARRY), 0);
        if hex::decode_to_slice(&*within.carry, &mut carry).is_err() {
            return Err(CheckpointError::of_state().into());
        }

        let threads = self
            .options
            .threads
            .map_or_else(pipeline::cores, Into::into);
        let mut workers = Vec::new();
        for _ in 0..=threads {
            workers.push(Worker {
                lines: Lines::new(&layout, preprocessing),
                sink: Sink::new(bundle, options, self.threshold)?,
            });
        }
        let edge = workers.pop().expect("one more worker than threads");
        let mut commit = FileCommit {
            next_part: within.next_part,
            read: self.bytes + within.input.bytes,
            input: within.input,
            lines: within.lines,
            carry,
            digest,
            edge,
            job: self,
            progress,
        };
        pipeline::run(parts, workers, &mut commit, file)?;
        commit.end()
    }

    /// Closes the results with their summary.
    ///
    /// # Errors
    /// When the results cannot be written.
    pub fn finish(mut self) -> Result<Summary, ScoreError> {
        if self.resumed.is_some() {
            return Err(CheckpointError::FewerInputs.into());
        }
        let expected = match self.options.results {
            Results::Flagged => self.tally.flagged,
            Results::All => self.tally.scored,
            Results::Summary => 0,
        };
        let summary = self.summary();
        self.results.summary(&summary).map_err(ScoreError::Write)?;
        if let Some(keeper) = &mut self.keeper {
            let results = &mut self.results;
            keeper
                .results(|lines| results.lines(lines))?
                .map_err(ScoreError::Write)?;
            let rest = results.kept().map(std::mem::take).unwrap_or_default();
            let rest = Zeroizing::new(rest);
            results.lines(&rest).map_err(ScoreError::Write)?;
        }
        // Whatever is made of the lines, it is these rows: a job that says it is done has them all.
        let found = self.results.rows();
        if found != expected {
            return Err(CheckpointError::Rows { found, expected }.into());
        }
        self.results.flush().map_err(ScoreError::Write)?;
        Ok(summary)
    }

    fn summary(&mut self) -> Summary {
        let Tally {
            scored,
            flagged,
            bad,
            histogram,
            max,
            sum,
            outside,
        } = std::mem::take(&mut self.tally);
        let any = scored > 0;
        let mut summary = Summary {
            rows: self.rows,
            bad_rows: bad.values().sum(),
            bad_rows_by_reason: bad,
            first_bad_rows: std::mem::take(&mut self.first_bad),
            flagged,
            threshold: self.threshold,
            histogram,
            max: any.then_some(max),
            mean: any.then(|| sum / scored as f64),
            bytes: self.bytes,
            model_digest: self.bundle.digest().to_owned(),
            rows_outside_training_range: None,
            outside_training_range: BTreeMap::new(),
        };
        if self.bundle.profile().is_some() {
            summary.say_outside(&outside, self.bundle.preprocessing().columns());
        }
        summary
    }
}

/// Takes the parts of one file in their order.
struct FileCommit<'j, 'a, 'l, 'p> {
    job: &'j mut Job<'a>,
    input: InputSummary,
    next_part: u64,
    /// Lines of the file so far.
    lines: u64,
    /// What stands behind the last line end so far.
    carry: Zeroizing<Vec<u8>>,
    /// The digest of the file so far, where it is digested.
    digest: PartDigest,
    /// Reads and scores the lines that lie across two parts.
    edge: Worker<'l>,
    read: u64,
    progress: &'p mut (dyn FnMut(Progress) + Send),
}

impl Commit<CsvPart> for FileCommit<'_, '_, '_, '_> {
    fn part(&mut self, part: CsvPart) -> Result<(), ScoreError> {
        self.carry.extend_from_slice(&part.head);
        if part.head_ends {
            self.carried_line()?;
            self.merge(&part.body)?;
            if part.has_long_line {
                return Err(too_long(&self.input.file, self.lines + 1));
            }
            self.carry.extend_from_slice(&part.tail);
        }
        if self.carry.len() > MAX_LINE {
            return Err(too_long(&self.input.file, self.lines + 1));
        }
        self.input.bytes += part.bytes;
        self.read += part.bytes;
        self.next_part += 1;
        if let Some(digest) = &part.digest {
            self.digest = pipeline::digest_on(&self.digest, digest);
        }
        self.job.keep(|| {
            Some(Within {
                next_part: self.next_part,
                input: self.input.clone(),
                lines: self.lines,
                carry: Zeroizing::new(hex::encode(&*self.carry)),
                digest: if part.digest.is_some() {
                    hex::encode(self.digest)
                } else {
                    String::new()
                },
            })
        })?;
        (self.progress)(Progress {
            rows: self.job.rows + self.input.rows,
            bytes: self.read,
        });
        Ok(())
    }
}

impl FileCommit<'_, '_, '_, '_> {
    fn end(mut self) -> Result<(), ScoreError> {
        if !self.carry.is_empty() {
            self.carried_line()?;
            (self.progress)(Progress {
                rows: self.job.rows + self.input.rows,
                bytes: self.read,
            });
        }
        self.job.end_input(&self.input)
    }

    /// Scores the line that was put together.
    fn carried_line(&mut self) -> Result<(), ScoreError> {
        let mut line = std::mem::take(&mut self.carry);
        let content = line.strip_suffix(b"\n").unwrap_or(&line);
        let Worker { lines, sink } = &mut self.edge;
        let read = lines.line(content, sink);
        let part = sink.finish()?;
        if let Err(LineTooLong) = read {
            return Err(too_long(&self.input.file, self.lines + 1));
        }
        line.clear();
        self.carry = line;
        self.merge(&part)
    }

    /// Appends a part.
    fn merge(&mut self, part: &Part) -> Result<(), ScoreError> {
        let lines = Some(self.lines);
        self.job.merge(&mut self.input, lines, part)?;
        self.lines += part.lines;
        Ok(())
    }
}

impl Job<'_> {
    /// Appends a part of a file. `lines` are those before it, in a file that has lines.
    pub(super) fn merge(
        &mut self,
        input: &mut InputSummary,
        lines: Option<u64>,
        part: &Part,
    ) -> Result<(), ScoreError> {
        let first_bad = part.bad.first().map(|bad| bad.row);
        if let Some(row) = part.not_a_probability
            && first_bad.is_none_or(|bad| row < bad || self.options.skip_bad_rows)
        {
            return Err(ScoreError::NotAProbability {
                file: input.file.clone(),
                row: input.rows + row,
            });
        }
        for bad in &part.bad {
            let row = BadRow {
                file: self.options.name_files.then(|| input.file.clone()),
                row: input.rows + bad.row,
                line: lines.map_or(0, |lines| lines + bad.line),
                column: bad
                    .column
                    .map(|column| self.bundle.preprocessing().columns()[column].clone()),
                reason: bad.reason,
            };
            if !self.options.skip_bad_rows {
                return Err(ScoreError::Row {
                    file: input.file.clone(),
                    row,
                });
            }
            if self.first_bad.len() < NAMED_BAD_ROWS {
                self.first_bad.push(row);
            }
        }
        if !part.handed_out.is_empty() {
            let file = self.options.name_files.then_some(&*input.file);
            let begin = ResultWriter::begin_of_rows(file);
            for (at, &row) in part.handed_out.iter().enumerate() {
                let behind = part.lines_behind.get(at).unwrap_or_default();
                self.results
                    .row(&begin, input.rows + u64::from(row), behind)
                    .map_err(ScoreError::Write)?;
            }
        }
        input.rows += part.rows;
        input.flagged += part.tally.flagged;
        input.bad_rows += part.tally.bad.values().sum::<u64>();
        self.tally.merge(&part.tally);
        Ok(())
    }

    /// Ends a file of which every part was appended.
    pub(super) fn end_input(&mut self, input: &InputSummary) -> Result<(), ScoreError> {
        self.rows += input.rows;
        self.bytes += input.bytes;
        self.inputs_done += 1;
        self.results.input(input).map_err(ScoreError::Write)?;
        self.keep(|| None)
    }
}

/// What comes before the rows.
pub(super) struct Beginning<'a> {
    pub(super) header: Option<&'a [u8]>,
    pub(super) lines: u64,
    pub(super) bytes: usize,
}

impl<'a> Beginning<'a> {
    /// A byte order mark and, where there is one, the header: the first line that is not blank.
    pub(super) fn of(first: &'a [u8], header_row: HeaderRow) -> Result<Self, HeaderFault> {
        let mut begin = Self {
            header: None,
            lines: 0,
            bytes: 0,
        };
        if first.starts_with(BYTE_ORDER_MARK) {
            begin.bytes = BYTE_ORDER_MARK.len();
        }
        while header_row == HeaderRow::Present && begin.header.is_none() {
            let rest = &first[begin.bytes..];
            if rest.is_empty() {
                return Err(HeaderFault::Refused(HeaderError::Empty));
            }
            begin.lines += 1;
            let end = rest.iter().position(|&byte| byte == b'\n');
            let line = &rest[..end.unwrap_or(rest.len())];
            if line.len() > MAX_LINE {
                return Err(HeaderFault::LineTooLong(begin.lines));
            }
            begin.bytes += line.len() + usize::from(end.is_some());
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            begin.header = Some(line).filter(|line| !line.is_empty());
        }
        Ok(begin)
    }
}

pub(super) enum HeaderFault {
    Refused(HeaderError),
    LineTooLong(u64),
}

/// A line in the making, at most: what one part leaves and the next one brings, before it is looked at.
const MAX_CARRY: usize = 2 * (MAX_LINE + 2);

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub(super) fn too_long(file: &str, line: u64) -> ScoreError {
    ScoreError::LineTooLong {
        file: file.to_owned(),
        line,
        limit: MAX_LINE as u64,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::batch::{Results, is_fraud};
    use crate::model::UnknownColumns;
    use crate::results::{BadReason, top};
    use crate::tile::TILE;

    const HEADER: &str = "distance_from_last_transaction,ratio_to_median_purchase_price,\
        used_chip,used_pin_number,online_order\n";
    const FRAUD: &str = "100.0,5.0,0.0,0.0,1.0\n";
    const HONEST: &str = "0.5,1.0,1.0,1.0,0.0\n";

    fn options() -> Options {
        Options {
            file_name: "rows.csv".to_owned(),
            ..Options::default()
        }
    }

    fn run(csv: &[u8], options: &Options) -> Result<(Summary, Vec<u8>), ScoreError> {
        run_with(&Bundle::built_in(), csv, options)
    }

    fn run_with(
        bundle: &Bundle,
        mut csv: &[u8],
        options: &Options,
    ) -> Result<(Summary, Vec<u8>), ScoreError> {
        let mut out = Vec::new();
        let summary = score(&mut csv, bundle, options, &mut out, &mut |_| {})?;
        Ok((summary, out))
    }

    fn summary(rows: &str) -> Summary {
        run(format!("{HEADER}{rows}").as_bytes(), &options())
            .unwrap()
            .0
    }

    fn refusal(csv: impl AsRef<[u8]>) -> String {
        run(csv.as_ref(), &options()).unwrap_err().to_string()
    }

    fn row_refusal(row: &str) -> String {
        refusal(format!("{HEADER}{HONEST}{row}"))
    }

    #[test]
    fn obvious_fraud_is_missed() {
        let summary = summary(&[FRAUD, HONEST, FRAUD].concat());
        assert_eq!((summary.rows, summary.flagged, summary.bad_rows), (3, 2, 0));
    }

    #[test]
    fn probability_of_exactly_one_is_no_fraud() {
        assert!(is_fraud(1.0, 1.0));
        assert!(is_fraud(1.0, 0.999_999));
        assert!(!is_fraud(0.95, 0.95));
        let options = Options {
            threshold: Some(1.0),
            ..options()
        };
        let csv = &b"x\n0.5\n1.0\n"[..];
        let (summary, _) = run_with(&bare_bundle(&IDENTITY), csv, &options).unwrap();
        assert_eq!(
            (summary.max, summary.flagged, summary.histogram[19]),
            (Some(1.0), 1, 1)
        );
    }

    #[test]
    fn score_that_is_no_probability_is_handed_out() {
        for value in ["1.5", "-0.5"] {
            let csv = format!("x\n0.5\n{value}\n");
            let error = run_with(&bare_bundle(&IDENTITY), csv.as_bytes(), &options()).unwrap_err();
            assert_eq!(
                error.to_string(),
                "rows.csv: row 2: the model gives a score that is not between 0 and 1; one that ends in logits is exported with a Sigmoid after them (docs/model.md)"
            );
        }
    }

    #[test]
    fn overflow_in_the_model_passes_for_a_score() {
        // (x + x) - (x + x): 0 for every number that does not overflow.
        let bundle = bare_bundle(&[
            ("Add", &["x", "x"], "a"),
            ("Add", &["x", "x"], "b"),
            ("Sub", &["a", "b"], "y"),
        ]);
        let options = Options {
            skip_bad_rows: true,
            ..options()
        };
        let (summary, _) = run_with(&bundle, b"x\n1.0\n3e38\n", &options).unwrap();
        assert_eq!(summary.bad_rows_by_reason, [(BadReason::NoScore, 1)].into());
        assert_eq!(
            (summary.first_bad_rows[0].row, summary.histogram[0]),
            (2, 1)
        );
    }

    type Node<'a> = (&'a str, &'a [&'a str], &'a str);

    const IDENTITY: [Node<'_>; 1] = [("Identity", &["x"], "y")];

    /// A bundle that takes one column, unscaled, and has no sigmoid.
    fn bare_bundle(nodes: &[Node<'_>]) -> Bundle {
        use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
        use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
        use tract_onnx::pb::{TensorShapeProto, TypeProto, ValueInfoProto, type_proto};

        let value = |name: &str| {
            let dim = [7, 1].map(|size| Dimension {
                value: Some(dimension::Value::DimValue(size)),
                ..Default::default()
            });
            let shape = Some(TensorShapeProto { dim: dim.into() });
            let tensor = type_proto::Tensor {
                elem_type: 1,
                shape,
            };
            let value = Some(type_proto::Value::TensorType(tensor));
            ValueInfoProto {
                name: name.to_owned(),
                r#type: Some(TypeProto {
                    value,
                    ..Default::default()
                }),
                ..Default::default()
            }
        };
        let node = |&(op_type, inputs, output): &Node<'_>| NodeProto {
            op_type: op_type.to_owned(),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            ..Default::default()
        };
        let model = ModelProto {
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: 15,
            }],
            graph: Some(GraphProto {
                node: nodes.iter().map(node).collect(),
                input: vec![value("x")],
                output: vec![value("y")],
                ..Default::default()
            }),
            ..Default::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let write = |name, content: &[u8]| std::fs::write(folder.path().join(name), content);
        write("model.onnx", &prost::Message::encode_to_vec(&model)).unwrap();
        let preprocessing = br#"{"format":1,"columns":["x"],"scaler":{"mean":[0],"scale":[1]},
            "threshold":0.5}"#;
        write("preprocessing.json", preprocessing).unwrap();
        Bundle::from_dir(folder.path()).unwrap()
    }

    #[test]
    fn rows_outside_the_training_range_go_uncounted() {
        let far = "1e9,1e9,0.0,0.0,1.0\n1e9,1.0,0.0,0.0,2.0\n";
        let csv = format!("{HEADER}{HONEST}{far}{FRAUD}");
        let (summary, out) = run(csv.as_bytes(), &options()).unwrap();
        assert_eq!(summary.rows_outside_training_range, Some(2));
        let by_column: Vec<_> = summary
            .outside_training_range
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
            .collect();
        assert_eq!(
            by_column,
            [
                ("distance_from_last_transaction", 2),
                ("online_order", 1),
                ("ratio_to_median_purchase_price", 1),
            ]
        );
        assert_eq!(top(&out[..], 1).unwrap().summary, summary);
        // A bundle without a profile knows no range.
        let (summary, _) = run_with(&bare_bundle(&IDENTITY), b"x\n0.5\n", &options()).unwrap();
        assert_eq!(summary.rows_outside_training_range, None);
    }

    #[test]
    fn columns_are_taken_by_place() {
        let csv = "online_order,fraud,used_pin_number,used_chip,distance_from_home,\
            ratio_to_median_purchase_price,distance_from_last_transaction,repeat_retailer\n\
            1.0,0.0,0.0,0.0,7.0,5.0,100.0,1.0\n";
        let (_, shuffled) = run(csv.as_bytes(), &options()).unwrap();
        let row = &top(&shuffled[..], 1).unwrap().rows[0];
        assert_eq!(row.features, [100.0, 5.0, 0.0, 0.0, 1.0]);
        let (_, straight) = run(format!("{HEADER}{FRAUD}").as_bytes(), &options()).unwrap();
        assert_eq!(top(&straight[..], 1).unwrap().rows[0], *row);
    }

    #[test]
    fn byte_order_mark_is_part_of_a_name() {
        assert!(run(format!("\u{feff}{HEADER}{FRAUD}").as_bytes(), &options()).is_ok());
    }

    #[test]
    fn windows_line_ends_are_part_of_a_number() {
        let csv = format!("{HEADER}{FRAUD}{HONEST}").replace('\n', "\r\n");
        assert_eq!(run(csv.as_bytes(), &options()).unwrap().0.flagged, 1);
    }

    #[test]
    fn quotes_and_spaces_are_part_of_a_number() {
        assert_eq!(summary("\"100.0\", 5.0 ,0,\"0\",1\n").flagged, 1);
    }

    #[test]
    fn last_row_needs_a_line_end() {
        assert_eq!(summary(FRAUD.trim_end()).flagged, 1);
    }

    #[test]
    fn blank_lines_are_rows() {
        assert_eq!(summary(&format!("\n{FRAUD}\r\n\n{HONEST}\n\n")).rows, 2);
    }

    #[test]
    fn no_rows_is_an_error() {
        let summary = summary("");
        assert_eq!((summary.rows, summary.max, summary.mean), (0, None, None));
    }

    #[test]
    fn empty_file() {
        assert_eq!(
            refusal(""),
            "rows.csv: the file is empty; a header row is needed"
        );
    }

    #[test]
    fn misspelled_column() {
        assert_eq!(
            refusal(HEADER.replace("used_pin_number", "Used Pin")),
            "rows.csv: column 4 (\"Used Pin\") is unknown; did you mean \"used_pin_number\"?"
        );
        assert_eq!(
            refusal(format!("card_holder,{HEADER}")),
            "rows.csv: column 1 (\"card_holder\") is unknown: the model does not read it and does not list it as ignored_columns; --ignore-unknown-columns reads the file without it"
        );
        assert_eq!(
            refusal(HEADER.replace(',', ";")),
            "rows.csv: column 1 (separated by semicolons or tabs) is unknown: it holds several names, and CSV separates them by commas"
        );
    }

    #[test]
    fn column_that_nobody_reads_is_refused_when_it_may_be_there() {
        let mut bundle = Bundle::built_in();
        bundle.set_unknown_columns(UnknownColumns::Ignore);
        let csv = format!("card_holder,{HEADER}Jane,{FRAUD}");
        let (summary, _) = run_with(&bundle, csv.as_bytes(), &options()).unwrap();
        assert_eq!((summary.rows, summary.flagged), (1, 1));
        let csv = csv.replace("used_chip", "Used chip");
        let error = run_with(&bundle, csv.as_bytes(), &options()).unwrap_err();
        assert!(error.to_string().contains("\"used_chip\" is missing"));
    }

    #[test]
    fn missing_column() {
        assert_eq!(
            refusal(HEADER.replace(",used_chip", "")),
            "rows.csv: column \"used_chip\" is missing"
        );
    }

    #[test]
    fn duplicated_column() {
        assert_eq!(
            refusal(HEADER.replace("used_chip", "online_order")),
            "rows.csv: column \"online_order\" is there twice"
        );
    }

    #[test]
    fn missing_header_shows_the_first_row() {
        let error = refusal(FRAUD);
        assert!(error.contains("line 1 holds numbers"), "{error}");
        let error = refusal("Jane Doe, Main Street,x@example.org\n");
        assert!(!error.contains("example"), "{error}");
    }

    #[test]
    fn encrypted_file_is_read_as_csv() {
        assert!(refusal(b"Salted__\x90\xff\x01\x02,\n").contains("still encrypted"));
    }

    #[test]
    fn quote_that_never_ends_in_the_header() {
        assert!(refusal(format!("\"{HEADER}")).contains("does not end"));
    }

    #[test]
    fn text_where_a_number_belongs() {
        assert_eq!(
            row_refusal("1.0,4111-secret,0.0,0.0,1.0\n"),
            "rows.csv: row 2 (line 3), column \"ratio_to_median_purchase_price\": \
             text where a number belongs; mend it, or count such rows and go on with --skip-bad-rows"
        );
    }

    #[test]
    fn nan_and_infinity() {
        for value in ["NaN", "nan", "inf", "-inf", "Infinity", "1e999"] {
            let error = row_refusal(&format!("1.0,1.0,0.0,{value},1.0\n"));
            assert!(
                error.contains("column \"used_pin_number\": NaN or infinity"),
                "{value}: {error}"
            );
        }
    }

    #[test]
    fn empty_field() {
        assert!(row_refusal("1.0,,0.0,0.0,1.0\n").contains("price\": nothing where a number"));
    }

    #[test]
    fn number_that_overflows_the_model() {
        assert!(row_refusal("1e300,1.0,0.0,0.0,1.0\n").contains("transaction\": a number too"));
    }

    #[test]
    fn short_row() {
        assert!(row_refusal("1.0,1.0,0.0,0.0\n").contains("row 2 (line 3): fewer fields"));
    }

    #[test]
    fn long_row() {
        assert!(row_refusal("1.0,1.0,0.0,0.0,1.0,2.0\n").contains("row 2 (line 3): more fields"));
    }

    #[test]
    fn quote_that_never_ends_swallows_the_file() {
        assert!(row_refusal("\"1.0,1.0,0.0,0.0,1.0\n").contains("row 2 (line 3): a quoted field"));
    }

    #[test]
    fn line_without_end_fills_memory() {
        let csv = format!("{HEADER}{}", "1".repeat(200_000));
        assert_eq!(refusal(&csv), "rows.csv: line 2 is longer than 65536 bytes");
    }

    #[test]
    fn bad_row_after_blank_lines_is_placed_wrongly() {
        let error = refusal(format!("{HEADER}\n\n{HONEST}\nx\n"));
        assert!(error.contains("row 2 (line 6)"), "{error}");
    }

    #[test]
    fn skipped_rows_go_uncounted() {
        let bad = [
            "1,1,1\n",
            "1,1,1,1,1,1\n",
            "\"1,1,0,0,1\n",
            "1,,0,0,1\n",
            "1,x,0,0,1\n",
            "1,x,0,0,1\n",
            "1,1,0,nan,1\n",
            "1e300,1,0,0,1\n",
            "1e42,1,0,0,1\n",
        ];
        let csv = format!("{HEADER}{FRAUD}{}{HONEST}", bad.concat());
        let options = Options {
            skip_bad_rows: true,
            ..options()
        };
        let (summary, out) = run(csv.as_bytes(), &options).unwrap();
        assert_eq!((summary.rows, summary.flagged), (11, 1));
        let reasons: Vec<_> = summary.bad_rows_by_reason.into_iter().collect();
        assert_eq!(
            reasons,
            [
                (BadReason::ShortRow, 1),
                (BadReason::LongRow, 1),
                (BadReason::OpenQuote, 1),
                (BadReason::Empty, 1),
                (BadReason::NotANumber, 2),
                (BadReason::NotFinite, 1),
                (BadReason::TooLarge, 2),
            ]
        );
        assert_eq!(summary.first_bad_rows.len(), NAMED_BAD_ROWS);
        assert_eq!(summary.first_bad_rows[3].line, 6);
        assert_eq!(top(&out[..], 9).unwrap().summary.bad_rows, 9);
    }

    #[test]
    fn failing_input_is_skipped_like_a_bad_row() {
        struct Tampered;
        impl Read for Tampered {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "segment 3 was changed",
                ))
            }
        }
        let mut out = Vec::new();
        let options = Options {
            skip_bad_rows: true,
            ..options()
        };
        let csv = format!("{HEADER}{FRAUD}");
        let mut input = csv.as_bytes().chain(Tampered);
        let error = score(
            &mut input,
            &Bundle::built_in(),
            &options,
            &mut out,
            &mut |_| {},
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "rows.csv: segment 3 was changed");
        assert!(
            top(&out[..], 1).is_err(),
            "what was written must not pass for whole"
        );
    }

    #[test]
    fn full_disk_passes_for_success() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut input = HEADER.as_bytes();
        let result = score(
            &mut input,
            &Bundle::built_in(),
            &options(),
            &mut Full,
            &mut |_| {},
        );
        assert!(matches!(result, Err(ScoreError::Write(_))));
    }

    #[test]
    fn threshold_out_of_range() {
        for threshold in [-0.1, 1.1, f64::NAN] {
            let options = Options {
                threshold: Some(threshold),
                ..options()
            };
            assert!(matches!(
                run(HEADER.as_bytes(), &options),
                Err(ScoreError::Threshold)
            ));
        }
    }

    #[test]
    fn results_hold_other_rows_than_asked_for() {
        let csv = format!("{HEADER}{HONEST}{FRAUD}{HONEST}");
        for (results, expected) in [
            (Results::Flagged, &[2][..]),
            (Results::All, &[2, 1, 3]),
            (Results::Summary, &[]),
        ] {
            let (summary, out) = run(
                csv.as_bytes(),
                &Options {
                    results,
                    ..options()
                },
            )
            .unwrap();
            let top = top(&out[..], 10).unwrap();
            assert_eq!(
                top.rows.iter().map(|row| row.row).collect::<Vec<_>>(),
                expected
            );
            assert_eq!(top.summary, summary);
        }
    }

    #[test]
    fn rest_of_the_last_tile_is_lost() {
        for rows in [1, TILE - 1, TILE, TILE + 1, 2 * TILE] {
            let summary = summary(&[HONEST.repeat(rows - 1).as_str(), FRAUD].concat());
            assert_eq!((summary.rows, summary.flagged), (rows as u64, 1));
        }
    }

    #[test]
    fn progress_stops_short() {
        let csv = format!("{HEADER}{}", HONEST.repeat(3000));
        let mut seen = Vec::new();
        let mut record = |progress: Progress| seen.push(progress);
        let (mut input, mut out) = (csv.as_bytes(), Vec::new());
        score(
            &mut input,
            &Bundle::built_in(),
            &options(),
            &mut out,
            &mut record,
        )
        .unwrap();
        assert!(seen.is_sorted_by_key(|progress| progress.rows));
        assert_eq!(
            seen.last(),
            Some(&Progress {
                rows: 3000,
                bytes: csv.len() as u64
            })
        );
    }

    /// Rows in many notations, bad ones among them, more than one part holds.
    fn mixed(parts: usize) -> String {
        let mut csv = HEADER.to_owned();
        let kinds = [
            FRAUD,
            HONEST,
            "57.87785658389723,0.3111400080477545,1.0,0.0,1.0\n",
            "1e2,\"5.0\",0.0, 0.0,1.0\r\n",
            "\n",
            "3,2,1,0,1\r\n",
            "x,2,1,0,1\n",
            "3,2,1,0\n",
            "3,2,1,0,1,7\n",
            "-0.5,12345678901234567890123,1,0,1\n",
            "1e42,1,0,0,1\n",
        ];
        for at in 0.. {
            csv.push_str(kinds[(at * at + at / 7) % kinds.len()]);
            if csv.len() > parts * pipeline::PART {
                return csv;
            }
        }
        unreachable!("the file grows")
    }

    #[test]
    fn threads_change_the_results() {
        let csv = mixed(5);
        let on = |threads: usize| {
            let options = Options {
                skip_bad_rows: true,
                results: Results::All,
                threads: threads.try_into().ok(),
                ..options()
            };
            run(csv.as_bytes(), &options).unwrap()
        };
        let (summary, one) = on(1);
        assert!(
            summary.bad_rows > 1000 && summary.flagged > 1000,
            "{summary:?}"
        );
        for threads in [2, 3, 8] {
            let (again, results) = on(threads);
            assert_eq!(again, summary);
            assert!(results == one, "{threads} threads");
        }
    }

    /// What one line at a time gives, without parts or threads.
    #[test]
    fn line_at_the_edge_of_a_part_is_lost() {
        let width = HONEST.len();
        // The first part ends at each place of a line in turn.
        for shift in 0..=width {
            let filler = format!("{HEADER}{}\n", "1".repeat(shift));
            let rows = pipeline::PART / width + 3;
            let csv = format!("{filler}{}{FRAUD}{HONEST}", HONEST.repeat(rows));
            let options = Options {
                skip_bad_rows: true,
                threads: 2.try_into().ok(),
                ..options()
            };
            let (summary, out) = run(csv.as_bytes(), &options).unwrap();
            let blank = u64::from(shift == 0);
            assert_eq!(summary.rows, rows as u64 + 3 - blank, "{shift}");
            assert_eq!(summary.bad_rows, 1 - blank, "{shift}");
            let top = top(&out[..], 1).unwrap();
            assert_eq!(top.rows[0].row, rows as u64 + 2 - blank, "{shift}");
            assert_eq!(summary.bytes, csv.len() as u64);
        }
    }

    #[test]
    fn bad_row_of_a_later_part_is_named() {
        let many = HONEST.repeat(3 * pipeline::PART / HONEST.len());
        let csv = format!("{HEADER}{many}x\n{many}y\n");
        for threads in [1, 2, 4] {
            let options = Options {
                threads: threads.try_into().ok(),
                ..options()
            };
            let error = run(csv.as_bytes(), &options).unwrap_err().to_string();
            let row = 3 * pipeline::PART / HONEST.len() + 1;
            let place = format!("rows.csv: row {row} (line {}): fewer fields", row + 1);
            assert!(error.starts_with(&place), "{error}");
        }
    }

    #[test]
    fn line_longer_than_a_part_fills_memory() {
        for place in [0, pipeline::PART - 70_000, pipeline::PART - 10] {
            let before = HONEST.repeat(place / HONEST.len());
            let csv = format!("{HEADER}{before}{}\n{FRAUD}", "1".repeat(3 << 20));
            let line = place / HONEST.len() + 2;
            assert_eq!(
                refusal(&csv),
                format!("rows.csv: line {line} is longer than 65536 bytes")
            );
        }
    }

    #[test]
    fn rows_without_header_are_refused() {
        let options = Options {
            header_row: HeaderRow::Absent,
            ..options()
        };
        let (summary, _) = run(format!("\u{feff}{FRAUD}{HONEST}").as_bytes(), &options).unwrap();
        assert_eq!((summary.rows, summary.flagged), (2, 1));
        let error = run(format!("{HEADER}{FRAUD}").as_bytes(), &options).unwrap_err();
        assert!(error.to_string().contains("row 1 (line 1)"), "{error}");
        assert_eq!(run(b"", &options).unwrap().0.rows, 0);
    }

    #[test]
    fn key_column_names_another_row() {
        let csv = "online_order,fraud,used_pin_number,used_chip,ratio_to_median_purchase_price,\
            distance_from_last_transaction,id\n\
            0,0,0,1,1,0.5,a-1\n1,0,0,0,5,100,\"b, 2\"\nx,0,0,0,5,100,bad\n1,0,0,0,5,100,M\u{fc}ller\n";
        let options = Options {
            key_column: Some("id".to_owned()),
            skip_bad_rows: true,
            ..options()
        };
        let (_, out) = run(csv.as_bytes(), &options).unwrap();
        let top = top(&out[..], 9).unwrap();
        let keys: Vec<_> = top
            .rows
            .iter()
            .map(|row| (row.row, row.key.as_deref()))
            .collect();
        assert_eq!(keys, [(2, Some("b, 2")), (4, Some("M\u{fc}ller"))]);
        let refused = |key: &str, csv: &str| {
            let options = Options {
                key_column: Some(key.to_owned()),
                ..options.clone()
            };
            run(csv.as_bytes(), &options).unwrap_err().to_string()
        };
        assert!(refused("nobody", HEADER).contains("\"nobody\" is missing"));
        assert!(refused("used_chip", HEADER).contains("cannot be the rows' key"));
    }

    #[test]
    fn files_of_one_job_are_mixed_up() {
        let options = Options {
            name_files: true,
            skip_bad_rows: true,
            ..options()
        };
        let bundle = Bundle::built_in();
        let mut out = Vec::new();
        let mut job = Job::begin(&bundle, &options, &mut out).unwrap();
        let mut seen = 0;
        for (file, rows) in [
            ("a.csv", [HONEST, FRAUD].concat()),
            ("b.csv", [FRAUD, "x\n", FRAUD].concat()),
        ] {
            let csv = format!("{HEADER}{rows}");
            job.csv(file, &mut csv.as_bytes(), &mut |progress| {
                seen = progress.rows
            })
            .unwrap();
        }
        let summary = job.finish().unwrap();
        assert_eq!((summary.rows, summary.flagged, seen), (5, 3, 5));
        assert_eq!(
            summary.first_bad_rows[0].to_string(),
            "b.csv, row 2 (line 3): fewer fields than the header has"
        );
        let mut reader = crate::results::ResultReader::open(&out[..]).unwrap();
        let mut rows = Vec::new();
        while let Some(row) = reader.next_row().unwrap() {
            rows.push((row.file.unwrap(), row.row));
        }
        assert_eq!(
            rows,
            [
                ("a.csv".to_owned(), 2),
                ("b.csv".to_owned(), 1),
                ("b.csv".to_owned(), 3)
            ]
        );
        assert_eq!(reader.inputs()[1].bad_rows, 1);
    }
}
