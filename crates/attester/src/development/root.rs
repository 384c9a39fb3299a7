//! The development root: one self-signed certificate, and the keys of everything that is issued under it.
//!
//! Only keys and the root's certificate are kept. Every other certificate and list is signed anew from fixed fields
//! when it is wanted, so that a folder of one version serves the next.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{self, EcdsaKeyPair, RsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PublicKeyData, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use time::OffsetDateTime;

use super::{DevelopmentError, folder};

/// A root for development, and the keys under it. Clones share them.
#[derive(Clone)]
pub struct DevelopmentRoot(Arc<Inner>);

struct Inner {
    /// DER.
    certificate: Vec<u8>,
    created: u64,
    keys: BTreeMap<Role, Key>,
    /// Made when it is first wanted: it takes much longer than all others together.
    attestation_key: OnceLock<RsaKey>,
}

impl DevelopmentRoot {
    /// Makes a root that is valid for ten years from the day before `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`], when `now` is no time of a certificate.
    pub fn generate(now: u64) -> Result<Self, DevelopmentError> {
        let keys = Role::ALL
            .into_iter()
            .map(|role| Ok((role, Key::generate(role)?)))
            .collect::<Result<BTreeMap<_, _>, DevelopmentError>>()?;
        let key = keys
            .get(&Role::Root)
            .expect("a key was made for every role");
        let certificate = Profile {
            common_name: &root_name(key),
            // The chains under it have one intermediate certificate at most.
            is_ca: Some(1),
            ..Profile::new("", valid_from(now), valid_to(now))
        }
        .self_signed(key)?;
        Ok(Self(Arc::new(Inner {
            certificate,
            created: now,
            keys,
            attestation_key: OnceLock::new(),
        })))
    }

    /// Opens the root that is kept in `folder`, or makes one and keeps it there.
    ///
    /// The folder holds `root.pem`, which alone a broker needs to know, `keys.json`, which is secret, and `collateral/`.
    /// It appears at once and whole, or not at all.
    ///
    /// # Errors
    /// [`DevelopmentError`], when the folder holds something else or cannot be written.
    pub fn open_or_create(folder: &Path, now: u64) -> Result<Self, DevelopmentError> {
        folder::open_or_create(folder, now)
    }

    /// Opens the root that is kept in `folder`.
    ///
    /// # Errors
    /// [`DevelopmentError`], when there is none.
    pub fn open(folder: &Path) -> Result<Self, DevelopmentError> {
        folder::open(folder)
    }

