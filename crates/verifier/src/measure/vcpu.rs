//! What a vCPU says it is: the signature in EAX of CPUID leaf 1 (AMD CPUID specification, publication 25481).

use std::fmt;
use std::str::FromStr;

use super::MeasureError;

/// A processor's family, model and stepping in one number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VcpuSignature(u32);

impl VcpuSignature {
    /// From the numbers as a data sheet has them. `None` when one is larger than the signature has bits for.
    pub fn new(family: u32, model: u32, stepping: u32) -> Option<Self> {
        if family > 0xf + 0xff || model > 0xff || stepping > 0xf {
            return None;
        }
        let (base, extended) = match family {
            0..=0xf => (family, 0),
            more => (0xf, more - 0xf),
        };
        Some(Self(
            extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xf) << 4 | stepping,
        ))
    }

    /// The number itself.
    pub fn value(self) -> u32 {
        self.0
    }
}

impl fmt::Display for VcpuSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl FromStr for VcpuSignature {
    type Err = MeasureError;

    /// A CPU model of QEMU's, with or without its version, or `FAMILY-MODEL-STEPPING`.
    fn from_str(text: &str) -> Result<Self, MeasureError> {
        let known = MODELS
            .iter()
            .find(|(name, versions, ..)| is_version_of(text, name, *versions));
        let numbers = || {
            let mut parts = text.splitn(3, '-').map(|part| part.parse::<u32>().ok());
            let mut next = || parts.next().flatten();
            Self::new(next()?, next()?, next()?)
        };
        known
            .and_then(|(_, _, family, model, stepping)| Self::new(*family, *model, *stepping))
            .or_else(numbers)
            .ok_or_else(|| MeasureError::VcpuType {
                name: text.chars().take(32).collect(),
                known: MODELS.map(|(name, ..)| name).join(", "),
            })
    }
}

/// Whether a name is the model's own, or that with `-v1` to its newest version.
fn is_version_of(text: &str, model: &str, versions: u32) -> bool {
    text.strip_prefix(model).is_some_and(|rest| {
        rest.is_empty()
            || rest
                .strip_prefix("-v")
                .filter(|version| !version.starts_with(['0', '+']))
                .and_then(|version| version.parse::<u32>().ok())
                .is_some_and(|version| version <= versions)
    })
}

/// QEMU's models of AMD processors that can run SNP guests' code: name, newest version, family, model, stepping
/// (QEMU, `target/i386/cpu.c`). A new version of a model keeps its signature.
const MODELS: [(&str, u32, u32, u32, u32); 6] = [
    ("EPYC", 5, 23, 1, 2),
    ("EPYC-IBPB", 0, 23, 1, 2),
    ("EPYC-Rome", 5, 23, 49, 0),
    ("EPYC-Milan", 3, 25, 1, 1),
    ("EPYC-Genoa", 2, 25, 17, 0),
    ("EPYC-Turin", 1, 26, 0, 0),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn value(text: &str) -> u32 {
        text.parse::<VcpuSignature>().unwrap().value()
    }

    #[test]
    fn model_has_another_signature_than_its_numbers() {
        for (name, numbers, signature) in [
            ("EPYC", "23-1-2", 0x0080_0f12),
            ("EPYC-v4", "23-1-2", 0x0080_0f12),
            ("EPYC-Rome-v2", "23-49-0", 0x0083_0f10),
            ("EPYC-Milan", "25-1-1", 0x00a0_0f11),
            ("EPYC-Genoa-v1", "25-17-0", 0x00a1_0f10),
            ("EPYC-Turin", "26-0-0", 0x00b0_0f00),
        ] {
            assert_eq!(value(name), signature, "{name}");
            assert_eq!(value(numbers), signature, "{numbers}");
        }
    }

    #[test]
    fn misspelt_type_is_taken() {
        for wrong in [
            "",
            "epyc",
            "EPYC-v",
            "EPYC-v0",
            "EPYC-v99",
            "EPYC-Milan-v+1",
            "EPYC-Rome2",
            "25-17",
            "25-256-0",
            "25-17-16",
            "271-0-0",
            "25-17-1-1",
            "-1-2-3",
        ] {
            let error = wrong.parse::<VcpuSignature>().unwrap_err();
            assert!(error.to_string().contains("EPYC-Genoa"), "{wrong}: {error}");
        }
    }
}
