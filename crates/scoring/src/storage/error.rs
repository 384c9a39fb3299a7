//! What can go wrong with a storage, in words of our own.
//!
//! No text of a storage or of a library is repeated: either may hold the address with its token, or whatever a server
//! that nobody trusts would like to see in a log. An answer is told by its number, and by the storage's own short code
//! when that is a plain word which was not in the request.

use std::io;
use std::time::Duration;

/// An operation on a location that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{location}: {cause}")]
pub struct StorageError {
    /// The location, without credentials.
    pub location: String,
    /// Why.
    pub cause: Cause,
}

impl StorageError {
    pub(super) fn new(location: impl std::fmt::Display, cause: Cause) -> Self {
        Self {
            location: location.to_string(),
            cause,
        }
    }

    /// Whether there is nothing at the location.
    pub fn is_not_found(&self) -> bool {
        matches!(self.cause, Cause::NotFound)
    }
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        let kind = match &error.cause {
            Cause::NotFound => io::ErrorKind::NotFound,
            Cause::Denied { .. } => io::ErrorKind::PermissionDenied,
            Cause::Exists => io::ErrorKind::AlreadyExists,
            Cause::Silent { .. } | Cause::Slow { .. } => io::ErrorKind::TimedOut,
            Cause::Cut { .. } => io::ErrorKind::UnexpectedEof,
            Cause::Local { kind, .. } => *kind,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Why an operation failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// There is nothing here.
    #[error("there is nothing here: check the name, and that it was uploaded")]
    NotFound,
    /// A folder or a pattern that means no file, while there are files below.
    #[error(
        "there are folders here and no file that is meant: write NAME/** for everything below, or NAME/*/*.csv"
    )]
    OnlyBelow,
    /// A listing has a name that is not taken.
    #[error("the name \"{}\" is there, which is refused (a part that is empty, . or .., or characters that do not print): rename it, or name the files that are meant", crate::shown(.0))]
    Name(String),
    /// The storage does not let this credential do it.
    #[error("the storage refuses it ({}): {advice}", answer(*.status, .code.as_deref()))]
    Denied {
        /// The HTTP status.
        status: u16,
        /// The storage's own word.
        code: Option<String>,
        /// What to look at, depending on the storage and on what was sent.
        advice: String,
    },
    /// The storage says no for another reason.
    #[error("the storage answers {}{}", answer(*.status, .code.as_deref()), tried(*.attempts))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The storage's own word.
        code: Option<String>,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
        /// How often it was asked.
        attempts: u32,
    },
    /// No connection.
    #[error("no connection ({reason}){}: check the address, the network and the proxy's variables", tried(*.attempts))]
    Unreachable {
        /// The innermost reason.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The other side is not who the address names.
    #[error(
        "the other side cannot be trusted ({reason}): for a private certificate authority, name its PEM file with --storage-ca"
    )]
    Untrusted {
        /// What TLS says.
        reason: String,
    },
    /// Nothing came for a while.
    #[error("nothing came from the storage for {} s{}", .limit.as_secs_f32(), tried(*.attempts))]
    Silent {
        /// How long was waited.
        limit: Duration,
        /// How often it was tried.
        attempts: u32,
    },
    /// It comes, but not in useful time.
    #[error("the storage sent {got} of {wanted} bytes within {} s, which is too slow to go on", .limit.as_secs_f32())]
    Slow {
        /// What came.
        got: u64,
        /// What was asked for.
        wanted: u64,
        /// In this time.
        limit: Duration,
    },
    /// The body ended before its end, each time.
    #[error("the download broke off: {got} of {wanted} bytes came{}", tried(*.attempts))]
    Cut {
        /// What came of the range.
        got: u64,
        /// How much the range has.
        wanted: u64,
        /// How often it was tried.
        attempts: u32,
    },
    /// Another version is there now.
    #[error(
        "it was replaced or removed while it was read: nothing of the two versions is mixed; start again"
    )]
    Changed,
    /// The server knows no ranges.
    #[error(
        "the server knows no byte ranges, and the object has {size} bytes: copy it to a file or to a storage first"
    )]
    NoRanges {
        /// The object's size.
        size: u64,
    },
    /// The server gives no length.
    #[error("the server does not say how long it is: copy it to a file or to a storage first")]
    NoLength,
    /// The server gives nothing by which a replaced object is told.
    #[error(
        "the server gives neither an ETag nor a date, so a change in mid-read would go unnoticed: copy it to a file or to a storage first"
    )]
    NoVersion,
    /// Other bytes than asked for.
    #[error(
        "the server sends other bytes than those asked for ({wanted}): its Content-Range says {got}"
    )]
    WrongRange {
        /// The range asked for.
        wanted: String,
        /// The range given.
        got: String,
    },
    /// A range of nothing.
    #[error("the server says that the range lies beyond the end")]
    BeyondEnd {
        /// The size, when it says so.
        size: Option<u64>,
    },
    /// The server sends us elsewhere.
    #[error(
        "the server redirects ({status}), which is not followed here: give the address itself, with https://"
    )]
    Redirected {
        /// The HTTP status.
        status: u16,
    },
    /// Somebody has written there.
    #[error("it exists already: choose another name, or replace it with --force")]
    Exists,
    /// More than is read here.
    #[error("it is larger than the {limit} bytes that are read here")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// More than may be listed or written.
    #[error("{0}")]
    TooMany(String),
    /// An answer in no form that is known.
    #[error(
        "the storage's answer is not understood ({0}): is this address a storage of that kind?"
    )]
    NotUnderstood(&'static str),
    /// What this kind of location cannot do.
    #[error("{0}")]
    Unsupported(&'static str),
    /// A setting that does not work.
    #[error("{0}")]
    Settings(String),
    /// The disk.
    #[error("{reason}")]
    Local {
        /// What kind.
        kind: io::ErrorKind,
        /// The system's words.
        reason: String,
    },
    /// The work was ended from outside.
    #[error("it was stopped")]
    Stopped,
}

impl Cause {
    /// Whether the next attempt may fare better.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Refused { status, code, .. } => {
                matches!(status, 408 | 429 | 500 | 502..=599)
                    || (*status == 409
                        && matches!(
                            code.as_deref(),
                            Some("ConditionalRequestConflict" | "OperationAborted")
                        ))
            }
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Cut { .. } => true,
            _ => false,
        }
    }

    /// Whether the storage may have done what was asked, and only its answer got lost.
    pub(super) fn is_ambiguous(&self) -> bool {
        matches!(
            self,
            Self::Silent { .. } | Self::Cut { .. } | Self::Unreachable { .. }
        ) || matches!(self, Self::Refused { status, .. } if *status >= 500)
    }

    /// The same after so many attempts.
    pub(super) fn after(mut self, tried: u32) -> Self {
        if let Self::Refused { attempts, .. }
        | Self::Unreachable { attempts, .. }
        | Self::Silent { attempts, .. }
        | Self::Cut { attempts, .. } = &mut self
        {
            *attempts = tried;
        }
        self
    }

    /// How long the storage asks to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::Exists,
            kind => Self::Local {
                kind,
                reason: error.to_string(),
            },
        }
    }
}

