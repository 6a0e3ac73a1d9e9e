//! Who may ask for what on the admin listener.
//!
//! Enters: requests, and where the listener can be reached from. Leaves: the request, or a refusal. Must not touch: what is
//! answered.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, Method, StatusCode, Version};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Where a listener can be reached from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// This machine, browsers of its users included.
    Loopback,
    /// Whoever may open the socket.
    Unix,
    /// Other machines.
    Network,
}

/// GET and HEAD, and POST for what changes something.
pub(super) async fn methods(request: Request, next: Next) -> Response {
    let (reads, posts) = match request.uri().path() {
        super::hand::KILL => (false, true),
        super::hand::LOG_LEVEL => (true, true),
        _ => (true, false),
    };
    let fits = match *request.method() {
        Method::GET | Method::HEAD => reads,
        Method::POST => posts,
        _ => false,
    };
    if fits {
        return next.run(request).await;
    }
    let (allowed, words) = match (reads, posts) {
        (true, false) => ("GET, HEAD", "Only GET and HEAD are answered here.\n"),
        (false, _) => ("POST", "This changes something: only POST is answered here.\n"),
        (true, true) => ("GET, HEAD, POST", "Only GET, HEAD and POST are answered here.\n"),
    };
    (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, allowed)], words).into_response()
}

/// Only on this machine, and not for pages of other sites: what tells of single clients, and what changes something.
pub(super) async fn only_here(State(reach): State<Reach>, request: Request, next: Next) -> Response {
    if reach == Reach::Network {
        let advice = "This listener can be reached from other machines and asks nobody who they are, so it has only /livez, \
                      /readyz and /metrics. For the rest let `admin` be a loopback address or a unix socket.\n";
        return (StatusCode::FORBIDDEN, advice).into_response();
    }
    if is_from_another_site(request.method(), request.headers()) {
        return (StatusCode::FORBIDDEN, "A page of another site may not ask this.\n").into_response();
    }
    next.run(request).await
}

/// Browsers say which page a request comes from: in `Sec-Fetch-Site`, and older ones, with a POST, in `Origin`. To follow a
/// link to the status page is nobody's harm. What is no browser says neither.
fn is_from_another_site(method: &Method, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value: &http::HeaderValue| value.to_str().unwrap_or("?"));
    let follows_a_link = *method != Method::POST && text(SEC_FETCH_MODE) == Some("navigate");
    let stranger = text(SEC_FETCH_SITE).is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let other_origin = text(ORIGIN).is_some_and(|origin| {
        let of = origin.split_once("://").map(|(_, host)| host);
        of.is_none() || of != text(HOST)
    });
    (stranger && !follows_a_link) || other_origin
}

/// A page whose name was pointed at 127.0.0.1 (DNS rebinding) makes a browser on this machine ask us, with the page's
/// name as the host. On loopback therefore only addresses and `localhost`, which no page can be named, are ours.
/// A host that is missing or told twice is refused everywhere, as RFC 9112 section 3.2 demands.
pub(super) async fn known_hosts(State(reach): State<Reach>, request: Request, next: Next) -> Response {
    let mut told = request.headers().get_all(HOST).iter();
    let host = told.next();
    if told.next().is_some() || (host.is_none() && request.version() == Version::HTTP_11) {
        return (StatusCode::BAD_REQUEST, "A request has exactly one Host.\n").into_response();
    }
    // An absolute target has a host of its own; both must be good.
    let in_target = request.uri().authority().map(Authority::as_str);
    let in_header = host.map(|host| host.to_str().unwrap_or_default());
    if reach == Reach::Loopback && !in_target.into_iter().chain(in_header).all(is_local_name) {
        let advice = "On a loopback listener the Host must be an IP address or localhost.\n";
        return (StatusCode::FORBIDDEN, advice).into_response();
    }
    next.run(request).await
}

fn is_local_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    !host.contains('@') && (name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_this_listener_may_ask() {
        let asks = |method: Method, fields: &[(HeaderName, &str)]| {
            let mut headers = HeaderMap::from_iter([(HOST, "127.0.0.1:9090".parse().expect("a value"))]);
            headers.extend(fields.iter().map(|(name, value)| (name.clone(), value.parse().expect("a value"))));
            !is_from_another_site(&method, &headers)
        };
        let own = (ORIGIN, "http://127.0.0.1:9090");
        assert!(asks(Method::POST, &[]), "a command line");
        assert!(asks(Method::POST, &[own.clone(), (SEC_FETCH_SITE, "same-origin")]));
        assert!(asks(Method::GET, &[(SEC_FETCH_SITE, "none"), (SEC_FETCH_MODE, "navigate")]));
        assert!(asks(Method::GET, &[(SEC_FETCH_SITE, "cross-site"), (SEC_FETCH_MODE, "navigate")]), "a link");
        assert!(!asks(Method::POST, &[(SEC_FETCH_SITE, "cross-site"), (SEC_FETCH_MODE, "navigate")]), "a form");
        assert!(!asks(Method::POST, &[own, (SEC_FETCH_SITE, "same-site")]), "another port of this machine");
        assert!(!asks(Method::GET, &[(SEC_FETCH_SITE, "cross-site"), (SEC_FETCH_MODE, "no-cors")]), "an image");
        for origin in ["null", "http://127.0.0.1:8080", "https://evil.example"] {
            assert!(!asks(Method::POST, &[(ORIGIN, origin)]), "{origin}");
        }
    }
}
