//! The checks of NVIDIA devices, one device after the other in the order in which they were sent.
//!
//! The chain leads to a trusted root, the leaf certifies the firmware that the report names, its key signed request
//! and response, and the request's nonce is this session's. Where the manifests of driver and VBIOS are given, they
//! are NVIDIA's and each active measurement is one that they list.
//!
//! Revocation is not looked at: NVIDIA answers it by OCSP only, at the time of the question.

use std::collections::BTreeMap;

use const_oid::ObjectIdentifier;
use der::asn1::OctetStringRef;
use der::{Decode, Sequence};

use super::abi::{Device, Field, NvidiaEvidence};
use super::claims;
use crate::anchors::Vendor;
use crate::binding::{Register, ReportDataForm};
use crate::check::Check;
use crate::platforms::{PlatformVerdict, Verification};
use crate::rim::{Rim, RimError};
use crate::x509::{Certificate, KeyKind, X509Error};
use crate::{Assurance, VerifyError, Wanted};

/// One verdict per device.
pub(crate) fn verify(
    evidence: &NvidiaEvidence,
    verification: &mut Verification<'_>,
) -> Result<Vec<PlatformVerdict>, VerifyError> {
    evidence
        .devices
        .iter()
        .map(|device| verify_device(device, verification))
        .collect()
}

fn verify_device(
    device: &Device,
    verification: &mut Verification<'_>,
) -> Result<PlatformVerdict, VerifyError> {
    let report = &device.report;
    let mut assurance = check_chain(device, verification)?;
    check_architecture(device, verification)?;
    check_fwid(device, verification)?;
    verification.steps.run(Check::NvidiaSignature, || {
        let key = device.chain.first().map(|leaf| leaf.public_key());
        let verified = key.as_ref().is_some_and(|key| {
            key.kind() == Ok(KeyKind::P384)
                && key.check_fixed(&report.signed, &report.signature).is_ok()
        });
        match verified {
            true => Ok(()),
            false => Err(Check::NvidiaSignature.failed(
                "an ECDSA P-384 signature by the leaf's key",
                "one that does not verify",
            )),
        }
    })?;
    verification.expected.check_report_data(
        verification.steps,
        ReportDataForm::First32,
        &report.nonce,
    )?;
    let initdata_bound = verification
        .expected
        .check_initdata(verification.steps, Register::None)?;
    let manifests = check_manifests(device, verification)?;
    if let Some(manifests) = manifests {
        assurance = weaker(assurance, manifests);
    }
    Ok(PlatformVerdict {
        tee: strongroom_wire::tee::Tee::Nvidia,
        assurance,
        claims: claims::claims(device, manifests.is_some()),
        report_data: hex::encode(&report.nonce),
        init_data: None,
        initdata_bound,
    })
}

fn check_chain(
    device: &Device,
    verification: &mut Verification<'_>,
) -> Result<Assurance, VerifyError> {
    let (anchors, now) = (verification.anchors, verification.now);
    verification.steps.run(Check::NvidiaChain, || {
        anchors
            .check_chain(Vendor::Nvidia, &device.chain, now)
            .map_err(|e| Check::NvidiaChain.failed("a leaf whose chain leads to a trusted root", e))
    })
}

/// One root stands above the devices of every architecture, and below it each has an authority of its own. The evidence's
/// own word for it is nobody's.
fn check_architecture(
    device: &Device,
    verification: &mut Verification<'_>,
) -> Result<(), VerifyError> {
    verification.steps.run(Check::NvidiaArchitecture, || {
        let names = || {
            device
                .chain
                .iter()
                .skip(1)
                .filter_map(Certificate::common_name)
        };
        match names().any(|name| name.starts_with(HOPPER_AUTHORITY)) {
            true => Ok(()),
            false => Err(Check::NvidiaArchitecture.failed(
                format!("an authority named {HOPPER_AUTHORITY}…"),
                names().collect::<Vec<_>>().join(", "),
            )),
        }
    })
}

/// The firmware that the device's ROM measured before it certified the leaf is the one that the report names.
fn check_fwid(device: &Device, verification: &mut Verification<'_>) -> Result<(), VerifyError> {
    verification.steps.run(Check::NvidiaFwid, || {
        let failed = |actual: String| {
            let named = device.report.field(Field::Fwid);
            let named = named.map_or_else(|| "a FWID in the report".to_owned(), hex::encode);
            Check::NvidiaFwid.failed(named, actual)
        };
        let leaf = device
            .chain
            .first()
            .ok_or_else(|| failed("no certificate".to_owned()))?;
        let extension = leaf
            .extension(COMPOSITE_DEVICE_ID)
            .map_err(|e| failed(e.to_string()))?
            .ok_or_else(|| failed("a leaf without a FWID".to_owned()))?;
        let certified =
            CompositeDeviceId::from_der(extension).map_err(|e| failed(format!("{e}")))?;
        let fwid = certified.fwid.fwid.as_bytes();
        if certified.fwid.hash != SHA384 || fwid.len() != 48 {
            return Err(failed(format!(
                "a hash {} of {} bytes",
                certified.fwid.hash,
                fwid.len()
            )));
        }
        match device.report.field(Field::Fwid) {
            Some(named) if named == fwid => Ok(()),
            _ => Err(failed(hex::encode(fwid))),
        }
    })
}

