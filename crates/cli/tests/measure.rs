//! `strongroom reference-value measure`, against the program that others measure SNP guests with.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use strongroom_testkit::fixtures::{fixture, missing_peer, peer_python};
use strongroom_testkit::process::Program;
use support::{Place, document};

/// What Debian's package `ovmf` installs: a build that can start SNP guests, without kernel hashes.
const DEBIAN_OVMF: &str = "/usr/share/ovmf/OVMF.fd";

#[test]
fn measurement_is_another_than_that_of_sev_snp_measure() {
    let Some(python) = peer_python() else {
        return;
    };
    let place = Place::new();
    place.write("kernel", vec![7; 300_000]);
    place.write("initrd", b"initrd");
    place.write("small.fd", image(2, 0x81_0000, 0xc00));
    place.write("large.fd", image(512, 0x90_0000, 0));
    let mut cases = Vec::new();
    for (firmware, vcpus, kind, features) in [
        ("small.fd", 1, "EPYC-v4", 1),
        ("small.fd", 3, "EPYC-Milan", 0x21),
        ("large.fd", 2, "EPYC-Genoa-v1", 1),
        ("large.fd", 17, "EPYC-Rome", 1),
    ] {
        for (kernel, initrd, cmdline) in [
            (false, false, ""),
            (true, false, ""),
            (true, true, ""),
            (true, true, "console=ttyS0 root=/dev/vda1"),
        ] {
            cases.push(json!({
                "ovmf": place.join(firmware), "vcpus": vcpus, "type": kind, "features": features,
                "kernel": if kernel { "kernel" } else { "" },
                "initrd": if initrd { "initrd" } else { "" }, "cmdline": cmdline,
            }));
        }
    }
    if Path::new(DEBIAN_OVMF).exists() {
        cases.push(json!({
            "ovmf": DEBIAN_OVMF, "vcpus": 4, "type": "EPYC-Turin", "features": 1,
            "kernel": "", "initrd": "", "cmdline": "",
        }));
    } else {
        missing_peer("no Debian package `ovmf` here");
    }
    place.write("cases.json", Value::from(cases.clone()).to_string());
    let finished = Program::new(&python)
        .folder(place.path())
        .args(["-c", PEER])
        .run()
        .unwrap();
    if finished.stderr_text().contains("No module named") {
        missing_peer("no sev-snp-measure in .peers/venv; ./check installs it");
        return;
    }
    let theirs = document(&finished.expect_success());
    let theirs = theirs.as_array().unwrap();
    assert_eq!(theirs.len(), cases.len());
    for (case, theirs) in cases.iter().zip(theirs) {
        let text = |name: &str| case[name].as_str().unwrap().to_owned();
        let mut args: Vec<String> = ["--json", "reference-value", "measure"]
            .map(Into::into)
            .into();
        args.extend(["--ovmf".into(), text("ovmf")]);
        args.extend(["--vcpus".into(), case["vcpus"].to_string()]);
        args.extend(["--vcpu-type".into(), text("type")]);
        args.extend([
            "--guest-features".into(),
            format!("{:#x}", case["features"].as_u64().unwrap()),
        ]);
        for name in ["kernel", "initrd", "cmdline"] {
            if !text(name).is_empty() {
                args.extend([format!("--{name}"), text(name)]);
            }
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ours = document(&place.ok(&args));
        assert_eq!(
            ours["values"],
            json!({ "snp_launch_measurement": [theirs] }),
            "{case}"
        );
    }
}

#[test]
fn kernel_goes_unmeasured_into_firmware_that_checks_none() {
    let place = Place::new();
    place.write("kernel", b"k");
    place.write("plain.fd", image(2, 0, 0));
    let args = [
        "reference-value",
        "measure",
        "--ovmf",
        "plain.fd",
        "--vcpus",
        "1",
    ];
    place.ok(&args);
    let said = place.refused(&[&args[..], &["--kernel", "kernel"]].concat());
    assert!(said.contains("OVMF.amdsev.fd"), "{said}");
}

#[test]
fn file_that_is_no_firmware_is_measured() {
    let place = Place::new();
    place.write("zeros.fd", [0; 4096]);
    let said = place.refused(&[
        "reference-value",
        "measure",
        "--ovmf",
        "zeros.fd",
        "--vcpus",
        "1",
    ]);
    assert!(said.contains("not OVMF"), "{said}");
    let said = place.refused(&["reference-value", "measure"]);
    assert!(said.contains("nothing to measure"), "{said}");
}

#[test]
fn initdata_is_measured_into_other_registers_than_the_digest_command_says() {
    let place = Place::new();
    place.write(
        "initdata.toml",
        "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\nx = \"y\"\n",
    );
    let measured = document(&place.ok(&[
        "--json",
        "reference-value",
        "measure",
        "--initdata",
        "initdata.toml",
        "--output",
        "values.json",
    ]));
    let told = document(&place.ok(&["--json", "initdata", "digest", "initdata.toml"]));
    for (name, register) in [
        ("snp_host_data", "SNP HOST_DATA"),
        ("tdx_mrconfigid", "TDX MRCONFIGID"),
        ("vtpm_pcr8", "vTPM PCR8 (SHA-256)"),
    ] {
        assert_eq!(measured["values"][name][0], told["registers"][register]);
    }
    let written: Value = serde_json::from_slice(&place.read("values.json")).unwrap();
    assert_eq!(written, measured["values"]);
}

#[test]
fn registers_of_an_event_log_are_others_than_the_quotes() {
    // The registers that quotes of those machines had.
    for (name, rtmr_1, rtmr_2) in [
        ("CCEL_data_ovmf", "775b9f6bfe99f8a3", "94eaf7a7bf398ed8"),
        ("CCEL_data_grub", "6c289e0c62182d41", "08919d017ba0e52c"),
    ] {
        let Some(log) = fixture(&format!("trustee/deps/eventlog/test_data/{name}")) else {
            return;
        };
        let place = Place::new();
        let log = log.to_str().unwrap();
        let args = ["--json", "reference-value", "measure", "--event-log", log];
        let values = document(&place.ok(&args))["values"].clone();
        let begins = |name: &str, start: &str| values[name][0].as_str().unwrap().starts_with(start);
        assert!(
            begins("rtmr_1", rtmr_1) && begins("rtmr_2", rtmr_2),
            "{values}"
        );
        assert_eq!(values["rtmr_3"][0], "0".repeat(96));
    }
}

#[test]
fn file_that_is_no_event_log_is_replayed() {
    let place = Place::new();
    place.write("log", [1; 100]);
    for of in ["tdx", "tpm"] {
        let args = [
            "reference-value",
            "measure",
            "--event-log",
            "log",
            "--log-of",
            of,
        ];
        let said = place.refused(&args);
        assert!(said.contains("cannot be replayed"), "{said}");
    }
}

/// An image of whole pages with the table of GUIDs and the sections that a guest needs. `hashes` is the page for the
/// hashes of a kernel, 0 for none, and `offset` where their table lies in it.
fn image(pages: usize, hashes: u32, offset: u32) -> Vec<u8> {
    const METADATA: usize = 0x400;
    let length = pages * 4096;
    let mut image: Vec<u8> = (0..length)
        .map(|at| u8::try_from(at * 31 % 251).unwrap())
        .collect();
    let mut sections = vec![
        [0x80_0000, 0x9000, 1],
        [0x80_a000, 0x3000, 1],
        [0x80_d000, 0x1000, 2],
        [0x80_e000, 0x1000, 3],
        [0x80_f000, 0x1000, 4],
    ];
    if hashes != 0 {
        sections.push([hashes, 0x1000, 0x10]);
    }
    let count = u32::try_from(sections.len()).unwrap();
    let mut metadata = b"ASEV".to_vec();
    metadata.extend([16 + 12 * count, 1, count].map(u32::to_le_bytes).concat());
    metadata.extend(
        sections
            .concat()
            .iter()
            .flat_map(|number: &u32| number.to_le_bytes()),
    );
    image[METADATA..METADATA + metadata.len()].copy_from_slice(&metadata);

    let from_end = u32::try_from(length - METADATA).unwrap();
    let table = if hashes == 0 {
        [0, 0]
    } else {
        [hashes + offset, 0x400]
    };
    let entries = [
        ("dc886566984a4798a75e5585a7bf67cc", vec![from_end]),
        ("7255371f3a3b4b04927b1da6efa8d454", table.to_vec()),
        ("00f771de1a7e4fcb890e68c77e2fb44e", vec![0x80_b004]),
    ];
    let mut end = Vec::new();
    for (id, numbers) in entries {
        end.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        end.extend(u16::try_from(numbers.len() * 4 + 18).unwrap().to_le_bytes());
        end.extend(guid(id));
    }
    end.extend(u16::try_from(end.len() + 18).unwrap().to_le_bytes());
    end.extend(guid("96b582de1fb245f7baeaa366c55a082d"));
    image[length - 32 - end.len()..length - 32].copy_from_slice(&end);
    image
}

/// The bytes of a GUID: its first three numbers are little-endian.
fn guid(text: &str) -> Vec<u8> {
    let mut bytes = hex::decode(text).unwrap();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

const PEER: &str = r#"
import json
from sevsnpmeasure import guest, vcpu_types
from sevsnpmeasure.sev_mode import SevMode
print(json.dumps([
    guest.calc_launch_digest(
        SevMode.SEV_SNP, case["vcpus"], vcpu_types.CPU_SIGS[case["type"]], case["ovmf"],
        case["kernel"], case["initrd"], case["cmdline"], case["features"],
    ).hex()
    for case in json.load(open("cases.json"))
]))
"#;
