//! `broker collateral` as a program: what it brings in, lists and says.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use support::{Place, document, printed};

const CHIP: &str = "abababababababab";
const PIECE: &str = "amd/turin/vcek_abababababababab_bl03_tee00_snp08_ucode115_fmc01.der";

/// A place with a broker that can reach nobody, and a folder with one piece, which is any certificate.
fn place() -> (Place, PathBuf) {
    let place = Place::new();
    place.ok(&["broker", "init"]);
    let config = place.join("broker/broker.toml");
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace("https://kdsintf.amd.com", "http://127.0.0.1:1");
    fs::write(config, text).unwrap();
    let pem = fs::read_to_string(place.join("broker/tls.crt")).unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let piece = place.join("usb").join(PIECE);
    write(&piece, &STANDARD.decode(body).unwrap());
    (place, piece)
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn piece_that_was_brought_in_is_not_listed() {
    let (place, piece) = place();
    let finished = place.ok(&["broker", "collateral", "import", "broker", "usb"]);
    let said = finished.stdout_text();
    assert!(said.contains("1 imported, 0 refused"), "{said}");
    assert!(
        said.contains("strongroom broker collateral list broker"),
        "{said}"
    );
    assert_eq!(
        fs::read(place.join("broker/collateral").join(PIECE)).unwrap(),
        fs::read(&piece).unwrap()
    );
    let said = place.ok(&["broker", "collateral", "list"]).stdout_text();
    assert!(
        said.contains(PIECE) && said.contains("Turin chip abababab"),
        "{said}"
    );
    let finished = place.ok(&["--json", "broker", "collateral", "list", "broker"]);
    let document = document(&finished);
    assert_eq!(document["items"][0]["path"], PIECE);
    assert_eq!(document["items"][0]["usable"], true);
    // By its file, again.
    let file = format!("usb/{PIECE}");
    let said = place
        .ok(&["broker", "collateral", "import", "broker", &file])
        .stdout_text();
    assert!(said.contains("as new here"), "{said}");
}

#[test]
fn what_is_no_collateral_is_brought_in() {
    let (place, _) = place();
    write(&place.join("usb/amd/milan/crl.der"), b"<html>");
    write(&place.join("empty/crl.der"), b"x");
    let finished = place.run(&["broker", "collateral", "import", "broker", "usb"]);
    assert_eq!(finished.status.code(), Some(1));
    let said = finished.stdout_text();
    assert!(
        said.contains("REFUSED") && said.contains("revocation list"),
        "{said}"
    );
    assert!(!place.join("broker/collateral/amd/milan/crl.der").exists());
    let finished = place.run(&["broker", "collateral", "import", "broker", "empty"]);
    assert!(!finished.status.success());
    assert!(printed(&finished).contains("at its place"));
}

#[test]
fn service_that_cannot_be_reached_is_a_success() {
    let (place, _) = place();
    let chip = format!("turin:{CHIP}:1.3.0.8.115");
    let args = [
        "broker",
        "collateral",
        "fetch",
        "--snp-chip",
        &chip,
        "broker",
    ];
    let finished = place.run(&args);
    assert_eq!(finished.status.code(), Some(1));
    let said = finished.stdout_text();
    assert!(said.contains("FAILED") && said.contains("AMD"), "{said}");
    assert!(said.contains("0 fetched, 1 failed"), "{said}");
}

#[test]
fn nothing_named_and_nothing_there_is_a_success() {
    let (place, _) = place();
    let finished = place.run(&["broker", "collateral", "fetch", "broker"]);
    assert!(!finished.status.success());
    assert!(printed(&finished).contains("--evidence"));
}

#[test]
fn folder_that_is_not_there_is_an_empty_one() {
    let (place, _) = place();
    for command in ["list", "fetch"] {
        let finished = place.run(&["broker", "collateral", command, "brokr"]);
        assert_eq!(finished.status.code(), Some(1), "{command}");
        let said = finished.stderr_text();
        assert!(said.contains("there is no folder brokr"), "{said}");
        assert!(!place.join("brokr").exists());
    }
}
