//! What can go wrong between this side and a broker or guest.
//!
//! Texts name the cause and the next step. They carry addresses, names and the other side's own words, never a
//! token, a key or the body of a successful answer.

use strongroom_wire::error_information::ErrorInformation;

/// Why a request to a broker or a guest came to nothing.
///
/// `Clone`, because all callers that wait for one attestation get its one error.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address is not one this client may use.
    #[error("the address {url:?} cannot be used: {reason}")]
    BadUrl {
        /// The address, without user name and password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The root certificate given, or the machine's own roots, cannot be used.
    #[error("the root certificates cannot be used: {reason}")]
    BadRoots {
        /// What is wrong with them.
        reason: String,
    },
    /// No connection, or one that broke.
    #[error("{peer} cannot be reached: {reason}; check that it runs and that the address is right")]
    Unreachable {
        /// Scheme, host and port.
        peer: String,
        /// The network's words.
        reason: String,
    },
    /// TLS failed: the other side did not prove that it is who the address names.
    #[error(
        "{peer} did not prove its identity: {reason}; {trusted}, and check that it names this host"
    )]
    UntrustedPeer {
        /// Scheme, host and port.
        peer: String,
        /// The TLS library's words.
        reason: String,
        /// Which certificates were trusted, and what to do.
        trusted: &'static str,
    },
    /// The other side is there and cannot serve now.
    #[error("{peer} cannot serve now (status {status}): {detail}")]
    Unavailable {
        /// Scheme, host and port.
        peer: String,
        /// The HTTP status.
        status: u16,
        /// The other side's words.
        detail: String,
    },
    /// A guest could not do what it was asked, and says why in its own words.
    #[error("{detail} (says the guest at {peer})")]
    GuestFailed {
        /// The guest's address.
        peer: String,
        /// The HTTP status.
        status: u16,
        /// The guest's words.
        detail: String,
    },
    /// Something that is not the broker answered: a proxy, a load balancer, another web server.
    #[error(
        "{peer} answered status {status} with {content_type}, not with the protocol's error body: a proxy or another \
         server seems to answer at this address; it begins {excerpt:?}"
    )]
    NotTheBroker {
        /// Scheme, host and port.
        peer: String,
        /// The HTTP status.
        status: u16,
        /// The body's media type.
        content_type: String,
        /// The first words of the body, control characters removed.
        excerpt: String,
    },
    /// The thing asked for does not exist.
    #[error(
        "{what} does not exist: {detail}; ask the broker's owner to register it, or correct the name"
    )]
    NotFound {
        /// What was asked for.
        what: String,
        /// The other side's words.
        detail: String,
    },
    /// What an admin asked for does not exist.
    #[error("{what} does not exist: {detail}; {next}")]
    NoSuch {
        /// What was asked for.
        what: String,
        /// The other side's words.
        detail: String,
        /// Where what exists is listed.
        next: &'static str,
    },
    /// The broker's policy says no. Final: asking again changes nothing until its owner does.
    #[error("{what} is denied: {detail}")]
    Denied {
        /// What was asked for.
        what: String,
        /// The other side's words.
        detail: String,
    },
    /// The broker does not accept this machine's evidence.
    #[error(
        "the broker refuses this machine's evidence: {detail}; its owner's audit log has the whole reason"
    )]
    EvidenceRefused {
        /// The other side's words.
        detail: String,
    },
    /// The broker does not take the token, even a fresh one.
    #[error(
        "the broker does not take the attestation token: {detail}; its signing key may have changed, or the clocks differ"
    )]
    NotAttested {
        /// The other side's words.
        detail: String,
    },
    /// The broker does not take the admin's key, or the role may not do this.
    #[error(
        "{what}: the broker refuses this admin (status {status}): {detail}; check key file, name and role against its configuration"
    )]
    AdminRefused {
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The other side's words.
        detail: String,
    },
    /// The request itself is refused as malformed or unfitting.
    #[error("{what}: refused with status {status}: {detail}")]
    Rejected {
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The other side's words.
        detail: String,
    },
    /// An answer is longer than this client reads.
    #[error("{peer} sent more than {limit} bytes; the answer was not read further")]
    TooLarge {
        /// Scheme, host and port.
        peer: String,
        /// The most this client reads.
        limit: usize,
    },
    /// The answer does not follow the protocol.
    #[error("{peer} does not speak the protocol as expected: {reason}")]
    Protocol {
        /// Scheme, host and port.
        peer: String,
        /// What was expected.
        reason: String,
    },
    /// The encrypted answer does not open with the key that was attested.
    #[error("{what} came encrypted and does not open with the key made here: {reason}")]
    Undecryptable {
        /// What was asked for.
        what: String,
        /// The decoder's words.
        reason: String,
    },
    /// This machine could not make its evidence.
    #[error("this machine could not make its evidence: {reason}")]
    Evidence {
        /// The attester's words.
        reason: String,
    },
    /// The admin's key file cannot be used.
    #[error("the admin key cannot be used: {reason}")]
    BadAdminKey {
        /// What is wrong with it.
        reason: String,
    },
    /// The cryptographic library failed where it should not.
    #[error("cryptography failed while {doing}")]
    Crypto {
        /// What was being done.
        doing: &'static str,
    },
}

