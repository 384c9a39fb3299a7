//! What Intel's quotes rest on, for development: the quoting enclave's signatures, the PCK certificate chain, and the
//! collateral of the provisioning certification service.
//!
//! SGX PCK Certificate and CRL Profile Specification; ECDSA quote library API, appendices A.3 and A.4; PCS API
//! version 4.

use rcgen::CustomExtension;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::root::{Profile, Role, crl, serial, to_pem};
use super::{DevelopmentError, DevelopmentRoot, der};

/// The PCK certificate: the platform that the quoting enclave runs on.
#[derive(Clone, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct PckFields {
    /// Issued by the platform CA, else by the processor CA.
    pub platform: bool,
    pub ppid: [u8; 16],
    /// The security version numbers of the 16 components.
    pub components: [u8; 16],
    pub pce_svn: u16,
    pub cpu_svn: [u8; 16],
    pub pce_id: [u8; 2],
    pub fmspc: [u8; 6],
    /// 0 standard, 1 scalable, 2 scalable with integrity.
    pub sgx_type: u8,
    /// Of the platform CA's certificates only, as are the three flags.
    pub platform_instance_id: [u8; 16],
    pub dynamic_platform: bool,
    pub cached_keys: bool,
    pub smt_enabled: bool,
    /// The first second at which it is valid, since 1970.
    pub not_before: u64,
    /// The last.
    pub not_after: u64,
}

impl PckFields {
    /// An up-to-date platform.
    pub fn new(root: &DevelopmentRoot) -> Self {
        Self {
            platform: true,
            ppid: super::fitted(&root.identity("ppid")),
            components: SGX_COMPONENTS,
            pce_svn: PCE_SVN,
            cpu_svn: SGX_COMPONENTS,
            pce_id: [0; 2],
            fmspc: FMSPC,
            sgx_type: 1,
            platform_instance_id: super::fitted(&root.identity("platform instance")),
            dynamic_platform: false,
            cached_keys: true,
            smt_enabled: true,
            not_before: root.not_before(),
            not_after: root.not_after(),
        }
    }

    /// The certificate.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn certificate_der(&self, root: &DevelopmentRoot) -> Result<Vec<u8>, DevelopmentError> {
        let profile = Profile {
            extensions: vec![CustomExtension::from_oid_content(SGX, self.extension())],
            ..Profile::new(PCK, self.not_before, self.not_after)
        };
        profile.signed_by(
            ca_name(self.platform),
            root.key(Role::PckCa),
            &root.key(Role::Pck).certified,
        )
    }

    /// The certificate, its CA and the root, as PEM.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn chain_pem(&self, root: &DevelopmentRoot) -> Result<String, DevelopmentError> {
        let leaf = to_pem(&self.certificate_der(root)?);
        Ok(leaf + &ca_chain(root, self.platform)?)
    }

    fn extension(&self) -> Vec<u8> {
        let member =
            |arcs: &[u64], value: Vec<u8>| der::sequence(&[der::oid(&[SGX, arcs].concat()), value]);
        let mut tcb: Vec<Vec<u8>> = (1..)
            .zip(self.components)
            .map(|(number, svn)| member(&[2, number], der::integer(u64::from(svn))))
            .collect();
        tcb.push(member(&[2, 17], der::integer(u64::from(self.pce_svn))));
        tcb.push(member(&[2, 18], der::octets(&self.cpu_svn)));
        let mut all = vec![
            member(&[1], der::octets(&self.ppid)),
            member(&[2], der::sequence(&tcb)),
            member(&[3], der::octets(&self.pce_id)),
            member(&[4], der::octets(&self.fmspc)),
            member(&[5], der::enumerated(u64::from(self.sgx_type))),
        ];
        if self.platform {
            let flags = [
                member(&[7, 1], der::boolean(self.dynamic_platform)),
                member(&[7, 2], der::boolean(self.cached_keys)),
                member(&[7, 3], der::boolean(self.smt_enabled)),
            ];
            all.push(member(&[6], der::octets(&self.platform_instance_id)));
            all.push(member(&[7], der::sequence(&flags)));
        }
        der::sequence(&all)
    }
}

/// `sgx_report_body_t`: the 384 bytes by which the processor describes an enclave.
#[derive(Clone, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct EnclaveReport {
    pub cpu_svn: [u8; 16],
    pub misc_select: u32,
    pub isv_ext_prod_id: [u8; 16],
    pub attributes: [u8; 16],
    pub mr_enclave: [u8; 32],
    pub mr_signer: [u8; 32],
    pub config_id: [u8; 64],
    pub isv_prod_id: u16,
    pub isv_svn: u16,
    pub config_svn: u16,
    pub isv_family_id: [u8; 16],
    pub report_data: [u8; 64],
}

