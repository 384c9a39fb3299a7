//! What can go wrong in the guest. Texts name the cause and the next step, never a secret.

use std::net::SocketAddr;
use std::path::PathBuf;

use strongroom_attester::{AttestError, BindingError, EventError, NoTee};
use strongroom_client::ClientError;
use strongroom_client::seal::SealError;

/// Why the guest cannot do what it was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The broker, or the way to it.
    #[error(transparent)]
    Broker(#[from] ClientError),
    /// This machine's evidence.
    #[error(transparent)]
    Attester(#[from] AttestError),
    /// No TEE on this machine.
    #[error(transparent)]
    NoTee(#[from] NoTee),
    /// A sealed secret's own form or signature.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The key that a sealed secret is signed with could not be fetched.
    #[error("the signing key of the sealed secret: {0}")]
    SigningKey(ClientError),
    /// The secret that a sealed secret points to could not be fetched.
    #[error("what the sealed secret points to: {0}")]
    SealedResource(ClientError),
    /// The key that a sealed secret is signed with could not be read from the folder of signing keys.
    #[error("the signing key of the sealed secret, {}: {reason}", path.display())]
    SigningKeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A sealed secret names a key in a folder, and there is no such folder.
    #[error(
        "the sealed secret is signed with the key {name:?} of a folder in the guest, and no folder is named: \
         name one with --signing-keys, or seal again with a key at the broker (kbs:///repository/type/tag)"
    )]
    NoSigningKeys {
        /// The key's name.
        name: String,
    },
    /// The way to the broker stayed closed.
    #[error("{source}; gave up after {seconds} s")]
    GaveUp {
        /// How long it was tried.
        seconds: u64,
        /// The last failure.
        source: Box<Self>,
    },
    /// The REST API was to listen where others can reach it.
    #[error(
        "{address} is not a loopback address: whoever reaches this API gets the secrets; \
         listen on 127.0.0.1 or on a Unix socket"
    )]
    NotLoopback {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// The REST API cannot be served.
    #[error("the guest's API cannot be served: {reason}")]
    Serve {
        /// The system's words.
        reason: String,
    },
    /// A socket that cannot be had.
    #[error("cannot listen on the socket {}: {reason}", path.display())]
    Socket {
        /// Its file, or a folder above it.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// What the guest is told to do, and what it was launched with, do not go together.
    #[error("{0}")]
    Launch(String),
    /// The configuration file.
    #[error("configuration {}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column where it has them.
        reason: String,
    },
    /// The init-data cannot be read.
    #[error("init-data of {}: {reason}", path.display())]
    Initdata {
        /// Where it was found.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The init-data is not what this machine was launched with.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// What is to be measured is no event.
    #[error(transparent)]
    Event(#[from] EventError),
    /// A register that does not exist was to be extended.
    #[error("there is no PCR {0}: name one from 0 to 23, or none for the one that is configured")]
    Register(u64),
    /// The tokens of the containers that may ask.
    #[error("tokens of containers, {}: {reason}", path.display())]
    Tokens {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what would mend it.
        reason: String,
    },
    /// A variable of the environment could not be unsealed.
    #[error("environment variable {name}: {source}")]
    Variable {
        /// Its name.
        name: String,
        /// Why.
        source: Box<Self>,
    },
    /// A sealed file could not be unsealed or its plaintext could not be placed.
    #[error("file {}: {source}", path.display())]
    File {
        /// The sealed file, or the place of its plaintext.
        path: PathBuf,
        /// Why.
        source: Box<Self>,
    },
    /// A file to unseal is given in another form.
    #[error("{given:?} is not SEALED=PLAINTEXT, two paths with an equals sign between them")]
    FileMapping {
        /// What was given.
        given: String,
    },
    /// The system refused a file operation.
    #[error("{doing}: {reason}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's words.
        reason: String,
    },
    /// The place for plaintext is on a disk.
    #[error(
        "{} lies on a disk or network file system ({filesystem}), where plaintext would stay; \
         choose a place on tmpfs or ramfs (such as /run or /dev/shm), or allow this one with --insecure-any-filesystem",
        path.display()
    )]
    NotInMemory {
        /// The folder.
        path: PathBuf,
        /// The file system's magic number.
        filesystem: String,
    },
    /// A volume that cannot be unsealed, or its mirror.
    #[error("{}: {reason}", path.display())]
    Volume {
        /// The volume's folder or file, or the mirror's.
        path: PathBuf,
        /// What is wrong, and what would mend it.
        reason: String,
    },
    /// Scratch space that cannot be had.
    #[error("scratch space {}: {reason}", path.display())]
    Scratch {
        /// The device, header or mount point.
        path: PathBuf,
        /// What is wrong, and what would mend it.
        reason: String,
    },
    /// What scratch space needs and is not here.
    #[error("scratch space needs what is missing here:\n  {}", missing.join("\n  "))]
    ScratchNeeds {
        /// Each with how to get it.
        missing: Vec<String>,
    },
    /// Plaintext that cannot be what was asked for.
    #[error("{0}")]
    UnusablePlaintext(&'static str),
}

impl GuestError {
    /// Whether the same may succeed a moment later, because it is the way to the broker that failed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Broker(error) | Self::SigningKey(error) | Self::SealedResource(error) => {
                error.is_transient()
            }
            Self::Variable { source, .. }
            | Self::File { source, .. }
            | Self::GaveUp { source, .. } => source.may_pass(),
            _ => false,
        }
    }
}
