//! Which pages may use us: the origin rules of PROTOCOL 8, and CORS for configured origins.
//!
//! Enters: a request's `Origin`, the host it was sent to, the configured origins. Leaves: a verdict, and headers for the
//! answer. Must not touch: anything that is dialled or changed; it runs before all that.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue};

use crate::config::Origins;

/// Whose page a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Our own, or none is named and none is needed.
    Own,
    /// A configured one; the answer carries CORS headers for it.
    Allowed(HeaderValue),
    /// Refused, and why.
    Refused(String),
}

/// Judges a request. `host` is what the client asked for. Of our own origin only host and port are compared: behind a
/// proxy that ends TLS we do not know the scheme.
pub(super) fn judge(origins: &Origins, headers: &HeaderMap, host: &str) -> Verdict {
    let mut named = headers.get_all(ORIGIN).iter();
    let (origin, second) = (named.next(), named.next());
    if second.is_some() {
        return Verdict::Refused("the request has more than one `Origin`".into());
    }
    let Some(value) = origin else { return without_origin(origins, headers) };
    let text = value.to_str().unwrap_or_default();
    let lower = text.to_ascii_lowercase();
    if origins.allowed.contains(&lower) {
        return Verdict::Allowed(value.clone());
    }
    if is_own(&lower, host) {
        return Verdict::Own;
    }
    let shown: String = text.chars().take(200).flat_map(char::escape_default).collect();
    Verdict::Refused(format!("pages of `{shown}` may not use this server: add that origin to `allowed_origins`"))
}

fn without_origin(origins: &Origins, headers: &HeaderMap) -> Verdict {
    if origins.require {
        return Verdict::Refused("the request has no `Origin`, which `require_origin` asks for".into());
    }
    // A browser leaves `Origin` out of some GETs; it tells then whose page it was.
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if matches!(site, Some(b"cross-site" | b"same-site")) {
        return Verdict::Refused("the request comes from another site's page, without an `Origin`".into());
    }
    Verdict::Own
}

fn is_own(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default = match scheme {
        "http" => "80",
        "https" => "443",
        _ => return false,
    };
    let host = host.to_ascii_lowercase();
    let (host_name, host_port) = split_port(&host);
    let (name, port) = split_port(authority);
    // Without a port in `Host`, the client used the default of its scheme, which is the origin's.
    !name.is_empty() && name == host_name && port.unwrap_or(default) == host_port.unwrap_or(default)
}

/// Name and port of an authority; an IPv6 address keeps its brackets.
pub(super) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (authority, None),
    }
}

/// Headers that let the page of an allowed origin read the answer. `Vary` goes on every answer once origins are
/// configured: it is then not the same for everybody.
pub(super) fn mark(origins: &Origins, verdict: &Verdict, headers: &mut HeaderMap) {
    if !origins.allowed.is_empty() {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    let Verdict::Allowed(origin) = verdict else { return };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After"));
    if origins.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// What a preflight asks for beyond [`mark`].
pub(super) fn mark_preflight(request: &HeaderMap, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    if let Some(asked) = request.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(origin: &str, host: &str) -> Verdict {
        let origins = Origins { allowed: vec!["https://app.example".into()], ..Origins::default() };
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, HeaderValue::from_str(origin).expect("a header value"));
        judge(&origins, &headers, host)
    }

    #[test]
    fn our_own_origin_passes_whatever_the_scheme_and_default_port() {
        for (origin, host) in [
            ("http://a.example", "a.example"),
            ("https://a.example", "a.example"),
            ("https://a.example", "a.example:443"),
            ("http://A.example:8080", "a.EXAMPLE:8080"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("http://[::1]", "[::1]"),
        ] {
            assert_eq!(verdict(origin, host), Verdict::Own, "{origin} at {host}");
        }
    }

    #[test]
    fn foreign_origins_are_refused() {
        for origin in [
            "null",
            "",
            "https://evil.example",
            "https://sub.a.example",
            "https://evil-a.example",
            "https://a.example.",
            "https://a.example:444",
            "http://a.example:8080",
            "https://a.example.evil.example",
            "https://app.example:8443",
            "http://app.example",
            "file://a.example",
            "a.example",
        ] {
            assert!(matches!(verdict(origin, "a.example"), Verdict::Refused(_)), "{origin}");
        }
    }

    #[test]
    fn configured_origins_pass_in_any_case() {
        assert!(matches!(verdict("https://APP.example", "a.example"), Verdict::Allowed(_)));
    }

    #[test]
    fn a_missing_origin_passes_unless_required_or_told_to_be_foreign() {
        let (mut headers, mut origins) = (HeaderMap::new(), Origins::default());
        assert_eq!(judge(&origins, &headers, "a"), Verdict::Own);
        headers.insert("sec-fetch-site", HeaderValue::from_static("cross-site"));
        assert!(matches!(judge(&origins, &headers, "a"), Verdict::Refused(_)));
        headers.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
        assert_eq!(judge(&origins, &headers, "a"), Verdict::Own);
        origins.require = true;
        assert!(matches!(judge(&origins, &headers, "a"), Verdict::Refused(_)));
    }
}
