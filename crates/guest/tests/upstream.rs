//! Upstream's files, all of them: each is read by a test, or there is a reason why it does not apply. And those that no
//! other test reads.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use strongroom_testkit::fixtures::{fixture, workspace_root};
use strongroom_wire::image::simple_signing::Payload;
use strongroom_wire::openpgp::{Keyring, OpenPgpError, Sha1};

const SIMPLE_SIGNING: &str = "guest/guest-components/image-rs/test_data/simple-signing-scheme";

/// What becomes of a file.
enum Row {
    /// A test reads it: the source has these words.
    Read(&'static str, &'static str),
    /// It does not apply.
    Not(&'static str),
}

use Row::{Not, Read};

/// By the end of the path, or by a folder in it; the first that fits counts.
const FILES: &[(&str, Row)] = &[
    ("MANIFEST.md", Not("it describes the others")),
    ("/LICENSE.", Not("a licence")),
    (
        "vectors/registry-auth.json",
        Read(
            "crates/wire/src/image/credentials.rs",
            "vectors/registry-auth.json",
        ),
    ),
    (
        "vectors/jwe-response.json",
        Read("crates/wire/src/jwe.rs", "vectors/jwe-response.json"),
    ),
    (
        "vectors/ocicrypt-unwrap.json",
        Read(
            "crates/wire/src/image/ocicrypt.rs",
            "vectors/ocicrypt-unwrap.json",
        ),
    ),
    (
        "vectors/runtime-data-jcs.json",
        Read(
            "crates/wire/src/canonical.rs",
            "vectors/runtime-data-jcs.json",
        ),
    ),
    (
        "vectors/aael.json",
        Read("crates/attester/src/event_log.rs", "vectors/aael.json"),
    ),
    (
        "vectors/initdata-binding.json",
        Read(
            "crates/wire/src/initdata.rs",
            "vectors/initdata-binding.json",
        ),
    ),
    (
        "vectors/resource-uri.json",
        Read("crates/wire/src/resource.rs", "vectors/resource-uri.json"),
    ),
    (
        "/sealed-secrets/",
        Read("crates/wire/src/sealed_secret.rs", "guest/sealed-secrets/"),
    ),
    (
        "testdata/initdata.img",
        Read("crates/wire/src/initdata.rs", "initdata.img"),
    ),
    (
        "openapi/api.json",
        Read("crates/guest/tests/interfaces.rs", "openapi/api.json"),
    ),
    (
        "/protos/",
        Read(
            "crates/guest/tests/interfaces.rs",
            "guest-components/protos/protos/",
        ),
    ),
    (
        "coco-extension/components.toml",
        Read(
            "crates/guest/tests/components.rs",
            "coco-extension/components.toml",
        ),
    ),
    (
        "/offline_fs_kbc/",
        Not("resources from files of the image are refused: kbc.name = offline_fs_kbc"),
    ),
    (
        "/offline-fs-kbc/",
        Not("resources from files of the image are refused: kbc.name = offline_fs_kbc"),
    ),
    (
        "/sample_kbc/",
        Not("upstream has no sample_kbc any more, and neither has the guest"),
    ),
    (
        "attestation-agent/attestation-agent/",
        Read(
            "crates/guest/src/config/aa.rs",
            "attestation-agent/attestation-agent/{name}",
        ),
    ),
    (
        "tdx_report_1.bin",
        Read("crates/attester/src/tdx.rs", "tdx_report_1.bin"),
    ),
    (
        "kbs_protocol/test/",
        Not("a broker's settings and its policy, which a broker reads"),
    ),
    (
        "image-rs/test_data/ocicrypt_keyprovider_ttrpc.conf",
        Read(
            "crates/guest/tests/program.rs",
            "ocicrypt_keyprovider_ttrpc.conf",
        ),
    ),
    (
        "image-rs/test_data/ocicrypt_keyprovider_grpc.conf",
        Not("the guest serves ttRPC, and no gRPC on a port that every user of the machine reaches"),
    ),
    (
        "registry-configuration.toml",
        Read(
            "crates/wire/src/image/registries.rs",
            "registry-configuration.toml",
        ),
    ),
    (
        "signature/policy.json",
        Read("crates/wire/src/image_policy.rs", "signature/policy.json"),
    ),
    (
        "/sigstore_config/",
        Read("crates/wire/src/image/lookaside.rs", "sigstore_config"),
    ),
    (
        "signature/cosign/",
        Read("crates/wire/src/image/signing_key.rs", "signature/cosign/"),
    ),
    (
        "signature/signatures/signature-1",
        Read("crates/wire/src/openpgp/mod.rs", "signatures/signature-1"),
    ),
    (
        "signature/signatures/signature-2",
        Not("it is the first one again, for the folder's numbering"),
    ),
    (
        "signature/pubring.gpg",
        Read("crates/wire/src/openpgp/mod.rs", "pubring.gpg"),
    ),
    (
        "simple-signing-scheme/pubkey.gpg",
        Read("crates/guest/tests/upstream.rs", "pubkey.gpg"),
    ),
    (
        "simple-signing-scheme/signatures.tar",
        Read("crates/guest/tests/upstream.rs", "signatures.tar"),
    ),
    (
        "simple-signing-scheme/security_policy.json",
        Read("crates/wire/src/image_policy.rs", "security_policy.json"),
    ),
    (
        "simple-signing-scheme/sigstore_config.yaml",
        Read("crates/wire/src/image/lookaside.rs", "quay_verification"),
    ),
    (
        "_for_tests.pem",
        Not("ocicrypt's JWE keys: layers are opened with keys of the broker alone"),
    ),
    (
        "ocicrypt-rs/data/sample_kbc_annotation.json",
        Read(
            "crates/wire/src/image/ocicrypt.rs",
            "sample_kbc_annotation.json",
        ),
    ),
    (
        "ocicrypt-rs/data/ocicrypt_config.json",
        Not("a list of kinds of key providers, none of them the guest's"),
    ),
    (
        "ocicrypt-rs/data/",
        Not("ocicrypt's JWE and PKCS7 keys: layers are opened with keys of the broker alone"),
    ),
    (
        "secret/tests/envelope_secret_",
        Not("credentials of key services in clouds that the guest does not ask"),
    ),
    (
        "hub/src/secret/tests/",
        Read("crates/wire/src/sealed_secret.rs", "hub/src/secret/tests"),
    ),
    (
        "image/test/v1.json",
        Read("crates/wire/src/image/ocicrypt.rs", "image/test/v1.json"),
    ),
    (
        "hub/src/image/ocicrypt_config.json",
        Read(
            "crates/guest/tests/program.rs",
            "hub/src/image/ocicrypt_config.json",
        ),
    ),
    (
        "hub/tests/cdh.toml",
        Read("crates/guest/src/config/cdh.rs", "hub/tests/cdh.toml"),
    ),
    (
        "luks2-disk-passphrase",
        Not("the passphrase of a disk whose header the host keeps, which is not opened"),
    ),
    ("zfs-disk-passphrase", Not("ZFS is not made here")),
    (
        "confidential-data-hub/example.config.",
        Read("crates/guest/src/config/cdh.rs", "example.config.toml"),
    ),
    (
        "/initdata/",
        Read("crates/wire/src/initdata.rs", "guest/initdata/"),
    ),
    (
        "cococtl/pod-with-env-secret-trustee-secrets.json",
        Read(
            "crates/wire/src/sealed_secret.rs",
            "pod-with-env-secret-trustee-secrets.json",
        ),
    ),
];

fn files(folder: &Path, found: &mut BTreeSet<String>, root: &Path) {
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found, root),
            false => {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                found.insert(format!("/{name}"));
            }
        }
    }
}

