//! Logins that belong to a connection. Pure.
//!
//! Enters: the fields of a request or of a response. Leaves: whether they speak of such a login. Must not touch: who is who;
//! that is between client and backend.
//!
//! A scheme of HTTP authenticates each request by itself (RFC 9110 section 11). NTLM and Negotiate as Windows servers mean
//! them (RFC 4559) authenticate the connection instead: after a few steps everything on it is that user's. A scheme that is
//! not known to be of the first kind is taken for one of the second: that costs a connection, and the opposite would give
//! one client another's identity.

use http::header::{AUTHORIZATION, HeaderName, HeaderValue, PROXY_AUTHENTICATE, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};

/// Schemes in which each request stands for itself: those of IANA's registry, and what services have made beside it.
const PER_REQUEST: [&str; 36] = [
    "basic",
    "bearer",
    "concealed",
    "digest",
    "dpop",
    "gnap",
    "hoba",
    "mutual",
    "oauth",
    "privatetoken",
    "scram-sha-1",
    "scram-sha-256",
    "vapid",
    "acs3-hmac-sha256",
    "api-key",
    "api_key",
    "apikey",
    "aws",
    "aws3",
    "aws4-ecdsa-p256-sha256",
    "aws4-hmac-sha256",
    "bot",
    "genie-key",
    "googlelogin",
    "hawk",
    "hmac",
    "jwt",
    "key",
    "mac",
    "pveapitoken",
    "sharedaccesssignature",
    "sharedkey",
    "sharedkeylite",
    "signature",
    "tc3-hmac-sha256",
    "token",
];

/// Whether the request speaks a login that belongs to its connection.
pub(super) fn speaks(request: &HeaderMap) -> bool {
    request.get_all(AUTHORIZATION).iter().any(|value| {
        let value = value.as_bytes();
        let scheme = value.split(|byte| *byte == b' ').next().unwrap_or_default();
        // A lone word is no scheme with credentials behind it: some services take a bare token.
        is_connections(scheme) && (scheme.len() < value.len() || is_known(scheme))
    })
}

/// Whether the response asks for such a login, or goes on with it.
pub(super) fn asks(status: StatusCode, response: &HeaderMap) -> bool {
    let field = match status {
        StatusCode::UNAUTHORIZED => WWW_AUTHENTICATE,
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => PROXY_AUTHENTICATE,
        _ => return false,
    };
    challenges(response, &field).any(is_connections)
}

/// The schemes that are offered: the first word of a challenge, which stands at the beginning of a field's line or behind a
/// comma. A parameter has a `=` in its word, a token68 stands behind a scheme.
fn challenges<'a>(headers: &'a HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(field)
        .iter()
        .flat_map(|line: &HeaderValue| line.as_bytes().split(|byte| *byte == b','))
        .map(|part| part.trim_ascii_start().split(|byte| *byte == b' ').next().unwrap_or_default())
        .filter(|word| !word.is_empty() && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)))
}

fn is_connections(scheme: &[u8]) -> bool {
    !PER_REQUEST.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(scheme))
}

/// Those that are met.
fn is_known(scheme: &[u8]) -> bool {
    ["ntlm", "negotiate", "kerberos", "nego2"].iter().any(|known| known.as_bytes().eq_ignore_ascii_case(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_login_of_the_connection_is_known_by_its_scheme() {
        for (value, expected) in [
            ("NTLM TlRMTVNTUAAB", true),
            ("negotiate YII=", true),
            ("Negotiate", true),
            ("Kerberos x", true),
            ("Something-New x", true),
            ("Basic dTpw", false),
            ("bearer eyJ", false),
            ("AWS4-HMAC-SHA256 Credential=x", false),
            ("0123456789abcdef", false),
            ("", false),
        ] {
            assert_eq!(speaks(&fields(AUTHORIZATION, &[value])), expected, "{value}");
        }
        assert!(!speaks(&HeaderMap::new()));
    }

    #[test]
    fn an_offer_is_found_among_others() {
        for (values, expected) in [
            (&["Negotiate", "NTLM"][..], true),
            (&["Basic realm=\"a, b\", NTLM"], true),
            (&["NTLM TlRMTVNTUAACAAAA=="], true),
            (&["Basic realm=\"a\", charset=\"UTF-8\""], false),
            (&["Digest realm=\"a\", qop=\"auth\", nonce=\"x\"", "Bearer"], false),
        ] {
            assert_eq!(asks(StatusCode::UNAUTHORIZED, &fields(WWW_AUTHENTICATE, values)), expected, "{values:?}");
        }
        assert!(!asks(StatusCode::OK, &fields(WWW_AUTHENTICATE, &["NTLM"])));
        assert!(asks(StatusCode::PROXY_AUTHENTICATION_REQUIRED, &fields(PROXY_AUTHENTICATE, &["NTLM"])));
    }
}
