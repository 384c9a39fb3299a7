//! A result file, as its owner opens it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_scoring::results::{ResultReader, top};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(reader) = ResultReader::open(bytes)
        && let Ok(summary) = reader.finish()
    {
        summary.counts().to_string();
        assert!(top(bytes, 3).is_ok_and(|top| top.rows.len() <= 3));
    }
});
