//! X.509 certificates, their chains and their revocation lists (RFC 5280), for the vendors' PKIs.
//!
//! `x509-cert` parses and aws-lc-rs verifies. What a path must hold is in [`Path::verify`]. Names are compared byte for
//! byte; no policy, name constraint or AIA is followed, and a critical extension that nobody here knows is refused.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest;
use aws_lc_rs::signature::{self, VerificationAlgorithm};
use const_oid::ObjectIdentifier;
use der::{Decode, Encode, Sequence};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use crate::collateral::RootId;

/// A certificate that was parsed, and of which nothing else is known.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Certificate {
    der: Vec<u8>,
    parsed: x509_cert::Certificate,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.subject())
    }
}

impl Certificate {
    /// Parses one DER certificate.
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, X509Error> {
        if der.len() > MAX_CERTIFICATE {
            return Err(X509Error::TooLong {
                actual: der.len(),
                limit: MAX_CERTIFICATE,
            });
        }
        let parsed = x509_cert::Certificate::from_der(der)
            .map_err(|e| X509Error::Malformed(e.to_string()))?;
        Ok(Self {
            der: der.to_vec(),
            parsed,
        })
    }

    /// Parses a text of at most `most` PEM certificates. Other PEM blocks are refused.
    pub(crate) fn from_pem_chain(text: &[u8], most: usize) -> Result<Vec<Self>, X509Error> {
        if text.len() > most.saturating_mul(2 * MAX_CERTIFICATE) {
            return Err(X509Error::TooLong {
                actual: text.len(),
                limit: most.saturating_mul(2 * MAX_CERTIFICATE),
            });
        }
        let blocks = pem::parse_many(text).map_err(|e| X509Error::Malformed(e.to_string()))?;
        if blocks.is_empty() || blocks.len() > most {
            return Err(X509Error::Malformed(format!(
                "{} PEM blocks, wanted 1 to {most}",
                blocks.len()
            )));
        }
        blocks
            .iter()
            .map(|block| match block.tag() {
                "CERTIFICATE" => Self::from_der(block.contents()),
                other => Err(X509Error::Malformed(format!(
                    "a PEM block {other:?} where a certificate should be"
                ))),
            })
            .collect()
    }

    /// The bytes that were parsed.
    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate's name as a root: SHA-256 over its bytes.
    pub(crate) fn root_id(&self) -> RootId {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, &self.der).as_ref());
        RootId(out)
    }

    /// The subject, as RFC 4514 prints it.
    pub(crate) fn subject(&self) -> String {
        self.parsed.tbs_certificate().subject().to_string()
    }

    /// The issuer, as RFC 4514 prints it.
    pub(crate) fn issuer(&self) -> String {
        self.parsed.tbs_certificate().issuer().to_string()
    }

    /// The subject's common name.
    pub(crate) fn common_name(&self) -> Option<String> {
        let name = self.parsed.tbs_certificate().subject().common_name();
        name.ok().flatten().map(|name| name.value().into_owned())
    }

    /// Whether its issuer has the name of this certificate's subject. That alone proves nothing.
    pub(crate) fn is_issued_by_name_of(&self, issuer: &Self) -> bool {
        self.parsed.tbs_certificate().issuer() == issuer.parsed.tbs_certificate().subject()
    }

    /// The subject's public key.
    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey(
            self.parsed
                .tbs_certificate()
                .subject_public_key_info()
                .clone(),
        )
    }

    /// The first and the last second at which the certificate is valid, since 1970.
    pub(crate) fn validity(&self) -> (u64, u64) {
        let validity = self.parsed.tbs_certificate().validity();
        (
            validity.not_before.to_unix_duration().as_secs(),
            validity.not_after.to_unix_duration().as_secs(),
        )
    }

    /// The serial number, without leading zeros. AMD's certificates have the number 0.
    pub(crate) fn serial(&self) -> &[u8] {
        trim(self.parsed.tbs_certificate().serial_number().as_bytes())
    }

    /// The value of an extension; an extension that occurs twice is refused.
    pub(crate) fn extension(&self, oid: ObjectIdentifier) -> Result<Option<&[u8]>, X509Error> {
        let mut found = self
            .extensions()
            .iter()
            .filter(|extension| extension.extn_id == oid);
        let first = found.next();
        match found.next() {
            Some(_) => Err(X509Error::ExtensionTwice(oid.to_string())),
            None => Ok(first.map(|extension| extension.extn_value.as_bytes())),
        }
    }

    fn extensions(&self) -> &[x509_cert::ext::Extension] {
        self.parsed
            .tbs_certificate()
            .extensions()
            .map_or(&[][..], Vec::as_slice)
    }

    /// RFC 5280, 6.1.3 (a)(1): the issuer's key signed it.
    pub(crate) fn check_signed_by(
        &self,
        issuer: &Self,
        proven: &SignatureCache,
    ) -> Result<(), X509Error> {
        proven.once(&[&issuer.der, &self.der], || {
            let algorithm = self.parsed.signature_algorithm();
            check_same(algorithm, self.parsed.tbs_certificate().signature())?;
            let signature = bits(self.parsed.signature())?;
            let signed = signed_part(&self.der)?;
            issuer.public_key().check(algorithm, signed, signature)
        })
    }

    /// RFC 5280, 6.1.3 (a)(2): it is valid at `now`.
    pub(crate) fn check_validity(&self, now: u64) -> Result<(), X509Error> {
        let (first, last) = self.validity();
        match (first..=last).contains(&now) {
            true => Ok(()),
            false => Err(X509Error::Validity {
                subject: self.subject(),
                first,
                last,
                now,
            }),
        }
    }

    /// RFC 5280, 6.1.4 (k) to (n): it may sign certificates, `below` more of them on the way down.
    fn check_is_ca(&self, below: usize) -> Result<(), X509Error> {
        let refused = |why: &str| X509Error::NotACa {
            subject: self.subject(),
            why: why.to_owned(),
        };
        let constraints = self
            .extension(BASIC_CONSTRAINTS)?
            .ok_or_else(|| refused("it has no basic constraints"))?;
        let constraints = BasicConstraints::from_der(constraints)
            .map_err(|e| X509Error::Malformed(e.to_string()))?;
        if !constraints.ca {
            return Err(refused("its basic constraints say that it is none"));
        }
        if constraints
            .path_len_constraint
            .is_some_and(|most| usize::from(most) < below)
        {
            return Err(refused("its path length is used up"));
        }
        if let Some(usage) = self.key_usage()?
            && !usage.key_cert_sign()
        {
            return Err(refused("its key usage does not allow signing certificates"));
        }
        Ok(())
    }

    fn key_usage(&self) -> Result<Option<KeyUsage>, X509Error> {
        self.extension(KEY_USAGE)?
            .map(|usage| KeyUsage::from_der(usage).map_err(|e| X509Error::Malformed(e.to_string())))
            .transpose()
    }

    /// RFC 5280, 6.1.4 (o): every critical extension is one that is processed here or by the platform.
    fn check_critical(&self, known: &[ObjectIdentifier]) -> Result<(), X509Error> {
        match self.extensions().iter().find(|extension| {
            extension.critical
                && !PROCESSED.contains(&extension.extn_id)
                && !known.contains(&extension.extn_id)
        }) {
            None => Ok(()),
            Some(extension) => Err(X509Error::Critical {
                subject: self.subject(),
                oid: extension.extn_id.to_string(),
            }),
        }
    }
}

