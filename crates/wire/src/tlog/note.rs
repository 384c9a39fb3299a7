//! Signed notes (C2SP signed-note): a text, and lines below it in which keys sign it. Ed25519 (type 0x01) only.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use aws_lc_rs::rand;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

use crate::b64;

/// The longest note that is read. The format asks for at least 16 signatures of up to 5 kB.
pub const MAX_NOTE: usize = 256 * 1024;

/// The most signatures that a note may have.
pub const MAX_SIGNATURES: usize = 64;

/// A note whose signatures have not been checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnverifiedNote {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl UnverifiedNote {
    /// Parses a note.
    ///
    /// # Errors
    /// [`NoteError`] when it is longer than [`MAX_NOTE`], has more than [`MAX_SIGNATURES`] signatures, or is not text
    /// with well-formed signature lines and nothing else behind its last empty line.
    pub fn parse(note: &[u8]) -> Result<Self, NoteError> {
        if note.len() > MAX_NOTE {
            return Err(NoteError::TooLong(note.len()));
        }
        let note = std::str::from_utf8(note).map_err(|_| NoteError::Characters)?;
        if has_control(note) {
            return Err(NoteError::Characters);
        }
        let separator = note.rfind("\n\n").ok_or(NoteError::Unsigned)?;
        let (text, rest) = note.split_at_checked(separator + 1).unwrap_or((note, ""));
        let lines = rest
            .strip_prefix('\n')
            .and_then(|rest| rest.strip_suffix('\n'))
            .ok_or(NoteError::Unsigned)?;
        if lines.split('\n').count() > MAX_SIGNATURES {
            return Err(NoteError::TooManySignatures);
        }
        let signatures = lines
            .split('\n')
            .enumerate()
            .map(|(number, line)| NoteSignature::parse(line).ok_or(NoteError::Line(number + 1)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            text: text.to_owned(),
            signatures,
        })
    }

    /// The signatures, in the note's order.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Verifies the signatures by the keys that are given, and ignores all others, as the format asks.
    ///
    /// # Errors
    /// [`NoteError::NoKnownKey`] when none of the keys signed; [`NoteError::Signature`] when one did that does not
    /// verify; [`NoteError::Repeated`] when one signed twice; [`NoteError::Ambiguous`] when two different keys that
    /// were given have one name and one id.
    pub fn verify(self, keys: &[VerifierKey]) -> Result<VerifiedNote, NoteError> {
        let mut signers: Vec<VerifierKey> = Vec::new();
        for signature in &self.signatures {
            let mut known = keys.iter().filter(|key| signature.names(key));
            let Some(key) = known.next() else {
                continue;
            };
            if known.any(|other| other != key) {
                return Err(NoteError::Ambiguous(key.name.clone()));
            }
            if signers.contains(key) {
                return Err(NoteError::Repeated(key.name.clone()));
            }
            UnparsedPublicKey::new(&ED25519, &key.public)
                .verify(self.text.as_bytes(), &signature.signature)
                .map_err(|_| NoteError::Signature(key.name.clone()))?;
            signers.push(key.clone());
        }
        if signers.is_empty() {
            return Err(NoteError::NoKnownKey {
                signed_by: self.signatures.first().map(ToString::to_string),
            });
        }
        Ok(VerifiedNote {
            text: self.text,
            signers,
        })
    }
}

/// A note that at least one known key signed, and no known key signed wrongly.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifiedNote {
    text: String,
    signers: Vec<VerifierKey>,
}

impl VerifiedNote {
    /// The text that was signed, its last newline included.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The keys that signed it, of those that were given.
    pub fn signers(&self) -> &[VerifierKey] {
        &self.signers
    }
}

/// A signature line: who claims to have signed, and with what result. `Display` is the key's name and id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NoteSignature {
    name: String,
    id: u32,
    signature: Vec<u8>,
}

impl NoteSignature {
    fn parse(line: &str) -> Option<Self> {
        let (name, signature) = line.strip_prefix(LINE_START)?.split_once(' ')?;
        let signature = b64::std_decode(signature).ok()?;
        let (id, signature) = signature.split_first_chunk()?;
        if !is_key_name(name) || signature.is_empty() {
            return None;
        }
        Some(Self {
            name: name.to_owned(),
            id: u32::from_be_bytes(*id),
            signature: signature.to_vec(),
        })
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's id.
    pub fn id(&self) -> u32 {
        self.id
    }

    fn names(&self, key: &VerifierKey) -> bool {
        self.id == key.id && self.name == key.name
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:08x}", self.name, self.id)
    }
}

