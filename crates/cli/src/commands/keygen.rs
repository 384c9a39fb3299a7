//! `strongroom keygen`: a data key, a recipient's key pair, or a key pair that signs sealed secrets.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::json;
use strongroom_cipherfile::FileKey;
use strongroom_wire::jwe::{DecryptionKey, KeyAlgorithm};
use strongroom_wire::sealed_secret::SigningJwk;

use crate::files::{self, Existing, Output};
use crate::outcome::Outcome;

/// Make a key: for data, for a recipient of results, or for signing sealed secrets.
///
/// A data key is 32 random bytes: it encrypts files and is what the broker keeps. A recipient's key pair opens
/// results: the public half goes to the broker, the private half stays with the owner. A signing key pair
/// signs sealed secrets.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file to write. A key pair's public half goes beside it, as FILE.pub.json.
    file: PathBuf,

    /// What the key is for
    #[arg(long, value_enum, default_value_t = Kind::Data)]
    kind: Kind,

    /// The name in a signing key's JWK
    #[arg(long, default_value = "sealed-signing")]
    kid: String,

    /// Replace existing files.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Kind {
    /// 32 random bytes that encrypt files
    Data,
    /// A P-256 key pair that results are encrypted to
    Recipient,
    /// A P-256 key pair that signs sealed secrets (JWK)
    Signing,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let existing = Existing::from_force(args.force);
    let (file, shown) = (&args.file, args.file.display());
    let public = PathBuf::from(format!("{shown}.pub.json"));
    let outcome = match args.kind {
        Kind::Data => {
            files::write(file, existing, 0o600, FileKey::generate()?.expose_bytes())?;
            if file.as_os_str() == "-" {
                return Ok(Outcome::silent());
            }
            return Ok(Outcome::new(
                format!("Wrote a data key to {shown} (32 bytes, readable by you alone)."),
                json!({ "key": file }),
            )
            .next(format!("strongroom encrypt DATA.csv --key {shown}"))
            .next(format!(
                "strongroom resource put default/fraud-dataset/dataset_key {shown}"
            )));
        }
        Kind::Recipient => {
            let key = DecryptionKey::generate(KeyAlgorithm::EcdhP256)?;
            let document = serde_json::to_vec(key.public())?;
            let private = key.to_pkcs8_pem()?;
            write_pair(existing, (file, private.as_bytes()), (&public, &document))?;
            format!(
                "strongroom resource put default/fraud-results/recipient {}",
                public.display()
            )
        }
        Kind::Signing => {
            let key = SigningJwk::generate()?;
            let document = key.public_json(&args.kid);
            let private = key.to_json(&args.kid);
            write_pair(
                existing,
                (file, private.as_bytes()),
                (&public, document.as_bytes()),
            )?;
            format!(
                "strongroom resource put default/signing-key/sealed {}",
                public.display()
            )
        }
    };
    let text = format!(
        "Wrote the private key to {shown} (readable by you alone)\nand the public key to {}.",
        public.display()
    );
    Ok(Outcome::new(text, json!({ "private": file, "public": public })).next(outcome))
}

/// Writes both halves or none: a new half beside an old one opens nothing.
pub(crate) fn write_pair(
    existing: Existing,
    (private, secret): (&Path, &[u8]),
    (public, document): (&Path, &[u8]),
) -> anyhow::Result<()> {
    anyhow::ensure!(
        private != Path::new("-"),
        "a key pair is two files: name the private one"
    );
    let mut private = Output::create(private, existing, 0o600)?;
    let mut public = Output::create(public, existing, 0o644)?;
    private.write_all(secret)?;
    public.write_all(document)?;
    public.commit()?;
    private.commit()
}
