//! The page with which QEMU tells SEV firmware the hashes of kernel, initrd and command line (QEMU,
//! `docs/system/i386/amd-memory-encryption.rst`; the table's form is OVMF's, `BlobVerifierSevHashes`).

use aws_lc_rs::digest::{SHA256, digest};

use super::MeasureError;
use super::digest::PAGE;
use super::firmware::guid;

/// A kernel that the hypervisor hands to the firmware, as the firmware checks it.
#[derive(Clone, Debug)]
pub struct DirectBoot {
    kernel: [u8; 32],
    initrd: [u8; 32],
    cmdline: [u8; 32],
}

impl DirectBoot {
    /// From the SHA-256 digests of the files, and the command line as it is given to QEMU's `-append`.
    ///
    /// # Errors
    /// [`MeasureError::CommandLine`].
    pub fn new(
        kernel: [u8; 32],
        initrd: Option<[u8; 32]>,
        cmdline: &str,
    ) -> Result<Self, MeasureError> {
        if cmdline.len() > MAX_COMMAND_LINE || cmdline.contains('\0') {
            return Err(MeasureError::CommandLine {
                actual: cmdline.len(),
                limit: MAX_COMMAND_LINE,
            });
        }
        // QEMU hashes the terminating NUL too, and no initrd like an empty one.
        Ok(Self {
            kernel,
            initrd: initrd.unwrap_or_else(|| sha256(&[])),
            cmdline: sha256(&[cmdline.as_bytes(), b"\0"].concat()),
        })
    }

    /// The page, with the table at `offset` in it. An offset without room for the table gives a page of zeros, which
    /// [`super::Firmware::hashes_table`] rules out.
    pub(super) fn page(&self, offset: usize) -> [u8; PAGE] {
        let entries = [
            (COMMAND_LINE_ENTRY, &self.cmdline),
            (INITRD_ENTRY, &self.initrd),
            (KERNEL_ENTRY, &self.kernel),
        ];
        let mut table = Vec::with_capacity(TABLE_ROOM);
        table.extend_from_slice(&TABLE);
        table.extend_from_slice(&TABLE_LENGTH.to_le_bytes());
        for (id, digest) in entries {
            table.extend_from_slice(&id);
            table.extend_from_slice(&ENTRY_LENGTH.to_le_bytes());
            table.extend_from_slice(digest);
        }
        let mut page = [0; PAGE];
        let room = offset
            .checked_add(table.len())
            .and_then(|end| page.get_mut(offset..end));
        if let Some(room) = room {
            room.copy_from_slice(&table);
        }
        page
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// The table with its padding to a multiple of 16.
pub(super) const TABLE_ROOM: usize = 176;

const TABLE_LENGTH: u16 = 18 + 3 * ENTRY_LENGTH;
const ENTRY_LENGTH: u16 = 16 + 2 + 32;
const TABLE: [u8; 16] = guid(0x9438_d606, 0x4f22, 0x4cc9, 0xb479_a793_d411_fd21);
const KERNEL_ENTRY: [u8; 16] = guid(0x4de7_9437, 0xabd2, 0x427f, 0xb835_d5b1_72d2_045b);
const INITRD_ENTRY: [u8; 16] = guid(0x44ba_f731, 0x3a2f, 0x4bd7, 0x9af1_41e2_9169_781d);
const COMMAND_LINE_ENTRY: [u8; 16] = guid(0x97d0_2dd8, 0xbd20, 0x4c94, 0xaa78_e771_4d36_ab2a);

/// QEMU's kernels take 2 KiB; this is what the x86 boot protocol could ever take.
const MAX_COMMAND_LINE: usize = 64 * 1024;
