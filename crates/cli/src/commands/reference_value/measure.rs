//! `strongroom reference-value measure`: reference values computed from what a machine will be started with.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use aws_lc_rs::digest;
use clap::ValueEnum;
use serde_json::{Value, json};
use strongroom_verifier::event_log::{DigestAlgorithm, EventLog, EventLogError};
use strongroom_verifier::measure::{DirectBoot, Firmware, MAX_FIRMWARE, SnpLaunch, VcpuSignature};
use strongroom_wire::initdata::registers;

use crate::commands::initdata;
use crate::files::{self, Existing};
use crate::outcome::Outcome;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The init-data that the machine will be started with.
    #[arg(long, value_name = "FILE", help_heading = "Init-data")]
    initdata: Option<PathBuf>,

    /// The firmware of an SNP guest: a build of OVMF in one file, such as OVMF.amdsev.fd.
    #[arg(long, value_name = "FILE", requires = "vcpus", help_heading = LAUNCH)]
    ovmf: Option<PathBuf>,

    /// The kernel, where the hypervisor hands one to the firmware.
    #[arg(long, value_name = "FILE", requires = "ovmf", help_heading = LAUNCH)]
    kernel: Option<PathBuf>,

    /// The initrd.
    #[arg(long, value_name = "FILE", requires = "kernel", help_heading = LAUNCH)]
    initrd: Option<PathBuf>,

    /// The kernel's command line, to the letter.
    #[arg(long, value_name = "TEXT", requires = "kernel", default_value = "", hide_default_value = true, help_heading = LAUNCH)]
    cmdline: String,

    /// How many vCPUs the guest starts with.
    #[arg(long, value_name = "N", requires = "ovmf", help_heading = LAUNCH)]
    vcpus: Option<u32>,

    /// Their type: QEMU's name, or FAMILY-MODEL-STEPPING in decimal.
    #[arg(long, value_name = "TYPE", default_value = "EPYC-v4", help_heading = LAUNCH)]
    vcpu_type: VcpuSignature,

    /// SEV_FEATURES of the vCPUs in hex; some kernels (6.11 to 6.14) also set bit 5: 0x21.
    #[arg(long, value_name = "HEX", default_value = "0x1", value_parser = parse_hex, help_heading = LAUNCH)]
    guest_features: u64,

    /// A boot event log: a CCEL table, or a TPM's binary_bios_measurements.
    #[arg(long, value_name = "FILE", help_heading = BOOT)]
    event_log: Option<PathBuf>,

    /// Whose log it is
    #[arg(long, value_name = "TEE", value_enum, default_value_t = LogArg::Tdx, requires = "event_log", help_heading = BOOT)]
    log_of: LogArg,

    /// Write the values here, for `strongroom reference-value set --file`.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Replace an existing file.
    #[arg(long, requires = "output")]
    force: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum LogArg {
    /// A TDX guest: RTMR0 to RTMR3, and the kernel and its parameters where the firmware logged them
    Tdx,
    /// A guest on Azure with SNP: its vTPM's PCRs
    AzSnpVtpm,
    /// A guest on Azure with TDX: its vTPM's PCRs
    AzTdxVtpm,
    /// A machine with a TPM: its PCRs
    Tpm,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut values = BTreeMap::new();
    if let Some(path) = &args.initdata {
        values.extend(of_initdata(path)?);
    }
    if let Some(path) = &args.ovmf {
        let (name, value) = of_launch(args, path)?;
        values.insert(name, value);
    }
    if let Some(path) = &args.event_log {
        values.extend(of_log(path, args.log_of)?);
    }
    if values.is_empty() {
        bail!(
            "there is nothing to measure: name --initdata FILE, --event-log FILE, or --ovmf FILE --vcpus N with --kernel, --initrd and --cmdline"
        );
    }
    let payload: BTreeMap<&str, Value> = values
        .iter()
        .map(|(name, value)| (name.as_str(), json!([value])))
        .collect();
    let document = json!({ "values": payload, "output": args.output });
    let lines: Vec<String> = values
        .iter()
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    let text = lines.join("\n");
    let Some(output) = &args.output else {
        let outcome = Outcome::new(text, document);
        // Many values do not fit a line.
        return Ok(if values.len() > 2 {
            outcome
                .next("the same with --output values.json")
                .next("strongroom reference-value set --file values.json")
        } else {
            let pairs: Vec<String> = values
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            outcome.next(format!(
                "strongroom reference-value set {}",
                pairs.join(" ")
            ))
        });
    };
    let mut bytes = serde_json::to_vec_pretty(&payload)?;
    bytes.push(b'\n');
    files::write(output, Existing::from_force(args.force), 0o644, &bytes)?;
    let shown = output.display();
    Ok(Outcome::new(format!("{text}\n\nWrote {shown}"), document)
        .next(format!("strongroom reference-value set --file {shown}")))
}

