//! Checkpoints (C2SP tlog-checkpoint): the size and root of a log's tree, as a note that the log signs.

use std::fmt;

use super::note::{NoteError, SignerKey, UnverifiedNote, VerifierKey, sign_note};
use super::proof::{ConsistencyProof, InclusionProof, ProofError};
use super::tree::{Hash, MAX_TREE_SIZE};
use crate::b64;

/// A log's tree at one size. `Display` is the text that is signed.
///
/// It proves something only when [`Self::open`] made it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Hash,
    extensions: Vec<String>,
}

impl Checkpoint {
    /// States the size and root of a log's tree.
    ///
    /// # Errors
    /// [`CheckpointError::Origin`] when the origin cannot be a line of a note, [`CheckpointError::Size`] when no tree
    /// is so large.
    pub fn new(origin: &str, size: u64, root: Hash) -> Result<Self, CheckpointError> {
        if origin.is_empty() || origin.bytes().any(|byte| byte < b' ') {
            return Err(CheckpointError::Origin);
        }
        if size > MAX_TREE_SIZE {
            return Err(CheckpointError::Size);
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
            extensions: Vec::new(),
        })
    }

    /// Adds a line of this log's own, which other readers pass over.
    ///
    /// # Errors
    /// [`CheckpointError::Extension`] when it is empty or no single line.
    pub fn with_extension(mut self, line: &str) -> Result<Self, CheckpointError> {
        if line.is_empty() || line.bytes().any(|byte| byte < b' ') {
            return Err(CheckpointError::Extension);
        }
        self.extensions.push(line.to_owned());
        Ok(self)
    }

    /// Parses the text of a checkpoint, without any signature: what it says, not that it is so.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the line that is wrong.
    pub fn parse_unverified(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text
            .strip_suffix('\n')
            .ok_or(CheckpointError::Lines)?
            .split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(CheckpointError::Lines);
        };
        let number: u64 = size.parse().map_err(|_| CheckpointError::Size)?;
        // A sign or a leading zero would be another text for the same number.
        if number.to_string() != size {
            return Err(CheckpointError::Size);
        }
        let root = b64::std_decode(root)
            .ok()
            .and_then(|root| root.try_into().ok())
            .ok_or(CheckpointError::Root)?;
        let extensions: Vec<_> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(CheckpointError::Extension);
        }
        Ok(Self {
            extensions,
            ..Self::new(origin, number, Hash::from_bytes(root))?
        })
    }

    /// Parses a signed checkpoint and verifies it by the keys of the log.
    ///
    /// The origin must be the name of a key that signed it: a key may be trusted for one log and not for all.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn open(note: &[u8], keys: &[VerifierKey]) -> Result<Self, CheckpointError> {
        let note = UnverifiedNote::parse(note)?.verify(keys)?;
        let checkpoint = Self::parse_unverified(note.text())?;
        if note
            .signers()
            .iter()
            .any(|key| key.name() == checkpoint.origin)
        {
            Ok(checkpoint)
        } else {
            Err(CheckpointError::OtherLog {
                expected: note
                    .signers()
                    .first()
                    .map_or_else(String::new, |key| key.name().to_owned()),
                actual: checkpoint.origin,
            })
        }
    }

    /// Signs the checkpoint.
    ///
    /// The caller owes that the tree continues every tree that it signed before.
    ///
    /// # Errors
    /// [`CheckpointError::OtherLog`] when no signer has the origin as its name, so that nobody could open it;
    /// [`CheckpointError::Note`] as for [`sign_note`].
    pub fn sign(&self, signers: &[&SignerKey]) -> Result<String, CheckpointError> {
        if let Some(first) = signers.first()
            && signers
                .iter()
                .all(|signer| signer.verifier().name() != self.origin)
        {
            return Err(CheckpointError::OtherLog {
                expected: first.verifier().name().to_owned(),
                actual: self.origin.clone(),
            });
        }
        Ok(sign_note(&self.to_string(), signers)?)
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// How many entries the log has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree over them.
    pub fn root(&self) -> &Hash {
        &self.root
    }

    /// The log's own lines. What they say is for the log's software to know.
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }

    /// Verifies that this checkpoint continues an older one of the same log: nothing that was in it was changed,
    /// moved or taken out. [`super::prove_consistency`] makes the proof.
    ///
    /// # Errors
    /// [`CheckpointError::OtherLog`], or [`CheckpointError::Proof`] when the log shrank or its past was rewritten.
    pub fn extends(&self, older: &Self, proof: &ConsistencyProof) -> Result<(), CheckpointError> {
        if self.origin != older.origin {
            return Err(CheckpointError::OtherLog {
                expected: older.origin.clone(),
                actual: self.origin.clone(),
            });
        }
        proof.verify((older.size, &older.root), (self.size, &self.root))?;
        Ok(())
    }

    /// Verifies that a leaf is entry number `index`, from 0. [`super::prove_inclusion`] makes the proof.
    ///
    /// # Errors
    /// [`CheckpointError::Proof`].
    pub fn includes(
        &self,
        index: u64,
        leaf: &Hash,
        proof: &InclusionProof,
    ) -> Result<(), CheckpointError> {
        proof.verify(leaf, index, self.size, &self.root)?;
        Ok(())
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, self.root)?;
        for line in &self.extensions {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// Why something is not a checkpoint, or does not show what it should.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The note around it.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Fewer lines than a checkpoint has.
    #[error("not a checkpoint: it has a line each for origin, size and root")]
    Lines,
    /// The origin is empty or has control characters.
    #[error("the checkpoint's origin is empty, or has a control character")]
    Origin,
    /// The size is not a number as the format writes it, or too large.
    #[error("the checkpoint's size is not a plain number below 2^63")]
    Size,
    /// The root is not the base64 of a hash.
    #[error("the checkpoint's root is not 32 bytes of base64")]
    Root,
    /// There is an empty line.
    #[error("the checkpoint has an empty line")]
    Extension,
    /// The log is another one.
    #[error("the checkpoint is of the log {actual:?}, not of {expected:?}")]
    OtherLog {
        /// The log that it should be of.
        expected: String,
        /// The log that it is of.
        actual: String,
    },
    /// The proof does not hold.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use super::super::proof::{prove_consistency, prove_inclusion};
    use super::super::tree::leaf_hash;
    use super::super::twin;
    use super::*;

    const SUMDB_KEY: &str = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
    // tlog-checkpoint's example is a checkpoint of Go's checksum database whose two names were replaced.
    const EXAMPLE_TEXT: &str =
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
    const EXAMPLE_SIGNATURE: &str = "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=";

    fn signer() -> SignerKey {
        SignerKey::from_seed("broker.example/audit", zeroize::Zeroizing::new([9; 32])).unwrap()
    }

    fn of(leaves: &[Hash]) -> Checkpoint {
        Checkpoint::new(
            "broker.example/audit",
            leaves.len() as u64,
            twin::root(leaves),
        )
        .unwrap()
    }

    #[test]
    fn the_example_of_the_specification() {
        let checkpoint = Checkpoint::parse_unverified(EXAMPLE_TEXT).unwrap();
        assert_eq!(checkpoint.origin(), "example.com/behind-the-sofa");
        assert_eq!(checkpoint.size(), 20_852_163);
        assert_eq!(
            checkpoint.root().to_string(),
            "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
        );
        assert!(checkpoint.extensions().is_empty());
        assert_eq!(checkpoint.to_string(), EXAMPLE_TEXT);
    }

    #[test]
    fn a_real_checkpoint_under_the_key_of_gos_checksum_database() {
        let text = EXAMPLE_TEXT.replace("example.com/behind-the-sofa", "go.sum database tree");
        let note = format!("{text}\n\u{2014} sum.golang.org {EXAMPLE_SIGNATURE}\n");
        let key: VerifierKey = SUMDB_KEY.parse().unwrap();
        let opened = UnverifiedNote::parse(note.as_bytes())
            .unwrap()
            .verify(std::slice::from_ref(&key))
            .unwrap();
        assert_eq!(
            Checkpoint::parse_unverified(opened.text()).unwrap().size(),
            20_852_163
        );
        // Its key's name is not its origin, which the format recommends and `open` insists on.
        assert_eq!(
            Checkpoint::open(note.as_bytes(), &[key]),
            Err(CheckpointError::OtherLog {
                expected: "sum.golang.org".to_owned(),
                actual: "go.sum database tree".to_owned()
            })
        );
    }

    #[test]
    fn a_signed_checkpoint_round_trips_and_another_key_refuses_it() {
        let checkpoint = of(&twin::leaves(5));
        let note = checkpoint.sign(&[&signer()]).unwrap();
        let key = signer().verifier().clone();
        assert_eq!(Checkpoint::open(note.as_bytes(), &[key]), Ok(checkpoint));
        let other = SignerKey::generate("broker.example/audit").unwrap();
        assert!(matches!(
            Checkpoint::open(note.as_bytes(), &[other.verifier().clone()]),
            Err(CheckpointError::Note(NoteError::NoKnownKey { .. }))
        ));
    }

    #[test]
    fn a_key_of_another_log_does_not_sign_for_this_one() {
        let other = SignerKey::generate("other.example/audit").unwrap();
        let checkpoint = of(&twin::leaves(5));
        let refused = CheckpointError::OtherLog {
            expected: "other.example/audit".to_owned(),
            actual: "broker.example/audit".to_owned(),
        };
        assert_eq!(checkpoint.sign(&[&other]), Err(refused.clone()));
        let note = sign_note(&checkpoint.to_string(), &[&other]).unwrap();
        assert_eq!(
            Checkpoint::open(note.as_bytes(), &[other.verifier().clone()]),
            Err(refused)
        );
        // Beside the log's own key it may sign, as a witness does.
        let note = checkpoint.sign(&[&other, &signer()]).unwrap();
        let keys = [other.verifier().clone(), signer().verifier().clone()];
        Checkpoint::open(note.as_bytes(), &keys).unwrap();
    }

    #[test]
    fn texts_that_the_format_writes_otherwise() {
        let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        for (text, expected) in [
            (String::new(), CheckpointError::Lines),
            ("origin\n1\n".to_owned(), CheckpointError::Lines),
            (format!("origin\n1\n{root}"), CheckpointError::Lines),
            (format!("\n1\n{root}\n"), CheckpointError::Origin),
            (format!("o\u{1}\n1\n{root}\n"), CheckpointError::Origin),
            (format!("origin\n01\n{root}\n"), CheckpointError::Size),
            (format!("origin\n+1\n{root}\n"), CheckpointError::Size),
            (format!("origin\n-1\n{root}\n"), CheckpointError::Size),
            (format!("origin\n1 \n{root}\n"), CheckpointError::Size),
            (format!("origin\n0x1\n{root}\n"), CheckpointError::Size),
            (format!("origin\n\n{root}\n"), CheckpointError::Size),
            (
                format!("origin\n9223372036854775808\n{root}\n"),
                CheckpointError::Size,
            ),
            (
                format!("origin\n18446744073709551616\n{root}\n"),
                CheckpointError::Size,
            ),
            ("origin\n1\n\n".to_owned(), CheckpointError::Root),
            ("origin\n1\nAAAA\n".to_owned(), CheckpointError::Root),
            (
                format!("origin\n1\n{}\n", root.trim_end_matches('=')),
                CheckpointError::Root,
            ),
            (format!("origin\n1\n{root}\n\n"), CheckpointError::Extension),
            (
                format!("origin\n1\n{root}\n\nmore\n"),
                CheckpointError::Extension,
            ),
        ] {
            assert_eq!(
                Checkpoint::parse_unverified(&text),
                Err(expected),
                "{text:?}"
            );
        }
        let extended = format!("origin\n0\n{root}\none\ntwo\n");
        let checkpoint = Checkpoint::parse_unverified(&extended).unwrap();
        assert_eq!(checkpoint.extensions(), ["one", "two"]);
        assert_eq!(checkpoint.to_string(), extended);
    }

    #[test]
    fn a_checkpoint_extends_its_past_and_no_other() {
        let leaves = twin::leaves(300);
        let tiles = |path: &_| Ok::<_, Infallible>(twin::tile(&leaves, path));
        let (older, newer) = (of(&leaves[..100]), of(&leaves));
        let proof = prove_consistency(100, 300, tiles).unwrap();
        newer.extends(&older, &proof).unwrap();

        let mut rewritten = leaves[..100].to_vec();
        rewritten[42] = leaf_hash(b"another past");
        assert_eq!(
            newer.extends(&of(&rewritten), &proof),
            Err(ProofError::OtherOlderRoot.into())
        );
        assert_eq!(
            older.extends(&newer, &proof),
            Err(ProofError::Shrank {
                older: 300,
                newer: 100
            }
            .into())
        );
        let mut other = older.clone();
        other.origin = "other.example/audit".to_owned();
        assert!(matches!(
            newer.extends(&other, &proof),
            Err(CheckpointError::OtherLog { .. })
        ));
        // One size, two roots: the log showed two faces.
        let same_size = of(&rewritten);
        let none = ConsistencyProof::from_hashes(vec![]).unwrap();
        assert_eq!(
            same_size.extends(&older, &none),
            Err(ProofError::OtherOlderRoot.into())
        );
        older.extends(&older, &none).unwrap();
    }

    #[test]
    fn a_checkpoint_includes_its_entries_and_no_other() {
        let leaves = twin::leaves(300);
        let tiles = |path: &_| Ok::<_, Infallible>(twin::tile(&leaves, path));
        let checkpoint = of(&leaves);
        let proof = prove_inclusion(7, 300, tiles).unwrap();
        checkpoint.includes(7, &leaves[7], &proof).unwrap();
        assert_eq!(
            checkpoint.includes(7, &leaves[8], &proof),
            Err(ProofError::OtherRoot.into())
        );
        assert_eq!(
            checkpoint.includes(300, &leaves[7], &proof),
            Err(ProofError::NoSuchEntry {
                index: 300,
                size: 300
            }
            .into())
        );
    }
}
