//! Platform configuration registers: which, of which bank, and a policy over their values.

use std::collections::BTreeMap;
use std::fmt;

use crate::commands::{Code, Tpm};
use crate::crypto::sha256;
use crate::error::{InAnswerTo as _, TpmError};
use crate::marshal::{Reader, Unmarshalling, Writer};

/// Which of a TPM's 24 registers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PcrSet(u32);

impl PcrSet {
    /// All of them.
    pub const ALL: Self = Self(0x00FF_FFFF);

    /// None of them.
    pub const NONE: Self = Self(0);

    /// PCR 7: what Secure Boot trusts, and whether it is on.
    pub const SECURE_BOOT: Self = Self(1 << 7);

    /// Those of these numbers; `None` when one is beyond 23.
    pub fn of(numbers: impl IntoIterator<Item = u8>) -> Option<Self> {
        numbers.into_iter().try_fold(Self::NONE, |set, number| {
            (number < COUNT).then(|| Self(set.0 | 1 << number))
        })
    }

    /// Their numbers, in order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..COUNT).filter(move |number| self.contains(*number))
    }

    /// Whether it is one of them.
    pub fn contains(self, number: u8) -> bool {
        number < COUNT && self.0 >> number & 1 == 1
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// `TPML_PCR_SELECTION` with one selection.
    pub(crate) fn marshal(self, bank: HashAlgorithm, out: Writer) -> Writer {
        let [low, middle, high, _] = self.0.to_le_bytes();
        let out = out.u32(1).u16(bank.id());
        out.u8(3).bytes(&[low, middle, high])
    }
}

impl fmt::Display for PcrSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.iter().map(|number| number.to_string()).collect();
        f.write_str(&numbers.join(", "))
    }
}

/// The hash of a bank of registers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HashAlgorithm {
    /// SHA-256, which every TPM 2.0 has.
    Sha256,
    /// SHA-384.
    Sha384,
}

impl HashAlgorithm {
    /// `TPM_ALG_ID`.
    pub(crate) fn id(self) -> u16 {
        match self {
            Self::Sha256 => 0x000B,
            Self::Sha384 => 0x000C,
        }
    }

    /// The length of a digest.
    pub fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
        })
    }
}

/// A policy that holds while registers of the SHA-256 bank have these values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PcrPolicy(BTreeMap<u8, [u8; 32]>);

impl PcrPolicy {
    /// The values by their registers; `None` when there are none, or one is beyond 23.
    pub fn new(values: BTreeMap<u8, [u8; 32]>) -> Option<Self> {
        let set = PcrSet::of(values.keys().copied())?;
        (!set.is_empty()).then_some(Self(values))
    }

    /// The values that it asks for.
    pub fn values(&self) -> &BTreeMap<u8, [u8; 32]> {
        &self.0
    }

    /// Its registers.
    pub fn pcrs(&self) -> PcrSet {
        PcrSet::of(self.0.keys().copied()).unwrap_or(PcrSet::NONE)
    }

    /// What a policy session that saw exactly these values holds (Part 3, `TPM2_PolicyPCR`).
    pub(crate) fn digest(&self) -> [u8; 32] {
        let values: Vec<&[u8]> = self.0.values().map(<[u8; 32]>::as_slice).collect();
        let selection = self
            .pcrs()
            .marshal(HashAlgorithm::Sha256, Writer::default());
        sha256(&[
            &[0; 32],
            &Code::POLICY_PCR.number.to_be_bytes(),
            selection.as_bytes(),
            &sha256(&values),
        ])
    }
}

impl Tpm {
    /// Reads registers of one bank, by their numbers.
    ///
    /// A register may be extended between one and the next: compare with what a quote says of them.
    ///
    /// # Errors
    /// [`TpmError::Argument`] when the TPM keeps no such bank.
    pub fn read_pcrs(
        &mut self,
        bank: HashAlgorithm,
        pcrs: PcrSet,
    ) -> Result<BTreeMap<u8, Vec<u8>>, TpmError> {
        let mut values = BTreeMap::new();
        let mut left = pcrs;
        // A TPM gives at most eight at once.
        while !left.is_empty() {
            let parameters = left.marshal(bank, Writer::new());
            let answer = self.run(Code::PCR_READ, &[], parameters)?;
            let read =
                parse_pcr_read(&answer.parameters, bank).in_answer_to(Code::PCR_READ.name)?;
            let before = left;
            for (number, value) in read {
                if left.contains(number) && value.len() == bank.length() {
                    left.0 &= !(1 << number);
                    values.insert(number, value);
                }
            }
            if left == before {
                return Err(TpmError::argument(
                    Code::PCR_READ.name,
                    format!("the TPM keeps no {bank} bank of PCR {left}: see `tpm2_getcap pcrs`"),
                ));
            }
        }
        Ok(values)
    }

