//! What a policy sees of `nvidia` evidence.
