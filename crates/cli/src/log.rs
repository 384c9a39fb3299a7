//! The log, on standard error, so that standard output holds only the answer.

use std::io::IsTerminal as _;

use strongroom_broker::telemetry::SpanLayer;
use strongroom_broker::{LogConfig, LogFormat};
use strongroom_guest::cli::log as guest_log;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, reload};

/// Starts it. What is logged is said by `STRONGROOM_LOG`, else by `-v`, else by the configuration.
pub(crate) fn start(verbose: u8, config: &LogConfig, spans: Option<SpanLayer>) {
    let configured = config.filter.as_deref();
    let named = EnvFilter::try_from_env(guest_log::VARIABLE).ok();
    let is_open = named.is_none() && verbose == 0 && configured.is_none();
    let default = match verbose {
        0 => configured.unwrap_or("warn"),
        1 => "info",
        _ => "debug",
    };
    let filter = named.unwrap_or_else(|| EnvFilter::new(default));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match config.format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(true)
            .boxed(),
        _ => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    let spans = spans.map(|layer| layer.with_filter(filter_fn(SpanLayer::wants)));
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(spans)
        .init();
    if is_open {
        // A guest's configuration says how much it logs.
        guest_log::on_level(move |level| {
            handle.reload(EnvFilter::new(level.as_str())).ok();
        });
    }
}
