//! A line for each request, where the operator wants them (`log.requests`).
//!
//! Enters: a request's head and who asked; then the status of its answer. Leaves: one line, when the answer begins: streams
//! end much later, and say so themselves. Must not touch: queries, tokens, cookies: none of them is ever in a line.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, Method, Request, Response};
use tokio::time::Instant;

use super::error::Refusal;
use super::route::{Endpoint, Purpose};
use super::{Gateway, Routed};
use crate::http::body::Body;
use crate::registry::Found;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The public name of the session that a request has opened, in the extensions of its response.
#[derive(Clone, Debug)]
pub(super) struct OpenedSession(pub(super) Box<str>);

/// What is said of a request once its status is known.
pub(super) struct RequestLine {
    came: Instant,
    method: Method,
    path: String,
    host: String,
    client: String,
    session: Option<String>,
    trace: Option<String>,
}

impl RequestLine {
    /// Of a request that has just come; `None` where nobody wants to know.
    pub(super) fn of<B>(gateway: &Gateway, routed: &Routed, request: &Request<B>) -> Option<Box<Self>> {
        let Routed { live, peer, purpose, .. } = routed;
        if !live.config.log.requests {
            return None;
        }
        let (path, session) = told(gateway, purpose, request.uri().path());
        Some(Box::new(Self {
            came: Instant::now(),
            method: request.method().clone(),
            path: path.into_owned(),
            host: peer.host.clone(),
            client: peer.client_text(),
            session,
            trace: trace(request.headers()),
        }))
    }

    /// Its answer begins, or it was refused.
    pub(super) fn write(&self, responded: &Result<Response<Body>, Refusal>) {
        let Self { came, method, path, host, client, session, trace } = self;
        let status = responded.as_ref().map_or_else(|refusal| refusal.status, Response::status);
        let opened = responded.as_ref().ok().and_then(|response| response.extensions().get::<OpenedSession>());
        let session = session.as_deref().or(opened.map(|opened| &*opened.0));
        tracing::info!(
            client,
            host,
            method = method.as_str(),
            path,
            status = u64::from(status.as_u16()),
            ms = u64::try_from(came.elapsed().as_millis()).unwrap_or(u64::MAX),
            session,
            traceparent = trace,
            "request"
        );
    }
}

/// The path as it may be told, and the session that it is about.
fn told<'a>(gateway: &Gateway, purpose: &Purpose, path: &'a str) -> (Cow<'a, str>, Option<String>) {
    let Purpose::Endpoint(endpoint) = purpose else { return (path.into(), None) };
    match endpoint {
        Endpoint::Session { token, .. } => {
            let session = match gateway.registry.find(token) {
                Found::Here(session) => Some(session.id().to_owned()),
                _ => None,
            };
            (without_token(path), session)
        }
        // Whatever was meant, it may hold a token.
        Endpoint::Poll | Endpoint::Unknown => (without_token(path), None),
        _ => (path.into(), None),
    }
}

/// Everything behind `/s/` but the last segment is hidden.
fn without_token(path: &str) -> Cow<'_, str> {
    let Some(at) = path.find("/s/") else { return path.into() };
    let verb = path.rsplit('/').next().unwrap_or_default();
    // A token where the verb should be is none of these.
    let verb = if verb.len() <= 8 && verb.bytes().all(|byte| byte.is_ascii_lowercase()) { verb } else { "" };
    format!("{}/s/***/{verb}", &path[..at]).into()
}

/// The trace that a request belongs to (W3C Trace Context), if it is well formed.
fn trace(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(TRACEPARENT)?.to_str().ok()?;
    let parts: Vec<_> = value.split('-').collect();
    let is_hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lengths: Vec<_> = parts.iter().map(|part| part.len()).collect();
    (lengths == [2, 32, 16, 2] && parts.iter().all(is_hex)).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn no_part_of_a_token_is_told() {
        for (path, told) in [
            ("/_underpass/s/n1-abc/send", "/_underpass/s/***/send"),
            ("/_underpass/s/n1-abc", "/_underpass/s/***/"),
            ("/_underpass/s/n1-abc/x/n1-abc", "/_underpass/s/***/"),
            ("/_underpass/s/n1-abc/polls", "/_underpass/s/***/polls"),
            ("/_underpass/poll", "/_underpass/poll"),
        ] {
            assert_eq!(without_token(path), told);
        }
    }

    #[test]
    fn a_trace_is_told_as_it_came_if_it_is_one() {
        let of = |value: &'static str| trace(&HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_static(value))]));
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(of(good).as_deref(), Some(good));
        for bad in ["", "00-x", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", "password"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
