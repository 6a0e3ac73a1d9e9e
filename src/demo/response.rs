//! The demo server's HTTP responses, and what it reads from an opening handshake.
//!
//! Enters: a request head. Leaves: a complete response, or the parts of the handshake. Must not touch: sockets, tasks,
//! conversations, any other room.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;

use crate::demo::PAGE;

/// The page runs its own inline script and talks to its own origin, nothing else. `ws:` and `wss:` are named because
/// older Safari does not count them into `'self'`.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
     connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'",
);

/// Every body here is short and known in full.
pub(super) type FullResponse = Response<Full<Bytes>>;

/// The page at `/`; for any other path without a conversation, a 404 that lists the paths.
pub(super) fn page<B>(request: &Request<B>) -> FullResponse {
    if request.uri().path() != "/" {
        return text(StatusCode::NOT_FOUND, "nothing here: try / for the page, or a WebSocket on /echo, /clock, /chat");
    }
    // hyper omits the body of a response to HEAD.
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let response = text(StatusCode::METHOD_NOT_ALLOWED, "the page can only be read");
        return with(response, ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    let response = Response::new(Full::new(Bytes::from_static(PAGE.as_bytes())));
    let response = with(response, CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    let response = with(response, CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    with(response, CONTENT_SECURITY_POLICY, PAGE_POLICY)
}

/// The client's key, if this is an opening handshake that we can complete.
pub(super) fn handshake_key<B>(request: &Request<B>) -> Option<HeaderValue> {
    let headers = request.headers();
    let version = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let upgrades = has_token(headers, &UPGRADE, "websocket") && has_token(headers, &CONNECTION, "upgrade");
    let key = headers.get(SEC_WEBSOCKET_KEY)?;
    (request.method() == Method::GET && version && upgrades).then(|| key.clone())
}

/// Whether a list header names this token, in any case and in any of its lines.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// The first subprotocol offered; a browser that offered some gives up when none is chosen.
pub(super) fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let first = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?.split(',').next()?.trim();
    (!first.is_empty()).then(|| HeaderValue::from_str(first).ok())?
}

pub(super) fn upgrading(response: FullResponse) -> FullResponse {
    let response = with(response, UPGRADE, HeaderValue::from_static("websocket"));
    with(response, CONNECTION, HeaderValue::from_static("Upgrade"))
}

pub(super) fn text(status: StatusCode, line: &'static str) -> FullResponse {
    let mut response = Response::new(Full::new(Bytes::from(format!("{line}\n"))));
    *response.status_mut() = status;
    with(response, CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))
}

pub(super) fn with(mut response: FullResponse, name: HeaderName, value: HeaderValue) -> FullResponse {
    response.headers_mut().insert(name, value);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake() -> http::request::Builder {
        Request::get("/echo")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    #[test]
    fn tokens_count_in_any_case_and_in_any_place_of_the_list() {
        let request = handshake().header("connection", "keep-alive, UPGRADE").header("upgrade", "WebSocket");
        assert!(handshake_key(&request.body(()).expect("sound parts")).is_some());
        let lost = handshake().header("connection", "keep-alive").header("upgrade", "websocket");
        assert!(handshake_key(&lost.body(()).expect("sound parts")).is_none());
        assert!(handshake_key(&handshake().body(()).expect("sound parts")).is_none());
    }
}
