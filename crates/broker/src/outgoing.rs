//! What requests that leave the broker share: how TLS is verified, and what a failure says.

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::{BrokerError, key_file};

/// Verifies servers by the authorities of this file, or by the machine's own. `setting` names the file.
pub(crate) fn client_config(
    certificate: Option<&Path>,
    setting: &str,
) -> Result<ClientConfig, String> {
    // Named explicitly, so that no other provider in the process is taken.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let Some(path) = certificate else {
        let verified = builder.with_platform_verifier().map_err(|e| {
            format!("this machine has no certificate authorities ({e}); name some in {setting}")
        })?;
        return Ok(verified.with_no_client_auth());
    };
    let mut store = RootCertStore::empty();
    for certificate in key_file::read_certificates(path).map_err(|e| e.to_string())? {
        store.add(certificate).map_err(|e| e.to_string())?;
    }
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

/// Reads the authorities that a configuration names, so that a wrong file shows at the start and not with the first
/// request.
pub(crate) fn check_authorities(
    certificate: Option<&Path>,
    setting: &str,
) -> Result<(), BrokerError> {
    let Some(path) = certificate else {
        return Ok(());
    };
    match key_file::read_certificates(path)?.is_empty() {
        false => Ok(()),
        true => Err(BrokerError::Config {
            path: path.to_owned(),
            message: format!("there is no certificate in it, and {setting} names it"),
        }),
    }
}

/// Checks the address of a service: HTTPS, or HTTP on this machine, or any where a setting says so.
pub(crate) fn check_url(
    key: &str,
    text: &str,
    insecure_http: bool,
    loosening: &str,
) -> Result<(), String> {
    let bad = |reason: &str| Err(format!("{key} {reason}"));
    let Ok(url) = reqwest::Url::parse(text) else {
        return bad("is no address: write https://host, with a path if it has one");
    };
    if !url.username().is_empty() || url.password().is_some() {
        return bad("carries a user name or password, which would end up in logs");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return bad("carries a query or a fragment");
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if insecure_http || is_loopback(&url) => Ok(()),
        "http" => bad(&format!(
            "is http:// beyond this machine: write https://, or {loosening} = true"
        )),
        _ => bad("is neither https:// nor http://"),
    }
}

/// Whether an address is on this machine, whatever its names resolve to.
pub(crate) fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The cause that says most, without the address, which the caller knows.
pub(crate) fn innermost(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    let mut said = None;
    while let Some(source) = cause {
        said = Some(source.to_string());
        cause = source.source();
    }
    said.unwrap_or_else(|| error.to_string())
}
