//! The development platform as an attester: what a guest without a TEE uses in place of a device.

use serde_json::value::RawValue;
use strongroom_wire::tee::Tee;

use super::{DevelopmentError, DevelopmentRoot, az_vtpm, sgx, snp, tdx, tpm};
use crate::AttestError;

/// Makes evidence of one platform under a development root.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DevelopmentAttester {
    platform: Tee,
    root: DevelopmentRoot,
    initdata_digest: Option<Vec<u8>>,
}

impl DevelopmentAttester {
    /// Takes a platform that has a forge.
    ///
    /// # Errors
    /// [`AttestError::Unsupported`], when it has none.
    pub fn new(platform: Tee, root: DevelopmentRoot) -> Result<Self, AttestError> {
        match PLATFORMS.contains(&platform) {
            true => Ok(Self {
                platform,
                root,
                initdata_digest: None,
            }),
            false => Err(AttestError::Unsupported(platform)),
        }
    }

    /// The digest that the platform's register holds: `HOST_DATA`, `MRCONFIGID`, `CONFIGID` or PCR 8.
    #[must_use]
    pub fn with_initdata_digest(mut self, digest: Vec<u8>) -> Self {
        self.initdata_digest = Some(digest);
        self
    }

    /// The platform that the evidence is of.
    pub fn tee(&self) -> Tee {
        self.platform
    }

    /// The root that signs.
    pub fn root(&self) -> &DevelopmentRoot {
        &self.root
    }

    pub(crate) fn evidence(&self, report_data: &[u8]) -> Result<Box<RawValue>, AttestError> {
        RawValue::from_string(self.forge(report_data)?).map_err(|_| AttestError::Json)
    }

    fn forge(&self, report_data: &[u8]) -> Result<String, DevelopmentError> {
        let root = &self.root;
        let digest = self.initdata_digest.as_deref();
        // A field of zeros is that of a platform that was launched without init-data.
        let launch = digest.unwrap_or_default();
        match self.platform {
            Tee::Tdx => tdx::Forge::new(root)
                .with_report_data(report_data)
                .with_initdata(launch)
                .evidence_json(),
            Tee::Sgx => sgx::Forge::new(root)
                .with_report_data(report_data)
                .with_initdata(launch)
                .evidence_json(),
            Tee::AzSnpVtpm | Tee::AzTdxVtpm => {
                let forge = match self.platform {
                    Tee::AzSnpVtpm => az_vtpm::Forge::snp(root),
                    _ => az_vtpm::Forge::tdx(root),
                };
                let mut forge = forge.with_report_data(report_data);
                if let Some(digest) = digest {
                    forge = forge.with_initdata(digest)?;
                }
                forge.evidence_json()
            }
            Tee::Tpm => {
                let mut forge = tpm::Forge::new(root).with_report_data(report_data);
                if let Some(digest) = digest {
                    forge = forge.with_initdata(digest)?;
                }
                forge.evidence_json()
            }
            // `new` lets nothing in that is not listed.
            _ => snp::Forge::new(root)
                .with_report_data(report_data)
                .with_initdata(launch)
                .evidence_json(),
        }
    }
}

/// The platform that a name such as `development:tdx` means; `None` for a name of another kind.
pub(crate) fn platform(name: &str) -> Option<Result<Tee, AttestError>> {
    let platform = match name.strip_prefix("development")? {
        "" => return Some(Ok(Tee::Snp)),
        rest => rest.strip_prefix(':')?,
    };
    Some(match platform.parse::<Tee>() {
        Ok(tee) if PLATFORMS.contains(&tee) => Ok(tee),
        Ok(tee) => Err(AttestError::Unknown(format!(
            "platform development does not stand for {tee}; it stands for: {}",
            PLATFORMS.map(Tee::as_str).join(", ")
        ))),
        Err(error) => Err(AttestError::Unknown(error.to_string())),
    })
}

/// The platforms that have a forge.
pub(crate) const PLATFORMS: [Tee; 6] = [
    Tee::Snp,
    Tee::Tdx,
    Tee::Sgx,
    Tee::AzSnpVtpm,
    Tee::AzTdxVtpm,
    Tee::Tpm,
];
