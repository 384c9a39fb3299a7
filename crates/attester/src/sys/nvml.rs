//! NVIDIA's management library (NVML), loaded when a guest runs: what each GPU signs, and who certifies it.
//!
//! Names, structures and numbers are those of `nvml.h` since driver 535. The structures only grow by new names.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::path::Path;

use libloading::{Library, Symbol};

/// One GPU's report, as the library gives it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Gpu {
    /// Such as `GPU-4a5b…`. Nothing signs this.
    pub(crate) uuid: String,
    /// NVML's number of the architecture.
    pub(crate) architecture: u32,
    /// The SPDM request and its response.
    pub(crate) report: Vec<u8>,
    /// PEM, leaf first.
    pub(crate) certificates: Vec<u8>,
}

/// Has every GPU sign a nonce.
pub(crate) fn collect(library: &Path, nonce: &[u8; 32]) -> Result<Vec<Gpu>, String> {
    let nvml = Nvml::load(library)?;
    nvml.check_confidential()?;
    (0..nvml.count()?)
        .map(|index| nvml.gpu(index, nonce))
        .collect()
}

/// Whether there are GPUs that sign, and how many.
pub(crate) fn confidential_gpus(library: &Path) -> Result<u32, String> {
    let nvml = Nvml::load(library)?;
    nvml.check_confidential()?;
    nvml.count()
}

/// The library, initialised until this is dropped.
struct Nvml {
    /// Never unloaded: threads and handlers that it started would run into nothing.
    library: ManuallyDrop<Library>,
}

impl Nvml {
    fn load(path: &Path) -> Result<Self, String> {
        // SAFETY: loading runs the library's initialisers. It is the driver's own library, from where the measured image
        // has it, and a caller only loads it where that driver's device is.
        let library = unsafe { Library::new(path) };
        let library = library.map_err(|error| {
            format!("{}: {error} (a statically linked guest cannot load it: use the dynamically linked one)", path.display())
        })?;
        let nvml = Self {
            library: ManuallyDrop::new(library),
        };
        // SAFETY: `nvmlReturn_t nvmlInit_v2(void)`.
        let init: Symbol<'_, unsafe extern "C" fn() -> c_int> =
            unsafe { nvml.symbol(b"nvmlInit_v2\0") }?;
        // SAFETY: it takes nothing, and may be called as often as one likes; `drop` calls its counterpart.
        nvml.checked("nvmlInit_v2", unsafe { init() })?;
        Ok(nvml)
    }

    /// A GPU outside of confidential mode has no report to give.
    fn check_confidential(&self) -> Result<(), String> {
        let mut state = State::default();
        // SAFETY: `nvmlReturn_t nvmlSystemGetConfComputeState(nvmlConfComputeSystemState_t *state)`.
        let ask: Symbol<'_, unsafe extern "C" fn(*mut State) -> c_int> =
            unsafe { self.symbol(b"nvmlSystemGetConfComputeState\0") }?;
        // SAFETY: `State` has the layout of the structure, and is writable for the call.
        self.checked("nvmlSystemGetConfComputeState", unsafe {
            ask(&raw mut state)
        })?;
        match state.feature {
            0 => Err("the GPUs are not in confidential mode: their host turns it on".to_owned()),
            _ => Ok(()),
        }
    }

    fn count(&self) -> Result<u32, String> {
        let mut count: c_uint = 0;
        // SAFETY: `nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *deviceCount)`.
        let ask: Symbol<'_, unsafe extern "C" fn(*mut c_uint) -> c_int> =
            unsafe { self.symbol(b"nvmlDeviceGetCount_v2\0") }?;
        // SAFETY: the number is writable for the call.
        self.checked("nvmlDeviceGetCount_v2", unsafe { ask(&raw mut count) })?;
        match count {
            0..=MAX_GPUS => Ok(count),
            _ => Err(format!("{count} GPUs, at most {MAX_GPUS}")),
        }
    }

    fn gpu(&self, index: u32, nonce: &[u8; 32]) -> Result<Gpu, String> {
        let device = self.device(index)?;
        let mut certificate = Box::new(Certificate {
            _size: 0,
            attestation_size: 0,
            _chain: [0; 0x1000],
            attestation_chain: [0; 0x1400],
        });
        let mut report = Box::new(Report {
            _cec_present: 0,
            size: 0,
            _cec_size: 0,
            nonce: *nonce,
            report: [0; 0x2000],
            _cec: [0; 0x1000],
        });
        // SAFETY: `nvmlReturn_t nvmlDeviceGetConfComputeGpuCertificate(nvmlDevice_t, nvmlConfComputeGpuCertificate_t *)`.
        let ask: Symbol<'_, unsafe extern "C" fn(Device, *mut Certificate) -> c_int> =
            unsafe { self.symbol(b"nvmlDeviceGetConfComputeGpuCertificate\0") }?;
        // SAFETY: the device is of this library, and the structure has its layout and is writable for the call.
        let status = unsafe { ask(device, &raw mut *certificate) };
        self.checked("nvmlDeviceGetConfComputeGpuCertificate", status)?;
        // SAFETY: `nvmlReturn_t nvmlDeviceGetConfComputeGpuAttestationReport(nvmlDevice_t,
        // nvmlConfComputeGpuAttestationReport_t *)`.
        let ask: Symbol<'_, unsafe extern "C" fn(Device, *mut Report) -> c_int> =
            unsafe { self.symbol(b"nvmlDeviceGetConfComputeGpuAttestationReport\0") }?;
        // SAFETY: as above.
        let status = unsafe { ask(device, &raw mut *report) };
        self.checked("nvmlDeviceGetConfComputeGpuAttestationReport", status)?;
        Ok(Gpu {
            uuid: self.uuid(device)?,
            architecture: self.architecture(device)?,
            report: part("report", &report.report, report.size)?,
            certificates: part(
                "certificate chain",
                &certificate.attestation_chain,
                certificate.attestation_size,
            )?,
        })
    }

