//! A kernel of a confidential VM, as far as an attester sees it: the report interface, the measurement files, the guest
//! drivers. What the hardware would sign, the test signs.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest;

use crate::kernel_files::{Answers, KernelFiles, Kind};

/// Makes a report or quote of the registers, over 64 bytes of report data.
pub type Maker = Box<dyn FnMut(&Registers, &[u8; 64]) -> Vec<u8> + Send>;

/// What the hardware holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Registers {
    /// TDX's `MRCONFIGID`.
    pub mrconfigid: [u8; 48],
    /// TDX's runtime registers.
    pub rtmr: [[u8; 48]; 4],
}

/// The kernel. Fields are what a test sets before it asks.
pub struct Kernel {
    /// Who answers in the report interface; without one the interface is not there.
    pub provider: Option<&'static str>,
    /// The level from which on reports are made; without one the files of levels are not there.
    pub privlevel_floor: Option<u8>,
    /// What makes reports.
    pub maker: Maker,
    /// What comes with a report; without it the file is not there.
    pub aux: Option<Vec<u8>>,
    /// The registers.
    pub registers: Registers,
    /// Whether the kernel shows the registers as files.
    pub measurement_files: bool,
    /// Whether there is a TDX guest driver, and whether it extends registers.
    pub tdx_driver: Option<bool>,
    /// Whether there is an SEV-SNP guest driver.
    pub sev_driver: bool,
    /// The firmware's event log.
    pub ccel: Option<Vec<u8>>,
    /// An enclave's files, and how it attests.
    pub enclave: Option<&'static str>,
    /// How often somebody else still writes between our writing and our reading.
    pub disturbances: u32,
    /// How often a write is still lost when the file is closed.
    pub lost_writes: u32,
    /// The folders that were made in the report interface, in order.
    pub made: Vec<String>,
    /// The folders that are there.
    pub entries: BTreeMap<String, Entry>,
    /// The levels that were asked for.
    pub privlevels: Vec<String>,
    enclave_report_data: Vec<u8>,
}

/// A folder of the report interface.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Entry {
    /// How often it was written to.
    pub generation: u64,
    /// The report data.
    pub inblob: Vec<u8>,
}

impl Kernel {
    /// A kernel with no confidential device, whose reports are made by `maker`.
    pub fn new(maker: impl FnMut(&Registers, &[u8; 64]) -> Vec<u8> + Send + 'static) -> Self {
        Self {
            provider: None,
            privlevel_floor: None,
            maker: Box::new(maker),
            aux: None,
            registers: Registers {
                mrconfigid: [0; 48],
                rtmr: [[0; 48]; 4],
            },
            measurement_files: false,
            tdx_driver: None,
            sev_driver: false,
            ccel: None,
            enclave: None,
            disturbances: 0,
            lost_writes: 0,
            made: Vec::new(),
            entries: BTreeMap::new(),
            privlevels: Vec::new(),
            enclave_report_data: Vec::new(),
        }
    }

    /// Boots it. `None`, having said that the test was skipped, where no file system can be mounted.
    pub fn boot(self) -> Option<Machine> {
        let kernel = Arc::new(Mutex::new(self));
        let files = KernelFiles::mount(&kernel)?;
        Some(Machine { kernel, files })
    }

    fn files(&self) -> Vec<(String, u32)> {
        let mut files = Vec::new();
        let mut put = |there: bool, path: &str, mode| {
            if there {
                files.push((path.to_owned(), mode));
            }
        };
        put(self.ccel.is_some(), CCEL, 0o400);
        put(self.sev_driver, SEV_GUEST, 0o600);
        put(self.tdx_driver.is_some(), TDX_GUEST, 0o600);
        for name in ["attestation_type", "user_report_data", "quote"] {
            put(self.enclave.is_some(), &format!("{ENCLAVE}/{name}"), 0o600);
        }
        put(
            self.measurement_files,
            &format!("{MEASUREMENTS}/mrconfigid"),
            0o444,
        );
        for index in 0..4 {
            let path = format!("{MEASUREMENTS}/rtmr{index}:sha384");
            put(self.measurement_files, &path, 0o644);
        }
        for name in self.entries.keys() {
            for (file, mode) in [
                ("provider", 0o444),
                ("generation", 0o444),
                ("inblob", 0o200),
                ("outblob", 0o444),
            ] {
                put(true, &format!("{TSM}/{name}/{file}"), mode);
            }
            put(self.aux.is_some(), &format!("{TSM}/{name}/auxblob"), 0o444);
            for (file, mode) in [("privlevel", 0o200), ("privlevel_floor", 0o444)] {
                put(
                    self.privlevel_floor.is_some(),
                    &format!("{TSM}/{name}/{file}"),
                    mode,
                );
            }
        }
        files
    }

    fn make(&mut self, report_data: &[u8]) -> Result<Vec<u8>, i32> {
        let report_data = report_data.try_into().map_err(|_| EINVAL)?;
        Ok((self.maker)(&self.registers, report_data))
    }

