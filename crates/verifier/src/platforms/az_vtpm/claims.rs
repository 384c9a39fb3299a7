//! What a policy sees of `az_vtpm` evidence.
