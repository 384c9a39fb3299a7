//! fake-gcs-server, and a web server for what it does not look at: who asks.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use strongroom_scoring::storage::{Credentials, Storage};
use strongroom_testkit::storage::{StorageServer, WebServer, request, served};

use crate::{assert_kept, bytes, conforms, credential, location, read, storage};

fn with(url: &str, private_key: &str) -> Storage {
    let account = format!(
        r#"{{"type": "service_account", "client_email": "scorer@bank.example", "private_key_id": "one",
            "private_key": {private_key:?}, "gcs_base_url": {url:?}}}"#
    );
    storage(Credentials {
        gcs_credentials: Some(credential(&account)),
        ..Credentials::default()
    })
}

fn private_key() -> String {
    let key = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let der =
        aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key).unwrap();
    let text = BASE64_STANDARD.encode(der.as_ref());
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

#[test]
fn google_reads_or_lists_otherwise() {
    let Some(server) = StorageServer::fake_gcs() else {
        return;
    };
    let made = |target: &str, kind: &str, body: &[u8]| {
        let (status, _) = request(&server.url, "POST", target, &[("Content-Type", kind)], body);
        assert_eq!(status, 200);
    };
    made(
        "/storage/v1/b?project=x",
        "application/json",
        br#"{"name": "batches"}"#,
    );
    let whole = bytes(300_000);
    for name in ["a/x.csv", "a/y.csv", "a/z.txt"] {
        let target = format!("/upload/storage/v1/b/batches/o?uploadType=media&name={name}");
        made(&target, "text/csv", &whole);
    }
    let storage = with(&server.url, &private_key());
    assert!(read(&storage, &location("gs://batches/a/x.csv")).unwrap() == whole);
    let found = storage.list(&location("gs://batches/a/*.csv")).unwrap();
    let names: Vec<_> = found
        .iter()
        .map(|entry| entry.location.to_string())
        .collect();
    assert_eq!(names, ["gs://batches/a/x.csv", "gs://batches/a/y.csv"]);
    let none = storage.open(&location("gs://batches/none")).err().unwrap();
    assert!(none.is_not_found(), "{none}");
}

/// Google's XML API for writing is S3's but for who asks, which moto does not look at, and for the header that refuses to
/// replace, so that only what is seen beforehand is refused here.
#[test]
fn google_is_written_to_otherwise() {
    let Some(server) = StorageServer::moto() else {
        return;
    };
    let (status, _) = request(&server.url, "PUT", "/batches", &[], b"");
    assert_eq!(status, 200);
    conforms(&with(&server.url, &private_key()), "gs://batches/a");
}

#[test]
fn google_is_asked_without_a_token_of_the_service_account() {
    let object = bytes(100_000);
    let body = object.clone();
    let server = WebServer::start(move |seen| {
        let mut steps = served(seen, &body, "\"one\"");
        // What Google's answers have besides.
        if let Some(strongroom_testkit::storage::Step::Send(answer)) = steps.first_mut() {
            let head = b"HTTP/1.1 206 Partial Content\r\n".len();
            let date = b"Last-Modified: Mon, 01 Jan 2029 00:00:00 GMT\r\n";
            answer.splice(head..head, date.iter().copied());
        }
        steps
    });
    let key = private_key();
    let storage = with(&server.url(), &key);
    assert!(read(&storage, &location("gs://batches/a/x.csv")).unwrap() == object);
    let seen = server.seen();
    assert_eq!(seen[0].target, "/batches/a%2Fx%2Ecsv");
    let bearer = seen[0]
        .header("authorization")
        .unwrap()
        .strip_prefix("Bearer ")
        .unwrap();
    let claims = bearer.split('.').nth(1).unwrap();
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["iss"], "scorer@bank.example");

    let refusing = WebServer::start(|seen| {
        let bearer = seen.header("authorization").unwrap();
        let body = format!("<Error><Code>AccessDenied</Code><Details>{bearer}</Details></Error>");
        let head = format!(
            "HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        vec![strongroom_testkit::storage::Step::Send(head.into_bytes())]
    });
    let refused = with(&refusing.url(), &key)
        .open(&location("gs://batches/x"))
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("403 AccessDenied"),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("scorer@bank.example"),
        "{refused}"
    );
    let bearer = refusing.seen()[0]
        .header("authorization")
        .unwrap()
        .replace("Bearer ", "");
    let line = key.lines().nth(1).unwrap().to_owned();
    assert_kept(&refused, &[&bearer, &line]);
}
