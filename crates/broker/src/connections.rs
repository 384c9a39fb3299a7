//! How many connections are open at once: the one that is too many is closed before it costs a TLS handshake.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum_server::Handle;
use axum_server::accept::Accept;

use crate::Inner;

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

impl<A, I, S> Accept<I, S> for Bounded<A>
where
    A: Accept<I, S>,
    A::Future: Send + 'static,
{
    type Stream = A::Stream;
    type Service = A::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        // This one is counted already.
        if self.broker.connections.connection_count() > self.broker.config.limits.connections {
            self.broker.metrics.turned_away("connections");
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        }
        Box::pin(self.inner.accept(stream, service))
    }
}

/// By which a server is told to stop, and asked how many connections it has.
pub(crate) type Connections = Handle<SocketAddr>;
