//! What a policy sees of `tpm` evidence.
