//! Logins, redirects, and a connection that breaks: what a registry may ask for, and what it never gets.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use serde_json::json;
use strongroom_guest::image::owner::{Access, sign};
use strongroom_guest::image::{Document, PullOptions, pull};
use strongroom_testkit::registry::Admission;
use strongroom_wire::image::digest::Digest;
use tokio::sync::Semaphore;

use crate::support::{Image, Layer, World, anything, files, key, options, signed_by, text};

fn login(host: &str, password: &str) -> Document {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("owner:{password}"));
    text(json!({ "auths": { host: { "auth": auth } } }).to_string())
}

#[tokio::test]
async fn login_is_given_where_it_is_asked_for() {
    let Some(world) = World::start_for(Admission::Password) else {
        return;
    };
    let layout = world.path("layout");
    Image::of("x").write_layout(&layout, "it");
    world.skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        "--dest-creds=owner:correct horse",
        &format!("oci:{}:it", layout.display()),
        &format!("docker://{}", world.name("app:v1")),
    ]);
    let host = world.registry.address();
    let error = world.refused("app:v1", &anything()).await;
    assert!(
        error.contains("HTTP 401") && error.contains("no login"),
        "{error}"
    );
    let with = |credentials| PullOptions {
        credentials: Some(credentials),
        ..options(&anything())
    };
    let error = world
        .pull_with("app:v1", &with(login(host, "wrong")), None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("is not accepted") && !error.contains("wrong"),
        "{error}"
    );
    world
        .pull_with("app:v1", &with(login(host, "correct horse")), None)
        .await
        .unwrap();

    let access = Access {
        credentials: Some(login(host, "correct horse")),
        ..Access::default()
    };
    let key = key();
    sign(&world.name("app:v1").parse().unwrap(), &key, None, &access)
        .await
        .unwrap();
    let signed = PullOptions {
        credentials: Some(login(host, "correct horse")),
        ..options(&signed_by(&key.public_pem().unwrap()))
    };
    world.pull_with("app:v1", &signed, None).await.unwrap();
}

type Shared<T> = Arc<Mutex<Vec<T>>>;

/// A digest, and what lets its blob come.
type Held = (String, Arc<Semaphore>);

/// A registry that hands out tokens, sends layers elsewhere, and breaks the first connection in the middle.
#[derive(Clone, Default)]
struct Fake {
    files: Shared<(String, Vec<u8>)>,
    /// Path and Authorization header of each request.
    seen: Shared<(String, Option<String>)>,
    broke: Arc<Mutex<bool>>,
    /// Where layers lie.
    elsewhere: Arc<Mutex<String>>,
    /// Where tokens are to be had, if not here.
    realm: Arc<Mutex<Option<String>>>,
    /// A layer that does not come before this many permits are there.
    held: Arc<Mutex<Option<Held>>>,
}

impl Fake {
    async fn serve(self) -> String {
        let app = Router::new().fallback(answer).with_state(self);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }
}