    /// Reads registers of the SHA-256 bank as the policy under which they are what they are now.
    ///
    /// # Errors
    /// As [`Self::read_pcrs`], and [`TpmError::Argument`] for no registers at all.
    pub fn current_policy(&mut self, pcrs: PcrSet) -> Result<PcrPolicy, TpmError> {
        let values = self.read_pcrs(HashAlgorithm::Sha256, pcrs)?;
        let values = values
            .into_iter()
            .filter_map(|(number, value)| Some((number, value.try_into().ok()?)))
            .collect();
        PcrPolicy::new(values)
            .ok_or_else(|| TpmError::argument(Code::PCR_READ.name, "a policy over no register"))
    }

    /// Extends a register of one bank with a digest of that bank's length. It cannot be undone before a restart.
    ///
    /// # Errors
    /// [`TpmError::Argument`] for a digest of another length, [`TpmError::Refused`] for a register that is not for
    /// programs.
    pub fn extend_pcr(
        &mut self,
        bank: HashAlgorithm,
        pcr: u8,
        digest: &[u8],
    ) -> Result<(), TpmError> {
        let command = Code::PCR_EXTEND;
        if digest.len() != bank.length() || pcr >= COUNT {
            return Err(TpmError::argument(
                command.name,
                format!(
                    "PCR {pcr} cannot be extended with {} bytes: the {bank} bank takes {}, and has {COUNT} registers",
                    digest.len(),
                    bank.length()
                ),
            ));
        }
        let parameters = Writer::new().u32(1).u16(bank.id()).bytes(digest);
        self.authorized(command, &[pcr.into()], parameters)
            .map(drop)
    }
}

/// `TPM2_PCR_Read`'s answer: which registers of the bank were read, and their values.
pub(crate) fn parse_pcr_read(
    parameters: &[u8],
    bank: HashAlgorithm,
) -> Result<Vec<(u8, Vec<u8>)>, Unmarshalling> {
    let mut reader = Reader(parameters);
    reader.u32("pcrUpdateCounter")?;
    let mut numbers = Vec::new();
    for _ in 0..reader.count("the list of PCR selections", MAX_SELECTIONS)? {
        let of = reader.u16("a PCR selection's bank")?;
        let length = reader.u8("sizeofSelect")?;
        if length > MAX_SELECT {
            return Err(Unmarshalling::Length {
                field: "pcrSelect",
                limit: MAX_SELECT.into(),
                actual: length.into(),
            });
        }
        let bitmap = reader.bytes("pcrSelect", length.into())?;
        // Bit 0 of byte 0 is PCR 0, bit 0 of byte 1 is PCR 8.
        let bits = bitmap
            .iter()
            .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
        if of == bank.id() {
            numbers.extend(
                (0..8 * length)
                    .zip(bits)
                    .filter_map(|(n, set)| set.then_some(n)),
            );
        }
    }
    let mut values = Vec::new();
    for _ in 0..reader.count("the list of PCR values", MAX_VALUES)? {
        values.push(reader.sized("a PCR's value", MAX_DIGEST)?.to_vec());
    }
    reader.end("the PCR values")?;
    match values.len() == numbers.len() {
        true => Ok(numbers.into_iter().zip(values).collect()),
        false => Err(Unmarshalling::Length {
            field: "the list of PCR values",
            limit: u64::try_from(numbers.len()).unwrap_or(u64::MAX),
            actual: u64::try_from(values.len()).unwrap_or(u64::MAX),
        }),
    }
}

/// The registers of a PC Client TPM.
const COUNT: u8 = 24;
/// No TPM has so many banks.
const MAX_SELECTIONS: u32 = 16;
/// 32 PCRs; a PC's TPM has 24.
const MAX_SELECT: u8 = 4;
/// `TPML_DIGEST`.
const MAX_VALUES: u32 = 8;
const MAX_DIGEST: u16 = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn register_that_is_not_there_is_in_no_set() {
        assert_eq!(PcrSet::of([24]), None);
        assert_eq!(PcrSet::of([0, 7, 23]).unwrap().to_string(), "0, 7, 23");
        assert!(!PcrSet::ALL.contains(24));
        assert_eq!(PcrPolicy::new(BTreeMap::new()), None);
    }

    #[test]
    fn selection_is_laid_out_as_a_tpm_does_it() {
        let marshalled = PcrSet::of([7, 8, 23])
            .unwrap()
            .marshal(HashAlgorithm::Sha256, Writer::new());
        assert_eq!(
            marshalled.as_bytes(),
            [0, 0, 0, 1, 0, 0x0b, 3, 0x80, 0x01, 0x80]
        );
    }

    #[test]
    fn answer_with_fewer_values_than_registers_is_refused() {
        let mut answer = vec![
            0, 0, 0, 9, 0, 0, 0, 1, 0, 0x0b, 3, 0x81, 0, 0, 0, 0, 0, 1, 0, 32,
        ];
        answer.extend([7; 32]);
        assert!(parse_pcr_read(&answer, HashAlgorithm::Sha256).is_err());
        answer[11] = 0x80;
        let read = parse_pcr_read(&answer, HashAlgorithm::Sha256).unwrap();
        assert_eq!(read, [(7, vec![7; 32])]);
        assert!(parse_pcr_read(&answer, HashAlgorithm::Sha384).is_err());
    }
}
