//! Images made byte by byte, a registry to push them to, and a stand-in for the guest that hands out the broker's secrets.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use strongroom_client::GuestApi;
use strongroom_guest::Placement;
use strongroom_guest::Source;
use strongroom_guest::image::{Document, ImageError, PullOptions, PulledImage, pull};
use strongroom_testkit::fixtures::peer;
use strongroom_testkit::process::Program;
use strongroom_testkit::registry::{Admission, Registry};
use strongroom_wire::image::digest::Digest;
use strongroom_wire::image::signing_key::SigningKey;
use zeroize::Zeroizing;

/// A registry and the program that pushes to it.
pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) skopeo: PathBuf,
    pub(crate) folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn start() -> Option<Self> {
        Self::start_for(Admission::Anyone)
    }

    pub(crate) fn start_for(admission: Admission) -> Option<Self> {
        let skopeo = peer("skopeo")?;
        let registry = Registry::start(admission)?;
        Some(Self {
            registry,
            skopeo,
            folder: tempfile::tempdir().unwrap(),
        })
    }

    /// The name of an image in the registry.
    pub(crate) fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.address())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Pushes an image as skopeo does; gives the digest of its manifest.
    pub(crate) fn push(&self, image: &Image, name: &str) -> Digest {
        let layout = tempfile::tempdir().unwrap();
        image.write_layout(layout.path(), "it");
        self.skopeo(&[
            "copy",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &format!("oci:{}:it", layout.path().display()),
            &format!("docker://{}", self.name(name)),
        ]);
        self.digest(name)
    }

    pub(crate) fn digest(&self, name: &str) -> Digest {
        let raw = self.skopeo(&[
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{}", self.name(name)),
        ]);
        Digest::sha256(&raw)
    }

    pub(crate) fn skopeo(&self, arguments: &[&str]) -> Vec<u8> {
        let finished = Program::new(&self.skopeo)
            .arg("--insecure-policy")
            .args(arguments)
            .run()
            .unwrap();
        finished.expect_success().stdout
    }

    /// Copies an image or a signature from one name to another, within the registry.
    pub(crate) fn copy(&self, from: &str, to: &str) {
        self.skopeo(&[
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            &format!("docker://{}", self.name(from)),
            &format!("docker://{}", self.name(to)),
        ]);
    }

    /// Pulls with a policy.
    pub(crate) async fn pull(&self, name: &str, policy: &Value) -> Result<PulledImage, ImageError> {
        self.pull_with(name, &options(policy), None).await
    }

    pub(crate) async fn pull_with(
        &self,
        name: &str,
        options: &PullOptions,
        source: Option<&Source>,
    ) -> Result<PulledImage, ImageError> {
        let dest = self.path("bundle");
        drop(std::fs::remove_dir_all(&dest));
        let outcome = pull(&self.name(name), &dest, options, source).await;
        assert_eq!(
            dest.exists(),
            outcome.is_ok(),
            "a refused image leaves nothing"
        );
        outcome
    }

    /// Why an image is refused.
    pub(crate) async fn refused(&self, name: &str, policy: &Value) -> String {
        self.pull(name, policy).await.err().unwrap().to_string()
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path("bundle/rootfs").join(path)).unwrap()
    }
}

pub(crate) fn options(policy: &Value) -> PullOptions {
    PullOptions {
        policy: Some(text(policy.to_string())),
        // Tests write to whatever disk there is.
        placement: Placement::InsecureAnyFilesystem,
        ..PullOptions::default()
    }
}

pub(crate) fn text(text: impl Into<Vec<u8>>) -> Document {
    Document::Text(Zeroizing::new(text.into()))
}

pub(crate) fn anything() -> Value {
    json!({ "default": [{ "type": "insecureAcceptAnything" }] })
}

/// Everything must be signed by a cosign-format key.
pub(crate) fn signed_by(public_pem: &str) -> Value {
    json!({ "default": [{ "type": "sigstoreSigned", "keyData": public_pem }] })
}

pub(crate) fn key() -> SigningKey {
    let pem = Program::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .run()
        .unwrap()
        .expect_success()
        .stdout;
    SigningKey::parse_pem(&pem).unwrap()
}

/// An image before it is pushed.
pub(crate) struct Image {
    pub(crate) layers: Vec<Layer>,
    pub(crate) architecture: &'static str,
}

/// A layer as it lies in the registry, and the digest of what it unpacks to.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) diff_id: Digest,
    pub(crate) media_type: String,
    pub(crate) annotations: Value,
}

