//! The self-test's requests: its page, what arrived of a request, and a WebSocket that we answer ourselves.
//!
//! Enters: a request under `selftest`, when that is on. Leaves: a response, or a fault. Must not touch: the conversation
//! itself and the page (`crate::selftest`); secrets, of which only the names are told.

use std::sync::Arc;

use http::header::{CONTENT_SECURITY_POLICY, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use http::{HeaderMap, Response, StatusCode, request};
use hyper::body::Body as _;
use serde_json::{Value, json};

use super::endpoints::Call;
use super::route::Selftest;
use super::{BoxRequest, beside, forwarded};
use crate::config::Config;
use crate::http::body::{Body, response};
use crate::selftest;
use crate::transport::Fault;
use crate::upstream::dial::Dialer;
use crate::upstream::headers::{tunnel_handshake, wants_upgrade};

/// Fields whose values may be told: they say what proxies on the way do, and hold no secret.
const TOLD: &[&str] = &[
    "accept",
    "accept-encoding",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "forwarded",
    "host",
    "pragma",
    "te",
    "transfer-encoding",
    "user-agent",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// The path of the self-test's WebSocket, and who answers there.
pub(super) fn conversation(config: &Config) -> (String, Arc<Dialer>) {
    let path = format!("{}/selftest/talk", config.prefix);
    (path, Arc::new(Dialer::inside("the self-test", &config.backend, selftest::talk)))
}

impl Call<'_> {
    /// A request under `selftest`.
    pub(super) async fn selftest(&self, request: BoxRequest, what: Selftest) -> Result<Response<Body>, Fault> {
        match what {
            Selftest::Page => Ok(page()),
            Selftest::Seen => self.seen(request).await,
            Selftest::Talk => self.talk(request).await,
        }
    }

    /// `selftest/seen`: the request as it arrived here.
    async fn seen(&self, request: BoxRequest) -> Result<Response<Body>, Fault> {
        let (head, body) = request.into_parts();
        let body = self.small_body(body).await?.len();
        let told = json!({
            "server": concat!("underpass/", env!("CARGO_PKG_VERSION")),
            "talk": self.live.selftest.as_ref().map(|(path, _)| path),
            "method": head.method.as_str(),
            "version": format!("{:?}", head.version),
            "proto": self.peer.proto,
            "client": self.peer.client.map(|client| client.to_string()),
            "body": body,
            "headers": shown(&head.headers),
        });
        Ok(response(StatusCode::OK, "application/json", told.to_string()))
    }

    /// `selftest/talk`: passed through as any WebSocket is, but to ourselves.
    async fn talk(&self, request: BoxRequest) -> Result<Response<Body>, Fault> {
        if !wants_upgrade(request.headers(), request.version()) {
            return Err(Fault::UpgradeLost);
        }
        let version = request.headers().get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
        if !version || !request.headers().contains_key(SEC_WEBSOCKET_KEY) || !request.body().is_end_stream() {
            return Err(Fault::BadRequest("this is no WebSocket handshake of version 13".into()));
        }
        let Some((_, dialer)) = &self.live.selftest else {
            return Err(Fault::BadRequest("the self-test is off".into()));
        };
        let (head, _): (request::Parts, _) = request.into_parts();
        let handshake = tunnel_handshake(&head, &forwarded(self.peer));
        beside::tunnel_to(dialer, self.gateway, self.live, handshake).await.map_err(|error| Fault::Open(error.into()))
    }
}

fn page() -> Response<Body> {
    let page = selftest::page();
    let mut response = response(StatusCode::OK, "text/html; charset=utf-8", page.html);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, page.policy);
    response
}

/// Names of all fields with the values of those that may be told; the others have `null`.
fn shown(headers: &HeaderMap) -> Vec<Value> {
    let value = |name: &str, value: &http::HeaderValue| {
        TOLD.contains(&name).then(|| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    headers.iter().map(|(name, field)| json!([name.as_str(), value(name.as_str(), field)])).collect()
}
