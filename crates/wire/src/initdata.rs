//! Init-data: the configuration that a confidential VM measures at launch.
//!
//! A TOML document with `version`, `algorithm` and a `[data]` table of strings. Its digest is over the exact
//! bytes, so the text is kept as it came and never printed again. On a pod it travels as base64 of gzip in the
//! annotation `io.katacontainers.config.hypervisor.cc_init_data`, into a virtual machine on a disk of its own.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use serde::Deserialize;

use crate::b64;
use crate::bounded_toml;
use crate::canonical::HashAlgorithm;

/// The annotation that carries init-data on a pod.
pub const ANNOTATION: &str = "io.katacontainers.config.hypervisor.cc_init_data";

/// The largest document accepted: 1 MiB, sixteen times the largest real one known.
pub const MAX_DOCUMENT: usize = 1024 * 1024;

/// The longest annotation accepted: Kubernetes allows 256 KiB for all of a pod's annotations together.
pub const MAX_ANNOTATION: usize = 256 * 1024;

/// A parsed init-data document that remembers its exact bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Initdata {
    text: String,
    algorithm: HashAlgorithm,
    data: BTreeMap<String, String>,
}

impl Initdata {
    /// Parses a document.
    ///
    /// # Errors
    /// [`InitdataError`] when it is too long, not TOML, of another version, or names another hash.
    pub fn parse(text: &str) -> Result<Self, InitdataError> {
        #[derive(Deserialize)]
        struct Document {
            version: String,
            algorithm: String,
            #[serde(default)]
            data: BTreeMap<String, String>,
        }
        if text.len() > MAX_DOCUMENT {
            return Err(InitdataError::TooLong {
                limit: MAX_DOCUMENT,
            });
        }
        let document: Document =
            bounded_toml::from_str(text).map_err(|error| InitdataError::Toml(error.to_string()))?;
        if document.version != "0.1.0" {
            return Err(InitdataError::Version(
                document.version.chars().take(32).collect(),
            ));
        }
        let algorithm = document
            .algorithm
            .parse()
            .map_err(InitdataError::Algorithm)?;
        Ok(Self {
            text: text.to_owned(),
            algorithm,
            data: document.data,
        })
    }

    /// Parses what a pod's annotation holds: standard base64 of gzip of the document.
    ///
    /// # Errors
    /// As [`Self::parse`], and when the base64 or gzip is broken, or expands beyond [`MAX_DOCUMENT`].
    pub fn from_annotation(annotation: &str) -> Result<Self, InitdataError> {
        Self::parse(&text_of_annotation(annotation)?)
    }

    /// Parses the content of a file that holds a document, its annotation, its gzip or an image of its disk.
    ///
    /// # Errors
    /// As [`Self::parse`] and [`Self::from_annotation`].
    pub fn from_file(bytes: &[u8]) -> Result<Self, InitdataError> {
        Self::parse(&text_of_file(bytes)?)
    }

    /// The disk that hands a document to a virtual machine, as the Kata runtime makes it.
    pub fn to_disk(&self) -> Vec<u8> {
        let compressed = self.packed();
        let mut disk = MAGIC.to_vec();
        let length = u64::try_from(compressed.len()).expect("a length of memory fits");
        disk.extend_from_slice(&length.to_le_bytes());
        disk.extend_from_slice(&compressed);
        disk.resize(disk.len().next_multiple_of(SECTOR), 0);
        disk
    }

    /// Prints the form a pod's annotation holds.
    pub fn to_annotation(&self) -> String {
        b64::std_encode(self.packed())
    }

    fn packed(&self) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        let compressed = gzip
            .write_all(self.text.as_bytes())
            .and_then(|()| gzip.finish());
        compressed.expect("writing to memory does not fail")
    }

    /// The document, byte for byte.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The hash that the document names.
    pub fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// The digest over the exact bytes: 32, 48 or 64 of them.
    pub fn digest(&self) -> Vec<u8> {
        self.algorithm.digest(self.text.as_bytes())
    }

    /// The files in the `[data]` table, such as `aa.toml`, `cdh.toml` and `policy.rego`.
    pub fn data(&self) -> &BTreeMap<String, String> {
        &self.data
    }
}

/// Reads the text that [`Initdata::from_file`] parses, for one that does not parse.
///
/// # Errors
/// [`InitdataError`], when the form that carries it is broken.
pub fn text_of_file(bytes: &[u8]) -> Result<String, InitdataError> {
    if let Some(text) = text_on_disk(bytes)? {
        return Ok(text);
    }
    if bytes.starts_with(GZIP) {
        return unpacked(bytes);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| not_utf8())?;
    match text.trim_start().starts_with(GZIP_IN_BASE64) {
        true => text_of_annotation(text.trim_start()),
        false => Ok(text.to_owned()),
    }
}

