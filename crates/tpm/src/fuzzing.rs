//! One entry point per decoder of what a TPM answers, for fuzz targets. None may panic, whatever the bytes.

use std::collections::VecDeque;

use crate::attestation::parse_quote;
use crate::commands::Tpm;
use crate::pcr::{HashAlgorithm, PcrPolicy, PcrSet, parse_pcr_read};
use crate::public::Public;
use crate::sealing::Sealed;
use crate::transport::Transport;

/// A TPM whose answers are the data: cut where each answer's own length says, or at 64 bytes.
///
/// # Panics
/// When a secret came out that no TPM sealed.
pub fn answers(data: &[u8]) {
    let mut answers = VecDeque::new();
    let mut rest = data;
    while !rest.is_empty() && answers.len() < MOST_ANSWERS {
        let length = match rest {
            [_, _, _, _, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
            _ => rest.len(),
        };
        let (answer, left) = rest.split_at_checked(length.max(10)).unwrap_or((rest, &[]));
        answers.push_back(answer.to_vec());
        rest = left;
    }
    let tpm = || Tpm {
        transport: Transport::Recorded(answers.clone()),
    };
    drop(tpm().random(16));
    drop(tpm().handles(0x8100_0000));
    drop(tpm().has_bank(HashAlgorithm::Sha256));
    drop(tpm().read_pcrs(HashAlgorithm::Sha256, PcrSet::ALL));
    drop(tpm().read_nv(0x01C0_0002));
    if let Ok(key) = tpm().read_public(0x8101_0002) {
        drop(key.public().spki());
        drop(tpm().quote(&key, HashAlgorithm::Sha256, PcrSet::ALL, b"nonce"));
        drop(tpm().activate_credential(&key, &key, &[], &[]));
    }
    drop(tpm().seal(b"secret", None));
    let parent = tpm().read_public(0x8100_0001);
    let sealed = Sealed {
        public: SEALED.to_vec(),
        private: vec![0; 64],
        parent: parent
            .map(|root| root.public().as_bytes().to_vec())
            .unwrap_or_default(),
        policy: PcrPolicy::new([(7, [0; 32])].into()),
    };
    // Whoever has not the storage root key's private half cannot make an answer that is believed.
    assert!(
        tpm().unseal(&sealed).is_err(),
        "an answer without its code was believed"
    );
}

/// The structures inside answers.
pub fn structures(data: &[u8]) {
    drop(parse_quote(data));
    drop(parse_pcr_read(data, HashAlgorithm::Sha256));
    if let Ok(public) = Public::parse(data) {
        drop(public.spki());
        assert_eq!(public.as_bytes(), data, "bytes were lost");
    }
}

const MOST_ANSWERS: usize = 64;
/// The public area of sealed data.
const SEALED: [u8; 14] = [0, 8, 0, 0x0b, 0, 0, 0x04, 0x12, 0, 0, 0, 0x10, 0, 0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_and_no_repetition_of_one_panics() {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            for length in (0..64).chain([256, 4096, 5000]) {
                answers(&vec![byte; length]);
                structures(&vec![byte; length]);
            }
        }
    }
}
