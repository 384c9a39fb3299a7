//! Messages of type `corim`: an unsigned `CoRIM` (draft-ietf-rats-corim) in CBOR, of which the reference triples of its
//! `CoMID`s are read: digests, and raw values that are tagged bytes.
//!
//! The names are upstream's: vendor, model, measurement key, name and serial number as far as each is there, then
//! `digests` or `raw_bytes`, joined by slashes. Digests of one name are one list. Items of indefinite length, maps
//! with a key twice and deep nesting are refused; so is a signed `CoRIM`, whose signature nothing here checks.

use std::collections::BTreeSet;

use minicbor::data::Type;
use minicbor::decode::Decoder;
use serde_json::{Value, json};

use super::{Extracted, ReferenceValueError, malformed, shorten};

pub(super) fn extract(payload: &[u8]) -> Result<Extracted, ReferenceValueError> {
    let mut corim = Decoder::new(payload);
    // Older CoRIMs stand in one or two tags more.
    let mut tags = 0;
    while corim.datatype().map_err(malformed)? == Type::Tag {
        tags += 1;
        match tag(&mut corim)? {
            TAG_CORIM | TAG_UNSIGNED if tags <= 3 => {}
            TAG_SIGNED_OUTER if tags <= 3 => {}
            TAG_COSE_SIGN1 => {
                return Err(malformed(
                    "a signed CoRIM: its signature is not checked here",
                ));
            }
            other => return Err(malformed(format!("the CoRIM stands in the tag {other}"))),
        }
    }
    let mut values = Extracted::new();
    map(&mut corim, |key, corim| match key {
        Some(CORIM_TAGS) => array(corim, |corim| match tag(corim)? {
            TAG_COMID => comid(corim.bytes().map_err(malformed)?, &mut values),
            _ => skip(corim, MAX_DEPTH),
        }),
        _ => skip(corim, MAX_DEPTH),
    })?;
    match corim.position() == payload.len() {
        true => Ok(values),
        false => Err(malformed("bytes after the CoRIM")),
    }
}

fn comid(bytes: &[u8], values: &mut Extracted) -> Result<(), ReferenceValueError> {
    let mut comid = Decoder::new(bytes);
    map(&mut comid, |key, comid| match key {
        Some(COMID_TRIPLES) => map(comid, |key, comid| match key {
            Some(REFERENCE_TRIPLES) => array(comid, |comid| reference_triple(comid, values)),
            _ => skip(comid, MAX_DEPTH),
        }),
        _ => skip(comid, MAX_DEPTH),
    })?;
    match comid.position() == bytes.len() {
        true => Ok(()),
        false => Err(malformed("bytes after a CoMID")),
    }
}

/// An environment and its measurements.
fn reference_triple(
    triple: &mut Decoder<'_>,
    values: &mut Extracted,
) -> Result<(), ReferenceValueError> {
    if triple.array().map_err(malformed)? != Some(2) {
        return Err(malformed("a reference triple has not two members"));
    }
    let (mut vendor, mut model) = (None, None);
    map(triple, |key, environment| match key {
        Some(ENVIRONMENT_CLASS) => map(environment, |key, class| match key {
            Some(CLASS_VENDOR) => text(class).map(|text| vendor = Some(text)),
            Some(CLASS_MODEL) => text(class).map(|text| model = Some(text)),
            _ => skip(class, MAX_DEPTH),
        }),
        _ => skip(environment, MAX_DEPTH),
    })?;
    let environment: Vec<String> = vendor.into_iter().chain(model).collect();
    array(triple, |measurement| {
        let mut found = Measurement::default();
        map(measurement, |key, measurement| match key {
            Some(MEASUREMENT_KEY) => measured_element(measurement).map(|key| found.key = key),
            Some(MEASUREMENT_VALUES) => found.values(measurement),
            _ => skip(measurement, MAX_DEPTH),
        })?;
        found.store(&environment, values)
    })
}

#[derive(Default)]
struct Measurement {
    key: Option<String>,
    name: Option<String>,
    serial_number: Option<String>,
    digests: Vec<Value>,
    raw: Option<Value>,
}