impl EnclaveReport {
    /// Intel's quoting enclave for TDX, or the one for SGX, in what their identities compare.
    pub fn quoting_enclave(root: &DevelopmentRoot, tdx: bool) -> Self {
        Self {
            cpu_svn: SGX_COMPONENTS,
            misc_select: 0,
            isv_ext_prod_id: [0; 16],
            // INIT, MODE64BIT, PROVISIONKEY; XFRM.
            attributes: [0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0],
            mr_enclave: super::fitted(&root.identity("quoting enclave")),
            mr_signer: super::fitted(&root.identity("quoting enclave signer")),
            config_id: [0; 64],
            isv_prod_id: qe_product(tdx),
            isv_svn: QE_SVN,
            config_svn: 0,
            isv_family_id: [0; 16],
            report_data: [0; 64],
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(ENCLAVE_REPORT);
        out.extend_from_slice(&self.cpu_svn);
        out.extend_from_slice(&self.misc_select.to_le_bytes());
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(&self.isv_ext_prod_id);
        out.extend_from_slice(&self.attributes);
        out.extend_from_slice(&self.mr_enclave);
        out.extend_from_slice(&[0; 32]);
        out.extend_from_slice(&self.mr_signer);
        out.extend_from_slice(&[0; 32]);
        out.extend_from_slice(&self.config_id);
        out.extend_from_slice(&self.isv_prod_id.to_le_bytes());
        out.extend_from_slice(&self.isv_svn.to_le_bytes());
        out.extend_from_slice(&self.config_svn.to_le_bytes());
        out.extend_from_slice(&[0; 42]);
        out.extend_from_slice(&self.isv_family_id);
        out.extend_from_slice(&self.report_data);
        out
    }
}

/// The quoting enclave's part of a quote: its report, what it adds, and how it is bound.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quoting {
    /// Its report. The first half of its report data is replaced by the binding.
    pub report: EnclaveReport,
    /// The authentication data: 32 bytes.
    pub auth_data: Vec<u8>,
    /// What stands for SHA-256 over the attestation key and the authentication data, when it is to be wrong.
    pub binding: Option<[u8; 32]>,
    /// The type of the certification data: 5, a PCK certificate chain.
    pub certification_type: u16,
}

impl Quoting {
    /// Honest.
    pub fn new(root: &DevelopmentRoot, tdx: bool) -> Self {
        Self {
            report: EnclaveReport::quoting_enclave(root, tdx),
            auth_data: (0..32).collect(),
            binding: None,
            certification_type: 5,
        }
    }

    /// Signs header and body and appends the signature data. In quotes from version 4 on, what vouches for the
    /// attestation key is wrapped once more, as certification data of type 6.
    pub(crate) fn sign(
        &self,
        root: &DevelopmentRoot,
        pck: &PckFields,
        mut signed: Vec<u8>,
        wrapped: bool,
    ) -> Result<Vec<u8>, DevelopmentError> {
        let quoting = root.key(Role::Quoting);
        let mut report = self.report.clone();
        let binding = self
            .binding
            .unwrap_or_else(|| super::sha256(&[quoting.coordinates(), &self.auth_data].concat()));
        for (to, from) in report.report_data.iter_mut().zip(binding) {
            *to = from;
        }
        let report = report.to_bytes();
        // Intel's chains end with a zero byte.
        let chain = pck.chain_pem(root)? + "\0";
        let vouching = [
            report.as_slice(),
            &root.key(Role::Pck).sign(&report)?,
            &length16(self.auth_data.len())?,
            &self.auth_data,
            &self.certification_type.to_le_bytes(),
            &length32(chain.len())?,
            chain.as_bytes(),
        ]
        .concat();
        let mut data = quoting.sign(&signed)?;
        data.extend_from_slice(quoting.coordinates());
        if wrapped {
            data.extend_from_slice(&6_u16.to_le_bytes());
            data.extend_from_slice(&length32(vouching.len())?);
        }
        data.extend_from_slice(&vouching);
        signed.extend_from_slice(&length32(data.len())?);
        signed.extend_from_slice(&data);
        Ok(signed)
    }
}

