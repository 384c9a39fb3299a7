//! Reads the shared reference vectors when the checkout has them beside it.

use std::path::PathBuf;

/// Reads one fixture, or says which test is skipped for want of it.
pub(crate) fn read(path: &str) -> Option<Vec<u8>> {
    let full = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/fixtures"
    ))
    .join(path);
    match std::fs::read(&full) {
        Ok(bytes) => Some(bytes),
        Err(_) => {
            assert!(
                !std::path::Path::new(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/../../../shared/fixtures"
                ))
                .is_dir(),
                "what this test reads is missing from a folder of fixtures that is there"
            );
            println!("SKIPPED: fixture {path} is not beside this checkout");
            None
        }
    }
}

/// Reads one fixture as JSON.
pub(crate) fn json(path: &str) -> Option<serde_json::Value> {
    read(path).map(|b| serde_json::from_slice(&b).expect("a fixture is well-formed JSON"))
}
