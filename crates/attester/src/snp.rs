//! SEV-SNP: the report of this guest, and the certificates that its host keeps beside it.
//!
//! SEV Secure Nested Paging Firmware ABI (publication 56860), tables 23 and 25; the GHCB specification (56421), 4.1.8.1,
//! for the table of certificates. The JSON is that of the `sev` crate, as the KBS protocol carries it.

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::devices::Devices;
use crate::sys::ioctl;
use crate::tsm::{self, Provider};
use crate::{AttestError, files};

/// How the guest asks for its report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    /// Through the kernel's report interface.
    Tsm,
    /// Through the driver's own calls.
    Driver,
}

/// The evidence of the KBS protocol's platform `snp`.
pub(crate) fn evidence(
    devices: &Devices,
    source: Source,
    report_data: &[u8; 64],
) -> Result<Box<RawValue>, AttestError> {
    let answer = answer(devices, source, report_data)?;
    let report = report_json(&answer.report).ok_or(AttestError::Json)?;
    let certificates: Vec<Value> = certificates(&answer.certificates, signer(&answer.report))
        .into_iter()
        .map(|(kind, der)| json!({ "cert_type": kind, "data": der }))
        .collect();
    let chain = match certificates.is_empty() {
        true => Value::Null,
        false => Value::Array(certificates),
    };
    to_raw_value(&json!({ "attestation_report": report, "cert_chain": chain }))
        .map_err(|_| AttestError::Json)
}

/// `HOST_DATA`: what whoever launched this guest set, and cannot change. The report comes from the processor through a
/// channel that its host cannot write into.
pub(crate) fn host_data(devices: &Devices, source: Source) -> Result<[u8; 32], AttestError> {
    let answer = answer(devices, source, &[0; 64])?;
    answer
        .report
        .get(HOST_DATA..)
        .and_then(|rest| rest.first_chunk().copied())
        .ok_or(AttestError::Json)
}

fn answer(
    devices: &Devices,
    source: Source,
    report_data: &[u8; 64],
) -> Result<Answer, AttestError> {
    let (device, answer) = match source {
        Source::Tsm => {
            let answer = tsm::report(&devices.tsm, Provider::Sev, report_data)?;
            let answer = Answer {
                report: answer.out,
                certificates: answer.aux,
            };
            (&devices.tsm, answer)
        }
        Source::Driver => {
            let answer = ioctl::snp_report(&devices.sev_guest, report_data)
                .map_err(|error| files::failure(&devices.sev_guest, &error))?;
            (&devices.sev_guest, answer)
        }
    };
    let refused = |reason: String| AttestError::Device {
        device: device.display().to_string(),
        reason,
    };
    if answer.report.len() != REPORT {
        return Err(refused(format!(
            "a report of {} bytes, not {REPORT}",
            answer.report.len()
        )));
    }
    match answer.report.get(REPORT_DATA..HOST_DATA_BEFORE) {
        Some(field) if field == report_data => Ok(answer),
        _ => Err(refused(
            "the report holds other report data than it was asked for".to_owned(),
        )),
    }
}

/// A report, and the host's table of certificates.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    pub(crate) report: Vec<u8>,
    pub(crate) certificates: Vec<u8>,
}

impl Answer {
    /// Reads `MSG_REPORT_RSP`, which the driver's call fills in: a status, the report's size, 24 reserved bytes, the
    /// report.
    pub(crate) fn parse(response: &[u8], certificates: &[u8]) -> Result<Self, String> {
        let word = |at: usize| {
            let bytes = response.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map(|bytes| u32::from_le_bytes(*bytes))
        };
        let (Some(status), Some(size)) = (word(0), word(4)) else {
            return Err("the driver's answer is cut".to_owned());
        };
        if status != 0 {
            return Err(format!("the firmware refused with status {status:#x}"));
        }
        let report = usize::try_from(size)
            .ok()
            .and_then(|size| response.get(32..)?.get(..size))
            .ok_or_else(|| format!("the driver's answer has no report of {size} bytes"))?;
        Ok(Self {
            report: report.to_vec(),
            certificates: certificates.to_vec(),
        })
    }
}