impl Image {
    /// One layer with one file.
    pub(crate) fn of(content: &str) -> Self {
        Self::with(vec![Layer::gzip(&files(&[("etc/app.conf", content)]))])
    }

    pub(crate) fn with(layers: Vec<Layer>) -> Self {
        Self {
            layers,
            architecture: "amd64",
        }
    }

    fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<&Digest> = self.layers.iter().map(|layer| &layer.diff_id).collect();
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": { "Entrypoint": ["/bin/app"], "Env": ["A=b"], "User": "7:8" },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
        .to_string()
        .into_bytes()
    }

    /// Writes manifest, configuration and layers; gives the manifest's descriptor.
    pub(crate) fn write_blobs(&self, folder: &Path) -> Value {
        let blob = |bytes: &[u8]| {
            let digest = Digest::sha256(bytes);
            let blobs = folder.join("blobs/sha256");
            std::fs::create_dir_all(&blobs).unwrap();
            std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
            json!({ "digest": digest, "size": bytes.len() })
        };
        let typed = |mut descriptor: Value, kind: &str| {
            descriptor["mediaType"] = kind.into();
            descriptor
        };
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| {
                let mut descriptor = typed(blob(&layer.bytes), &layer.media_type);
                if !layer.annotations.is_null() {
                    descriptor["annotations"] = layer.annotations.clone();
                }
                descriptor
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": typed(blob(&self.config()), "application/vnd.oci.image.config.v1+json"),
            "layers": layers,
        });
        typed(
            blob(manifest.to_string().as_bytes()),
            "application/vnd.oci.image.manifest.v1+json",
        )
    }

    pub(crate) fn write_layout(&self, folder: &Path, tag: &str) {
        let mut descriptor = self.write_blobs(folder);
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        write_index(folder, &[descriptor]);
    }
}

pub(crate) fn write_index(folder: &Path, manifests: &[Value]) {
    std::fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
}

impl Layer {
    pub(crate) fn plain(tar: &[u8]) -> Self {
        Self::new(tar, tar.to_vec(), "application/vnd.oci.image.layer.v1.tar")
    }

    pub(crate) fn gzip(tar: &[u8]) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(tar).unwrap();
        Self::new(
            tar,
            encoder.finish().unwrap(),
            "application/vnd.oci.image.layer.v1.tar+gzip",
        )
    }

    /// As the program `zstd` compresses it.
    pub(crate) fn zstd(tar: &[u8]) -> Option<Self> {
        let program = peer("zstd")?;
        let compressed = Program::new(program)
            .args(["-q", "-19", "-c"])
            .input(tar)
            .run()
            .unwrap();
        let compressed = compressed.expect_success().stdout;
        Some(Self::new(
            tar,
            compressed,
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ))
    }

    pub(crate) fn new(tar: &[u8], bytes: Vec<u8>, media_type: &str) -> Self {
        Self {
            bytes,
            diff_id: Digest::sha256(tar),
            media_type: media_type.to_owned(),
            annotations: Value::Null,
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::sha256(&self.bytes)
    }
}

/// A tar file with these files.
pub(crate) fn files(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        entry(&mut builder, tar::EntryType::Regular, path, "", content);
    }
    builder.into_inner().unwrap()
}

/// An entry with any name, however hostile.
pub(crate) fn entry(
    builder: &mut tar::Builder<Vec<u8>>,
    kind: tar::EntryType,
    path: &str,
    link: &str,
    content: &str,
) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000);
    let raw = header.as_old_mut();
    raw.name[..path.len()].copy_from_slice(path.as_bytes());
    raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, content.as_bytes()).unwrap();
}

/// Hands out resources as a guest's REST API does.
pub(crate) async fn broker(resources: &[(&str, &[u8])]) -> Source {
    let resources: BTreeMap<String, Vec<u8>> = resources
        .iter()
        .map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec()))
        .collect();
    let app = Router::new()
        .route(
            "/cdh/resource/{*path}",
            get(
                |State(resources): State<Arc<BTreeMap<String, Vec<u8>>>>,
                 UrlPath(path): UrlPath<String>| async move {
                    resources
                        .get(&path)
                        .cloned()
                        .ok_or((StatusCode::NOT_FOUND, "there is no such resource"))
                },
            ),
        )
        .with_state(Arc::new(resources));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    Source::Rest(GuestApi::new(&url).unwrap())
}
