//! Init-data as a document and as an annotation, which is compressed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_wire::initdata::Initdata;

fuzz_target!(|text: &str| {
    Initdata::from_annotation(text).ok();
    if let Ok(initdata) = Initdata::parse(text) {
        assert_eq!(
            initdata.as_str(),
            text,
            "the digest is over the exact bytes"
        );
        initdata.digest();
        let again = Initdata::from_annotation(&initdata.to_annotation());
        assert_eq!(again.expect("our own annotation").as_str(), text);
    }
});
