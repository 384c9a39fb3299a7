//! The guest that runs beside a command, and how it is asked.

use std::path::PathBuf;

use anyhow::Context as _;
use strongroom_client::GuestApi;
use zeroize::Zeroizing;

use super::files;

/// The guest that fetches `kbs:///` keys.
#[derive(clap::Args, Clone)]
pub struct GuestArgs {
    /// The running guest that fetches kbs:/// keys (see the command `run`).
    #[arg(long, env = "STRONGROOM_GUEST", default_value = GuestApi::DEFAULT_URL, value_name = "URL")]
    guest: String,

    /// The file with this container's token, for a guest that asks for one (`run --require-token`).
    #[arg(long, env = "STRONGROOM_GUEST_TOKEN_FILE", value_name = "FILE")]
    guest_token: Option<PathBuf>,
}

impl GuestArgs {
    /// These.
    pub(super) fn new(url: &str, token: Option<PathBuf>) -> Self {
        Self {
            guest: url.to_owned(),
            guest_token: token,
        }
    }

    /// The guest's client.
    ///
    /// # Errors
    /// When the address is none of this machine, or the token cannot be read.
    pub fn api(&self) -> anyhow::Result<GuestApi> {
        let api = GuestApi::new(&self.guest)?;
        let Some(path) = &self.guest_token else {
            return Ok(api);
        };
        let bytes = files::read_limited(path, MAX_TOKEN)?;
        let token = std::str::from_utf8(&bytes)
            .with_context(|| format!("{} holds no token", path.display()))?;
        Ok(api.token(Zeroizing::new(token.trim().to_owned())))
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.guest
    }

    /// These options on another command line.
    pub(super) fn arguments(&self) -> Vec<PathBuf> {
        let mut arguments = vec!["--guest".into(), PathBuf::from(&self.guest)];
        if let Some(token) = &self.guest_token {
            arguments.extend(["--guest-token".into(), token.clone()]);
        }
        arguments
    }
}

const MAX_TOKEN: u64 = 64 * 1024;