/// What the registers of each platform hold after a start with this document.
fn of_initdata(path: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let registers = registers(&initdata::read(path)?.digest());
    let mut values = vec![
        ("snp_host_data", registers.snp_host_data),
        ("tdx_mrconfigid", registers.tdx_mrconfigid),
    ];
    match registers.vtpm_pcr8 {
        Some(pcr) => values.push(("vtpm_pcr8", pcr)),
        None => eprintln!(
            "warning: the document's hash does not fit a vTPM's SHA-256 bank, so there is no vtpm_pcr8; sha256 fits every platform"
        ),
    }
    Ok(values
        .into_iter()
        .map(|(name, value)| (name.to_owned(), hex::encode(value)))
        .collect())
}

/// The launch measurement of an SNP guest.
fn of_launch(args: &Args, ovmf: &Path) -> anyhow::Result<(String, String)> {
    let image = files::read_limited(ovmf, MAX_FIRMWARE as u64)?;
    let firmware =
        Firmware::parse(&image).with_context(|| format!("{} cannot be used", ovmf.display()))?;
    let direct_boot = match &args.kernel {
        Some(kernel) => {
            let initrd = args.initrd.as_deref().map(sha256_of).transpose()?;
            Some(DirectBoot::new(sha256_of(kernel)?, initrd, &args.cmdline)?)
        }
        None => None,
    };
    let launch = SnpLaunch {
        firmware: &firmware,
        direct_boot,
        vcpus: args.vcpus.context("--ovmf needs --vcpus N")?,
        vcpu: args.vcpu_type,
        guest_features: args.guest_features,
    };
    let measurement = launch
        .measurement()
        .with_context(|| format!("{} cannot be launched so", ovmf.display()))?;
    Ok((
        "snp_launch_measurement".to_owned(),
        hex::encode(measurement),
    ))
}

/// The registers after the events of a log. A log is not signed: it is worth what its source is.
fn of_log(path: &Path, of: LogArg) -> anyhow::Result<Vec<(String, String)>> {
    let bytes = files::read_limited(path, MAX_LOG)?;
    let read = || -> Result<Vec<(String, String)>, EventLogError> {
        let log = EventLog::parse(&bytes)?;
        let prefix = match of {
            LogArg::Tdx => {
                let registers = (0..).zip(log.rtmrs()?);
                let mut values: Vec<(String, String)> = registers
                    .map(|(number, value)| (format!("rtmr_{number}"), hex::encode(value)))
                    .collect();
                values.extend(of_kernel(&log));
                return Ok(values);
            }
            LogArg::AzSnpVtpm => "snp",
            LogArg::AzTdxVtpm => "tdx",
            LogArg::Tpm => "tpm",
        };
        let pcrs = log.pcrs(DigestAlgorithm::Sha256)?;
        Ok(pcrs
            .into_iter()
            .map(|(number, value)| (format!("{prefix}_pcr{number:02}"), hex::encode(value)))
            .collect())
    };
    read().with_context(|| format!("{} cannot be replayed", path.display()))
}

/// The digests by which the default policy knows a kernel and its parameters that TDVF started itself.
fn of_kernel(log: &EventLog) -> Vec<(String, String)> {
    let claims = log.claims();
    let events = || claims.as_array().into_iter().flatten();
    let kernel = events().find(|event| {
        let mut paths = event["details"]["device_paths"]
            .as_array()
            .into_iter()
            .flatten();
        event["type_name"] == "EV_EFI_BOOT_SERVICES_APPLICATION"
            && paths.any(|path| path == "File(kernel)")
    });
    let parameters = events().find(|event| {
        event["type_name"] == "EV_EVENT_TAG"
            && event["details"]["string"] == "LOADED_IMAGE::LoadOptions"
    });
    [("tdvfkernel", kernel), ("tdvfkernelparams", parameters)]
        .into_iter()
        .filter_map(|(name, event)| {
            let digest = event?["digests"][0]["digest"].as_str()?;
            Some((name.to_owned(), digest.to_owned()))
        })
        .collect()
}

/// The SHA-256 of a file of any size.
fn sha256_of(path: &Path) -> anyhow::Result<[u8; 32]> {
    let mut file = files::open(path)?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = file
            .read(&mut buffer)
            .with_context(|| format!("cannot read {}", path.display()))?;
        match buffer.get(..read) {
            Some([]) | None => break,
            Some(part) => context.update(part),
        }
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    Ok(out)
}

fn parse_hex(text: &str) -> anyhow::Result<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).context("write a number in hex, such as 0x1")
}

const BOOT: &str = "Boot event log";
const LAUNCH: &str = "Launch of an SNP guest";

/// A CCEL table has up to 1 MiB.
const MAX_LOG: u64 = 16 * 1024 * 1024;