impl ClientError {
    /// Whether the same request may succeed a moment later. A denial, a missing resource, a wrong certificate may not.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Unavailable { .. } => true,
            Self::NotTheBroker { status, .. } => *status >= 500,
            // A guest's word for a broker that it does not reach.
            Self::GuestFailed { status, .. } => (502..=504).contains(status),
            _ => false,
        }
    }
}

/// What went wrong, in the words of an error body; never-panic entry for untrusted error bodies.
///
/// Kinds of upstream that share status 401 are told apart here: it answers a denial, a missing resource and a missing
/// token alike.
pub fn refusal(status: u16, body: &[u8]) -> Option<Refusal> {
    let error = ErrorInformation::parse(body)?;
    let detail = one_line(&error.detail, MAX_DETAIL);
    let cause = match (status, error.kind()) {
        (404, _) => Cause::NotFound,
        (403, _) | (401, "PolicyDeny") => Cause::Denied,
        // Upstream's answer to a resource that does not exist.
        (401, "PluginInternalError") => Cause::NotFound,
        (401, _) => Cause::Unauthenticated,
        (408 | 429 | 500.., _) => Cause::Unavailable,
        _ => Cause::Rejected,
    };
    Some(Refusal { cause, detail })
}

/// An error body, classified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// What it means for the caller.
    pub cause: Cause,
    /// The other side's words on one line.
    pub detail: String,
}

/// What an error body means for the caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// The thing asked for does not exist.
    NotFound,
    /// Policy says no.
    Denied,
    /// Token, cookie or admin key missing or not accepted.
    Unauthenticated,
    /// The other side cannot serve now.
    Unavailable,
    /// Any other refusal.
    Rejected,
}

/// Text of the other side made fit for one line of a terminal or a log.
pub(crate) fn one_line(text: &str, max_chars: usize) -> String {
    let mut line: String = text
        .chars()
        .take(max_chars)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(max_chars).is_some() {
        line.push('…');
    }
    line.trim().to_owned()
}

const MAX_DETAIL: usize = 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn upstream(status: u16, kind: &str) -> Cause {
        let body = serde_json::to_vec(&ErrorInformation::new(kind, "words")).unwrap();
        refusal(status, &body).unwrap().cause
    }

    #[test]
    fn upstream_denial_by_401_is_not_an_expired_token() {
        assert_eq!(upstream(401, "PolicyDeny"), Cause::Denied);
        assert_eq!(upstream(401, "TokenNotFound"), Cause::Unauthenticated);
    }

    #[test]
    fn upstream_missing_resource_by_401_is_missing() {
        assert_eq!(upstream(401, "PluginInternalError"), Cause::NotFound);
    }

    #[test]
    fn a_proxys_page_is_no_refusal() {
        assert_eq!(refusal(403, b"<html>blocked</html>"), None);
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        let body = serde_json::to_vec(&ErrorInformation::new("X", "a\u{1b}[2Jb\nc")).unwrap();
        assert_eq!(refusal(400, &body).unwrap().detail, "a [2Jb c");
    }

    #[test]
    fn a_wrong_certificate_is_not_retried() {
        let error = ClientError::UntrustedPeer {
            peer: "https://b".into(),
            reason: "UnknownIssuer".into(),
            trusted: "",
        };
        assert!(!error.is_transient());
    }

    #[test]
    fn a_guest_that_does_not_reach_its_broker_is_given_up() {
        let failed = |status| ClientError::GuestFailed {
            peer: String::new(),
            status,
            detail: String::new(),
        };
        assert!(failed(502).is_transient());
        assert!(!failed(500).is_transient());
    }

    #[test]
    fn a_proxys_bad_gateway_is_retried_and_its_forbidden_is_not() {
        let page = |status| ClientError::NotTheBroker {
            peer: String::new(),
            status,
            content_type: String::new(),
            excerpt: String::new(),
        };
        assert!(page(502).is_transient());
        assert!(!page(403).is_transient());
    }
}
