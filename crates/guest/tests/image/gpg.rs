//! GPG simple signing: signatures that skopeo and gpg make, found at their places.

use std::path::PathBuf;

use serde_json::{Value, json};
use strongroom_guest::image::{Admitted, Document, PullOptions};
use strongroom_testkit::fixtures::peer;
use strongroom_testkit::process::{Finished, Program};

use crate::support::{Image, World, options, text};

/// A keyring of gpg's own, with an agent that ends with it.
struct Gpg {
    home: tempfile::TempDir,
    program: PathBuf,
}

impl Gpg {
    fn start() -> Option<Self> {
        let program = peer("gpg")?;
        // Short, since its agent's socket lies in it.
        let home = tempfile::Builder::new()
            .prefix("sg")
            .tempdir_in("/tmp")
            .unwrap();
        Some(Self { home, program })
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        Program::new(&self.program)
            .env("GNUPGHOME", self.home.path())
            .args([
                "--batch",
                "--quiet",
                "--pinentry-mode",
                "loopback",
                "--passphrase",
                "",
            ])
            .args(arguments)
            .run()
            .unwrap()
            .expect_success()
    }

    /// Makes a key; gives its public form.
    fn generate(&self, user: &str, algorithm: &str) -> Vec<u8> {
        self.run(&["--quick-generate-key", user, algorithm, "sign", "1y"]);
        self.export(user)
    }

    fn export(&self, user: &str) -> Vec<u8> {
        self.run(&["--export", user]).stdout
    }

    fn fingerprint(&self, user: &str) -> String {
        let listed = self
            .run(&["--with-colons", "--fingerprint", user])
            .stdout_text();
        let line = listed.lines().find(|line| line.starts_with("fpr")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        Program::new("gpgconf")
            .env("GNUPGHOME", self.home.path())
            .args(["--kill", "all"])
            .run()
            .ok();
    }
}

/// Signs as skopeo does, and puts the signature where it is looked for.
fn sign(world: &World, gpg: &Gpg, user: &str, name: &str, number: usize) {
    let digest = world.digest(name);
    let raw = world.skopeo(&[
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{}", world.name(name)),
    ]);
    std::fs::write(world.path("manifest"), raw).unwrap();
    let repository = name.split(':').next().unwrap();
    let folder = world
        .path("signatures")
        .join(format!("{repository}@sha256={}", digest.hex()));
    std::fs::create_dir_all(&folder).unwrap();
    let ran = Program::new(&world.skopeo)
        .env("GNUPGHOME", gpg.home.path())
        .arg("standalone-sign")
        .arg(world.path("manifest"))
        .args([&world.name(name), &gpg.fingerprint(user)])
        .arg("-o")
        .arg(folder.join(format!("signature-{number}")))
        .run()
        .unwrap();
    assert!(ran.status.success(), "{}", ran.stderr_text());
}

fn with_places(world: &World, policy: &Value) -> PullOptions {
    let config = format!(
        "default-docker:\n  lookaside: file://{}\n",
        world.path("signatures").display()
    );
    PullOptions {
        sigstore_config: Some(text(config)),
        ..options(policy)
    }
}

fn signed_by(keys: &[u8]) -> Value {
    use base64::Engine as _;
    let keys = base64::engine::general_purpose::STANDARD.encode(keys);
    json!({ "default": [{ "type": "signedBy", "keyType": "GPGKeys", "keyData": keys }] })
}

#[tokio::test]
async fn image_signed_by_skopeo_is_accepted_for_each_kind_of_key() {
    let (Some(world), Some(gpg)) = (World::start(), Gpg::start()) else {
        return;
    };
    for (number, algorithm) in ["rsa2048", "ed25519", "nistp256", "nistp384"]
        .into_iter()
        .enumerate()
    {
        let name = format!("app{number}:v1");
        let keys = gpg.generate(algorithm, algorithm);
        world.push(&Image::of(algorithm), &name);
        let options = with_places(&world, &signed_by(&keys));
        let error = world
            .pull_with(&name, &options, None)
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("no signature exists"), "{error}");
        sign(&world, &gpg, algorithm, &name, 1);
        let pulled = world.pull_with(&name, &options, None).await.unwrap();
        let fingerprint = gpg.fingerprint(algorithm).to_lowercase();
        assert_eq!(pulled.admitted, [Admitted::GpgSignature(fingerprint)]);
    }
}