/// A certificate path from a leaf up to a trusted root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'a> {
    /// The certificate whose key signs evidence.
    pub(crate) leaf: &'a Certificate,
    /// Those between, in order: the first issued the leaf.
    pub(crate) intermediates: &'a [Certificate],
    /// The trusted root. Its own signature is not looked at; its dates and what it may sign are.
    pub(crate) root: &'a Certificate,
    /// Critical extensions that the platform itself processes.
    pub(crate) known: &'a [ObjectIdentifier],
}

impl Path<'_> {
    /// RFC 5280, 6.1: from the root down, each certificate is signed by the one above, names it as its issuer and is
    /// valid now; each above the leaf may sign certificates; none is revoked by a list in `crls`.
    ///
    /// A list counts for the issuer that signed it; one that no certificate of the path signed is refused. Whether a
    /// list is there for each issuer is the caller's to say.
    pub(crate) fn verify(
        &self,
        now: u64,
        crls: &[Crl],
        proven: &SignatureCache,
    ) -> Result<(), X509Error> {
        if self.intermediates.len() > MAX_PATH {
            return Err(X509Error::PathTooLong { limit: MAX_PATH });
        }
        self.root.check_validity(now)?;
        let mut issuer = self.root;
        let down = self
            .intermediates
            .iter()
            .rev()
            .chain(std::iter::once(self.leaf));
        for (depth, subject) in down.enumerate() {
            let below = self.intermediates.len().saturating_sub(depth);
            if issuer.parsed.tbs_certificate().subject()
                != subject.parsed.tbs_certificate().issuer()
            {
                return Err(X509Error::Issuer {
                    subject: subject.subject(),
                    expected: subject.issuer(),
                    actual: issuer.subject(),
                });
            }
            issuer.check_is_ca(below)?;
            subject.check_signed_by(issuer, proven)?;
            subject.check_validity(now)?;
            subject.check_critical(self.known)?;
            for crl in crls.iter().filter(|crl| crl.is_of(issuer)) {
                crl.check_current(issuer, now, proven)?;
                crl.check_not_revoked(subject)?;
            }
            issuer = subject;
        }
        match crls.iter().find(|crl| {
            !crl.is_of(self.root) && !self.intermediates.iter().any(|issuer| crl.is_of(issuer))
        }) {
            None => Ok(()),
            Some(crl) => Err(X509Error::StrayCrl(crl.issuer())),
        }
    }
}

/// A revocation list that was parsed, and of which nothing else is known.
#[derive(Clone, Debug)]
pub(crate) struct Crl {
    der: Vec<u8>,
    parsed: x509_cert::crl::CertificateList,
}

impl Crl {
    /// Parses one DER list.
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, X509Error> {
        if der.len() > MAX_CRL {
            return Err(X509Error::TooLong {
                actual: der.len(),
                limit: MAX_CRL,
            });
        }
        let parsed = x509_cert::crl::CertificateList::from_der(der)
            .map_err(|e| X509Error::Malformed(e.to_string()))?;
        Ok(Self {
            der: der.to_vec(),
            parsed,
        })
    }

    fn issuer(&self) -> String {
        self.parsed.tbs_cert_list.issuer.to_string()
    }

    /// Whether it names this certificate as its issuer.
    pub(crate) fn is_of(&self, issuer: &Certificate) -> bool {
        self.parsed.tbs_cert_list.issuer == *issuer.parsed.tbs_certificate().subject()
    }

