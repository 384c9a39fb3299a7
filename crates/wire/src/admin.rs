//! Claims of the token that an admin's requests carry: a short-lived JWT signed with `EdDSA` or ES256.

use serde::{Deserialize, Serialize};

/// The audience that a broker demands of admin tokens.
pub const AUDIENCE: &str = "strongroom-broker";

/// The longest life, in seconds, that a broker accepts between `iat` and `exp`.
pub const MAX_LIFETIME_SECONDS: u64 = 600;

/// What `use` says of a token that is good for as many requests as its life has room for.
pub const SESSION: &str = "session";

/// The longest life, in minutes, that a broker can be told to accept of such a token.
pub const MAX_SESSION_MINUTES: u64 = 60;

/// The claims of an admin token (RFC 7519).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AdminClaims {
    /// The admin's name, as the broker's configuration has it; it goes into the audit record.
    pub sub: String,
    /// What the admin asks to act as; must equal the role that the broker gave to the key.
    pub role: String,
    /// Who the token is for: [`AUDIENCE`].
    pub aud: String,
    /// Issued at, seconds since 1970.
    pub iat: u64,
    /// Expires at, seconds since 1970.
    pub exp: u64,
    /// A fresh random id.
    pub jti: String,
    /// [`SESSION`] of a token for more than one request, which a broker takes only where its configuration says so.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub usage: Option<String>,
}
