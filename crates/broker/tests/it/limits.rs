//! What a client may send, how much and how slowly; and what it hears when there is nothing.

use reqwest::{Method, StatusCode};
use strongroom_wire::error_information::ErrorInformation;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Answer, Guest, Running};

async fn send(broker: &Running, method: Method, path: &str, body: Vec<u8>) -> Answer {
    Answer::of(
        broker
            .request(method, path)
            .body(body)
            .send()
            .await
            .unwrap(),
    )
    .await
}

#[tokio::test]
async fn oversized_bodies_are_413_everywhere() {
    let broker =
        Running::start(|config| config.replace("body_bytes = 2097152", "body_bytes = 4096")).await;
    let big = || vec![b' '; 4097];
    for path in [
        "/kbs/v0/auth",
        "/kbs/v0/attest",
        "/kbs/v0/resource-policy",
        "/kbs/v0/attestation-policy",
        "/kbs/v0/reference-value",
        "/kbs/v0/resource/a/b/c",
    ] {
        let answer = send(&broker, Method::POST, path, big()).await;
        answer.refused(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge");
        let answer = broker.admin(Method::POST, path, big()).await;
        answer.refused(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge");
    }
    broker
        .admin(Method::POST, "/kbs/v0/resource/a/b/c", vec![b'x'; 4096])
        .await
        .expect(StatusCode::OK);
}

#[tokio::test]
async fn unknown_routes_are_404_with_an_error_body() {
    let broker = Running::strict().await;
    for path in [
        "/",
        "/kbs",
        "/kbs/v0",
        "/kbs/v0/",
        "/kbs/v1/auth",
        "/strongroom/v1/",
        "/metrics",
    ] {
        for method in [Method::GET, Method::POST] {
            send(&broker, method, path, vec![])
                .await
                .refused(StatusCode::NOT_FOUND, "InvalidRequestPath");
        }
    }
    for (path, name) in [
        ("/kbs/v0/pkcs11/x", "pkcs11"),
        ("/kbs/v0/nebula-ca/credential?name=x", "nebula-ca"),
        ("/kbs/v0/other", "other"),
    ] {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            let said = send(&broker, method, path, vec![])
                .await
                .refused(StatusCode::NOT_FOUND, "PluginNotFound");
            assert!(said.contains(name), "{said}");
        }
    }
}

#[tokio::test]
async fn wrong_methods_are_405_with_an_error_body() {
    let broker = Running::strict().await;
    for (method, path) in [
        (Method::GET, "/kbs/v0/auth"),
        (Method::PUT, "/kbs/v0/attest"),
        (Method::PATCH, "/kbs/v0/resource/a/b/c"),
        (Method::DELETE, "/kbs/v0/resource-policy"),
        (Method::GET, "/kbs/v0/attestation-policy"),
        (Method::POST, "/healthz"),
    ] {
        send(&broker, method, path, vec![])
            .await
            .refused(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed");
    }
}

#[tokio::test]
async fn head_does_not_release() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let (_, token) = broker.attest(&Guest::new()).await;
    let before = broker.audit().await.len();
    let request = broker
        .request(Method::HEAD, "/kbs/v0/resource/a/b/c")
        .bearer_auth(token);
    assert_eq!(
        request.send().await.unwrap().status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(broker.audit().await.len(), before);
}

#[tokio::test]
async fn health_needs_nobody() {
    let broker = Running::strict().await;
    let answer = send(&broker, Method::GET, "/healthz", vec![])
        .await
        .expect(StatusCode::OK);
    assert!(answer.body.is_empty());
}

#[tokio::test]
async fn resource_that_is_not_named_is_400() {
    let broker = Running::strict().await;
    for path in ["/kbs/v0/resource", "/kbs/v0/resource/"] {
        send(&broker, Method::GET, path, vec![])
            .await
            .refused(StatusCode::BAD_REQUEST, "InvalidRequestPath");
    }
}

/// A broker without TLS, spoken to byte by byte: clients resolve `..` before they send it.
pub(crate) async fn raw(broker: &Running, request: &str) -> String {
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

pub(crate) async fn insecure(edit: impl FnOnce(String) -> String) -> Running {
    Running::start(|config| {
        let config = edit(config);
        let (before, rest) = config.split_once("[tls]").unwrap();
        let after = rest.split_once("\n# Secrets").unwrap().1;
        format!("insecure_http = true\n{before}\n# Secrets{after}")
    })
    .await
}

#[tokio::test]
async fn dots_and_their_encodings_do_not_climb() {
    let broker = insecure(|config| config).await;
    for path in [
        "a/b/..",
        "../b/c",
        "a/../c",
        "a/b/%2e%2e",
        "%2e%2e/b/c",
        "a/b/.",
        "a/b/..%2f",
        "..",
        "a/b/../../../resource-policy",
    ] {
        let request =
            format!("GET /kbs/v0/resource/{path} HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n");
        let answer = raw(&broker, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(
            ErrorInformation::parse(body.as_bytes()).unwrap().kind(),
            "InvalidRequestPath"
        );
    }
}

#[tokio::test]
async fn client_that_sends_too_much_before_it_listens_hears_why_it_is_refused() {
    let broker = insecure(|config| config).await;
    let body = "x".repeat(3 * 1024 * 1024);
    let head = format!(
        "POST /kbs/v0/auth HTTP/1.1\r\nhost: b\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = raw(&broker, &(head + &body)).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("PayloadTooLarge"), "{answer}");
}

#[tokio::test]
async fn broker_without_tls_says_so_and_marks_its_entries() {
    let broker = insecure(|config| config).await;
    broker.put("a/b/c", "x").await;
    for entry in broker.audit().await {
        assert_eq!(entry.record.loosenings, ["insecure_http"]);
    }
}

#[tokio::test]
async fn client_that_never_ends_its_head_is_dropped() {
    let broker =
        insecure(|config| config.replace("[limits]", "[limits]\nheader_seconds = 1")).await;
    let answer = raw(&broker, "GET /healthz HTTP/1.1\r\nhost: b\r\nx-slow: ").await;
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn client_that_never_ends_its_body_is_answered_and_dropped() {
    let broker = insecure(|config| {
        config
            .replace("[limits]", "[limits]\nrequest_seconds = 1")
            .replace("offline = false", "offline = true")
    })
    .await;
    let request = "POST /kbs/v0/auth HTTP/1.1\r\nhost: b\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{";
    let answer = raw(&broker, request).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("RequestTimeout"), "{answer}");
}

#[tokio::test]
async fn client_that_never_speaks_tls_does_not_hold_others_up() {
    let mut broker = Running::strict().await;
    let silent = TcpStream::connect(broker.address).await.unwrap();
    send(&broker, Method::GET, "/healthz", vec![])
        .await
        .expect(StatusCode::OK);
    drop(silent);
    broker.stop().await;
}

#[tokio::test]
async fn answer_in_flight_is_finished_before_the_broker_stops() {
    let mut broker = insecure(|config| config).await;
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    let body = r#"{"version":"0.4.0","tee":"sample","extra-params":""}"#;
    let head = format!(
        "POST /kbs/v0/auth HTTP/1.1\r\nhost: b\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The interim answer shows that the request is in the broker's hands.
    let mut interim = [0u8; 25];
    stream.read_exact(&mut interim).await.unwrap();
    let rest = async {
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let ((), answer) = tokio::join!(broker.stop(), rest);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
