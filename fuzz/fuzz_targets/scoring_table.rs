//! A table of results with its manifest, as their owner opens them: the manifest, a zero byte, the table.
#![no_main]

use std::io::{Read, sink};
use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use strongroom_scoring::columns::ParquetKeys;
use strongroom_scoring::receipt::Digesting;
use strongroom_scoring::results::{Manifest, ResultReader, TableFormat};

fuzz_target!(|bytes: &[u8]| {
    let Some(end) = bytes.iter().position(|byte| *byte == 0) else {
        return;
    };
    let (manifest, table) = (&bytes[..end], &bytes[end + 1..]);
    let Ok(mut manifest) = Manifest::parse(manifest) else {
        return;
    };
    // A fuzzer does not hash; what only the right digest leads to is read as well.
    let (mut reader, digest) = Digesting::new(table);
    let copied = std::io::copy(&mut reader, &mut sink());
    if let (Ok(bytes), Ok(Some(digest))) = (copied, digest.finish()) {
        manifest.table.bytes = bytes;
        manifest.table.digest = format!("sha256:{}", digest.sha256);
    }
    match manifest.table.format {
        TableFormat::Csv => read(ResultReader::open_csv(table, &manifest)),
        TableFormat::Parquet => {
            let source = Arc::new(Bytes::copy_from_slice(table));
            let keys = ParquetKeys::default();
            read(ResultReader::open_parquet(source, &keys, &manifest));
        }
    }
});

fn read<R: Read, E>(reader: Result<ResultReader<R>, E>) {
    if let Ok(reader) = reader
        && let Ok(summary) = reader.finish()
    {
        assert!(summary.flagged <= summary.scored());
    }
}