    /// Keeps the root in `folder`, which must not exist, or be empty.
    ///
    /// # Errors
    /// [`DevelopmentError`], when there is something or it cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), DevelopmentError> {
        folder::save(self, folder)
    }

    /// The root's certificate: what a verifier is given to trust for development.
    pub fn certificate_pem(&self) -> String {
        to_pem(&self.0.certificate)
    }

    /// The root's certificate, as DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.0.certificate
    }

    /// SHA-256 over the root's DER: what collateral is filed under.
    pub fn id(&self) -> [u8; 32] {
        super::sha256(&self.0.certificate)
    }

    /// When the root was made, in seconds since 1970.
    pub fn created(&self) -> u64 {
        self.0.created
    }

    /// The first second at which what the root issues is valid.
    pub fn not_before(&self) -> u64 {
        valid_from(self.0.created)
    }

    /// The last second at which the root and what it issues is valid.
    pub fn not_after(&self) -> u64 {
        valid_to(self.0.created)
    }

    /// Bytes that stand for a value of hardware, such as a chip id: the same for one root and name.
    pub(crate) fn identity(&self, name: &str) -> [u8; 64] {
        let mut context = digest::Context::new(&digest::SHA512);
        context.update(&self.0.certificate);
        context.update(name.as_bytes());
        super::fitted(context.finish().as_ref())
    }

    pub(crate) fn key(&self, role: Role) -> &Key {
        self.0
            .keys
            .get(&role)
            .expect("a root is made or opened with a key for every role")
    }

    /// The RSA key that stands for a TPM's attestation key.
    pub(crate) fn attestation_key(&self) -> Result<&RsaKey, DevelopmentError> {
        if let Some(key) = self.0.attestation_key.get() {
            return Ok(key);
        }
        let key = RsaKey::generate()?;
        Ok(self.0.attestation_key.get_or_init(|| key))
    }

    /// Issues a certificate by the root's key.
    pub(crate) fn issue(
        &self,
        profile: &Profile<'_>,
        subject: &impl PublicKeyData,
    ) -> Result<Vec<u8>, DevelopmentError> {
        let key = self.key(Role::Root);
        profile.signed_by(&root_name(key), key, subject)
    }

    /// The root's revocation list.
    pub(crate) fn crl(&self, revoked: &[&[u8]]) -> Result<Vec<u8>, DevelopmentError> {
        let key = self.key(Role::Root);
        crl(
            &root_name(key),
            key,
            (self.not_before(), self.not_after()),
            revoked,
        )
    }

    /// The files of a collateral folder, by their paths in it: what a verification asks for and evidence does not bring.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn collateral(&self) -> Result<Vec<(String, Vec<u8>)>, DevelopmentError> {
        let mut files = super::snp::collateral(self)?;
        files.extend(super::intel::collateral(self)?);
        Ok(files)
    }

    /// An intermediate that the root issues, good for its whole life.
    pub(crate) fn intermediate(&self, name: &str, role: Role) -> Result<Vec<u8>, DevelopmentError> {
        let profile = Profile {
            is_ca: Some(0),
            ..Profile::new(name, self.not_before(), self.not_after())
        };
        self.issue(&profile, &self.key(role).certified)
    }

    /// What a folder keeps: the certificate, the time, and the keys as PKCS#8 by name.
    pub(crate) fn parts(&self) -> Result<Parts, DevelopmentError> {
        let mut keys: BTreeMap<String, Vec<u8>> = self
            .0
            .keys
            .iter()
            .map(|(role, key)| (role.name().to_owned(), key.certified.serialize_der()))
            .collect();
        let attestation_key = self.attestation_key()?.certified.serialize_der();
        keys.insert(ATTESTATION_KEY.to_owned(), attestation_key);
        Ok(Parts {
            certificate: self.0.certificate.clone(),
            created: self.0.created,
            keys,
        })
    }

    /// The opposite of [`Self::parts`]; the error says what does not fit.
    pub(crate) fn from_parts(parts: &Parts) -> Result<Self, String> {
        let named = |name: &str| {
            parts
                .keys
                .get(name)
                .ok_or_else(|| format!("it has no key {name:?}"))
        };
        let keys = Role::ALL
            .into_iter()
            .map(|role| {
                let key = Key::from_pkcs8(role, named(role.name())?)
                    .map_err(|e| format!("its key {:?}: {e}", role.name()))?;
                Ok((role, key))
            })
            .collect::<Result<BTreeMap<_, _>, String>>()?;
        let root = keys.get(&Role::Root).expect("collected for every role");
        let point = root.certified.der_bytes();
        if !parts
            .certificate
            .windows(point.len())
            .any(|window| window == point)
        {
            return Err("root.pem and keys.json are of two roots".to_owned());
        }
        let attestation_key = RsaKey::from_pkcs8(named(ATTESTATION_KEY)?)
            .map_err(|e| format!("its key {ATTESTATION_KEY:?}: {e}"))?;
        Ok(Self(Arc::new(Inner {
            certificate: parts.certificate.clone(),
            created: parts.created,
            keys,
            attestation_key: OnceLock::from(attestation_key),
        })))
    }
}

impl fmt::Debug for DevelopmentRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DevelopmentRoot({})", hex::encode(self.id()))
    }
}

impl PartialEq for DevelopmentRoot {
    fn eq(&self, other: &Self) -> bool {
        self.0.certificate == other.0.certificate
    }
}

impl Eq for DevelopmentRoot {}

/// What is kept of a root.
pub(crate) struct Parts {
    pub(crate) certificate: Vec<u8>,
    pub(crate) created: u64,
    pub(crate) keys: BTreeMap<String, Vec<u8>>,
}

/// What a key signs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Role {
    Root,
    /// AMD's signing keys: ASK and ASVK.
    AmdSigning,
    Vcek,
    Vlek,
    /// Intel's PCK platform and processor CAs.
    PckCa,
    Pck,
    TcbSigning,
    /// The quoting enclave's attestation key.
    Quoting,
    TpmCa,
    /// A TPM's attestation key on P-256.
    TpmEc,
}

