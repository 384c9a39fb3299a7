//! Who must have signed reference values, by a configuration.

use strongroom_verifier::Signers;

use crate::{BrokerError, Config, key_file};

/// Reads the keys that `[reference_values] signers` names.
pub(crate) fn signers(config: &Config) -> Result<Signers, BrokerError> {
    let mut signers = Signers::none();
    for path in &config.reference_values.signers {
        let pem = key_file::read_guarded(path)?;
        signers.add_pem(&pem).map_err(|error| BrokerError::Config {
            path: path.clone(),
            message: error.to_string(),
        })?;
    }
    Ok(signers)
}