    fn extend(&mut self, index: usize, value: &[u8]) -> Result<(), i32> {
        let register = self.registers.rtmr.get_mut(index).ok_or(EINVAL)?;
        if value.len() != register.len() {
            return Err(EINVAL);
        }
        let extended = digest::digest(&digest::SHA384, &[register.as_slice(), value].concat());
        register.copy_from_slice(extended.as_ref());
        Ok(())
    }

    /// `TDREPORT_STRUCT`, of which only the registers and the report data are filled in.
    fn td_report(&self, report_data: &[u8]) -> Vec<u8> {
        let mut report = vec![0x81, 0, 1, 0];
        report.resize(128, 0);
        report.extend(report_data);
        report.resize(576, 0);
        report.extend(self.registers.mrconfigid);
        report.resize(720, 0);
        report.extend(self.registers.rtmr.as_flattened());
        report.resize(1024, 0);
        report
    }

    /// `SNP_GET_EXT_REPORT`: the envelope names request and response by their addresses in this very process.
    fn snp_report(&mut self, envelope: &[u8]) -> Result<Vec<u8>, i32> {
        let word = |bytes: &[u8], at: usize| {
            let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
            word.map(|word| u64::from_ne_bytes(*word)).ok_or(EFAULT)
        };
        if envelope.first() != Some(&1) {
            return Err(EINVAL);
        }
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/proc/self/mem");
        let memory = memory.map_err(|_| EFAULT)?;
        let mut request = [0; 112];
        memory
            .read_exact_at(&mut request, word(envelope, 8)?)
            .map_err(|_| EFAULT)?;
        let report = self.make(&request[..64])?;
        let certificates = self.aux.clone().unwrap_or_default();
        let room = word(&request, 104)? & 0xffff_ffff;
        if u64::try_from(certificates.len()).unwrap_or(u64::MAX) > room || room % 4096 != 0 {
            return Err(EINVAL);
        }
        memory
            .write_all_at(&certificates, word(&request, 96)?)
            .map_err(|_| EFAULT)?;
        let mut response = vec![0; 4];
        response.extend(
            u32::try_from(report.len())
                .unwrap_or_default()
                .to_le_bytes(),
        );
        response.resize(32, 0);
        response.extend(report);
        memory
            .write_all_at(&response, word(envelope, 16)?)
            .map_err(|_| EFAULT)?;
        Ok(envelope.to_vec())
    }
}

/// A machine that runs a kernel.
pub struct Machine {
    kernel: Arc<Mutex<Kernel>>,
    files: KernelFiles,
}

impl Machine {
    /// The folder that stands for its root.
    pub fn root(&self) -> PathBuf {
        self.files.path()
    }

