//! Quotes of a TPM 2.0 and the certificate of the key that signs them, for development.
//!
//! TPM 2.0 Library, Part 2: `TPMS_ATTEST` (10.12), `TPMT_SIGNATURE` (11.3.4); big-endian.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{ExtendedKeyUsagePurpose, PublicKeyData as _};
use serde_json::{Value, json};

use super::root::{Profile, Role, to_pem};
use super::{DevelopmentError, DevelopmentRoot, Tampering, sha256, tamper};

/// One quote of a TPM: honest as it is made, and every field to change.
#[derive(Clone, Debug)]
pub struct Forge {
    /// The root whose keys sign.
    pub root: DevelopmentRoot,
    /// What is signed.
    pub quote: Quote,
    /// Which attestation key signs.
    pub key: KeyKind,
    /// Whether the attestation key's certificates are sent along.
    pub with_certificates: bool,
    /// What the attestation key's certificate is for: tcg-kp-AIKCertificate.
    pub extended_key_usage: Vec<Vec<u64>>,
}

/// The kind of attestation key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyKind {
    /// RSASSA with a key of 2048 bits. The first one of a root takes a while to make.
    Rsa,
    /// ECDSA on P-256.
    Ec,
}

impl Forge {
    /// A quote of all PCRs of the SHA-256 bank, signed by an elliptic curve key.
    pub fn new(root: &DevelopmentRoot) -> Self {
        Self::of(root, KeyKind::Ec)
    }

    /// The same, signed by that kind of key.
    pub fn of(root: &DevelopmentRoot, key: KeyKind) -> Self {
        Self {
            root: root.clone(),
            quote: Quote::new(root),
            key,
            with_certificates: true,
            extended_key_usage: vec![vec![2, 23, 133, 8, 3]],
        }
    }

    /// The report data: its first 32 bytes, padded with zeros.
    #[must_use]
    pub fn with_report_data(mut self, report_data: &[u8]) -> Self {
        self.quote.extra_data = super::fitted::<32>(report_data).to_vec();
        self
    }

    /// The digest of the init-data, which PCR 8 is extended with.
    ///
    /// # Errors
    /// [`DevelopmentError::Length`], when it has not the 32 bytes of the bank.
    pub fn with_initdata(mut self, digest: &[u8]) -> Result<Self, DevelopmentError> {
        self.quote.extend_pcr8(digest)?;
        Ok(self)
    }

    /// The attestation key, as DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn ak_public(&self) -> Result<Vec<u8>, DevelopmentError> {
        Ok(match self.key {
            KeyKind::Rsa => self
                .root
                .attestation_key()?
                .certified
                .subject_public_key_info(),
            KeyKind::Ec => self
                .root
                .key(Role::TpmEc)
                .certified
                .subject_public_key_info(),
        })
    }

    /// The attestation key's certificate and that of its issuer, which the root issued, as PEM.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn ak_certificates(&self) -> Result<String, DevelopmentError> {
        let root = &self.root;
        let profile = Profile {
            extended: self
                .extended_key_usage
                .iter()
                .cloned()
                .map(ExtendedKeyUsagePurpose::Other)
                .collect(),
            ..Profile::new("Attestation key", root.not_before(), root.not_after())
        };
        let issuer = root.key(Role::TpmCa);
        let leaf = match self.key {
            KeyKind::Rsa => profile.signed_by(CA, issuer, &root.attestation_key()?.certified)?,
            KeyKind::Ec => profile.signed_by(CA, issuer, &root.key(Role::TpmEc).certified)?,
        };
        let ca = root.intermediate(CA, Role::TpmCa)?;
        Ok(to_pem(&leaf) + &to_pem(&ca))
    }

    /// `TPMT_SIGNATURE` over the quote.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn signature(&self) -> Result<Vec<u8>, DevelopmentError> {
        let message = self.quote.message();
        let mut signature = Vec::new();
        match self.key {
            KeyKind::Rsa => {
                signature.extend_from_slice(&ALG_RSASSA.to_be_bytes());
                signature.extend_from_slice(&ALG_SHA256.to_be_bytes());
                sized(&mut signature, &self.quote.sign_rsa(&self.root, &message)?);
            }
            KeyKind::Ec => {
                signature.extend_from_slice(&ALG_ECDSA.to_be_bytes());
                signature.extend_from_slice(&ALG_SHA256.to_be_bytes());
                let numbers = self.root.key(Role::TpmEc).sign(&message)?;
                let (r, s) = numbers.split_at(numbers.len() / 2);
                sized(&mut signature, r);
                sized(&mut signature, s);
            }
        }
        Ok(signature)
    }

    /// The evidence of the KBS protocol's platform `tpm`, and our member `ak_certificates`.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn evidence_json(&self) -> Result<String, DevelopmentError> {
        let mut evidence = json!({
            "ak_public": STANDARD.encode(self.ak_public()?),
            "tpm_quote": {
                "signature": STANDARD.encode(self.signature()?),
                "message": STANDARD.encode(self.quote.tampered_message()),
                "pcrs": self.quote.pcrs_hex(),
            },
        });
        if self.with_certificates {
            evidence["ak_certificates"] = json!(self.ak_certificates()?);
        }
        Ok(evidence.to_string())
    }
}

