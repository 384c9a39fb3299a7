//! CSV compressed by gzip or zstd, from anywhere. What comes out stays within the limits.
#![no_main]

use std::io::{self, Read};

use libfuzzer_sys::fuzz_target;
use strongroom_scoring::decompress::{Decompressor, Limits};

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits {
        bytes: 1 << 20,
        ..Limits::default()
    };
    let drain = |mut reader: Decompressor<&[u8]>| {
        let read = io::copy(&mut reader.by_ref().take(2 << 20), &mut io::sink());
        assert!(read.is_err() || reader.compressed_bytes() <= bytes.len() as u64);
        assert!(read.unwrap_or(0) <= 1 << 20, "more than is allowed");
    };
    drain(Decompressor::gzip(bytes, limits));
    if let Ok(reader) = Decompressor::zstd(bytes, limits) {
        drain(reader);
    }
});
