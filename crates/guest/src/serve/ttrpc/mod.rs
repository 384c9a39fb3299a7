//! The services that Kata's agent and ocicrypt call over ttRPC, on the sockets of guest-components' daemons.
//!
//! Refusals carry the status code that says what is the matter, and the whole cause; upstream's carry `INTERNAL` and the
//! outermost words. The sockets are their owner's alone, so nothing here asks who calls.

mod agent;
pub(crate) mod frame;
mod hub;
mod mount;
pub(crate) mod protobuf;

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use strongroom_attester::AttestError;
use strongroom_client::ClientError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinSet;

use crate::attestation::Agent;
use crate::error::GuestError;
use crate::image::{ImageError, LayerError, PullOptions};
use frame::{Call, Header};
use protobuf::{Malformed, Message};

/// What a socket offers.
#[derive(Clone, Debug)]
pub enum TtrpcService {
    /// `attestation_agent.AttestationAgentService`.
    AttestationAgent,
    /// Upstream's data hub: secrets, sealed secrets, images, mounts, and the keys of images.
    DataHub(Box<PullOptions>),
}

impl TtrpcService {
    /// Where upstream's clients look for it.
    pub fn default_socket(&self) -> PathBuf {
        Path::new("/run/confidential-containers").join(self.socket_below())
    }

    /// The same below another folder.
    pub fn socket_below(&self) -> &'static str {
        match self {
            Self::AttestationAgent => "attestation-agent/attestation-agent.sock",
            Self::DataHub(_) => "cdh.sock",
        }
    }
}

/// What bounds how much clients hold up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TtrpcLimits {
    /// How long the rest of a frame may take, or an answer that the client does not read.
    pub frame: Duration,
    /// How long a call may take; a client may ask for less.
    pub call: Duration,
    /// How long a call may take that pulls an image or encrypts a disk.
    pub long_call: Duration,
    /// How many calls of a connection are answered at a time; further ones wait.
    pub calls: usize,
    /// How many connections are served at a time; further ones wait.
    pub connections: usize,
    /// How long calls may take to end when the guest is told to stop.
    pub grace: Duration,
}

impl Default for TtrpcLimits {
    fn default() -> Self {
        Self {
            frame: Duration::from_secs(10),
            call: Duration::from_secs(60),
            long_call: Duration::from_secs(3600),
            calls: 128,
            connections: 64,
            grace: Duration::from_secs(5),
        }
    }
}

/// Serves a service on a socket until `shutdown` resolves. Who may connect is the socket file's mode to say.
///
/// # Errors
/// [`GuestError::Serve`] when the socket cannot be used.
pub async fn serve_ttrpc(
    agent: Agent,
    service: TtrpcService,
    listener: UnixListener,
    limits: TtrpcLimits,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), GuestError> {
    listener.set_nonblocking(true).map_err(super::failed)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(super::failed)?;
    let guest = Arc::new(Guest {
        agent,
        service,
        limits,
    });
    let slots = Arc::new(Semaphore::new(limits.connections));
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let (guest, stopped) = (Arc::clone(&guest), stopped.clone());
                connections.spawn(async move {
                    let _slot = slot;
                    if let Err(error) = connection(stream, guest, stopped).await {
                        tracing::debug!(%error, "a ttRPC connection broke");
                    }
                });
            }
            Err(error) => {
                // Out of files, most likely: others may be closed meanwhile.
                tracing::warn!(%error, "a ttRPC connection was not taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    stop.send_replace(true);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.grace, all_ended).await.is_err() {
        tracing::warn!("ttRPC calls that did not end by themselves were cut");
    }
    Ok(())
}

struct Guest {
    agent: Agent,
    service: TtrpcService,
    limits: TtrpcLimits,
}

