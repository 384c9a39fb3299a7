//! Who asks: the session cookie, the Bearer token, the admin behind it.

use std::sync::Arc;

use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::{HeaderMap, HeaderValue};
use strongroom_wire::kbs::SESSION_COOKIE;
use time::OffsetDateTime;
use time::macros::format_description;

use super::error::ApiError;
use crate::Inner;
use crate::admin::Admin;
use crate::audit::{Kind, Outcome, Record};
use crate::config::{Loosening, Role};
use crate::session::SessionId;
use crate::strangers::PER_SECOND;

/// The session that the cookie names, if it has the form of one.
pub(super) fn session(headers: &HeaderMap) -> Option<SessionId> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == SESSION_COOKIE).then(|| value.trim().parse().ok())?)
}

/// Whether any bytes are taken for a session's cookie.
pub(crate) fn session_cookie(value: &[u8]) -> bool {
    let mut headers = HeaderMap::new();
    HeaderValue::from_bytes(value).is_ok_and(|value| {
        headers.insert(COOKIE, value);
        session(&headers).is_some()
    })
}

/// The token after `Bearer`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// The token of a guest: of its attested session first, else the one it shows.
pub(super) fn guest_token(broker: &Inner, headers: &HeaderMap, now: u64) -> Option<Arc<str>> {
    session(headers)
        .and_then(|id| broker.sessions().token(&id, now))
        .or_else(|| bearer(headers).map(Arc::from))
}

/// The admin who asks for `action`, which is for these roles. A request that is not such an admin's goes into the record
/// and is refused.
pub(super) async fn admin(
    broker: &Arc<Inner>,
    headers: &HeaderMap,
    action: &'static str,
    roles: &'static [Role],
) -> Result<Admin, ApiError> {
    let now = broker.now();
    let admins = &broker.admins;
    let refusal = match admins
        .authenticate(bearer(headers), action, roles, now)
        .await
    {
        Ok(Ok(admin)) => return Ok(admin),
        Ok(Err(wrong)) => ApiError::WrongRole(wrong),
        Err(error) => ApiError::Admin(error),
    };
    broker
        .blocking(move |broker| {
            let mut record = Record::new(Kind::Admin, Outcome::Denied, action, now);
            match &refusal {
                ApiError::WrongRole(wrong) => {
                    record.admin = Some(wrong.admin.name().to_owned());
                    record.detail = Some(wrong.to_string());
                    // Everybody in a company may have a token of its identity provider.
                    match wrong.is_nobody() {
                        true => drop(broker.record_stranger(record, PER_SECOND)),
                        false => broker.record(record),
                    }
                }
                ApiError::Admin(error) => {
                    record.detail = Some(error.to_string());
                    broker.record_stranger(record, PER_SECOND);
                }
                _ => {}
            }
            Err(refusal)
        })
        .await
}

/// The record of what an admin did.
pub(super) fn admin_record(broker: &Inner, admin: &Admin, now: u64) -> Record {
    let mut record = Record::new(Kind::Admin, Outcome::Allowed, admin.action(), now);
    record.admin = Some(admin.name().to_owned());
    record.loosenings = broker.connection_loosenings();
    if admin.is_reusable() {
        let name = Loosening::ReusableAdminTokens.name();
        record.loosenings.push(name.to_owned());
    }
    record
}

/// Records that an admin looked at what the record says of others. Whoever asked is answered also where that fails: a disk that
/// is full is looked into by reading.
pub(super) fn record_reading(broker: &Inner, admin: &Admin, what: Option<&str>) {
    let mut record = admin_record(broker, admin, broker.now());
    record.detail = what.map(|what| what.chars().take(MAX_DETAIL).collect());
    broker.record(record);
}

/// The `Set-Cookie` of a session: for the KBS paths alone, out of reach of scripts and of other sites.
pub(super) fn cookie(broker: &Inner, id: &SessionId, now: u64) -> HeaderValue {
    let lifetime = broker.config.session.lifetime_seconds;
    let secure = if broker.config.insecure_http {
        ""
    } else {
        "; Secure"
    };
    let text = format!(
        "{SESSION_COOKIE}={}; Path=/kbs; Max-Age={lifetime}; Expires={}; HttpOnly; SameSite=Strict{secure}",
        id.to_text(),
        http_date(now.saturating_add(lifetime)),
    );
    HeaderValue::from_str(&text).expect("the cookie is printable ASCII")
}

/// RFC 9110, 5.6.7: `Sun, 22 Nov 2026 17:35:03 GMT`.
fn http_date(seconds: u64) -> String {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|date| date.format(format).ok())
        .unwrap_or_else(|| "Thu, 01 Jan 1970 00:00:00 GMT".to_owned())
}

const MAX_DETAIL: usize = 256;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(name: axum::http::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn cookie_is_found_among_others() {
        let id = "0f".repeat(49);
        for values in [
            vec![format!("kbs-session-id={id}")],
            vec![format!("a=b; kbs-session-id={id}; c=d")],
            vec!["a=b".to_owned(), format!(" kbs-session-id={id} ")],
        ] {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            assert_eq!(session(&headers(COOKIE, &values)).unwrap().to_text(), id);
        }
    }

    #[test]
    fn cookie_of_another_form_is_none() {
        for value in [
            "",
            "kbs-session-id=",
            "kbs-session-id=../../x",
            "xkbs-session-id=00",
            "kbs-session-id",
        ] {
            assert!(session(&headers(COOKIE, &[value])).is_none(), "{value}");
        }
    }

    #[test]
    fn scheme_is_bearer_in_any_case_and_nothing_else() {
        assert_eq!(bearer(&headers(AUTHORIZATION, &["bearer t"])), Some("t"));
        assert_eq!(bearer(&headers(AUTHORIZATION, &["Basic t"])), None);
        assert_eq!(bearer(&headers(AUTHORIZATION, &["t"])), None);
    }

    #[test]
    fn date_has_the_form_of_http() {
        assert_eq!(http_date(1_795_368_903), "Sun, 22 Nov 2026 17:35:03 GMT");
    }
}