/// The header of a quote: 48 bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct Header {
    pub version: u16,
    /// 2 is ECDSA on P-256.
    pub attestation_key_type: u16,
    /// 0 is SGX, 0x81 TDX.
    pub tee_type: u32,
    pub qe_svn: u16,
    pub pce_svn: u16,
    pub qe_vendor_id: [u8; 16],
    pub user_data: [u8; 20],
}

impl Header {
    pub(crate) fn new(version: u16, tdx: bool) -> Self {
        let (tee_type, qe_svn, pce_svn) = match tdx {
            true => (0x81, 0, 0),
            false => (0, QE_SVN, PCE_SVN),
        };
        Self {
            version,
            attestation_key_type: 2,
            tee_type,
            qe_svn,
            pce_svn,
            qe_vendor_id: INTEL,
            user_data: [0; 20],
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.attestation_key_type.to_le_bytes());
        out.extend_from_slice(&self.tee_type.to_le_bytes());
        out.extend_from_slice(&self.qe_svn.to_le_bytes());
        out.extend_from_slice(&self.pce_svn.to_le_bytes());
        out.extend_from_slice(&self.qe_vendor_id);
        out.extend_from_slice(&self.user_data);
        out
    }
}

/// What the provisioning certification service serves for a platform: up to date as it is made.
#[derive(Clone, Debug)]
pub struct Collateral {
    /// The root whose keys sign.
    pub root: DevelopmentRoot,
    /// For TDX, else for SGX.
    pub tdx: bool,
    /// The platform's family, model and stepping.
    pub fmspc: [u8; 6],
    /// The platform's provisioning certification enclave.
    pub pce_id: [u8; 2],
    /// The levels of the TCB info, best first.
    pub levels: Vec<TcbLevel>,
    /// The levels of the TDX module with version 1, best first: least ISVSVN, and status.
    pub module_levels: Vec<(u8, Status)>,
    /// What the quoting enclave must be.
    pub quoting_enclave: EnclaveReport,
    /// The levels of the quoting enclave, best first: least ISVSVN, and status.
    pub qe_levels: Vec<(u16, Status)>,
    /// When both documents were issued, in seconds since 1970.
    pub issued: u64,
    /// Until when they are good.
    pub next_update: u64,
    /// `tcbEvaluationDataNumber`.
    pub evaluation_number: u32,
    /// Whether the PCK CA's list has the platform's PCK certificate.
    pub revoked_pck: bool,
    /// Whether the root's list has the PCK CA.
    pub revoked_ca: bool,
}

/// A TCB level of a platform.
#[derive(Clone, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct TcbLevel {
    pub sgx: [u8; 16],
    pub pce_svn: u16,
    pub tdx: [u8; 16],
    pub status: Status,
}

/// What Intel says of a level.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Status {
    /// `UpToDate`, `OutOfDate`, `Revoked` and so on.
    pub status: String,
    /// The advisories that hold for it.
    pub advisories: Vec<String>,
    /// The level's date, in seconds since 1970.
    pub date: u64,
}

impl Status {
    /// Nothing to say.
    pub fn up_to_date(date: u64) -> Self {
        Self::new("UpToDate", &[], date)
    }

    /// A status with its advisories.
    pub fn new(status: &str, advisories: &[&str], date: u64) -> Self {
        Self {
            status: status.to_owned(),
            advisories: advisories.iter().map(|text| (*text).to_owned()).collect(),
            date,
        }
    }
}

impl Collateral {
    /// Under which the default platform is up to date, and one with lower numbers out of date.
    pub fn new(root: &DevelopmentRoot, tdx: bool) -> Self {
        let date = root.not_before();
        let out_of_date = || Status::new("OutOfDate", &["INTEL-SA-00001"], date);
        Self {
            root: root.clone(),
            tdx,
            fmspc: FMSPC,
            pce_id: [0; 2],
            levels: vec![
                TcbLevel {
                    sgx: SGX_COMPONENTS,
                    pce_svn: PCE_SVN,
                    tdx: TDX_COMPONENTS,
                    status: Status::up_to_date(date),
                },
                TcbLevel {
                    sgx: [0; 16],
                    pce_svn: 0,
                    tdx: [0; 16],
                    status: out_of_date(),
                },
            ],
            module_levels: vec![
                (TDX_COMPONENTS[0], Status::up_to_date(date)),
                (0, out_of_date()),
            ],
            quoting_enclave: EnclaveReport::quoting_enclave(root, tdx),
            qe_levels: vec![(QE_SVN, Status::up_to_date(date)), (0, out_of_date())],
            issued: root.not_before(),
            next_update: root.not_after(),
            evaluation_number: 17,
            revoked_pck: false,
            revoked_ca: false,
        }
    }

