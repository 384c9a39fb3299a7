//! `preprocessing.json`: what happens to a row before the graph sees it. Columns by name, the arithmetic of scikit-learn's
//! `StandardScaler` ((x - mean) / scale in f64, then cast to f32) where there is a scaler, which input of the graph takes
//! which columns, and what an empty field means. docs/model.md describes it for those who write it.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use super::ModelError;
use super::graph::Element;
use crate::shown;

/// What becomes of a column of a data set that neither the model nor its list of ignored columns knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownColumns {
    /// The data set is refused: a name may be misspelt, or the file another.
    #[default]
    Refuse,
    /// It is not read. Every column that the model reads must still be there.
    Ignore,
}

/// The checked content of `preprocessing.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessing {
    columns: Vec<String>,
    ignored_columns: Vec<String>,
    unknown_columns: UnknownColumns,
    /// Means and scales; 0 and 1 where there is no scaler.
    mean: Vec<f64>,
    scale: Vec<f64>,
    scaled: bool,
    /// For each column a magnitude up to which any number is taken: no need to look further.
    harmless: Vec<f64>,
    elements: Vec<Element>,
    missing: Vec<bool>,
    missing_by_name: Vec<usize>,
    inputs: Option<BTreeMap<String, Vec<usize>>>,
    positive_class: Option<usize>,
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
            scaler,
            inputs,
            missing,
            positive_class,
            threshold,
        } = serde_json::from_slice(json).map_err(|e| refused(e.to_string()))?;

        if format != FORMAT {
            return Err(refused(format!(
                "format {format}; this program reads format {FORMAT}"
            )));
        }
        check_names(&columns, &ignored_columns)?;
        let scaled = scaler.is_some();
        let UncheckedScaler { mean, scale } = scaler.unwrap_or_else(|| UncheckedScaler {
            mean: vec![0.0; columns.len()],
            scale: vec![1.0; columns.len()],
        });
        check_scaler(&columns, &mean, &scale)?;
        if !(0.0..=1.0).contains(&threshold) {
            return Err(refused("the threshold is not between 0 and 1"));
        }
        let (missing, missing_by_name) = match missing {
            None => (vec![false; columns.len()], Vec::new()),
            Some(UncheckedMissing::All(MissingValue::Nan)) => {
                (vec![true; columns.len()], Vec::new())
            }
            Some(UncheckedMissing::Some(some)) => {
                let places = some.keys().map(|name| place(&columns, name, "missing"));
                let places = places.collect::<Result<Vec<_>, _>>()?;
                let named = (0..columns.len()).map(|column| places.contains(&column));
                (named.collect(), places)
            }
        };
        let inputs = inputs
            .map(|inputs| check_inputs(&columns, inputs))
            .transpose()?;
        let mut checked = Self {
            harmless: Vec::new(),
            elements: vec![Element::Float; columns.len()],
            columns,
            ignored_columns,
            unknown_columns: UnknownColumns::Refuse,
            mean,
            scale,
            scaled,
            missing,
            missing_by_name,
            inputs,
            positive_class,
            threshold,
        };
        checked.find_harmless();
        Ok(checked)
    }

    /// Takes over what the graph's inputs are made of: `elements` has the type for each column.
    pub(super) fn bind(&mut self, elements: Vec<Element>) -> Result<(), ModelError> {
        for (column, &element) in elements.iter().enumerate() {
            let name = || shown(&self.columns[column]);
            if matches!(element, Element::Float | Element::Double) {
                continue;
            }
            if self.scaled && (self.mean[column], self.scale[column]) != (0.0, 1.0) {
                return Err(refused(format!(
                    "\"{}\" goes into the graph as a whole number, which no scaler leaves whole",
                    name()
                )));
            }
            if self.missing_by_name.contains(&column) {
                return Err(refused(format!(
                    "\"{}\" goes into the graph as a whole number, of which none is missing",
                    name()
                )));
            }
            self.missing[column] = false;
        }
        self.elements = elements;
        self.find_harmless();
        Ok(())
    }

    fn find_harmless(&mut self) {
        let constants = self.mean.iter().zip(&self.scale);
        self.harmless = constants
            .zip(&self.elements)
            .map(|((mean, scale), element)| match element {
                Element::Float => (scale * 1e38).min(1e300) - mean.abs(),
                Element::Double => (scale * 1e300).min(1e300) - mean.abs(),
                // Any may have a fraction.
                Element::Int64 | Element::Int32 | Element::Bool => -1.0,
            })
            .collect();
    }

    /// The columns that the model reads, in its order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Columns that a data set may have and that the model does not read.
    pub fn ignored_columns(&self) -> &[String] {
        &self.ignored_columns
    }

    /// What becomes of a column that is in neither list.
    pub fn unknown_columns(&self) -> UnknownColumns {
        self.unknown_columns
    }

    /// Says what becomes of a column that is in neither list: a matter of the data set, not of the model's digest.
    pub(super) fn set_unknown_columns(&mut self, unknown: UnknownColumns) {
        self.unknown_columns = unknown;
    }

    /// A row is flagged when its probability is above this.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// The value that an empty field of a column stands for; `None` where an empty field makes a bad row.
    pub fn empty_value(&self, column: usize) -> Option<f64> {
        self.missing[column].then_some(f64::NAN)
    }

    /// The graph's input for a value of a column, where it is of f32.
    pub fn standardise(&self, column: usize, value: f64) -> f32 {
        self.scale(column, value) as f32
    }

    /// The graph's input for a value of a column, where it is of f64.
    pub(super) fn scale(&self, column: usize, value: f64) -> f64 {
        (value - self.mean[column]) / self.scale[column]
    }

    /// Whether a value of a column is one that the graph can take: a number that does not overflow once standardised, a
    /// whole one where the graph takes whole ones, and what is not a number only where values may be missing.
    pub fn takes(&self, column: usize, value: f64) -> bool {
        if self.surely_takes(column, value) {
            return true;
        }
        if value.is_nan() {
            return self.missing[column];
        }
        let is_whole_within =
            |least: f64, most: f64| (least..=most).contains(&value) && value.fract() == 0.0;
        match self.elements[column] {
            Element::Float => self.standardise(column, value).is_finite(),
            Element::Double => self.scale(column, value).is_finite(),
            Element::Int64 => is_whole_within(-EXACT, EXACT),
            Element::Int32 => is_whole_within(f64::from(i32::MIN), f64::from(i32::MAX)),
            Element::Bool => is_whole_within(0.0, 1.0),
        }
    }

    /// Whether [`takes`](Self::takes) holds by the magnitude alone, which is asked without dividing.
    pub(crate) fn surely_takes(&self, column: usize, value: f64) -> bool {
        value.abs() <= self.harmless[column]
    }

    /// Means and scales, where there is a scaler.
    pub(super) fn scaler(&self) -> Option<(&[f64], &[f64])> {
        self.scaled.then_some((&self.mean[..], &self.scale[..]))
    }

    /// The average of a column as its scaler has it; 0 without.
    pub(super) fn average(&self, column: usize) -> (f64, f64) {
        (self.mean[column], self.scale[column])
    }

    /// For each input of the graph its columns, where the file says so.
    pub(super) fn inputs(&self) -> Option<&BTreeMap<String, Vec<usize>>> {
        self.inputs.as_ref()
    }

    /// The place of the class that the score is the probability of, where the file says so.
    pub(super) fn positive_class(&self) -> Option<usize> {
        self.positive_class
    }
}