impl Role {
    pub(crate) const ALL: [Self; 10] = [
        Self::Root,
        Self::AmdSigning,
        Self::Vcek,
        Self::Vlek,
        Self::PckCa,
        Self::Pck,
        Self::TcbSigning,
        Self::Quoting,
        Self::TpmCa,
        Self::TpmEc,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::AmdSigning => "amd_signing",
            Self::Vcek => "vcek",
            Self::Vlek => "vlek",
            Self::PckCa => "pck_ca",
            Self::Pck => "pck",
            Self::TcbSigning => "tcb_signing",
            Self::Quoting => "quoting",
            Self::TpmCa => "tpm_ca",
            Self::TpmEc => "tpm_ec",
        }
    }

    /// AMD signs reports on P-384, everybody else on P-256.
    fn is_p384(self) -> bool {
        matches!(self, Self::AmdSigning | Self::Vcek | Self::Vlek)
    }
}

/// An elliptic curve key, as rcgen certifies and signs certificates with it and as aws-lc-rs signs evidence with it.
pub(crate) struct Key {
    pub(crate) certified: KeyPair,
    fixed: EcdsaKeyPair,
}

impl Key {
    fn generate(role: Role) -> Result<Self, DevelopmentError> {
        let algorithm = match role.is_p384() {
            true => &rcgen::PKCS_ECDSA_P384_SHA384,
            false => &rcgen::PKCS_ECDSA_P256_SHA256,
        };
        Self::from_pkcs8(role, KeyPair::generate_for(algorithm)?.serialized_der())
    }

    fn from_pkcs8(role: Role, pkcs8: &[u8]) -> Result<Self, DevelopmentError> {
        let (certified, fixed) = match role.is_p384() {
            true => (
                &rcgen::PKCS_ECDSA_P384_SHA384,
                &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            ),
            false => (
                &rcgen::PKCS_ECDSA_P256_SHA256,
                &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            ),
        };
        Ok(Self {
            certified: KeyPair::from_pkcs8_der_and_sign_algo(
                &PrivatePkcs8KeyDer::from(pkcs8),
                certified,
            )?,
            fixed: EcdsaKeyPair::from_pkcs8(fixed, pkcs8)
                .map_err(|e| DevelopmentError::Signing(e.to_string()))?,
        })
    }

    /// r and s, each as long as the curve's order, big-endian; over the hash that goes with the curve.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, DevelopmentError> {
        let signature = self.fixed.sign(&SystemRandom::new(), message)?;
        Ok(signature.as_ref().to_vec())
    }

    /// The coordinates, x and y.
    pub(crate) fn coordinates(&self) -> &[u8] {
        // An uncompressed point starts with 04.
        self.certified.der_bytes().get(1..).unwrap_or_default()
    }
}

/// An RSA key of 2048 bits, in the same two forms.
pub(crate) struct RsaKey {
    pub(crate) certified: KeyPair,
    signing: RsaKeyPair,
}

impl RsaKey {
    fn generate() -> Result<Self, DevelopmentError> {
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?;
        Self::from_pkcs8(key.serialized_der())
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, DevelopmentError> {
        Ok(Self {
            certified: KeyPair::from_pkcs8_der_and_sign_algo(
                &PrivatePkcs8KeyDer::from(pkcs8),
                &rcgen::PKCS_RSA_SHA256,
            )?,
            signing: RsaKeyPair::from_pkcs8(pkcs8)
                .map_err(|e| DevelopmentError::Signing(e.to_string()))?,
        })
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, DevelopmentError> {
        let mut signature = vec![0; self.signing.public_modulus_len()];
        self.signing.sign(
            &signature::RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            message,
            &mut signature,
        )?;
        Ok(signature)
    }

    /// The modulus, big-endian.
    pub(crate) fn modulus(&self) -> Vec<u8> {
        self.public()
            .modulus()
            .big_endian_without_leading_zero()
            .to_vec()
    }

    /// The public exponent, big-endian.
    pub(crate) fn exponent(&self) -> Vec<u8> {
        self.public()
            .exponent()
            .big_endian_without_leading_zero()
            .to_vec()
    }

    fn public(&self) -> &rsa::PublicKey {
        use aws_lc_rs::signature::KeyPair as _;
        self.signing.public_key()
    }
}

/// What goes into a certificate.
pub(crate) struct Profile<'a> {
    pub(crate) common_name: &'a str,
    /// How many certificate authorities may follow below; `None` is no authority.
    pub(crate) is_ca: Option<u8>,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    /// `None` is one that is made of name and key.
    pub(crate) serial: Option<&'a [u8]>,
    pub(crate) extended: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) extensions: Vec<CustomExtension>,
}

