//! `strongroom broker health`: whether a broker on this machine is ready, for a container's health check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use strongroom_broker::{Config, Overrides};

use super::config_path;
use crate::connect::block_on;
use crate::outcome::Outcome;

/// Ask the broker of this machine whether it is ready
///
/// Asks at [metrics] listen of its configuration, which needs no certificate. Ends with 1 when the broker is not ready or
/// does not answer.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder that `broker init` made, or a configuration file.
    #[arg(default_value = "broker", value_name = "DIR|FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let path = config_path(&args.config)?;
    let overrides = Overrides::from_environment().map_err(anyhow::Error::msg)?;
    let config = Config::load_with(&path, &overrides)?;
    let listen = config.metrics.listen.context(
        "there is no [metrics] listen to ask: set it, such as to 127.0.0.1:9090, or ask the broker itself at /readyz",
    )?;
    let url = format!("http://{}/readyz", reachable(listen));
    let ready = block_on(ask(&url))?.with_context(|| format!("{url} does not answer"))?;
    let is_ready = ready["ready"] == json!(true);
    let text = match is_ready {
        true => "The broker is ready.".to_owned(),
        false => format!("The broker is not ready: {}", ready["reasons"]),
    };
    Ok(Outcome::new(text, ready).code(u8::from(!is_ready)))
}

async fn ask(url: &str) -> anyhow::Result<Value> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .build()?;
    Ok(client.get(url).send().await?.json().await?)
}

/// Who listens on every address listens on this machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        address => address,
    };
    SocketAddr::new(address, listen.port())
}

const PATIENCE: Duration = Duration::from_secs(6);
