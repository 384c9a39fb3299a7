//! The files of a log that an auditor was given: one bundle as the whole log, and any bytes as all files of one.
#![no_main]

use std::convert::Infallible;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use strongroom_wire::tlog::{
    Checkpoint, Frontier, Hash, LogFault, MAX_TREE_SIZE, SignerKey, TileKind, append_entry,
    leaf_hash, parse_bundle, root_of, tile_from_bytes, tile_to_bytes, verify_log,
};

const ORIGIN: &str = "example.com/log";

static SIGNER: LazyLock<SignerKey> =
    LazyLock::new(|| SignerKey::generate(ORIGIN).expect("randomness"));

fuzz_target!(|bytes: &[u8]| {
    if let Ok(hashes) = tile_from_bytes(bytes) {
        assert_eq!(tile_to_bytes(&hashes), bytes);
    }
    if let Ok(entries) = parse_bundle(bytes) {
        honest(bytes, &entries);
    }
    if let Some((size, files)) = bytes.split_first_chunk() {
        hostile(u64::from_le_bytes(*size) & MAX_TREE_SIZE, files);
    }
});

fn honest(bundle: &[u8], entries: &[&[u8]]) {
    let mut again = Vec::new();
    let mut frontier = Frontier::new();
    let mut leaves = Vec::new();
    for entry in entries {
        append_entry(&mut again, entry).expect("it was in a bundle");
        leaves.push(leaf_hash(entry));
        frontier.push(leaf_hash(entry));
    }
    assert_eq!(again, bundle);
    let mut seen = Vec::new();
    let verified = verify_log(
        &signed(frontier.size(), frontier.root()),
        &[SIGNER.verifier().clone()],
        0,
        |path| {
            Ok::<_, Infallible>(Some(match path.kind() {
                TileKind::Entries => bundle.to_vec(),
                TileKind::Hashes { level: 0 } => tile_to_bytes(&leaves),
                TileKind::Hashes { .. } => tile_to_bytes(&[root_of(&leaves)]),
            }))
        },
        |_, entry| seen.push(entry.to_vec()),
    );
    assert_eq!(verified.expect("the log is whole").entries, frontier.size());
    assert_eq!(seen, entries);
}

fn hostile(size: u64, files: &[u8]) {
    let result = verify_log(
        &signed(size, Hash::from_bytes([7; 32])),
        &[SIGNER.verifier().clone()],
        0,
        |path| {
            let length = files.len().min(path.max_bytes());
            Ok::<_, Infallible>(files.get(..length).map(<[u8]>::to_vec))
        },
        |_, _| panic!("an entry that nobody signed"),
    );
    assert!(!matches!(result, Ok(_) | Err(LogFault::Checkpoint(_))));
}

fn signed(size: u64, root: Hash) -> Vec<u8> {
    Checkpoint::new(ORIGIN, size, root)
        .and_then(|checkpoint| checkpoint.sign(&[&*SIGNER]))
        .expect("a size that a log can have")
        .into_bytes()
}
