//! Evidence of NVIDIA devices: `{"device_evidence_list":[{"arch","uuid"?,"evidence","certificate"}]}`.
//!
//! `evidence` is a `GET_MEASUREMENTS` request of 37 bytes and its response (DMTF DSP0274 1.1, 10.11), in hex or standard
//! base64; `certificate` is standard base64 of a PEM chain, leaf first. Every part is found by the lengths before it,
//! never from the end: what a driver appends as padding is zeros after the signature.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use strongroom_wire::tee::Tee;

use crate::check::Check;
use crate::cursor::Cursor;
use crate::x509::Certificate;
use crate::{CollateralRequest, VerifyError, Wanted};

/// Evidence of one or more devices, parsed and not believed.
#[derive(Clone, Debug)]
pub(crate) struct NvidiaEvidence {
    /// In the order in which they were sent.
    pub(crate) devices: Vec<Device>,
}

/// Evidence of one device.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    /// What the driver calls it. Nothing signs this.
    pub(crate) uuid: Option<String>,
    pub(crate) report: Report,
    /// The device's certificates, leaf first.
    pub(crate) chain: Vec<Certificate>,
}

impl NvidiaEvidence {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, VerifyError> {
        if json.len() > MAX_BYTES {
            return Err(malformed(format!(
                "{} bytes, at most {MAX_BYTES}",
                json.len()
            )));
        }
        let text: Text = serde_json::from_slice(json).map_err(|e| malformed(e.to_string()))?;
        let count = text.device_evidence_list.len();
        if count == 0 || count > MAX_DEVICES {
            return Err(malformed(format!(
                "{count} devices, wanted 1 to {MAX_DEVICES}"
            )));
        }
        let devices: Vec<Device> = text
            .device_evidence_list
            .into_iter()
            .enumerate()
            .map(|(number, device)| Device::parse(device, number))
            .collect::<Result<_, _>>()?;
        let leaves = devices.iter().filter_map(|device| device.chain.first());
        let distinct: BTreeSet<&[u8]> = leaves.map(Certificate::der).collect();
        match distinct.len() == devices.len() {
            true => Ok(Self { devices }),
            // One device must not stand for two.
            false => Err(malformed("a device is listed twice".to_owned())),
        }
    }

    /// The manifests of each device's driver and VBIOS. All are optional.
    pub(crate) fn collateral_request(&self) -> CollateralRequest {
        self.devices
            .iter()
            .flat_map(|device| [device.report.driver_rim(), device.report.vbios_rim()])
            .flatten()
            .collect()
    }
}

impl Device {
    fn parse(text: DeviceText, number: usize) -> Result<Self, VerifyError> {
        let wrong = |why: String| malformed(format!("device {number}: {why}"));
        if text.arch != HOPPER {
            return Err(Check::NvidiaArchitecture
                .failed(HOPPER, text.arch.chars().take(32).collect::<String>()));
        }
        if text.uuid.as_ref().is_some_and(|uuid| uuid.len() > MAX_UUID) {
            return Err(wrong(format!("uuid is longer than {MAX_UUID} bytes")));
        }
        let report = decode_report(&text.evidence).map_err(wrong)?;
        let chain = STANDARD
            .decode(&text.certificate)
            .map_err(|e| wrong(format!("certificate is not standard base64: {e}")))?;
        let chain = Certificate::from_pem_chain(&chain, MAX_CHAIN)
            .map_err(|e| wrong(format!("certificate: {e}")))?;
        Ok(Self {
            uuid: text.uuid,
            report: Report::parse(&report).map_err(wrong)?,
            chain,
        })
    }
}

/// A measurements request and its response, parsed.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// What the signature is over: the request, and the response up to its signature.
    pub(crate) signed: Vec<u8>,
    /// r and s.
    pub(crate) signature: Vec<u8>,
    /// The nonce of the request: what the report binds.
    pub(crate) nonce: Vec<u8>,
    /// The measurement values by their index, from 1.
    pub(crate) measurements: BTreeMap<u8, Vec<u8>>,
    opaque: BTreeMap<u16, Vec<u8>>,
}

