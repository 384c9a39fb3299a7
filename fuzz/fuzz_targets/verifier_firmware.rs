//! OVMF images, as an owner gives them to be measured.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_verifier::measure::{DirectBoot, Firmware, SNP_ACTIVE, SnpLaunch, VcpuSignature};

fuzz_target!(|input: &[u8]| {
    // Whole pages, and what lies at the end of an image at the end of this one.
    let mut image = vec![0; input.len().next_multiple_of(4096).max(4096) - input.len()];
    image.extend_from_slice(input);
    let Ok(firmware) = Firmware::parse(&image) else {
        return;
    };
    let vcpu = VcpuSignature::new(25, 1, 1).expect("a Milan has these numbers");
    for kernel in [None, DirectBoot::new([1; 32], None, "").ok()] {
        let launch = SnpLaunch {
            firmware: &firmware,
            direct_boot: kernel,
            vcpus: 2,
            vcpu,
            guest_features: SNP_ACTIVE,
        };
        launch.measurement().ok();
    }
});
