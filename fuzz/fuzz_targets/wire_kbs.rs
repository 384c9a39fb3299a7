//! Each message of the KBS protocol, and what is computed from it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::error_information::ErrorInformation;
use strongroom_wire::kbs::{AttestResponse, Attestation, Challenge, Request};

fuzz_target!(|bytes: &[u8]| {
    serde_json::from_slice::<Request>(bytes).ok();
    serde_json::from_slice::<AttestResponse>(bytes).ok();
    if let Ok(challenge) = serde_json::from_slice::<Challenge>(bytes) {
        challenge.selected_hash().ok();
    }
    if let Ok(attestation) = serde_json::from_slice::<Attestation>(bytes) {
        let additional = &attestation.tee_evidence.additional_evidence;
        let runtime_data = &attestation.runtime_data;
        for hash in [
            HashAlgorithm::Sha256,
            HashAlgorithm::Sha384,
            HashAlgorithm::Sha512,
        ] {
            runtime_data.primary_report_data(additional, hash);
            runtime_data.device_report_data(hash);
        }
        runtime_data.tee_pubkey.thumbprint();
    }
    ErrorInformation::parse(bytes);
});
