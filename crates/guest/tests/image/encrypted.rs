//! Encrypted layers: ours opened by others, others' opened here, and what a wrong key or MAC is refused with.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use strongroom_guest::Placement;
use strongroom_guest::config::ImageConfig;
use strongroom_guest::image::owner::{Access, Encrypted, Location, encrypt};
use strongroom_guest::image::{PullOptions, pull, unwrap_key};
use strongroom_testkit::fixtures::{peer, peer_python};
use strongroom_testkit::process::Program;

use crate::support::{Image, Layer, World, anything, broker, files, options};

const KID: &str = "kbs:///default/image-kek/app";
const PATH: &str = "default/image-kek/app";
const KEK: [u8; 32] = [42; 32];

async fn encrypt_it(world: &World, from: &str, to: &str) -> Encrypted {
    let location = |name: &str| -> Location {
        match name.strip_prefix("oci:") {
            Some(_) => name.parse().unwrap(),
            None => world.name(name).parse().unwrap(),
        }
    };
    encrypt(
        &location(from),
        &location(to),
        &KID.parse().unwrap(),
        &KEK,
        &Access::default(),
        Arc::new(|_| {}),
    )
    .await
    .unwrap()
}

fn manifest(world: &World, name: &str) -> Value {
    let raw = world.skopeo(&[
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{}", world.name(name)),
    ]);
    serde_json::from_slice(&raw).unwrap()
}

fn two_layers() -> Image {
    let big = "secret ".repeat(400_000);
    Image::with(vec![
        Layer::gzip(&files(&[("etc/app.conf", "secret")])),
        Layer::gzip(&files(&[("big", &big)])),
    ])
}

/// Whether a folder lies where everything stays in memory.
fn is_memory(folder: &Path) -> bool {
    rustix::fs::statfs(folder).unwrap().f_type == 0x0102_1994
}

#[tokio::test]
async fn plaintext_of_an_encrypted_image_goes_to_any_disk() {
    let Some(world) = World::start() else { return };
    world.push(&two_layers(), "app:plain");
    encrypt_it(&world, "app:plain", "app:encrypted").await;
    let source = broker(&[(PATH, &KEK)]).await;
    let strict = PullOptions {
        placement: Placement::MemoryOnly,
        ..options(&anything())
    };
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        println!("SKIPPED: no /dev/shm to write to");
        return;
    };
    if is_memory(disk.path()) || !is_memory(memory.path()) {
        println!("SKIPPED: no disk and memory to tell apart here");
        return;
    }
    let dest = disk.path().join("bundle");
    let image = world.name("app:encrypted");
    let error = pull(&image, &dest, &strict, Some(&source))
        .await
        .err()
        .unwrap()
        .to_string();
    for words in [
        "plaintext of this encrypted image",
        "--insecure-any-filesystem",
    ] {
        assert!(error.contains(words), "{error}");
    }
    assert!(!dest.exists());
    // What is public anyway may lie there, and in memory all may.
    pull(&world.name("app:plain"), &dest, &strict, None)
        .await
        .unwrap();
    let dest = memory.path().join("bundle");
    pull(&image, &dest, &strict, Some(&source)).await.unwrap();
    let named = PullOptions::from_config(&ImageConfig {
        insecure_any_filesystem: true,
        ..ImageConfig::default()
    });
    assert_eq!(named.unwrap().placement, Placement::InsecureAnyFilesystem);
}

#[tokio::test]
async fn encrypted_image_opens_with_the_brokers_key_alone() {
    let Some(world) = World::start() else { return };
    world.push(&two_layers(), "app:plain");
    let encrypted = encrypt_it(&world, "app:plain", "app:encrypted").await;
    assert_eq!(
        (encrypted.layers, encrypted.digest),
        (2, world.digest("app:encrypted"))
    );
    let source = broker(&[(PATH, &KEK)]).await;
    let pulled = world
        .pull_with("app:encrypted", &options(&anything()), Some(&source))
        .await
        .unwrap();
    assert_eq!(pulled.encrypted_layers, (2, 2));
    assert_eq!(world.read("etc/app.conf"), "secret");
    assert_eq!(world.read("big").len(), 7 * 400_000);
    // What lies in the registry is not the layer.
    for layer in manifest(&world, "app:encrypted")["layers"]
        .as_array()
        .unwrap()
    {
        let hex = layer["digest"]
            .as_str()
            .unwrap()
            .strip_prefix("sha256:")
            .unwrap();
        assert!(
            !std::fs::read(world.registry.blob(hex))
                .unwrap()
                .starts_with(&[0x1f, 0x8b])
        );
    }

    let other = broker(&[(PATH, &[43; 32])]).await;
    let error = world
        .pull_with("app:encrypted", &options(&anything()), Some(&other))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("layer 1") && error.contains(KID) && error.contains("another key"),
        "{error}"
    );
    let short = broker(&[(PATH, b"KioqKioqKio=")]).await;
    let error = world
        .pull_with("app:encrypted", &options(&anything()), Some(&short))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("has 32"), "{error}");
    let none = broker(&[]).await;
    let error = world
        .pull_with("app:encrypted", &options(&anything()), Some(&none))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains(KID) && error.contains("no such resource"),
        "{error}"
    );
    let error = world.refused("app:encrypted", &anything()).await;
    assert!(error.contains("no broker was named"), "{error}");
    let again = encrypt(
        &world.name("app:encrypted").parse().unwrap(),
        &world.name("app:twice").parse().unwrap(),
        &KID.parse().unwrap(),
        &KEK,
        &Access::default(),
        Arc::new(|_| {}),
    )
    .await;
    assert!(
        again
            .err()
            .unwrap()
            .to_string()
            .contains("encrypted already")
    );
}

