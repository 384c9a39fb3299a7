//! What a policy sees of `tdx` evidence.
