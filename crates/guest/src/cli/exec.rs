//! `exec`: an application whose environment, files and volumes are unsealed before it starts.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::exec::{Prepared, SealedFile, prepare};
use crate::volumes::Volumes;
use anyhow::Context as _;

use super::cleanup;
use super::outcome::Outcome;
use super::unsealing::{UnsealArgs, VolumeArgs, WaitArgs, placement};
use super::{Program, block_on};

/// Unseal environment values, files and volumes, then become APP; if one fails, APP does not start
#[derive(clap::Args)]
pub struct Args {
    /// A sealed file and the place of its plaintext, which must lie on tmpfs; may be repeated.
    #[arg(long, value_name = "SEALED=PLAINTEXT", value_parser = parse_file)]
    file: Vec<SealedFile>,

    #[command(flatten)]
    volumes: VolumeArgs,

    /// Keep the mirrors of the volumes as they are while APP runs: a child process of it, as `guest unseal-volumes` is.
    #[arg(long, requires = "from")]
    watch: bool,

    /// Allow plaintext files on any file system, disks included.
    #[arg(long)]
    insecure_any_filesystem: bool,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    unsealing: UnsealArgs,

    /// The application and its arguments, after --
    #[arg(last = true, required = true, value_name = "APP")]
    app: Vec<OsString>,
}

fn parse_file(text: &str) -> Result<SealedFile, String> {
    text.parse()
        .map_err(|error: crate::GuestError| error.to_string())
}

impl Args {
    /// Becomes the application.
    ///
    /// # Errors
    /// When something is not unsealed, and the application not started.
    pub fn run(&self, program: Program) -> anyhow::Result<Outcome> {
        become_app(self, program)
    }
}

fn become_app(args: &Args, this: Program) -> anyhow::Result<Outcome> {
    let (program, arguments) = args
        .app
        .split_first()
        .context("say which application to start, after --")?;
    let mut volumes = args.volumes.open(placement(args.insecure_any_filesystem))?;
    let prepared = unseal(args, &mut volumes).context("the application was not started")?;
    let watcher = match args.watch {
        true => Some(watch(args, this, &volumes)),
        false => None,
    };
    let failed = match watcher.transpose() {
        Ok(watcher) => {
            // Returns only when the application could not be started.
            let error = prepared.command(program, arguments).exec();
            if let Some(mut watcher) = watcher {
                watcher.kill().ok();
                watcher.wait().ok();
                cleanup::ended(&watcher);
            }
            anyhow::Error::new(error).context(format!("cannot start {}", program.to_string_lossy()))
        }
        Err(error) => error,
    };
    // No application, no plaintext; `prepared` removes the files again.
    volumes.clear();
    Err(failed)
}

fn unseal(args: &Args, volumes: &mut Volumes) -> anyhow::Result<Prepared> {
    let unsealer = args.wait.patient(&args.unsealing.unsealer()?);
    let mut on_place = |path: &Path, place: &mut dyn FnMut() -> std::io::Result<()>| {
        cleanup::make(|| Ok((place()?, path.to_owned())))
    };
    let prepared = block_on(async {
        // Before the first file gets its name, so that nothing appears unless everything does.
        let unsealed = volumes.unseal(&unsealer).await?;
        let prepared = prepare(
            &unsealer,
            std::env::vars_os(),
            &args.file,
            placement(args.insecure_any_filesystem),
            &mut on_place,
        )
        .await?;
        volumes.show(unsealed, &mut on_place)?;
        Ok::<_, crate::GuestError>(prepared)
    })??;
    Ok(prepared)
}

/// Starts what keeps the mirrors: it ends with the application, which takes this process's place.
fn watch(args: &Args, this: Program, volumes: &Volumes) -> anyhow::Result<Child> {
    volumes.unlock();
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("--exit-with-parent")
        .arg(std::process::id().to_string())
        .args(this.words())
        .arg("unseal-volumes")
        .args(args.volumes.arguments())
        .args(args.unsealing.arguments())
        // Standard output is the application's alone.
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if args.insecure_any_filesystem {
        command.arg("--insecure-any-filesystem");
    }
    cleanup::spawn(&mut command).context("cannot start what keeps the volumes")
}
