//! Azure's instance metadata service: what a confidential VM's host gives that its vTPM does not.
//!
//! The VCEK's certificate comes from there, and on TDX the quote of a TD report. Neither is believed here: both carry
//! signatures, and a verifier looks at them.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;

use crate::AttestError;

/// The certificate of the key with which this machine's processor signs, as DER.
pub(crate) fn vcek(service: &str) -> Result<Vec<u8>, AttestError> {
    #[derive(Deserialize)]
    struct Certificates {
        #[serde(rename = "vcekCert")]
        vcek: String,
    }
    let path = "/metadata/THIM/amd/certification";
    let answer = ask(service, Method::GET, path, Bytes::new())?;
    let wrong = |reason: String| failed(service, path, reason);
    let certificates: Certificates =
        serde_json::from_slice(&answer).map_err(|error| wrong(error.to_string()))?;
    pem::parse(certificates.vcek)
        .map(pem::Pem::into_contents)
        .map_err(|error| wrong(format!("vcekCert is not PEM: {error}")))
}

/// A quote of a TD report, which the host's quoting enclave makes.
pub(crate) fn td_quote(service: &str, report: &[u8]) -> Result<Vec<u8>, AttestError> {
    #[derive(Deserialize)]
    struct Quoted {
        quote: String,
    }
    let path = "/acc/tdquote";
    let body = json!({ "report": URL_SAFE_NO_PAD.encode(report) }).to_string();
    let answer = ask(service, Method::POST, path, Bytes::from(body))?;
    let wrong = |reason: String| failed(service, path, reason);
    let quoted: Quoted =
        serde_json::from_slice(&answer).map_err(|error| wrong(error.to_string()))?;
    URL_SAFE_NO_PAD
        .decode(quoted.quote.trim_end_matches('='))
        .map_err(|error| wrong(format!("the quote is not base64url: {error}")))
}

/// One request. It has a thread of its own, because whoever calls may be inside a runtime.
fn ask(service: &str, method: Method, path: &str, body: Bytes) -> Result<Vec<u8>, AttestError> {
    let exchange = || -> Result<Vec<u8>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let answer = exchange(service, method, path, body);
            match tokio::time::timeout(PATIENCE, answer).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            }
        })
    };
    std::thread::scope(|scope| scope.spawn(exchange).join())
        .unwrap_or_else(|_| Err("the request panicked".to_owned()))
        .map_err(|reason| failed(service, path, reason))
}

async fn exchange(
    service: &str,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Vec<u8>, String> {
    let host = service
        .strip_prefix("http://")
        .ok_or("the service's address must begin with http://")?;
    let address = address(host).ok_or_else(|| format!("{host} is no address"))?;
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Host", host)
        // Without it the service refuses: a page that a browser was sent to cannot add it.
        .header("Metadata", "true")
        .header("Content-Type", "application/json")
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|error| error.to_string())?
        .to_bytes();
    connection.abort();
    match status.is_success() {
        true => Ok(body.to_vec()),
        false => Err(format!("it answers {status}")),
    }
}

fn address(host: &str) -> Option<SocketAddr> {
    let with_port = match host.contains(':') {
        true => host.to_owned(),
        false => format!("{host}:80"),
    };
    with_port.to_socket_addrs().ok()?.next()
}

fn failed(service: &str, path: &str, reason: String) -> AttestError {
    AttestError::Device {
        device: format!("{service}{path}"),
        reason,
    }
}

const PATIENCE: Duration = Duration::from_secs(20);
const MAX_ANSWER: usize = 256 * 1024;