impl Measurement {
    fn values(&mut self, decoder: &mut Decoder<'_>) -> Result<(), ReferenceValueError> {
        map(decoder, |key, decoder| match key {
            Some(VALUES_DIGESTS) => array(decoder, |digest| {
                if digest.array().map_err(malformed)? != Some(2) {
                    return Err(malformed("a digest has not two members"));
                }
                // The algorithm is a number or a name, and no part of what upstream stores.
                skip(digest, 1)?;
                let bytes = digest.bytes().map_err(malformed)?;
                self.digests.push(json!(hex::encode(bytes)));
                Ok(())
            }),
            Some(VALUES_RAW) => match decoder.datatype().map_err(malformed)? {
                Type::Tag if peeked_tag(decoder)? == TAG_BYTES => {
                    tag(decoder)?;
                    let bytes = decoder.bytes().map_err(malformed)?;
                    self.raw = Some(json!(hex::encode(bytes)));
                    Ok(())
                }
                _ => skip(decoder, MAX_DEPTH),
            },
            Some(VALUES_SERIAL_NUMBER) => text(decoder).map(|text| self.serial_number = Some(text)),
            Some(VALUES_NAME) => text(decoder).map(|text| self.name = Some(text)),
            _ => skip(decoder, MAX_DEPTH),
        })
    }

    fn store(
        self,
        environment: &[String],
        values: &mut Extracted,
    ) -> Result<(), ReferenceValueError> {
        let own = [self.key, self.name, self.serial_number];
        let name = |last: &str| {
            let parts = environment.iter().chain(own.iter().flatten());
            let mut parts: Vec<&str> = parts.map(String::as_str).collect();
            parts.push(last);
            parts.join("/")
        };
        if !self.digests.is_empty() {
            let list = values
                .entry(name("digests"))
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                for digest in self.digests {
                    if !list.contains(&digest) {
                        list.push(digest);
                    }
                }
            }
        }
        if let Some(raw) = self.raw {
            let name = name("raw_bytes");
            if values.contains_key(&name) {
                return Err(ReferenceValueError::Duplicate {
                    name: shorten(&name),
                });
            }
            values.insert(name, raw);
        }
        Ok(())
    }
}

/// A measurement's key: a text, a number or a UUID. Others are no part of a name.
fn measured_element(decoder: &mut Decoder<'_>) -> Result<Option<String>, ReferenceValueError> {
    match decoder.datatype().map_err(malformed)? {
        Type::String => text(decoder).map(Some),
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => {
            let number = decoder.u64().map_err(malformed)?;
            Ok(Some(format!("claim{number}")))
        }
        Type::Tag if peeked_tag(decoder)? == TAG_UUID => {
            tag(decoder)?;
            let bytes = decoder.bytes().map_err(malformed)?;
            let bytes: &[u8; 16] = bytes
                .try_into()
                .map_err(|_| malformed("a UUID has not 16 bytes"))?;
            let hex = hex::encode(bytes);
            let part =
                |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default().to_owned();
            let parts = [
                part(0..8),
                part(8..12),
                part(12..16),
                part(16..20),
                part(20..32),
            ];
            Ok(Some(parts.join("-")))
        }
        _ => skip(decoder, MAX_DEPTH).map(|()| None),
    }
}

/// Runs `member` for each member of a map: its key when that is a number, and the decoder at the value.
fn map<'b>(
    decoder: &mut Decoder<'b>,
    mut member: impl FnMut(Option<i64>, &mut Decoder<'b>) -> Result<(), ReferenceValueError>,
) -> Result<(), ReferenceValueError> {
    let count = definite(decoder.map().map_err(malformed)?)?;
    let mut seen = BTreeSet::new();
    for _ in 0..count {
        let key = match decoder.datatype().map_err(malformed)? {
            Type::String => {
                skip(decoder, 1)?;
                None
            }
            _ => Some(decoder.i64().map_err(malformed)?),
        };
        if key.is_some_and(|key| !seen.insert(key)) {
            return Err(malformed("a map has a key twice"));
        }
        member(key, decoder)?;
    }
    Ok(())
}

fn array<'b>(
    decoder: &mut Decoder<'b>,
    mut item: impl FnMut(&mut Decoder<'b>) -> Result<(), ReferenceValueError>,
) -> Result<(), ReferenceValueError> {
    let count = definite(decoder.array().map_err(malformed)?)?;
    (0..count).try_for_each(|_| item(decoder))
}

