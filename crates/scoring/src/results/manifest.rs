//! What belongs to a table of results and is not in it: what its rows mean, the files that they are
//! from, and the summary.

use serde::{Deserialize, Serialize};

use super::table::{TableDigest, column_names};
use super::{Header, InputSummary, ResultsError, Summary};
use crate::receipt::Input;

/// The manifest of a table. It is sealed beside the table, and names it by its digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    /// The table that it belongs to.
    pub table: TableDigest,
    /// What the rows mean. Its columns are the features that the table has.
    pub header: Header,
    /// The files that were scored, in the order of the rows.
    pub inputs: Vec<InputSummary>,
    /// The same files as they lay in storage, where the job has a receipt: without one nothing hashes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Input>,
    /// What the job's receipt is called. It names the table and this manifest by their digests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// The whole data set in numbers.
    pub summary: Summary,
}

impl Manifest {
    /// The longest manifest that is read.
    pub const MAX_BYTES: usize = 64 << 20;

    /// Puts a manifest together.
    pub fn new(
        table: TableDigest,
        header: Header,
        inputs: Vec<InputSummary>,
        summary: Summary,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            table,
            header,
            inputs,
            sources: Vec::new(),
            receipt: None,
            summary,
        }
    }

    /// The manifest as JSON, the same bytes for the same manifest.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("numbers, texts, and texts as keys");
        json.push(b'\n');
        json
    }

    /// Reads a manifest. Whether it fits its table shows when that is read.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(json: &[u8]) -> Result<Self, ResultsError> {
        let manifest: Self = (json.len() <= Self::MAX_BYTES)
            .then(|| serde_json::from_slice(json).ok())
            .flatten()
            .ok_or(ResultsError::NoManifest)?;
        if manifest.format == FORMAT
            && manifest.header.format == super::FORMAT
            && manifest.sources_are_the_inputs()
        {
            Ok(manifest)
        } else {
            Err(ResultsError::NoManifest)
        }
    }

    fn sources_are_the_inputs(&self) -> bool {
        let files = self.inputs.iter().map(|input| &input.file);
        self.sources.is_empty() || self.sources.iter().map(|source| &source.name).eq(files)
    }

    /// The columns that its table has, and whether one of them holds keys.
    pub(super) fn columns(&self, found: &[String]) -> Option<bool> {
        [false, true]
            .into_iter()
            .find(|&keys| column_names(keys, &self.header.columns) == found)
    }
}

/// The format of a manifest. Version 1 had neither sources nor a receipt.
const FORMAT: &str = "strongroom-manifest/2";