fn check_names(columns: &[String], ignored: &[String]) -> Result<(), ModelError> {
    if columns.is_empty() {
        return Err(refused("no columns"));
    }
    let mut seen = HashSet::new();
    for name in columns.iter().chain(ignored) {
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
    Ok(())
}

fn check_scaler(columns: &[String], mean: &[f64], scale: &[f64]) -> Result<(), ModelError> {
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
    let positive = |scale: &f64| scale.is_finite() && *scale > 0.0;
    if let Some(at) = scale.iter().position(|scale| !positive(scale)) {
        return Err(refused(format!(
            "the scale of \"{}\" is not greater than zero",
            shown(&columns[at])
        )));
    }
    Ok(())
}

/// Which column goes where: each one once.
fn check_inputs(
    columns: &[String],
    inputs: BTreeMap<String, Vec<String>>,
) -> Result<BTreeMap<String, Vec<usize>>, ModelError> {
    let mut used = vec![false; columns.len()];
    let mut checked = BTreeMap::new();
    for (input, names) in inputs {
        let mut places = Vec::new();
        for name in names {
            let at = place(columns, &name, "inputs")?;
            if std::mem::replace(&mut used[at], true) {
                return Err(refused(format!(
                    "inputs: column \"{}\" is there twice",
                    shown(&name)
                )));
            }
            places.push(at);
        }
        checked.insert(input, places);
    }
    if let Some(at) = used.iter().position(|used| !used) {
        return Err(refused(format!(
            "inputs: no input takes \"{}\"",
            shown(&columns[at])
        )));
    }
    Ok(checked)
}

fn place(columns: &[String], name: &str, member: &str) -> Result<usize, ModelError> {
    let at = columns.iter().position(|column| column == name);
    at.ok_or_else(|| {
        refused(format!(
            "{member}: \"{}\" is not among the columns",
            shown(name)
        ))
    })
}

const FORMAT: u32 = 1;
const MAX_NAME: usize = 256;
/// Up to here every whole number has an f64.
const EXACT: f64 = 9_007_199_254_740_992.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedPreprocessing {
    format: u32,
    columns: Vec<String>,
    #[serde(default)]
    ignored_columns: Vec<String>,
    scaler: Option<UncheckedScaler>,
    inputs: Option<BTreeMap<String, Vec<String>>>,
    missing: Option<UncheckedMissing>,
    positive_class: Option<usize>,
    threshold: f64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum UncheckedMissing {
    All(MissingValue),
    Some(BTreeMap<String, MissingValue>),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum MissingValue {
    /// Not a number, as decision trees are trained with.
    Nan,
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
    fn example_of_the_documentation_is_refused() {
        let page = include_str!("../../../../docs/model.md");
        let (_, example) = page.split_once("```json\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let parsed = Preprocessing::parse(example.as_bytes()).unwrap();
        assert_eq!(parsed.inputs().unwrap()["rest"], [1, 2, 3]);
        let example: Value = serde_json::from_str(example).unwrap();
        for member in example.as_object().unwrap().keys() {
            assert!(
                page.contains(&format!("| `{member}` |")),
                "{member} is not described"
            );
        }
    }

    #[test]
    fn scaler_is_needed() {
        let mut json = good();
        json.as_object_mut().unwrap().remove("scaler");
        let parsed = parse(&json).unwrap();
        assert_eq!(parsed.standardise(1, 0.1), 0.1_f32);
        assert_eq!(parsed.scaler(), None);
        assert!(parsed.takes(0, 3.4e38) && !parsed.takes(0, 3.5e38));
    }

    #[test]
    fn value_that_the_graph_cannot_hold_is_taken() {
        let mut json = good();
        json.as_object_mut().unwrap().remove("scaler");
        let bound = |element| {
            let mut parsed = parse(&json).unwrap();
            parsed.bind(vec![element, Element::Float]).unwrap();
            move |value: f64| parsed.takes(0, value)
        };
        let takes = bound(Element::Int64);
        assert!(takes(-3.0) && takes(EXACT) && takes(-0.0));
        assert!(!takes(0.5) && !takes(EXACT * 2.0) && !takes(f64::NAN) && !takes(f64::INFINITY));
        let takes = bound(Element::Int32);
        assert!(takes(2_147_483_647.0) && takes(-2_147_483_648.0));
        assert!(!takes(2_147_483_648.0) && !takes(1e-9));
        let takes = bound(Element::Bool);
        assert!(takes(0.0) && takes(1.0));
        assert!(!takes(2.0) && !takes(-1.0) && !takes(0.5));
        let takes = bound(Element::Double);
        assert!(takes(1e300) && takes(-1.7e308));
        assert!(!takes(f64::NAN) && !takes(f64::NEG_INFINITY));
    }

    #[test]
    fn scaler_makes_a_whole_number_a_fraction() {
        let mut parsed = parse(&good()).unwrap();
        let error = parsed
            .bind(vec![Element::Float, Element::Int64])
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("\"b\" goes into the graph as a whole number")
        );
        let mut json = good();
        json["scaler"] = json!({"mean": [1.0, 0.0], "scale": [0.5, 1.0]});
        parse(&json)
            .unwrap()
            .bind(vec![Element::Float, Element::Int64])
            .unwrap();
    }

    #[test]
    fn missing_value_is_a_bad_row() {
        let mut json = good();
        assert_eq!(parse(&json).unwrap().empty_value(0), None);
        json["missing"] = json!("nan");
        let mut parsed = parse(&json).unwrap();
        assert!(parsed.takes(1, f64::NAN) && !parsed.takes(1, f64::INFINITY));
        assert!(parsed.empty_value(1).is_some_and(f64::is_nan));
        json["missing"] = json!({"b": "nan"});
        let some = parse(&json).unwrap();
        assert!(some.takes(1, f64::NAN) && !some.takes(0, f64::NAN));
        assert_eq!(some.empty_value(0), None);
        // For all columns means for all that can have it.
        json["scaler"] = json!({"mean": [0.0, 0.0], "scale": [1.0, 1.0]});
        parsed.scaled = false;
        parsed.bind(vec![Element::Float, Element::Int32]).unwrap();
        assert!(parsed.takes(0, f64::NAN) && !parsed.takes(1, f64::NAN));
        let error = parse(&json)
            .unwrap()
            .bind(vec![Element::Float, Element::Int32])
            .unwrap_err();
        assert!(error.to_string().contains("of which none is missing"));
        json["missing"] = json!({"c": "nan"});
        assert!(
            parse(&json)
                .unwrap_err()
                .to_string()
                .contains("\"c\" is not among the columns")
        );
        json["missing"] = json!("zero");
        assert!(parse(&json).is_err());
    }

    #[test]
    fn column_goes_nowhere_or_twice() {
        let mut json = good();
        json["inputs"] = json!({"x": ["b"], "y": ["a"]});
        let parsed = parse(&json).unwrap();
        assert_eq!(parsed.inputs().unwrap()["x"], [1]);
        for (inputs, why) in [
            (json!({"x": ["a"]}), "no input takes \"b\""),
            (json!({"x": ["a", "b"], "y": ["b"]}), "\"b\" is there twice"),
            (json!({"x": ["a", "b", "label"]}), "\"label\" is not among"),
        ] {
            json["inputs"] = inputs;
            assert!(parse(&json).unwrap_err().to_string().contains(why), "{why}");
        }
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