#[tokio::test]
async fn key_provider_unwraps_with_the_brokers_key() {
    use strongroom_wire::image::digest::Digest;
    use strongroom_wire::image::ocicrypt::{Packet, PrivateOptions};
    let options = PrivateOptions {
        key: zeroize::Zeroizing::new([7; 32]),
        nonce: [8; 16],
        digest: Digest::sha256(b"layer"),
    };
    let packet = Packet::wrap(KID, &KEK, &options).unwrap();
    let request = json!({
        "op": "keyunwrap",
        "keywrapparams": { "ec": null, "optsdata": null },
        "keyunwrapparams": { "dc": { "Parameters": {} }, "annotation": packet.to_annotation().unwrap() },
    })
    .to_string();
    let source = broker(&[(PATH, &KEK)]).await;
    let answer = unwrap_key(request.as_bytes(), Some(&source)).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let bytes: Vec<u8> =
        serde_json::from_value(answer["keyunwrapresults"]["optsdata"].clone()).unwrap();
    assert_eq!(bytes, *options.to_json());
    let other = broker(&[(PATH, &[1; 32])]).await;
    let error = unwrap_key(request.as_bytes(), Some(&other))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains(KID), "{error}");
}

#[tokio::test]
async fn wrong_mac_decrypts_nothing() {
    let Some(world) = World::start() else { return };
    world.push(&Image::of("secret"), "app:plain");
    let layout = world.path("layout");
    encrypt_it(&world, "app:plain", &format!("oci:{}:it", layout.display())).await;
    let source = broker(&[(PATH, &KEK)]).await;
    let push = |name: &str| {
        world.skopeo(&[
            "copy",
            "--dest-tls-verify=false",
            &format!("oci:{}:it", layout.display()),
            &format!("docker://{}", world.name(name)),
        ]);
    };
    push("app:good");
    world
        .pull_with("app:good", &options(&anything()), Some(&source))
        .await
        .unwrap();

    // The ciphertext is changed, and every digest made to fit: only the MAC can tell.
    rewrite(&layout, |_, layer| layer[40] ^= 1);
    push("app:changed");
    let error = world
        .pull_with("app:changed", &options(&anything()), Some(&source))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("MAC is wrong") && error.contains("nothing of it was decrypted"),
        "{error}"
    );
    rewrite(&layout, |_, layer| layer[40] ^= 1);

    rewrite(&layout, |descriptor, _| {
        let options = json!({ "cipher": "AES_256_CTR_HMAC_SHA256", "hmac": base64(&[0; 32]), "cipheroptions": {} });
        descriptor["annotations"]["org.opencontainers.image.enc.pubopts"] =
            base64(options.to_string().as_bytes()).into();
    });
    push("app:mac");
    let error = world
        .pull_with("app:mac", &options(&anything()), Some(&source))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("MAC is wrong"), "{error}");
    rewrite(&layout, |descriptor, _| {
        descriptor["annotations"]
            .as_object_mut()
            .unwrap()
            .remove("org.opencontainers.image.enc.pubopts");
    });
    push("app:none");
    let error = world
        .pull_with("app:none", &options(&anything()), Some(&source))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("pubopts"), "{error}");
}

#[tokio::test]
async fn skopeo_reads_and_copies_what_is_encrypted_here() {
    let Some(world) = World::start() else { return };
    world.push(&two_layers(), "app:plain");
    encrypt_it(&world, "app:plain", "app:encrypted").await;
    let inspected: Value = serde_json::from_slice(&world.skopeo(&[
        "inspect",
        "--tls-verify=false",
        &format!("docker://{}", world.name("app:encrypted")),
    ]))
    .unwrap();
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), 2);
    world.copy("app:encrypted", "elsewhere:copied");
    assert_eq!(
        world.digest("elsewhere:copied"),
        world.digest("app:encrypted")
    );
    let source = broker(&[(PATH, &KEK)]).await;
    world
        .pull_with("elsewhere:copied", &options(&anything()), Some(&source))
        .await
        .unwrap();
    assert_eq!(world.read("etc/app.conf"), "secret");
}

