//! `scratch`: an encrypted disk for what does not fit into memory.

use std::path::PathBuf;
use std::str::FromStr;

use crate::Source;
use crate::scratch::{
    DEFAULT_FILESYSTEM, Existing, Scratch, ScratchKey, ScratchName, close, make_file,
};
use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;

use strongroom_wire::resource::ResourceUri;

use super::cleanup;
use super::outcome::Outcome;
use super::{GuestArgs, Program, block_on, files};

/// Encrypt a disk that the host lends, as space for what does not fit into memory.
///
/// LUKS2 by cryptsetup, with the header apart from the disk, in memory, where the host cannot change it. Needs root,
/// dm-crypt and cryptsetup, and says which of them is missing.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Encrypt DEVICE, open it as /dev/mapper/NAME, and mount it if asked
    Open(Box<OpenArgs>),
    /// Unmount it, close it and forget its header
    Close(CloseArgs),
}

#[derive(clap::Args)]
struct OpenArgs {
    /// A block device, or a file to use as one. What lies on it is lost.
    device: PathBuf,

    /// The name of the plaintext device.
    #[arg(long, default_value = "scratch")]
    name: ScratchName,

    /// Make DEVICE, as a file of this many bytes; K, M, G and T are understood.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,

    /// The key: one of the broker's (kbs:///repository/type/tag, 32 random bytes or more) when the data are to be opened
    /// again [default: a fresh one that is gone with the machine].
    #[arg(long, value_name = "URI")]
    key: Option<Key>,

    /// The header's file. One that exists is opened, and DEVICE is not made anew; keep it where the host cannot change
    /// it, at the broker for instance [default: /run/strongroom/scratch/NAME.header].
    #[arg(long, value_name = "FILE")]
    header: Option<PathBuf>,

    /// Find changes of the disk by HMAC-SHA-256, at the price of space and speed. An older state of the whole disk is
    /// not found.
    #[arg(long)]
    integrity: bool,

    /// Make a file system [default with --mount and a new header: ext4].
    #[arg(long, value_name = "TYPE", value_parser = parse_filesystem)]
    mkfs: Option<String>,

    /// Mount it there.
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,

    /// DEVICE may hold data: they are lost.
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    guest: GuestArgs,
}

/// A file, or `kbs:///repository/type/tag`.
#[derive(Clone, Debug)]
enum Key {
    File(PathBuf),
    Resource(ResourceUri),
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.starts_with("kbs:") || text.starts_with("kbs+") {
            false => Ok(Self::File(PathBuf::from(text))),
            true => text
                .parse()
                .map(Self::Resource)
                .map_err(|error| format!("{error}")),
        }
    }
}

#[derive(clap::Args)]
struct CloseArgs {
    /// The name of the plaintext device.
    #[arg(default_value = "scratch")]
    name: ScratchName,
}

impl Args {
    /// Opens or closes it.
    ///
    /// # Errors
    /// What is missing here, or in the way.
    pub fn run(&self, program: Program) -> anyhow::Result<Outcome> {
        open_or_close(self, program)
    }
}

fn open_or_close(args: &Args, program: Program) -> anyhow::Result<Outcome> {
    match &args.action {
        Action::Open(args) => open(args, program),
        Action::Close(args) => {
            // One that was named at `open` is its owner's.
            close(&args.name, Some(&args.name.default_header()))?;
            let mapped = args.name.mapped();
            Ok(Outcome::new(
                format!("Closed {}.", mapped.display()),
                json!({ "closed": mapped }),
            ))
        }
    }
}

fn open(args: &OpenArgs, program: Program) -> anyhow::Result<Outcome> {
    let header = args.header.clone();
    let header = header.unwrap_or_else(|| args.name.default_header());
    let is_new = !header.exists();
    let scratch = Scratch {
        device: args.device.clone(),
        name: args.name.clone(),
        header,
        integrity: args.integrity,
        existing: match args.overwrite {
            true => Existing::Overwrite,
            false => Existing::Refuse,
        },
        filesystem: match (&args.mkfs, &args.mount) {
            (None, Some(_)) if is_new => Some(DEFAULT_FILESYSTEM.to_owned()),
            (mkfs, _) => mkfs.clone(),
        },
        mount: args.mount.clone(),
    };
    scratch.check_needs()?;
    let key = match &args.key {
        None => ScratchKey::ephemeral()?,
        Some(Key::File(path)) => ScratchKey::held_elsewhere(files::read_limited(path, MAX_KEY)?)
            .with_context(|| format!("the key {}", path.display()))?,
        Some(Key::Resource(uri)) => {
            let key = block_on(Source::Rest(args.guest.api()?).resource(uri))??;
            ScratchKey::held_elsewhere(key).with_context(|| format!("the key {uri}"))?
        }
    };
    // What is begun from here on is finished or undone, whatever the signal: it takes moments.
    cleanup::take_over();
    if let Some(bytes) = args.size {
        make_file(&args.device, bytes)?;
    }
    let mapped = scratch.open(&key).inspect_err(|_| {
        if args.size.is_some() {
            std::fs::remove_file(&args.device).ok();
        }
    })?;
    let place = args.mount.as_ref().unwrap_or(&mapped);
    Ok(Outcome::new(
        format!("Whatever is written to {} lies encrypted on {}.", place.display(), args.device.display()),
        json!({ "device": args.device, "mapped": mapped, "header": scratch.header, "mount": args.mount }),
    )
    .next(format!("{} scratch close {}", program.command(), args.name)))
}

fn parse_size(text: &str) -> Result<u64, String> {
    parse_bytes(text)
        .filter(|size| *size >= 32 << 20)
        .ok_or_else(|| "write a size such as 500M or 20G, of at least 32M".to_owned())
}

/// A number of bytes, with or without a unit.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let shift = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    let number = digits.parse::<u64>().ok()?;
    let size = number.checked_mul(1 << shift)?;
    Some(size).filter(|size| *size <= 1 << 50)
}

fn parse_filesystem(name: &str) -> Result<String, String> {
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let name = plain.then(|| name.to_owned());
    name.ok_or_else(|| "write the name of a file system such as ext4 or xfs".to_owned())
}

const MAX_KEY: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_that_is_none_is_taken() {
        for bad in [
            "",
            "G",
            "1",
            "31M",
            "1GB",
            "-1G",
            "1.5G",
            "99999999999T",
            "2000T",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_size("20G"), Ok(20 << 30));
        assert_eq!(parse_size("33554432"), Ok(32 << 20));
    }

    #[test]
    fn program_of_another_kind_is_run_for_a_file_system() {
        for bad in ["", "../sh", "ext4 -x", "a.b"] {
            assert!(parse_filesystem(bad).is_err(), "{bad}");
        }
        assert!(parse_filesystem("ext4").is_ok());
    }
}
