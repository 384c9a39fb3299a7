//! A machine with a TPM 2.0 and no other TEE: a quote of its registers, its attestation key, and the registers themselves.
//!
//! The attestation key is the one at a persistent handle where its owner put one, or else the one that the TPM's
//! endorsement seed determines: made for each quote, always the same, and gone after it. A broker believes neither before
//! it was enrolled or its certificate leads to a root.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pem::Pem;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use strongroom_tpm::{
    HashAlgorithm as Bank, KeyAlgorithm, Object, PcrSet, Quote, Tpm, TpmAddress, TpmError,
};
use strongroom_wire::canonical::HashAlgorithm;

use crate::devices::Devices;
use crate::event_log::Register;
use crate::{AttestError, files};

#[derive(Serialize)]
struct TpmEvidence {
    ak_public: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ak_certificates: Option<String>,
    tpm_quote: TpmQuote,
}

#[derive(Serialize)]
struct TpmQuote {
    signature: String,
    message: String,
    pcrs: Vec<String>,
}

/// The evidence of the KBS protocol's platform `tpm`, and the attestation key's certificates where there are any.
pub(crate) fn evidence(
    devices: &Devices,
    report_data: &[u8; 64],
) -> Result<Box<RawValue>, AttestError> {
    let (path, mut tpm) = open(&devices.tpm)?;
    let failed = |error: TpmError| failure(path, &error);
    let key = attestation_key(devices, path, &mut tpm)?;
    let quoted = quote(
        &mut tpm,
        &key,
        &crate::development::fitted::<32>(report_data),
    );
    let flushed = tpm.flush_object(&key);
    let (quote, pcrs) = quoted.map_err(failed)?;
    flushed.map_err(failed)?;
    let spki = key.public().spki().ok_or_else(|| AttestError::Device {
        device: path.display().to_string(),
        reason: format!(
            "the attestation key at {:#010x} is of neither RSA, P-256 nor P-384",
            key.handle()
        ),
    })?;
    let evidence = TpmEvidence {
        ak_certificates: certificates(devices, &mut tpm, &spki)?,
        ak_public: STANDARD.encode(spki),
        tpm_quote: TpmQuote {
            signature: STANDARD.encode(quote.signature),
            message: STANDARD.encode(quote.message),
            pcrs,
        },
    };
    to_raw_value(&evidence).map_err(|_| AttestError::Json)
}

/// Whether a TPM 2.0 that can be asked is there.
pub(crate) fn probe(path: &Path) -> Result<(), AttestError> {
    let failed = |error: TpmError| failure(path, &error);
    let mut tpm = Tpm::open(&address(path)).map_err(failed)?;
    match tpm.has_bank(Bank::Sha256).map_err(failed)? {
        true => Ok(()),
        false => Err(AttestError::Device {
            device: path.display().to_string(),
            reason: "the TPM keeps no SHA-256 bank: have the firmware's setup turn it on"
                .to_owned(),
        }),
    }
}

/// One register of the SHA-256 bank.
#[derive(Clone, Debug)]
pub(crate) struct Pcr {
    /// The devices to try, in order.
    pub(crate) tpm: Vec<PathBuf>,
    pub(crate) number: u8,
}

impl Pcr {
    /// What it holds.
    pub(crate) fn value(&self) -> Result<[u8; 32], AttestError> {
        let (path, mut tpm) = open(&self.tpm)?;
        let pcr = PcrSet::of([self.number]).unwrap_or(PcrSet::NONE);
        let values = tpm.read_pcrs(Bank::Sha256, pcr);
        let values = values.map_err(|error| failure(path, &error))?;
        let value = values.into_values().next();
        let value = value.and_then(|value| value.try_into().ok());
        value.ok_or_else(|| AttestError::Device {
            device: path.display().to_string(),
            reason: format!("there is no PCR {}", self.number),
        })
    }

    /// Extends it, which nothing but a restart undoes.
    pub(crate) fn extend_by(&self, digest: &[u8]) -> Result<(), AttestError> {
        let (path, mut tpm) = open(&self.tpm)?;
        tpm.extend_pcr(Bank::Sha256, self.number, digest)
            .map_err(|error| failure(path, &error))
    }
}

impl Register for Pcr {
    fn number(&self) -> u32 {
        self.number.into()
    }

    fn algorithm(&self) -> HashAlgorithm {
        HashAlgorithm::Sha256
    }

    fn read(&self) -> Result<Vec<u8>, AttestError> {
        self.value().map(Vec::from)
    }

    fn extend(&self, digest: &[u8]) -> Result<(), AttestError> {
        self.extend_by(digest)
    }
}

/// The register for an event that is to go to this PCR: 8 is the init-data's, 17 to 22 are not for programs, and beyond
/// 23 there is none. Those events go to 23, as upstream's on Azure do.
pub(crate) fn register_for(pcr: u32) -> u8 {
    match u8::try_from(pcr) {
        Ok(pcr @ (0..=7 | 9..=16)) => pcr,
        _ => APPLICATIONS,
    }
}

