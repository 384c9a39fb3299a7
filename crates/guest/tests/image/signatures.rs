//! Signatures in cosign's form, on a real registry: what is accepted, and what each change is refused with.

use serde_json::json;
use strongroom_guest::image::owner::{Access, sign};
use strongroom_guest::image::{Admitted, Devices, Document, PullOptions};
use strongroom_testkit::fixtures::optional_peer;
use strongroom_testkit::process::Program;
use strongroom_wire::image::reference::Reference;
use strongroom_wire::image::signing_key::{PublicKey, SigningKey};

use crate::support::{Image, World, anything, broker, key, options, signed_by, text};

async fn sign_it(world: &World, name: &str, key: &SigningKey) {
    let image: Reference = world.name(name).parse().unwrap();
    sign(&image.or_latest(), key, None, &Access::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn signed_image_is_unpacked() {
    let Some(world) = World::start() else { return };
    let digest = world.push(&Image::of("signed"), "app:v1");
    let key = key();
    sign_it(&world, "app:v1", &key).await;
    let public = key.public_pem().unwrap();
    let pulled = world.pull("app:v1", &signed_by(&public)).await.unwrap();
    assert_eq!(world.read("etc/app.conf"), "signed");
    assert_eq!(pulled.manifest_digest, digest);
    let fingerprint = PublicKey::parse(public.as_bytes()).unwrap().fingerprint();
    assert_eq!(pulled.admitted, [Admitted::CosignSignature(fingerprint)]);
    let event = pulled.event();
    assert_eq!(event.operation, "PullImage");
    assert_eq!(
        event.content,
        format!(
            r#"{{"image":"{}", "digest":"{digest}"}}"#,
            world.name("app:v1")
        )
    );
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.path("bundle/config.json")).unwrap()).unwrap();
    assert_eq!(config["process"]["args"], json!(["/bin/app"]));
    assert_eq!(config["process"]["user"], json!({ "uid": 7, "gid": 8 }));
    // The same image by its digest.
    world
        .pull(&format!("app@{digest}"), &signed_by(&public))
        .await
        .unwrap();
}

#[tokio::test]
async fn unsigned_image_is_refused() {
    let Some(world) = World::start() else { return };
    world.push(&Image::of("x"), "app:v1");
    let error = world
        .refused("app:v1", &signed_by(&key().public_pem().unwrap()))
        .await;
    assert!(error.contains("rejected by the image policy"), "{error}");
    assert!(
        error.contains("a signature was required, but no signature exists"),
        "{error}"
    );
    assert!(error.contains("strongroom image sign"), "{error}");
}

#[tokio::test]
async fn image_signed_by_another_key_is_refused() {
    let Some(world) = World::start() else { return };
    world.push(&Image::of("x"), "app:v1");
    let (other, ours) = (key(), key());
    sign_it(&world, "app:v1", &other).await;
    let error = world
        .refused("app:v1", &signed_by(&ours.public_pem().unwrap()))
        .await;
    assert!(error.contains("no matching signatures"), "{error}");
    // A second signature, by the right key, is found beside the first.
    sign_it(&world, "app:v1", &ours).await;
    world
        .pull("app:v1", &signed_by(&ours.public_pem().unwrap()))
        .await
        .unwrap();
    world
        .pull("app:v1", &signed_by(&other.public_pem().unwrap()))
        .await
        .unwrap();
}

#[tokio::test]
async fn signature_of_another_repository_is_refused() {
    let Some(world) = World::start() else { return };
    let digest = world.push(&Image::of("x"), "good/app:v1");
    let key = key();
    sign_it(&world, "good/app:v1", &key).await;
    // The same image, with its own signature, under a name that its owner never signed.
    world.copy("good/app:v1", "evil/app:v1");
    let signature = format!("sha256-{}.sig", digest.hex());
    world.copy(
        &format!("good/app:{signature}"),
        &format!("evil/app:{signature}"),
    );
    let policy = signed_by(&key.public_pem().unwrap());
    let error = world.refused("evil/app:v1", &policy).await;
    assert!(error.contains("match reference failed"), "{error}");
    assert!(error.contains("good/app"), "{error}");
    world.pull("good/app:v1", &policy).await.unwrap();
}

#[tokio::test]
async fn changed_manifest_has_no_signature() {
    let Some(world) = World::start() else { return };
    let signed = world.push(&Image::of("x"), "app:v1");
    let key = key();
    sign_it(&world, "app:v1", &key).await;
    let policy = signed_by(&key.public_pem().unwrap());
    let other = world.push(&Image::of("changed"), "app:v1");
    let error = world.refused("app:v1", &policy).await;
    assert!(error.contains("no signature exists"), "{error}");
    // The old signature, moved to where the changed manifest's would be.
    world.copy(
        &format!("app:sha256-{}.sig", signed.hex()),
        &format!("app:sha256-{}.sig", other.hex()),
    );
    let error = world.refused("app:v1", &policy).await;
    assert!(error.contains("another manifest"), "{error}");
    // The digest that was asked for, and another manifest under it.
    std::fs::copy(
        world.registry.blob(&other.hex()),
        world.registry.blob(&signed.hex()),
    )
    .unwrap();
    let error = world.refused(&format!("app@{signed}"), &policy).await;
    assert!(error.contains("is not what its digest says"), "{error}");
}