    fn device(&self, index: u32) -> Result<Device, String> {
        let mut device: Device = std::ptr::null_mut();
        // SAFETY: `nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)`.
        let ask: Symbol<'_, unsafe extern "C" fn(c_uint, *mut Device) -> c_int> =
            unsafe { self.symbol(b"nvmlDeviceGetHandleByIndex_v2\0") }?;
        // SAFETY: the handle, which is a pointer, is writable for the call.
        self.checked("nvmlDeviceGetHandleByIndex_v2", unsafe {
            ask(index, &raw mut device)
        })?;
        Ok(device)
    }

    fn uuid(&self, device: Device) -> Result<String, String> {
        let mut text: [c_char; 96] = [0; 96];
        // SAFETY: `nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)`.
        let ask: Symbol<'_, unsafe extern "C" fn(Device, *mut c_char, c_uint) -> c_int> =
            unsafe { self.symbol(b"nvmlDeviceGetUUID\0") }?;
        // SAFETY: the text has 96 writable bytes (`NVML_DEVICE_UUID_V2_BUFFER_SIZE`), as the call is told.
        let status = unsafe { ask(device, text.as_mut_ptr(), 96) };
        self.checked("nvmlDeviceGetUUID", status)?;
        let bytes = text.iter().map(|byte| byte.to_ne_bytes()[0]);
        let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
        String::from_utf8(bytes).map_err(|_| "a GPU's UUID is not UTF-8".to_owned())
    }

    fn architecture(&self, device: Device) -> Result<u32, String> {
        let mut architecture: c_uint = 0;
        // SAFETY: `nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *arch)`, whose
        // last type is an unsigned int.
        let ask: Symbol<'_, unsafe extern "C" fn(Device, *mut c_uint) -> c_int> =
            unsafe { self.symbol(b"nvmlDeviceGetArchitecture\0") }?;
        // SAFETY: the number is writable for the call.
        self.checked("nvmlDeviceGetArchitecture", unsafe {
            ask(device, &raw mut architecture)
        })?;
        Ok(architecture)
    }

    /// # Safety
    /// `T` must be the type of the function of that name in `nvml.h`.
    unsafe fn symbol<T>(&self, name: &[u8]) -> Result<Symbol<'_, T>, String> {
        // SAFETY: the caller vouches for the type; the symbol does not outlive the library, which is never unloaded.
        unsafe { self.library.get(name) }
            .map_err(|error| format!("{error}: reports are there since driver 535"))
    }

    fn checked(&self, function: &str, status: c_int) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: `const char *nvmlErrorString(nvmlReturn_t result)`.
        let ask = unsafe {
            self.symbol::<unsafe extern "C" fn(c_int) -> *const c_char>(b"nvmlErrorString\0")
        };
        let words = ask.ok().and_then(|ask| {
            // SAFETY: it takes any number, and gives a constant text that ends with a zero, or null.
            let text = unsafe { ask(status) };
            match text.is_null() {
                true => None,
                // SAFETY: see above.
                false => Some(
                    unsafe { CStr::from_ptr(text) }
                        .to_string_lossy()
                        .into_owned(),
                ),
            }
        });
        Err(format!(
            "{function} failed with {status} ({})",
            words.as_deref().unwrap_or("no words for it")
        ))
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: `nvmlReturn_t nvmlShutdown(void)`.
        let end = unsafe { self.symbol::<unsafe extern "C" fn() -> c_int>(b"nvmlShutdown\0") };
        if let Ok(end) = end {
            // SAFETY: it ends what one `nvmlInit_v2` began, and no handle of ours is used afterwards.
            unsafe { end() };
        }
    }
}

/// What the library says that it filled in of a buffer.
fn part(what: &str, buffer: &[u8], size: c_uint) -> Result<Vec<u8>, String> {
    usize::try_from(size)
        .ok()
        .and_then(|size| buffer.get(..size))
        .filter(|bytes| !bytes.is_empty())
        .map(<[u8]>::to_vec)
        .ok_or_else(|| format!("a {what} of {size} bytes, 1 to {} fit", buffer.len()))
}

type Device = *mut c_void;

/// `nvmlConfComputeSystemState_t`.
#[repr(C)]
#[derive(Default)]
struct State {
    environment: c_uint,
    feature: c_uint,
    development_tools: c_uint,
}

/// `nvmlConfComputeGpuCertificate_t`.
#[repr(C)]
struct Certificate {
    _size: c_uint,
    attestation_size: c_uint,
    _chain: [u8; 0x1000],
    attestation_chain: [u8; 0x1400],
}

/// `nvmlConfComputeGpuAttestationReport_t`.
#[repr(C)]
struct Report {
    _cec_present: c_uint,
    size: c_uint,
    _cec_size: c_uint,
    nonce: [u8; 32],
    report: [u8; 0x2000],
    _cec: [u8; 0x1000],
}

const MAX_GPUS: u32 = 16;
