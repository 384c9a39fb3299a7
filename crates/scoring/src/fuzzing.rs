//! One entry for each decoder that has no other, for `fuzz/`. Not for programs.

use std::io::Read;
use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;

use crate::columns::ParquetKeys;
use crate::results::{Manifest, ResultReader, ResultsError, TableFormat};

/// A model of others, read with its columns in the order of its inputs. One that is accepted scores some rows.
pub fn onnx(bytes: &[u8]) {
    crate::model::read_unbound(bytes).ok();
}

/// A table of results as its owner opens it: the manifest, a zero byte, the table. Gives whether it was taken.
///
/// # Panics
/// When a table that is taken contradicts its summary.
pub fn table(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|byte| *byte == 0);
    let Some((manifest, [_, table @ ..])) = end.and_then(|end| bytes.split_at_checked(end)) else {
        return false;
    };
    let Ok(mut manifest) = Manifest::parse(manifest) else {
        return false;
    };
    // A fuzzer does not hash; what only the right digest leads to is read as well.
    manifest.table.bytes = table.len() as u64;
    let digest = digest::digest(&digest::SHA256, table);
    manifest.table.digest = format!("sha256:{}", hex::encode(digest));
    match manifest.table.format {
        TableFormat::Csv => taken(ResultReader::open_csv(table, &manifest)),
        TableFormat::Parquet => {
            let source = Arc::new(Bytes::copy_from_slice(table));
            let keys = ParquetKeys::default();
            taken(ResultReader::open_parquet(source, &keys, &manifest))
        }
    }
}

fn taken<R: Read>(reader: Result<ResultReader<R>, ResultsError>) -> bool {
    let summary = reader.and_then(ResultReader::finish);
    if let Ok(summary) = &summary {
        assert!(
            summary.flagged <= summary.scored(),
            "more rows than there are"
        );
    }
    summary.is_ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn seed_of_a_table_is_none() {
        for format in ["csv", "parquet"] {
            let seed = concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../fuzz/seeds/scoring_table/"
            );
            let seed = std::fs::read(format!("{seed}{format}")).unwrap();
            assert!(super::table(&seed), "{format}");
            assert!(!super::table(&seed[..seed.len() - 30]), "{format}");
        }
    }
}
