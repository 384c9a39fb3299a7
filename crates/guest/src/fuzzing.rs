//! One entry point per decoder of untrusted bytes, for fuzz targets. None may panic, whatever the bytes.

use crate::image::fuzzing;

/// The tar file of an image's layer, unpacked into a folder.
///
/// # Panics
/// When something of it lands outside the folder.
pub fn layer(data: &[u8]) {
    fuzzing::layer(data);
}

/// What a registry's challenge asks for.
pub fn challenge(data: &[u8]) {
    fuzzing::challenge(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_take_anything() {
        let samples: [&[u8]; 5] = [
            b"",
            b"\xff",
            &[0; 1024],
            b"Bearer realm=\"x\",=,",
            &[b'7'; 600],
        ];
        for sample in samples {
            layer(sample);
            challenge(sample);
        }
    }
}
