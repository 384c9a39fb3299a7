//! A training profile, and labels for a report.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_scoring::profile::Profile;
use strongroom_scoring::report::Labels;

fuzz_target!(|input: (Vec<String>, &[u8])| {
    let (columns, bytes) = input;
    if let Ok(profile) = Profile::parse(bytes, &columns) {
        let again = Profile::parse(&profile.to_json(), &columns).expect("our own profile");
        assert_eq!(again, profile);
        let range = profile.range();
        for (at, column) in profile.columns().iter().enumerate() {
            assert!(!range.outside(at, column.mean));
        }
    }
    if let Ok(labels) = Labels::read(bytes, columns.first().map(String::as_str)) {
        assert!(labels.frauds() + labels.honest() <= bytes.len() as u64);
    }
});
