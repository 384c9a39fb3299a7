//! A quote, and the checks of it that every platform with a TPM shares (TPM 2.0 Library Part 3, `TPM2_Quote`).
//!
//! What a quote proves is the digest of the PCRs that *it* selects. So the selection decides which of the values
//! beside it are believed, and for which PCR: a value's place in the list is its PCR's number, and a value whose PCR
//! was not selected is dropped. Otherwise whoever may choose the selection could show PCR 23, which any program
//! may reset, as PCR 11.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use serde_json::{Map, Value, json};
use strongroom_wire::tee::Tee;

use super::structures::{
    ALG_SHA256, ALG_SHA384, Attest, GENERATED, PcrSelection, QuoteInfo, ST_ATTEST_QUOTE, Signature,
    Unmarshalling, algorithm_name,
};
use crate::VerifyError;
use crate::binding::{ExpectedInitdata, Register, ReportDataForm};
use crate::check::Check;
use crate::platforms::Verification;
use crate::x509::{KeyKind, PublicKey};

/// A quote that was parsed, and of which nothing is believed.
#[derive(Clone, Debug)]
pub(crate) struct Quote {
    message: Vec<u8>,
    attest: Attest,
    signature: Signature,
    /// From PCR 0 on.
    values: Vec<Vec<u8>>,
}

impl Quote {
    /// Parses the message that was signed; signature and PCR values come parsed.
    pub(crate) fn new(
        tee: Tee,
        message: Vec<u8>,
        signature: Signature,
        values: Vec<Vec<u8>>,
    ) -> Result<Self, VerifyError> {
        let attest = Attest::parse(&message).map_err(|error| malformed(tee, "message", &error))?;
        Ok(Self {
            message,
            attest,
            signature,
            values,
        })
    }

    /// Verifies that `key` signed the quote, that it carries the report data in this form, and which PCRs it proves.
    ///
    /// The caller still owes whose key it is.
    pub(crate) fn verify(
        &self,
        key: &PublicKey,
        form: ReportDataForm,
        verification: &mut Verification<'_>,
    ) -> Result<VerifiedQuote, VerifyError> {
        let Verification {
            expected, steps, ..
        } = verification;
        let attest = &self.attest;
        steps.run(Check::TpmMagic, || match attest.magic {
            GENERATED => Ok(()),
            other => Err(Check::TpmMagic.failed(hex(GENERATED), hex(other))),
        })?;
        let info = steps.run(Check::TpmQuoteType, || {
            attest.quote.as_ref().ok_or_else(|| {
                Check::TpmQuoteType.failed(
                    format!("{ST_ATTEST_QUOTE:#06x}"),
                    format!("{:#06x}", attest.kind),
                )
            })
        })?;
        let hash = steps.run(Check::TpmSignatureScheme, || self.check_scheme(key))?;
        steps.run(Check::TpmSignature, || self.check_signature(key))?;
        expected.check_report_data(steps, form, &attest.extra_data)?;
        let selection = steps.run(Check::TpmPcrBank, || check_bank(info))?;
        steps.run(Check::TpmPcrSelection, || check_selection(selection))?;
        let pcrs = steps.run(Check::TpmPcrValues, || self.selected_values(selection))?;
        steps.run(Check::TpmPcrDigest, || {
            check_pcr_digest(&pcrs, hash, &info.pcr_digest)
        })?;
        Ok(VerifiedQuote {
            attest: attest.clone(),
            bank: selection.bank,
            pcrs,
        })
    }

