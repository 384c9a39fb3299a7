//! `strongroom encrypt`: for the holder of a key, or for a recipient.

use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use serde_json::json;
use strongroom_cipherfile::{openssl_enc, sealed, tink_stream};

use crate::files::{self, Existing, Output};
use crate::input::bound_name;
use crate::keys::{GuestArgs, KeySource};
use crate::outcome::{self, Outcome, quoted};
use crate::progress;
use crate::storage::{self, StorageArgs};

/// Encrypt a file.
///
/// The form is Tink's AES256-GCM-HKDF streaming AEAD with 32 raw key bytes, readable by any Tink. The file is bound
/// to a name: a file that is swapped, cut, reordered or renamed does not open. Give the same --name to open it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file to encrypt: a path or a storage's URL, - for standard input.
    input: PathBuf,

    /// Where to write [default: INPUT.enc]: a path or a storage's URL, - for standard output.
    #[arg(short, long, value_name = "FILE|URL")]
    output: Option<PathBuf>,

    /// The key: a file with 32 raw bytes, or kbs:///repository/type/tag.
    #[arg(long, value_name = "FILE|URI", required_unless_present = "to")]
    key: Option<KeySource>,

    /// Encrypt to a recipient instead: the file with the public key (JWK), or its kbs:/// URI.
    #[arg(long, value_name = "FILE|URI", conflicts_with = "key")]
    to: Option<KeySource>,

    /// What the file is [default: its name].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Write another form, for readers that know no better. These are not protected against changes.
    #[arg(long, value_enum, value_name = "FORM", conflicts_with = "to")]
    format: Option<WeakFormat>,

    /// Replace an existing file.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    guest: GuestArgs,

    #[command(flatten)]
    storage: StorageArgs,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum WeakFormat {
    /// `openssl enc -aes-256-cfb -pbkdf2 -kfile`
    OpensslAes256Cfb,
    /// `openssl enc -aes-256-cbc -pbkdf2 -kfile`
    OpensslAes256Cbc,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let stdin = args.input == Path::new("-");
    let target = match &args.output {
        Some(target) => target.clone(),
        None if stdin => PathBuf::from("-"),
        None => PathBuf::from(format!("{}.enc", args.input.display())),
    };
    let name = match &args.name {
        Some(name) => name.clone(),
        None if stdin => bound_name(&target)?,
        None => files::base_name(&args.input)?,
    };
    storage::check(&target)?;
    let opened = args.storage.open(&args.input, &args.guest)?;
    let bar = progress::bytes(opened.length)?;
    let mut source = BufReader::with_capacity(1 << 16, opened.reader);
    let mut source = bar.wrap_read(&mut source);
    let existing = Existing::from_force(args.force);
    let output = args.storage.create(&target, existing, 0o644, &args.guest)?;
    let mut warnings = Vec::new();
    let bytes = match (&args.key, &args.to, args.format) {
        (_, Some(recipient), _) => {
            let recipient = args.guest.recipient(recipient)?;
            finish(
                &mut source,
                sealed::Sealer::new(output, &recipient, name.as_bytes())?,
                sealed::Sealer::finish,
            )?
        }
        (Some(key), None, None) => {
            let key = args.guest.file_key(key)?;
            finish(
                &mut source,
                tink_stream::Encryptor::new(output, &key, name.as_bytes())?,
                tink_stream::Encryptor::finish,
            )?
        }
        (Some(key), None, Some(format)) => {
            let cipher = match format {
                WeakFormat::OpensslAes256Cfb => openssl_enc::Cipher::Aes256Cfb,
                WeakFormat::OpensslAes256Cbc => openssl_enc::Cipher::Aes256Cbc,
            };
            let (passphrase, cut) =
                openssl_enc::Passphrase::from_key_file(&args.guest.bytes(key)?)?;
            warnings.extend(cut.iter().map(|warning| format!("{key}: {warning}")));
            let writer = openssl_enc::UnauthenticatedEncryptor::new(output, &passphrase, cipher)?;
            warnings.push(
                "files of `openssl enc` are not protected against changes and bound to no name"
                    .to_owned(),
            );
            finish(
                &mut source,
                writer,
                openssl_enc::UnauthenticatedEncryptor::finish,
            )?
        }
        (None, None, _) => bail!(
            "say what to encrypt with: --key FILE, --key kbs:///repository/type/tag, or --to RECIPIENT"
        ),
    };
    bar.finish_and_clear();
    for warning in &warnings {
        outcome::warn(warning);
    }
    if target == Path::new("-") {
        return Ok(Outcome::silent());
    }
    let bound = bound_name(&target)?;
    let text = format!(
        "Encrypted {bytes} bytes to {} as {name:?}.",
        target.display()
    );
    let document = json!({ "output": target, "name": name, "bytes": bytes, "warnings": warnings });
    let target = quoted(&target.display().to_string());
    let mut next = format!("strongroom decrypt {target} --output FILE ");
    next.push_str(match (&args.to, args.format) {
        (Some(_), _) => "--identity PRIVATE.pem",
        (None, None) => "--key KEY",
        (None, Some(WeakFormat::OpensslAes256Cbc)) => "--key KEY --openssl-cipher cbc",
        (None, Some(WeakFormat::OpensslAes256Cfb)) => "--key KEY --openssl-cipher cfb",
    });
    if args.format.is_none() && name != bound {
        next.push_str(&format!(" --name {}", quoted(&name)));
    }
    Ok(Outcome::new(text, document).next(next))
}

/// Copies everything through the encryptor and names the file only when its end is sealed.
fn finish<W: Write>(
    source: &mut impl Read,
    mut writer: W,
    end: impl FnOnce(W) -> io::Result<Output>,
) -> anyhow::Result<u64> {
    let bytes = io::copy(source, &mut writer).context("cannot encrypt")?;
    end(writer)
        .context("cannot write the encrypted file")?
        .commit()?;
    Ok(bytes)
}
