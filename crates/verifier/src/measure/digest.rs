//! The launch digest of SNP: each added page extends it by the SHA-384 of a `PAGE_INFO` structure
//! (SEV Secure Nested Paging Firmware ABI, publication 56860, 8.17.2).

use aws_lc_rs::digest::{SHA384, digest};

/// A guest's launch digest while pages are being added.
pub(super) struct LaunchDigest([u8; 48]);

impl LaunchDigest {
    pub(super) fn new() -> Self {
        Self([0; 48])
    }

    pub(super) fn value(&self) -> [u8; 48] {
        self.0
    }

    /// Adds pages with their contents; the last one is filled up with zeros.
    pub(super) fn normal_pages(&mut self, address: u64, contents: &[u8]) {
        for (page, address) in contents.chunks(PAGE).zip((address..).step_by(PAGE)) {
            let digest = match page.len() {
                PAGE => sha384(page),
                _ => {
                    let mut padded = page.to_vec();
                    padded.resize(PAGE, 0);
                    sha384(&padded)
                }
            };
            self.extend(PageType::Normal, address, &digest);
        }
    }

    /// Adds pages of zeros. Their contents are not hashed: the type says what they are.
    pub(super) fn zero_pages(&mut self, address: u64, pages: u32) {
        for (_, address) in (0..pages).zip((address..).step_by(PAGE)) {
            self.extend(PageType::Zero, address, &[0; 48]);
        }
    }

    /// Adds the page that the AMD-SP will put its secrets in.
    pub(super) fn secrets_page(&mut self, address: u64) {
        self.extend(PageType::Secrets, address, &[0; 48]);
    }

    /// Adds the page that the AMD-SP will check CPUID values in.
    pub(super) fn cpuid_page(&mut self, address: u64) {
        self.extend(PageType::Cpuid, address, &[0; 48]);
    }

    /// Adds the same save area for a number of vCPUs.
    pub(super) fn save_area(&mut self, page: &[u8; PAGE], vcpus: u32) {
        let contents = sha384(page);
        for _ in 0..vcpus {
            self.extend(PageType::SaveArea, SAVE_AREA_ADDRESS, &contents);
        }
    }

    fn extend(&mut self, page_type: PageType, address: u64, contents: &[u8; 48]) {
        let mut info = Vec::with_capacity(PAGE_INFO);
        info.extend_from_slice(&self.0);
        info.extend_from_slice(contents);
        // LENGTH, PAGE_TYPE, IMI_PAGE, the permissions of VMPL3, VMPL2 and VMPL1, and a reserved byte.
        info.extend_from_slice(&0x70u16.to_le_bytes());
        info.extend_from_slice(&[page_type.number(), 0, 0, 0, 0, 0]);
        info.extend_from_slice(&address.to_le_bytes());
        self.0 = sha384(&info);
    }
}

/// `PAGE_TYPE` (Firmware ABI, 8.17.1), of those that a hypervisor adds.
#[derive(Clone, Copy)]
enum PageType {
    Normal,
    SaveArea,
    Zero,
    Secrets,
    Cpuid,
}

impl PageType {
    fn number(self) -> u8 {
        match self {
            Self::Normal => 1,
            Self::SaveArea => 2,
            Self::Zero => 3,
            Self::Secrets => 5,
            Self::Cpuid => 6,
        }
    }
}

fn sha384(bytes: &[u8]) -> [u8; 48] {
    let mut out = [0; 48];
    out.copy_from_slice(digest(&SHA384, bytes).as_ref());
    out
}

/// The pages of an SNP guest, in bytes.
pub(super) const PAGE: usize = 4096;

const PAGE_INFO: usize = 0x70;

/// The address that stands for a save area, which has none that the guest sees (8.17.2).
const SAVE_AREA_ADDRESS: u64 = 0x0000_ffff_ffff_f000;
