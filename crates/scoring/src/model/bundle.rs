//! A bundle: the two files and the three that may be there, from a folder or a tar, checked against each other and given a digest.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value};
use tar::{Archive, Builder, EntryType, Header};
use zeroize::Zeroizing;

use super::onnx::{Source, fuse};
use super::{ModelError, Network, Preprocessing, Scorer, UnknownColumns, WEIGHTS_BESIDE};
use crate::profile::Profile;
use crate::shown;

/// A model with its preprocessing, checked and ready to score.
pub struct Bundle {
    files: Files,
    network: Network,
    preprocessing: Preprocessing,
    metrics: Option<Map<String, Value>>,
    profile: Option<Profile>,
    digest: String,
}

impl Bundle {
    /// The model that ships, from `models/fraud`.
    pub fn built_in() -> Self {
        Self::from_files(Files {
            model: Zeroizing::new(BUILT_IN_MODEL.to_vec()),
            beside: None,
            preprocessing: BUILT_IN_PREPROCESSING.to_vec(),
            metrics: Some(BUILT_IN_METRICS.to_vec()),
            profile: Some(BUILT_IN_PROFILE.to_vec()),
        })
        .expect("a test loads the files that were compiled in")
    }

    /// Reads `model.onnx`, `preprocessing.json` and, when they are there, `metrics.json` and
    /// `profile.json` of a folder, and `model.onnx.data` when the model has weights in it. Other files of the folder are
    /// not part of the bundle.
    ///
    /// # Errors
    /// When a file is missing, too long, or says what cannot be.
    pub fn from_dir(folder: &Path) -> Result<Self, ModelError> {
        Self::from_files(Files {
            model: Zeroizing::new(
                read(folder, MODEL, Network::MAX_BYTES)?.ok_or(ModelError::Missing(MODEL))?,
            ),
            beside: read(folder, WEIGHTS_BESIDE, Network::MAX_BYTES)?.map(Zeroizing::new),
            preprocessing: read(folder, PREPROCESSING, Preprocessing::MAX_BYTES)?
                .ok_or(ModelError::Missing(PREPROCESSING))?,
            metrics: read(folder, METRICS, MAX_METRICS)?,
            profile: read(folder, PROFILE, Profile::MAX_BYTES)?,
        })
    }

    /// Reads the tar form. It holds the files by their bare names and nothing else.
    ///
    /// # Errors
    /// As [`Bundle::from_dir`], and for anything in the archive that is not one of the files.
    pub fn from_tar(tar: &[u8]) -> Result<Self, ModelError> {
        if tar.len() > MAX_TAR {
            return Err(ModelError::TooLarge {
                what: "the bundle",
                limit: MAX_TAR,
            });
        }
        // The reader's own words quote the bytes, which may be somebody's rows.
        let malformed = |_: std::io::Error| ModelError::Tar("it is not a tar archive".to_owned());
        let (mut model, mut beside, mut preprocessing) = (None, None, None);
        let (mut metrics, mut profile) = (None, None);
        let mut archive = Archive::new(tar);
        // Raw: an entry that changes the meaning of the next one is an unexpected entry.
        for entry in archive.entries().map_err(malformed)?.raw(true) {
            let entry = entry.map_err(malformed)?;
            let name = entry.path_bytes().into_owned();
            let (file, limit) = match &name[..] {
                name if name == MODEL.as_bytes() => (&mut model, Network::MAX_BYTES),
                name if name == WEIGHTS_BESIDE.as_bytes() => (&mut beside, Network::MAX_BYTES),
                name if name == PREPROCESSING.as_bytes() => {
                    (&mut preprocessing, Preprocessing::MAX_BYTES)
                }
                name if name == METRICS.as_bytes() => (&mut metrics, MAX_METRICS),
                name if name == PROFILE.as_bytes() => (&mut profile, Profile::MAX_BYTES),
                other => {
                    let name = shown(&String::from_utf8_lossy(other));
                    return Err(ModelError::Tar(format!("\"{name}\" has no place in it")));
                }
            };
            let name = shown(&String::from_utf8_lossy(&name));
            if entry.header().entry_type() != EntryType::Regular {
                return Err(ModelError::Tar(format!("\"{name}\" is not a regular file")));
            }
            let size = entry.size();
            if size > limit as u64 {
                return Err(ModelError::Tar(format!(
                    "\"{name}\" is longer than {limit} bytes"
                )));
            }
            let mut content = Zeroizing::new(Vec::with_capacity(tar.len().min(limit)));
            entry
                .take(limit as u64)
                .read_to_end(&mut content)
                .map_err(malformed)?;
            if content.len() as u64 != size {
                return Err(ModelError::Tar(format!("\"{name}\" is cut short")));
            }
            if file.replace(content).is_some() {
                return Err(ModelError::Tar(format!("\"{name}\" is in it twice")));
            }
        }
        Self::from_files(Files {
            model: model.ok_or(ModelError::Missing(MODEL))?,
            beside,
            preprocessing: preprocessing
                .ok_or(ModelError::Missing(PREPROCESSING))?
                .to_vec(),
            metrics: metrics.map(|metrics| metrics.to_vec()),
            profile: profile.map(|profile| profile.to_vec()),
        })
    }

