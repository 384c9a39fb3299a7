//! Attestation agent and data hub: secrets for applications that know nothing of attestation.
