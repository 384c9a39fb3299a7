//! The numbered steps of a verification, as they are shown, and what all of them come to.

use serde_json::{Value, json};
use strongroom_verifier::{Assurance, Step, StepOutcome};

use crate::outcome::shown;

/// One step, as it is shown.
#[derive(Clone)]
pub(super) struct Line {
    /// For machines, and for `--allow-skipped`.
    pub(super) name: &'static str,
    /// What holds when it passes.
    pub(super) sentence: &'static str,
    /// Where it comes from.
    pub(super) clause: &'static str,
    pub(super) outcome: StepOutcome,
    /// The option with which it is made, when it was skipped.
    pub(super) mend: Option<&'static str>,
}

impl Line {
    /// A step of the evidence's own.
    pub(super) fn of(step: &Step, mend: Option<&'static str>) -> Self {
        Self {
            name: step.check.name(),
            sentence: step.check.sentence(),
            clause: step.check.clause(),
            outcome: step.outcome.clone(),
            mend,
        }
    }

    pub(super) fn paragraph(&self, number: usize) -> String {
        let (word, detail) = word(&self.outcome);
        // The error begins with what the line above it says.
        let detail = detail.map(|detail| {
            let said = format!("{}: ", self.sentence);
            detail.strip_prefix(&said).unwrap_or(detail)
        });
        let mut text = format!(
            "\n{number:>2}  {word:<8} {}\n             [{}]",
            self.sentence, self.clause
        );
        if let Some(detail) = detail {
            text.push_str(&format!("\n             {}", shown(detail)));
        }
        text
    }

    pub(super) fn document(&self) -> Value {
        let (word, detail) = word(&self.outcome);
        json!({
            "check": self.name, "outcome": word, "sentence": self.sentence, "clause": self.clause,
            "detail": detail,
        })
    }
}

/// All of them, numbered from 1.
pub(super) fn paragraphs(lines: &[Line]) -> String {
    let numbered = lines.iter().zip(1..);
    numbered
        .map(|(line, number)| line.paragraph(number))
        .collect()
}

fn word(outcome: &StepOutcome) -> (&'static str, Option<&str>) {
    match outcome {
        StepOutcome::Passed => ("PASS", None),
        StepOutcome::Failed(why) => ("FAIL", Some(why)),
        StepOutcome::Skipped(why) => ("SKIPPED", Some(why)),
    }
}

/// What all steps together come to.
pub(super) enum Verdict {
    Verified(Assurance),
    /// Every check that was made held, and these were not made.
    Incomplete(Vec<Line>),
    Refused,
}

impl Verdict {
    /// A skip is not a pass, unless it was allowed by name.
    pub(super) fn of(lines: &[Line], assurance: Assurance, allowed: &[&str]) -> Self {
        if lines
            .iter()
            .any(|line| matches!(line.outcome, StepOutcome::Failed(_)))
        {
            return Self::Refused;
        }
        let mut skipped: Vec<Line> = lines
            .iter()
            .filter(|line| matches!(line.outcome, StepOutcome::Skipped(_)))
            .filter(|line| !allowed.contains(&line.name))
            .cloned()
            .collect();
        skipped.dedup_by_key(|line| line.name);
        match skipped.is_empty() {
            true => Self::Verified(assurance),
            false => Self::Incomplete(skipped),
        }
    }

    /// The last line.
    pub(super) fn line(&self) -> String {
        match self {
            Self::Verified(Assurance::Hardware) => "VERIFIED".to_owned(),
            Self::Verified(Assurance::Development) => "VERIFIED (DEVELOPMENT)".to_owned(),
            Self::Refused => "NOT VERIFIED: a check failed".to_owned(),
            Self::Incomplete(skipped) => {
                let skipped: Vec<String> = skipped
                    .iter()
                    .map(|line| match line.mend {
                        Some(option) => format!("{} ({option})", line.name),
                        None => line.name.to_owned(),
                    })
                    .collect();
                format!("NOT VERIFIED: skipped {}", skipped.join(", "))
            }
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Verified(_) => "verified",
            Self::Incomplete(_) => "incomplete",
            Self::Refused => "refused",
        }
    }

    /// What would do without the steps that were skipped, or that nothing was made after the one that failed.
    pub(super) fn remark(&self) -> Option<String> {
        match self {
            Self::Verified(_) => None,
            Self::Refused => Some("The checks after it were not made.".to_owned()),
            Self::Incomplete(skipped) => {
                let names: Vec<&str> = skipped.iter().map(|line| line.name).collect();
                Some(format!(
                    "To do without: --allow-skipped {}",
                    names.join(",")
                ))
            }
        }
    }

    /// The process's exit code: 0 for a verdict that stands.
    pub(super) fn code(&self) -> u8 {
        u8::from(!matches!(self, Self::Verified(_)))
    }
}