/// `TPMS_ATTEST` of a quote, and the PCRs that it is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quote {
    /// `TPM_GENERATED_VALUE`.
    pub magic: u32,
    /// `TPM_ST_ATTEST_QUOTE`.
    pub kind: u16,
    /// The name of the signing key with its parents.
    pub qualified_signer: Vec<u8>,
    /// The caller's own data.
    pub extra_data: Vec<u8>,
    /// Milliseconds that the TPM was powered.
    pub clock: u64,
    /// How often it was reset.
    pub reset_count: u32,
    /// How often it was restarted since.
    pub restart_count: u32,
    /// Whether the clock did not go back.
    pub safe: u8,
    /// The TPM's firmware.
    pub firmware_version: u64,
    /// Banks by their `TPM_ALG_ID`, and the PCRs that are selected of each.
    pub selections: Vec<(u16, Vec<u8>)>,
    /// The digest over the selected PCRs, when it is to be wrong.
    pub pcr_digest: Option<Vec<u8>>,
    /// The values that are sent beside the quote: PCR 0 to 23 of the SHA-256 bank.
    pub pcrs: Vec<[u8; 32]>,
    /// Bits of the message that are turned after it was signed.
    pub tampering: Tampering,
}

impl Quote {
    /// A machine that booted: PCR 0 to 7 and 9 are measured into, 17 to 22 were never reset.
    pub fn new(root: &DevelopmentRoot) -> Self {
        let pcrs = (0..PCRS)
            .map(|number| match number {
                0..=7 | 9 => {
                    let event =
                        sha256(&[b"strongroom development PCR", [number].as_slice()].concat());
                    extended(&event)
                }
                17..=22 => [0xff; 32],
                _ => [0; 32],
            })
            .collect();
        let mut qualified_signer = ALG_SHA256.to_be_bytes().to_vec();
        qualified_signer.extend_from_slice(&sha256(&root.identity("attestation key name")));
        Self {
            magic: 0xff54_4347,
            kind: 0x8018,
            qualified_signer,
            extra_data: Vec::new(),
            clock: 86_400_000,
            reset_count: 1,
            restart_count: 0,
            safe: 1,
            firmware_version: 0x2020_0312_0012_0003,
            selections: vec![(ALG_SHA256, (0..PCRS).collect())],
            pcr_digest: None,
            pcrs,
            tampering: Vec::new(),
        }
    }

    /// Measures the digest of the init-data into PCR 8, as the first that goes there.
    ///
    /// # Errors
    /// [`DevelopmentError::Length`], when it has not the 32 bytes of the bank.
    pub fn extend_pcr8(&mut self, digest: &[u8]) -> Result<(), DevelopmentError> {
        let digest: &[u8; 32] = digest.try_into().map_err(|_| DevelopmentError::Length {
            field: "the digest of the init-data (a SHA-256 PCR is extended with it)",
            actual: digest.len(),
            expected: "32",
        })?;
        if let Some(pcr) = self.pcrs.get_mut(8) {
            *pcr = extended(digest);
        }
        Ok(())
    }