    /// The tar form of a folder's bundle, once its files have been checked.
    ///
    /// # Errors
    /// As [`Bundle::from_dir`].
    pub fn pack(folder: &Path) -> Result<Zeroizing<Vec<u8>>, ModelError> {
        Ok(Self::from_dir(folder)?.to_tar())
    }

    /// The tar form. Equal bundles give equal bytes.
    pub fn to_tar(&self) -> Zeroizing<Vec<u8>> {
        self.files.to_tar()
    }

    /// The digest of the tar form, as `sha256:` and hexadecimal digits: it names the weights, what
    /// happens to a row before them, and the threshold.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Makes what one thread needs to score rows.
    ///
    /// # Errors
    /// When the engine does not give its plan a state.
    pub fn scorer(&self) -> Result<Scorer<'_>, ModelError> {
        Scorer::new(&self.preprocessing, &self.network)
    }

    /// As [`Bundle::scorer`], by tract whatever would be chosen: to compare with.
    ///
    /// # Errors
    /// As [`Bundle::scorer`].
    pub fn general_scorer(&self) -> Result<Scorer<'_>, ModelError> {
        Scorer::general(&self.preprocessing, &self.network)
    }

    /// As [`Bundle::scorer`], by the fused kernel on a path, whatever would be chosen: to compare with.
    ///
    /// # Errors
    /// When the kernel does not compute such networks, or the processor has no such path.
    pub fn fused_scorer(&self, path: strongroom_kernel::Path) -> Result<Scorer<'_>, ModelError> {
        let fused = fuse(self.files.source(), &self.preprocessing, path)?;
        Ok(Scorer::fused(&self.preprocessing, Arc::new(fused)))
    }

    /// Says what becomes of columns of a data set that the bundle does not know. Its digest stays.
    pub fn set_unknown_columns(&mut self, unknown: UnknownColumns) {
        self.preprocessing.set_unknown_columns(unknown);
    }

    /// What happens to a row before the network.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// What the model's maker measured, unchecked.
    pub fn metrics(&self) -> Option<&Map<String, Value>> {
        self.metrics.as_ref()
    }

    /// The rows that the model was trained on, in numbers.
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    fn from_files(mut files: Files) -> Result<Self, ModelError> {
        let mut preprocessing = Preprocessing::parse(&files.preprocessing)?;
        let metrics = match &files.metrics {
            Some(json) => {
                Some(serde_json::from_slice(json).map_err(|e| ModelError::Metrics(e.to_string()))?)
            }
            None => None,
        };
        let profile = files
            .profile
            .as_deref()
            .map(|json| Profile::parse(json, preprocessing.columns()))
            .transpose()?;
        let network = Network::load(files.source(), &mut preprocessing)?;
        if !network.uses_beside() {
            files.beside = None;
        }
        let digest = format!("sha256:{}", hex::encode(digest(&SHA256, &files.to_tar())));
        Ok(Self {
            files,
            network,
            preprocessing,
            metrics,
            profile,
            digest,
        })
    }
}

const MODEL: &str = "model.onnx";
const PREPROCESSING: &str = "preprocessing.json";
const METRICS: &str = "metrics.json";
const PROFILE: &str = "profile.json";

const MAX_METRICS: usize = 1 << 20;
/// The files at their longest, and some blocks of tar.
const MAX_TAR: usize =
    Network::MAX_BYTES + Preprocessing::MAX_BYTES + MAX_METRICS + Profile::MAX_BYTES + (1 << 16);

