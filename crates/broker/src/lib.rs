//! Key broker, attestation service and reference values: the trusted side.
