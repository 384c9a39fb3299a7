//! CSV to tiles: rows of plain numbers at the speed of memory, all others by the book.
//!
//! The first way reads eight bytes at a time and knows digits, points, commas and line ends. What
//! it does not know (quotes, spaces, exponents, a missing field) it does not judge: the line goes to
//! [`Record`], which reads all of CSV and says what is wrong.

use super::header::{Field, Layout};
use super::number::{self, every, word};
use super::part::Sink;
use super::record::{MAX_LINE, Record, number as any_number};
use super::{BadReason, LineTooLong};
use crate::model::Preprocessing;

/// One thread's reader of lines.
pub(super) struct Lines<'a> {
    layout: &'a Layout,
    preprocessing: &'a Preprocessing,
    record: Record,
}

impl<'a> Lines<'a> {
    pub(super) fn new(layout: &'a Layout, preprocessing: &'a Preprocessing) -> Self {
        Self {
            layout,
            preprocessing,
            record: Record::new(layout.fields().len()),
        }
    }

    /// Reads whole lines, each with its line end, into the sink, until the sink wants no more.
    pub(super) fn read(&mut self, bytes: &[u8], sink: &mut Sink<'_>) -> Result<(), LineTooLong> {
        let mut at = 0;
        while at < bytes.len() && !sink.is_stopped() {
            if let Some(end) = self.plain_row(bytes, at, sink) {
                sink.end_row();
                at = end;
                continue;
            }
            let line = &bytes[at..];
            let length = line
                .iter()
                .position(|&byte| byte == b'\n')
                .unwrap_or(line.len());
            self.line(&line[..length], sink)?;
            at += length + 1;
        }
        Ok(())
    }

    /// A row of plain numbers at `at`: its values are in the sink's tile, and the next line begins at
    /// what is returned. `None` for everything else; the tile may then have some values.
    #[inline(always)]
    fn plain_row(&self, bytes: &[u8], mut at: usize, sink: &mut Sink<'_>) -> Option<usize> {
        let (last, others) = self.layout.fields().split_last()?;
        for &field in others {
            at = self.plain_field(field, bytes, at, sink)?;
            if *bytes.get(at)? != b',' {
                return None;
            }
            at += 1;
        }
        at = self.plain_field(*last, bytes, at, sink)?;
        match *bytes.get(at)? {
            b'\n' => Some(at + 1),
            b'\r' if bytes.get(at + 1) == Some(&b'\n') => Some(at + 2),
            _ => None,
        }
    }

    #[inline(always)]
    fn plain_field(
        &self,
        field: Field,
        bytes: &[u8],
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Option<usize> {
        match field {
            Field::Column(column) => {
                let (value, end) = number::parse(bytes, at)?;
                if !self.preprocessing.takes(column, value) {
                    return None;
                }
                sink.set(column, value);
                Some(end)
            }
            Field::Ignored => plain_text(bytes, at),
            Field::Key => {
                let end = plain_text(bytes, at)?;
                sink.set_key(&bytes[at..end]);
                Some(end)
            }
        }
    }

    /// Any line, without its `\n`.
    pub(super) fn line(&mut self, line: &[u8], sink: &mut Sink<'_>) -> Result<(), LineTooLong> {
        if line.len() > MAX_LINE {
            return Err(LineTooLong);
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            sink.blank_line();
            return Ok(());
        }
        match self.values(line, sink) {
            Ok(()) => sink.end_row(),
            Err((column, reason)) => sink.bad_row(column, reason),
        }
        Ok(())
    }

    fn values(
        &mut self,
        line: &[u8],
        sink: &mut Sink<'_>,
    ) -> Result<(), (Option<usize>, BadReason)> {
        let count = self.record.split(line).map_err(|reason| (None, reason))?;
        if count < self.layout.fields().len() {
            return Err((None, BadReason::ShortRow));
        }
        // The columns in the model's order, so that of several faults the same one is named
        // whatever the order in the file.
        let mut fault: Option<(usize, BadReason)> = None;
        for (at, &field) in self.layout.fields().iter().enumerate() {
            let content = self.record.field(at);
            match field {
                Field::Column(column) => match self.value(column, content) {
                    Ok(value) => sink.set(column, value),
                    Err(reason) if fault.is_none_or(|(first, _)| column < first) => {
                        fault = Some((column, reason));
                    }
                    Err(_) => {}
                },
                Field::Key => sink.set_key(content),
                Field::Ignored => {}
            }
        }
        match fault {
            Some((column, reason)) => Err((Some(column), reason)),
            None => Ok(()),
        }
    }

    fn value(&self, column: usize, content: &[u8]) -> Result<f64, BadReason> {
        match any_number(content) {
            Err(BadReason::Empty) if self.preprocessing.takes(column, f64::NAN) => Ok(f64::NAN),
            Ok(value) if !self.preprocessing.takes(column, value) => Err(BadReason::TooLarge),
            other => other,
        }
    }
}

/// Where a field ends in which nothing has a meaning but the comma or line end behind it.
#[inline(always)]
fn plain_text(bytes: &[u8], mut at: usize) -> Option<usize> {
    let first = meaning(word(bytes, at)?);
    at += first.trailing_zeros() as usize / 8;
    if first == 0 {
        // Sixteen bytes at a time: where in them the field ends is not branched on.
        loop {
            let (near, far) = (meaning(word(bytes, at)?), meaning(word(bytes, at + 8)?));
            let length = (u128::from(far) << 64 | u128::from(near)).trailing_zeros() as usize / 8;
            at += length;
            if length < 16 {
                break;
            }
        }
    }
    matches!(bytes.get(at)?, b',' | b'\n' | b'\r').then_some(at)
}

/// The top bit of the first byte of a word that is below '-': all that CSV gives a meaning to is
/// there, spaces too. What is marked behind it may mean nothing.
#[inline(always)]
fn meaning(word: u64) -> u64 {
    word.wrapping_sub(every(b'-')) & !word & every(0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_with_a_meaning_is_skipped_over() {
        let ends = |text: &str| plain_text(format!("{text}{}", "z".repeat(24)).as_bytes(), 0);
        for (text, end) in [
            ("1.0,", 3),
            ("abcdefgh\n", 8),
            ("abcdefghijklmnop\n", 16),
            ("abcdefghijklmnopqrstuvwxyz\n", 26),
            (",", 0),
            ("M\u{fc}ller\r\n", 7),
        ] {
            assert_eq!(ends(text), Some(end), "{text:?}");
        }
        for text in ["\"a\",", "a b,", "a\0,", "a+,", "abcdefghijkl\"m,"] {
            assert_eq!(ends(text), None, "{text:?}");
        }
        assert_eq!(plain_text(b"1.0,", 0), None);
    }
}
