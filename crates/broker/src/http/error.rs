//! Every error a client can see: its status, its kind and its sentence, in one match.
//!
//! One exception: a request whose head cannot be read (malformed, or too long: 400, 414, 431) never gets here. Hyper
//! answers it, without a body.

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use strongroom_verifier::{PolicyError, ReferenceValueError};
use strongroom_wire::attestation_service::AttestationRequestError;
use strongroom_wire::error_information::ErrorInformation;
use strongroom_wire::kbs::PROTOCOL_VERSION;
use strongroom_wire::resource::{ResourceError, ResourcePath};

use crate::admin::{AdminError, SetAdminError, WrongRole};
use crate::attest::AttestError;
use crate::policies::LoadError;
use crate::release::ReleaseError;
use crate::retention::RetentionError;
use crate::rotate::RotateError;
use crate::session::SessionError;
use crate::sources::SourceError;
use crate::store::StoreError;

/// What went wrong with a request.
#[derive(Debug)]
pub(crate) enum ApiError {
    Malformed(String),
    Version(String),
    Selector(String),
    Stated(AttestationRequestError),
    Path(ResourceError),
    EmptyBody,
    Policy(PolicyError),
    PolicyId(String),
    ReferenceValue(ReferenceValueError),
    Admin(AdminError),
    WrongRole(WrongRole),
    SetAdmin(SetAdminError),
    Attest(AttestError),
    Release(ReleaseError),
    /// A source has what would be stored.
    Shadows {
        path: ResourcePath,
        source: String,
    },
    Source(SourceError),
    NotFound(&'static str),
    NoRoute,
    NoPlugin(String),
    Method,
    Timeout,
    TooLarge,
    TooOften {
        seconds: u64,
    },
    Busy,
    /// Other requests take what memory there is for bodies.
    Crowded,
    /// Another rehearsal is under way.
    Rehearsing,
    Store(StoreError),
    Rotate(RotateError),
    Retention(RetentionError),
    /// No entry of that event is there, and older ones were pruned.
    NoEvent {
        first: u64,
    },
    Panicked,
}

impl ApiError {
    fn answer(&self) -> (StatusCode, &'static str, String) {
        use StatusCode as S;
        match self {
            Self::Malformed(detail) => (S::BAD_REQUEST, "SerdeError", detail.clone()),
            Self::Version(version) => (
                S::BAD_REQUEST,
                "ProtocolVersion",
                format!("protocol version {version:?} is not supported, only {PROTOCOL_VERSION:?}"),
            ),
            Self::Selector(selector) => (
                S::BAD_REQUEST,
                "PolicySelector",
                format!(
                    "attestation-policy-selector {selector:?} names no policy here: the broker's owner maps it with \
                     attestation.policy_ids"
                ),
            ),
            Self::Stated(error) => (S::BAD_REQUEST, "SerdeError", error.to_string()),
            Self::Path(error) => (S::BAD_REQUEST, "InvalidRequestPath", error.to_string()),
            Self::EmptyBody => (
                S::BAD_REQUEST,
                "EmptyResource",
                "the body is empty: a resource has at least one byte".into(),
            ),
            Self::Policy(error) => (S::BAD_REQUEST, "ParsePolicyError", error.to_string()),
            Self::PolicyId(id) => (
                S::BAD_REQUEST,
                "ParsePolicyError",
                format!(
                    "attestation policy {id:?} would not be used by any platform: an id is NAME_cpu or NAME_gpu, such \
                     as \"default_cpu\", and NAME has letters, digits, dots and hyphens"
                ),
            ),
            Self::ReferenceValue(error) => (S::BAD_REQUEST, "RvpsError", error.to_string()),
            Self::Admin(error @ AdminError::Unreachable) => away(error),
            Self::Admin(error) => {
                let status = match error {
                    AdminError::Busy => S::TOO_MANY_REQUESTS,
                    AdminError::IssuerUnavailable => S::SERVICE_UNAVAILABLE,
                    _ => S::UNAUTHORIZED,
                };
                (status, "AdminAuthAccess", error.to_string())
            }
            Self::WrongRole(error) => (S::FORBIDDEN, "AdminAuthAccess", error.to_string()),
            Self::SetAdmin(error) => match error {
                SetAdminError::Name | SetAdminError::Key(_) => {
                    (S::BAD_REQUEST, "AdminError", error.to_string())
                }
                SetAdminError::Configured
                | SetAdminError::Store(StoreError::Exists | StoreError::LastAdmin) => {
                    (S::CONFLICT, "AdminError", error.to_string())
                }
                SetAdminError::Store(StoreError::NotFound) => Self::NotFound("admin").answer(),
                SetAdminError::Store(error) => store(error),
            },
            Self::Attest(error) => {
                let status = match error {
                    AttestError::InitdataFormat
                    | AttestError::Initdata(_)
                    | AttestError::Service(_) => S::BAD_REQUEST,
                    AttestError::Refused { .. } => S::FORBIDDEN,
                    AttestError::Later { .. } => S::SERVICE_UNAVAILABLE,
                    AttestError::Session(SessionError::Unreachable) => return away(error),
                    AttestError::Session(SessionError::Full) => return full(error),
                    AttestError::Session(_) => S::UNAUTHORIZED,
                    AttestError::Store(error) => return store(error),
                    AttestError::Internal(_) => return internal(error),
                };
                (status, "AttestationError", error.to_string())
            }
            Self::Release(error) => match error {
                ReleaseError::NoToken => (S::UNAUTHORIZED, "TokenNotFound", error.to_string()),
                ReleaseError::Token(_) => {
                    (S::UNAUTHORIZED, "TokenVerifierError", error.to_string())
                }
                ReleaseError::Denied { .. } => (S::FORBIDDEN, "PolicyDeny", error.to_string()),
                ReleaseError::Missing => (S::NOT_FOUND, "ResourceNotFound", error.to_string()),
                ReleaseError::Key(_) => (S::BAD_REQUEST, "JweError", error.to_string()),
                ReleaseError::Store(error) => store(error),
                ReleaseError::Source {
                    event,
                    error: cause,
                } => {
                    tracing::error!(%event, error = %cause, "a source failed");
                    (
                        S::SERVICE_UNAVAILABLE,
                        "PluginInternalError",
                        error.to_string(),
                    )
                }
            },
            Self::Shadows { path, source } => (
                S::CONFLICT,
                "ResourceConflict",
                format!(
                    "{path} comes from {source}: change it there, or store it in front of that with ?shadow=true"
                ),
            ),
            // To admins only.
            Self::Source(error) => (
                S::SERVICE_UNAVAILABLE,
                "PluginInternalError",
                format!("whether a source has this resource cannot be told: {error}"),
            ),
            Self::NotFound(what) => (
                S::NOT_FOUND,
                "ResourceNotFound",
                format!("there is no such {what}"),
            ),
            Self::NoRoute => (
                S::NOT_FOUND,
                "InvalidRequestPath",
                "there is nothing at this path".into(),
            ),
            Self::NoPlugin(name) => (
                S::NOT_FOUND,
                "PluginNotFound",
                format!("there is no plugin {name:?}: the one plugin here is \"resource\""),
            ),
            Self::Method => (
                S::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "this path has no such method".into(),
            ),
            Self::Timeout => (
                S::REQUEST_TIMEOUT,
                "RequestTimeout",
                "the request took too long to arrive or to answer".into(),
            ),
            Self::TooLarge => (
                S::PAYLOAD_TOO_LARGE,
                "PayloadTooLarge",
                "the request body is larger than this broker allows".into(),
            ),
            Self::TooOften { .. } => (
                S::TOO_MANY_REQUESTS,
                "TooManyRequests",
                "too many attempts from this address: wait as long as Retry-After says".into(),
            ),
            Self::Busy => (
                S::SERVICE_UNAVAILABLE,
                "Busy",
                "too many attestations are under way: try again in the same session".into(),
            ),
            Self::Crowded => (
                S::SERVICE_UNAVAILABLE,
                "Busy",
                "too many large requests are under way: try again".into(),
            ),
            Self::Rehearsing => (
                S::SERVICE_UNAVAILABLE,
                "Busy",
                "another rehearsal is under way, and there is one at a time: try again".into(),
            ),
            Self::Store(error) => store(error),
            Self::Rotate(error @ (RotateError::Lacking { .. } | RotateError::Elsewhere { .. })) => {
                (S::CONFLICT, "StorageKeyShared", error.to_string())
            }
            Self::Rotate(RotateError::Store(
                error @ (StoreError::Away(_) | StoreError::Full(_) | StoreError::ReadOnly(_)),
            )) => store(error),
            // Only admins rotate, and they are to know what to do.
            Self::Rotate(error) => {
                tracing::error!(%error, "the storage key was not rotated to the end");
                (S::INTERNAL_SERVER_ERROR, "InternalError", error.to_string())
            }
            Self::Retention(RetentionError::Store(error)) => store(error),
            Self::Retention(error) => (S::CONFLICT, "AuditRetention", error.to_string()),
            Self::NoEvent { first } => (
                S::NOT_FOUND,
                "ResourceNotFound",
                format!(
                    "there is no such event: the record is kept from entry {first} on, and what came before was removed"
                ),
            ),
            Self::Panicked => (S::INTERNAL_SERVER_ERROR, "InternalError", INTERNAL.into()),
        }
    }
}

/// What is the broker's own fault goes to its log and not to the client.
fn internal(error: &dyn std::error::Error) -> (StatusCode, &'static str, String) {
    tracing::error!(%error, "a request failed");
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "InternalError",
        INTERNAL.into(),
    )
}

