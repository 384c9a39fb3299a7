//! The policy for Kata's agent that comes with a launch; nothing may be allowed that it does not name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_guest::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::agent_policy(bytes));
