//! A first `preprocessing.json`, from what the graph takes and what a data set's header names. What the graph does not
//! tell (the scaler, the order of columns, the threshold) is for its maker to look at: [`Draft::to_check`] says so.

use serde_json::{Map, Value, json};

use super::onnx::{Source, read};
use super::{ModelError, Preprocessing};
use crate::shown;

/// A `preprocessing.json` that fits the model, and what nobody but its maker can know of it.
#[derive(Debug)]
pub struct Draft {
    /// The file.
    pub json: Value,
    /// The columns that the model reads, in its order.
    pub columns: Vec<String>,
    /// The others of the header.
    pub ignored: Vec<String>,
    /// What to look at before its scores are believed.
    pub to_check: Vec<&'static str>,
}

/// What is said of a model besides its header.
#[derive(Debug, Clone, Default)]
pub struct DraftOptions {
    /// Columns of the header that the model does not read.
    pub ignored: Vec<String>,
    /// Which of the model's classes the score is of.
    pub positive_class: Option<usize>,
    /// A row is flagged above this.
    pub threshold: f64,
}

impl Draft {
    pub(super) fn of(
        source: Source<'_>,
        header: &[String],
        options: &DraftOptions,
    ) -> Result<Self, ModelError> {
        let inputs = read(source, options.positive_class)?.inputs;
        let wanted: usize = inputs.iter().map(|input| input.width).sum();
        if let Some(unknown) = options.ignored.iter().find(|name| !header.contains(name)) {
            return Err(refused(format!(
                "the header has no column \"{}\" to ignore",
                shown(unknown)
            )));
        }
        let named = inputs
            .iter()
            .all(|input| input.width == 1 && header.contains(&input.name));
        let columns: Vec<String> = if named {
            inputs.iter().map(|input| input.name.clone()).collect()
        } else {
            let candidates = header.iter().filter(|name| !options.ignored.contains(name));
            candidates.cloned().collect()
        };
        if columns.len() != wanted {
            return Err(refused(format!(
                "the model takes {wanted} columns, and the header leaves {} ({}): name those that it does not read, such as the label, with --ignore",
                columns.len(),
                listed(&columns)
            )));
        }
        let mut to_check = Vec::new();
        let mut document = json!({"format": 1, "columns": columns, "threshold": options.threshold});
        if inputs.len() > 1 {
            let mut left = &columns[..];
            let mut taken = Map::new();
            for input in &inputs {
                let (own, rest) = left.split_at(input.width);
                left = rest;
                taken.insert(input.name.clone(), json!(own));
            }
            document["inputs"] = Value::Object(taken);
        }
        if !named {
            to_check.push(
                "columns: the header's order is taken for the order that the model was trained in",
            );
        }
        to_check.push(
            "scaler: there is none; where the model was trained on scaled values, write the mean_ and scale_ of its StandardScaler",
        );
        to_check.push("threshold: rows are flagged above it");
        let ignored: Vec<String> = header
            .iter()
            .filter(|name| !columns.contains(name))
            .cloned()
            .collect();
        if !ignored.is_empty() {
            document["ignored_columns"] = json!(ignored);
        }
        if let Some(class) = options.positive_class {
            document["positive_class"] = json!(class);
        }
        // What is wrong with a name or the threshold is told now, not by the next command.
        Preprocessing::parse(document.to_string().as_bytes())?;
        Ok(Self {
            json: document,
            columns,
            ignored,
            to_check,
        })
    }
}

fn refused(why: String) -> ModelError {
    ModelError::Preprocessing(why)
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut list: Vec<String> = names.iter().take(SHOWN).map(|name| shown(name)).collect();
    if names.len() > SHOWN {
        list.push("…".to_owned());
    }
    list.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/fraud/model.onnx"
    ));

    fn draft(header: &[&str], ignored: &[&str], threshold: f64) -> Result<Draft, String> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let header: Vec<String> = owned(header);
        let options = DraftOptions {
            ignored: owned(ignored),
            positive_class: None,
            threshold,
        };
        Draft::of(MODEL.into(), &header, &options).map_err(|error| error.to_string())
    }

    #[test]
    fn draft_does_not_fit_its_model() {
        let draft = draft(&["id", "a", "b", "c", "d", "e"], &["id"], 0.25).unwrap();
        assert_eq!(
            draft.json,
            json!({"format": 1, "columns": ["a", "b", "c", "d", "e"], "ignored_columns": ["id"], "threshold": 0.25})
        );
        assert_eq!(
            (draft.ignored, draft.to_check.len()),
            (vec!["id".to_owned()], 3)
        );
    }

    #[test]
    fn columns_are_guessed() {
        let error = draft(&["id", "a", "b", "c", "d", "e"], &[], 0.5).unwrap_err();
        assert!(
            error.contains("takes 5 columns, and the header leaves 6 (id, a, b"),
            "{error}"
        );
        assert!(error.contains("--ignore"), "{error}");
        let error = draft(&["a", "b", "c", "d"], &[], 0.5).unwrap_err();
        assert!(error.contains("leaves 4"), "{error}");
        let error = draft(&["a", "b", "c", "d", "e"], &["f"], 0.5).unwrap_err();
        assert!(error.contains("no column \"f\""), "{error}");
        let error = draft(&["a", "b", "c", "d", "e"], &[], 1.5).unwrap_err();
        assert!(error.contains("threshold"), "{error}");
    }
}