/// What the store says: what can be mended outside the broker is named.
fn store(error: &StoreError) -> (StatusCode, &'static str, String) {
    match error {
        StoreError::Away(_) | StoreError::KeyMoved => away(error),
        StoreError::Full(_) => full(error),
        StoreError::ReadOnly(_) => {
            tracing::error!(%error, "the store cannot be written");
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "StoreReadOnly",
                "the broker's store cannot be written, and nothing is done without a record of it: its owner makes it \
                 writable again"
                    .into(),
            )
        }
        _ => internal(error),
    }
}

/// Nothing is done without a record of it, and there is no room for one. RFC 4918, 11.5.
fn full(error: &dyn std::error::Error) -> (StatusCode, &'static str, String) {
    tracing::error!(%error, "the disk is full");
    (
        StatusCode::INSUFFICIENT_STORAGE,
        "StoreFull",
        "the disk under the broker's store is full, and nothing was written: when its owner has made room, ask again"
            .into(),
    )
}

/// What the store cannot do now it may do later. How it is away goes to the broker's log.
fn away(error: &dyn std::error::Error) -> (StatusCode, &'static str, String) {
    tracing::error!(%error, "the database is away");
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "StoreUnavailable",
        "the broker's database does not answer: try again later".into(),
    )
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind, detail) = self.answer();
        let retry_after = match self {
            Self::TooOften { seconds } => Some(seconds),
            Self::Busy | Self::Crowded | Self::Rehearsing => Some(1),
            _ => None,
        };
        let retry_after = retry_after.map(|seconds| [(RETRY_AFTER, seconds.to_string())]);
        let body = Json(ErrorInformation::new(kind, detail));
        (status, retry_after, body).into_response()
    }
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        Self::Admin(error)
    }
}

