//! `strongroom broker seal-key` and `recovery-key`: a storage key that a TPM seals, and what there is when it does not open it.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use strongroom_broker::{
    Config, DEFAULT_PCRS, InitOptions, Overrides, PcrSet, SealedFor, Sealing, copy_storage_key,
    seal_storage_key,
};

use super::config_path;
use crate::outcome::Outcome;

/// What `init` is told of a TPM.
#[derive(clap::Args)]
pub(super) struct InitSeal {
    /// Have the storage key sealed by this machine's TPM: who copies the disk cannot open it elsewhere.
    #[arg(long, value_name = "DEVICE", num_args = 0..=1, default_missing_value = "/dev/tpmrm0")]
    tpm: Option<String>,

    /// The registers that must be as they are now for the TPM to give the key back: numbers with commas, or `none`
    /// [default: 7, what Secure Boot trusts].
    #[arg(long, value_name = "LIST", requires = "tpm")]
    pcrs: Option<String>,

    /// Write a copy of the storage key that needs no TPM, to be kept far from this machine.
    #[arg(long, value_name = "FILE", requires = "tpm")]
    recovery_key: Option<PathBuf>,

    /// Do without that copy: every secret is lost with the TPM, or when it is cleared.
    #[arg(long, requires = "tpm", conflicts_with = "recovery_key")]
    no_recovery_key: bool,
}

impl InitSeal {
    pub(super) fn apply(&self, options: &mut InitOptions) -> anyhow::Result<()> {
        let Some(tpm) = &self.tpm else { return Ok(()) };
        if self.recovery_key.is_none() && !self.no_recovery_key {
            bail!(
                "a storage key that only this TPM opens is lost with it, and every secret with the key: name a file for a \
                 copy with --recovery-key FILE, to be kept far from here, or say --no-recovery-key"
            );
        }
        let pcrs = self.pcrs.as_deref().map_or(Ok(DEFAULT_PCRS), pcr_set)?;
        let tpm = tpm.parse().context("--tpm")?;
        options.sealing = Some(Sealing { tpm, pcrs });
        options.recovery_key.clone_from(&self.recovery_key);
        Ok(())
    }

    /// What was done, for whoever ran `init`.
    pub(super) fn told(&self, sealed_for: &SealedFor) -> String {
        let copy = match &self.recovery_key {
            Some(file) => format!(
                "\n  recovery key   {}  (move it off this machine: with it and a copy of the store everything is read)",
                file.display()
            ),
            None => String::new(),
        };
        told(sealed_for) + &copy
    }
}

/// Seal the storage key by this machine's TPM: for what is booted now, or for the first time
///
/// After a change of firmware, Secure Boot keys or whatever else the named registers measure, the TPM does not give the
/// storage key back. This takes the recovery key instead and seals it for the machine as it is now. A broker whose key is
/// an open file is moved the same way: set store.key_tpm, set store.key_file to a new name, and name the open file here.
/// The broker need not run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  strongroom broker seal-key --from /media/usb/recovery.key
  strongroom broker seal-key --from storage.key --pcrs 7,14")]
pub(super) struct SealArgs {
    /// The folder that `broker init` made, or a configuration file.
    #[arg(default_value = "broker")]
    config: PathBuf,

    /// The recovery key, or the storage key that was an open file until now.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,

    /// The registers that must stay as they are now: numbers with commas, or `none` [default: those of before, or 7].
    #[arg(long, value_name = "LIST")]
    pcrs: Option<String>,
}

pub(super) fn seal(args: &SealArgs) -> anyhow::Result<Outcome> {
    let config = read(&args.config)?;
    let pcrs = args.pcrs.as_deref().map(pcr_set).transpose()?;
    let sealed_for = seal_storage_key(&config, &args.from, pcrs)?;
    let text = format!(
        "{}\nKeep {} far from this machine: with it and a copy of the store everything is read.",
        told(&sealed_for),
        args.from.display()
    );
    Ok(Outcome::new(text, document(&sealed_for))
        .next(format!("strongroom broker run {}", args.config.display())))
}

/// Write a copy of the storage key that needs no TPM: after `init` and after each rotation, to be kept far from here
///
/// The TPM gives the key to whoever may use it and read the broker's folder, while the machine is as it was when the key
/// was sealed. Later it may not be: then only this copy opens the store.
#[derive(clap::Args)]
pub(super) struct RecoveryArgs {
    /// The file to write. It must not be there yet.
    to: PathBuf,

    /// The folder that `broker init` made, or a configuration file.
    #[arg(default_value = "broker")]
    config: PathBuf,
}

pub(super) fn recovery(args: &RecoveryArgs) -> anyhow::Result<Outcome> {
    let config = read(&args.config)?;
    let key = copy_storage_key(&config, &args.to)?;
    let to = args.to.display();
    let text = format!(
        "Storage key {key} is in {to}. Move it off this machine: with it and a copy of the store everything is read."
    );
    let document = json!({ "key": key, "file": args.to });
    Ok(Outcome::new(text, document).next(format!(
        "strongroom broker seal-key {} --from {to}",
        args.config.display()
    )))
}

fn read(named: &std::path::Path) -> anyhow::Result<Config> {
    let path = config_path(named)?;
    let overrides = Overrides::from_environment().map_err(anyhow::Error::msg)?;
    Config::load_with(&path, &overrides)
        .with_context(|| format!("the configuration {} cannot be used", path.display()))
}

pub(super) fn document(sealed_for: &SealedFor) -> Value {
    json!({ "key": sealed_for.key, "pcrs": sealed_for.pcrs })
}

fn told(sealed_for: &SealedFor) -> String {
    let SealedFor { key, pcrs, .. } = sealed_for;
    if pcrs.is_empty() {
        return format!(
            "Storage key {key} is sealed by this TPM, for whatever is booted here: it protects a disk that is taken away, and \
             not a machine that starts another system."
        );
    }
    let list: Vec<String> = pcrs.keys().map(u8::to_string).collect();
    let mut text = format!(
        "Storage key {key} is sealed by this TPM, while PCR {} stays as it is now. The broker does not start when it is \
         another, and then needs the recovery key.",
        list.join(", ")
    );
    let unmeasured: Vec<String> = sealed_for.unmeasured().iter().map(u8::to_string).collect();
    if !unmeasured.is_empty() {
        text.push_str(&format!(
            " Nothing was measured into PCR {}, so what is booted makes no difference to it.",
            unmeasured.join(", ")
        ));
    }
    text
}

fn pcr_set(list: &str) -> anyhow::Result<PcrSet> {
    if list == "none" {
        return Ok(PcrSet::NONE);
    }
    let numbers: Option<Vec<u8>> = list.split(',').map(|one| one.trim().parse().ok()).collect();
    numbers.and_then(PcrSet::of).with_context(|| {
        format!("--pcrs {list:?}: write numbers from 0 to 23 with commas, or none")
    })
}