fn text(decoder: &mut Decoder<'_>) -> Result<String, ReferenceValueError> {
    decoder.str().map(str::to_owned).map_err(malformed)
}

fn tag(decoder: &mut Decoder<'_>) -> Result<u64, ReferenceValueError> {
    decoder.tag().map(|tag| tag.as_u64()).map_err(malformed)
}

fn peeked_tag(decoder: &Decoder<'_>) -> Result<u64, ReferenceValueError> {
    tag(&mut decoder.clone())
}

fn definite(count: Option<u64>) -> Result<u64, ReferenceValueError> {
    count.ok_or_else(|| malformed("an item of indefinite length"))
}

/// Passes over one item, `depth` levels of which may nest.
fn skip(decoder: &mut Decoder<'_>, depth: usize) -> Result<(), ReferenceValueError> {
    let below = depth
        .checked_sub(1)
        .ok_or_else(|| malformed("items are nested too deep"))?;
    match decoder.datatype().map_err(malformed)? {
        Type::Array => array(decoder, |decoder| skip(decoder, below)),
        Type::Map => {
            let count = definite(decoder.map().map_err(malformed)?)?;
            for _ in 0..count {
                skip(decoder, below)?;
                skip(decoder, below)?;
            }
            Ok(())
        }
        Type::Tag => {
            tag(decoder)?;
            skip(decoder, below)
        }
        Type::Bytes => decoder.bytes().map(|_| ()).map_err(malformed),
        Type::String => decoder.str().map(|_| ()).map_err(malformed),
        Type::ArrayIndef | Type::MapIndef | Type::BytesIndef | Type::StringIndef | Type::Break => {
            Err(malformed("an item of indefinite length"))
        }
        _ => decoder.skip().map_err(malformed),
    }
}