impl<'a> Profile<'a> {
    /// An end entity.
    pub(crate) fn new(common_name: &'a str, not_before: u64, not_after: u64) -> Self {
        Self {
            common_name,
            is_ca: None,
            not_before,
            not_after,
            serial: None,
            extended: Vec::new(),
            extensions: Vec::new(),
        }
    }

    fn self_signed(&self, key: &Key) -> Result<Vec<u8>, DevelopmentError> {
        self.signed_by(self.common_name, key, &key.certified)
    }

    pub(crate) fn signed_by(
        &self,
        issuer_name: &str,
        issuer: &Key,
        subject: &impl PublicKeyData,
    ) -> Result<Vec<u8>, DevelopmentError> {
        let mut params = CertificateParams::default();
        params.not_before = time(self.not_before)?;
        params.not_after = time(self.not_after)?;
        params.distinguished_name = name(self.common_name);
        params.serial_number = Some(self.serial.map_or_else(
            || serial(self.common_name, subject.der_bytes()),
            SerialNumber::from_slice,
        ));
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages.clone_from(&self.extended);
        params.custom_extensions.clone_from(&self.extensions);
        (params.is_ca, params.key_usages) = match self.is_ca {
            Some(below) => (
                IsCa::Ca(BasicConstraints::Constrained(below)),
                CA_USAGES.to_vec(),
            ),
            None => (IsCa::ExplicitNoCa, vec![KeyUsagePurpose::DigitalSignature]),
        };
        let authority = authority(issuer_name);
        let issuer = Issuer::from_params(&authority, &issuer.certified);
        Ok(params.signed_by(subject, &issuer)?.der().to_vec())
    }
}

/// A list of revoked serial numbers, signed by one authority.
pub(crate) fn crl(
    issuer_name: &str,
    issuer: &Key,
    (this_update, next_update): (u64, u64),
    revoked: &[&[u8]],
) -> Result<Vec<u8>, DevelopmentError> {
    let this_update = time(this_update)?;
    let params = CertificateRevocationListParams {
        this_update,
        next_update: time(next_update)?,
        crl_number: SerialNumber::from_slice(&[1]),
        issuing_distribution_point: None,
        revoked_certs: revoked
            .iter()
            .map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from_slice(serial),
                revocation_time: this_update,
                reason_code: None,
                invalidity_date: None,
            })
            .collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let authority = authority(issuer_name);
    let issuer = Issuer::from_params(&authority, &issuer.certified);
    Ok(params.signed_by(&issuer)?.der().to_vec())
}

/// The serial number of a certificate that is issued under this name for this key.
pub(crate) fn serial(common_name: &str, public_key: &[u8]) -> SerialNumber {
    let mut digest = super::sha256(&[common_name.as_bytes(), &[0], public_key].concat());
    // Positive, and no leading zero (RFC 5280, 4.1.2.2).
    digest[0] = digest[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&digest[..16])
}

pub(crate) fn to_pem(der: &[u8]) -> String {
    let text = pem::Pem::new("CERTIFICATE", der);
    pem::encode_config(
        &text,
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

/// Two roots have two names, so that whoever looks for an issuer by name finds the right one.
fn root_name(key: &Key) -> String {
    let digest = super::sha256(key.certified.der_bytes());
    format!("Strongroom development root {}", hex::encode(&digest[..4]))
}

fn authority(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.key_usages = CA_USAGES.to_vec();
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, ORGANIZATION);
    name.push(DnType::CommonName, common_name);
    name
}

fn time(seconds: u64) -> Result<OffsetDateTime, DevelopmentError> {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| DevelopmentError::Signing(format!("{seconds} is no time")))
}

fn valid_from(created: u64) -> u64 {
    created.saturating_sub(24 * 3600)
}

fn valid_to(created: u64) -> u64 {
    created.saturating_add(TEN_YEARS)
}

const TEN_YEARS: u64 = 3652 * 24 * 3600;
const ORGANIZATION: &str = "Strongroom development, proves nothing";
const CA_USAGES: [KeyUsagePurpose; 2] = [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
const ATTESTATION_KEY: &str = "tpm_rsa";
