//! The ways through a network, and which of them a processor can take.

/// What a [`Network`](crate::Network) is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// 16 rows a vector, 48 rows at a time.
    Avx512,
    /// 8 rows a vector, 16 rows at a time, with fused multiplication and addition.
    Avx2,
    /// One number after the other: what the others are held to. Slower than any general engine.
    Scalar,
}

impl Path {
    /// All of them, the fastest first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Scalar];

    /// Whether this processor, and the system that saves its registers, can take it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && Self::Avx2.is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Scalar => true,
        }
    }

    /// The fastest that is available.
    pub fn best() -> Self {
        Self::ALL
            .into_iter()
            .find(|path| path.is_available())
            .unwrap_or(Self::Scalar)
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "AVX-512",
            Self::Avx2 => "AVX2",
            Self::Scalar => "scalar",
        }
    }
}