    /// The kernel. No file of the machine can be used while it is held.
    pub fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers for Kernel {
    fn kind(&mut self, path: &str) -> Option<Kind> {
        let files = self.files();
        if let Some((_, mode)) = files.iter().find(|(file, _)| file == path) {
            return Some(Kind::File(*mode));
        }
        let mut folders: Vec<String> = files.into_iter().map(|(file, _)| file).collect();
        folders.push("root/x".to_owned());
        if self.provider.is_some() {
            folders.push(format!("{TSM}/x"));
        }
        let prefix = match path {
            "" => String::new(),
            path => format!("{path}/"),
        };
        folders
            .iter()
            .any(|file| file.starts_with(&prefix))
            .then_some(Kind::Folder)
    }

    fn read(&mut self, path: &str) -> Result<Vec<u8>, i32> {
        match path {
            CCEL => return self.ccel.clone().ok_or(ENOENT),
            _ if path == format!("{ENCLAVE}/attestation_type") => {
                return Ok(format!("{}\n", self.enclave.unwrap_or_default()).into_bytes());
            }
            _ if path == format!("{ENCLAVE}/quote") => {
                let report_data = self.enclave_report_data.clone();
                return self.make(&report_data);
            }
            _ => {}
        }
        if let Some(name) = path.strip_prefix(MEASUREMENTS) {
            return match name
                .strip_prefix("/rtmr")
                .and_then(|rest| rest.strip_suffix(":sha384"))
            {
                None => Ok(self.registers.mrconfigid.to_vec()),
                Some(index) => {
                    let index: usize = index.parse().map_err(|_| ENOENT)?;
                    self.registers
                        .rtmr
                        .get(index)
                        .map(|value| value.to_vec())
                        .ok_or(ENOENT)
                }
            };
        }
        let (name, file) = entry_file(path).ok_or(ENOENT)?;
        let entry = self.entries.get(name).cloned().ok_or(ENOENT)?;
        match file {
            "provider" => Ok(format!("{}\n", self.provider.unwrap_or_default()).into_bytes()),
            "generation" => Ok(format!("{}\n", entry.generation).into_bytes()),
            "privlevel_floor" => {
                Ok(format!("{}\n", self.privlevel_floor.unwrap_or_default()).into_bytes())
            }
            "auxblob" => self.aux.clone().ok_or(ENOENT),
            "outblob" => {
                if self.disturbances > 0 {
                    self.disturbances -= 1;
                    let entry = self.entries.get_mut(name).ok_or(ENOENT)?;
                    entry.generation += 1;
                    entry.inblob = vec![0xee; 64];
                }
                let inblob = self.entries.get(name).map(|entry| entry.inblob.clone());
                self.make(&inblob.unwrap_or_default())
            }
            _ => Err(EACCES),
        }
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> Result<(), i32> {
        if path == format!("{ENCLAVE}/user_report_data") {
            self.enclave_report_data = bytes.to_vec();
            return Ok(());
        }
        if let Some(name) = path.strip_prefix(MEASUREMENTS) {
            let index = name
                .strip_prefix("/rtmr")
                .and_then(|rest| rest.strip_suffix(":sha384"));
            let index = index.and_then(|index| index.parse().ok()).ok_or(EACCES)?;
            return self.extend(index, bytes);
        }
        let (name, file) = entry_file(path).ok_or(ENOENT)?;
        let entry = self.entries.get_mut(name).ok_or(ENOENT)?;
        match file {
            "inblob" if bytes.is_empty() || bytes.len() > 64 => return Err(EINVAL),
            "inblob" if self.lost_writes > 0 => {
                self.lost_writes -= 1;
                return Ok(());
            }
            "inblob" => entry.inblob = bytes.to_vec(),
            "privlevel" => {
                let level = String::from_utf8_lossy(bytes).into_owned();
                let floor = u32::from(self.privlevel_floor.unwrap_or_default());
                if level.trim().parse::<u32>().map_err(|_| EINVAL)? < floor {
                    return Err(EINVAL);
                }
                self.privlevels.push(level);
            }
            _ => return Err(EACCES),
        }
        entry.generation += 1;
        Ok(())
    }

    fn make_folder(&mut self, path: &str) -> Result<(), i32> {
        let name = path
            .strip_prefix(TSM)
            .and_then(|rest| rest.strip_prefix('/'));
        let name = name.filter(|name| !name.contains('/')).ok_or(EACCES)?;
        self.provider.ok_or(ENXIO)?;
        self.made.push(name.to_owned());
        self.entries.insert(name.to_owned(), Entry::default());
        Ok(())
    }

    fn remove_folder(&mut self, path: &str) -> Result<(), i32> {
        let name = path
            .strip_prefix(TSM)
            .and_then(|rest| rest.strip_prefix('/'));
        let removed = name.and_then(|name| self.entries.remove(name));
        removed.map(drop).ok_or(EACCES)
    }

    fn call(
        &mut self,
        path: &str,
        command: u32,
        address: u64,
        input: &[u8],
    ) -> Result<Vec<u8>, i32> {
        match (path, command) {
            (TDX_GUEST, GET_REPORT0) => {
                let report_data = input.get(..64).ok_or(EFAULT)?;
                Ok([report_data, &self.td_report(report_data)].concat())
            }
            (TDX_GUEST, EXTEND_RTMR) if self.tdx_driver == Some(true) => {
                // The number says that nothing is passed, and 49 bytes are.
                let mut request = [0; 49];
                let memory = OpenOptions::new().read(true).open("/proc/self/mem");
                let read = memory.and_then(|memory| memory.read_exact_at(&mut request, address));
                read.map_err(|_| EFAULT)?;
                let (value, index) = request.split_at(48);
                self.extend(usize::from(index[0]), value)?;
                Ok(request.to_vec())
            }
            (SEV_GUEST, GET_EXT_REPORT) => self.snp_report(input),
            _ => Err(ENOTTY),
        }
    }
}

fn entry_file(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix(TSM)?.strip_prefix('/')?.split_once('/')
}

const TSM: &str = "sys/kernel/config/tsm/report";
const MEASUREMENTS: &str = "sys/devices/virtual/misc/tdx_guest/measurements";
const CCEL: &str = "sys/firmware/acpi/tables/data/CCEL";
const TDX_GUEST: &str = "dev/tdx_guest";
const SEV_GUEST: &str = "dev/sev-guest";
const ENCLAVE: &str = "dev/attestation";

/// `_IOWR('T', 1, 1088 bytes)`.
const GET_REPORT0: u32 = 0xc440_5401;
/// `_IOR('T', 3, 49 bytes)`.
const EXTEND_RTMR: u32 = 0x8031_5403;
/// `_IOWR('S', 2, 32 bytes)`.
const GET_EXT_REPORT: u32 = 0xc020_5302;

const ENOENT: i32 = 2;
const ENXIO: i32 = 6;
const EACCES: i32 = 13;
const EFAULT: i32 = 14;
const EINVAL: i32 = 22;
const ENOTTY: i32 = 25;
