//! Ioctls of the TDX and SEV-SNP guest drivers (Linux: `tdx-guest.h`, `sev-guest.h`).
//!
//! The structures are bytes, written and read by safe functions; what is `unsafe` only hands their address over.

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

use crate::snp;
use crate::tdx::TdReport;

/// `TDX_CMD_GET_REPORT0`: the TD report of this domain over 64 bytes, which the TDX module makes.
pub(crate) fn td_report(device: &Path, report_data: &[u8; 64]) -> io::Result<TdReport> {
    let mut request = Aligned([0_u8; 64 + TdReport::LENGTH]);
    if let Some(field) = request.0.first_chunk_mut() {
        *field = *report_data;
    }
    call(&open(device)?, tdx_command(GET_REPORT0), &mut request)?;
    request
        .0
        .get(64..)
        .and_then(TdReport::parse)
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the driver's answer is no TD report",
            )
        })
}

/// `TDX_CMD_EXTEND_RTMR` of the drivers before Linux 6.16 that have it: register `index` takes one more digest.
pub(crate) fn extend_rtmr(device: &Path, index: u8, digest: &[u8; 48]) -> io::Result<()> {
    let mut request = Aligned([0_u8; 49]);
    if let Some(field) = request.0.first_chunk_mut() {
        *field = *digest;
    }
    if let Some(last) = request.0.last_mut() {
        *last = index;
    }
    let device = open(device)?;
    // The driver's versions spell the direction of the same call in two ways.
    match call(&device, opcode::read::<[u8; 49]>(b'T', 3), &mut request) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTTY) => {
            call(&device, opcode::write::<[u8; 49]>(b'T', 3), &mut request)
        }
        outcome => outcome,
    }
}

/// `SNP_GET_EXT_REPORT`: an attestation report over 64 bytes, and the certificates that the host keeps beside it.
pub(crate) fn snp_report(device: &Path, report_data: &[u8; 64]) -> io::Result<snp::Answer> {
    let device = open(device)?;
    let mut certificates = Box::new(Page([0; CERTIFICATES]));
    let mut response = Box::new(Aligned([0_u8; snp::RESPONSE]));
    // `struct snp_ext_report_req`: 64 bytes, the level, 28 reserved, the address and the length of the certificates.
    let mut request = Aligned([0_u8; 112]);
    let address = address(&raw mut certificates.0);
    let length = u32::try_from(CERTIFICATES).unwrap_or_default();
    put(&mut request.0, 0, report_data);
    put(&mut request.0, 96, &address.to_ne_bytes());
    put(&mut request.0, 104, &length.to_ne_bytes());
    // `struct snp_guest_request_ioctl`: version, the addresses of request and response, and what went wrong.
    let mut envelope = Aligned([0_u8; 32]);
    put(&mut envelope.0, 0, &[1]);
    put(
        &mut envelope.0,
        8,
        &self::address(&raw mut request.0).to_ne_bytes(),
    );
    put(
        &mut envelope.0,
        16,
        &self::address(&raw mut response.0).to_ne_bytes(),
    );
    // The envelope names three other buffers by address. All are of the sizes that `sev-guest.h` gives, are writable,
    // and live until after the call; the certificates are a whole number of pages.
    let called = call(
        &device,
        opcode::read_write::<[u8; 32]>(b'S', 2),
        &mut envelope,
    );
    let errors = envelope.0.get(24..).and_then(|rest| rest.first_chunk());
    let errors = u64::from_ne_bytes(errors.copied().unwrap_or_default());
    match called {
        Ok(()) => snp::Answer::parse(&response.0, &certificates.0)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason)),
        Err(error) if errors != 0 => Err(io::Error::new(
            error.kind(),
            format!(
                "{error} (firmware error {:#x}, hypervisor error {:#x})",
                errors & 0xffff_ffff,
                errors >> 32
            ),
        )),
        Err(error) => Err(error),
    }
}

fn open(device: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(device)
}

fn tdx_command(number: u8) -> Opcode {
    opcode::read_write::<[u8; 64 + TdReport::LENGTH]>(b'T', number)
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes
        .get_mut(at..)
        .and_then(|rest| rest.get_mut(..field.len()))
    {
        place.copy_from_slice(field);
    }
}

fn address<const N: usize>(bytes: *mut [u8; N]) -> u64 {
    u64::try_from(bytes.expose_provenance()).unwrap_or_default()
}

/// Structures of these drivers hold words of 64 bits.
#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);

#[repr(C, align(4096))]
struct Page<const N: usize>([u8; N]);

/// Calls a driver with one structure of the size that the command's number names.
fn call<const N: usize>(
    device: &File,
    command: Opcode,
    structure: &mut Aligned<N>,
) -> io::Result<()> {
    let exchange = Exchange { command, structure };
    // SAFETY: the command is one of this file, which `Exchange` passes a structure of its size; see there.
    unsafe { rustix::ioctl::ioctl(device, exchange) }.map_err(io::Error::from)
}

/// A call that reads and writes one structure.
struct Exchange<'a, const N: usize> {
    command: Opcode,
    structure: &'a mut Aligned<N>,
}

// SAFETY: `as_ptr` gives N writable bytes, aligned to 8, which are borrowed for as long as the call lasts, and every
// command in this file is made of the type `[u8; N]`: a driver reads and writes no more than the size in its number.
// Any bytes are a value of the structure. The one structure that names further memory is `snp_report`'s, which says why
// that memory outlives the call. Nothing is made of the output but `()`.
unsafe impl<const N: usize> Ioctl for Exchange<'_, N> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.command
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.structure.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

const GET_REPORT0: u8 = 1;
/// What the driver takes at most (`SEV_FW_BLOB_MAX_SIZE`), in whole pages.
const CERTIFICATES: usize = 16 * 1024;