#[tokio::test]
async fn image_that_skopeo_encrypted_to_a_key_file_says_what_to_do() {
    let (Some(world), Some(openssl)) = (World::start(), peer("openssl")) else {
        return;
    };
    let pair = Program::new(&openssl)
        .args(["genrsa", "2048"])
        .run()
        .unwrap()
        .expect_success()
        .stdout;
    let public = Program::new(&openssl)
        .args(["rsa", "-pubout"])
        .input(pair)
        .run()
        .unwrap()
        .expect_success()
        .stdout;
    std::fs::write(world.path("public.pem"), public).unwrap();
    world.push(&Image::of("x"), "app:plain");
    world.skopeo(&[
        "copy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        "--encryption-key",
        &format!("jwe:{}", world.path("public.pem").display()),
        &format!("docker://{}", world.name("app:plain")),
        &format!("docker://{}", world.name("app:jwe")),
    ]);
    let error = world.refused("app:jwe", &anything()).await;
    assert!(
        error.contains("jwe") && error.contains("strongroom image encrypt"),
        "{error}"
    );
}

#[tokio::test]
async fn layer_encrypted_here_opens_in_python() {
    let (Some(world), Some(python)) = (World::start(), peer_python()) else {
        return;
    };
    let image = two_layers();
    let layout = world.path("plain");
    image.write_layout(&layout, "it");
    let to = world.path("encrypted");
    encrypt_it(
        &world,
        &format!("oci:{}", layout.display()),
        &format!("oci:{}:it", to.display()),
    )
    .await;
    let index: Value = read_json(&to.join("index.json"));
    let manifest: Value = read_json(&blob(&to, &index["manifests"][0]["digest"]));
    std::fs::write(world.path("kek"), KEK).unwrap();
    for (number, layer) in manifest["layers"].as_array().unwrap().iter().enumerate() {
        assert_eq!(
            layer["mediaType"],
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
        );
        std::fs::write(world.path("descriptor"), layer.to_string()).unwrap();
        let ran = python_peer(&python)
            .arg("open")
            .args([
                world.path("descriptor"),
                world.path("kek"),
                blob(&to, &layer["digest"]),
                world.path("opened"),
            ])
            .run()
            .unwrap();
        assert!(ran.status.success(), "{}", ran.stderr_text());
        assert_eq!(
            std::fs::read(world.path("opened")).unwrap(),
            image.layers[number].bytes
        );
    }
}

#[tokio::test]
async fn layer_encrypted_in_python_opens_here_in_both_versions() {
    let (Some(world), Some(python)) = (World::start(), peer_python()) else {
        return;
    };
    let source = broker(&[(PATH, &KEK)]).await;
    std::fs::write(world.path("kek"), KEK).unwrap();
    for version in ["1", "2"] {
        let mut layer = Layer::gzip(&files(&[("made", version)]));
        std::fs::write(world.path("plain"), &layer.bytes).unwrap();
        let ran = python_peer(&python)
            .arg("make")
            .args(["descriptor", "kek", "plain", "cipher"].map(|name| world.path(name)))
            .args([KID, version])
            .run()
            .unwrap();
        assert!(ran.status.success(), "{}", ran.stderr_text());
        layer.annotations = read_json(&world.path("descriptor"))["annotations"].clone();
        layer.bytes = std::fs::read(world.path("cipher")).unwrap();
        layer.media_type += "+encrypted";
        let name = format!("python:v{version}");
        world.push(&Image::with(vec![layer]), &name);
        world
            .pull_with(&name, &options(&anything()), Some(&source))
            .await
            .unwrap();
        assert_eq!(world.read("made"), version);
    }
}

fn python_peer(python: &Path) -> Program {
    Program::new(python).arg(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/image/ocicrypt_peer.py"
    ))
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn blob(layout: &Path, digest: &Value) -> std::path::PathBuf {
    layout
        .join("blobs")
        .join(digest.as_str().unwrap().replace(':', "/"))
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Changes the first layer of a layout, or what is said of it, and makes every digest fit again.
fn rewrite(layout: &Path, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
    let put = |bytes: &[u8]| {
        let digest = strongroom_wire::image::digest::Digest::sha256(bytes);
        std::fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        (Value::from(digest.to_string()), Value::from(bytes.len()))
    };
    let mut index = read_json(&layout.join("index.json"));
    let mut manifest = read_json(&blob(layout, &index["manifests"][0]["digest"]));
    let descriptor = &mut manifest["layers"][0];
    let mut layer = std::fs::read(blob(layout, &descriptor["digest"])).unwrap();
    change(descriptor, &mut layer);
    (descriptor["digest"], descriptor["size"]) = put(&layer);
    let entry = &mut index["manifests"][0];
    (entry["digest"], entry["size"]) = put(manifest.to_string().as_bytes());
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
}
