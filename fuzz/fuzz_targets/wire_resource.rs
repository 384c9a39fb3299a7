//! Resource paths and URIs. What parses prints to something that parses to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_wire::resource::{ResourcePath, ResourceUri};

fuzz_target!(|text: &str| {
    if let Ok(uri) = text.parse::<ResourceUri>() {
        assert_eq!(uri.to_string().parse::<ResourceUri>().as_ref(), Ok(&uri));
        uri.to_resource_path().ok();
    }
    if let Ok(path) = text.parse::<ResourcePath>() {
        assert_eq!(path.to_string().parse::<ResourcePath>().as_ref(), Ok(&path));
        let climbs = |part: &str| part.is_empty() || part.starts_with('.');
        assert!(
            ![path.repo(), path.r#type(), path.tag()]
                .into_iter()
                .any(climbs)
        );
    }
});