const BUILT_IN_MODEL: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../models/fraud/model.onnx"
));
const BUILT_IN_PREPROCESSING: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../models/fraud/preprocessing.json"
));
const BUILT_IN_METRICS: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../models/fraud/metrics.json"
));
const BUILT_IN_PROFILE: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../models/fraud/profile.json"
));

/// The files as they are, for packing.
struct Files {
    model: Zeroizing<Vec<u8>>,
    /// Weights beside the model, if it has any there.
    beside: Option<Zeroizing<Vec<u8>>>,
    preprocessing: Vec<u8>,
    metrics: Option<Vec<u8>>,
    profile: Option<Vec<u8>>,
}

impl Files {
    fn source(&self) -> Source<'_> {
        Source {
            onnx: &self.model,
            beside: self.beside.as_ref().map(|beside| &beside[..]),
        }
    }

    fn to_tar(&self) -> Zeroizing<Vec<u8>> {
        let files: Vec<(&str, &[u8])> = [
            Some((MODEL, &self.model[..])),
            self.beside
                .as_ref()
                .map(|beside| (WEIGHTS_BESIDE, &beside[..])),
            Some((PREPROCESSING, &self.preprocessing[..])),
            self.metrics.as_deref().map(|metrics| (METRICS, metrics)),
            self.profile.as_deref().map(|profile| (PROFILE, profile)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let length: usize = files.iter().map(|(_, content)| content.len() + 1024).sum();
        // Of its final size from the start: growing would leave copies of the weights behind.
        let mut tar = Zeroizing::new(Vec::with_capacity(length + 1024));
        let mut builder = Builder::new(&mut *tar);
        for (name, content) in files {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            builder
                .append_data(&mut header, name, content)
                .expect("a Vec takes what it is given");
        }
        builder.finish().expect("a Vec takes what it is given");
        drop(builder);
        tar
    }
}

/// A file of a folder; `None` when there is none.
fn read(folder: &Path, name: &'static str, limit: usize) -> Result<Option<Vec<u8>>, ModelError> {
    let path = folder.join(name);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ModelError::Read { path, source }),
    };
    let mut content = Vec::new();
    match file
        .by_ref()
        .take(limit as u64 + 1)
        .read_to_end(&mut content)
    {
        Ok(length) if length > limit => Err(ModelError::TooLarge { what: name, limit }),
        Ok(_) => Ok(Some(content)),
        Err(source) => Err(ModelError::Read { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tract_onnx::pb::tensor_proto::DataLocation;
    use tract_onnx::pb::{ModelProto, StringStringEntryProto};

    use super::*;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/fraud");

    fn refusal(result: Result<Bundle, ModelError>) -> String {
        match result {
            Ok(_) => panic!("taken for a bundle"),
            Err(error) => error.to_string(),
        }
    }

    /// A tar of the given entries, made with nothing checked.
    fn tar(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    const GOOD: [(&str, EntryType, &[u8]); 2] = [
        (MODEL, EntryType::Regular, BUILT_IN_MODEL),
        (PREPROCESSING, EntryType::Regular, BUILT_IN_PREPROCESSING),
    ];

    fn with(more: (&str, EntryType, &[u8])) -> String {
        refusal(Bundle::from_tar(&tar(&[GOOD[0], GOOD[1], more])))
    }

    #[test]
    fn built_in_bundle_does_not_load() {
        let bundle = Bundle::built_in();
        assert!(bundle.digest().starts_with("sha256:"));
        assert_eq!(
            bundle.preprocessing().columns(),
            crate::generate::MODEL_FEATURES
        );
        assert!(bundle.metrics().unwrap().contains_key("roc_auc"));
    }

    #[test]
    fn forms_of_one_bundle_differ() {
        let built_in = Bundle::built_in();
        let packed = Bundle::pack(Path::new(FOLDER)).unwrap();
        assert_eq!(packed, built_in.to_tar());
        let unpacked = Bundle::from_tar(&packed).unwrap();
        assert_eq!(unpacked.digest(), built_in.digest());
        assert_eq!(
            built_in.digest(),
            format!("sha256:{}", hex::encode(digest(&SHA256, &packed)))
        );
    }

    #[test]
    fn digest_depends_on_how_the_tar_was_made() {
        let forward = Bundle::from_tar(&tar(&GOOD)).unwrap();
        let backward = Bundle::from_tar(&tar(&[GOOD[1], GOOD[0]])).unwrap();
        assert_eq!(forward.digest(), backward.digest());
    }

    #[test]
    fn digest_misses_the_threshold() {
        let text = std::str::from_utf8(BUILT_IN_PREPROCESSING).unwrap();
        let threshold = Bundle::built_in().preprocessing().threshold();
        let other = text.replace(&format!("\"threshold\": {threshold}"), "\"threshold\": 0.5");
        assert_ne!(text, other);
        let plain = Bundle::from_tar(&tar(&GOOD)).unwrap();
        let changed = (PREPROCESSING, EntryType::Regular, other.as_bytes());
        let changed = Bundle::from_tar(&tar(&[GOOD[0], changed])).unwrap();
        assert_ne!(plain.digest(), changed.digest());
    }

    #[test]
    fn tar_gives_a_path() {
        for name in [
            "./model.onnx",
            "../model.onnx",
            "/model.onnx",
            "a/model.onnx",
            "run.sh",
        ] {
            assert!(with((name, EntryType::Regular, b"")).contains("has no place in it"));
        }
    }

    #[test]
    fn tar_gives_a_link() {
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Directory,
            EntryType::Fifo,
        ] {
            assert!(with((METRICS, kind, b"")).contains("is not a regular file"));
        }
    }

    #[test]
    fn tar_renames_its_next_entry() {
        for kind in [
            EntryType::GNULongName,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
        ] {
            assert!(with(("././@LongLink", kind, b"model.onnx\0")).contains("has no place in it"));
            assert!(with((METRICS, kind, b"model.onnx\0")).contains("is not a regular file"));
        }
    }

    #[test]
    fn file_is_there_twice() {
        assert!(with(GOOD[0]).contains("is in it twice"));
    }

    #[test]
    fn file_is_missing() {
        assert_eq!(
            refusal(Bundle::from_tar(&tar(&GOOD[..1]))),
            "the bundle has no preprocessing.json; it holds model.onnx and preprocessing.json, which docs/model.md describes"
        );
        assert_eq!(
            refusal(Bundle::from_tar(&tar(&GOOD[1..]))),
            "the bundle has no model.onnx; it holds model.onnx and preprocessing.json, which docs/model.md describes"
        );
        assert_eq!(
            refusal(Bundle::from_tar(b"")),
            "the bundle has no model.onnx; it holds model.onnx and preprocessing.json, which docs/model.md describes"
        );
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(
            refusal(Bundle::from_dir(empty.path())),
            "the bundle has no model.onnx; it holds model.onnx and preprocessing.json, which docs/model.md describes"
        );
    }

    /// The shipped model, its first weight in the file beside it.
    fn split() -> (Vec<u8>, Vec<u8>) {
        let mut model = ModelProto::decode(BUILT_IN_MODEL).unwrap();
        let weight = &mut model.graph.as_mut().unwrap().initializer[0];
        let entry = StringStringEntryProto {
            key: "location".to_owned(),
            value: WEIGHTS_BESIDE.to_owned(),
        };
        weight.data_location = Some(DataLocation::External as i32);
        weight.external_data = vec![entry];
        let beside = std::mem::take(&mut weight.raw_data);
        (model.encode_to_vec(), beside)
    }

    #[test]
    fn weights_beside_the_model_are_not_packed() {
        let (model, beside) = split();
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name, content: &[u8]| std::fs::write(folder.path().join(name), content).unwrap();
        write(MODEL, &model);
        write(PREPROCESSING, BUILT_IN_PREPROCESSING);
        let error = refusal(Bundle::from_dir(folder.path()));
        assert!(error.contains("save_as_external_data=False"), "{error}");
        write(WEIGHTS_BESIDE, &beside);
        let whole = Bundle::from_dir(folder.path()).unwrap();
        let packed = Bundle::from_tar(&whole.to_tar()).unwrap();
        assert_eq!(packed.digest(), whole.digest());
        assert!(packed.fused_scorer(strongroom_kernel::Path::Scalar).is_ok());
        // Other weights are another model.
        write(WEIGHTS_BESIDE, &vec![0; beside.len()]);
        let other = Bundle::from_dir(folder.path()).unwrap();
        assert_ne!(other.digest(), whole.digest());
        write(WEIGHTS_BESIDE, &beside[1..]);
        let error = refusal(Bundle::from_dir(folder.path()));
        assert!(error.contains("lies beyond model.onnx.data"), "{error}");
        // A model that does not name the file does not have it.
        write(MODEL, BUILT_IN_MODEL);
        let plain = Bundle::from_dir(folder.path()).unwrap();
        assert_eq!(
            plain.digest(),
            Bundle::from_tar(&tar(&GOOD)).unwrap().digest()
        );
    }

    #[test]
    fn tar_is_cut() {
        let whole = tar(&GOOD);
        for length in (512..whole.len() - 2048).step_by(301) {
            refusal(Bundle::from_tar(&whole[..length]));
        }
    }

    #[test]
    fn entry_claims_to_be_huge() {
        let mut huge = tar(&GOOD);
        let mut header = Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(&huge[..512]);
        header.set_size(u64::MAX / 2);
        header.set_cksum();
        huge[..512].copy_from_slice(header.as_bytes());
        assert!(refusal(Bundle::from_tar(&huge)).contains("is longer than"));
    }

    #[test]
    fn tar_without_end() {
        let long = vec![0; MAX_TAR + 1];
        assert!(refusal(Bundle::from_tar(&long)).contains("the bundle is longer than"));
    }

    #[test]
    fn preprocessing_of_another_model() {
        let other = br#"{"format":1,"columns":["a"],"scaler":{"mean":[0],"scale":[1]},
            "threshold":0.5}"#;
        let other = (PREPROCESSING, EntryType::Regular, &other[..]);
        assert_eq!(
            refusal(Bundle::from_tar(&tar(&[GOOD[0], other]))),
            "model.onnx takes 5 columns, preprocessing.json names 1"
        );
    }

    #[test]
    fn profile_of_another_model_or_of_other_rows() {
        let profile = |json: &[u8]| with((PROFILE, EntryType::Regular, json));
        let other = br#"{"format":1,"rows":1,"columns":[]}"#;
        assert!(profile(other).contains("profile.json: its columns are not those"));
        let whole = Bundle::built_in();
        let without = Bundle::from_tar(&tar(&GOOD)).unwrap();
        assert!(without.profile().is_none());
        let metrics = (METRICS, EntryType::Regular, BUILT_IN_METRICS);
        let own = (PROFILE, EntryType::Regular, BUILT_IN_PROFILE);
        let same = Bundle::from_tar(&tar(&[own, GOOD[0], GOOD[1], metrics])).unwrap();
        assert_eq!(same.digest(), whole.digest());
        let less = Bundle::from_tar(&tar(&[GOOD[0], GOOD[1], metrics])).unwrap();
        assert_ne!(less.digest(), whole.digest());
    }

    #[test]
    fn profile_that_ships_does_not_come_from_the_rows_that_trained_the_model() {
        use crate::generate::{Columns, Generator};
        let bundle = Bundle::built_in();
        let trained = &bundle.metrics().unwrap()["train"];
        let generator = Generator {
            rows: trained["rows"].as_u64().unwrap(),
            seed: trained["seed"].as_u64().unwrap(),
            label: false,
            columns: Columns::Model,
        };
        let mut rows = generator.into_reader();
        let builder = crate::profile::ProfileBuilder::new(bundle.preprocessing(), None);
        let read = crate::batch::profile(&mut rows, &bundle, builder, "train.csv", &mut |_| {});
        let statistics = read.unwrap().finish();
        let json = statistics.to_profile().unwrap().to_json();
        assert!(
            json == BUILT_IN_PROFILE,
            "remake it as models/fraud/README.md says"
        );
        // The scaler was fitted to the same rows by other code.
        for (at, column) in bundle.profile().unwrap().columns().iter().enumerate() {
            let preprocessing = bundle.preprocessing();
            assert!(preprocessing.standardise(at, column.mean).abs() < 1e-6);
            let deviation = preprocessing.standardise(at, column.mean + column.std);
            assert!((deviation - 1.0).abs() < 1e-6, "{deviation}");
        }
    }

    #[test]
    fn metrics_are_not_an_object() {
        assert!(with((METRICS, EntryType::Regular, b"[1]")).contains("metrics.json: "));
    }
}