fn text_of_annotation(annotation: &str) -> Result<String, InitdataError> {
    if annotation.len() > MAX_ANNOTATION {
        return Err(InitdataError::TooLong {
            limit: MAX_ANNOTATION,
        });
    }
    let compressed = b64::std_decode(annotation.trim_end())
        .map_err(|error| InitdataError::Base64(error.to_string()))?;
    unpacked(compressed.as_slice())
}

/// Reads the text on a disk that hands init-data to a virtual machine; `None` when the disk is another one.
///
/// The form is `initdata`, the length of what follows (64 bits, little-endian), a gzip, and zeros to a whole sector. The
/// text is nobody's word until the hardware vouches for its digest.
///
/// # Errors
/// [`InitdataError`], when the disk begins as one for init-data and cannot be read as one.
pub fn text_on_disk(mut disk: impl Read) -> Result<Option<String>, InitdataError> {
    let mut head = [0; 16];
    let mut filled = 0;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match disk.read(rest) {
            Ok(0) => break,
            Ok(length) => filled = filled.saturating_add(length),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(InitdataError::Disk(error.to_string())),
        }
    }
    if !head.starts_with(MAGIC) {
        return Ok(None);
    }
    let length = head.last_chunk().map(|length| u64::from_le_bytes(*length));
    let Some(length) = length.filter(|_| filled == head.len()) else {
        return Err(InitdataError::Disk("it ends within its head".to_owned()));
    };
    if length > MAX_PACKED {
        return Err(InitdataError::Disk(format!(
            "its head says {length} bytes, and at most {MAX_PACKED} are read"
        )));
    }
    let mut compressed = Vec::new();
    disk.take(length)
        .read_to_end(&mut compressed)
        .map_err(|error| InitdataError::Disk(error.to_string()))?;
    if u64::try_from(compressed.len()) != Ok(length) {
        return Err(InitdataError::Disk(format!(
            "its head says {length} bytes, and {} are there",
            compressed.len()
        )));
    }
    unpacked(&compressed).map(Some)
}

fn unpacked(gzip: &[u8]) -> Result<String, InitdataError> {
    let mut text = Vec::new();
    let limit = u64::try_from(MAX_DOCUMENT).expect("1 MiB fits") + 1;
    flate2::read::GzDecoder::new(gzip)
        .take(limit)
        .read_to_end(&mut text)
        .map_err(|error| InitdataError::Gzip(error.to_string()))?;
    if text.len() > MAX_DOCUMENT {
        return Err(InitdataError::TooLong {
            limit: MAX_DOCUMENT,
        });
    }
    String::from_utf8(text).map_err(|_| not_utf8())
}

fn not_utf8() -> InitdataError {
    InitdataError::Toml("the document is not UTF-8".to_owned())
}

const MAGIC: &[u8] = b"initdata";
const SECTOR: usize = 512;
/// No document of [`MAX_DOCUMENT`] packs to more.
const MAX_PACKED: u64 = 2 * 1024 * 1024;
const GZIP: &[u8] = &[0x1f, 0x8b];
const GZIP_IN_BASE64: &str = "H4sI";

/// What the platforms hold when they were launched with an init-data of this digest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Registers {
    /// SNP's `HOST_DATA`: 32 bytes, a longer digest cut.
    pub snp_host_data: Vec<u8>,
    /// TDX's `MRCONFIGID`: 48 bytes, a shorter digest padded with zeros, a longer one cut.
    pub tdx_mrconfigid: Vec<u8>,
    /// CCA's realm personalization value: 64 bytes, a shorter digest padded with zeros.
    pub cca_rpv: Vec<u8>,
    /// PCR 8 of a vTPM's SHA-256 bank, extended once from zeros; only a digest of 32 bytes can be.
    pub vtpm_pcr8: Option<Vec<u8>>,
}

/// Computes the registers for a digest.
pub fn registers(digest: &[u8]) -> Registers {
    let resized = |length: usize| {
        let mut register = digest.to_vec();
        register.resize(length, 0);
        register
    };
    Registers {
        snp_host_data: resized(32),
        tdx_mrconfigid: resized(48),
        cca_rpv: resized(64),
        vtpm_pcr8: (digest.len() == 32)
            .then(|| HashAlgorithm::Sha256.digest(&[&[0; 32], digest].concat())),
    }
}

