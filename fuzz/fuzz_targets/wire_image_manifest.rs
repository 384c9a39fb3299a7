//! Manifests, indexes, configurations and the payloads of signatures, as a registry hands them out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_wire::image::manifest::{Document, ImageConfig, LayerForm, Platform};
use strongroom_wire::image::simple_signing::Payload;

fuzz_target!(|bytes: &[u8]| {
    match Document::parse(bytes) {
        Ok(Document::Manifest(manifest)) => {
            for layer in &manifest.layers {
                LayerForm::of(&layer.media_type);
            }
        }
        Ok(Document::Index(index)) => {
            index.for_platform(&Platform::default());
            index.platforms();
        }
        _ => {}
    }
    ImageConfig::parse(bytes).ok();
    if let Ok(payload) = Payload::parse(bytes) {
        let written = payload.to_cosign_json();
        assert_eq!(
            Payload::parse(&written),
            Ok(payload),
            "a payload changes when it is written"
        );
    }
});
