//! fake-gcs-server, and a web server for what it does not look at: who asks.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use strongroom_scoring::storage::{Cause, Credentials, Existing, Storage};
use strongroom_testkit::storage::{StorageServer, WebServer, request, served};

use crate::{assert_kept, bytes, credential, location, read, storage, write};

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
    let (status, _) = request(
        &server.url,
        "POST",
        "/storage/v1/b?project=x",
        &[("Content-Type", "application/json")],
        br#"{"name": "batches"}"#,
    );
    assert_eq!(status, 200);
    let storage = with(&server.url, &private_key());
    let whole = bytes(300_000);
    write(
        &storage,
        &location("gs://batches/a/x.csv"),
        &whole,
        Existing::Refuse,
    )
    .unwrap();
    assert!(read(&storage, &location("gs://batches/a/x.csv")).unwrap() == whole);
    assert!(
        storage
            .open(&location("gs://batches/none"))
            .err()
            .unwrap()
            .is_not_found()
    );
    let again = write(
        &storage,
        &location("gs://batches/a/x.csv"),
        b"x",
        Existing::Refuse,
    );
    assert_eq!(again.unwrap_err().cause, Cause::Exists);
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
    assert_eq!(seen[0].target, "/batches/a%2Fx.csv");
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
