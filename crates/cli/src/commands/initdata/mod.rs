//! `strongroom initdata`: the configuration that a confidential VM measures.

mod agent_policy;
mod certificate;
mod check;
mod new;
mod policy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;
use strongroom_wire::initdata::Initdata;

use crate::files;
use crate::outcome::Outcome;

pub(crate) use check::{findings, unix_now};
pub(crate) use new::compose;

/// Write and inspect init-data, the configuration that a confidential VM measures.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    New(new::Args),
    /// Show the digest, and the values that platforms bind
    Digest {
        /// The document, a pod's annotation, or the image of a disk for init-data.
        file: PathBuf,
    },
    /// Show what a document or annotation holds
    Show {
        /// The document, a pod's annotation, or the image of a disk for init-data.
        file: PathBuf,
    },
    Check(check::Args),
    Policy(policy::Args),
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.action {
        Action::New(args) => new::run(args),
        Action::Digest { file } => {
            let document = read(file)?;
            let digest = document.digest();
            let registers = registers(&digest);
            let lines: String = registers
                .iter()
                .map(|(name, value)| format!("\n{name:<22}{value}"))
                .collect();
            let registers: BTreeMap<_, _> = registers.into_iter().collect();
            Ok(Outcome::new(
                format!(
                    "{:<22}{}{lines}",
                    document.algorithm().as_str(),
                    hex::encode(&digest)
                ),
                json!({ "algorithm": document.algorithm(), "digest": hex::encode(&digest), "registers": registers }),
            ))
        }
        Action::Show { file } => {
            let document = read(file)?;
            let document_json = json!({
                "algorithm": document.algorithm(), "digest": hex::encode(document.digest()),
                "data": document.data(), "annotation": document.to_annotation(),
            });
            Ok(Outcome::new(document.as_str(), document_json))
        }
        Action::Check(args) => check::run(args),
        Action::Policy(args) => policy::run(args),
    }
}

/// Reads a document, or a form that carries one: a pod's annotation, a disk.
pub(crate) fn read(path: &Path) -> anyhow::Result<Initdata> {
    let bytes = files::read_limited(path, MAX_FILE)?;
    Initdata::from_file(&bytes).with_context(|| format!("{} is not init-data", path.display()))
}

/// A disk for init-data holds a packed document, and may be larger than one.
pub(crate) const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What each platform holds when it was launched with this digest.
fn registers(digest: &[u8]) -> Vec<(&'static str, String)> {
    let registers = strongroom_wire::initdata::registers(digest);
    let mut named = vec![
        ("SNP HOST_DATA", hex::encode(registers.snp_host_data)),
        ("TDX MRCONFIGID", hex::encode(registers.tdx_mrconfigid)),
    ];
    if let Some(pcr) = registers.vtpm_pcr8 {
        named.push(("vTPM PCR8 (SHA-256)", hex::encode(pcr)));
    }
    named
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pcr8_of_upstream_vector() {
        let digest =
            hex::decode("8505e4e25e50a27c5dc8147af88efbece627fbea55291911eff832d9ee127781")
                .unwrap();
        assert_eq!(
            registers(&digest)[2].1,
            "bddaccb9c52249e97a31baea61b7d91be8221a16e703d92148d04fb8e9c1dfdd"
        );
    }
}
