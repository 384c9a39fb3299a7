//! One file per command; this one lists them.

mod attest;
mod audit;
mod broker;
mod decrypt;
mod demo;
mod encrypt;
mod generate;
mod get;
mod guest;
mod initdata;
mod keygen;
mod model;
mod policy;
mod reference_value;
mod resource;
mod score;
mod seal;
mod unseal;
mod workshop;

use clap::Subcommand;

use crate::outcome::Outcome;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show the whole story on this machine: attest, release, score, and a denial explained
    Demo(demo::Args),

    /// Make a key: for data, for a recipient of results, or for signing sealed secrets
    #[command(next_help_heading = "Files")]
    Keygen(keygen::Args),
    /// Encrypt a file
    Encrypt(encrypt::Args),
    /// Decrypt a file
    Decrypt(decrypt::Args),
    /// Make transactions that follow the public data set's law
    Generate(generate::Args),
    /// Pack a model and its preprocessing into one file
    Model(model::Args),

    /// Run the trusted side: key broker, attestation service, reference values
    Broker(broker::Args),
    /// Store, list and delete the broker's secrets
    Resource(resource::Args),
    /// Decide which attested machines get which secrets
    Policy(policy::Args),
    /// Tell the broker which measurements are good
    ReferenceValue(reference_value::Args),
    /// Read the broker's record of releases, denials and admin actions
    Audit(audit::Args),

    /// Make a sealed secret: a signed pointer that may lie in the open
    Seal(seal::Args),
    /// Read what a sealed secret points to, through a running guest
    Unseal(unseal::Args),
    /// Write and inspect init-data, the configuration that a confidential VM measures
    Initdata(initdata::Args),

    /// Run the guest: attests and serves secrets to applications beside it
    Guest(guest::Args),
    /// Attest to a broker once and show what it says of this machine
    Attest(attest::Args),
    /// Fetch one resource through a running guest
    Get(get::Args),
    /// Score a batch of transactions
    Score(score::Args),
}

impl Command {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<Outcome> {
        match self {
            Self::Attest(args) => attest::run(&args),
            Self::Audit(args) => audit::run(&args),
            Self::Broker(args) => broker::run(args, json),
            Self::Decrypt(args) => decrypt::run(&args),
            Self::Demo(args) => demo::run(&args, json),
            Self::Encrypt(args) => encrypt::run(&args),
            Self::Generate(args) => generate::run(&args),
            Self::Get(args) => get::run(&args),
            Self::Guest(args) => guest::run(args, json),
            Self::Initdata(args) => initdata::run(&args),
            Self::Keygen(args) => keygen::run(&args),
            Self::Model(args) => model::run(&args),
            Self::Policy(args) => policy::run(&args),
            Self::ReferenceValue(args) => reference_value::run(&args),
            Self::Resource(args) => resource::run(&args),
            Self::Score(args) => score::run(&args, json),
            Self::Seal(args) => seal::run(&args),
            Self::Unseal(args) => unseal::run(&args),
        }
    }
}
