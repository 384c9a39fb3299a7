//! An owner encrypts and signs an image, and an attested guest pulls it: the real program at both ends, the real broker
//! and a real registry between.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use strongroom_testkit::fixtures::peer;
use strongroom_testkit::process::{Program, Running};
use strongroom_testkit::registry::{Admission, Registry};
use strongroom_wire::image::digest::Digest;

use support::{Place, document, printed};

struct World {
    place: Place,
    registry: Registry,
    socket: String,
    url: String,
    _broker: Running,
    _guest: Running,
}

impl World {
    fn start() -> Option<Self> {
        let registry = Registry::start(Admission::Anyone)?;
        let place = Place::new();
        place.ok(&["broker", "init", "--insecure-accept-sample-evidence"]);
        let (broker, url) = place.start_broker();
        place.allow_sample_guests(&url);
        let (guest, socket) = place.start_guest(&url);
        Some(Self {
            place,
            registry,
            socket,
            url,
            _broker: broker,
            _guest: guest,
        })
    }

    fn put(&self, resource: &str, file: &str) {
        self.place
            .ok(&["resource", "put", resource, file, "--broker", &self.url]);
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.address())
    }

    /// Pulls, and says why not where it is refused.
    fn pull(&self, name: &str, more: &[&str]) -> Result<Value, String> {
        let image = self.image(name);
        drop(fs::remove_dir_all(self.place.join("bundle")));
        let finished = self
            .place
            .program(&[
                "guest",
                "pull",
                &image,
                "bundle",
                "--json",
                "--guest",
                &self.socket,
            ])
            .args(more)
            .run()
            .unwrap();
        match finished.status.success() {
            true => Ok(document(&finished)),
            false => Err(printed(&finished)),
        }
    }
}

/// An image of one file, as an OCI layout.
fn write_layout(layout: &Path, scratch: &Path) {
    fs::create_dir_all(scratch.join("etc")).unwrap();
    fs::write(scratch.join("etc/app.conf"), "the model's threshold").unwrap();
    let tar = Program::new("tar")
        .folder(scratch)
        .args(["-c", "etc"])
        .run()
        .unwrap();
    let tar = tar.expect_success().stdout;
    let gzip = Program::new("gzip")
        .arg("-n")
        .input(tar.clone())
        .run()
        .unwrap();
    let layer = gzip.expect_success().stdout;
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8], kind: &str| {
        let digest = Digest::sha256(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    };
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/bin/app"] },
        "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(&tar)] },
    });
    let manifest = json!({
        "schemaVersion": 2,
        "config": put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json"),
        "layers": [put(&layer, "application/vnd.oci.image.layer.v1.tar+gzip")],
    });
    let manifest = put(
        manifest.to_string().as_bytes(),
        "application/vnd.oci.image.manifest.v1+json",
    );
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
}

#[test]
fn image_reaches_an_attested_guest_alone_and_only_signed() {
    let (Some(openssl), Some(world)) = (peer("openssl"), World::start()) else {
        return;
    };
    let place = &world.place;
    write_layout(&place.join("plain"), &place.join("files"));
    place.ok(&["keygen", "kek"]);
    world.put("default/image-kek/app", "kek");
    let (plain, encrypted) = (world.image("app:plain"), world.image("app:v1"));

    let done = place.ok(&[
        "image",
        "encrypt",
        "oci:plain",
        &format!("docker://{encrypted}"),
        "--key",
        "kek",
        "--kid",
        "kbs:///default/image-kek/app",
        "--json",
    ]);
    assert_eq!(document(&done)["layers"], 1);
    let wrong = place.refused(&[
        "image",
        "encrypt",
        "oci:plain",
        "oci:other",
        "--key",
        "broker/tls.crt",
        "--kid",
        "kbs:///default/image-kek/app",
    ]);
    assert!(wrong.contains("32 raw"), "{wrong}");

    // The bundle lies beside the test's other files, on whatever disk that is.
    let on_disk = "--insecure-any-filesystem";
    // Nothing says yet that it may run.
    let error = world.pull("app:v1", &[]).unwrap_err();
    assert!(error.contains("no image policy is set"), "{error}");

    let key = Program::new(&openssl)
        .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout"])
        .run()
        .unwrap();
    place.write("image.key", key.expect_success().stdout);
    let policy = json!({
        "default": [{ "type": "reject" }],
        "transports": { "docker": { world.image("app"): [
            { "type": "sigstoreSigned", "keyPath": "kbs:///default/image-key/public" },
        ] } },
    });
    place.write("policy.json", policy.to_string());
    world.put("default/security-policy/image", "policy.json");
    let with = ["--policy", "kbs:///default/security-policy/image", on_disk];
    let error = world.pull("app:v1", &with).unwrap_err();
    assert!(
        error.contains("default/image-key/public") && error.contains("not to be had"),
        "{error}"
    );

    let signed =
        document(&place.ok(&["image", "sign", &encrypted, "--key", "image.key", "--json"]));
    place.write("image.pub", signed["public_key"].as_str().unwrap());
    world.put("default/image-key/public", "image.pub");
    let pulled = world.pull("app:v1", &with).unwrap();
    assert_eq!(pulled["manifest_digest"], signed["digest"]);
    assert_eq!(
        (pulled["encrypted_layers"].clone(), pulled["layers"].clone()),
        (json!(1), json!(1))
    );
    assert_eq!(
        place.read("bundle/rootfs/etc/app.conf"),
        b"the model's threshold"
    );
    let expected = format!(
        r#"{{"image":"{encrypted}", "digest":"{}"}}"#,
        signed["digest"].as_str().unwrap()
    );
    assert_eq!(pulled["event"]["content"], expected);

    // A data hub's own configuration says the same.
    place.write(
        "cdh.toml",
        "[image]\nimage_security_policy_uri = \"kbs:///default/security-policy/image\"\n",
    );
    world
        .pull("app:v1", &["--config", "cdh.toml", on_disk])
        .unwrap();

    // Another image of the repository that nobody signed, and another repository.
    let skopeo = peer("skopeo").unwrap();
    let copied = Program::new(&skopeo)
        .folder(place.path())
        .args([
            "--insecure-policy",
            "copy",
            "--dest-tls-verify=false",
            "oci:plain",
        ])
        .arg(format!("docker://{plain}"))
        .run()
        .unwrap();
    assert!(copied.status.success(), "{}", copied.stderr_text());
    let error = world.pull("app:plain", &with).unwrap_err();
    assert!(error.contains("no signature exists"), "{error}");
    let error = world.pull("other:v1", &with).unwrap_err();
    assert!(
        error.contains("the policy rejects every image there"),
        "{error}"
    );
    assert!(!place.join("bundle").exists());

    // The broker holds the key back.
    place.ok(&["policy", "remove", "default/*/*", "--broker", &world.url]);
    let error = world.pull("app:v1", &with).unwrap_err();
    assert!(
        error.contains("denied") || error.contains("Denied") || error.contains("not allow"),
        "{error}"
    );
}

