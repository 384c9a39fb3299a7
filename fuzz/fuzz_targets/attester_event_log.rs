//! The firmware's event log as an attester cuts it from its area, and what a killed process left of the agent's log.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_attester::fuzzing::event_log;

fuzz_target!(|bytes: &[u8]| event_log(bytes));