/// The draft's numbers.
const TAG_CORIM: u64 = 501;
const TAG_UNSIGNED: u64 = 500;
const TAG_SIGNED_OUTER: u64 = 502;
const TAG_COSE_SIGN1: u64 = 18;
const TAG_COMID: u64 = 506;
const TAG_UUID: u64 = 37;
const TAG_BYTES: u64 = 560;
const CORIM_TAGS: i64 = 1;
const COMID_TRIPLES: i64 = 4;
const REFERENCE_TRIPLES: i64 = 0;
const ENVIRONMENT_CLASS: i64 = 0;
const CLASS_VENDOR: i64 = 1;
const CLASS_MODEL: i64 = 2;
const MEASUREMENT_KEY: i64 = 0;
const MEASUREMENT_VALUES: i64 = 1;
const VALUES_DIGESTS: i64 = 2;
const VALUES_RAW: i64 = 4;
const VALUES_SERIAL_NUMBER: i64 = 8;
const VALUES_NAME: i64 = 11;
const MAX_DEPTH: usize = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn real() -> Option<Vec<u8>> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/fixtures/trustee/rvps/src/extractors/corim/unsigned-example-corim.cbor"
        );
        let bytes = std::fs::read(path).ok();
        if bytes.is_none() {
            assert!(
                !std::path::Path::new(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/../../../shared/fixtures"
                ))
                .is_dir(),
                "what this test reads is missing from a folder of fixtures that is there"
            );
            println!("SKIPPED: no CoRIM beside the checkout");
        }
        bytes
    }

    const NAME: &str = "ACME/RoadRunner/31fb5abf-023e-4992-aa4e-95f9c1503bfa/digests";

    #[test]
    fn real_corim_gives_upstreams_names() {
        let Some(bytes) = real() else { return };
        let values = extract(&bytes).unwrap();
        assert_eq!(values.keys().collect::<Vec<_>>(), [NAME]);
        assert_eq!(
            values[NAME],
            json!([
                "87428fc522803d31065e7bce3cf03fe475096631e5e07bbd7a0fde60c4cf25c7",
                "0263829989b6fd954f72baaf2fc64bc2e2f01d692d4de72986ea808f6e99813f",
                "a3a5e715f0cc574a73c3f9bebb6bc24f32ffd5b67b387244c2c909da779a1478",
            ])
        );
    }

    #[test]
    fn corim_in_the_tags_of_an_older_tool_is_read() {
        let Some(bytes) = real() else { return };
        let older = [&[0xd9, 0x01, 0xf4, 0xd9, 0x01, 0xf6][..], &bytes].concat();
        assert_eq!(extract(&older), extract(&bytes));
        assert!(extract(&[&[0xd9, 0x01, 0xf4][..], &older].concat()).is_err());
    }

    #[test]
    fn cut_or_longer_corim_is_refused() {
        let Some(bytes) = real() else { return };
        for length in 0..bytes.len() {
            assert!(extract(&bytes[..length]).is_err(), "{length}");
        }
        assert!(extract(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn no_flipped_byte_panics_or_forges_another_number_of_values() {
        let Some(bytes) = real() else { return };
        for at in 0..bytes.len() {
            for flip in [1, 0x20, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                if let Ok(values) = extract(&changed) {
                    assert!(values.len() <= 3, "byte {at}");
                }
            }
        }
    }

    /// A `CoRIM` around the values of one measurement.
    fn corim(values: &[u8]) -> Vec<u8> {
        let comid = [
            &[0xa1, 0x04, 0xa1, 0x00, 0x81, 0x82][..],
            &[0xa1, 0x00, 0xa2, 0x01, 0x61, b'v', 0x02, 0x61, b'm'],
            &[0x81, 0xa2, 0x00, 0x07, 0x01],
            values,
        ]
        .concat();
        let length = u16::try_from(comid.len()).unwrap().to_be_bytes();
        let head = [
            0xd9, 0x01, 0xf5, 0xa1, 0x01, 0x81, 0xd9, 0x01, 0xfa, 0x59, length[0], length[1],
        ];
        [&head[..], &comid].concat()
    }

    #[test]
    fn names_are_joined_and_raw_bytes_are_read() {
        let values = extract(&corim(&[
            0xa4, 0x02, 0x82, 0x82, 0x01, 0x41, 0xaa, 0x82, 0x63, b's', b'h', b'a', 0x41,
            0xbb, // digests
            0x04, 0xd9, 0x02, 0x30, 0x42, 0x01, 0x02, // raw value
            0x08, 0x61, b's', 0x0b, 0x61, b'n', // serial number, name
        ]))
        .unwrap();
        assert_eq!(
            values.into_iter().collect::<Vec<_>>(),
            [
                ("v/m/claim7/n/s/digests".to_owned(), json!(["aa", "bb"])),
                ("v/m/claim7/n/s/raw_bytes".to_owned(), json!("0102")),
            ]
        );
    }

    #[test]
    fn corim_of_another_form_is_refused() {
        let deep = [vec![0xa1, 0x09], vec![0x81; 10_000], vec![0x00]].concat();
        let tags = [vec![0xa1, 0x09], vec![0xc1; 10_000], vec![0x00]].concat();
        for (name, values) in [
            ("a key twice", &[0xa2, 0x02, 0x80, 0x02, 0x80][..]),
            ("an array of indefinite length", &[0xa1, 0x02, 0x9f, 0xff]),
            ("a map of indefinite length", &[0xbf, 0xff]),
            (
                "bytes of indefinite length",
                &[0xa1, 0x02, 0x81, 0x82, 0x01, 0x5f, 0x41, 0xaa, 0xff],
            ),
            (
                "an array of 2^64 - 1",
                &[
                    0xa1, 0x02, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                ],
            ),
            (
                "bytes of 2^64 - 1",
                &[
                    0xa1, 0x09, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                ],
            ),
            (
                "a map of 2^64 - 1",
                &[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            ),
            (
                "a digest of three",
                &[0xa1, 0x02, 0x81, 0x83, 0x01, 0x41, 0xaa, 0x00],
            ),
            (
                "a digest that is text",
                &[0xa1, 0x02, 0x81, 0x82, 0x01, 0x61, b'a'],
            ),
            ("a name that is bytes", &[0xa1, 0x0b, 0x41, b'a']),
            ("a name that is no UTF-8", &[0xa1, 0x0b, 0x61, 0xff]),
            ("nesting", &deep),
            ("nested tags", &tags),
            ("nothing", &[]),
        ] {
            assert!(
                matches!(
                    extract(&corim(values)),
                    Err(ReferenceValueError::Malformed(_))
                ),
                "{name}"
            );
        }
        let signed = [0xd2, 0x84, 0x40, 0xa0, 0x40, 0x40];
        let error = extract(&signed).unwrap_err().to_string();
        assert!(error.contains("a signed CoRIM"), "{error}");
    }
}