/// Compares the measurements with the manifests of driver and VBIOS. Both are needed: each lists what the other does
/// not. Returns what the manifests rest on, or `None` when one was not given.
fn check_manifests(
    device: &Device,
    verification: &mut Verification<'_>,
) -> Result<Option<Assurance>, VerifyError> {
    let report = &device.report;
    let driver = manifest(
        Check::NvidiaDriverRim,
        report.driver_rim(),
        report.text(Field::DriverVersion).unwrap_or_default(),
        verification,
    )?;
    let vbios = manifest(
        Check::NvidiaVbiosRim,
        report.vbios_rim(),
        &report.vbios_version().unwrap_or_default(),
        verification,
    )?;
    let (Some((driver, first)), Some((vbios, second))) = (driver, vbios) else {
        verification.steps.skip(
            Check::NvidiaMeasurements,
            "the manifests of driver and VBIOS were not both given",
        );
        return Ok(None);
    };
    verification.steps.run(Check::NvidiaMeasurements, || {
        compare(device, &driver, &vbios)
    })?;
    Ok(Some(weaker(first, second)))
}

fn manifest(
    check: Check,
    wanted: Option<Wanted>,
    version: &str,
    verification: &mut Verification<'_>,
) -> Result<Option<(Rim, Assurance)>, VerifyError> {
    let Some(wanted) = wanted else {
        verification.steps.skip(
            check,
            "the report names no version that a manifest could have",
        );
        return Ok(None);
    };
    let Some(item) = verification.collateral.item(&wanted) else {
        verification
            .steps
            .skip(check, format!("{wanted} was not given"));
        return Ok(None);
    };
    let read = Rim::parse(&item.body).and_then(|rim| {
        let assurance = rim.check_signature(verification.anchors, verification.now)?;
        Ok((rim, assurance))
    });
    // Signers of manifests are certified for two years. One whose time is over is worth no more than none: what it
    // lists is then the owner's to name.
    if let Err(RimError::Certificate(error @ X509Error::Validity { .. })) = &read {
        let why = format!("{wanted} is not current: {error}");
        verification.steps.skip(check, why);
        return Ok(None);
    }
    verification.steps.run(check, || {
        let (rim, assurance) =
            read.map_err(|e| check.failed(format!("{wanted}, signed by its maker"), e))?;
        match rim.version.eq_ignore_ascii_case(version) {
            true => Ok(Some((rim, assurance))),
            false => Err(check.failed(version, &rim.version)),
        }
    })
}

/// A manifest counts from 0 what a report counts from 1.
fn compare(device: &Device, driver: &Rim, vbios: &Rim) -> Result<(), VerifyError> {
    let check = Check::NvidiaMeasurements;
    let mut golden = BTreeMap::new();
    let active = driver.measurements.iter().chain(&vbios.measurements);
    for (index, values) in active.filter(|(_, golden)| golden.active) {
        if golden.insert(*index, &values.values).is_some() {
            return Err(check.failed(
                format!("measurement {index} in one manifest"),
                "active in both",
            ));
        }
    }
    if golden.is_empty() {
        return Err(check.failed("an active measurement", "none in either manifest"));
    }
    let decoder_is_off = device.report.field(Field::Nvdec0Status) == Some(&[NVDEC0_DISABLED]);
    for (index, values) in golden {
        // The measurement of the video decoder says nothing while the decoder is off.
        if index == NVDEC0_MEASUREMENT && decoder_is_off {
            continue;
        }
        let found = index
            .checked_add(1)
            .and_then(|index| u8::try_from(index).ok())
            .and_then(|index| device.report.measurements.get(&index));
        if !found.is_some_and(|found| values.contains(found)) {
            let values: Vec<String> = values.iter().map(hex::encode).collect();
            return Err(check.failed(
                format!("measurement {index} to be {}", values.join(" or ")),
                found.map_or_else(|| "none".to_owned(), hex::encode),
            ));
        }
    }
    Ok(())
}

fn weaker(a: Assurance, b: Assurance) -> Assurance {
    match (a, b) {
        (Assurance::Hardware, Assurance::Hardware) => Assurance::Hardware,
        _ => Assurance::Development,
    }
}

#[derive(Sequence)]
struct CompositeDeviceId<'a> {
    #[allow(
        dead_code,
        reason = "it has no meaning here, and its place must be read"
    )]
    version: u8,
    #[allow(dead_code, reason = "the chain already says whose the leaf is")]
    device_id: der::AnyRef<'a>,
    fwid: Fwid<'a>,
}

#[derive(Sequence)]
struct Fwid<'a> {
    hash: ObjectIdentifier,
    fwid: &'a OctetStringRef,
}

/// GH100 is the chip of every Hopper GPU.
const HOPPER_AUTHORITY: &str = "NVIDIA GH100 ";
const COMPOSITE_DEVICE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const NVDEC0_MEASUREMENT: u32 = 35;
const NVDEC0_DISABLED: u8 = 0x55;