/// Signs a text.
///
/// # Errors
/// [`NoteError`] when the text cannot be that of a note, two signers are the same key, or there is none.
pub fn sign_note(text: &str, signers: &[&SignerKey]) -> Result<String, NoteError> {
    if !text.ends_with('\n') || has_control(text) {
        return Err(NoteError::Characters);
    }
    if signers.is_empty() {
        return Err(NoteError::Unsigned);
    }
    if signers.len() > MAX_SIGNATURES {
        return Err(NoteError::TooManySignatures);
    }
    let mut note = format!("{text}\n");
    for (number, signer) in signers.iter().enumerate() {
        let VerifierKey { name, id, .. } = &signer.verifier;
        if signers
            .iter()
            .take(number)
            .any(|earlier| earlier.verifier.id == *id && earlier.verifier.name == *name)
        {
            return Err(NoteError::Repeated(name.clone()));
        }
        let signature = signer
            .pair
            .try_sign(text.as_bytes())
            .map_err(|_| NoteError::Crypto)?;
        let line = b64::std_encode([&id.to_be_bytes(), signature.as_ref()].concat());
        note.push_str(&format!("{LINE_START}{name} {line}\n"));
    }
    if note.len() > MAX_NOTE {
        return Err(NoteError::TooLong(note.len()));
    }
    Ok(note)
}

/// A public key that verifies notes. Its text is `<name>+<id>+<base64 of type and key>`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifierKey {
    name: String,
    id: u32,
    public: [u8; 32],
}

impl VerifierKey {
    /// Names an Ed25519 public key.
    ///
    /// # Errors
    /// [`KeyError::Name`] when a note cannot carry the name.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, KeyError> {
        if !is_key_name(name) {
            return Err(KeyError::Name);
        }
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [name.as_bytes(), b"\n", &[TYPE_ED25519], &public] {
            context.update(part);
        }
        let digest = context.finish();
        let id = digest
            .as_ref()
            .first_chunk()
            .map(|id| u32::from_be_bytes(*id))
            .expect("SHA-256 has more than four bytes");
        Ok(Self {
            name: name.to_owned(),
            id,
            public,
        })
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's id: the start of a digest of its name and key. It tells keys of one name apart, and proves nothing.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The Ed25519 public key.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = b64::std_encode([&[TYPE_ED25519], &self.public[..]].concat());
        write!(f, "{}+{:08x}+{key}", self.name, self.id)
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, id, key) = parse_key(text)?;
        let verifier = Self::new(name, *key)?;
        if verifier.id == id {
            Ok(verifier)
        } else {
            Err(KeyError::Id)
        }
    }
}

/// A private key that signs notes. It has no `Display` or `Serialize`, and its `Debug` shows its name and id.
pub struct SignerKey {
    verifier: VerifierKey,
    pair: Ed25519KeyPair,
    seed: Zeroizing<[u8; 32]>,
}

impl SignerKey {
    /// Makes a fresh key.
    ///
    /// # Errors
    /// [`KeyError::Crypto`] when the system has no randomness, [`KeyError::Name`] as for [`VerifierKey::new`].
    pub fn generate(name: &str) -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        rand::fill(seed.as_mut_slice()).map_err(|_| KeyError::Crypto)?;
        Self::from_seed(name, seed)
    }

    /// Takes the key from its Ed25519 seed (RFC 8032, 5.1.5: "private key").
    ///
    /// # Errors
    /// [`KeyError::Name`] as for [`VerifierKey::new`].
    pub fn from_seed(name: &str, seed: Zeroizing<[u8; 32]>) -> Result<Self, KeyError> {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).map_err(|_| KeyError::Crypto)?;
        let public = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| KeyError::Crypto)?;
        Ok(Self {
            verifier: VerifierKey::new(name, public)?,
            pair,
            seed,
        })
    }

    /// Parses `PRIVATE+KEY+<name>+<id>+<base64 of type and seed>`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.strip_prefix(PRIVATE).ok_or(KeyError::NotPrivate)?;
        let (name, id, seed) = parse_key(text)?;
        let signer = Self::from_seed(name, seed)?;
        if signer.verifier.id == id {
            Ok(signer)
        } else {
            Err(KeyError::Id)
        }
    }

    /// Prints the key, private part and all.
    pub fn to_private_text(&self) -> Zeroizing<String> {
        let mut key = Zeroizing::new(vec![TYPE_ED25519]);
        key.reserve_exact(self.seed.len());
        key.extend_from_slice(self.seed.as_slice());
        let key = Zeroizing::new(b64::std_encode(&key));
        let public = format!("{PRIVATE}{}+{:08x}+", self.verifier.name, self.verifier.id);
        let mut text = Zeroizing::new(String::with_capacity(public.len() + key.len()));
        text.push_str(&public);
        text.push_str(&key);
        text
    }

    /// The public key, which verifies what this one signs.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SignerKey({}+{:08x})",
            self.verifier.name, self.verifier.id
        )
    }
}

