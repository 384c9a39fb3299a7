//! The attestation service's REST, as upstream's `restful-as` has it: for whoever has evidence and wants to know what it
//! is worth. There only with `[attestation_service] enabled = true`.
//!
//! Nobody is asked who they are, but for `POST /policy`. There is no session: that the evidence is fresh, the caller
//! knows, who chose what it binds.

pub(super) mod evaluate;
pub(super) mod policy;
