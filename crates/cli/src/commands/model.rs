//! `strongroom model`: packs what belongs together, and shows what a bundle says of itself.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;
use strongroom_scoring::model::{Bundle, Engine, Network};
use strongroom_scoring::profile::Profile;

use crate::files::{self, Existing};
use crate::input::OpenArgs;
use crate::keys::{GuestArgs, KeySource};
use crate::outcome::{Outcome, quoted};
use crate::progress::thousands;

const MAX_BUNDLE: u64 = 256 * 1024 * 1024;

/// Pack a model and its preprocessing into one file, so that they are encrypted and checked together.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Pack a folder with model.onnx and preprocessing.json
    Pack {
        /// The folder.
        dir: PathBuf,
        /// Where to write, - for standard output.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Replace an existing file.
        #[arg(long)]
        force: bool,
    },
    /// Show what a model expects and how good it was measured to be
    Show(ModelArgs),
}

/// The model to use.
#[derive(clap::Args, Clone)]
pub(crate) struct ModelArgs {
    /// A packed model, or a folder with model.onnx and preprocessing.json [default: the one built in].
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,

    /// The key of an encrypted model.
    #[arg(long, value_name = "FILE|URI", requires = "model")]
    pub(crate) model_key: Option<KeySource>,

    /// What the model was encrypted as [default: its name without ".enc"].
    #[arg(long, value_name = "NAME", requires = "model_key")]
    pub(crate) model_name: Option<String>,

    #[command(flatten)]
    pub(crate) guest: GuestArgs,
}

impl ModelArgs {
    /// The options that name this model, for a command that is to be copied.
    pub(crate) fn asked(&self) -> String {
        let model = self.model.as_ref();
        let mut words: Vec<String> = model
            .map(|path| format!("--model {}", quoted(&path.display().to_string())))
            .into_iter()
            .collect();
        words.extend(
            self.model_key
                .as_ref()
                .map(|key| format!("--model-key {}", quoted(&key.to_string()))),
        );
        words.extend(
            self.model_name
                .as_ref()
                .map(|name| format!("--model-name {}", quoted(name))),
        );
        words.join(" ")
    }

    /// Loads the model, decrypting it in memory.
    pub(crate) fn load(&self) -> anyhow::Result<Bundle> {
        let Some(path) = &self.model else {
            return Ok(Bundle::built_in());
        };
        let failed = || format!("cannot use the model {}", path.display());
        if path.is_dir() {
            anyhow::ensure!(
                self.model_key.is_none(),
                "{} is a folder, which is not encrypted: leave --model-key out",
                path.display()
            );
            return Bundle::from_dir(path).with_context(failed);
        }
        Bundle::from_tar(&self.read(path)?).with_context(failed)
    }

    fn read(&self, path: &Path) -> anyhow::Result<zeroize::Zeroizing<Vec<u8>>> {
        use std::io::Read as _;
        let open = OpenArgs {
            key: self.model_key.clone(),
            name: self.model_name.clone(),
            ..OpenArgs::default()
        };
        let mut tar = zeroize::Zeroizing::new(Vec::new());
        let opened = open.open(path, &self.guest)?;
        opened
            .reader
            .take(MAX_BUNDLE + 1)
            .read_to_end(&mut tar)
            .with_context(|| format!("cannot read the model {}", path.display()))?;
        anyhow::ensure!(
            tar.len() as u64 <= MAX_BUNDLE,
            "{} is larger than the {MAX_BUNDLE} bytes a model may have",
            path.display()
        );
        Ok(tar)
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.action {
        Action::Pack { dir, output, force } => {
            let tar =
                Bundle::pack(dir).with_context(|| format!("cannot pack {}", dir.display()))?;
            let digest = Bundle::from_tar(&tar)?.digest().to_owned();
            files::write(output, Existing::from_force(*force), 0o600, &tar)?;
            if output.as_os_str() == "-" {
                return Ok(Outcome::silent());
            }
            let text = format!(
                "Packed {} to {}\nsha256 {digest}",
                dir.display(),
                output.display()
            );
            Ok(
                Outcome::new(text, json!({ "output": output, "digest": digest }))
                    .next(format!("strongroom encrypt {} --key KEY", output.display())),
            )
        }
        Action::Show(model) => {
            let bundle = model.load()?;
            let (network, preprocessing) = (bundle.network(), bundle.preprocessing());
            let (engine, why) = engine(network);
            let inputs: Vec<&str> = network.inputs().collect();
            let profile = bundle.profile();
            let trained = profile.map_or_else(
                || "none: rows outside the training range are not counted".to_owned(),
                |profile| format!("{} training rows", thousands(profile.rows())),
            );
            let text = format!(
                "sha256     {}\ninput      {} (columns: {})\noutput     {}\nthreshold  {}\nprofile    {trained}\nengine     {engine}{}",
                bundle.digest(),
                inputs.join(", "),
                preprocessing.columns().join(", "),
                network.output(),
                preprocessing.threshold(),
                why.as_ref()
                    .map(|why| format!(", not fused: {why}"))
                    .unwrap_or_default(),
            );
            let document = json!({
                "digest": bundle.digest(), "inputs": inputs, "output": network.output(),
                "columns": preprocessing.columns(), "threshold": preprocessing.threshold(), "metrics": bundle.metrics(),
                "engine": engine, "not_fused": why,
                "profile_rows": profile.map(Profile::rows),
            });
            let next = format!("strongroom score DATA.csv {}", model.asked());
            Ok(Outcome::new(text, document).next(next.trim_end()))
        }
    }
}

/// What computes a network's scores, and why not the fastest.
fn engine(network: &Network) -> (String, Option<String>) {
    match network.engine() {
        Engine::Fused(path) => (format!("fused, {}", path.name()), None),
        Engine::General { why } => ("tract".to_owned(), Some(why)),
        other => (format!("{other:?}"), None),
    }
}