#[tokio::test]
async fn changed_or_truncated_layer_is_refused() {
    let Some(world) = World::start() else { return };
    let image = Image::of("content of the layer");
    let layer = image.layers[0].digest();
    world.push(&image, "app:v1");
    let key = key();
    sign_it(&world, "app:v1", &key).await;
    let policy = signed_by(&key.public_pem().unwrap());
    let file = world.registry.blob(&layer.hex());
    let good = std::fs::read(&file).unwrap();
    let mut changed = good.clone();
    changed[30] ^= 1;
    std::fs::write(&file, &changed).unwrap();
    let error = world.refused("app:v1", &policy).await;
    assert!(
        error.contains("layer 1") && error.contains("is not what its digest says"),
        "{error}"
    );
    std::fs::write(&file, &good[..good.len() - 10]).unwrap();
    let error = world.refused("app:v1", &policy).await;
    assert!(
        error.contains("layer 1") && error.contains("truncated"),
        "{error}"
    );
    std::fs::write(&file, &good).unwrap();
    world.pull("app:v1", &policy).await.unwrap();
}

#[tokio::test]
async fn without_a_policy_nothing_runs() {
    let Some(world) = World::start() else { return };
    world.push(&Image::of("x"), "app:v1");
    let error = world
        .pull_with("app:v1", &PullOptions::default(), None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("no image policy is set"), "{error}");
    let error = world
        .refused("app:v1", &json!({ "default": [{ "type": "reject" }] }))
        .await;
    assert!(error.contains("reject"), "{error}");
    let empty =
        json!({ "default": [{ "type": "reject" }], "transports": { "docker": { "": [] } } });
    let error = world.refused("app:v1", &empty).await;
    assert!(error.contains("empty"), "{error}");
}

#[tokio::test]
async fn every_requirement_counts() {
    let Some(world) = World::start() else { return };
    world.push(&Image::of("x"), "app:v1");
    let (one, two) = (key(), key());
    sign_it(&world, "app:v1", &one).await;
    let required = |key: &SigningKey| json!({ "type": "sigstoreSigned", "keyData": key.public_pem().unwrap() });
    let both = json!({ "default": [required(&one), required(&two)] });
    assert!(
        world
            .refused("app:v1", &both)
            .await
            .contains("no matching signatures")
    );
    sign_it(&world, "app:v1", &two).await;
    assert_eq!(world.pull("app:v1", &both).await.unwrap().admitted.len(), 2);
    let either = json!({ "default": [{ "type": "sigstoreSigned", "keyDatas": [key().public_pem().unwrap(), two.public_pem().unwrap()] }] });
    world.pull("app:v1", &either).await.unwrap();
}

#[tokio::test]
async fn policy_and_key_come_from_the_broker() {
    let Some(world) = World::start() else { return };
    world.push(&Image::of("x"), "app:v1");
    let key = key();
    sign_it(&world, "app:v1", &key).await;
    let policy = json!({
        "default": [{ "type": "reject" }],
        "transports": { "docker": { world.registry.address(): [
            { "type": "sigstoreSigned", "keyPath": "kbs:///default/cosign/key" },
        ] } },
    });
    let public = key.public_pem().unwrap();
    let source = broker(&[
        (
            "default/security-policy/image",
            policy.to_string().as_bytes(),
        ),
        ("default/cosign/key", public.as_bytes()),
    ])
    .await;
    let options = PullOptions {
        policy: Some(Document::named("kbs:///default/security-policy/image").unwrap()),
        ..PullOptions::default()
    };
    world
        .pull_with("app:v1", &options, Some(&source))
        .await
        .unwrap();
    let without = broker(&[(
        "default/security-policy/image",
        policy.to_string().as_bytes(),
    )])
    .await;
    let error = world
        .pull_with("app:v1", &options, Some(&without))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("kbs:///default/cosign/key"), "{error}");
    let error = world
        .pull_with("app:v1", &options, None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("no broker"), "{error}");
}

#[tokio::test]
async fn cached_image_is_verified_again() {
    let Some(world) = World::start() else { return };
    world.push(&Image::of("x"), "app:v1");
    let cached = |policy: &serde_json::Value| PullOptions {
        cache: Some(world.path("cache")),
        ..options(policy)
    };
    world
        .pull_with("app:v1", &cached(&anything()), None)
        .await
        .unwrap();
    let policy = signed_by(&key().public_pem().unwrap());
    let error = world
        .pull_with("app:v1", &cached(&policy), None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("no signature exists"), "{error}");
    // What is in the cache is used only while it is what it was.
    let blobs = world.path("cache/blobs");
    let file = std::fs::read_dir(&blobs)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(&file, "something else").unwrap();
    world
        .pull_with("app:v1", &cached(&anything()), None)
        .await
        .unwrap();
    assert_eq!(world.read("etc/app.conf"), "x");
    assert_eq!(cached(&anything()).devices, Devices::Refuse);
}