async fn answer(State(fake): State<Fake>, request: Request) -> Response {
    let held = fake.held.lock().unwrap().clone();
    let wanted = format!("/elsewhere/{}", held.as_ref().map_or("", |(held, _)| held));
    if let Some((_, release)) = held.filter(|_| request.uri().path() == wanted) {
        fake.seen.lock().unwrap().push((wanted, None));
        release.acquire().await.unwrap().forget();
    }
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let path = request.uri().to_string();
    let authorization = header("authorization");
    fake.seen
        .lock()
        .unwrap()
        .push((path.clone(), authorization.clone()));
    if path.starts_with("/token") {
        assert!(
            path.contains("scope=repository%3Aapp%3Apull") && path.contains("service=here"),
            "{path}"
        );
        return json!({ "token": "a-token" }).to_string().into_response();
    }
    if let Some(digest) = path.strip_prefix("/elsewhere/") {
        let files = fake.files.lock().unwrap();
        let Some((_, bytes)) = files.iter().find(|(name, _)| name.ends_with(digest)) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let from: usize = header("range")
            .and_then(|range| {
                range
                    .strip_prefix("bytes=")?
                    .strip_suffix('-')?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        let rest = bytes[from..].to_vec();
        let mut broke = fake.broke.lock().unwrap();
        if !*broke && rest.len() > 1000 {
            *broke = true;
            let half = rest[..rest.len() / 2].to_vec();
            let stream = futures_of([Ok(half), Err(std::io::Error::other("the line broke"))]);
            return Response::builder()
                .header("content-length", rest.len())
                .body(stream)
                .unwrap();
        }
        let status = if from > 0 {
            StatusCode::PARTIAL_CONTENT
        } else {
            StatusCode::OK
        };
        return (status, rest).into_response();
    }
    if authorization.as_deref() != Some("Bearer a-token") {
        let host = header("host").unwrap();
        let mut headers = HeaderMap::new();
        let realm = fake.realm.lock().unwrap().clone();
        let realm = realm.unwrap_or_else(|| format!("http://{host}/token"));
        let challenge = format!("Bearer realm=\"{realm}\",service=\"here\"");
        headers.insert("www-authenticate", challenge.parse().unwrap());
        return (StatusCode::UNAUTHORIZED, headers, "{}").into_response();
    }
    if path.contains("/blobs/") {
        let digest = path.rsplit('/').next().unwrap();
        let place = format!("{}/elsewhere/{digest}", fake.elsewhere.lock().unwrap());
        return (StatusCode::TEMPORARY_REDIRECT, [("location", place)]).into_response();
    }
    let files = fake.files.lock().unwrap();
    match files.iter().find(|(name, _)| *name == path) {
        Some((_, bytes)) => bytes.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A body that comes in pieces.
fn futures_of(pieces: [Result<Vec<u8>, std::io::Error>; 2]) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    for piece in pieces {
        sender.try_send(piece).unwrap();
    }
    Body::from_stream(Pieces(receiver))
}

struct Pieces(tokio::sync::mpsc::Receiver<Result<Vec<u8>, std::io::Error>>);

impl futures_core::Stream for Pieces {
    type Item = Result<Vec<u8>, std::io::Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

#[tokio::test]
async fn token_goes_to_no_redirect_and_a_broken_download_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let content: String = (0..60_000).map(|number| format!("{number} ")).collect();
    let image = Image::of(&content);
    image.write_layout(folder.path(), "it");
    let fake = Fake::default();
    for entry in std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let digest = Digest::sha256(&bytes);
        let is_manifest = bytes.windows(15).any(|part| part == b"\"schemaVersion\"");
        let name = match is_manifest {
            true => "/v2/app/manifests/v1".to_owned(),
            false => format!("/v2/app/blobs/{digest}"),
        };
        fake.files.lock().unwrap().push((name, bytes));
    }
    // Layers lie elsewhere at the registry: on this machine, no other place may be named.
    let address = fake.clone().serve().await;
    *fake.elsewhere.lock().unwrap() = format!("http://{address}");
    let dest = folder.path().join("bundle");
    let pulled = pull(
        &format!("{address}/app:v1"),
        &dest,
        &options(&anything()),
        None,
    )
    .await
    .unwrap();
    assert_eq!(
        std::fs::read_to_string(pulled.rootfs.join("etc/app.conf")).unwrap(),
        content
    );
    assert!(*fake.broke.lock().unwrap());
    let seen = fake.seen.lock().unwrap();
    for (path, authorization) in seen
        .iter()
        .filter(|(path, _)| path.starts_with("/elsewhere/"))
    {
        assert_eq!(*authorization, None, "{path}");
    }
    assert_eq!(
        seen.iter()
            .filter(|(path, _)| path.starts_with("/token"))
            .count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_run_ahead_of_a_layer_that_does_not_come() {
    let folder = tempfile::tempdir().unwrap();
    let layers = (0..12).map(|number| Layer::gzip(&files(&[("n", &number.to_string())])));
    let image = Image::with(layers.collect());
    image.write_layout(folder.path(), "it");
    let fake = Fake::default();
    for entry in std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let is_manifest = bytes.windows(15).any(|part| part == b"\"schemaVersion\"");
        let name = match is_manifest {
            true => "/v2/app/manifests/v1".to_owned(),
            false => format!("/v2/app/blobs/{}", Digest::sha256(&bytes)),
        };
        fake.files.lock().unwrap().push((name, bytes));
    }
    *fake.broke.lock().unwrap() = true;
    let release = Arc::new(Semaphore::new(0));
    let first = Digest::sha256(&image.layers[0].bytes).to_string();
    *fake.held.lock().unwrap() = Some((first, Arc::clone(&release)));
    let address = fake.clone().serve().await;
    *fake.elsewhere.lock().unwrap() = format!("http://{address}");
    let asked = format!("{address}/app:v1");
    let dest = folder.path().join("bundle");
    let two = PullOptions {
        concurrency: 2,
        ..options(&anything())
    };
    let pulling = tokio::spawn({
        let dest = dest.clone();
        async move { pull(&asked, &dest, &two, None).await.map(drop) }
    });
    let fetched = || {
        let seen = fake.seen.lock().unwrap();
        let paths = seen.iter().map(|(path, _)| path.clone());
        // The image's configuration lies there as well.
        let layers = paths
            .filter(|path| path.starts_with("/elsewhere/"))
            .collect::<HashSet<_>>();
        layers.len().saturating_sub(1)
    };
    while fetched() < 4 {
        tokio::task::yield_now().await;
    }
    // Had the others been asked for, they would have come by now.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(fetched(), 4);
    release.add_permits(1);
    pulling.await.unwrap().unwrap();
    assert_eq!(
        std::fs::read_to_string(dest.join("rootfs/n")).unwrap(),
        "11"
    );
}

/// The attack: what the guest's own API answers would go to the registry as its token, or be asked for as a layer.
#[tokio::test]
async fn registry_that_sends_the_guest_to_the_guests_own_api() {
    let folder = tempfile::tempdir().unwrap();
    let api = Fake::default();
    let own = api.clone().serve().await;
    let refused = async |fake: &Fake, words: &str| {
        let address = fake.clone().serve().await;
        let dest = folder.path().join("bundle");
        let image = format!("{address}/app:v1");
        let error = pull(&image, &dest, &options(&anything()), None).await;
        let error = error.err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!dest.exists());
        assert!(api.seen.lock().unwrap().is_empty());
    };
    let fake = Fake::default();
    *fake.realm.lock().unwrap() = Some(format!("http://{own}/aa/token?token_type=kbs"));
    refused(&fake, "it wants a token from this machine itself").await;

    let fake = Fake::default();
    Image::of("x").write_layout(folder.path(), "it");
    for entry in std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        if bytes.windows(15).any(|part| part == b"\"schemaVersion\"") {
            let name = "/v2/app/manifests/v1".to_owned();
            fake.files.lock().unwrap().push((name, bytes));
        }
    }
    *fake.elsewhere.lock().unwrap() = format!("http://{own}/cdh/resource");
    refused(&fake, "it redirects to this machine itself").await;
}

#[tokio::test]
async fn registry_beyond_this_machine_is_never_spoken_to_without_tls() {
    let folder = tempfile::tempdir().unwrap();
    let image = "registry.invalid:5000/app:v1";
    let error = pull(image, &folder.path().join("a"), &options(&anything()), None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("registry.invalid:5000"), "{error}");
    let blocked = PullOptions {
        registries: Some(text(
            "[[registry]]\nprefix = \"registry.invalid:5000\"\nblocked = true\n",
        )),
        ..options(&anything())
    };
    let error = pull(image, &folder.path().join("b"), &blocked, None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("blocked"), "{error}");
}
