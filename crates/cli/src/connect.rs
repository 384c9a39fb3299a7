//! How commands reach a broker: as its admin, from the folder that `broker init` made or from options.

use std::future::Future;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use strongroom_client::admin::{AdminClient, AdminKey};

use crate::files;

const MAX_PEM: u64 = 256 * 1024;

/// Runs one asynchronous piece of a synchronous command.
pub(crate) fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future))
}

/// An admin's connection to a broker.
#[derive(Args, Clone)]
pub(crate) struct AdminArgs {
    /// The folder that `strongroom broker init` made; it gives the three options below.
    #[arg(
        long,
        global = true,
        env = "STRONGROOM_BROKER_DIR",
        default_value = "broker",
        value_name = "DIR"
    )]
    pub(crate) dir: PathBuf,

    /// The broker's URL [default: where the folder's configuration listens].
    #[arg(long, global = true, env = "STRONGROOM_BROKER", value_name = "URL")]
    pub(crate) broker: Option<String>,

    /// The broker's certificate, PEM [default: the folder's].
    #[arg(
        long,
        global = true,
        env = "STRONGROOM_BROKER_CERT",
        value_name = "PEM"
    )]
    pub(crate) broker_cert: Option<PathBuf>,

    /// The admin's private key, PEM [default: the folder's].
    #[arg(long, global = true, env = "STRONGROOM_ADMIN_KEY", value_name = "PEM")]
    pub(crate) admin_key: Option<PathBuf>,

    /// The admin's name, as the broker knows it.
    #[arg(
        long,
        global = true,
        env = "STRONGROOM_ADMIN",
        default_value = "admin",
        value_name = "NAME"
    )]
    pub(crate) admin: String,

    /// The role that the broker gave the admin: admin, policy, secrets or auditor.
    #[arg(
        long,
        global = true,
        env = "STRONGROOM_ADMIN_ROLE",
        default_value = "admin",
        value_name = "ROLE"
    )]
    pub(crate) admin_role: String,
}

impl AdminArgs {
    /// Prepares the client; nothing is sent yet.
    pub(crate) fn client(&self) -> anyhow::Result<AdminClient> {
        let url = match &self.broker {
            Some(url) => url.clone(),
            None => url_of_folder(&self.dir)?,
        };
        let key = self.key()?;
        let default_cert = self.dir.join("tls.crt");
        let cert = match &self.broker_cert {
            Some(path) => Some(read_pem(path)?),
            None if default_cert.exists() && !url.starts_with("http:") => {
                Some(read_pem(&default_cert)?)
            }
            None => None,
        };
        Ok(AdminClient::new(&url, cert, key)?)
    }
}

impl AdminArgs {
    /// Reads the admin's key.
    pub(crate) fn key(&self) -> anyhow::Result<AdminKey> {
        let key_path = self
            .admin_key
            .clone()
            .unwrap_or_else(|| self.dir.join("admin.key"));
        let pem = files::read_limited(&key_path, MAX_PEM).context(
            "an admin's key is needed: name the broker's folder with --dir, or the key with --admin-key (`strongroom broker init` makes the first)",
        )?;
        let key = AdminKey::from_pem(&self.admin, std::str::from_utf8(&pem)?)?;
        Ok(key.with_role(&self.admin_role))
    }

    /// What `policy allow` needs besides, at a broker whose folder says that it is for trying things out.
    pub(crate) fn assurance_option(&self) -> &'static str {
        let config = strongroom_broker::Config::load(&self.dir.join("broker.toml"));
        let rehearsal = config.is_ok_and(|config| {
            config.development.accept_sample_evidence || config.development.root.is_some()
        });
        if rehearsal {
            " --assurance development"
        } else {
            ""
        }
    }
}

/// Reads a certificate file.
pub(crate) fn read_pem(path: &Path) -> anyhow::Result<String> {
    files::read_text(path, MAX_PEM)
}

fn url_of_folder(dir: &Path) -> anyhow::Result<String> {
    let path = dir.join("broker.toml");
    let config = strongroom_broker::Config::load(&path)
        .with_context(|| format!("no broker is named: use --broker URL, or --dir with the folder that `strongroom broker init` made ({})", path.display()))?;
    Ok(url_of(&config))
}

/// Where clients on this machine reach a broker with this configuration.
pub(crate) fn url_of(config: &strongroom_broker::Config) -> String {
    let scheme = if config.insecure_http {
        "http"
    } else {
        "https"
    };
    let (ip, port) = (config.listen.ip(), config.listen.port());
    let host = match ip {
        ip if ip.is_unspecified() => "localhost".to_owned(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        std::net::IpAddr::V4(ip) => ip.to_string(),
    };
    format!("{scheme}://{host}:{port}")
}
