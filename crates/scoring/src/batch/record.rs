//! One line of CSV, split by the book (RFC 4180) but for one thing: a quoted field ends on its line,
//! so that a lost quote costs one row and not the rest of the file.

use csv_core::{ReadRecordResult, Terminator};

use crate::results::BadReason;

/// The longest line: far more than a row needs, and what bounds the memory of a file without lines.
pub(super) const MAX_LINE: usize = 64 * 1024;

/// The fields of one line.
pub(super) struct Record {
    parser: csv_core::Reader,
    line: Vec<u8>,
    content: Vec<u8>,
    ends: Vec<usize>,
}

impl Record {
    /// For lines of at most `width` fields.
    pub(super) fn new(width: usize) -> Self {
        let parser = csv_core::ReaderBuilder::new()
            .terminator(Terminator::Any(b'\n'))
            .build();
        Self {
            parser,
            line: Vec::new(),
            content: vec![0; MAX_LINE + 1],
            ends: vec![0; width],
        }
    }

    /// Splits a line without its end, of at most [`MAX_LINE`] bytes; gives the number of fields.
    pub(super) fn split(&mut self, line: &[u8]) -> Result<usize, BadReason> {
        self.line.clear();
        self.line.extend_from_slice(line);
        self.line.push(b'\n');
        let (result, read, _, count) =
            self.parser
                .read_record(&self.line, &mut self.content, &mut self.ends);
        match result {
            ReadRecordResult::Record if read == self.line.len() => Ok(count),
            ReadRecordResult::OutputEndsFull => self.fault(BadReason::LongRow),
            _ => self.fault(BadReason::OpenQuote),
        }
    }

    fn fault(&mut self, reason: BadReason) -> Result<usize, BadReason> {
        self.parser.reset();
        Err(reason)
    }

    /// A field of the line that was split last.
    pub(super) fn field(&self, at: usize) -> &[u8] {
        let begin = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.content[begin..self.ends[at]]
    }
}

/// A field as the nearest f64, or a truth value as 1 or 0, as columns of booleans are read everywhere. Spaces around it
/// are nothing.
pub(super) fn number(field: &[u8]) -> Result<f64, BadReason> {
    let text = field.trim_ascii();
    if text.is_empty() {
        return Err(BadReason::Empty);
    }
    let text = std::str::from_utf8(text).map_err(|_| BadReason::NotANumber)?;
    let value: f64 = match text {
        "true" | "True" | "TRUE" => 1.0,
        "false" | "False" | "FALSE" => 0.0,
        text => text.parse().map_err(|_| BadReason::NotANumber)?,
    };
    if value.is_finite() {
        Ok(value)
    } else {
        Err(BadReason::NotFinite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_not_the_nearest() {
        // Halfway cases and neighbours that a parser with one rounding too many gets wrong.
        for (text, bits) in [
            ("9007199254740993", 0x4340_0000_0000_0000_u64),
            ("9007199254740995", 0x4340_0000_0000_0002),
            ("2.2250738585072011e-308", 0x000f_ffff_ffff_ffff),
            ("0.3111400080477545", 0.311_140_008_047_754_5_f64.to_bits()),
            ("1e23", 0x44b5_2d02_c7e1_4af6),
            ("-0.0", 0x8000_0000_0000_0000),
            ("1.", 1.0_f64.to_bits()),
            ("+1e0", 1.0_f64.to_bits()),
        ] {
            assert_eq!(number(text.as_bytes()).unwrap().to_bits(), bits, "{text}");
        }
    }

    #[test]
    fn number_in_another_notation_is_guessed() {
        for text in [
            "1,5", "0x10", "1_000", "1 000", "yes", "tRUE", "½", "1.0\0", "--1",
        ] {
            assert_eq!(
                number(text.as_bytes()),
                Err(BadReason::NotANumber),
                "{text}"
            );
        }
        assert_eq!(number(b"\xff"), Err(BadReason::NotANumber));
    }

    #[test]
    fn boolean_is_no_value() {
        for (text, value) in [("True", 1.0), ("false", 0.0), (" TRUE ", 1.0)] {
            assert_eq!(number(text.as_bytes()), Ok(value), "{text}");
        }
    }

    #[test]
    fn widest_line_overflows_its_record() {
        let mut record = Record::new(MAX_LINE);
        let line = ",".repeat(MAX_LINE - 1);
        assert_eq!(record.split(line.as_bytes()), Ok(MAX_LINE));
        let line = ",".repeat(MAX_LINE);
        assert_eq!(record.split(line.as_bytes()), Err(BadReason::LongRow));
    }

    #[test]
    fn lost_quote_swallows_the_next_line() {
        let mut record = Record::new(2);
        assert_eq!(record.split(b"\"1,2"), Err(BadReason::OpenQuote));
        assert_eq!(record.split(b"\"1\",2"), Ok(2));
        assert_eq!((record.field(0), record.field(1)), (&b"1"[..], &b"2"[..]));
    }
}