/// One client. Its calls are answered as they come to be done; they end when it goes away.
async fn connection(
    stream: UnixStream,
    guest: Arc<Guest>,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let limits = guest.limits;
    let (mut reader, writer) = stream.into_split();
    let answers = Answers {
        writer: Arc::new(Mutex::new(Some(writer))),
        limit: limits.frame,
    };
    let slots = Arc::new(Semaphore::new(limits.calls));
    let mut calls = JoinSet::new();
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await;
        let frame = tokio::select! {
            _ = stopped.changed() => break,
            frame = read_frame(&mut reader, limits.frame) => frame?,
        };
        while calls.try_join_next().is_some() {}
        match frame {
            Frame::End => return Ok(()),
            Frame::TooLarge(header) => {
                let text = format!(
                    "the request has {} bytes, and at most {} are taken",
                    header.length,
                    frame::MAX_MESSAGE
                );
                let refusal = Refusal::new(Code::ResourceExhausted, text);
                return answers.send(header.stream, Err(refusal)).await;
            }
            // What is left of a streaming call that was refused.
            Frame::Whole(header, _) if header.kind == frame::DATA => {}
            Frame::Whole(header, body) => {
                if header.kind != frame::REQUEST || !header.is_of_client() {
                    return Err(io::Error::other("the client sent what no client sends"));
                }
                let (guest, answers) = (Arc::clone(&guest), answers.clone());
                calls.spawn(async move {
                    let _slot = slot;
                    let outcome = guest.answer(header, &body).await;
                    if let Err(error) = answers.send(header.stream, outcome).await {
                        tracing::debug!(%error, "a ttRPC answer was not read");
                    }
                });
            }
        }
    }
    while calls.join_next().await.is_some() {}
    Ok(())
}

enum Frame {
    End,
    Whole(Header, Vec<u8>),
    TooLarge(Header),
}

/// A client may be silent for as long as it likes between frames, not within one.
async fn read_frame(reader: &mut OwnedReadHalf, limit: Duration) -> io::Result<Frame> {
    let mut head = [0; frame::LENGTH];
    let read = reader.read(&mut head).await?;
    if read == 0 {
        return Ok(Frame::End);
    }
    let all = async {
        reader
            .read_exact(head.get_mut(read..).unwrap_or_default())
            .await?;
        let header = Header::parse(head);
        if header.length > frame::MAX_MESSAGE {
            return Ok(Frame::TooLarge(header));
        }
        let length = u64::from(header.length);
        let mut body = Vec::new();
        reader.take(length).read_to_end(&mut body).await?;
        match u64::try_from(body.len()).is_ok_and(|read| read == length) {
            true => Ok(Frame::Whole(header, body)),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    };
    tokio::time::timeout(limit, all)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[derive(Clone)]
struct Answers {
    /// `None` after an answer that was not written to its end: what came next would be taken for the rest of it.
    writer: Arc<Mutex<Option<OwnedWriteHalf>>>,
    limit: Duration,
}

impl Answers {
    async fn send(&self, stream: u32, outcome: Result<Message, Refusal>) -> io::Result<()> {
        let bytes = match outcome {
            Ok(message) => frame::answer(stream, &message).unwrap_or_else(|| {
                let text = "the answer is larger than a ttRPC message may be (4 MiB); ask for it over REST";
                frame::refusal(stream, Code::ResourceExhausted, text)
            }),
            Err(Refusal { code, text }) => frame::refusal(stream, code, &text),
        };
        let mut writer = self.writer.lock().await;
        let Some(open) = writer.as_mut() else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let written = tokio::time::timeout(self.limit, open.write_all(&bytes))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if written.is_err() {
            *writer = None;
        }
        written
    }
}

impl Guest {
    async fn answer(&self, header: Header, body: &[u8]) -> Result<Message, Refusal> {
        let call = Call::parse(body)?;
        if header.flags & frame::REMOTE_OPEN != 0 {
            return Err(Refusal::new(
                Code::Unimplemented,
                "streaming calls are not known here",
            ));
        }
        let limit = match call.method {
            "PullImage" | "SecureMount" => self.limits.long_call,
            _ => self.limits.call,
        };
        let limit = call.timeout.map_or(limit, |asked| asked.min(limit));
        let work = async {
            match (&self.service, call.service) {
                (TtrpcService::AttestationAgent, agent::SERVICE) => {
                    agent::answer(&self.agent, call.method, &call.request).await
                }
                (TtrpcService::DataHub(pull), service) => {
                    hub::answer(&self.agent, pull, service, call.method, &call.request).await
                }
                _ => Err(unknown()),
            }
        };
        let outcome = tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            let text = format!("no outcome within {} s", limit.as_secs_f32());
            Err(Refusal::new(Code::DeadlineExceeded, text))
        });
        if let Err(Refusal { code, text }) = &outcome {
            tracing::debug!(?code, %text, "refused");
        }
        outcome
    }
}

