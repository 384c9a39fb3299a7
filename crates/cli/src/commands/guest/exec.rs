//! `strongroom guest exec`: an application whose environment and files are unsealed before it starts.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use anyhow::Context as _;
use strongroom_client::guest_api::GuestApi;
use strongroom_guest::Source;
use strongroom_guest::exec::{Placement, SealedFile, prepare};

use crate::connect::block_on;
use crate::keys::GuestArgs;
use crate::outcome::Outcome;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A sealed file and the place of its plaintext, which must lie on tmpfs; may be repeated.
    #[arg(long, value_name = "SEALED=PLAINTEXT", value_parser = parse_file)]
    file: Vec<SealedFile>,

    /// Allow plaintext files on any file system, disks included.
    #[arg(long)]
    insecure_any_filesystem: bool,

    #[command(flatten)]
    guest: GuestArgs,

    /// The application and its arguments, after --
    #[arg(last = true, required = true, value_name = "APP")]
    app: Vec<OsString>,
}

fn parse_file(text: &str) -> Result<SealedFile, String> {
    text.parse()
        .map_err(|error: strongroom_guest::GuestError| error.to_string())
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let source = Source::Rest(GuestApi::new(&args.guest.guest)?);
    let placement = if args.insecure_any_filesystem {
        Placement::InsecureAnyFilesystem
    } else {
        Placement::MemoryOnly
    };
    let mut on_place = |path: &Path, place: &mut dyn FnMut() -> std::io::Result<()>| {
        crate::cleanup::make(|| Ok((place()?, path.to_owned())))
    };
    let prepared = block_on(prepare(
        &source,
        std::env::vars_os(),
        &args.file,
        placement,
        &mut on_place,
    ))?
    .context("the application was not started")?;
    let (program, arguments) = args
        .app
        .split_first()
        .context("say which application to start, after --")?;
    // Returns only when the application could not be started; then `prepared` removes the files again.
    let error = prepared.command(program, arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", program.to_string_lossy()))
}
