//! How many connections are open at once, in all and by one address: the one that is too many is closed before it costs a
//! TLS handshake.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::HeaderMap;
use axum_server::Handle;
use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::holdings::Holding;
use crate::{Inner, client};

/// Accepts what another acceptor does, while there is room.
#[derive(Clone)]
pub(crate) struct Bounded<A> {
    inner: A,
    broker: Arc<Inner>,
}

impl<A> Bounded<A> {
    pub(crate) fn new(inner: A, broker: Arc<Inner>) -> Self {
        Self { inner, broker }
    }
}

impl<A, S> Accept<TcpStream, S> for Bounded<A>
where
    A: Accept<TcpStream, S>,
    A::Future: Send + 'static,
{
    type Stream = Counted<A::Stream>;
    type Service = A::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        // This one is counted already.
        let limits = &self.broker.config.limits;
        let holding = match self.broker.connections.connection_count() > limits.connections {
            true => None,
            false => self.holding(&stream),
        };
        let Some(holding) = holding else {
            self.broker.metrics.turned_away("connections");
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        };
        let accepted = self.inner.accept(stream, service);
        Box::pin(async move {
            let (stream, service) = accepted.await?;
            let stream = Counted {
                stream,
                _holding: holding,
            };
            Ok((stream, service))
        })
    }
}

impl<A> Bounded<A> {
    /// A place among the connections of one address. A proxy stands for many.
    fn holding(&self, stream: &TcpStream) -> Option<Holding> {
        let peer = stream.peer_addr().ok()?.ip();
        let live = self.broker.live();
        let is_proxy = live
            .trusted_proxies
            .iter()
            .any(|proxy| proxy.contains(peer));
        let source = client::behind(peer, &HeaderMap::new(), &[]);
        let source = (!is_proxy).then_some(source);
        let most = self.broker.config.limits.connections_per_source;
        self.broker.peers.take_of(source, 1, usize::MAX, most)
    }
}

/// A connection that counts for as long as it is open.
pub(crate) struct Counted<S> {
    stream: S,
    _holding: Holding,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// By which a server is told to stop, and asked how many connections it has.
pub(crate) type Connections = Handle<SocketAddr>;
