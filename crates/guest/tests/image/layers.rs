//! Layers: compressions, order, whiteouts, indexes, and tar files that try to get out.

use serde_json::json;
use strongroom_guest::config::ImageConfig;
use strongroom_guest::image::owner::{Access, sign};
use strongroom_guest::image::{Devices, Limits, Progress, PullOptions};
use strongroom_wire::image::digest::Digest;
use strongroom_wire::image::manifest::Platform;
use strongroom_wire::image::reference::Reference;
use tar::EntryType;

use crate::support::{
    Image, Layer, World, anything, entry, files, key, options, signed_by, write_index,
};

#[tokio::test]
async fn layers_of_every_compression_are_applied_in_their_order() {
    let Some(world) = World::start() else { return };
    let Some(zstd) = Layer::zstd(&files(&[("a", "2"), ("only/zstd", "z"), (".wh.gone", "")]))
    else {
        return;
    };
    let first = files(&[("a", "1"), ("b", "1"), ("gone", "1"), ("d/old", "1")]);
    let third = files(&[("b", "3"), ("d/.wh..wh..opq", ""), ("d/new", "3")]);
    let big = "x".repeat(3_000_000);
    let image = Image::with(vec![
        Layer::gzip(&first),
        zstd,
        Layer::plain(&third),
        Layer::gzip(&files(&[("big", &big)])),
        Layer::gzip(&files(&[])),
    ]);
    world.push(&image, "app:v1");
    let events = std::sync::Arc::new(std::sync::Mutex::new((0_u64, 0_usize)));
    let seen = std::sync::Arc::clone(&events);
    let options = PullOptions {
        progress: std::sync::Arc::new(move |event| {
            let mut seen = seen.lock().unwrap();
            match event {
                Progress::Fetched(bytes) => seen.0 += bytes,
                Progress::Unpacked => seen.1 += 1,
                _ => {}
            }
        }),
        ..options(&anything())
    };
    world.pull_with("app:v1", &options, None).await.unwrap();
    assert_eq!((world.read("a"), world.read("b")), ("2".into(), "3".into()));
    assert_eq!(world.read("only/zstd"), "z");
    assert_eq!(world.read("d/new"), "3");
    assert_eq!(world.read("big"), big);
    for gone in ["gone", "d/old", ".wh.gone"] {
        assert!(!world.path("bundle/rootfs").join(gone).exists(), "{gone}");
    }
    let bytes: u64 = image
        .layers
        .iter()
        .map(|layer| layer.bytes.len() as u64)
        .sum();
    assert_eq!(*events.lock().unwrap(), (bytes, image.layers.len()));
    assert_eq!(
        std::fs::read_dir(world.path("bundle")).unwrap().count(),
        2,
        "the layers themselves are gone"
    );
}