#[tokio::test]
async fn other_key_other_image_and_damaged_signature_are_told_apart() {
    let (Some(world), Some(gpg)) = (World::start(), Gpg::start()) else {
        return;
    };
    let ours = gpg.generate("ours", "ed25519");
    gpg.generate("other", "ed25519");
    let first = world.push(&Image::of("1"), "app:v1");
    sign(&world, &gpg, "other", "app:v1", 1);
    let options = with_places(&world, &signed_by(&ours));
    let error = world
        .pull_with("app:v1", &options, None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("No public key"), "{error}");
    sign(&world, &gpg, "ours", "app:v1", 2);
    world.pull_with("app:v1", &options, None).await.unwrap();

    // The tag that was signed is another; the repository is the same.
    world.copy("app:v1", "app:v9");
    let error = world
        .pull_with("app:v9", &options, None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("match reference failed") && error.contains("app:v1"),
        "{error}"
    );

    let second = world.push(&Image::of("2"), "app:v1");
    let places = world.path("signatures");
    let of = |digest: &strongroom_wire::image::digest::Digest| {
        places.join(format!("app@sha256={}", digest.hex()))
    };
    std::fs::create_dir_all(of(&second)).unwrap();
    std::fs::copy(
        of(&first).join("signature-2"),
        of(&second).join("signature-1"),
    )
    .unwrap();
    let error = world
        .pull_with("app:v1", &options, None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("another manifest"), "{error}");

    sign(&world, &gpg, "ours", "app:v1", 1);
    let file = of(&second).join("signature-1");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = world
        .pull_with("app:v1", &options, None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("no valid signature"), "{error}");
    let nowhere = PullOptions {
        sigstore_config: None,
        ..options
    };
    let error = world
        .pull_with("app:v1", &nowhere, None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("sigstore config"), "{error}");
}

#[tokio::test]
async fn subkey_signs_and_a_revoked_or_expired_key_does_not() {
    let (Some(world), Some(gpg)) = (World::start(), Gpg::start()) else {
        return;
    };
    gpg.run(&["--quick-generate-key", "owner", "rsa2048", "cert", "1y"]);
    let fingerprint = gpg.fingerprint("owner");
    gpg.run(&["--quick-add-key", &fingerprint, "ed25519", "sign", "1y"]);
    let keys = gpg.export("owner");
    world.push(&Image::of("x"), "app:v1");
    sign(&world, &gpg, "owner", "app:v1", 1);
    let pull = async |keys: &[u8]| {
        let outcome = world
            .pull_with("app:v1", &with_places(&world, &signed_by(keys)), None)
            .await;
        outcome.map(drop).map_err(|error| error.to_string())
    };
    pull(&keys).await.unwrap();
    let armored = gpg.run(&["--armor", "--export", "owner"]).stdout;
    pull(&armored).await.unwrap();

    gpg.run(&["--quick-set-expire", &fingerprint, "seconds=1"]);
    let expiring = gpg.export("owner");
    // The key's second passes while the image is asked for.
    let error = loop {
        if let Err(error) = pull(&expiring).await {
            break error;
        }
    };
    assert!(error.contains("expired"), "{error}");

    let revocation = gpg
        .home
        .path()
        .join("openpgp-revocs.d")
        .join(format!("{fingerprint}.rev"));
    let text = std::fs::read_to_string(revocation).unwrap();
    // gpg puts a colon before the armor, so that nobody imports it by accident.
    std::fs::write(
        world.path("revocation"),
        text.replace(":-----BEGIN", "-----BEGIN"),
    )
    .unwrap();
    gpg.run(&["--import", world.path("revocation").to_str().unwrap()]);
    let error = pull(&gpg.export("owner")).await.unwrap_err();
    assert!(error.contains("revoked"), "{error}");
    let private = gpg.run(&["--export-secret-keys", "owner"]).stdout;
    let error = pull(&private).await.unwrap_err();
    assert!(error.contains("private keys"), "{error}");
}

#[tokio::test]
async fn policy_of_the_fixtures_with_keys_in_files_is_followed() {
    let (Some(world), Some(gpg)) = (World::start(), Gpg::start()) else {
        return;
    };
    let keys = gpg.generate("file", "rsa2048");
    std::fs::write(world.path("keys.gpg"), keys).unwrap();
    world.push(&Image::of("x"), "app:v1");
    sign(&world, &gpg, "file", "app:v1", 1);
    let policy = json!({
        "default": [{ "type": "reject" }],
        "transports": { "docker": { world.name("app"): [
            { "type": "signedBy", "keyType": "GPGKeys", "keyPath": world.path("keys.gpg"), "signedIdentity": { "type": "matchExact" } },
        ] } },
    });
    std::fs::write(world.path("policy.json"), policy.to_string()).unwrap();
    let options = PullOptions {
        policy: Some(Document::named(world.path("policy.json").to_str().unwrap()).unwrap()),
        ..with_places(&world, &policy)
    };
    world.pull_with("app:v1", &options, None).await.unwrap();
    world.push(&Image::of("x"), "other:v1");
    let error = world
        .pull_with("other:v1", &options, None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("default") && error.contains("reject"),
        "{error}"
    );
}