    /// The body of `GET /tcb`.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn tcb_info(&self) -> Result<String, DevelopmentError> {
        let levels = self
            .levels
            .iter()
            .map(|level| {
                let svns = |list: &[u8]| -> Vec<_> {
                    list.iter().map(|svn| json!({ "svn": svn })).collect()
                };
                let mut tcb =
                    json!({ "sgxtcbcomponents": svns(&level.sgx), "pcesvn": level.pce_svn });
                if self.tdx {
                    tcb["tdxtcbcomponents"] = json!(svns(&level.tdx));
                }
                level_json(tcb, &level.status)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut info = json!({
            "id": if self.tdx { "TDX" } else { "SGX" },
            "version": 3,
            "issueDate": date(self.issued)?,
            "nextUpdate": date(self.next_update)?,
            "fmspc": hex::encode_upper(self.fmspc),
            "pceId": hex::encode_upper(self.pce_id),
            "tcbType": 0,
            "tcbEvaluationDataNumber": self.evaluation_number,
            "tcbLevels": levels,
        });
        if self.tdx {
            let module = json!({
                "mrsigner": "00".repeat(48),
                "attributes": "00".repeat(8),
                "attributesMask": "FF".repeat(8),
            });
            let levels = self
                .module_levels
                .iter()
                .map(|(svn, status)| level_json(json!({ "isvsvn": svn }), status))
                .collect::<Result<Vec<_>, _>>()?;
            let mut identity = module.clone();
            identity["id"] = json!(format!("TDX_{:02X}", TDX_COMPONENTS[1]));
            identity["tcbLevels"] = json!(levels);
            info["tdxModule"] = module;
            info["tdxModuleIdentities"] = json!([identity]);
        }
        self.signed("tcbInfo", &info.to_string())
    }

    /// The body of `GET /qe/identity`.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn qe_identity(&self) -> Result<String, DevelopmentError> {
        let enclave = &self.quoting_enclave;
        let levels = self
            .qe_levels
            .iter()
            .map(|(svn, status)| level_json(json!({ "isvsvn": svn }), status))
            .collect::<Result<Vec<_>, _>>()?;
        let mut attributes = enclave.attributes;
        // The mask leaves out MODE64BIT and the whole XFRM.
        attributes[0] &= 0xfb;
        attributes.iter_mut().skip(8).for_each(|byte| *byte = 0);
        let identity = json!({
            "id": if self.tdx { "TD_QE" } else { "QE" },
            "version": 2,
            "issueDate": date(self.issued)?,
            "nextUpdate": date(self.next_update)?,
            "tcbEvaluationDataNumber": self.evaluation_number,
            "miscselect": hex::encode_upper(enclave.misc_select.to_le_bytes()),
            "miscselectMask": "FFFFFFFF",
            "attributes": hex::encode_upper(attributes),
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": hex::encode_upper(enclave.mr_signer),
            "isvprodid": enclave.isv_prod_id,
            "tcbLevels": levels,
        });
        self.signed("enclaveIdentity", &identity.to_string())
    }

