//! Which pages may use us: the origin rules of PROTOCOL 8, and CORS for configured origins.
//!
//! Enters: a request's `Origin`, the host it was sent to, the configured origins. Leaves: a verdict, and headers for the
//! answer. Must not touch: anything that is dialled or changed; it runs before all that.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    AUTHORIZATION, COOKIE, ORIGIN, REFERER, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::Origins;
use crate::config::pattern::matches;
use crate::listener::peer::Peer;

/// What a browser says of the page that a request is from (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

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
    if origins.allowed.iter().any(|named| matches(named, &lower)) {
        return Verdict::Allowed(value.clone());
    }
    if is_own(&lower, host) {
        return Verdict::Own;
    }
    let shown: String = text.chars().take(200).flat_map(char::escape_default).collect();
    Verdict::Refused(format!("pages of `{shown}` may not use this server: add that origin to `allowed_origins`"))
}

/// Judges a GET that opens a session. Pages of other sites can have one sent by an `<img>` or an `<iframe>`, with the
/// visitor's cookies and, over plain HTTP, without a word on where it comes from. So one that brings credentials has to
/// say so: by `Sec-Fetch-Site`, or by a `Referer` of our own origin.
pub(super) fn judge_opening_get(origins: &Origins, headers: &HeaderMap, host: &str) -> Verdict {
    let verdict = judge(origins, headers, host);
    let is_named = [&ORIGIN, &SEC_FETCH_SITE].into_iter().any(|name| headers.contains_key(name));
    let has_credentials = [COOKIE, AUTHORIZATION].iter().any(|name| headers.contains_key(name));
    if verdict != Verdict::Own
        || is_named
        || !has_credentials
        || origins.trust_unnamed
        || referer(headers, host).is_some()
    {
        return verdict;
    }
    let why = "a GET that opens a session with `Cookie` or `Authorization` must say which page it is from: send `Origin`, \
               `Sec-Fetch-Site: same-origin` or a `Referer` of this server, or set `trust_unnamed_origin`";
    Verdict::Refused(why.into())
}

/// The origin of the page that a request without `Origin` comes from, when it is our own page: browsers leave it out of a
/// GET to their own site, but never out of a WebSocket's handshake.
pub(super) fn page(headers: &HeaderMap, peer: &Peer) -> Option<HeaderValue> {
    let own = || format!("{}://{}", peer.proto, peer.host);
    let site = says_site(headers, &["same-origin"]);
    let origin = referer(headers, &peer.host).map(str::to_owned).or_else(|| site.then(own))?;
    HeaderValue::try_from(origin).ok()
}

/// The origin of a `Referer`, when it is our own.
fn referer<'a>(headers: &'a HeaderMap, host: &str) -> Option<&'a str> {
    let url = headers.get(REFERER)?.to_str().ok()?;
    let start = url.find("://")? + "://".len();
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    let origin = &url[..end];
    is_own(&origin.to_ascii_lowercase(), host).then_some(origin)
}

fn without_origin(origins: &Origins, headers: &HeaderMap) -> Verdict {
    if origins.require {
        return Verdict::Refused("the request has no `Origin`, which `require_origin` asks for".into());
    }
    // A browser leaves `Origin` out of some GETs; it tells then whose page it was.
    if says_site(headers, &["cross-site", "same-site"]) {
        return Verdict::Refused("the request comes from another site's page, without an `Origin`".into());
    }
    Verdict::Own
}

/// Whether one of these words is what a browser says of the page. It writes them in lower case; nobody gains by another.
fn says_site(headers: &HeaderMap, words: &[&str]) -> bool {
    let is = |value: &HeaderValue| {
        let value = value.as_bytes().trim_ascii();
        words.iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
    };
    headers.get_all(SEC_FETCH_SITE).iter().any(is)
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
    fn a_wildcard_among_origins_is_one_label() {
        let origins = Origins { allowed: vec!["https://*.app.example".into()], ..Origins::default() };
        let judged = |origin: &'static str| {
            let headers = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))]);
            judge(&origins, &headers, "a.example")
        };
        assert!(
            matches!(judged("https://Team.app.example"), Verdict::Allowed(origin) if origin == "https://Team.app.example")
        );
        for origin in
            ["https://app.example", "https://a.b.app.example", "http://a.app.example", "https://evilapp.example"]
        {
            assert!(matches!(judged(origin), Verdict::Refused(_)), "{origin}");
        }
    }

    #[test]
    fn a_get_that_opens_with_credentials_says_where_it_is_from() {
        let get = |fields: &[(&'static str, &'static str)], trusting: bool| {
            let origins = Origins { trust_unnamed: trusting, ..Origins::default() };
            let fields =
                fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            judge_opening_get(&origins, &fields.collect(), "a.example:8080")
        };
        let cookie = ("cookie", "session=1");
        for more in [
            ("referer", "http://a.example:8080/page?x"),
            ("referer", "http://A.example:8080"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "none"),
            ("origin", "http://a.example:8080"),
        ] {
            assert_eq!(get(&[cookie, more], false), Verdict::Own, "{more:?}");
        }
        for more in [
            ("referer", "http://evil.example/"),
            ("referer", "http://a.example:8080@evil.example/"),
            ("referer", "http://a.example/"),
            ("referer", "a.example:8080"),
            ("sec-fetch-site", "cross-site"),
            ("accept", "text/event-stream"),
        ] {
            for credentials in [cookie, ("authorization", "Basic YTpi")] {
                assert!(matches!(get(&[credentials, more], false), Verdict::Refused(_)), "{credentials:?} {more:?}");
            }
        }
        assert_eq!(get(&[cookie], true), Verdict::Own);
        assert_eq!(get(&[("accept", "text/event-stream")], false), Verdict::Own);
    }

    #[test]
    fn a_missing_origin_passes_unless_required_or_told_to_be_foreign() {
        let (mut headers, mut origins) = (HeaderMap::new(), Origins::default());
        assert_eq!(judge(&origins, &headers, "a"), Verdict::Own);
        for foreign in ["cross-site", "Cross-Site", "same-site", "SAME-SITE"] {
            headers.insert("sec-fetch-site", HeaderValue::from_static(foreign));
            assert!(matches!(judge(&origins, &headers, "a"), Verdict::Refused(_)), "{foreign}");
        }
        headers.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
        assert_eq!(judge(&origins, &headers, "a"), Verdict::Own);
        origins.require = true;
        assert!(matches!(judge(&origins, &headers, "a"), Verdict::Refused(_)));
    }
}
