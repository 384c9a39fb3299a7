//! The server's side of TLS: rustls on aws-lc-rs, named explicitly, HTTP/1.1 only.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;

use crate::BrokerError;
use crate::config::TlsConfig;
use crate::key_file::{read_certificates, read_private};

/// Reads certificate and key and checks that they belong together.
pub(crate) fn server_config(tls: &TlsConfig) -> Result<Arc<ServerConfig>, BrokerError> {
    let certificates = read_certificates(&tls.certificate)?;
    let key =
        PrivateKeyDer::from_pem_slice(read_private(&tls.private_key)?.as_bytes()).map_err(|e| {
            BrokerError::Config {
                path: tls.private_key.clone(),
                message: format!("not a PEM private key: {e}"),
            }
        })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
