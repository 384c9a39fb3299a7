//! One entry point per decoder of untrusted bytes, for fuzz targets. None may panic, whatever the
//! bytes.

use std::io::{self, Cursor, Read};
use std::sync::LazyLock;

use strongroom_wire::jwe::{DecryptionKey, KeyAlgorithm};

use crate::openssl_enc::{Cipher, KeyAndIv, Passphrase, UnauthenticatedDecryptor};
use crate::{FileKey, Format, sealed, tink_stream};

/// A [`mod@tink_stream`] under a fixed key, with the least segment size so that short inputs have many
/// segments.
///
/// # Panics
/// When unauthenticated bytes came out.
pub fn tink_stream(data: &[u8]) {
    if let Ok(key) = FileKey::from_slice(&[0x5a; FileKey::LEN])
        && let Ok(mut reader) = tink_stream::Decryptor::with_segment_size(
            data,
            &key,
            b"fuzz",
            tink_stream::MIN_SEGMENT_SIZE,
        )
    {
        let copied = io::copy(&mut reader, &mut io::sink());
        assert!(
            copied.is_err() || data.len() >= 56,
            "a file without a tag opened"
        );
        assert!(
            reader.read(&mut [0; 1]).is_ok() == copied.is_ok(),
            "a failure did not stick"
        );
        assert_eq!(
            tink_segments(data, &key),
            copied.ok(),
            "opened by place it is another file"
        );
    }
}

/// The plaintext's length, when every segment opens by its place.
fn tink_segments(data: &[u8], key: &FileKey) -> Option<u64> {
    let header = data.first_chunk()?;
    let segments = tink_stream::Segments::with_segment_size(
        header,
        data.len() as u64,
        key,
        b"fuzz",
        tink_stream::MIN_SEGMENT_SIZE,
    )
    .ok()?;
    let mut length = 0;
    for number in 0..segments.count() {
        let place = segments.ciphertext_range(number);
        let mut segment = data[place.start as usize..place.end as usize].to_vec();
        length += segments.open_in_place(number, &mut segment).ok()?.len() as u64;
    }
    Some(length)
}

/// A [`mod@sealed`] file for a key made at the first call.
pub fn sealed(data: &[u8]) {
    static KEY: LazyLock<Option<DecryptionKey>> =
        LazyLock::new(|| DecryptionKey::generate(KeyAlgorithm::EcdhP256).ok());
    if let Some(key) = &*KEY
        && let Ok(mut reader) = sealed::Opener::new(Cursor::new(data), key, b"fuzz")
    {
        let _result = io::copy(&mut reader, &mut io::sink());
    }
}

/// The body of an `openssl enc` file under a fixed key, in both ciphers.
///
/// # Panics
/// When CFB, which cannot fail, fails or changes the length.
pub fn openssl_enc(data: &[u8]) {
    for cipher in [Cipher::Aes256Cbc, Cipher::Aes256Cfb] {
        if let Ok(mut reader) =
            UnauthenticatedDecryptor::with_key(data, &KeyAndIv::for_fuzzing(), cipher)
        {
            let copied = io::copy(&mut reader, &mut io::sink());
            if cipher == Cipher::Aes256Cfb {
                assert_eq!(copied.ok(), Some(data.len() as u64));
            }
        }
    }
}

/// A key file of `openssl enc`, and what [`Format::detect`] takes it for.
///
/// # Panics
/// When more would be used than `openssl` can.
pub fn key_file(data: &[u8]) {
    let _format = Format::detect(data);
    if let Ok((_passphrase, warnings)) = Passphrase::from_key_file(data) {
        for warning in warnings {
            assert!((2..=127).contains(&warning.used) && warning.used < warning.length);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Without the fuzzer: every prefix of a good file of each format, and each with one byte
    /// changed.
    #[test]
    fn no_entry_point_panics_on_files_that_are_nearly_right() {
        let key = FileKey::from_slice(&[0x5a; FileKey::LEN]).unwrap();
        let mut writer = tink_stream::Encryptor::with_segment_size(
            Vec::new(),
            &key,
            b"fuzz",
            tink_stream::MIN_SEGMENT_SIZE,
        )
        .unwrap();
        writer.write_all(&[7; 200]).unwrap();
        let tink = writer.finish().unwrap();

        let recipient = DecryptionKey::generate(KeyAlgorithm::EcdhP256).unwrap();
        let mut writer = sealed::Sealer::new(Vec::new(), recipient.public(), b"fuzz").unwrap();
        writer.write_all(&[7; 20]).unwrap();
        let sealed_file = writer.finish().unwrap();

        for file in [
            &tink[..],
            &sealed_file,
            b"Salted__saltsalt",
            b"key\r\n\0file",
            b"",
        ] {
            for length in 0..=file.len() {
                for entry in [tink_stream, sealed, openssl_enc, key_file] {
                    entry(&file[..length]);
                    let mut changed = file.to_vec();
                    if let Some(byte) = changed.get_mut(length) {
                        *byte ^= 0x41;
                    }
                    entry(&changed);
                }
            }
        }
    }
}
