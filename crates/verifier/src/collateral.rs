//! Collateral as values: what a verification wants and what it was given. Fetching is the broker's.

mod form;
mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use form::CollateralFormError;

/// One thing that a verification needs or could use, and that the evidence does not carry.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Wanted {
    /// The certificate of a chip's VCEK, as AMD's KDS gives it (DER). Required when the evidence brings none.
    AmdVcek {
        /// The product line that issues it.
        product: SnpProduct,
        /// The chip id: 64 bytes, or on Turin the first 8 of them.
        chip_id: Vec<u8>,
        /// The TCB for which the key was derived.
        tcb: VcekTcb,
    },
    /// The revocation list of a product line's signing keys (DER). Optional: a claim says whether it was looked at.
    AmdCrl {
        /// The product line.
        product: SnpProduct,
    },
    /// Intel's TCB info (the JSON body as signed, and its issuer chain). Required.
    IntelTcbInfo {
        /// For TDX, else for SGX.
        tdx: bool,
        /// The platform's family, model and stepping.
        fmspc: [u8; 6],
        /// The root that the evidence's own chain ends in.
        root: RootId,
    },
    /// The identity of Intel's quoting enclave (the JSON body as signed, and its issuer chain). Required.
    IntelQeIdentity {
        /// For TDX, else for SGX.
        tdx: bool,
        /// The root that the evidence's own chain ends in.
        root: RootId,
    },
    /// The revocation list of the CA that issued the platform's PCK certificate (DER, and its issuer chain). Required.
    IntelPckCrl {
        /// The CA: `processor` or `platform`.
        platform: bool,
        /// The root that the evidence's own chain ends in.
        root: RootId,
    },
    /// The revocation list of the root (DER). Required.
    IntelRootCrl {
        /// The root that the evidence's own chain ends in.
        root: RootId,
    },
    /// A reference integrity manifest (the SWID XML), which an NVIDIA driver or VBIOS version names. Optional.
    NvidiaRim {
        /// Its id.
        id: String,
    },
}

impl Wanted {
    /// Whether a verification without it fails. What is optional leaves a check skipped and a claim that says so.
    pub fn is_required(&self) -> bool {
        !matches!(self, Self::AmdCrl { .. } | Self::NvidiaRim { .. })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tee = |tdx: &bool| if *tdx { "TDX" } else { "SGX" };
        match self {
            Self::AmdVcek {
                product, chip_id, ..
            } => write!(
                f,
                "the VCEK certificate of {product} chip {}",
                hex::encode(chip_id.get(..8).unwrap_or(chip_id))
            ),
            Self::AmdCrl { product } => write!(f, "the revocation list of {product}"),
            Self::IntelTcbInfo { tdx, fmspc, .. } => {
                write!(
                    f,
                    "the {} TCB info of FMSPC {}",
                    tee(tdx),
                    hex::encode(fmspc)
                )
            }
            Self::IntelQeIdentity { tdx, .. } => write!(f, "the {} QE identity", tee(tdx)),
            Self::IntelPckCrl { platform, .. } => write!(
                f,
                "the revocation list of the PCK {} CA",
                if *platform { "platform" } else { "processor" }
            ),
            Self::IntelRootCrl { .. } => f.write_str("the revocation list of the SGX root CA"),
            Self::NvidiaRim { id } => write!(f, "the RIM {id}"),
        }
    }
}

/// SHA-256 over a root certificate's DER.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RootId(pub [u8; 32]);

impl RootId {
    /// Intel's SGX root CA: "Intel SGX Root CA", valid to 2049-12-31.
    pub const INTEL: Self = Self([
        0x44, 0xa0, 0x19, 0x6b, 0x2b, 0x99, 0xf8, 0x89, 0xb8, 0xe1, 0x49, 0xe9, 0x5b, 0x80, 0x7a,
        0x35, 0x0e, 0x74, 0x24, 0x96, 0x43, 0x99, 0xe8, 0x85, 0xa7, 0xcb, 0xb8, 0xcc, 0xfa, 0xb6,
        0x74, 0xd3,
    ]);
}

impl fmt::Debug for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A product line of EPYC processors: each has its own root.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum SnpProduct {
    /// Family 19h, models `00h` to `0Fh`.
    Milan,
    /// Family 19h, models `10h` to `1Fh` and `A0h` to `AEh` (Genoa, Bergamo, Siena).
    Genoa,
    /// Family `1Ah`, models `00h` to `11h`.
    Turin,
}

impl SnpProduct {
    /// Every product line.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];
}

impl fmt::Display for SnpProduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        })
    }
}

/// The security version numbers under which a VCEK was derived.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VcekTcb {
    /// The firmware management controller's, on Turin.
    pub fmc: Option<u8>,
    /// The boot loader's.
    pub bootloader: u8,
    /// The PSP operating system's.
    pub tee: u8,
    /// The SNP firmware's.
    pub snp: u8,
    /// The microcode's.
    pub microcode: u8,
}

/// What must be fetched before some evidence can be verified.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CollateralRequest(BTreeSet<Wanted>);

impl CollateralRequest {
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is wanted, each thing once.
    pub fn iter(&self) -> impl Iterator<Item = &Wanted> {
        self.0.iter()
    }
}

impl FromIterator<Wanted> for CollateralRequest {
    fn from_iter<I: IntoIterator<Item = Wanted>>(wanted: I) -> Self {
        Self(wanted.into_iter().collect())
    }
}

impl Extend<Wanted> for CollateralRequest {
    fn extend<I: IntoIterator<Item = Wanted>>(&mut self, wanted: I) {
        self.0.extend(wanted);
    }
}

/// What answers a [`CollateralRequest`]. Nothing in it is believed before its signature is checked.
#[derive(Clone, Debug, Default)]
pub struct Collateral(BTreeMap<Wanted, CollateralItem>);

/// One answer, as its service gave it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CollateralItem {
    /// The body: DER, JSON or XML, as [`Wanted`] says.
    pub body: Vec<u8>,
    /// The issuer chain as PEM, for the services that send one in a header; else empty.
    pub issuer_chain: String,
}

impl Collateral {
    /// The answer to an empty request.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds or replaces one answer.
    pub fn insert(&mut self, wanted: Wanted, item: CollateralItem) {
        self.0.insert(wanted, item);
    }

    /// The answer for one thing.
    pub fn item(&self, wanted: &Wanted) -> Option<&CollateralItem> {
        self.0.get(wanted)
    }

    /// Every answer.
    pub fn iter(&self) -> impl Iterator<Item = (&Wanted, &CollateralItem)> {
        self.0.iter()
    }
}