    /// The scheme must be one of the key's kind, with the hash that is as strong as it. Gives that hash.
    fn check_scheme(&self, key: &PublicKey) -> Result<&'static digest::Algorithm, VerifyError> {
        let refused =
            |expected: &str, actual: &str| Err(Check::TpmSignatureScheme.failed(expected, actual));
        let kind = match key.kind() {
            Ok(kind) => kind,
            Err(error) => return refused("a key of RSA, P-256 or P-384", &error.to_string()),
        };
        let expected = match kind {
            KeyKind::Rsa => "rsassa with sha256",
            KeyKind::P256 => "ecdsa with sha256",
            KeyKind::P384 => "ecdsa with sha384",
        };
        match (kind, &self.signature) {
            (
                KeyKind::Rsa,
                Signature::RsaSsa {
                    hash: ALG_SHA256, ..
                },
            )
            | (
                KeyKind::P256,
                Signature::Ecdsa {
                    hash: ALG_SHA256, ..
                },
            ) => Ok(&digest::SHA256),
            (
                KeyKind::P384,
                Signature::Ecdsa {
                    hash: ALG_SHA384, ..
                },
            ) => Ok(&digest::SHA384),
            (_, other) => {
                let (scheme, hash) = other.algorithms();
                let hash = hash.map(|hash| format!(" with {}", algorithm_name(hash)));
                refused(
                    expected,
                    &format!("{}{}", algorithm_name(scheme), hash.unwrap_or_default()),
                )
            }
        }
    }

    fn check_signature(&self, key: &PublicKey) -> Result<(), VerifyError> {
        let refused = |error: &dyn std::fmt::Display| {
            Check::TpmSignature.failed("the attestation key's signature", error)
        };
        match &self.signature {
            Signature::RsaSsa { signature, .. } => key
                .check_pkcs1_sha256(&self.message, signature)
                .map_err(|error| refused(&error)),
            Signature::Ecdsa { r, s, .. } => {
                let width = match key.kind() {
                    Ok(KeyKind::P384) => 48,
                    _ => 32,
                };
                let both = left_padded(r, width)
                    .zip(left_padded(s, width))
                    .ok_or_else(|| {
                        refused(&format!("two numbers of {} and {} bytes", r.len(), s.len()))
                    })?;
                key.check_fixed(&self.message, &[both.0, both.1].concat())
                    .map_err(|error| refused(&error))
            }
            Signature::Other(scheme) => Err(refused(&algorithm_name(*scheme))),
        }
    }

    /// The values of exactly the selected PCRs, by their numbers.
    fn selected_values(
        &self,
        selection: &PcrSelection,
    ) -> Result<BTreeMap<u8, [u8; PCR_LENGTH]>, VerifyError> {
        if self.values.len() > usize::from(PCRS) {
            return Err(Check::TpmPcrValues.failed(
                format!("the values of at most {PCRS} PCRs"),
                self.values.len(),
            ));
        }
        selection
            .indices
            .iter()
            .map(|index| {
                let value = self.values.get(usize::from(*index)).ok_or_else(|| {
                    Check::TpmPcrValues.failed(
                        format!("a value for PCR {index}, which the quote selects"),
                        format!("values for {} PCRs from PCR 0 on", self.values.len()),
                    )
                })?;
                let value = <[u8; PCR_LENGTH]>::try_from(value.as_slice()).map_err(|_| {
                    Check::TpmPcrValues.failed(
                        format!("{PCR_LENGTH} bytes for PCR {index}"),
                        format!("{} bytes", value.len()),
                    )
                })?;
                Ok((*index, value))
            })
            .collect()
    }
}

/// A quote whose signature, report data and PCRs were verified.
#[derive(Clone, Debug)]
pub(crate) struct VerifiedQuote {
    attest: Attest,
    bank: u16,
    pcrs: BTreeMap<u8, [u8; PCR_LENGTH]>,
}

impl VerifiedQuote {
    /// The report data, as the quote carries it.
    pub(crate) fn extra_data(&self) -> &[u8] {
        &self.attest.extra_data
    }

    /// The register of the init-data's digest, when the quote selects it.
    pub(crate) fn pcr8(&self) -> Option<&[u8; PCR_LENGTH]> {
        self.pcrs.get(&INITDATA_PCR)
    }

    /// Compares PCR 8 with the init-data that was sent. A quote that leaves PCR 8 out cannot vouch for any.
    pub(crate) fn check_initdata(
        &self,
        verification: &mut Verification<'_>,
    ) -> Result<Option<bool>, VerifyError> {
        let Verification {
            expected, steps, ..
        } = verification;
        match (self.pcr8(), &expected.initdata) {
            (Some(held), _) => expected.check_initdata(steps, Register::Pcr8(held)),
            (None, ExpectedInitdata::Digest(_)) => steps.run(Check::InitData, || {
                Err(Check::InitData.failed("a quote that selects PCR 8", self.selected()))
            }),
            (None, _) => expected.check_initdata(steps, Register::None),
        }
    }

