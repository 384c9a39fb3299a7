//! An independent Merkle tree for the tests: the recursive definitions of RFC 9162 as they stand there, and the known
//! answers of Certificate Transparency.

#![allow(clippy::unwrap_used)]

use aws_lc_rs::digest::{SHA256, digest};

use super::{Hash, TileKind, TilePath};

/// Leaf hashes that differ.
pub(crate) fn leaves(count: usize) -> Vec<Hash> {
    (0..count)
        .map(|number| sha256(&[&[0], number.to_string().as_bytes()].concat()))
        .collect()
}

/// 2.1.1: MTH.
pub(crate) fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha256(b""),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            let (left, right) = (root(left), root(right));
            sha256(&[&[1], &left.as_bytes()[..], right.as_bytes()].concat())
        }
    }
}

/// 2.1.3.1: PATH.
pub(crate) fn inclusion(leaves: &[Hash], index: usize) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut path, sibling) = if index < left.len() {
        (inclusion(left, index), right)
    } else {
        (inclusion(right, index - left.len()), left)
    };
    path.push(root(sibling));
    path
}

/// 2.1.4.1: PROOF.
pub(crate) fn consistency(leaves: &[Hash], older: usize) -> Vec<Hash> {
    subproof(leaves, older, true)
}

fn subproof(leaves: &[Hash], older: usize, known: bool) -> Vec<Hash> {
    if older == leaves.len() {
        return if known { vec![] } else { vec![root(leaves)] };
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut path, sibling) = if older <= left.len() {
        (subproof(left, older, known), right)
    } else {
        (subproof(right, older - left.len(), false), left)
    };
    path.push(root(sibling));
    path
}

fn split(count: usize) -> usize {
    let mut power = 1;
    while power * 2 < count {
        power *= 2;
    }
    power
}

/// tlog-tiles, "Merkle Tree": the hashes of a tile, each from the leaves below it.
pub(crate) fn tile(leaves: &[Hash], path: &TilePath) -> Vec<Hash> {
    let TileKind::Hashes { level } = path.kind() else {
        panic!("{path} holds no hashes");
    };
    let below = 256_usize.pow(u32::from(level));
    (0..usize::from(path.width()))
        .map(|i| {
            let first = (path.index() as usize * 256 + i) * below;
            root(&leaves[first..first + below])
        })
        .collect()
}

fn sha256(bytes: &[u8]) -> Hash {
    Hash::from_bytes(digest(&SHA256, bytes).as_ref().try_into().unwrap())
}

pub(crate) fn in_hex(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(|h| hex::encode(h.as_bytes())).collect()
}

/// The eight entries that the tests of Certificate Transparency's implementations share.
pub(crate) fn ct_entries() -> Vec<Vec<u8>> {
    [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
    .map(|entry| hex::decode(entry).unwrap())
    .to_vec()
}

pub(crate) const CT_EMPTY_ROOT: &str =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The roots of the trees over the first one to eight of them.
pub(crate) const CT_ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

/// Index, size, path.
pub(crate) const CT_INCLUSION: [(u64, u64, &[&str]); 5] = [
    (0, 1, &[]),
    (
        0,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        &[
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        3,
        &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    ),
    (
        1,
        5,
        &[
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
];

/// Older size, newer size, path.
pub(crate) const CT_CONSISTENCY: [(u64, u64, &[&str]); 4] = [
    (1, 1, &[]),
    (
        1,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        &[
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        &[
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
];