#[tokio::test]
async fn mirror_is_used_and_the_name_that_was_asked_for_is_checked() {
    let Some(world) = World::start() else { return };
    world.push(&Image::of("x"), "mirrored/app:v1");
    let key = key();
    sign_it(&world, "mirrored/app:v1", &key).await;
    let registries = format!(
        "[[registry]]\nprefix = \"registry.invalid\"\n[[registry.mirror]]\nlocation = \"{}/mirrored\"\ninsecure = true\n",
        world.registry.address()
    );
    let dest = world.path("mirror");
    let pull = |policy| {
        let options = PullOptions {
            registries: Some(text(registries.clone())),
            ..options(&policy)
        };
        let dest = dest.clone();
        async move {
            drop(std::fs::remove_dir_all(&dest));
            strongroom_guest::image::pull("registry.invalid/app:v1", &dest, &options, None).await
        }
    };
    // The signature is for the mirror's name, which nobody asked for.
    let public = key.public_pem().unwrap();
    let error = pull(signed_by(&public)).await.err().unwrap().to_string();
    assert!(error.contains("match reference failed"), "{error}");
    let remapped = json!({ "default": [{
        "type": "sigstoreSigned",
        "keyData": public,
        "signedIdentity": { "type": "exactRepository", "dockerRepository": world.name("mirrored/app") },
    }] });
    pull(remapped).await.unwrap();
}

#[tokio::test]
async fn cosign_accepts_what_is_signed_here() {
    let (Some(world), Some(cosign)) = (World::start(), optional_peer("cosign")) else {
        return;
    };
    world.push(&Image::of("x"), "app:v1");
    let key = key();
    sign_it(&world, "app:v1", &key).await;
    // Signed twice by one key, there is still one signature of it.
    sign_it(&world, "app:v1", &key).await;
    std::fs::write(world.path("key.pub"), key.public_pem().unwrap()).unwrap();
    let verify = |name: &str| {
        Program::new(&cosign)
            .env("HOME", world.folder.path())
            .args([
                "verify",
                "--insecure-ignore-tlog=true",
                "--allow-http-registry",
                "--key",
            ])
            .arg(world.path("key.pub"))
            .arg(world.name(name))
            .run()
            .unwrap()
    };
    let verified: serde_json::Value =
        serde_json::from_slice(&verify("app:v1").expect_success().stdout).unwrap();
    assert_eq!(verified.as_array().unwrap().len(), 1);
    assert_eq!(
        verified[0]["critical"]["identity"]["docker-reference"],
        world.name("app")
    );
    world.push(&Image::of("y"), "app:v2");
    assert!(!verify("app:v2").status.success());
}

#[tokio::test]
async fn what_cosign_signs_is_accepted_under_its_tag_and_as_a_referrer() {
    let (Some(world), Some(cosign)) = (World::start(), optional_peer("cosign")) else {
        return;
    };
    let cosign = |arguments: &[&str]| {
        Program::new(&cosign)
            .env("HOME", world.folder.path())
            .env("COSIGN_PASSWORD", "pw")
            .env("COSIGN_EXPERIMENTAL", "1")
            .folder(world.folder.path())
            .args(arguments)
            .run()
            .unwrap()
            .expect_success()
    };
    drop(cosign(&[
        "generate-key-pair",
        "--output-key-prefix",
        "ours",
    ]));
    let public = std::fs::read_to_string(world.path("ours.pub")).unwrap();
    // The key that cosign encrypted is not read; the message says what to do.
    let encrypted = std::fs::read(world.path("ours.key")).unwrap();
    assert!(
        SigningKey::parse_pem(&encrypted)
            .err()
            .unwrap()
            .to_string()
            .contains("sign with cosign itself")
    );
    for (name, mode) in [("tagged:v1", "legacy"), ("referred:v1", "oci-1-1")] {
        let digest = world.push(&Image::of(name), name);
        let repository = name.split(':').next().unwrap();
        let image = world.name(&format!("{repository}@{digest}"));
        cosign(&[
            "sign",
            "-y",
            "--key",
            "ours.key",
            "--tlog-upload=false",
            "--allow-http-registry",
            &format!("--registry-referrers-mode={mode}"),
            &image,
        ]);
        let pulled = world.pull(name, &signed_by(&public)).await.unwrap();
        assert!(matches!(
            pulled.admitted.as_slice(),
            [Admitted::CosignSignature(_)]
        ));
        // As base64 of the PEM, as containers/image has it.
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(&public);
        world.pull(name, &signed_by(&encoded)).await.unwrap();
        let exact = json!({ "default": [{ "type": "sigstoreSigned", "keyData": public, "signedIdentity": { "type": "matchExact" } }] });
        let error = world.refused(name, &exact).await;
        assert!(error.contains("matchRepository"), "{error}");
    }
}