    /// When its issuer will have published another.
    pub(crate) fn next_update(&self) -> Option<u64> {
        let next = self.parsed.tbs_cert_list.next_update?;
        Some(next.to_unix_duration().as_secs())
    }

    /// RFC 5280, 6.3.3: the issuer may sign lists and signed this one, it is current, and it covers whatever the issuer
    /// issued: what narrows a list's scope is critical, and no critical extension is known here (5.2).
    pub(crate) fn check_current(
        &self,
        issuer: &Certificate,
        now: u64,
        proven: &SignatureCache,
    ) -> Result<(), X509Error> {
        if let Some(usage) = issuer.key_usage()?
            && !usage.crl_sign()
        {
            return Err(X509Error::CrlIssuer(issuer.subject()));
        }
        proven.once(&[&issuer.der, &self.der], || {
            let algorithm = &self.parsed.signature_algorithm;
            check_same(algorithm, &self.parsed.tbs_cert_list.signature)?;
            let signature = bits(&self.parsed.signature)?;
            let signed = signed_part(&self.der)?;
            issuer.public_key().check(algorithm, signed, signature)
        })?;
        let list = &self.parsed.tbs_cert_list;
        let of_list = list.crl_extensions.iter().flatten();
        let of_entries = list
            .revoked_certificates
            .iter()
            .flatten()
            .filter_map(|entry| entry.crl_entry_extensions.as_ref())
            .flatten();
        if let Some(extension) = of_list.chain(of_entries).find(|one| one.critical) {
            return Err(X509Error::Critical {
                subject: format!("the revocation list of {}", self.issuer()),
                oid: extension.extn_id.to_string(),
            });
        }
        let first = list.this_update.to_unix_duration().as_secs();
        let last = list
            .next_update
            .ok_or_else(|| X509Error::Malformed("a revocation list without an end".to_owned()))?
            .to_unix_duration()
            .as_secs();
        match (first..=last).contains(&now) {
            true => Ok(()),
            false => Err(X509Error::Validity {
                subject: format!("the revocation list of {}", self.issuer()),
                first,
                last,
                now,
            }),
        }
    }

    fn check_not_revoked(&self, subject: &Certificate) -> Result<(), X509Error> {
        let revoked = self
            .parsed
            .tbs_cert_list
            .revoked_certificates
            .as_deref()
            .unwrap_or_default();
        match revoked
            .iter()
            .any(|entry| trim(entry.serial_number.as_bytes()) == subject.serial())
        {
            false => Ok(()),
            true => Err(X509Error::Revoked {
                subject: subject.subject(),
                serial: hex::encode(subject.serial()),
            }),
        }
    }
}

/// A public key, as a certificate or an attester carries it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PublicKey(SubjectPublicKeyInfoOwned);

impl PublicKey {
    /// Parses a DER `SubjectPublicKeyInfo`.
    pub(crate) fn from_spki(der: &[u8]) -> Result<Self, X509Error> {
        if der.len() > MAX_CERTIFICATE {
            return Err(X509Error::TooLong {
                actual: der.len(),
                limit: MAX_CERTIFICATE,
            });
        }
        SubjectPublicKeyInfoOwned::from_der(der)
            .map(Self)
            .map_err(|e| X509Error::Malformed(e.to_string()))
    }

    /// The key as DER `SubjectPublicKeyInfo`.
    pub(crate) fn to_spki(&self) -> Result<Vec<u8>, X509Error> {
        self.0
            .to_der()
            .map_err(|e| X509Error::Malformed(e.to_string()))
    }

    /// The bits of the key: a point, or PKCS#1's `RSAPublicKey`.
    pub(crate) fn bits(&self) -> Result<&[u8], X509Error> {
        bits(&self.0.subject_public_key)
    }

    /// Which kind of key.
    pub(crate) fn kind(&self) -> Result<KeyKind, X509Error> {
        let curve = self
            .0
            .algorithm
            .parameters
            .as_ref()
            .and_then(|parameters| parameters.decode_as::<ObjectIdentifier>().ok());
        match (self.0.algorithm.oid, curve) {
            (EC, Some(P256)) => Ok(KeyKind::P256),
            (EC, Some(P384)) => Ok(KeyKind::P384),
            (RSA, _) | (RSA_PSS, _) => Ok(KeyKind::Rsa),
            (other, _) => Err(X509Error::Algorithm(other.to_string())),
        }
    }

    /// Verifies an ECDSA signature of 2 × 32 or 2 × 48 big-endian bytes, with the hash that goes with the curve.
    pub(crate) fn check_fixed(&self, message: &[u8], signature: &[u8]) -> Result<(), X509Error> {
        let algorithm: &dyn VerificationAlgorithm = match self.kind()? {
            KeyKind::P256 => &signature::ECDSA_P256_SHA256_FIXED,
            KeyKind::P384 => &signature::ECDSA_P384_SHA384_FIXED,
            KeyKind::Rsa => return Err(X509Error::Algorithm("an RSA key for ECDSA".to_owned())),
        };
        self.check_with(algorithm, message, signature)
    }

