//! Opens what may be encrypted: tells the format by its first bytes, and hands on verified plaintext only.

use std::io::{BufReader, Chain, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use strongroom_cipherfile::tink_stream::Segments;
use strongroom_cipherfile::{Format, openssl_enc, sealed, tink_stream};
use strongroom_scoring::detect as data_set;
use strongroom_scoring::receipt::{KeyFrom, Protection};
use strongroom_scoring::storage::{ReadAt, Reader};

use crate::files;
use crate::keys::{GuestArgs, KeySource, identity};
use crate::outcome::{quoted, shown};
use crate::storage::Source;

/// The cipher of an `openssl enc` file, which the file itself does not name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum OpensslCipher {
    /// AES-256-CFB, the workshop's datasets
    Cfb,
    /// AES-256-CBC, the workshop's models
    Cbc,
}

impl From<OpensslCipher> for openssl_enc::Cipher {
    fn from(cipher: OpensslCipher) -> Self {
        match cipher {
            OpensslCipher::Cfb => Self::Aes256Cfb,
            OpensslCipher::Cbc => Self::Aes256Cbc,
        }
    }
}

/// How an encrypted file is opened.
#[derive(Args, Clone, Default)]
pub(crate) struct OpenArgs {
    /// The key: a file with 32 raw bytes, or kbs:///repository/type/tag to be fetched by a guest that attests.
    #[arg(long, value_name = "FILE|URI")]
    pub(crate) key: Option<KeySource>,

    /// The private key of a recipient, for a file that was encrypted --to its public key.
    #[arg(long, value_name = "PEM", conflicts_with = "key")]
    pub(crate) identity: Option<PathBuf>,

    /// What the file was encrypted as [default: its name without ".enc"].
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Read a file of `openssl enc -pbkdf2 -kfile` with this cipher. Such files are not protected against changes.
    #[arg(long, value_enum, value_name = "CIPHER")]
    pub(crate) openssl_cipher: Option<OpensslCipher>,

    /// Takes the cipher for files of `openssl enc` alone, and other files as what they are.
    #[arg(skip)]
    pub(crate) also_protected_forms: bool,
}

/// An opened input, and what its reader should be warned of.
pub(crate) struct Opened {
    pub(crate) reader: Box<dyn Read + Send>,
    pub(crate) encrypted: bool,
    /// What kept others from changing it unnoticed.
    pub(crate) protection: Protection,
    pub(crate) warnings: Vec<String>,
}

impl OpenArgs {
    /// Where the key came from that opens what is encrypted.
    pub(crate) fn key_from(&self) -> Option<KeyFrom> {
        let identity = self.identity.as_ref().map(|_| KeyFrom::File);
        identity.or_else(|| self.key.as_ref().map(KeySource::origin))
    }

    /// The options that open the same file, for a command that is to be copied.
    pub(crate) fn asked(&self) -> String {
        let key = self.key.as_ref().map(|key| ("--key", key.to_string()));
        let identity = self.identity.as_ref();
        let identity = identity.map(|path| ("--identity", path.display().to_string()));
        let name = self.name.clone().map(|name| ("--name", name));
        let cipher = self.openssl_cipher.map(|cipher| match cipher {
            OpensslCipher::Cfb => ("--openssl-cipher", "cfb".to_owned()),
            OpensslCipher::Cbc => ("--openssl-cipher", "cbc".to_owned()),
        });
        let words: Vec<String> = [key, identity, name, cipher]
            .into_iter()
            .flatten()
            .map(|(option, value)| format!("{option} {}", quoted(&value)))
            .collect();
        words.join(" ")
    }

    /// Opens `path`. A plain file passes through only when nothing asked for decryption.
    pub(crate) fn open(&self, path: &Path, guest: &GuestArgs) -> anyhow::Result<Opened> {
        let source = files::open(path)?;
        self.open_stream(
            source,
            &shown(&path.display().to_string()),
            &bound_name(path)?,
            guest,
        )
    }

    /// The segments of an encrypted source that can be read by position; none of what is another form, or not asked to be
    /// decrypted.
    pub(crate) fn segments(
        &self,
        at: &Arc<dyn ReadAt>,
        label: &str,
        default_name: &str,
        guest: &GuestArgs,
    ) -> anyhow::Result<Option<Segments>> {
        let mut header = [0; Segments::HEADER_LEN];
        if at.size() < header.len() as u64 {
            return Ok(None);
        }
        at.read_at(0, &mut header)
            .with_context(|| format!("cannot read {label}"))?;
        if !self.is_in_segments(&header) {
            return Ok(None);
        }
        let name = self.name.as_deref().unwrap_or(default_name).as_bytes();
        let segments = match (Format::detect(&header), &self.key, &self.identity) {
            (Format::Tink, Some(key), _) => {
                Segments::parse(&header, at.size(), &guest.file_key(key)?, name)
            }
            (Format::Sealed, _, Some(pem)) => {
                let beginning = Reader::new(Arc::clone(at));
                sealed::segments(beginning, at.size(), &identity(pem)?, name)
            }
            _ => return Ok(None),
        };
        let segments = segments.with_context(|| format!("cannot decrypt {label}"))?;
        Ok(Some(segments))
    }

