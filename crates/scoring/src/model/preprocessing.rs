//! `preprocessing.json`: what happens to a row before the graph sees it. Columns by name, and the
//! arithmetic of scikit-learn's `StandardScaler`: `(x - mean) / scale` in f64, then cast to f32.

use std::collections::HashSet;

use serde::Deserialize;

use super::ModelError;
use crate::shown;

/// The checked content of `preprocessing.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessing {
    columns: Vec<String>,
    ignored_columns: Vec<String>,
    mean: Vec<f64>,
    scale: Vec<f64>,
    /// For each column a magnitude up to which no value can overflow: no need to divide to know.
    harmless: Vec<f64>,
    threshold: f64,
}

impl Preprocessing {
    /// The longest `preprocessing.json` that is read.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Parses and checks the file.
    ///
    /// # Errors
    /// [`ModelError::Preprocessing`] says what is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, ModelError> {
        if json.len() > Self::MAX_BYTES {
            return Err(ModelError::TooLarge {
                what: "preprocessing.json",
                limit: Self::MAX_BYTES,
            });
        }
        let UncheckedPreprocessing {
            format,
            columns,
            ignored_columns,
            scaler: UncheckedScaler { mean, scale },
            threshold,
        } = serde_json::from_slice(json).map_err(|e| refused(e.to_string()))?;

        if format != FORMAT {
            return Err(refused(format!(
                "format {format}; this program reads format {FORMAT}"
            )));
        }
        if columns.is_empty() {
            return Err(refused("no columns"));
        }
        let mut seen = HashSet::new();
        for name in columns.iter().chain(&ignored_columns) {
            if name.is_empty() || name.len() > MAX_NAME || name.trim() != name {
                return Err(refused(format!("\"{}\" cannot name a column", shown(name))));
            }
            if !seen.insert(name) {
                return Err(refused(format!(
                    "column \"{}\" is named twice",
                    shown(name)
                )));
            }
        }
        if mean.len() != columns.len() || scale.len() != columns.len() {
            return Err(refused(format!(
                "{} columns, but {} means and {} scales",
                columns.len(),
                mean.len(),
                scale.len()
            )));
        }
        if let Some(at) = mean.iter().position(|mean| !mean.is_finite()) {
            return Err(refused(format!(
                "the mean of \"{}\" is not finite",
                shown(&columns[at])
            )));
        }
        if let Some(at) = scale
            .iter()
            .position(|scale| !(scale.is_finite() && *scale > 0.0))
        {
            return Err(refused(format!(
                "the scale of \"{}\" is not greater than zero",
                shown(&columns[at])
            )));
        }
        if !(0.0..=1.0).contains(&threshold) {
            return Err(refused("the threshold is not between 0 and 1"));
        }
        let harmless = mean
            .iter()
            .zip(&scale)
            .map(|(mean, scale)| (scale * 1e38).min(1e300) - mean.abs())
            .collect();
        Ok(Self {
            columns,
            ignored_columns,
            mean,
            scale,
            harmless,
            threshold,
        })
    }

    /// The columns that the model reads, in its order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Columns that a data set may have and that the model does not read.
    pub fn ignored_columns(&self) -> &[String] {
        &self.ignored_columns
    }

    /// A row is flagged when its probability is above this.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// The graph's input for a value of a column.
    pub fn standardise(&self, column: usize, value: f64) -> f32 {
        ((value - self.mean[column]) / self.scale[column]) as f32
    }

    /// Whether a value of a column is one that the graph can take: a number, and none that
    /// overflows f32 once standardised.
    pub fn takes(&self, column: usize, value: f64) -> bool {
        self.surely_takes(column, value) || self.standardise(column, value).is_finite()
    }

    /// Whether [`takes`](Self::takes) holds by the magnitude alone, which is asked without dividing.
    pub(crate) fn surely_takes(&self, column: usize, value: f64) -> bool {
        value.abs() <= self.harmless[column]
    }
}