impl Report {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut cursor = Cursor::new(bytes);
        let [version, code, attributes, operation] = array(&mut cursor, "the request's head")?;
        let expected = [
            ("the request's SPDM version", SPDM_1_1, version),
            ("the request's code", GET_MEASUREMENTS, code),
            ("the request's attributes", SIGNATURE_REQUESTED, attributes),
            ("the request's operation", ALL_MEASUREMENTS, operation),
        ];
        all_equal(&expected)?;
        let nonce = take(&mut cursor, 32, "the request's nonce")?;
        let [_slot] = array(&mut cursor, "the request's slot")?;

        let [version, code, _reserved, _slot] = array(&mut cursor, "the response's head")?;
        all_equal(&[
            ("the response's SPDM version", SPDM_1_1, version),
            ("the response's code", MEASUREMENTS, code),
        ])?;
        let [blocks, l0, l1, l2] = array(&mut cursor, "the measurement record's length")?;
        let length = usize::from(l0) | usize::from(l1) << 8 | usize::from(l2) << 16;
        let record = take(&mut cursor, length, "the measurement record")?;
        take(&mut cursor, 32, "the response's nonce")?;
        let length = usize::from(u16::from_le_bytes(array(
            &mut cursor,
            "the opaque data's length",
        )?));
        let opaque = take(&mut cursor, length, "the opaque data")?;
        let signed = bytes
            .get(..bytes.len().saturating_sub(cursor.remaining()))
            .unwrap_or_default();
        let signature = take(&mut cursor, SIGNATURE, "the signature")?;
        if cursor.remaining() > MAX_PADDING || cursor.rest().iter().any(|byte| *byte != 0) {
            return Err(format!(
                "{} bytes after the signature, wanted at most {MAX_PADDING}, all of them zero",
                cursor.remaining()
            ));
        }
        Ok(Self {
            signed: signed.to_vec(),
            signature: signature.to_vec(),
            nonce: nonce.to_vec(),
            measurements: measurements(record, blocks)?,
            opaque: opaque_fields(opaque)?,
        })
    }

    /// A field of the opaque data.
    pub(crate) fn field(&self, field: Field) -> Option<&[u8]> {
        self.opaque.get(&(field as u16)).map(Vec::as_slice)
    }

    /// Every field of the opaque data, those without a name here too.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (u16, &[u8])> {
        self.opaque
            .iter()
            .map(|(number, value)| (*number, value.as_slice()))
    }

    /// A field that is text, without the zeros at its end.
    pub(crate) fn text(&self, field: Field) -> Option<&str> {
        let bytes = self.field(field)?;
        let end = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1);
        std::str::from_utf8(bytes.get(..end)?).ok()
    }

    /// The version of the VBIOS: four bytes from the last to the first, then the fifth.
    pub(crate) fn vbios_version(&self) -> Option<String> {
        let (&[a, b, c, d, e], _) = self.field(Field::VbiosVersion)?.split_first_chunk()?;
        Some(format!("{d:02x}.{c:02x}.{b:02x}.{a:02x}.{e:02x}"))
    }

    /// The manifest of the driver, by the name that NVIDIA's RIM service knows.
    pub(crate) fn driver_rim(&self) -> Option<Wanted> {
        let version = name_part(self.text(Field::DriverVersion)?)?;
        Some(Wanted::NvidiaRim {
            id: format!("NV_GPU_DRIVER_GH100_{version}"),
        })
    }

    /// The manifest of the VBIOS, by the name that NVIDIA's RIM service knows.
    pub(crate) fn vbios_rim(&self) -> Option<Wanted> {
        let part = |field| name_part(self.text(field)?);
        let version = self.vbios_version()?.replace('.', "");
        Some(Wanted::NvidiaRim {
            id: format!(
                "NV_GPU_VBIOS_{}_{}_{}_{version}",
                part(Field::Project)?,
                part(Field::ProjectSku)?,
                part(Field::ChipSku)?,
            )
            .to_uppercase(),
        })
    }
}

/// The fields of the opaque data that are used or have a name in claims, by NVIDIA's numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Field {
    DriverVersion = 3,
    VbiosVersion = 6,
    Nvdec0Status = 11,
    ChipSku = 15,
    Project = 17,
    ProjectSku = 18,
    Fwid = 20,
}