impl From<AttestError> for ApiError {
    fn from(error: AttestError) -> Self {
        Self::Attest(error)
    }
}

impl From<LoadError> for ApiError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Store(error) => error.into(),
            LoadError::Policy(error) => error.into(),
        }
    }
}

impl From<PolicyError> for ApiError {
    fn from(error: PolicyError) -> Self {
        Self::Policy(error)
    }
}

impl From<ReferenceValueError> for ApiError {
    fn from(error: ReferenceValueError) -> Self {
        Self::ReferenceValue(error)
    }
}

impl From<RotateError> for ApiError {
    fn from(error: RotateError) -> Self {
        Self::Rotate(error)
    }
}

impl From<RetentionError> for ApiError {
    fn from(error: RetentionError) -> Self {
        Self::Retention(error)
    }
}

impl From<SetAdminError> for ApiError {
    fn from(error: SetAdminError) -> Self {
        Self::SetAdmin(error)
    }
}

impl From<ReleaseError> for ApiError {
    fn from(error: ReleaseError) -> Self {
        Self::Release(error)
    }
}

impl From<ResourceError> for ApiError {
    fn from(error: ResourceError) -> Self {
        Self::Path(error)
    }
}

impl From<SourceError> for ApiError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<serde_json::Error> for ApiError {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(format!("the body is not the JSON expected here: {error}"))
    }
}

impl From<AttestationRequestError> for ApiError {
    fn from(error: AttestationRequestError) -> Self {
        Self::Stated(error)
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            _ => Self::Malformed("the body could not be read".to_owned()),
        }
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::Malformed(rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::Malformed(rejection.body_text())
    }
}

const INTERNAL: &str = "the broker failed; its owner finds the cause in its log";