const FORMAT: u32 = 1;
const MAX_NAME: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedPreprocessing {
    format: u32,
    columns: Vec<String>,
    #[serde(default)]
    ignored_columns: Vec<String>,
    scaler: UncheckedScaler,
    threshold: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedScaler {
    mean: Vec<f64>,
    scale: Vec<f64>,
}

fn refused(why: impl Into<String>) -> ModelError {
    ModelError::Preprocessing(why.into())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn good() -> Value {
        json!({
            "format": 1,
            "columns": ["a", "b"],
            "ignored_columns": ["label"],
            "scaler": {"mean": [1.0, 2.0], "scale": [0.5, 4.0]},
            "threshold": 0.95,
        })
    }

    fn parse(value: &Value) -> Result<Preprocessing, ModelError> {
        Preprocessing::parse(&serde_json::to_vec(value).unwrap())
    }

    /// The message after one member was replaced.
    fn refusal(pointer: &str, value: Value) -> String {
        let mut json = good();
        *json.pointer_mut(pointer).unwrap() = value;
        parse(&json).unwrap_err().to_string()
    }

    #[test]
    fn well_formed_file_is_refused() {
        let parsed = parse(&good()).unwrap();
        assert_eq!(parsed.columns(), ["a", "b"]);
        assert_eq!(parsed.ignored_columns(), ["label"]);
        assert_eq!(parsed.threshold(), 0.95);
        assert_eq!(parsed.standardise(1, 10.0), 2.0);
    }

    #[test]
    fn constants_come_back_one_bit_off() {
        let json = r#"{"format":1,"columns":["a"],"scaler":{"mean":[0.350090625],
            "scale":[26.307888850333203]},"threshold":0.999999}"#;
        let parsed = Preprocessing::parse(json.as_bytes()).unwrap();
        assert_eq!(parsed.mean[0].to_bits(), 0.350_090_625_f64.to_bits());
        assert_eq!(
            parsed.scale[0].to_bits(),
            26.307_888_850_333_203_f64.to_bits()
        );
    }

    #[test]
    fn unknown_member_is_ignored() {
        let mut json = good();
        json["treshold"] = json!(0.5);
        assert!(
            parse(&json)
                .unwrap_err()
                .to_string()
                .contains("unknown field `treshold`")
        );
        let mut json = good();
        json["scaler"]["var"] = json!([1.0]);
        assert!(
            parse(&json)
                .unwrap_err()
                .to_string()
                .contains("unknown field `var`")
        );
    }

    #[test]
    fn missing_threshold_gets_a_default() {
        let mut json = good();
        json.as_object_mut().unwrap().remove("threshold");
        assert!(
            parse(&json)
                .unwrap_err()
                .to_string()
                .contains("missing field `threshold`")
        );
    }

    #[test]
    fn later_format_is_read() {
        assert!(refusal("/format", json!(2)).contains("format 2"));
    }

    #[test]
    fn no_column() {
        assert!(refusal("/columns", json!([])).contains("no columns"));
    }

    #[test]
    fn column_named_twice() {
        assert!(refusal("/columns", json!(["a", "a"])).contains("\"a\" is named twice"));
        assert!(refusal("/ignored_columns", json!(["b"])).contains("\"b\" is named twice"));
    }

    #[test]
    fn column_with_a_name_that_no_header_can_hold() {
        assert!(refusal("/columns", json!(["a", ""])).contains("cannot name a column"));
        assert!(refusal("/columns", json!(["a", " b"])).contains("cannot name a column"));
        assert!(refusal("/columns", json!(["a", "b".repeat(257)])).contains("cannot name"));
    }

    #[test]
    fn scaler_of_another_width() {
        assert!(refusal("/scaler/mean", json!([1.0])).contains("1 means"));
        assert!(refusal("/scaler/scale", json!([1.0, 1.0, 1.0])).contains("3 scales"));
    }

    #[test]
    fn scale_of_zero_divides() {
        assert!(refusal("/scaler/scale", json!([1.0, 0.0])).contains("scale of \"b\""));
        assert!(refusal("/scaler/scale", json!([-1.0, 1.0])).contains("scale of \"a\""));
    }

    #[test]
    fn threshold_out_of_range() {
        assert!(refusal("/threshold", json!(1.5)).contains("threshold"));
        assert!(refusal("/threshold", json!(-0.1)).contains("threshold"));
    }

    #[test]
    fn overflow_becomes_infinity() {
        let parsed = parse(&good()).unwrap();
        for value in [1e300, -1e300, 1.8e38, f64::NAN, f64::INFINITY] {
            assert!(!parsed.takes(0, value), "{value}");
        }
        for value in [0.0, -1e37, 1.6e38] {
            assert!(parsed.takes(0, value), "{value}");
        }
        let mut vast = good();
        vast["scaler"] = json!({"mean": [1e300, 0.0], "scale": [1.0, 1e308]});
        let parsed = parse(&vast).unwrap();
        assert!(!parsed.takes(0, 0.0) && parsed.takes(0, 1e300));
        assert!(parsed.takes(1, f64::MAX));
    }

    #[test]
    fn file_without_end() {
        let long = vec![b' '; Preprocessing::MAX_BYTES + 1];
        assert!(matches!(
            Preprocessing::parse(&long),
            Err(ModelError::TooLarge { .. })
        ));
    }
}