/// skopeo encrypts and decrypts by this program as its key provider, with the key that the broker releases; a guest pulls
/// what it made.
#[test]
fn skopeo_finds_no_key_provider_here() {
    let Some(world) = World::start() else { return };
    let skopeo = peer("skopeo").unwrap();
    let place = &world.place;
    write_layout(&place.join("layout"), &place.join("scratch"));
    place.ok(&["keygen", "image.kek"]);
    world.put("default/image-kek/one", "image.kek");
    let config = json!({ "key-providers": { "attestation-agent": { "cmd": {
        "path": support::binary(),
        "args": ["image", "keyprovider", "--guest", world.socket],
    } } } });
    place.write("ocicrypt.json", config.to_string());
    let copy = |arguments: &[&str]| {
        Program::new(&skopeo)
            .folder(place.path())
            .env("OCICRYPT_KEYPROVIDER_CONFIG", place.join("ocicrypt.json"))
            .args([
                "copy",
                "--insecure-policy",
                "--dest-tls-verify=false",
                "--src-tls-verify=false",
            ])
            .args(arguments)
            .run()
            .unwrap()
    };
    let kid = "keyid=kbs:///default/image-kek/one::algorithm=A256GCM";
    let kek = place.join("image.kek");
    let by_file = format!(
        "provider:attestation-agent:keypath={}::{kid}",
        kek.display()
    );
    let by_broker = format!("provider:attestation-agent:{kid}");
    place.write(
        "policy.json",
        r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
    );
    for (tag, key) in [("file", &by_file), ("broker", &by_broker)] {
        let name = format!("docker://{}", world.image(&format!("app:{tag}")));
        let encrypted = copy(&["--encryption-key", key, "oci:layout", &name]);
        assert!(encrypted.status.success(), "{}", printed(&encrypted));
        let opened = format!("oci:opened-{tag}");
        let decrypted = copy(&[
            "--decryption-key",
            "provider:attestation-agent",
            &name,
            &opened,
        ]);
        assert!(decrypted.status.success(), "{}", printed(&decrypted));
        let config = |folder: &str| {
            let index: Value =
                serde_json::from_slice(&place.read(&format!("{folder}/index.json"))).unwrap();
            let digest = index["manifests"][0]["digest"]
                .as_str()
                .unwrap()
                .replace(':', "/");
            let manifest = place.read(&format!("{folder}/blobs/{digest}"));
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            (
                manifest["config"]["digest"].clone(),
                manifest["layers"][0]["digest"].clone(),
            )
        };
        assert_eq!(config("layout"), config(&format!("opened-{tag}")), "{tag}");
        let pulled = world
            .pull(&format!("app:{tag}"), &["--policy", "policy.json"])
            .unwrap();
        assert_eq!(pulled["encrypted_layers"], 1, "{pulled}");
    }
    // With another key than the one that wrapped, nothing opens.
    place.ok(&["keygen", "other.kek"]);
    world.put("default/image-kek/one", "other.kek");
    let name = format!("docker://{}", world.image("app:file"));
    let refused = copy(&[
        "--decryption-key",
        "provider:attestation-agent",
        &name,
        "oci:refused",
    ]);
    assert!(!refused.status.success());
}