    /// `pcr00` to `pcr23`, those that the quote selects, in hex.
    pub(crate) fn pcr_claims(&self) -> Map<String, Value> {
        self.pcrs
            .iter()
            .map(|(index, value)| (format!("pcr{index:02}"), json!(hex::encode(value))))
            .collect()
    }

    /// What else the TPM says in a quote.
    pub(crate) fn claims(&self) -> Value {
        let Attest {
            clock,
            firmware_version,
            qualified_signer,
            ..
        } = &self.attest;
        json!({
            "pcr_bank": algorithm_name(self.bank),
            "pcr_selection": self.pcrs.keys().collect::<Vec<_>>(),
            "qualified_signer": hex::encode(qualified_signer),
            "firmware_version": hex::encode(firmware_version.to_be_bytes()),
            "clock": clock.clock,
            "reset_count": clock.reset_count,
            "restart_count": clock.restart_count,
            "safe": clock.safe,
        })
    }

    fn selected(&self) -> String {
        PcrSelection {
            bank: self.bank,
            indices: self.pcrs.keys().copied().collect(),
        }
        .to_string()
    }
}

pub(crate) fn malformed(tee: Tee, member: &str, error: &Unmarshalling) -> VerifyError {
    VerifyError::Malformed {
        tee,
        detail: format!("{member}: {error}"),
    }
}

/// One selection, and of a bank whose hash is not broken. A quote over two banks would leave open of which bank a
/// value is.
fn check_bank(info: &QuoteInfo) -> Result<&PcrSelection, VerifyError> {
    match info.selections.as_slice() {
        [selection] if selection.bank == BANK => Ok(selection),
        other => {
            let banks: Vec<String> = other
                .iter()
                .map(|selection| algorithm_name(selection.bank))
                .collect();
            Err(Check::TpmPcrBank.failed(
                format!("one selection, of the {} bank", algorithm_name(BANK)),
                format!("{} selections [{}]", banks.len(), banks.join(", ")),
            ))
        }
    }
}

fn check_selection(selection: &PcrSelection) -> Result<(), VerifyError> {
    match selection.indices.last() {
        Some(last) if *last < PCRS => Ok(()),
        Some(_) => Err(Check::TpmPcrSelection.failed(format!("PCRs below {PCRS}"), selection)),
        None => Err(Check::TpmPcrSelection.failed("at least one PCR", "none")),
    }
}

/// The hash is the one of the signature's scheme, whatever the bank.
fn check_pcr_digest(
    pcrs: &BTreeMap<u8, [u8; PCR_LENGTH]>,
    hash: &'static digest::Algorithm,
    quoted: &[u8],
) -> Result<(), VerifyError> {
    let mut context = digest::Context::new(hash);
    for value in pcrs.values() {
        context.update(value);
    }
    let actual = context.finish();
    match actual.as_ref() == quoted {
        true => Ok(()),
        false => Err(Check::TpmPcrDigest.failed(hex::encode(quoted), hex::encode(actual))),
    }
}

/// A number in a field of `width` bytes; `None` when it does not fit.
fn left_padded(number: &[u8], width: usize) -> Option<Vec<u8>> {
    let padding = width.checked_sub(number.len())?;
    let mut field = vec![0; padding];
    field.extend_from_slice(number);
    Some(field)
}

fn hex(number: u32) -> String {
    hex::encode(number.to_be_bytes())
}

/// SHA-1 PCRs can be made to collide; the other banks are ones that no attester of these platforms quotes.
const BANK: u16 = ALG_SHA256;
const PCR_LENGTH: usize = 32;
/// The PCRs of a PC Client TPM.
const PCRS: u8 = 24;
/// Where the guest extends the digest of its init-data.
const INITDATA_PCR: u8 = 8;