    /// The chain of the certificate that signs both, as PEM.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn signing_chain(&self) -> Result<String, DevelopmentError> {
        let root = &self.root;
        let profile = Profile::new(TCB_SIGNING, root.not_before(), root.not_after());
        let signing = root.issue(&profile, &root.key(Role::TcbSigning).certified)?;
        Ok(to_pem(&signing) + &root.certificate_pem())
    }

    /// The PCK CA's revocation list, as DER.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn pck_crl(&self, platform: bool) -> Result<Vec<u8>, DevelopmentError> {
        let pck = serial_of(&self.root, PCK, Role::Pck);
        let revoked: &[&[u8]] = if self.revoked_pck { &[&pck] } else { &[] };
        crl(
            ca_name(platform),
            self.root.key(Role::PckCa),
            (self.issued, self.next_update),
            revoked,
        )
    }

    /// The chain of that list's signer, as PEM.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn pck_crl_chain(&self, platform: bool) -> Result<String, DevelopmentError> {
        ca_chain(&self.root, platform)
    }

    /// The root's revocation list, as DER.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn root_crl(&self) -> Result<Vec<u8>, DevelopmentError> {
        let [platform, processor] =
            [true, false].map(|platform| serial_of(&self.root, ca_name(platform), Role::PckCa));
        let revoked: &[&[u8]] = match self.revoked_ca {
            true => &[&platform, &processor],
            false => &[],
        };
        self.root.crl(revoked)
    }

    fn signed(&self, name: &str, body: &str) -> Result<String, DevelopmentError> {
        let signature = self.root.key(Role::TcbSigning).sign(body.as_bytes())?;
        let signature = hex::encode(signature);
        Ok(format!(r#"{{"{name}":{body},"signature":"{signature}"}}"#))
    }
}

/// What a folder keeps of Intel's collateral, by its paths.
pub(crate) fn collateral(
    root: &DevelopmentRoot,
) -> Result<Vec<(String, Vec<u8>)>, DevelopmentError> {
    let id = hex::encode(root.id());
    let folder = format!("intel/{}", &id[..16]);
    let mut files = Vec::new();
    for tdx in [true, false] {
        let collateral = Collateral::new(root, tdx);
        let tee = if tdx { "tdx" } else { "sgx" };
        let chain = collateral.signing_chain()?;
        let fmspc = hex::encode(collateral.fmspc);
        for (name, body) in [
            (format!("tcb_{fmspc}.json"), collateral.tcb_info()?),
            ("qe_identity.json".to_owned(), collateral.qe_identity()?),
        ] {
            files.push((
                format!("{folder}/{tee}/{name}.chain.pem"),
                chain.clone().into_bytes(),
            ));
            files.push((format!("{folder}/{tee}/{name}"), body.into_bytes()));
        }
    }
    let collateral = Collateral::new(root, true);
    for (name, platform) in [("platform", true), ("processor", false)] {
        let path = format!("{folder}/pck_{name}.crl");
        files.push((path.clone(), collateral.pck_crl(platform)?));
        files.push((
            format!("{path}.chain.pem"),
            collateral.pck_crl_chain(platform)?.into_bytes(),
        ));
    }
    files.push((format!("{folder}/root.crl"), collateral.root_crl()?));
    Ok(files)
}

fn level_json(
    tcb: serde_json::Value,
    status: &Status,
) -> Result<serde_json::Value, DevelopmentError> {
    let mut level = json!({
        "tcb": tcb,
        "tcbDate": date(status.date)?,
        "tcbStatus": status.status,
    });
    if !status.advisories.is_empty() {
        level["advisoryIDs"] = json!(status.advisories);
    }
    Ok(level)
}

fn ca_chain(root: &DevelopmentRoot, platform: bool) -> Result<String, DevelopmentError> {
    let ca = root.intermediate(ca_name(platform), Role::PckCa)?;
    Ok(to_pem(&ca) + &root.certificate_pem())
}

fn ca_name(platform: bool) -> &'static str {
    match platform {
        true => "Intel SGX PCK Platform CA",
        false => "Intel SGX PCK Processor CA",
    }
}

fn serial_of(root: &DevelopmentRoot, name: &str, role: Role) -> Vec<u8> {
    use rcgen::PublicKeyData as _;
    serial(name, root.key(role).certified.der_bytes()).to_bytes()
}

fn qe_product(tdx: bool) -> u16 {
    if tdx { 2 } else { 1 }
}

fn date(seconds: u64) -> Result<String, DevelopmentError> {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .ok_or_else(|| DevelopmentError::Signing(format!("{seconds} is no time")))
}

fn length16(length: usize) -> Result<[u8; 2], DevelopmentError> {
    u16::try_from(length)
        .map(u16::to_le_bytes)
        .map_err(|_| DevelopmentError::Length {
            field: "the authentication data",
            actual: length,
            expected: "at most 65535",
        })
}

fn length32(length: usize) -> Result<[u8; 4], DevelopmentError> {
    u32::try_from(length)
        .map(u32::to_le_bytes)
        .map_err(|_| DevelopmentError::Length {
            field: "the signature data",
            actual: length,
            expected: "less than 4 GiB",
        })
}

pub(crate) const TDX_COMPONENTS: [u8; 16] = [5, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
pub(crate) const SGX_COMPONENTS: [u8; 16] = [2, 2, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
const PCE_SVN: u16 = 13;
const QE_SVN: u16 = 6;
/// No processor's: Intel's start with two zero bytes or other small numbers.
const FMSPC: [u8; 6] = [0xde, 0xf0, 0, 0, 0, 0];
const ENCLAVE_REPORT: usize = 384;
const INTEL: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];
const SGX: &[u64] = &[1, 2, 840, 113_741, 1, 13, 1];
const PCK: &str = "Intel SGX PCK Certificate";
const TCB_SIGNING: &str = "Intel SGX TCB Signing";
