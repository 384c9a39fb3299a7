//! The log, on standard error. What is logged is said by `STRONGROOM_LOG`, else by `-v`, else by `[log] level` of the
//! guest's configuration, which is read when the log has long begun.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, reload};

use crate::config::Level;
use crate::launch::Prepared;

/// Starts the log of the guest's own program.
pub fn start(verbose: u8) {
    let named = EnvFilter::try_from_env(VARIABLE).ok();
    let is_open = named.is_none() && verbose == 0;
    let level = match verbose {
        0 => Level::Warn,
        1 => Level::Info,
        _ => Level::Debug,
    };
    let filter = named.unwrap_or_else(|| EnvFilter::new(level.as_str()));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    if is_open {
        on_level(move |level| {
            handle.reload(EnvFilter::new(level.as_str())).ok();
        });
    }
}

/// Says how a program's log follows a level that a configuration states, where nothing more important said one.
pub fn on_level(follow: impl Fn(Level) + Send + Sync + 'static) {
    FOLLOW.set(Box::new(follow)).ok();
}

/// Follows the level of the configuration in force: one log for both of upstream's files, so the more of both.
pub(super) fn follow(prepared: &Prepared) {
    let level = prepared.aa.log.level.max(prepared.cdh.log.level);
    if let (Some(level), Some(follow)) = (level, FOLLOW.get()) {
        follow(level);
    }
}

static FOLLOW: OnceLock<Box<dyn Fn(Level) + Send + Sync>> = OnceLock::new();
/// What says before all what is logged.
pub const VARIABLE: &str = "STRONGROOM_LOG";