    /// Whether something asks for decryption.
    pub(crate) fn is_asked(&self) -> bool {
        self.key.is_some() || self.identity.is_some()
    }

    /// Whether what begins so is opened segment by segment, each of which only that beginning opens.
    pub(crate) fn is_in_segments(&self, beginning: &[u8]) -> bool {
        match Format::detect(beginning) {
            Format::Tink => self.key.is_some() && self.openssl_cipher.is_none(),
            Format::Sealed => self.key.is_none() && self.identity.is_some(),
            _ => false,
        }
    }

    /// Opens an input that may lie in a storage.
    pub(crate) fn open_source(
        &self,
        source: Source,
        default_name: &str,
        guest: &GuestArgs,
    ) -> anyhow::Result<Opened> {
        self.open_stream(source.reader, &source.label, default_name, guest)
    }

    /// Opens a stream that is called `label` in errors and bound to `default_name`.
    pub(crate) fn open_stream(
        &self,
        mut source: Box<dyn Read + Send>,
        label: &str,
        default_name: &str,
        guest: &GuestArgs,
    ) -> anyhow::Result<Opened> {
        let mut head = Vec::new();
        let length = u64::try_from(Format::DETECT_LEN)?;
        source
            .by_ref()
            .take(length)
            .read_to_end(&mut head)
            .with_context(|| format!("cannot read {label}"))?;
        let format = match Format::detect(&head) {
            // A file of zstd begins with the byte that a Tink stream begins with. Without a key it is what its next three
            // bytes say, too.
            Format::Tink if self.key.is_none() && is_zstd(&head) => Format::Unknown,
            format => format,
        };
        let stream: Chain<Cursor<Vec<u8>>, Box<dyn Read + Send>> = Cursor::new(head).chain(source);
        let name = self.name.as_deref().unwrap_or(default_name).as_bytes();
        let mut warnings = Vec::new();
        let encrypted = self.key.is_some() || self.identity.is_some();
        let reader: Box<dyn Read + Send> = match (format, &self.key, &self.identity) {
            (Format::OpensslSalted, Some(key), _) => {
                let Some(cipher) = self.openssl_cipher else {
                    bail!(
                        "{label} was made by `openssl enc`: say which cipher with --openssl-cipher cfb (datasets) or cbc (models)"
                    );
                };
                let (passphrase, cut) = openssl_enc::Passphrase::from_key_file(&guest.bytes(key)?)?;
                warnings.extend(cut.iter().map(|warning| format!("{key}: {warning}")));
                let reader = openssl_enc::UnauthenticatedDecryptor::new(
                    BufReader::new(stream),
                    &passphrase,
                    cipher.into(),
                )?;
                warnings.push(reader.warning().to_string());
                Box::new(reader)
            }
            (_, Some(_), _) if self.openssl_cipher.is_some() && !self.also_protected_forms => {
                bail!("{label} was not made by `openssl enc`: it does not start with \"Salted__\"")
            }
            (Format::Sealed, None, Some(pem)) => Box::new(
                sealed::Opener::new(stream, &identity(pem)?, name)
                    .with_context(|| format!("cannot decrypt {label}"))?,
            ),
            (Format::Sealed, Some(_), _) => bail!(
                "{label} was encrypted to a recipient: open it with --identity and the private key"
            ),
            (Format::Tink, Some(key), _) => Box::new(
                tink_stream::Decryptor::new(stream, &guest.file_key(key)?, name)
                    .with_context(|| format!("cannot decrypt {label}"))?,
            ),
            (_, None, Some(_)) => {
                bail!("{label} was not encrypted to a recipient: open it with --key")
            }
            (Format::Unknown, Some(_), _) => bail!(
                "{label} is not encrypted in a known form, but a key was given; leave --key out to read it as it is"
            ),
            (Format::Unknown, None, None) => Box::new(stream),
            (_, None, None) => bail!(
                "{label} is encrypted: give its key with --key FILE, --key kbs:///repository/type/tag or --identity PEM"
            ),
            _ => bail!("{label} is in a form that this version does not read"),
        };
        let protection = match (encrypted, format) {
            (false, _) => Protection::None,
            (true, Format::OpensslSalted) => Protection::Unauthenticated,
            (true, _) => Protection::Authenticated,
        };
        Ok(Opened {
            reader,
            encrypted,
            protection,
            warnings,
        })
    }
}

fn is_zstd(head: &[u8]) -> bool {
    data_set::Format::detect(head) == data_set::Format::Zstd
}

/// The name that a file is bound to: its base name, without `.enc`.
pub(crate) fn bound_name(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        return Ok(String::new());
    }
    let name = files::base_name(path)?;
    Ok(name
        .strip_suffix(".enc")
        .map_or_else(|| name.clone(), str::to_owned))
}
