//! Progress: bars when somebody is looking and there is something to wait for, lines in the log of a long job.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use strongroom_scoring::batch::Progress;

use crate::outcome::lines;

/// A bar over bytes: `length` of them, or an unknown number. It shows on a terminal only.
pub(crate) fn bytes(length: Option<u64>) -> anyhow::Result<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let (bar, template) = match length {
        Some(length) => (
            ProgressBar::new(length),
            "{bar:40} {percent:>3}% {msg} {bytes_per_sec} {eta}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {bytes} {msg} {bytes_per_sec}",
        ),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    bar.enable_steady_tick(Duration::from_millis(200));
    Ok(bar.with_style(ProgressStyle::with_template(template)?))
}

/// How far a file of a batch is: a bar on a terminal, else a line now and then, for who reads a job's log.
pub(crate) struct RowsBar {
    bar: ProgressBar,
    what: String,
    length: Option<u64>,
    started: Instant,
    told: Instant,
    /// Where the counts of the job stood when this file began.
    before: Option<Progress>,
}

impl RowsBar {
    /// For a file that is called `what` and has so many bytes.
    pub(crate) fn new(what: String, length: Option<u64>) -> anyhow::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            bar: bytes(length)?,
            what,
            length,
            started: now,
            told: now,
            before: None,
        })
    }

    /// Shows how far the job is.
    pub(crate) fn show(&mut self, progress: Progress) {
        let before = *self.before.get_or_insert_with(|| Progress {
            bytes: progress.bytes.saturating_sub(PART),
            ..progress
        });
        let seconds = self.started.elapsed().as_secs_f64().max(1e-3);
        let rows = progress.rows.saturating_sub(before.rows);
        let counted = || {
            format!(
                "{} rows, {} rows/s",
                thousands(progress.rows),
                thousands((rows as f64 / seconds) as u64)
            )
        };
        let bytes = progress.bytes.saturating_sub(before.bytes);
        if !self.bar.is_hidden() {
            self.bar.set_position(bytes);
            self.bar.set_message(counted());
        } else if self.told.elapsed() >= BETWEEN_LINES {
            self.told = Instant::now();
            let share = self
                .length
                .filter(|length| *length > 0)
                .map_or_else(String::new, |length| {
                    format!(", {} %", (bytes.saturating_mul(100) / length).min(100))
                });
            // A log that nobody takes any more is no reason to end.
            let line = format!("{}: {}{share}", lines(&self.what), counted());
            writeln!(std::io::stderr(), "{line}").ok();
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// The first step of a file's progress.
const PART: u64 = 1 << 20;

/// Seconds from one line to the next, where nobody looks at a bar.
const BETWEEN_LINES: Duration = Duration::from_secs(30);

/// The length of a file, if it is one.
pub(crate) fn length_of(path: &std::path::Path) -> Option<u64> {
    path.metadata()
        .ok()
        .filter(std::fs::Metadata::is_file)
        .map(|metadata| metadata.len())
}

/// Prints 1234567 as 1,234,567.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
