//! Init-data as a document, as an annotation, which is compressed, and on a disk.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_wire::initdata::{Initdata, MAX_DOCUMENT, text_on_disk};

fuzz_target!(|bytes: &[u8]| {
    Initdata::from_file(bytes).ok();
    if let Ok(Some(text)) = text_on_disk(bytes) {
        assert!(text.len() <= MAX_DOCUMENT);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
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
