//! What a policy sees of `sgx` evidence.
