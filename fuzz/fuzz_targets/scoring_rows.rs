//! CSV from anywhere, scored by the built-in model. What is written is read back and agrees.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use strongroom_scoring::batch::{Options, Results, score};
use strongroom_scoring::model::Bundle;
use strongroom_scoring::results::ResultReader;

static BUNDLE: LazyLock<Bundle> = LazyLock::new(Bundle::built_in);

fuzz_target!(|input: (bool, &[u8])| {
    let (skip_bad_rows, mut csv) = input;
    let options = Options {
        threshold: None,
        skip_bad_rows,
        results: Results::All,
        file_name: "rows.csv".to_owned(),
        ..Options::default()
    };
    let mut out = Vec::new();
    if let Ok(summary) = score(&mut csv, &BUNDLE, &options, &mut out, &mut |_| {}) {
        let results = ResultReader::open(out.as_slice()).expect("our own header");
        assert_eq!(results.finish().expect("our own results"), summary);
    }
});
