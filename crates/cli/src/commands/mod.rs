//! One file per command; this one lists them.

mod admin;
mod audit;
mod broker;
mod decrypt;
mod demo;
mod doctor;
mod encrypt;
mod generate;
mod get;
mod guest;
mod image;
mod initdata;
mod keygen;
mod model;
mod policy;
mod profile;
mod reference_value;
mod report;
mod resource;
mod score;
mod seal;
mod secret;
mod unseal;
mod verify;
mod workshop;

use clap::Subcommand;
use strongroom_guest::cli::{Program, attest_once};

use crate::outcome::Outcome;

// Each command's text is that of its `Args`: one here would hide the long one.
#[derive(Subcommand)]
pub(crate) enum Command {
    Demo(demo::Args),

    Keygen(keygen::Args),
    Encrypt(encrypt::Args),
    Decrypt(decrypt::Args),
    Generate(generate::Args),
    Model(model::Args),
    Profile(Box<profile::Args>),

    Broker(broker::Args),
    Resource(resource::Args),
    Policy(policy::Args),
    ReferenceValue(reference_value::Args),
    Audit(audit::Args),
    Admin(admin::Args),

    Seal(seal::Args),
    Unseal(unseal::Args),
    #[command(hide = true)]
    Secret(secret::Args),
    Initdata(initdata::Args),
    Image(image::Args),

    Guest(guest::Args),
    Attest(attest_once::Args),
    Get(get::Args),
    Score(Box<score::Args>),
    Report(Box<report::Args>),

    Verify(verify::Args),
    Doctor(Box<doctor::Args>),
}

impl Command {
    /// Whether the command knows only later how to log, and says so itself.
    pub(crate) fn starts_its_own_log(&self) -> bool {
        matches!(self, Self::Broker(args) if args.is_run())
    }

    pub(crate) fn run(self, json: bool, verbose: u8) -> anyhow::Result<Outcome> {
        match self {
            Self::Admin(args) => admin::run(&args),
            Self::Attest(args) => args.run(Program::Strongroom),
            Self::Audit(args) => audit::run(&args),
            Self::Broker(args) => broker::run(args, json, verbose),
            Self::Decrypt(args) => decrypt::run(&args),
            Self::Demo(args) => demo::run(&args, json),
            Self::Doctor(args) => doctor::run(&args),
            Self::Encrypt(args) => encrypt::run(&args),
            Self::Generate(args) => generate::run(&args),
            Self::Get(args) => get::run(&args),
            Self::Guest(args) => guest::run(args, json),
            Self::Image(args) => image::run(&args),
            Self::Initdata(args) => initdata::run(&args),
            Self::Keygen(args) => keygen::run(&args),
            Self::Model(args) => model::run(&args),
            Self::Policy(args) => policy::run(&args),
            Self::Profile(args) => profile::run(&args),
            Self::ReferenceValue(args) => reference_value::run(&args),
            Self::Report(args) => report::run(&args),
            Self::Resource(args) => resource::run(&args),
            Self::Score(args) => score::run(&args, json),
            Self::Seal(args) => seal::run(&args),
            Self::Secret(args) => secret::run(args),
            Self::Unseal(args) => unseal::run(&args),
            Self::Verify(args) => verify::run(&args),
        }
    }
}
