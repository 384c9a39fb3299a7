//! The platforms `az-snp-vtpm` and `az-tdx-vtpm`: Azure's confidential VMs.
//!
//! Azure's paravisor, the host compatibility layer (HCL), runs inside the VM's trust boundary and has the VM's vTPM. Its
//! [`hcl`] report binds the vTPM's attestation key to a report of the hardware; the guest itself only gets a quote of
//! that vTPM. So two things are verified: the quote by the key, and the key by the hardware.

pub(crate) mod abi;
pub(crate) mod claims;
pub(crate) mod hcl;
pub(crate) mod verify;
