//! What the guest drivers of TDX and SEV-SNP answer, and the certificates that a host keeps beside a report.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_attester::fuzzing::driver_answers;

fuzz_target!(|bytes: &[u8]| driver_answers(bytes));
