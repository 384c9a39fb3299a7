//! How the demo speaks: numbered steps with what each proved, or one JSON document at the end.

use std::time::Instant;

use console::style;
use serde_json::{Value, json};

use crate::outcome::{self, Outcome};
use crate::progress::thousands;

/// The narrator, who also takes the record.
pub(crate) struct Telling {
    json: bool,
    started: Instant,
    steps: Vec<Value>,
}

/// What a step proved: a line for people, a document for programs.
pub(crate) struct Proof {
    pub(crate) line: String,
    pub(crate) details: Value,
}

impl Proof {
    pub(crate) fn new(line: impl Into<String>, details: Value) -> Self {
        Self {
            line: line.into(),
            details,
        }
    }
}

impl Telling {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            started: Instant::now(),
            steps: Vec::new(),
        }
    }

    /// Tells one step: what is about to happen, then what it proved. The first step that fails ends the demo.
    pub(crate) fn step<T>(
        &mut self,
        name: &str,
        line: &str,
        act: impl FnOnce() -> anyhow::Result<(T, Proof)>,
    ) -> anyhow::Result<T> {
        let started = Instant::now();
        self.say(&format!(
            "\n{} {line}",
            style(format!("{}.", self.steps.len() + 1)).bold()
        ));
        let (value, proof) = act().map_err(|error| {
            error.context(format!(
                "the demo stopped at step {} ({name})",
                self.steps.len() + 1
            ))
        })?;
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.say(&format!(
            "   {} {} {}",
            style("✓").green(),
            proof.line,
            style(format!("({milliseconds} ms)")).dim()
        ));
        self.steps.push(json!({ "step": name, "ok": true, "milliseconds": milliseconds, "proved": proof.line, "details": proof.details }));
        Ok(value)
    }

    /// Says something aside.
    pub(crate) fn say(&self, line: &str) {
        if !self.json {
            outcome::say(line);
        }
    }

    /// Draws a histogram of scores, on a logarithmic scale since nearly all rows are harmless.
    pub(crate) fn histogram(&self, bins: &[u64]) {
        let width = bins.len();
        let digits = |count: u64| if count == 0 { 0 } else { 1 + count.ilog2() };
        let most = bins.iter().copied().map(digits).max().unwrap_or(0).max(1);
        for (at, count) in bins.iter().enumerate() {
            let bar = "█".repeat(usize::try_from(digits(*count) * 36 / most).unwrap_or(0));
            let (from, to) = (100 * at / width, 100 * (at + 1) / width);
            self.say(&format!(
                "     {from:>3}–{to:>3} % {bar} {}",
                thousands(*count)
            ));
        }
    }

    /// The end: every step held.
    pub(crate) fn end(self, rows: u64) -> Outcome {
        let seconds = self.started.elapsed().as_secs_f64();
        let text = format!(
            "\nEvery step held: {} steps, {} transactions, {seconds:.1} s.",
            self.steps.len(),
            thousands(rows)
        );
        Outcome::new(
            text,
            json!({ "ok": true, "rows": rows, "seconds": seconds, "steps": self.steps }),
        )
    }
}
