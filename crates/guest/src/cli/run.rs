//! `run`: the agent beside applications.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::serving::{Listen, Listener, Serving, services};
use super::{AttestArgs, log};
use crate::config::{CdhConfig, Surroundings};
use crate::serve::{Features, ServeOptions, Tokens, check_listener};

/// Attest and serve http://127.0.0.1:8006/cdh/resource/... until told to stop
#[derive(clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    attest: AttestArgs,

    /// Where to serve: a loopback address, or unix:/path for a socket that only this user may open.
    #[arg(
        long,
        default_value = "127.0.0.1:8006",
        value_name = "ADDRESS|unix:PATH"
    )]
    listen: Listen,

    /// Which parts of the API there are: resource (/cdh), attestation (/aa: the token with its key, evidence, events) or
    /// all [default: agent.guest_components_rest_api of the kernel's command line, else resource].
    #[arg(long, value_name = "FEATURES")]
    features: Option<Features>,

    /// Answer those containers alone that send a token (Authorization: Bearer): the one in FILE, or each in a file of its
    /// own, which has the container's name, in DIR. DIR may change while the guest runs.
    #[arg(long, value_name = "FILE|DIR")]
    require_token: Option<PathBuf>,

    /// Offer the ttRPC services that Kata's agent and ocicrypt call as well: on guest-components' sockets below
    /// /run/confidential-containers, or below DIR [default: where cdh.toml says].
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    ttrpc: Option<Option<PathBuf>>,

    /// How long to try again while the broker cannot be reached for what cdh.toml wants in files ([[credentials]]) before
    /// the guest is ready, in seconds. A denial is never tried again.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    wait: u64,
}

impl RunArgs {
    /// Serves until told to stop; `take_over` is called when signals are heard here.
    ///
    /// # Errors
    /// What keeps the guest from starting.
    pub fn run(&self, json: bool, take_over: impl FnOnce()) -> anyhow::Result<()> {
        let prepared = self.attest.prepared()?;
        log::follow(&prepared);
        let tokens = self
            .require_token
            .as_deref()
            .map(Tokens::load)
            .transpose()
            .context("--require-token")?;
        let options = ServeOptions {
            features: self.features(&Surroundings::of_this_machine())?,
            tokens: tokens.map(Arc::new),
            ..ServeOptions::default()
        };
        let listener = self.listen.bind()?;
        if let Listener::Tcp(listener) = &listener {
            check_listener(listener, &options)?;
        }
        // Sockets are bound before there are threads.
        let services = match &self.ttrpc {
            Some(folder) => services(&prepared.cdh, folder.as_ref(), None)?,
            None => {
                for key in unserved(&prepared.cdh) {
                    eprintln!(
                        "warning: cdh.toml: {key} is passed over: no ttRPC is served (--ttrpc)"
                    );
                }
                Vec::new()
            }
        };
        let serving = Serving {
            prepared,
            rest: Some(listener),
            options,
            services,
            control: None,
            wait: Duration::from_secs(self.wait),
            json,
        };
        serving.run(take_over)
    }

    fn features(&self, surroundings: &Surroundings) -> anyhow::Result<Features> {
        if let Some(features) = self.features {
            return Ok(features);
        }
        let asked = surroundings.rest_features().map_err(anyhow::Error::msg)?;
        Ok(asked.unwrap_or_default())
    }
}

/// The sockets that the data hub's configuration names.
pub(super) fn unserved(cdh: &CdhConfig) -> impl Iterator<Item = &'static str> {
    [("socket", &cdh.socket), ("aa.aa_socket", &cdh.aa.aa_socket)]
        .into_iter()
        .filter_map(|(key, socket)| socket.as_ref().map(|_| key))
}

/// Resolves when the process is told to stop, with the exit code that shells expect of one that ends by that signal.
///
/// # Errors
/// When a signal cannot be heard.
pub fn told_to_stop() -> std::io::Result<impl Future<Output = u8> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate, mut hangup, mut quit) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
        signal(SignalKind::quit())?,
    );
    Ok(async move {
        tokio::select! {
            _ = hangup.recv() => 129,
            _ = interrupt.recv() => 130,
            _ = quit.recv() => 131,
            _ = terminate.recv() => 143,
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    #[test]
    fn attestation_is_served_unasked_or_kata_is_not_heard() {
        let features = |options: &[&str], kernel: &str| {
            let line = Line::try_parse_from([&["run"], options].concat()).unwrap();
            line.run.features(&Surroundings::new(kernel, []))
        };
        const ALL: &str = "agent.guest_components_rest_api=all";
        assert_eq!(features(&[], "quiet").unwrap(), Features::Resource);
        assert_eq!(features(&[], ALL).unwrap(), Features::All);
        let named = ["--features", "attestation"];
        assert_eq!(features(&named, ALL).unwrap(), Features::Attestation);
        assert!(features(&[], "agent.guest_components_rest_api=x").is_err());
        assert!(Line::try_parse_from(["run", "--features", "x"]).is_err());
    }
}