#[tokio::test]
async fn image_that_tries_to_get_out_is_refused_whole() {
    let Some(world) = World::start() else { return };
    let outside = world.path("outside");
    std::fs::create_dir(&outside).unwrap();
    for (number, (path, why)) in [
        ("../outside/evil", ".. in it"),
        ("/etc/evil", "absolute"),
        ("a/../../../outside/evil", ".. in it"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut tar = tar::Builder::new(Vec::new());
        entry(&mut tar, EntryType::Regular, "innocent", "", "x");
        entry(&mut tar, EntryType::Regular, path, "", "evil");
        let name = format!("evil:v{number}");
        world.push(
            &Image::with(vec![Layer::gzip(&tar.into_inner().unwrap())]),
            &name,
        );
        let error = world.refused(&name, &anything()).await;
        assert!(
            error.contains("layer 1") && error.contains(why) && error.contains("evil"),
            "{error}"
        );
    }
    let mut tar = tar::Builder::new(Vec::new());
    entry(
        &mut tar,
        EntryType::Symlink,
        "link",
        outside.to_str().unwrap(),
        "",
    );
    entry(&mut tar, EntryType::Regular, "link/evil", "", "evil");
    world.push(
        &Image::with(vec![Layer::gzip(&tar.into_inner().unwrap())]),
        "evil:link",
    );
    drop(world.pull("evil:link", &anything()).await);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[tokio::test]
async fn device_nodes_are_refused_unless_allowed() {
    let Some(world) = World::start() else { return };
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Char);
    header.set_path("dev/null").unwrap();
    header.set_size(0);
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_mode(0o666);
    header.set_cksum();
    tar.append(&header, &[][..]).unwrap();
    world.push(
        &Image::with(vec![Layer::gzip(&tar.into_inner().unwrap())]),
        "dev:v1",
    );
    let error = world.refused("dev:v1", &anything()).await;
    assert!(error.contains("--allow-devices"), "{error}");
    let allowed = PullOptions {
        devices: Devices::Allow,
        ..options(&anything())
    };
    // Not every system lets its root make one; none makes it silently.
    if let Err(error) = world.pull_with("dev:v1", &allowed, None).await {
        assert!(error.to_string().contains("dev/null"), "{error}");
    }
}

#[tokio::test]
async fn layer_that_unpacks_to_something_else_is_refused() {
    let Some(world) = World::start() else { return };
    let mut layer = Layer::gzip(&files(&[("a", "b")]));
    layer.diff_id = Digest::sha256(b"something else");
    world.push(&Image::with(vec![layer]), "app:v1");
    let error = world.refused("app:v1", &anything()).await;
    assert!(error.contains("diff_id"), "{error}");
    let garbage = Layer::new(
        b"",
        b"no gzip at all".to_vec(),
        "application/vnd.oci.image.layer.v1.tar+gzip",
    );
    world.push(&Image::with(vec![garbage]), "app:v2");
    let error = world.refused("app:v2", &anything()).await;
    assert!(error.contains("does not decompress"), "{error}");
}

#[tokio::test]
async fn index_gives_the_image_of_this_platform_and_a_signature_on_either_counts() {
    let Some(world) = World::start() else { return };
    let layout = world.path("layout");
    let mut manifests = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let image = Image {
            architecture,
            ..Image::of(architecture)
        };
        let mut descriptor = image.write_blobs(&layout);
        descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
        manifests.push(descriptor);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests }).to_string();
    let digest = Digest::sha256(index.as_bytes());
    std::fs::write(layout.join("blobs/sha256").join(digest.hex()), &index).unwrap();
    write_index(
        &layout,
        &[json!({
            "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": index.len(),
            "annotations": { "org.opencontainers.image.ref.name": "it" },
        })],
    );
    world.skopeo(&[
        "copy",
        "--all",
        "--dest-tls-verify=false",
        &format!("oci:{}:it", layout.display()),
        &format!("docker://{}", world.name("multi:v1")),
    ]);
    let key = key();
    let policy = signed_by(&key.public_pem().unwrap());
    assert!(
        world
            .refused("multi:v1", &policy)
            .await
            .contains("no signature exists")
    );
    let image: Reference = world.name("multi:v1").parse().unwrap();
    let signed = sign(&image, &key, None, &Access::default()).await.unwrap();
    assert_eq!(signed.signed.len(), 3, "the index and both images");
    for architecture in ["amd64", "arm64"] {
        let options = PullOptions {
            platform: Platform {
                os: "linux".into(),
                architecture: architecture.into(),
                ..Platform::default()
            },
            ..options(&policy)
        };
        let pulled = world.pull_with("multi:v1", &options, None).await.unwrap();
        assert_eq!(world.read("etc/app.conf"), architecture);
        assert_eq!(pulled.index_digest, Some(digest));
        assert_ne!(pulled.manifest_digest, digest);
    }
    let options = PullOptions {
        platform: Platform {
            os: "linux".into(),
            architecture: "riscv64".into(),
            ..Platform::default()
        },
        ..options(&policy)
    };
    let error = world
        .pull_with("multi:v1", &options, None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("linux/amd64, linux/arm64"), "{error}");
}

#[tokio::test]
async fn image_that_is_larger_or_has_more_names_than_it_may_fills_the_machine() {
    let Some(world) = World::start() else { return };
    let big = "x".repeat(100_000);
    let tar = files(&[("a", "1"), ("b/c", "2"), ("big", &big)]);
    world.push(&Image::with(vec![Layer::gzip(&tar)]), "app:v1");
    let with = |limits: Limits| PullOptions {
        limits,
        ..options(&anything())
    };
    let small = Limits {
        bytes: 50_000,
        ..Limits::default()
    };
    let few = Limits {
        entries: 2,
        ..Limits::default()
    };
    for (limits, words) in [
        (small, "larger than an image may be"),
        (few, "more entries"),
    ] {
        let error = world.pull_with("app:v1", &with(limits), None).await;
        let error = error.err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
    }
    let named = PullOptions::from_config(&ImageConfig {
        max_image_size: Some(50_000),
        ..ImageConfig::default()
    });
    assert_eq!(named.unwrap().limits.bytes, 50_000);
}

#[tokio::test]
async fn many_small_layers_are_fetched_in_the_order_of_their_places() {
    let Some(world) = World::start() else { return };
    let layers = (0..12).map(|number| Layer::gzip(&files(&[("n", &number.to_string())])));
    world.push(&Image::with(layers.collect()), "app:v1");
    let one_at_a_time = PullOptions {
        concurrency: 1,
        ..options(&anything())
    };
    world
        .pull_with("app:v1", &one_at_a_time, None)
        .await
        .unwrap();
    assert_eq!(world.read("n"), "11");
    // What was fetched lies nowhere any more.
    let left = world.path("bundle").read_dir().unwrap().count();
    assert_eq!(left, 2);
}

#[tokio::test]
async fn destination_with_something_in_it_is_left_alone() {
    let Some(world) = World::start() else { return };
    world.push(&Image::of("x"), "app:v1");
    let dest = world.path("mine");
    std::fs::create_dir(&dest).unwrap();
    std::fs::write(dest.join("precious"), "x").unwrap();
    let error =
        strongroom_guest::image::pull(&world.name("app:v1"), &dest, &options(&anything()), None)
            .await
            .err()
            .unwrap()
            .to_string();
    assert!(error.contains("not empty"), "{error}");
    assert!(dest.join("precious").exists());
}
