//! What `exec`, `unseal-volumes` and `unseal` are told alike: which sealed secrets are accepted, and which
//! volumes are mirrored where.

use std::path::PathBuf;
use std::time::Duration;

use crate::data::unseal::{CounterMode, Signature};
use crate::volumes::{Access, Volume, Volumes};
use crate::{Placement, Source, UnsealOptions, Unsealer};
use anyhow::bail;

use super::GuestArgs;

/// Which sealed secrets are accepted.
#[derive(clap::Args)]
pub struct UnsealArgs {
    /// The folder with the signing keys that sealed secrets name without a URI; upstream's is
    /// /run/confidential-containers/cdh/sealed-secret. Whoever can write to it can sign.
    #[arg(long, value_name = "DIR")]
    signing_keys: Option<PathBuf>,

    /// Accept sealed secrets without checking their signature, the unsigned form of old tools among them: whoever can
    /// change the text chooses which of the broker's resources takes its place.
    #[arg(long)]
    insecure_skip_signature: bool,

    /// Open envelopes of A256CTR, which has no integrity check of its own.
    #[arg(long)]
    insecure_unauthenticated_envelope: bool,

    #[command(flatten)]
    guest: GuestArgs,
}

impl UnsealArgs {
    /// Opens sealed secrets through the guest that runs beside this process.
    ///
    /// # Errors
    /// As [`GuestArgs::api`].
    pub fn unsealer(&self) -> anyhow::Result<Unsealer> {
        let options = UnsealOptions {
            signature: match self.insecure_skip_signature {
                true => Signature::InsecureSkip,
                false => Signature::Required,
            },
            counter_mode: match self.insecure_unauthenticated_envelope {
                true => CounterMode::InsecureAllow,
                false => CounterMode::Refuse,
            },
            signing_keys: self.signing_keys.clone(),
        };
        let source = Source::Rest(self.guest.api()?);
        Ok(Unsealer::new(source, options))
    }

    /// These options on another command line.
    pub(super) fn arguments(&self) -> Vec<PathBuf> {
        let mut arguments = self.guest.arguments();
        if let Some(folder) = &self.signing_keys {
            arguments.extend(["--signing-keys".into(), folder.clone()]);
        }
        if self.insecure_skip_signature {
            arguments.push("--insecure-skip-signature".into());
        }
        if self.insecure_unauthenticated_envelope {
            arguments.push("--insecure-unauthenticated-envelope".into());
        }
        arguments
    }
}

/// How long to wait for the broker, at the start.
#[derive(clap::Args)]
pub(super) struct WaitArgs {
    /// How long to try again while guest or broker cannot be reached, in seconds. A denial is never tried again.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    wait: u64,
}

impl WaitArgs {
    pub(super) fn patient(&self, unsealer: &Unsealer) -> Unsealer {
        match self.wait {
            0 => unsealer.clone(),
            seconds => unsealer.clone().waiting(Duration::from_secs(seconds)),
        }
    }
}

/// Mounted volumes, and where they are mirrored.
#[derive(clap::Args)]
pub(super) struct VolumeArgs {
    /// A mounted volume, or a single file mounted with subPath. May be repeated; each has its --to.
    #[arg(long, value_name = "DIR|FILE")]
    from: Vec<PathBuf>,

    /// Where the volume before it appears in plaintext: a folder or file on tmpfs that applications read instead.
    #[arg(long, value_name = "DIR|FILE")]
    to: Vec<PathBuf>,

    /// The mode of the plaintext files, octal. Who may read a file may enter its folders.
    #[arg(long, default_value = "0600", value_name = "MODE", value_parser = parse_mode)]
    mode: u32,

    /// User and group that own the plaintext, by number [default: those of this process].
    #[arg(long, value_name = "UID[:GID]", value_parser = parse_owner)]
    owner: Option<(u32, u32)>,
}

impl VolumeArgs {
    pub(super) fn is_empty(&self) -> bool {
        self.from.is_empty() && self.to.is_empty()
    }

    pub(super) fn open(&self, placement: Placement) -> anyhow::Result<Volumes> {
        if self.from.len() != self.to.len() {
            bail!(
                "each --from has its --to: there are {} and {}",
                self.from.len(),
                self.to.len()
            );
        }
        let volumes = self.from.iter().zip(&self.to);
        let volumes = volumes.map(|(from, to)| Volume {
            from: from.clone(),
            to: to.clone(),
        });
        let access = Access {
            mode: self.mode,
            owner: self.owner,
        };
        Ok(Volumes::open(volumes.collect(), access, placement)?)
    }

    /// These options on another command line.
    pub(super) fn arguments(&self) -> Vec<PathBuf> {
        let mut arguments = vec!["--mode".into(), PathBuf::from(format!("{:o}", self.mode))];
        if let Some((user, group)) = self.owner {
            arguments.extend(["--owner".into(), PathBuf::from(format!("{user}:{group}"))]);
        }
        for (from, to) in self.from.iter().zip(&self.to) {
            arguments.extend(["--from".into(), from.clone(), "--to".into(), to.clone()]);
        }
        arguments
    }
}

/// Where plaintext may lie.
pub(super) fn placement(insecure_any_filesystem: bool) -> Placement {
    match insecure_any_filesystem {
        true => Placement::InsecureAnyFilesystem,
        false => Placement::MemoryOnly,
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !0o755 == 0 && mode & 0o400 != 0 => Ok(mode),
        _ => Err(
            "write an octal mode such as 0440, with which its owner may read and nobody else write"
                .to_owned(),
        ),
    }
}

fn parse_owner(text: &str) -> Result<(u32, u32), String> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    match (user.parse(), group.parse()) {
        // The highest number means "no change" to chown(2).
        (Ok(user), Ok(group)) if user != u32::MAX && group != u32::MAX => Ok((user, group)),
        _ => Err("write numbers such as 1000:1000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_that_lets_others_write_or_nobody_read_is_taken() {
        for bad in ["0622", "666", "0020", "4755", "0040", "x", "", "-1"] {
            assert!(parse_mode(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_mode("0444"), Ok(0o444));
        assert_eq!(parse_mode("640"), Ok(0o640));
    }

    #[test]
    fn owner_by_name_or_by_no_change_is_taken() {
        for bad in ["root", "1000:", ":1", "1:2:3", "4294967295", "-1:0"] {
            assert!(parse_owner(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_owner("1000"), Ok((1000, 1000)));
        assert_eq!(parse_owner("0:65534"), Ok((0, 65534)));
    }
}