/// `<name>+<id>+<base64 of type and 32 bytes>`, public or private.
fn parse_key(text: &str) -> Result<(&str, u32, Zeroizing<[u8; 32]>), KeyError> {
    if text.len() > MAX_KEY {
        return Err(KeyError::Form);
    }
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(KeyError::Form);
    };
    if id.len() != 8 || !id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(KeyError::Form);
    }
    let id = u32::from_str_radix(id, 16).map_err(|_| KeyError::Form)?;
    let key = Zeroizing::new(b64::std_decode(key).map_err(|_| KeyError::Form)?);
    match key.split_first() {
        Some((&TYPE_ED25519, key)) => {
            let mut bytes = Zeroizing::new([0; 32]);
            if key.len() != bytes.len() {
                return Err(KeyError::Length(key.len()));
            }
            bytes.copy_from_slice(key);
            Ok((name, id, bytes))
        }
        Some((other, _)) => Err(KeyError::Type(*other)),
        None => Err(KeyError::Form),
    }
}

fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !has_control(name) && !name.chars().any(|c| c.is_whitespace() || c == '+')
}

/// Whether a text has a control character that a note must not have.
fn has_control(text: &str) -> bool {
    text.bytes().any(|byte| byte < b' ' && byte != b'\n')
}

/// Why something is not a note, or not one to believe.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// It is too long.
    #[error("the note has {0} bytes: more than {MAX_NOTE} are not read")]
    TooLong(usize),
    /// It is not text, or text with control characters.
    #[error("the note is not plain UTF-8 text that ends with a newline")]
    Characters,
    /// There is no signature.
    #[error("the note carries no signature, or its end is cut off")]
    Unsigned,
    /// There are too many signatures.
    #[error("the note has more than {MAX_SIGNATURES} signatures")]
    TooManySignatures,
    /// A line that is no signature stands among the signatures.
    #[error("line {0} of the note's signatures is not a signature")]
    Line(usize),
    /// None of the keys signed.
    #[error("no known key signed the note{}: give the verifier key of the log", by(.signed_by.as_deref()))]
    NoKnownKey {
        /// The name and id of the first key that did.
        signed_by: Option<String>,
    },
    /// A known key's signature does not verify.
    #[error(
        "the signature of {0} is not of this text: it was altered, or another key has this name and id"
    )]
    Signature(String),
    /// A known key has two signature lines.
    #[error("{0} signed the note twice")]
    Repeated(String),
    /// Two keys that were given cannot be told apart.
    #[error("two of the known keys have the name {0} and one id: give only one of them")]
    Ambiguous(String),
    /// The provider failed.
    #[error("signing failed")]
    Crypto,
}

fn by(key: Option<&str>) -> String {
    key.map_or_else(String::new, |key| format!(", {key} did"))
}

/// Why a text is not a key.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It has not the form of a key.
    #[error("not a note key: it is <name>+<id in 8 hex digits>+<base64>")]
    Form,
    /// The name cannot stand in a note.
    #[error("a key's name is not empty, and has no space, plus or control character")]
    Name,
    /// A private key was needed.
    #[error("not a private note key: it starts with PRIVATE+KEY+")]
    NotPrivate,
    /// Another algorithm.
    #[error("a note key of type {0:#04x}: only Ed25519 (0x01) is known")]
    Type(u8),
    /// Not 32 bytes.
    #[error("an Ed25519 key of {0} bytes: it is 32")]
    Length(usize),
    /// The id is of another name or key.
    #[error("the key's id does not belong to its name and key: it was mistyped or altered")]
    Id,
    /// The provider failed.
    #[error("the key could not be made")]
    Crypto,
}

