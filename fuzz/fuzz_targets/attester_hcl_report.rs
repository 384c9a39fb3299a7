//! The HCL report that Azure's paravisor keeps in a vTPM, as an attester reads it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_attester::fuzzing::hcl_report;

fuzz_target!(|bytes: &[u8]| hcl_report(bytes));