/// The certificates of the key that signed and of those above it, by their names on the wire.
///
/// The table is the host's word: what is no table counts as none, and the broker fetches what is missing.
pub(crate) fn certificates(table: &[u8], signer: &str) -> Vec<(&'static str, Vec<u8>)> {
    let mut found: Vec<(&'static str, Vec<u8>)> = Vec::new();
    for entry in table.chunks_exact(ENTRY).take(MAX_ENTRIES) {
        let (guid, place) = entry.split_at(GUID);
        if guid.iter().all(|byte| *byte == 0) {
            break;
        }
        let Some((kind, _)) = KINDS
            .iter()
            .find(|(_, known)| guid == known || guid == mixed_endian(known))
        else {
            continue;
        };
        let word = |at: usize| {
            let bytes = place.get(at..).and_then(|rest| rest.first_chunk());
            usize::try_from(u32::from_le_bytes(*bytes?)).ok()
        };
        let certificate = word(0)
            .zip(word(4))
            .and_then(|(offset, length)| table.get(offset..)?.get(..length));
        let other_signer = matches!(*kind, "VCEK" | "VLEK") && *kind != signer;
        if let Some(bytes) = certificate
            && !other_signer
            && !bytes.is_empty()
            && found.iter().all(|(seen, _)| seen != kind)
        {
            found.push((kind, der(bytes)));
        }
    }
    found
}

/// Some hosts keep PEM where the specification has DER.
fn der(bytes: &[u8]) -> Vec<u8> {
    match bytes.starts_with(b"-----BEGIN") {
        false => bytes.to_vec(),
        true => pem::parse(bytes).map_or_else(|_| bytes.to_vec(), pem::Pem::into_contents),
    }
}

/// The key that signed a report, by `SIGNING_KEY` of its `KEY_INFO`.
fn signer(report: &[u8]) -> &'static str {
    match report.get(0x48).map(|bits| (bits >> 2) & 7) {
        Some(1) => "VLEK",
        _ => "VCEK",
    }
}

/// The other order in which software writes the same identifier.
fn mixed_endian(guid: &[u8; GUID]) -> [u8; GUID] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *guid;
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