    /// What the TPM signs.
    pub fn message(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.magic.to_be_bytes());
        out.extend_from_slice(&self.kind.to_be_bytes());
        sized(&mut out, &self.qualified_signer);
        sized(&mut out, &self.extra_data);
        out.extend_from_slice(&self.clock.to_be_bytes());
        out.extend_from_slice(&self.reset_count.to_be_bytes());
        out.extend_from_slice(&self.restart_count.to_be_bytes());
        out.push(self.safe);
        out.extend_from_slice(&self.firmware_version.to_be_bytes());
        let count = u32::try_from(self.selections.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for (bank, indices) in &self.selections {
            out.extend_from_slice(&bank.to_be_bytes());
            let mut bitmap = [0_u8; 3];
            for index in indices {
                if let Some(byte) = bitmap.get_mut(usize::from(index / 8)) {
                    *byte |= 1 << (index % 8);
                }
            }
            out.push(3);
            out.extend_from_slice(&bitmap);
        }
        let digest = self.pcr_digest.clone().unwrap_or_else(|| self.digest());
        sized(&mut out, &digest);
        out
    }

    /// The message as it is sent.
    pub(crate) fn tampered_message(&self) -> Vec<u8> {
        let mut message = self.message();
        tamper(&mut message, &self.tampering);
        message
    }

    pub(crate) fn pcrs_hex(&self) -> Vec<String> {
        self.pcrs.iter().map(hex::encode).collect()
    }

    pub(crate) fn sign_rsa(
        &self,
        root: &DevelopmentRoot,
        message: &[u8],
    ) -> Result<Vec<u8>, DevelopmentError> {
        root.attestation_key()?.sign(message)
    }

    /// SHA-256 over the selected PCRs in the order of selection.
    fn digest(&self) -> Vec<u8> {
        let selected: Vec<u8> = self
            .selections
            .iter()
            .flat_map(|(_, indices)| indices)
            .filter_map(|index| self.pcrs.get(usize::from(*index)))
            .flatten()
            .copied()
            .collect();
        sha256(&selected).to_vec()
    }
}

/// A PCR that was zero, after one extension.
fn extended(digest: &[u8; 32]) -> [u8; 32] {
    sha256(&[[0; 32].as_slice(), digest].concat())
}

/// `TPM2B`: a length of two bytes, then as many.
fn sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// What of the attestation key goes into a JSON Web Key: modulus and exponent.
pub(crate) fn jwk_numbers(root: &DevelopmentRoot) -> Result<(Value, Value), DevelopmentError> {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let key = root.attestation_key()?;
    let encode = |number: Vec<u8>| json!(URL_SAFE_NO_PAD.encode(number));
    Ok((encode(key.modulus()), encode(key.exponent())))
}

const PCRS: u8 = 24;
const CA: &str = "Attestation key CA";
const ALG_SHA256: u16 = 0x000b;
const ALG_RSASSA: u16 = 0x0014;
const ALG_ECDSA: u16 = 0x0018;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn message_is_laid_out_as_a_tpm_does_it() {
        let root = DevelopmentRoot::generate(NOW).unwrap();
        let mut quote = Quote::new(&root);
        quote.extra_data = b"challenge".to_vec();
        let message = quote.message();
        assert_eq!(message[..8], [0xff, 0x54, 0x43, 0x47, 0x80, 0x18, 0, 0x22]);
        assert_eq!(message[42..53], *b"\0\x09challenge");
        // Of Azure's vTPM with the same challenge it has the same length.
        assert_eq!(message.len(), 122);
        assert_eq!(message[78..88], [0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn pcr8_is_extended_as_upstream_does_it() {
        let root = DevelopmentRoot::generate(NOW).unwrap();
        let digest =
            hex::decode("8505e4e25e50a27c5dc8147af88efbece627fbea55291911eff832d9ee127781")
                .unwrap();
        let forge = Forge::new(&root).with_initdata(&digest).unwrap();
        assert_eq!(
            hex::encode(forge.quote.pcrs[8]),
            "bddaccb9c52249e97a31baea61b7d91be8221a16e703d92148d04fb8e9c1dfdd"
        );
        assert!(Forge::new(&root).with_initdata(&[0; 48]).is_err());
    }
}
