//! A broker whose storage key a TPM seals, as its operator has it: init, run, a changed register, the recovery key.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use strongroom_testkit::swtpm::Swtpm;
use support::{Place, printed};

#[test]
fn operator_gets_the_broker_back_after_a_change_of_firmware() {
    let Some(tpm) = Swtpm::start() else { return };
    let place = Place::new();
    let device = tpm.address();
    let init = ["broker", "init", "broker", "--tpm", &device];
    let said = place.refused(&init);
    assert!(
        said.contains("--recovery-key FILE") && said.contains("--no-recovery-key"),
        "{said}"
    );
    let wrong = [&init[..], &["--no-recovery-key", "--pcrs", "24"]].concat();
    assert!(place.refused(&wrong).contains("numbers from 0 to 23"));

    let said = printed(&place.ok(&[&init[..], &["--recovery-key", "recovery.key"]].concat()));
    for part in [
        "while PCR 7 stays",
        "Nothing was measured into PCR 7",
        "move it off this machine",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = printed(&place.ok(&["broker", "check-config"]));
    assert!(said.contains(&device), "{said}");

    tpm.tool(
        "tpm2_pcrextend",
        &[&format!("7:sha256={}", "11".repeat(32))],
    );
    let run = ["broker", "run", "broker", "--listen", "127.0.0.1:0"];
    let finished = place.run(&run);
    assert_eq!(finished.status.code(), Some(1));
    let said = printed(&finished);
    assert!(
        said.contains("PCR 7 is ") && said.contains("broker seal-key --from"),
        "{said}"
    );
    let said = place.refused(&["broker", "recovery-key", "another.key"]);
    assert!(said.contains("PCR 7 is "), "{said}");

    let said = printed(&place.ok(&["broker", "seal-key", "--from", "recovery.key"]));
    assert!(said.contains("strongroom broker run broker"), "{said}");
    let running = place.program(&run).start().unwrap();
    running.wait_for_line("The broker is ready").unwrap();
    drop(running);
    place.ok(&["broker", "recovery-key", "another.key"]);
    let [first, second] =
        ["recovery.key", "another.key"].map(|name| fs::read(place.join(name)).unwrap());
    assert_eq!(first, second);
    let said = place.refused(&["broker", "recovery-key", "another.key"]);
    assert!(said.contains("another.key"), "{said}");
}
