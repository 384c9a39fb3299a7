//! One HTTP/1.1 connection to a broker, plain or over TLS, driven by hyper.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where a broker listens, and how it is spoken to.
#[derive(Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    tls: Option<TlsConnector>,
}

impl Target {
    /// Reads the URL that a broker says it is ready at. `certificate` is the broker's, in PEM.
    pub(crate) fn new(url: &str, certificate: &[u8]) -> anyhow::Result<Self> {
        let (scheme, rest) = url.split_once("://").context("the broker gave no URL")?;
        let address = rest.trim_end_matches('/').parse()?;
        let tls = match scheme {
            "http" => None,
            "https" => Some(connector(certificate)?),
            other => bail!("the broker listens on {other}, which is not known here"),
        };
        Ok(Self { address, tls })
    }

    /// Opens a connection. A TLS session is never resumed: each guest of a fleet is a stranger when it comes.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let sender = match &self.tls {
            None => start(TokioIo::new(stream)).await?,
            Some(tls) => {
                let name = ServerName::IpAddress(self.address.ip().into());
                start(TokioIo::new(tls.connect(name, stream).await?)).await?
            }
        };
        Ok(Connection {
            sender,
            host: self.address.to_string(),
        })
    }
}

/// A connection that stands.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    /// Sends one request and reads the whole answer.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        header: Option<(HeaderName, &str)>,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        self.sender.ready().await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "application/json");
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body.into()))?;
        let answer = self.sender.send_request(request).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.into_body().collect().await?.to_bytes();
        Ok(Answer {
            status,
            headers,
            body,
        })
    }
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The answer, when it is a 200.
    pub(crate) fn ok(self) -> anyhow::Result<Self> {
        ensure!(
            self.status == StatusCode::OK,
            "the broker answered {}: {}",
            self.status,
            String::from_utf8_lossy(&self.body)
        );
        Ok(self)
    }
}

async fn start<S>(stream: TokioIo<S>) -> anyhow::Result<SendRequest<Full<Bytes>>>
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(stream).await?;
    // It ends with its sender, or with the broker; who sends next is told.
    tokio::spawn(async move { connection.await.unwrap_or_default() });
    Ok(sender)
}

fn connector(certificate: &[u8]) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate)?)?;
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}
