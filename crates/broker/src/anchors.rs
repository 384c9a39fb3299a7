//! Whom this broker trusts: the makers of the platforms, and whom its configuration names besides.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use strongroom_verifier::{AnchorError, RootId, TrustAnchors};

use crate::config::Config;
use crate::{BrokerError, key_file};

/// A development root, and the folder with what its owner made under it.
#[derive(Clone, Debug)]
pub(crate) struct DevelopmentRoot {
    pem: String,
    /// SHA-256 over its DER.
    pub(crate) id: RootId,
    /// Its collateral; there is no service for it.
    pub(crate) collateral: PathBuf,
}

impl DevelopmentRoot {
    /// Reads the one that a configuration names.
    pub(crate) fn read(config: &Config) -> Result<Option<Self>, BrokerError> {
        let Some(named) = &config.development.root else {
            return Ok(None);
        };
        let path = match named.is_dir() {
            true => named.join("root.pem"),
            false => named.clone(),
        };
        let pem = key_file::read_guarded(&path)?;
        // Who reads the keys is every machine to this broker.
        key_file::check_private(&path.with_file_name("keys.json"))?;
        let certificates = key_file::read_certificates(&path)?;
        let [certificate] = certificates.as_slice() else {
            return Err(BrokerError::Config {
                path,
                message: "a development root is one certificate".to_owned(),
            });
        };
        let mut id = [0; 32];
        id.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Ok(Some(Self {
            pem,
            id: RootId(id),
            collateral: path.with_file_name("collateral"),
        }))
    }
}

/// The anchors of a configuration.
pub(crate) fn trust_anchors(config: &Config) -> Result<TrustAnchors, BrokerError> {
    let mut anchors = TrustAnchors::vendors();
    for path in &config.anchors.tpm_roots {
        let pem = key_file::read_guarded(path)?;
        anchors = anchors.with_tpm_root(&pem).map_err(|e| bad(path, &e))?;
    }
    for path in &config.anchors.attestation_keys {
        let key = key_file::read_guarded_bytes(path)?;
        anchors = anchors
            .with_attestation_key(&key)
            .map_err(|e| bad(path, &e))?;
    }
    if let Some(root) = DevelopmentRoot::read(config)? {
        let named = config.development.root.as_deref();
        anchors = anchors
            .with_development_root(&root.pem)
            .map_err(|e| bad(named.unwrap_or_else(|| Path::new("")), &e))?;
    }
    Ok(anchors)
}

fn bad(path: &Path, error: &AnchorError) -> BrokerError {
    BrokerError::Config {
        path: path.to_owned(),
        message: error.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::{InitOptions, init};

    struct Folder {
        folder: tempfile::TempDir,
        config: Config,
    }

    fn folder() -> Folder {
        let folder = tempfile::tempdir().unwrap();
        let options = InitOptions::new("127.0.0.1:0".parse().unwrap());
        let summary = init(&folder.path().join("b"), options).unwrap();
        let config = Config::load(&summary.config).unwrap();
        Folder { folder, config }
    }

    impl Folder {
        fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
            let path = self.folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        }
    }

    fn certificate() -> (String, Vec<u8>) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), certificate.der().to_vec())
    }

    #[test]
    fn development_root_in_a_folder_or_a_file_is_not_found() {
        let mut it = folder();
        let (pem, der) = certificate();
        let path = it.write("root.pem", &pem);
        for named in [it.folder.path().to_owned(), path] {
            it.config.development.root = Some(named);
            let root = DevelopmentRoot::read(&it.config).unwrap().unwrap();
            let id = digest::digest(&digest::SHA256, &der);
            assert_eq!(root.id.0.as_slice(), id.as_ref());
            assert_eq!(root.collateral, it.folder.path().join("collateral"));
            trust_anchors(&it.config).unwrap();
        }
    }

    #[test]
    fn development_root_that_is_not_one_certificate_is_trusted() {
        let mut it = folder();
        let (pem, _) = certificate();
        for text in ["", "no certificate", &format!("{pem}{pem}")] {
            it.config.development.root = Some(it.write("root.pem", text));
            assert!(trust_anchors(&it.config).is_err(), "{text}");
        }
    }

    #[test]
    fn development_root_that_is_named_and_absent_is_passed_over() {
        let mut it = folder();
        it.config.development.root = Some(it.folder.path().join("none"));
        assert!(trust_anchors(&it.config).is_err());
    }

    #[test]
    fn development_root_whose_keys_others_may_read_is_trusted() {
        use std::os::unix::fs::PermissionsExt as _;
        let mut it = folder();
        it.config.development.root = Some(it.write("root.pem", certificate().0));
        let keys = it.write("keys.json", "{}");
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = trust_anchors(&it.config);
        assert!(matches!(refused, Err(BrokerError::LooseMode { .. })));
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
        trust_anchors(&it.config).unwrap();
    }

    #[test]
    fn collateral_of_others_or_without_authorities_is_taken() {
        use std::os::unix::fs::PermissionsExt as _;
        let mut it = folder();
        let open = |config: &Config| crate::collateral::Collaterals::open(config, Arc::new(|| 0));
        open(&it.config).unwrap();
        let place = it.config.collateral_folder();
        fs::create_dir(&place).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o775)).unwrap();
        let refused = open(&it.config).err();
        assert!(matches!(refused, Some(BrokerError::OpenFolder { .. })));
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
        open(&it.config).unwrap();
        for content in [None, Some("no certificate")] {
            let path = it.folder.path().join("authorities.pem");
            if let Some(content) = content {
                fs::write(&path, content).unwrap();
            }
            it.config.collateral.certificate = Some(path);
            let refused = open(&it.config).err().unwrap().to_string();
            assert!(refused.contains("authorities.pem"), "{refused}");
        }
    }

    #[test]
    fn attestation_key_is_read_in_one_form_only() {
        use rcgen::PublicKeyData as _;
        let mut it = folder();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        it.config.anchors.attestation_keys = vec![
            it.write("ak.der", key.subject_public_key_info()),
            it.write("ak.pem", key.public_key_pem()),
        ];
        trust_anchors(&it.config).unwrap();
        it.config.anchors.attestation_keys = vec![it.write("ak.der", "nonsense")];
        let said = trust_anchors(&it.config).unwrap_err().to_string();
        assert!(said.contains("ak.der"), "{said}");
    }

    #[test]
    fn root_that_others_may_write_is_trusted() {
        use std::os::unix::fs::PermissionsExt as _;
        let mut it = folder();
        let path = it.write("tpm.pem", certificate().0);
        it.config.anchors.tpm_roots = vec![path.clone()];
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        trust_anchors(&it.config).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        let refused = trust_anchors(&it.config);
        assert!(matches!(refused, Err(BrokerError::Writable { .. })));
    }
}