const TYPE_ED25519: u8 = 0x01;
const LINE_START: &str = "\u{2014} ";
const PRIVATE: &str = "PRIVATE+KEY+";
const MAX_KEY: usize = 2048;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    // The example of signed-note 1.1.0.
    const EXAMPLE_KEY: &str =
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const EXAMPLE: &str = "This is an example message.\n\n\u{2014} example.com/foo \
        Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    // The example of signed-note 1.0.0, whose key was not published.
    const SALVATORE: &str = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\n\
        ed \u{e8} subito sera.\n\n\u{2014} quasimodo.example/salvatore \
        NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";
    // The keys and note that the tests of Go's checksum database use.
    const PETER_PRIVATE: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const ENOCH: &str = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n";
    const PETER_LINE: &str = "\u{2014} PeterNeumann \
        x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    const ENOCH_LINE: &str = "\u{2014} EnochRoot \
        rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";

    fn key(text: &str) -> VerifierKey {
        text.parse().unwrap()
    }

    fn open(note: &str, keys: &[&str]) -> Result<VerifiedNote, NoteError> {
        let keys: Vec<_> = keys.iter().map(|text| key(text)).collect();
        UnverifiedNote::parse(note.as_bytes())?.verify(&keys)
    }

    fn peters_note() -> String {
        format!("{TEXT}\n{PETER_LINE}")
    }

    #[test]
    fn the_example_of_the_specification() {
        let note = open(EXAMPLE, &[EXAMPLE_KEY]).unwrap();
        assert_eq!(note.text(), "This is an example message.\n");
        assert_eq!(note.signers(), [key(EXAMPLE_KEY)]);
        assert_eq!(key(EXAMPLE_KEY).id(), 0x530d_903a);
    }

    #[test]
    fn a_text_with_an_empty_line_in_it() {
        let note = UnverifiedNote::parse(SALVATORE.as_bytes()).unwrap();
        assert!(note.text.ends_with("di sole:\n\ned \u{e8} subito sera.\n"));
        assert_eq!(note.signatures().len(), 1);
        assert_eq!(note.signatures()[0].name(), "quasimodo.example/salvatore");
        assert_eq!(note.signatures()[0].id(), 0x367b_a04b);
        assert_eq!(
            note.verify(&[key(EXAMPLE_KEY)]),
            Err(NoteError::NoKnownKey {
                signed_by: Some("quasimodo.example/salvatore+367ba04b".to_owned())
            })
        );
    }

    #[test]
    fn signs_what_go_signs() {
        let signer = SignerKey::parse(PETER_PRIVATE).unwrap();
        assert_eq!(sign_note(TEXT, &[&signer]).unwrap(), peters_note());
        assert_eq!(signer.verifier().to_string(), PETER);
        assert_eq!(signer.to_private_text().as_str(), PETER_PRIVATE);
        assert_eq!(format!("{signer:?}"), "SignerKey(PeterNeumann+c74f20a3)");
    }

    #[test]
    fn the_key_of_a_seed_of_zeros() {
        let signer = SignerKey::from_seed("EnochRoot", Zeroizing::new([0; 32])).unwrap();
        assert_eq!(signer.verifier().to_string(), ENOCH);
        let peter = SignerKey::parse(PETER_PRIVATE).unwrap();
        assert_eq!(
            sign_note(TEXT, &[&peter, &signer]).unwrap(),
            format!("{TEXT}\n{PETER_LINE}{ENOCH_LINE}")
        );
    }

    #[test]
    fn unknown_signatures_are_ignored_and_known_ones_listed() {
        let both = format!("{TEXT}\n{ENOCH_LINE}{PETER_LINE}");
        assert_eq!(open(&both, &[PETER]).unwrap().signers(), [key(PETER)]);
        assert_eq!(
            open(&both, &[PETER, ENOCH]).unwrap().signers(),
            [key(ENOCH), key(PETER)]
        );
        assert_eq!(
            open(&both, &[EXAMPLE_KEY]),
            Err(NoteError::NoKnownKey {
                signed_by: Some("EnochRoot+af0cfe78".to_owned())
            })
        );
        assert!(open(&both, &[]).is_err());
        // A witness may sign again: what is unknown is ignored, twice as well.
        let twice = format!("{TEXT}\n{ENOCH_LINE}{ENOCH_LINE}{PETER_LINE}");
        open(&twice, &[PETER]).unwrap();
    }

    #[test]
    fn an_unknown_type_of_signature_is_ignored() {
        let cosigned = format!(
            "{TEXT}\n\u{2014} witness {}\n{PETER_LINE}",
            b64::std_encode([7; 5000])
        );
        open(&cosigned, &[PETER]).unwrap();
    }

    #[test]
    fn a_known_key_that_signed_twice() {
        let note = format!("{TEXT}\n{PETER_LINE}{PETER_LINE}");
        assert_eq!(
            open(&note, &[PETER]),
            Err(NoteError::Repeated("PeterNeumann".to_owned()))
        );
    }

    #[test]
    fn one_key_given_twice_is_one_key() {
        open(&peters_note(), &[PETER, PETER]).unwrap();
    }

    #[test]
    fn two_keys_with_one_name_and_one_id() {
        let mut other = key(PETER);
        other.public[0] ^= 1;
        let note = UnverifiedNote::parse(peters_note().as_bytes()).unwrap();
        assert_eq!(
            note.verify(&[key(PETER), other]),
            Err(NoteError::Ambiguous("PeterNeumann".to_owned()))
        );
    }

    #[test]
    fn a_wrong_signature_beside_a_right_one() {
        let wrong = ENOCH_LINE.replace("RvMc", "RvMd");
        let note = format!("{TEXT}\n{PETER_LINE}{wrong}");
        assert_eq!(
            open(&note, &[PETER, ENOCH]),
            Err(NoteError::Signature("EnochRoot".to_owned()))
        );
        open(&note, &[PETER]).unwrap();
    }

    #[test]
    fn a_signature_that_is_too_short() {
        let note = format!(
            "{TEXT}\n\u{2014} PeterNeumann {}\n",
            b64::std_encode([0xc7, 0x4f, 0x20, 0xa3, 0])
        );
        assert_eq!(
            open(&note, &[PETER]),
            Err(NoteError::Signature("PeterNeumann".to_owned()))
        );
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_note() {
        let note = EXAMPLE.as_bytes();
        for at in 0..note.len() {
            for bit in 0..8 {
                let mut mutant = note.to_vec();
                mutant[at] ^= 1 << bit;
                let opened = UnverifiedNote::parse(&mutant)
                    .and_then(|note| note.verify(&[key(EXAMPLE_KEY)]));
                assert!(opened.is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn notes_that_go_calls_malformed() {
        let line = PETER_LINE;
        for (note, expected) in [
            (TEXT.to_owned(), NoteError::Unsigned),
            (format!("{TEXT}\n"), NoteError::Unsigned),
            (format!("{TEXT}\n{}", line.trim_end()), NoteError::Unsigned),
            (format!("\u{1}{TEXT}\n{line}"), NoteError::Characters),
            (
                format!("{TEXT}\n{}", line.replace("PeterNeumann", "Bad Name")),
                NoteError::Line(1),
            ),
            (
                format!("{TEXT}\n{line}Unexpected line.\n"),
                NoteError::Line(2),
            ),
        ] {
            assert_eq!(open(&note, &[PETER]), Err(expected), "{note}");
        }
        let not_utf8 = [b"\xff", peters_note().as_bytes()].concat();
        assert_eq!(UnverifiedNote::parse(&not_utf8), Err(NoteError::Characters));
    }

    #[test]
    fn lines_that_are_not_signatures() {
        let (name, signature) = ("PeterNeumann", PETER_LINE[17..].trim_end());
        for line in [
            String::new(),
            "\u{2014} ".to_owned(),
            format!("\u{2014} {name}"),
            format!("\u{2014} {name} "),
            format!("\u{2014} {name} {signature} "),
            format!("\u{2014} {name}  {signature}"),
            format!("\u{2014}  {signature}"),
            format!("\u{2014} {name}+ {signature}"),
            format!("\u{2014} {name}\u{a0} {signature}"),
            format!("\u{2014}{name} {signature}"),
            format!("- {name} {signature}"),
            format!(" \u{2014} {name} {signature}"),
            format!("\u{2014} {name} {}", signature.trim_end_matches('=')),
            format!("\u{2014} {name} {}", signature.replace("nAM=", "nAN=")),
            format!("\u{2014} {name} x08gow=="),
            format!("\u{2014} {name} x08g"),
        ] {
            let note = format!("{TEXT}\n{line}\n");
            let error = UnverifiedNote::parse(note.as_bytes()).unwrap_err();
            let expected = if line.is_empty() {
                // An empty line ends the text; then nothing is left that could sign it.
                NoteError::Unsigned
            } else {
                NoteError::Line(1)
            };
            assert_eq!(error, expected, "{line:?}");
        }
    }

    #[test]
    fn as_many_signatures_as_there_may_be_and_one_more() {
        let line = "\u{2014} witness AAAAAAA=\n";
        let note = |count| format!("{TEXT}\n{}{PETER_LINE}", line.repeat(count));
        open(&note(MAX_SIGNATURES - 1), &[PETER]).unwrap();
        assert_eq!(
            open(&note(MAX_SIGNATURES), &[PETER]),
            Err(NoteError::TooManySignatures)
        );
    }

    #[test]
    fn a_note_that_is_too_long() {
        let signer = SignerKey::parse(PETER_PRIVATE).unwrap();
        let text = "x".repeat(MAX_NOTE) + "\n";
        assert!(matches!(
            sign_note(&text, &[&signer]),
            Err(NoteError::TooLong(_))
        ));
        let note = format!("{text}\n{PETER_LINE}");
        assert_eq!(
            UnverifiedNote::parse(note.as_bytes()),
            Err(NoteError::TooLong(note.len()))
        );
    }

    #[test]
    fn texts_and_signers_that_make_no_note() {
        let signer = SignerKey::parse(PETER_PRIVATE).unwrap();
        for text in ["", "no newline", "a\ttab\n", "a\r\n"] {
            assert_eq!(
                sign_note(text, &[&signer]),
                Err(NoteError::Characters),
                "{text:?}"
            );
        }
        assert_eq!(sign_note(TEXT, &[]), Err(NoteError::Unsigned));
        assert_eq!(
            sign_note(TEXT, &[&signer, &signer]),
            Err(NoteError::Repeated("PeterNeumann".to_owned()))
        );
    }

    #[test]
    fn keys_that_were_mangled() {
        for cut in 1..PETER.len() {
            assert!(PETER[..cut].parse::<VerifierKey>().is_err());
            assert!(PETER[cut..].parse::<VerifierKey>().is_err());
        }
        for at in 0..PETER.len() {
            let mut bytes = PETER.as_bytes().to_vec();
            bytes[at] += 1;
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.parse::<VerifierKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn keys_that_are_refused_for_what_they_say() {
        for (text, expected) in [
            ("PeterNeumann", KeyError::Form),
            ("PeterNeumann+c74f20a3", KeyError::Form),
            ("PeterNeumann+c74f20a3+", KeyError::Form),
            // Mixed case would be another text for the same key.
            (
                "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
                KeyError::Form,
            ),
            // The id fits the key in these two, and the key is none that is known.
            (
                "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
                KeyError::Form,
            ),
            (
                "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
                KeyError::Type(0x65),
            ),
            ("PeterNeumann+c74f20a3+AQ==", KeyError::Length(0)),
            (
                "Peter+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
                KeyError::Id,
            ),
            (
                "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
                KeyError::Name,
            ),
            (
                "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
                KeyError::Name,
            ),
        ] {
            assert_eq!(text.parse::<VerifierKey>(), Err(expected), "{text}");
        }
        assert_eq!(
            "x".repeat(MAX_KEY + 1).parse::<VerifierKey>(),
            Err(KeyError::Form)
        );
        assert_eq!(SignerKey::parse(PETER).err(), Some(KeyError::NotPrivate));
        assert_eq!(
            SignerKey::parse(&PETER_PRIVATE.replace("c74f", "c74e")).err(),
            Some(KeyError::Id)
        );
    }

    #[test]
    fn a_fresh_key_signs_and_round_trips() {
        let signer = SignerKey::generate("broker.example/audit").unwrap();
        let read = SignerKey::parse(&signer.to_private_text()).unwrap();
        let note = sign_note(TEXT, &[&read]).unwrap();
        let public = signer.verifier().to_string();
        assert_eq!(open(&note, &[&public]).unwrap().text(), TEXT);
        assert_ne!(
            public,
            SignerKey::generate("broker.example/audit")
                .unwrap()
                .verifier()
                .to_string()
        );
        for name in ["", "a b", "a+b", "a\u{2003}b", "a\nb", "a\u{1}b"] {
            assert_eq!(SignerKey::generate(name).err(), Some(KeyError::Name));
        }
    }
}
