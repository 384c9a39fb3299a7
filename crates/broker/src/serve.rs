//! A broker on its listeners: TLS or not, limits on connections and heads, a graceful end.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::RustlsAcceptor;
use axum_server::{Handle as ServerHandle, Server};
use hyper_util::rt::TokioTimer;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::LimitsConfig;
use crate::connections::Bounded;
use crate::reload::{Handle, watch_certificate};
use crate::telemetry::Exporter;
use crate::{Broker, BrokerError, Inner, housekeeping, http, tending};

impl Broker {
    /// By which it can be told things while it runs.
    pub fn handle(&self) -> Handle {
        Handle(Arc::downgrade(&self.inner))
    }

    /// Has metrics answered on this listener instead of one that [`Self::serve`] opens where the configuration says.
    #[must_use]
    pub fn with_metrics_on(mut self, listener: TcpListener) -> Self {
        self.metrics_listener = Some(listener);
        self
    }

    /// Has spans sent for as long as it serves.
    #[must_use]
    pub fn with_exporter(mut self, exporter: Exporter) -> Self {
        self.inner.metrics.show_spans(exporter.counts());
        self.exporter = Some(exporter);
        self
    }

    /// Serves until `shutdown` completes, then lets requests in flight end, for ten seconds at most. The listener for
    /// metrics stays until the end, and says meanwhile that the broker is not ready.
    ///
    /// # Errors
    /// [`BrokerError::Serve`] when a listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), BrokerError> {
        let broker = Arc::clone(&self.inner);
        let beside = Beside::start(self.metrics_listener, self.exporter, &broker)?;
        let ending = broker.clone();
        let waiting = tokio::spawn(async move {
            shutdown.await;
            ending.health.stopping();
            ending.connections.graceful_shutdown(Some(GRACE));
        });
        let served = serve_requests(&broker, listener).await;
        end(waiting).await;
        beside.end().await;
        broker.record_counted();
        if let Some(shared) = &broker.shared
            && let Err(error) = shared.leave()
        {
            tracing::warn!(%error, "the other brokers could not be told of the end");
        }
        served.map_err(BrokerError::Serve)
    }
}

async fn serve_requests(broker: &Arc<Inner>, listener: TcpListener) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let limits = &broker.config.limits;
    let server = axum_server::from_tcp(listener)?.handle(broker.connections.clone());
    let service =
        http::router(Arc::clone(broker)).into_make_service_with_connect_info::<SocketAddr>();
    match broker.reloadable.tls.clone() {
        Some(tls) => {
            // The first answer follows the end of the handshake in a segment of its own. Without this it waits until the
            // client has acknowledged what went before: 40 ms for every guest that comes new.
            let tls = RustlsAcceptor::new(tls)
                .handshake_timeout(Duration::from_secs(limits.header_seconds))
                .acceptor(NoDelayAcceptor::new());
            let tls = Bounded::new(tls, Arc::clone(broker));
            bounded(server.acceptor(tls), limits).serve(service).await
        }
        None => {
            let plain = Bounded::new(NoDelayAcceptor::new(), Arc::clone(broker));
            bounded(server.acceptor(plain), limits).serve(service).await
        }
    }
}

/// The acceptor comes first: setting it makes the server forget that it speaks HTTP/1 only.
fn bounded<A>(server: Server<SocketAddr, A>, limits: &LimitsConfig) -> Server<SocketAddr, A> {
    let mut server = server.http1_only();
    server
        .http_builder()
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(limits.header_seconds))
        .max_headers(limits.headers)
        .max_buf_size(limits.header_bytes);
    server
}

/// What runs beside the requests and ends after them.
struct Beside {
    watching: JoinHandle<()>,
    keeping_house: JoinHandle<()>,
    tending: Option<JoinHandle<()>>,
    metrics: Option<(ServerHandle<SocketAddr>, JoinHandle<()>)>,
    exporting: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Beside {
    fn start(
        listener: Option<TcpListener>,
        exporter: Option<Exporter>,
        broker: &Arc<Inner>,
    ) -> Result<Self, BrokerError> {
        let configured = broker.config.metrics.listen;
        let listener = match (listener, configured) {
            (Some(listener), _) => Some(listener),
            (None, Some(address)) => Some(TcpListener::bind(address).map_err(BrokerError::Serve)?),
            (None, None) => None,
        };
        let metrics = listener.map(|listener| {
            let routes = http::metrics_router(Arc::clone(broker));
            serve_metrics(listener, routes, &broker.config.limits)
        });
        let metrics = metrics.transpose().map_err(BrokerError::Serve)?;
        let exporting = exporter.map(|exporter| {
            let (stop, stopped) = oneshot::channel::<()>();
            let stopped = async { drop(stopped.await) };
            (stop, tokio::spawn(exporter.run(stopped)))
        });
        Ok(Self {
            watching: tokio::spawn(watch_certificate(Arc::downgrade(broker))),
            keeping_house: tokio::spawn(housekeeping(Arc::clone(broker))),
            tending: broker
                .shares_its_store()
                .then(|| tokio::spawn(tending(Arc::clone(broker)))),
            metrics,
            exporting,
        })
    }

    async fn end(self) {
        end(self.watching).await;
        end(self.keeping_house).await;
        if let Some(tending) = self.tending {
            end(tending).await;
        }
        if let Some((stop, exporting)) = self.exporting {
            drop(stop);
            exporting.await.unwrap_or_default();
        }
        if let Some((handle, serving)) = self.metrics {
            handle.graceful_shutdown(Some(METRICS_GRACE));
            serving.await.unwrap_or_default();
        }
    }
}

fn serve_metrics(
    listener: TcpListener,
    routes: Router,
    limits: &LimitsConfig,
) -> std::io::Result<(ServerHandle<SocketAddr>, JoinHandle<()>)> {
    listener.set_nonblocking(true)?;
    let handle = ServerHandle::new();
    let server = axum_server::from_tcp(listener)?.handle(handle.clone());
    let server = bounded(server, limits);
    let serving = tokio::spawn(async move {
        if let Err(error) = server.serve(routes.into_make_service()).await {
            tracing::error!(%error, "the listener for metrics failed");
        }
    });
    Ok((handle, serving))
}

/// Ends a task and waits until it holds nothing any more.
async fn end(task: JoinHandle<()>) {
    task.abort();
    // Aborted is what it should be.
    task.await.unwrap_or_default();
}

const GRACE: Duration = Duration::from_secs(10);
const METRICS_GRACE: Duration = Duration::from_secs(1);
