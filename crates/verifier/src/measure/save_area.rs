//! The save area (VMSA) of a vCPU as QEMU and KVM start it: the processor's reset state with what KVM turns on
//! (AMD64 APM volume 2, publication 24593, table B-4 for the offsets, section 14.1 for the values).

use super::digest::PAGE;
use super::vcpu::VcpuSignature;

/// Where the first vCPU starts.
pub(super) const RESET_VECTOR: u32 = 0xffff_fff0;

/// The page of a vCPU that starts at `start`.
pub(super) fn page(start: u32, vcpu: VcpuSignature, features: u64) -> [u8; PAGE] {
    let mut area = SaveArea([0; PAGE]);
    // The data segments: selector 0, base 0.
    for offset in [ES, SS, DS, FS, GS] {
        area.segment(offset, 0, WRITABLE_DATA, 0);
    }
    let base = u64::from(start & 0xffff_0000);
    area.segment(CS, 0xf000, EXECUTABLE_CODE, base);
    area.segment(GDTR, 0, 0, 0);
    area.segment(LDTR, 0, LOCAL_TABLE, 0);
    area.segment(IDTR, 0, 0, 0);
    area.segment(TR, 0, BUSY_TASK, 0);
    area.put(EFER, &EFER_SVME.to_le_bytes());
    area.put(CR4, &CR4_MCE.to_le_bytes());
    area.put(CR0, &CR0_ET.to_le_bytes());
    area.put(DR7, &0x400u64.to_le_bytes());
    area.put(DR6, &0xffff_0ff0u64.to_le_bytes());
    area.put(RFLAGS, &2u64.to_le_bytes());
    area.put(RIP, &u64::from(start & 0xffff).to_le_bytes());
    area.put(G_PAT, &RESET_PAT.to_le_bytes());
    // After reset RDX holds the processor's signature (APM volume 2, 14.1.3).
    area.put(RDX, &u64::from(vcpu.value()).to_le_bytes());
    area.put(SEV_FEATURES, &features.to_le_bytes());
    area.put(XCR0, &1u64.to_le_bytes());
    area.put(MXCSR, &0x1f80u32.to_le_bytes());
    area.put(X87_FCW, &0x037fu16.to_le_bytes());
    area.0
}

struct SaveArea([u8; PAGE]);

impl SaveArea {
    fn segment(&mut self, offset: usize, selector: u16, attributes: u16, base: u64) {
        self.put(offset, &selector.to_le_bytes());
        self.put(offset + 2, &attributes.to_le_bytes());
        self.put(offset + 4, &0xffffu32.to_le_bytes());
        self.put(offset + 8, &base.to_le_bytes());
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.0
            .get_mut(offset..offset + bytes.len())
            .expect("every offset below lies in the page")
            .copy_from_slice(bytes);
    }
}

const ES: usize = 0x00;
const CS: usize = 0x10;
const SS: usize = 0x20;
const DS: usize = 0x30;
const FS: usize = 0x40;
const GS: usize = 0x50;
const GDTR: usize = 0x60;
const LDTR: usize = 0x70;
const IDTR: usize = 0x80;
const TR: usize = 0x90;
const EFER: usize = 0xd0;
const CR4: usize = 0x148;
const CR0: usize = 0x158;
const DR7: usize = 0x160;
const DR6: usize = 0x168;
const RFLAGS: usize = 0x170;
const RIP: usize = 0x178;
const G_PAT: usize = 0x268;
const RDX: usize = 0x310;
const SEV_FEATURES: usize = 0x3b0;
const XCR0: usize = 0x3e8;
const MXCSR: usize = 0x408;
const X87_FCW: usize = 0x410;

const WRITABLE_DATA: u16 = 0x93;
const EXECUTABLE_CODE: u16 = 0x9b;
const LOCAL_TABLE: u16 = 0x82;
const BUSY_TASK: u16 = 0x8b;
const EFER_SVME: u64 = 1 << 12;
const CR4_MCE: u64 = 1 << 6;
const CR0_ET: u64 = 1 << 4;
const RESET_PAT: u64 = 0x0007_0406_0007_0406;