#[test]
fn file_of_upstreams_is_read_by_nobody_and_nobody_says_why() {
    let Some(root) = fixture("guest") else {
        return;
    };
    let mut found = BTreeSet::new();
    files(&root, &mut found, &root);
    assert!(found.len() > 100, "{}", found.len());
    let mut used = BTreeSet::new();
    for file in &found {
        let row = FILES.iter().position(|(part, _)| file.contains(part));
        used.insert(row.unwrap_or_else(|| panic!("{file} is in no row")));
    }
    for (number, (part, row)) in FILES.iter().enumerate() {
        assert!(used.contains(&number), "{part}: there is no such file");
        match row {
            Read(source, words) => {
                let source = std::fs::read_to_string(workspace_root().join(source))
                    .unwrap_or_else(|error| panic!("{part}: {source}: {error}"));
                assert!(source.contains(words), "{part}: nobody reads it there");
            }
            Not(why) => assert!(!why.is_empty()),
        }
    }
}

/// Upstream's signatures of 2021, of which one is by the key of its policy.
#[test]
fn signature_of_upstreams_simple_signing_scheme_is_taken_for_another_image_key_or_time() {
    let Some(folder) = fixture(SIMPLE_SIGNING) else {
        return;
    };
    const THEN: u64 = 1_634_200_000;
    const NOW: u64 = 1_800_000_000;
    let ring = Keyring::parse(&std::fs::read(folder.join("pubkey.gpg")).unwrap()).unwrap();
    // Its name does not say that it is compressed.
    let archive = std::fs::File::open(folder.join("signatures.tar")).unwrap();
    let archive = flate2::read::GzDecoder::new(archive);
    let mut seen = 0;
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        if !path.ends_with("signature-1") {
            continue;
        }
        seen += 1;
        let mut message = Vec::new();
        entry.read_to_end(&mut message).unwrap();
        let verified = ring.verify(&message, THEN, Sha1::InsecureAccept);
        if path.to_string_lossy().contains("sha256=7250923b") {
            assert!(
                matches!(verified, Err(OpenPgpError::UnknownKey(_))),
                "{verified:?}"
            );
            continue;
        }
        let signed = verified.unwrap();
        let payload = Payload::parse(&signed.content).unwrap();
        assert_eq!(
            payload.docker_reference,
            "quay.io/kata-containers/confidential-containers:signed"
        );
        let folder = path.parent().unwrap().to_string_lossy();
        let named = folder.rsplit('@').next().unwrap().replace('=', ":");
        assert_eq!(payload.manifest_digest.to_string(), named);
        assert!(signed.fingerprint.ends_with("58f6ed07eea6b429"));
        let later = ring.verify(&message, NOW, Sha1::InsecureAccept);
        assert!(later.is_err(), "the key has expired since");
    }
    assert_eq!(seen, 2);
}
