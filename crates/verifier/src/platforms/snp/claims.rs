//! What a policy sees of `snp` evidence.
