//! A model bundle as a tar, and its preprocessing alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_scoring::model::{Bundle, Preprocessing};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(bundle) = Bundle::from_tar(bytes) {
        let again = Bundle::from_tar(&bundle.to_tar()).expect("our own tar");
        assert_eq!(again.digest(), bundle.digest());
    }
    if let Ok(preprocessing) = Preprocessing::parse(bytes) {
        for column in 0..preprocessing.columns().len() {
            preprocessing.standardise(column, f64::MAX);
        }
    }
});