/// Writes a document from its files. The text is stable: the same files give the same digest.
///
/// # Errors
/// [`InitdataError`] when the result would not parse, as when it is too long.
pub fn compose(
    algorithm: HashAlgorithm,
    files: &BTreeMap<String, String>,
) -> Result<Initdata, InitdataError> {
    let mut text = format!(
        "version = \"0.1.0\"\nalgorithm = \"{}\"\n\n[data]\n",
        algorithm.as_str()
    );
    for (name, content) in files {
        let key = toml::Value::String(name.clone());
        // A literal block keeps the file readable; one that itself holds ''' or control characters is quoted instead.
        let plain = !content.contains("'''")
            && content
                .chars()
                .all(|c| c == '\n' || c == '\t' || !c.is_control());
        if plain {
            text.push_str(&format!("{key} = '''\n{content}'''\n\n"));
        } else {
            text.push_str(&format!(
                "{key} = {}\n\n",
                toml::Value::String(content.clone())
            ));
        }
    }
    Initdata::parse(&text)
}

/// Why a document is no init-data.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InitdataError {
    /// The hash is unknown.
    #[error("init-data: {0}")]
    Algorithm(crate::canonical::UnknownHash),
    /// The annotation is not standard base64 with padding.
    #[error("init-data annotation is not standard base64 with its padding: {0}")]
    Base64(String),
    /// The disk is one for init-data, and it is cut or cannot be read.
    #[error("init-data disk: {0}")]
    Disk(String),
    /// What was packed does not unpack.
    #[error("init-data does not unpack as gzip: {0}")]
    Gzip(String),
    /// Not the expected TOML. Only the parser's own words are kept, never the document's.
    #[error("init-data is not the expected TOML: {0}")]
    Toml(String),
    /// Too long.
    #[error("init-data is larger than the {limit} bytes allowed")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// Another version.
    #[error("init-data has version {0:?}; only \"0.1.0\" is known")]
    Version(String),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"a\" = 'b'\n";

    #[test]
    fn upstream_documents_and_annotations_have_the_expected_digests() {
        let Some(expected) = crate::fixtures::json("guest/initdata/expected.json") else {
            return;
        };
        for (name, want) in expected.as_object().unwrap() {
            let read = |ext| {
                String::from_utf8(
                    crate::fixtures::read(&format!("guest/initdata/{name}.{ext}")).unwrap(),
                )
                .unwrap()
            };
            let annotation = read("annotation");
            if want["padding_missing"] != 0 {
                assert!(
                    matches!(
                        Initdata::from_annotation(&annotation),
                        Err(InitdataError::Base64(_))
                    ),
                    "{name}"
                );
                continue;
            }
            let parsed = Initdata::from_annotation(&annotation).unwrap();
            assert_eq!(parsed.as_str(), read("toml"), "{name}");
            assert_eq!(hex::encode(parsed.digest()), want["digest_hex"], "{name}");
            assert_eq!(parsed.algorithm().as_str(), want["algorithm"], "{name}");
            assert_eq!(
                serde_json::to_value(parsed.data().keys().collect::<Vec<_>>()).unwrap(),
                want["data_keys"],
                "{name}"
            );
            assert_eq!(
                Initdata::from_annotation(&parsed.to_annotation()).unwrap(),
                parsed,
                "{name}"
            );
        }
    }

    #[test]
    fn registers_hold_what_upstreams_binding_makes_of_the_digests() {
        let (Some(expected), Some(digests)) = (
            crate::fixtures::json("guest/vectors/initdata-binding.json"),
            crate::fixtures::json("guest/initdata/expected.json"),
        ) else {
            return;
        };
        for (name, want) in expected["values"].as_object().unwrap() {
            let digest = hex::decode(digests[name]["digest_hex"].as_str().unwrap()).unwrap();
            let made = registers(&digest);
            assert_eq!(
                hex::encode(&made.tdx_mrconfigid),
                want["tdx_mrconfigid_48_hex"],
                "{name}"
            );
            assert_eq!(
                hex::encode(&made.snp_host_data),
                want["snp_hostdata_32_hex"],
                "{name}"
            );
            assert_eq!(hex::encode(&made.cca_rpv), want["cca_rpv_64_hex"], "{name}");
            assert_eq!(
                made.vtpm_pcr8.map(hex::encode).as_deref(),
                want["az_vtpm_pcr8_sha256_hex"].as_str(),
                "{name}"
            );
        }
    }

    #[test]
    fn upstream_document_of_real_size_parses() {
        let path = "trustee/integration-tests/tests/init-data-with-policy.toml";
        let Some(text) = crate::fixtures::read(path) else {
            return;
        };
        let parsed = Initdata::parse(std::str::from_utf8(&text).unwrap()).unwrap();
        assert_eq!(
            hex::encode(parsed.digest()),
            "0deccded0d87ec44702c7330fac3eb936b68dcca5c9f6b5df1fb3480c0b525ac"
        );
    }

    #[test]
    fn one_changed_byte_changes_the_digest() {
        let one = Initdata::parse(DOCUMENT).unwrap();
        let other = Initdata::parse(&format!("{DOCUMENT}\n")).unwrap();
        assert_eq!(one.data(), other.data());
        assert_ne!(one.digest(), other.digest());
    }

    #[test]
    fn gzip_bomb_stops_at_the_limit() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![b' '; 64 * MAX_DOCUMENT]).unwrap();
        let bomb = b64::std_encode(gzip.finish().unwrap());
        assert!(bomb.len() < MAX_ANNOTATION);
        assert_eq!(
            Initdata::from_annotation(&bomb),
            Err(InitdataError::TooLong {
                limit: MAX_DOCUMENT
            })
        );
    }

    #[test]
    fn upstreams_disk_has_its_text() {
        let Some(disk) = crate::fixtures::read("guest/kata/src/agent/testdata/initdata.img") else {
            return;
        };
        assert_eq!(
            text_on_disk(disk.as_slice()),
            Ok(Some("some content".to_owned()))
        );
        // Cut within the head and within the gzip, which has 36 bytes. What is cut before the magic is another disk.
        for length in 0..52 {
            let outcome = text_on_disk(&disk[..length]);
            match length {
                0..8 => assert_eq!(outcome, Ok(None)),
                _ => assert!(matches!(outcome, Err(InitdataError::Disk(_))), "{length}"),
            }
        }
        assert!(text_on_disk(&disk[..52]).is_ok());
    }

    #[test]
    fn every_form_of_a_file_has_the_same_document() {
        let document = Initdata::parse(DOCUMENT).unwrap();
        let disk = document.to_disk();
        assert_eq!(disk.len() % SECTOR, 0);
        let annotation = document.to_annotation();
        for form in [
            DOCUMENT.as_bytes(),
            &disk,
            annotation.as_bytes(),
            format!("  {annotation}\n").as_bytes(),
            &document.packed(),
        ] {
            assert_eq!(Initdata::from_file(form).as_ref(), Ok(&document));
        }
    }

    #[test]
    fn disk_that_claims_to_be_huge_allocates_nothing() {
        for length in [MAX_PACKED + 1, u64::MAX] {
            let disk = [MAGIC, &length.to_le_bytes()].concat();
            let error = text_on_disk(disk.as_slice()).unwrap_err().to_string();
            assert!(error.contains("at most"), "{error}");
        }
        let disk = [MAGIC, &MAX_PACKED.to_le_bytes()].concat();
        assert!(text_on_disk(disk.as_slice()).is_err());
    }

    #[test]
    fn iana_hash_name_is_refused_with_the_right_spelling() {
        let error = Initdata::parse(&DOCUMENT.replace("sha256", "sha-256")).unwrap_err();
        assert!(error.to_string().contains("use sha256"));
    }

    #[test]
    fn other_version_is_refused() {
        assert_eq!(
            Initdata::parse(&DOCUMENT.replace("0.1.0", "0.2.0")),
            Err(InitdataError::Version("0.2.0".to_owned()))
        );
    }

    #[test]
    fn truncated_gzip_is_refused() {
        let annotation = Initdata::parse(DOCUMENT).unwrap().to_annotation();
        let compressed = b64::std_decode(&annotation).unwrap();
        let cut = b64::std_encode(&compressed[..compressed.len() - 9]);
        assert!(matches!(
            Initdata::from_annotation(&cut),
            Err(InitdataError::Gzip(_))
        ));
    }

    #[test]
    fn toml_error_does_not_repeat_the_document() {
        let error = Initdata::parse(
            "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\nsecret = hunter2\n",
        )
        .unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn composed_document_keeps_its_files() {
        let files = BTreeMap::from([
            (
                "aa.toml".to_owned(),
                "[token_configs.kbs]\nurl = \"https://broker:8080\"\n".to_owned(),
            ),
            (
                "odd.txt".to_owned(),
                "three ''' quotes\r\nand a \u{1} control".to_owned(),
            ),
        ]);
        let composed = compose(HashAlgorithm::Sha384, &files).unwrap();
        assert_eq!(composed.data(), &files);
        assert_eq!(
            compose(HashAlgorithm::Sha384, &files).unwrap().digest(),
            composed.digest()
        );
    }

    #[test]
    fn deep_document_does_not_overflow_the_stack() {
        let key = ["a"; 79].join(".");
        let open = format!("{key} = {{ ").repeat(78);
        let deep = format!("{open}{key} = 1{}", " }".repeat(78));
        let text = format!("version = \"0.1.0\"\nalgorithm = \"sha256\"\n{deep}\n");
        let error = Initdata::parse(&text).unwrap_err();
        assert!(
            matches!(&error, InitdataError::Toml(why) if why.contains("deeper")),
            "{error}"
        );
    }
}