/// A report as the `sev` crate's serde form has it; `None` when it is cut.
pub(crate) fn report_json(report: &[u8]) -> Option<Value> {
    let reader = Reader(report);
    let version = reader.u32(0)?;
    // The layout goes by the processor's family.
    let is_turin = version >= 3 && reader.byte(0x188)? >= 0x1a;
    let tcb = |offset: usize| -> Option<Value> {
        let [a, b, c, d, _, _, g, h] = *reader.0.get(offset..)?.first_chunk::<8>()?;
        Some(match is_turin {
            true => json!({ "fmc": a, "bootloader": b, "tee": c, "snp": d, "microcode": h }),
            false => json!({ "fmc": null, "bootloader": a, "tee": b, "snp": g, "microcode": h }),
        })
    };
    let firmware = |offset: usize| -> Option<Value> {
        let [build, minor, major] = *reader.0.get(offset..)?.first_chunk::<3>()?;
        Some(json!({ "major": major, "minor": minor, "build": build }))
    };
    let cpuid = |offset| -> Option<Value> {
        Some(match version {
            ..3 => Value::Null,
            _ => json!(reader.byte(offset)?),
        })
    };
    let mut json = json!({
        "version": version,
        "guest_svn": reader.u32(0x004)?,
        "policy": reader.u64(0x008)?,
        "family_id": reader.bytes(0x010, 16)?,
        "image_id": reader.bytes(0x020, 16)?,
        "vmpl": reader.u32(0x030)?,
        "sig_algo": reader.u32(0x034)?,
        "current_tcb": tcb(0x038)?,
        "plat_info": reader.u64(0x040)?,
        "key_info": reader.u32(0x048)?,
        "report_data": reader.bytes(REPORT_DATA, 64)?,
        "measurement": reader.bytes(0x090, 48)?,
        "host_data": reader.bytes(HOST_DATA, 32)?,
        "id_key_digest": reader.bytes(0x0e0, 48)?,
        "author_key_digest": reader.bytes(0x110, 48)?,
        "report_id": reader.bytes(0x140, 32)?,
        "report_id_ma": reader.bytes(0x160, 32)?,
        "reported_tcb": tcb(0x180)?,
        "cpuid_fam_id": cpuid(0x188)?,
        "cpuid_mod_id": cpuid(0x189)?,
        "cpuid_step": cpuid(0x18a)?,
        "chip_id": reader.bytes(0x1a0, 64)?,
        "committed_tcb": tcb(0x1e0)?,
        "current": firmware(0x1e8)?,
        "committed": firmware(0x1ec)?,
        "launch_tcb": tcb(0x1f0)?,
        "signature": {
            "r": reader.bytes(SIGNED, 72)?,
            "s": reader.bytes(SIGNED + 72, 72)?,
        },
    });
    if version >= 5 {
        json["launch_mit_vector"] = json!(reader.u64(0x1f8)?);
        json["current_mit_vector"] = json!(reader.u64(0x200)?);
    }
    Some(json)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes(&self, offset: usize, length: usize) -> Option<&[u8]> {
        self.0.get(offset..)?.get(..length)
    }

    fn byte(&self, offset: usize) -> Option<u8> {
        self.0.get(offset).copied()
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        let bytes = self.0.get(offset..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    }

    fn u64(&self, offset: usize) -> Option<u64> {
        let bytes = self.0.get(offset..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }
}

/// `struct snp_report_resp`.
pub(crate) const RESPONSE: usize = 4000;
const REPORT: usize = 1184;
const REPORT_DATA: usize = 0x050;
const HOST_DATA_BEFORE: usize = 0x090;
const HOST_DATA: usize = 0x0c0;
const SIGNED: usize = 0x2a0;
const GUID: usize = 16;
const ENTRY: usize = 24;
const MAX_ENTRIES: usize = 16;
/// GHCB specification, table 8, as the identifiers are written.
const KINDS: [(&str, [u8; GUID]); 4] = [
    (
        "VCEK",
        *b"\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd",
    ),
    (
        "VLEK",
        *b"\xa8\x07\x4b\xc2\xa2\x5a\x48\x3e\xaa\xe6\x39\xc0\x45\xa0\xb8\xa1",
    ),
    (
        "ASK",
        *b"\x4a\xb7\xb3\x79\xbb\xac\x4f\xe4\xa0\x2f\x05\xae\xf3\x27\xc7\x82",
    ),
    (
        "ARK",
        *b"\xc0\xb4\x06\xa4\xa8\x03\x49\x52\x97\x43\x3f\xb6\x01\x4c\xd0\xae",
    ),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn table(entries: &[(&[u8; 16], &[u8])]) -> Vec<u8> {
        let mut head = Vec::new();
        let mut body = Vec::new();
        let start = (entries.len() + 1) * ENTRY;
        for (guid, certificate) in entries {
            head.extend_from_slice(*guid);
            head.extend(u32::try_from(start + body.len()).unwrap().to_le_bytes());
            head.extend(u32::try_from(certificate.len()).unwrap().to_le_bytes());
            body.extend_from_slice(certificate);
        }
        head.resize(start, 0);
        [head, body].concat()
    }

    #[test]
    fn certificate_of_another_signer_or_kind_is_left_out() {
        let [(_, vcek), (_, vlek), (_, ask), _] = &KINDS;
        let table = table(&[
            (vlek, b"no"),
            (&[7; 16], b"odd"),
            (vcek, b"yes"),
            (ask, b"ask"),
        ]);
        assert_eq!(
            certificates(&table, "VCEK"),
            [("VCEK", b"yes".to_vec()), ("ASK", b"ask".to_vec())]
        );
        assert_eq!(certificates(&table, "VLEK")[0], ("VLEK", b"no".to_vec()));
    }

    #[test]
    fn identifier_in_the_other_byte_order_is_known() {
        let swapped = mixed_endian(&KINDS[0].1);
        assert_eq!(swapped[..4], [0x8d, 0x75, 0xda, 0x63]);
        assert_eq!(certificates(&table(&[(&swapped, b"x")]), "VCEK").len(), 1);
    }

    #[test]
    fn table_that_points_outside_itself_is_none() {
        let whole = table(&[(&KINDS[0].1, b"certificate")]);
        for length in 0..whole.len() {
            assert!(
                certificates(&whole[..length], "VCEK").is_empty(),
                "{length}"
            );
        }
        let mut far = whole;
        far[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(certificates(&far, "VCEK").is_empty());
        assert!(certificates(&[0; 4096], "VCEK").is_empty());
    }

    #[test]
    fn pem_certificate_becomes_der() {
        let pem = b"-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
        let found = certificates(&table(&[(&KINDS[0].1, pem)]), "VCEK");
        assert_eq!(found, [("VCEK", vec![1, 2, 3])]);
    }

    #[test]
    fn refusal_of_the_firmware_is_told_by_its_status() {
        let mut response = vec![0; RESPONSE];
        response[0] = 0x16;
        let refused = Answer::parse(&response, &[]).unwrap_err();
        assert!(refused.contains("0x16"), "{refused}");
        response[..8].copy_from_slice(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert!(Answer::parse(&response, &[]).is_err());
        response[4..8].copy_from_slice(&1184_u32.to_le_bytes());
        assert_eq!(Answer::parse(&response, &[]).unwrap().report.len(), 1184);
    }
}