/// DSP0274 1.1, table 47: index, specification, size, and in it the DMTF's type, size and value.
fn measurements(record: &[u8], blocks: u8) -> Result<BTreeMap<u8, Vec<u8>>, String> {
    let mut cursor = Cursor::new(record);
    let mut values = BTreeMap::new();
    for _ in 0..blocks {
        let [index, specification, s0, s1] = array(&mut cursor, "a measurement block's head")?;
        all_equal(&[("a measurement's specification", DMTF, specification)])?;
        let size = usize::from(u16::from_le_bytes([s0, s1]));
        let mut block = Cursor::new(take(&mut cursor, size, "a measurement block")?);
        let [_type, s0, s1] = array(&mut block, "a measurement's head")?;
        let size = usize::from(u16::from_le_bytes([s0, s1]));
        let value = take(&mut block, size, "a measurement")?;
        if !block.rest().is_empty() {
            return Err(format!("measurement {index} is shorter than its block"));
        }
        if values.insert(index, value.to_vec()).is_some() {
            return Err(format!("measurement {index} occurs twice"));
        }
    }
    match cursor.rest().is_empty() {
        true => Ok(values),
        false => Err(format!(
            "the measurement record is longer than its {blocks} blocks"
        )),
    }
}

/// NVIDIA's opaque data: type, size and value, one after the other.
fn opaque_fields(opaque: &[u8]) -> Result<BTreeMap<u16, Vec<u8>>, String> {
    let mut cursor = Cursor::new(opaque);
    let mut fields = BTreeMap::new();
    while !cursor.rest().is_empty() {
        let [t0, t1, s0, s1] = array(&mut cursor, "an opaque field's head")?;
        let number = u16::from_le_bytes([t0, t1]);
        let size = usize::from(u16::from_le_bytes([s0, s1]));
        let value = take(&mut cursor, size, "an opaque field")?;
        if fields.insert(number, value.to_vec()).is_some() {
            return Err(format!("opaque field {number} occurs twice"));
        }
    }
    Ok(fields)
}

fn take<'a>(cursor: &mut Cursor<'a>, count: usize, what: &str) -> Result<&'a [u8], String> {
    let left = cursor.remaining();
    cursor
        .take(count)
        .ok_or_else(|| format!("{what} has {count} bytes, and {left} are left"))
}

fn array<const N: usize>(cursor: &mut Cursor<'_>, what: &str) -> Result<[u8; N], String> {
    let left = cursor.remaining();
    cursor
        .array()
        .ok_or_else(|| format!("{what} has {N} bytes, and {left} are left"))
}

fn all_equal(values: &[(&str, u8, u8)]) -> Result<(), String> {
    match values.iter().find(|(_, wanted, found)| wanted != found) {
        None => Ok(()),
        Some((what, wanted, found)) => Err(format!("{what} is {found:#04x}, wanted {wanted:#04x}")),
    }
}

fn decode_report(text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim();
    match hex::decode(text) {
        Ok(bytes) => Ok(bytes),
        Err(_) => STANDARD
            .decode(text)
            .map_err(|_| "evidence is neither hex nor standard base64".to_owned()),
    }
}

/// A part of a manifest's name: it goes into a URL and a file name.
fn name_part(text: &str) -> Option<&str> {
    let fits = (1..=MAX_NAME_PART).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    fits.then_some(text)
}

#[derive(Deserialize)]
struct Text {
    device_evidence_list: Vec<DeviceText>,
}

#[derive(Deserialize)]
struct DeviceText {
    arch: String,
    #[serde(default)]
    uuid: Option<String>,
    evidence: String,
    certificate: String,
}

pub(super) fn malformed(detail: String) -> VerifyError {
    VerifyError::Malformed {
        tee: Tee::Nvidia,
        detail,
    }
}

const HOPPER: &str = "HOPPER";
/// One device has less than 20 KiB.
const MAX_BYTES: usize = 1024 * 1024;
const MAX_DEVICES: usize = 16;
const MAX_UUID: usize = 128;
const MAX_CHAIN: usize = 7;
const MAX_NAME_PART: usize = 32;
/// A driver hands reports out in a buffer of its own; one zero was seen.
const MAX_PADDING: usize = 64;

const SPDM_1_1: u8 = 0x11;
const GET_MEASUREMENTS: u8 = 0xe0;
const MEASUREMENTS: u8 = 0x60;
const SIGNATURE_REQUESTED: u8 = 0x01;
const ALL_MEASUREMENTS: u8 = 0xff;
const DMTF: u8 = 0x01;
/// ECDSA on P-384: r and s.
const SIGNATURE: usize = 96;