    /// Verifies an RSASSA-PKCS1-v1_5 signature with SHA-256.
    pub(crate) fn check_pkcs1_sha256(
        &self,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), X509Error> {
        match self.kind()? {
            KeyKind::Rsa => {
                self.check_with(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            _ => Err(X509Error::Algorithm("a curve's key for RSASSA".to_owned())),
        }
    }

    fn check(
        &self,
        algorithm: &AlgorithmIdentifierOwned,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), X509Error> {
        let unknown = || X509Error::Algorithm(algorithm.oid.to_string());
        let algorithm: &dyn VerificationAlgorithm = match (self.kind()?, algorithm.oid) {
            (KeyKind::P256, ECDSA_SHA256) => &signature::ECDSA_P256_SHA256_ASN1,
            (KeyKind::P256, ECDSA_SHA384) => &signature::ECDSA_P256_SHA384_ASN1,
            (KeyKind::P384, ECDSA_SHA256) => &signature::ECDSA_P384_SHA256_ASN1,
            (KeyKind::P384, ECDSA_SHA384) => &signature::ECDSA_P384_SHA384_ASN1,
            (KeyKind::Rsa, RSA_SHA256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (KeyKind::Rsa, RSA_SHA384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (KeyKind::Rsa, RSA_SHA512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (KeyKind::Rsa, RSA_PSS) => match pss_hash(algorithm)? {
                SHA256 => &signature::RSA_PSS_2048_8192_SHA256,
                SHA384 => &signature::RSA_PSS_2048_8192_SHA384,
                SHA512 => &signature::RSA_PSS_2048_8192_SHA512,
                _ => return Err(unknown()),
            },
            _ => return Err(unknown()),
        };
        self.check_with(algorithm, message, signature)
    }

    fn check_with(
        &self,
        algorithm: &dyn VerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), X509Error> {
        algorithm
            .verify_sig(self.bits()?, message, signature)
            .map_err(|_| X509Error::Signature)
    }
}

/// The kinds of key that sign evidence or certificates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum KeyKind {
    P256,
    P384,
    Rsa,
}

/// Signatures that verified before, by the bytes of signer and signed: what was true of bytes stays true.
///
/// Bounded: the oldest leaves first. Dates and revocation are never remembered.
#[derive(Debug, Default)]
pub(crate) struct SignatureCache(Mutex<Proven>);

#[derive(Debug, Default)]
struct Proven {
    known: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl SignatureCache {
    /// Runs `verify` unless it succeeded before for the same bytes.
    pub(crate) fn once(
        &self,
        bytes: &[&[u8]],
        verify: impl FnOnce() -> Result<(), X509Error>,
    ) -> Result<(), X509Error> {
        let key = sha256(bytes);
        if self.proven().known.contains(&key) {
            return Ok(());
        }
        verify()?;
        let mut proven = self.proven();
        if proven.known.insert(key) {
            proven.order.push_back(key);
        }
        if proven.order.len() > MAX_PROVEN
            && let Some(oldest) = proven.order.pop_front()
        {
            proven.known.remove(&oldest);
        }
        Ok(())
    }

    fn proven(&self) -> std::sync::MutexGuard<'_, Proven> {
        // Each call leaves the two lists alike.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a certificate, a path or a list is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum X509Error {
    #[error("it has {actual} bytes, at most {limit}")]
    TooLong { actual: usize, limit: usize },
    #[error("malformed: {0}")]
    Malformed(String),
    #[error("extension {0} occurs twice")]
    ExtensionTwice(String),
    #[error("algorithm {0} is not accepted")]
    Algorithm(String),
    #[error("the signature does not verify")]
    Signature,
    #[error(
        "{subject} is valid from {first} to {last} (seconds since 1970), and the time is {now}"
    )]
    Validity {
        subject: String,
        first: u64,
        last: u64,
        now: u64,
    },
    #[error("{subject} may not sign certificates: {why}")]
    NotACa { subject: String, why: String },
    #[error("{subject} has the critical extension {oid}, which nothing here processes")]
    Critical { subject: String, oid: String },
    #[error("{subject} was issued by {expected}, not by {actual}")]
    Issuer {
        subject: String,
        expected: String,
        actual: String,
    },
    #[error("the chain leads to no trusted root")]
    NotAnchored,
    #[error("the path has more than {limit} intermediate certificates")]
    PathTooLong { limit: usize },
    #[error("{subject} (serial {serial}) is revoked")]
    Revoked { subject: String, serial: String },
    #[error("the revocation list of {0} belongs to no certificate of the path")]
    StrayCrl(String),
    #[error("the key usage of {0} does not allow signing revocation lists")]
    CrlIssuer(String),
}

/// The first element of the outer SEQUENCE, as it stands in the bytes: what an issuer signed (RFC 5280, 4.1.1.3).
fn signed_part(der: &[u8]) -> Result<&[u8], X509Error> {
    use der::Reader as _;
    let malformed = |e: der::Error| X509Error::Malformed(e.to_string());
    let mut reader = der::SliceReader::new(der).map_err(malformed)?;
    der::Header::decode(&mut reader).map_err(malformed)?;
    reader.tlv_bytes().map_err(malformed)
}

/// RFC 5280, 4.1.1.2 and 5.1.1.2: the algorithm within the signed part is the one beside the signature.
fn check_same(
    beside: &AlgorithmIdentifierOwned,
    within: &AlgorithmIdentifierOwned,
) -> Result<(), X509Error> {
    match beside == within {
        true => Ok(()),
        false => Err(X509Error::Algorithm(format!(
            "{} beside the signature and {} within what it signs",
            beside.oid, within.oid
        ))),
    }
}

fn bits(bits: &der::asn1::BitString) -> Result<&[u8], X509Error> {
    bits.as_bytes()
        .ok_or_else(|| X509Error::Malformed("a bit string with unused bits".to_owned()))
}

/// RFC 4055, 3.1. The salt is as long as the hash, as aws-lc-rs demands.
fn pss_hash(algorithm: &AlgorithmIdentifierOwned) -> Result<ObjectIdentifier, X509Error> {
    let malformed =
        || X509Error::Algorithm("RSASSA-PSS with parameters of another form".to_owned());
    let parameters = algorithm.parameters.as_ref().ok_or_else(malformed)?;
    let parameters: PssParameters = parameters.decode_as().map_err(|_| malformed())?;
    let hash = parameters.hash.ok_or_else(malformed)?.oid;
    let mask = parameters.mask.ok_or_else(malformed)?;
    let mask_hash: AlgorithmIdentifierOwned = mask
        .parameters
        .as_ref()
        .ok_or_else(malformed)?
        .decode_as()
        .map_err(|_| malformed())?;
    let length = match hash {
        SHA256 => 32,
        SHA384 => 48,
        SHA512 => 64,
        _ => return Err(malformed()),
    };
    let usual = mask.oid == MGF1
        && mask_hash.oid == hash
        && parameters.salt == Some(length)
        && parameters.trailer.is_none_or(|trailer| trailer == 1);
    match usual {
        true => Ok(hash),
        false => Err(malformed()),
    }
}

#[derive(Sequence)]
struct PssParameters {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierOwned>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierOwned>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    salt: Option<u16>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    trailer: Option<u8>,
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        // The length first, so that no two lists of parts hash alike.
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn trim(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

const MAX_CERTIFICATE: usize = 16 * 1024;
/// Intel's and AMD's lists have a few kilobytes; a large one of a TPM maker has hundreds.
const MAX_CRL: usize = 1024 * 1024;
const MAX_PATH: usize = 6;
const MAX_PROVEN: usize = 4_096;

const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const RSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const RSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
/// Critical extensions that are looked at here, and extended key usage, which narrows what TLS clients accept and
/// decides nothing about evidence.
const PROCESSED: [ObjectIdentifier; 3] = [BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{
        BasicConstraints as Constraints, CertificateParams, CertificateRevocationListParams,
        CustomExtension, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
        PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, RevokedCertParams, SerialNumber,
        date_time_ymd,
    };

    use super::*;
    use crate::TrustAnchors;
    use crate::anchors::Vendor;
    use crate::collateral::SnpProduct;

    /// 2026-01-01, within the life of what [`Made`] makes.
    const NOW: u64 = 1_767_225_600;

    /// A certificate and what its successors are signed with.
    struct Made {
        certificate: Certificate,
        params: CertificateParams,
        key: KeyPair,
    }

    fn params(name: &str, ca: bool) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2025, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 1);
        params.serial_number = Some(SerialNumber::from_slice(name.as_bytes()));
        if ca {
            params.is_ca = IsCa::Ca(Constraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        }
        params
    }

    fn root(params: CertificateParams) -> Made {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let der = params.self_signed(&key).unwrap();
        Made {
            certificate: Certificate::from_der(der.der()).unwrap(),
            params,
            key,
        }
    }

    impl Made {
        fn issue(&self, params: CertificateParams) -> Self {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
            let issuer = Issuer::from_params(&self.params, &self.key);
            let der = params.signed_by(&key, &issuer).unwrap();
            Self {
                certificate: Certificate::from_der(der.der()).unwrap(),
                params,
                key,
            }
        }

        fn crl(&self, revoked: &[&str]) -> Crl {
            self.crl_from(crl_params(revoked))
        }

        fn crl_from(&self, list: CertificateRevocationListParams) -> Crl {
            // The maker of the tests' lists would itself refuse an issuer that may not sign them.
            let mut params = self.params.clone();
            params.key_usages = vec![KeyUsagePurpose::CrlSign];
            let issuer = Issuer::from_params(&params, &self.key);
            Crl::from_der(list.signed_by(&issuer).unwrap().der()).unwrap()
        }
    }

    fn crl_params(revoked: &[&str]) -> CertificateRevocationListParams {
        CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 12, 1),
            next_update: date_time_ymd(2026, 2, 1),
            crl_number: SerialNumber::from(7_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|name| RevokedCertParams {
                    serial_number: SerialNumber::from_slice(name.as_bytes()),
                    revocation_time: date_time_ymd(2025, 11, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
    }

    /// A root, an intermediate and a leaf.
    struct Chain {
        root: Made,
        middle: Made,
        leaf: Made,
    }

    fn chain() -> Chain {
        chain_of(
            params("root", true),
            params("middle", true),
            params("leaf", false),
        )
    }

    fn chain_of(
        top: CertificateParams,
        middle: CertificateParams,
        leaf: CertificateParams,
    ) -> Chain {
        let root = root(top);
        let middle = root.issue(middle);
        let leaf = middle.issue(leaf);
        Chain { root, middle, leaf }
    }

    impl Chain {
        fn verify(&self, crls: &[Crl]) -> Result<(), X509Error> {
            self.verify_at(NOW, crls)
        }

        fn verify_at(&self, now: u64, crls: &[Crl]) -> Result<(), X509Error> {
            Path {
                leaf: &self.leaf.certificate,
                intermediates: std::slice::from_ref(&self.middle.certificate),
                root: &self.root.certificate,
                known: &[],
            }
            .verify(now, crls, &SignatureCache::default())
        }
    }

    fn amd(product: SnpProduct) -> (Certificate, Certificate, Certificate) {
        let anchors = TrustAnchors::vendors();
        let root = anchors.roots(Vendor::Amd(product)).next().unwrap();
        let [ask, asvk] = root.intermediates.as_slice() else {
            panic!("{product} has two intermediates");
        };
        (root.certificate.clone(), ask.clone(), asvk.clone())
    }

    fn path_of_two(leaf: &Certificate, root: &Certificate) -> Result<(), X509Error> {
        Path {
            leaf,
            intermediates: &[],
            root,
            known: &[],
        }
        .verify(NOW, &[], &SignatureCache::default())
    }

    #[test]
    fn a_made_chain_passes() {
        chain().verify(&[]).unwrap();
    }

    #[test]
    fn amd_signing_keys_are_signed_by_their_root() {
        for product in SnpProduct::ALL {
            let (ark, ask, asvk) = amd(product);
            assert_eq!(ark.common_name(), Some(format!("ARK-{product}")));
            assert_eq!(ask.common_name(), Some(format!("SEV-{product}")));
            assert_eq!(asvk.common_name(), Some(format!("SEV-VLEK-{product}")));
            ark.check_signed_by(&ark, &SignatureCache::default())
                .unwrap();
            path_of_two(&ask, &ark).unwrap();
            path_of_two(&asvk, &ark).unwrap();
        }
    }

    #[test]
    fn signing_key_of_another_product_line_is_refused() {
        let (milan, ..) = amd(SnpProduct::Milan);
        let (_, genoa, _) = amd(SnpProduct::Genoa);
        assert!(matches!(
            path_of_two(&genoa, &milan),
            Err(X509Error::Issuer { .. })
        ));
        assert_eq!(
            genoa.check_signed_by(&milan, &SignatureCache::default()),
            Err(X509Error::Signature)
        );
    }

    #[test]
    fn swapped_root_and_signing_key_are_refused() {
        let (ark, ask, _) = amd(SnpProduct::Milan);
        assert!(matches!(
            path_of_two(&ark, &ask),
            Err(X509Error::Issuer { .. })
        ));
    }

    #[test]
    fn swapped_intermediate_and_leaf_are_refused() {
        let Chain { root, middle, leaf } = chain();
        let swapped = Chain {
            root,
            middle: leaf,
            leaf: middle,
        };
        assert!(matches!(swapped.verify(&[]), Err(X509Error::Issuer { .. })));
    }

    #[test]
    fn issuer_of_the_right_name_and_the_wrong_key_is_refused() {
        let mut chain = chain();
        chain.root = root(params("root", true));
        assert_eq!(chain.verify(&[]), Err(X509Error::Signature));
    }

    #[test]
    fn any_changed_byte_of_the_signed_part_or_the_signature_is_refused() {
        let chain = chain();
        let der = chain.leaf.certificate.der().to_vec();
        let mut parsed = 0;
        for at in 0..der.len() {
            let mut changed = der.clone();
            changed[at] ^= 0x01;
            if let Ok(changed) = Certificate::from_der(&changed) {
                parsed += 1;
                let cache = SignatureCache::default();
                assert!(
                    changed
                        .check_signed_by(&chain.middle.certificate, &cache)
                        .is_err(),
                    "byte {at}"
                );
            }
        }
        assert!(parsed > 100, "{parsed}");
    }

    #[test]
    fn certificate_before_its_first_second_is_refused() {
        let chain = chain();
        let (first, last) = chain.leaf.certificate.validity();
        assert!(chain.verify_at(first, &[]).is_ok() && chain.verify_at(last, &[]).is_ok());
        assert!(matches!(
            chain.verify_at(first - 1, &[]),
            Err(X509Error::Validity { .. })
        ));
        assert!(matches!(
            chain.verify_at(last + 1, &[]),
            Err(X509Error::Validity { .. })
        ));
    }

    #[test]
    fn expiry_is_looked_at_for_each_certificate_of_a_path() {
        for expired in ["root", "middle", "leaf"] {
            let made = |name: &str, ca| {
                let mut params = params(name, ca);
                if name == expired {
                    params.not_after = date_time_ymd(2025, 6, 1);
                }
                params
            };
            let chain = chain_of(
                made("root", true),
                made("middle", true),
                made("leaf", false),
            );
            let error = chain.verify(&[]).unwrap_err();
            assert!(
                matches!(&error, X509Error::Validity { subject, .. } if subject.contains(expired)),
                "{error}"
            );
        }
    }

    #[test]
    fn remembered_signature_does_not_outlive_the_certificate() {
        let chain = chain();
        let cache = SignatureCache::default();
        let path = Path {
            leaf: &chain.leaf.certificate,
            intermediates: std::slice::from_ref(&chain.middle.certificate),
            root: &chain.root.certificate,
            known: &[],
        };
        path.verify(NOW, &[], &cache).unwrap();
        let (_, last) = chain.leaf.certificate.validity();
        assert!(matches!(
            path.verify(last + 1, &[], &cache),
            Err(X509Error::Validity { .. })
        ));
        let revoking = chain.middle.crl(&["leaf"]);
        assert!(matches!(
            path.verify(NOW, &[revoking], &cache),
            Err(X509Error::Revoked { .. })
        ));
    }

    #[test]
    fn issuer_that_is_no_ca_is_refused() {
        for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
            let mut middle = params("middle", false);
            middle.is_ca = is_ca;
            let chain = chain_of(params("root", true), middle, params("leaf", false));
            assert!(matches!(chain.verify(&[]), Err(X509Error::NotACa { .. })));
        }
    }

    #[test]
    fn issuer_whose_key_may_not_sign_certificates_is_refused() {
        let mut middle = params("middle", true);
        middle.key_usages = vec![KeyUsagePurpose::CrlSign];
        let chain = chain_of(params("root", true), middle, params("leaf", false));
        assert!(matches!(chain.verify(&[]), Err(X509Error::NotACa { .. })));
    }

    #[test]
    fn path_length_counts_the_certificates_between() {
        let mut top = params("root", true);
        top.is_ca = IsCa::Ca(Constraints::Constrained(0));
        let chain = chain_of(top, params("middle", true), params("leaf", false));
        assert!(matches!(chain.verify(&[]), Err(X509Error::NotACa { .. })));
        let mut top = params("root", true);
        top.is_ca = IsCa::Ca(Constraints::Constrained(1));
        let mut middle = params("middle", true);
        middle.is_ca = IsCa::Ca(Constraints::Constrained(0));
        chain_of(top, middle, params("leaf", false))
            .verify(&[])
            .unwrap();
    }

    #[test]
    fn path_with_too_many_certificates_is_refused() {
        let chain = chain();
        let many = vec![chain.middle.certificate.clone(); MAX_PATH + 1];
        let path = Path {
            leaf: &chain.leaf.certificate,
            intermediates: &many,
            root: &chain.root.certificate,
            known: &[],
        };
        assert_eq!(
            path.verify(NOW, &[], &SignatureCache::default()),
            Err(X509Error::PathTooLong { limit: MAX_PATH })
        );
    }

    fn with_extension(critical: bool) -> Chain {
        let mut leaf = params("leaf", false);
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 9], vec![5, 0]);
        extension.set_criticality(critical);
        leaf.custom_extensions = vec![extension];
        chain_of(params("root", true), params("middle", true), leaf)
    }

    #[test]
    fn unknown_critical_extension_is_refused_unless_the_platform_knows_it() {
        with_extension(false).verify(&[]).unwrap();
        let chain = with_extension(true);
        assert!(matches!(chain.verify(&[]), Err(X509Error::Critical { .. })));
        let path = Path {
            leaf: &chain.leaf.certificate,
            intermediates: std::slice::from_ref(&chain.middle.certificate),
            root: &chain.root.certificate,
            known: &[ObjectIdentifier::new_unwrap("1.3.6.1.4.1.9")],
        };
        path.verify(NOW, &[], &SignatureCache::default()).unwrap();
    }

    #[test]
    fn extension_that_occurs_twice_is_refused() {
        let mut leaf = params("leaf", false);
        leaf.custom_extensions = [1, 2]
            .map(|byte| CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 9], vec![2, 1, byte]))
            .to_vec();
        let leaf = root(leaf).certificate;
        let oid = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.9");
        assert_eq!(
            leaf.extension(oid),
            Err(X509Error::ExtensionTwice("1.3.6.1.4.1.9".to_owned()))
        );
    }

    #[test]
    fn current_list_that_names_others_lets_a_path_pass() {
        let chain = chain();
        let lists = [chain.root.crl(&["other"]), chain.middle.crl(&["other"])];
        chain.verify(&lists).unwrap();
    }

    #[test]
    fn revoked_leaf_and_revoked_intermediate_are_refused() {
        let chain = chain();
        for list in [
            chain.middle.crl(&["other", "leaf"]),
            chain.root.crl(&["middle"]),
        ] {
            assert!(matches!(
                chain.verify(&[list]),
                Err(X509Error::Revoked { .. })
            ));
        }
    }

    #[test]
    fn revoked_serial_number_zero_is_found() {
        let mut leaf = params("leaf", false);
        leaf.serial_number = Some(SerialNumber::from_slice(&[0]));
        let chain = chain_of(params("root", true), params("middle", true), leaf);
        chain.verify(&[chain.middle.crl(&["other"])]).unwrap();
        let mut list = crl_params(&["other"]);
        list.revoked_certs[0].serial_number = SerialNumber::from_slice(&[0]);
        let list = chain.middle.crl_from(list);
        assert!(matches!(
            chain.verify(&[list]),
            Err(X509Error::Revoked { .. })
        ));
    }

    #[test]
    fn list_that_no_certificate_of_the_path_signed_is_refused() {
        let chain = chain();
        let stray = root(params("stranger", true)).crl(&[]);
        assert!(matches!(
            chain.verify(&[stray]),
            Err(X509Error::StrayCrl(_))
        ));
    }

    #[test]
    fn list_of_the_right_name_and_the_wrong_key_is_refused() {
        let chain = chain();
        let forged = root(params("middle", true)).crl(&[]);
        assert_eq!(chain.verify(&[forged]), Err(X509Error::Signature));
    }

    #[test]
    fn outdated_list_is_refused() {
        let chain = chain();
        let list = [chain.middle.crl(&[])];
        let month = 31 * 86_400;
        assert!(matches!(
            chain.verify_at(NOW + month + 1, &list),
            Err(X509Error::Validity { .. })
        ));
        assert!(matches!(
            chain.verify_at(NOW - month - 1, &list),
            Err(X509Error::Validity { .. })
        ));
    }

    #[test]
    fn list_of_narrowed_scope_is_refused() {
        let chain = chain();
        let mut list = crl_params(&[]);
        list.issuing_distribution_point = Some(rcgen::CrlIssuingDistributionPoint {
            distribution_point: rcgen::CrlDistributionPoint {
                uris: vec!["http://example.com/crl".to_owned()],
            },
            scope: Some(rcgen::CrlScope::CaCertsOnly),
        });
        let list = chain.middle.crl_from(list);
        assert!(matches!(
            chain.verify(&[list]),
            Err(X509Error::Critical { .. })
        ));
    }

    #[test]
    fn list_of_an_issuer_that_may_not_sign_lists_is_refused() {
        let mut middle = params("middle", true);
        middle.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let chain = chain_of(params("root", true), middle, params("leaf", false));
        let list = chain.middle.crl(&[]);
        assert!(matches!(
            chain.verify(&[list]),
            Err(X509Error::CrlIssuer(_))
        ));
    }

    #[test]
    fn algorithms_beside_and_within_must_agree() {
        let chain = chain();
        // The last algorithm in a certificate is the one beside the signature: ecdsa-with-SHA256 made SHA384.
        let mut der = chain.middle.certificate.der().to_vec();
        let oid = ECDSA_SHA256.as_bytes();
        let at = (0..der.len() - oid.len())
            .rev()
            .find(|at| der[*at..].starts_with(oid))
            .unwrap();
        der[at + oid.len() - 1] = 3;
        let changed = Certificate::from_der(&der).unwrap();
        let error = changed
            .check_signed_by(&chain.root.certificate, &SignatureCache::default())
            .unwrap_err();
        assert!(
            matches!(&error, X509Error::Algorithm(text) if text.contains("beside")),
            "{error}"
        );
    }

    #[test]
    fn oversized_certificate_and_list_are_refused_before_parsing() {
        let long = X509Error::TooLong {
            actual: MAX_CERTIFICATE + 1,
            limit: MAX_CERTIFICATE,
        };
        assert_eq!(
            Certificate::from_der(&vec![0x30; MAX_CERTIFICATE + 1]),
            Err(long.clone())
        );
        assert_eq!(
            PublicKey::from_spki(&vec![0x30; MAX_CERTIFICATE + 1]),
            Err(long)
        );
        assert!(matches!(
            Crl::from_der(&vec![0x30; MAX_CRL + 1]),
            Err(X509Error::TooLong { .. })
        ));
        assert!(matches!(
            Certificate::from_pem_chain(&vec![b'-'; 2 * MAX_CERTIFICATE + 1], 1),
            Err(X509Error::TooLong { .. })
        ));
    }

    #[test]
    fn truncated_certificate_and_list_are_refused() {
        let chain = chain();
        let (der, list) = (chain.leaf.certificate.der(), chain.middle.crl(&["leaf"]));
        for length in 0..der.len() {
            assert!(Certificate::from_der(&der[..length]).is_err());
        }
        for length in 0..list.der.len() {
            assert!(Crl::from_der(&list.der[..length]).is_err());
        }
    }

    #[test]
    fn text_after_a_certificate_is_refused() {
        let mut der = chain().leaf.certificate.der().to_vec();
        der.push(0);
        assert!(Certificate::from_der(&der).is_err());
    }

    #[test]
    fn pem_of_another_kind_or_number_is_refused() {
        let Chain { root, middle, .. } = chain();
        let pem = |made: &Made| {
            pem::encode(&pem::Pem::new(
                "CERTIFICATE",
                made.certificate.der().to_vec(),
            ))
        };
        let two = pem(&root) + &pem(&middle);
        assert_eq!(
            Certificate::from_pem_chain(two.as_bytes(), 2)
                .unwrap()
                .len(),
            2
        );
        assert!(Certificate::from_pem_chain(two.as_bytes(), 1).is_err());
        assert!(Certificate::from_pem_chain(b"", 1).is_err());
        let key = root.key.serialize_pem();
        assert!(matches!(
            Certificate::from_pem_chain(key.as_bytes(), 1),
            Err(X509Error::Malformed(text)) if text.contains("where a certificate should be")
        ));
    }

    #[test]
    fn memory_of_signatures_is_bounded() {
        let cache = SignatureCache::default();
        for number in 0..MAX_PROVEN + 10 {
            cache.once(&[&number.to_be_bytes()], || Ok(())).unwrap();
        }
        let proven = cache.proven();
        assert_eq!(
            (proven.known.len(), proven.order.len()),
            (MAX_PROVEN, MAX_PROVEN)
        );
        assert!(!proven.known.contains(&sha256(&[&0_usize.to_be_bytes()])));
    }

    #[test]
    fn failure_is_not_remembered() {
        let cache = SignatureCache::default();
        for _ in 0..2 {
            assert!(cache.once(&[b"a"], || Err(X509Error::Signature)).is_err());
        }
        cache.once(&[b"a"], || Ok(())).unwrap();
        cache.once(&[b"a"], || panic!("it is remembered")).unwrap();
        // The same bytes divided otherwise are another question.
        assert!(
            cache
                .once(&[b"", b"a"], || Err(X509Error::Signature))
                .is_err()
        );
    }
}