/// Why a call has no answer.
#[derive(Debug)]
struct Refusal {
    code: Code,
    text: String,
}

impl Refusal {
    fn new(code: Code, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

fn unknown() -> Refusal {
    Refusal::new(
        Code::Unimplemented,
        "this socket has no such service or method; the attestation agent and the data hub have one socket each",
    )
}

/// gRPC's status codes, as far as they are given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Code {
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Unimplemented,
    Internal,
    Unavailable,
}

impl Code {
    fn number(self) -> u8 {
        match self {
            Self::InvalidArgument => 3,
            Self::DeadlineExceeded => 4,
            Self::NotFound => 5,
            Self::PermissionDenied => 7,
            Self::ResourceExhausted => 8,
            Self::FailedPrecondition => 9,
            Self::Unimplemented => 12,
            Self::Internal => 13,
            Self::Unavailable => 14,
        }
    }
}

impl From<Malformed> for Refusal {
    fn from(error: Malformed) -> Self {
        Self::new(Code::InvalidArgument, error.to_string())
    }
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        Self::new(code_of_client(&error), error.to_string())
    }
}

impl From<GuestError> for Refusal {
    fn from(error: GuestError) -> Self {
        let code = match &error {
            GuestError::Broker(error)
            | GuestError::SigningKey(error)
            | GuestError::SealedResource(error) => code_of_client(error),
            GuestError::Seal(_)
            | GuestError::Event(_)
            | GuestError::Register(_)
            | GuestError::Attester(AttestError::ReportData { .. }) => Code::InvalidArgument,
            GuestError::SigningKeyFile { .. }
            | GuestError::NoSigningKeys { .. }
            | GuestError::UnusablePlaintext(_)
            | GuestError::ScratchNeeds { .. }
            | GuestError::NotInMemory { .. } => Code::FailedPrecondition,
            _ => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ImageError> for Refusal {
    fn from(error: ImageError) -> Self {
        let code = match &error {
            ImageError::Reference { .. } => Code::InvalidArgument,
            ImageError::NoPolicy { .. } | ImageError::Rejected { .. } => Code::PermissionDenied,
            ImageError::Broker { source, .. } => code_of_client(source),
            _ => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<LayerError> for Refusal {
    fn from(error: LayerError) -> Self {
        match error {
            LayerError::Key { source, .. } => (*source).into(),
            error @ LayerError::Annotations(_) => {
                Self::new(Code::InvalidArgument, error.to_string())
            }
            error @ LayerError::Unwrap { .. } => {
                Self::new(Code::FailedPrecondition, error.to_string())
            }
            error => Self::new(Code::Internal, error.to_string()),
        }
    }
}

/// What the broker decided is told from what kept the guest from asking it.
fn code_of_client(error: &ClientError) -> Code {
    match error {
        ClientError::NotFound { .. } => Code::NotFound,
        ClientError::Denied { .. } | ClientError::EvidenceRefused { .. } => Code::PermissionDenied,
        ClientError::Rejected { status: 400, .. } => Code::InvalidArgument,
        ClientError::Evidence { .. }
        | ClientError::Crypto { .. }
        | ClientError::Undecryptable { .. } => Code::Internal,
        _ => Code::Unavailable,
    }
}