/// Opens the first of the devices that is there.
pub(crate) fn open(devices: &[PathBuf]) -> Result<(&Path, Tpm), AttestError> {
    let there = devices.iter().find(|path| path.exists());
    let path = there
        .or_else(|| devices.first())
        .ok_or_else(|| AttestError::Device {
            device: "TPM".to_owned(),
            reason: "no device is named for it".to_owned(),
        })?;
    let tpm = Tpm::open(&address(path)).map_err(|error| failure(path, &error))?;
    Ok((path, tpm))
}

pub(crate) fn address(path: &Path) -> TpmAddress {
    TpmAddress::Path(path.to_owned())
}

/// The key that signs quotes.
fn attestation_key(devices: &Devices, path: &Path, tpm: &mut Tpm) -> Result<Object, AttestError> {
    let failed = |error: TpmError| failure(path, &error);
    match tpm.read_public(devices.tpm_ak) {
        Ok(key) if key.public().is_attestation_key() => Ok(key),
        Ok(_) => Err(AttestError::Device {
            device: path.display().to_string(),
            reason: format!(
                "the key at {:#010x} is no attestation key (restricted, fixed to its TPM, for signing alone): remove it \
                 with tpm2_evictcontrol, or name another handle",
                devices.tpm_ak
            ),
        }),
        Err(error) if error.code().is_some_and(|code| code.is_missing()) => {
            tpm.attestation_key(KeyAlgorithm::P256).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// A quote of all registers, and the values that it is about.
pub(crate) fn quote(
    tpm: &mut Tpm,
    key: &Object,
    extra_data: &[u8],
) -> Result<(Quote, Vec<String>), TpmError> {
    let mut before = tpm.read_pcrs(Bank::Sha256, PcrSet::ALL)?;
    let mut tries = 0;
    loop {
        let quote = tpm.quote(key, Bank::Sha256, PcrSet::ALL, extra_data)?;
        let after = tpm.read_pcrs(Bank::Sha256, PcrSet::ALL)?;
        tries += 1;
        // Somebody may extend a register between two commands. The verifier has the last word.
        if before == after || tries == TRIES {
            return Ok((quote, after.into_values().map(hex::encode).collect()));
        }
        before = after;
    }
}

/// The attestation key's certificates as PEM: from the file, or from the TPM where its maker put one for this very key.
fn certificates(
    devices: &Devices,
    tpm: &mut Tpm,
    spki: &[u8],
) -> Result<Option<String>, AttestError> {
    let path = &devices.tpm_ak_certificates;
    match files::read(path, MAX_CERTIFICATES) {
        Ok(bytes) => {
            return String::from_utf8(bytes)
                .map(Some)
                .map_err(|_| AttestError::Device {
                    device: path.display().to_string(),
                    reason: "it is not PEM".to_owned(),
                });
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(files::failure(path, &error)),
    }
    // One that cannot be read, or is another key's, is as good as none: the key may be enrolled.
    let stored = tpm.read_nv(AK_CERTIFICATE).ok();
    let certificate = stored.as_deref().and_then(without_padding);
    let certificate = certificate.filter(|der| der.windows(spki.len()).any(|part| part == spki));
    Ok(certificate.map(|der| pem::encode(&Pem::new("CERTIFICATE", der))))
}

/// A DER sequence at the beginning of an index that may be longer.
fn without_padding(stored: &[u8]) -> Option<&[u8]> {
    match stored {
        [0x30, 0x82, high, low, ..] => {
            stored.get(..usize::from(u16::from_be_bytes([*high, *low])) + 4)
        }
        _ => None,
    }
}

pub(crate) fn failure(path: &Path, error: &TpmError) -> AttestError {
    AttestError::Device {
        device: path.display().to_string(),
        reason: error.to_string(),
    }
}

/// The register that programs may extend and, from locality 0, reset.
const APPLICATIONS: u8 = 23;
/// Where Azure keeps its attestation key's certificate.
const AK_CERTIFICATE: u32 = 0x01C1_01D0;
const MAX_CERTIFICATES: usize = 64 * 1024;
const TRIES: u32 = 4;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn event_never_goes_to_the_register_of_the_init_data_or_to_one_that_no_program_may_extend() {
        let registers: Vec<u8> = (0..25).map(register_for).collect();
        assert_eq!(registers[..8], [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(registers[8..17], [23, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert!(registers[17..].iter().all(|register| *register == 23));
        assert_eq!(register_for(u32::MAX), 23);
    }

    #[test]
    fn certificate_is_cut_where_it_says_and_never_beyond_the_index() {
        assert_eq!(
            without_padding(&[0x30, 0x82, 0, 1, 9, 0xff]),
            Some(&[0x30, 0x82, 0, 1, 9][..])
        );
        assert_eq!(without_padding(&[0x30, 0x82, 0xff, 0xff, 9]), None);
        assert_eq!(without_padding(&[0xff; 64]), None);
    }
}