fn answer(status: u16, code: Option<&str>) -> String {
    match code {
        Some(code) => format!("{status} {code}"),
        None => status.to_string(),
    }
}

fn tried(attempts: u32) -> String {
    match attempts {
        0 | 1 => String::new(),
        attempts => format!(" in {attempts} attempts"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_not_counted_in_the_text() {
        let cause = Cause::Refused {
            status: 503,
            code: Some("SlowDown".to_owned()),
            retry_after: None,
            attempts: 0,
        };
        assert!(cause.may_pass());
        let text = StorageError::new("s3://b/k", cause.after(6)).to_string();
        assert_eq!(
            text,
            "s3://b/k: the storage answers 503 SlowDown in 6 attempts"
        );
    }

    #[test]
    fn refusal_is_tried_again() {
        for cause in [
            Cause::NotFound,
            Cause::Changed,
            Cause::Exists,
            Cause::NoLength,
        ] {
            assert!(!cause.may_pass(), "{cause}");
        }
        let conflict = |code: &str| Cause::Refused {
            status: 409,
            code: Some(code.to_owned()),
            retry_after: None,
            attempts: 0,
        };
        assert!(conflict("ConditionalRequestConflict").may_pass());
        assert!(!conflict("BlobAlreadyExists").may_pass());
        let not_implemented = Cause::Refused {
            status: 501,
            code: None,
            retry_after: None,
            attempts: 0,
        };
        assert!(!not_implemented.may_pass());
    }
}
