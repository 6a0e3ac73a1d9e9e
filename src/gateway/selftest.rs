//! The self-test's requests: its resources, and a WebSocket that we answer ourselves.
//!
//! Enters: a request under `selftest`, when that is on. Leaves: a response, or a fault. Must not touch: the conversation
//! itself and the resources (`crate::selftest`).

use std::sync::Arc;

use axum::body::to_bytes;
use http::header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use http::{Request, Response, Uri, request};
use hyper::body::Body as _;
use tower::ServiceExt as _;

use super::endpoints::Call;
use super::route::Selftest;
use super::{BoxRequest, beside, forwarded};
use crate::config::Config;
use crate::http::body::Body;
use crate::selftest::{self, Asker};
use crate::transport::Fault;
use crate::upstream::dial::Dialer;
use crate::upstream::headers::{tunnel_handshake, wants_upgrade};

/// The largest response of a resource, in bytes: the page.
const MAX_RESOURCE: usize = 64 * 1024;

/// The path of the self-test's WebSocket, and who answers there.
pub(super) fn conversation(config: &Config) -> (String, Arc<Dialer>) {
    let path = format!("{}/selftest/talk", config.prefix);
    (path, Arc::new(Dialer::inside("the self-test", &config.backend, selftest::talk)))
}

impl Call<'_> {
    /// A request under `selftest`.
    pub(super) async fn selftest(&self, request: BoxRequest, what: Selftest) -> Result<Response<Body>, Fault> {
        match what {
            Selftest::Page => self.resource(request, "/selftest").await,
            Selftest::Seen => self.resource(request, "/selftest/seen").await,
            Selftest::Talk => self.talk(request).await,
        }
    }

    /// What `crate::selftest` says at this path of its own.
    async fn resource(&self, request: BoxRequest, path: &'static str) -> Result<Response<Body>, Fault> {
        let Some((talk, _)) = &self.live.selftest else { return Err(is_off()) };
        let (mut head, body) = request.into_parts();
        let body = self.small_body(body).await?;
        head.uri = Uri::from_static(path);
        let client = self.peer.client.map(|client| client.to_string());
        head.extensions.insert(Asker { proto: self.peer.proto, client, talk: talk.clone() });
        let Ok(response) = selftest::router().oneshot(Request::from_parts(head, axum::body::Body::from(body))).await;
        let (head, body) = response.into_parts();
        let body = to_bytes(body, MAX_RESOURCE).await.map_err(|error| Fault::BadRequest(error.to_string()))?;
        Ok(Response::from_parts(head, Body::Full(body)))
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
            return Err(is_off());
        };
        let (head, _): (request::Parts, _) = request.into_parts();
        let handshake = tunnel_handshake(&head, &forwarded(self.gateway, self.peer, None));
        let upgraded = dialer.upgrade(handshake, None).await;
        beside::tunnel_of(upgraded, self.gateway, self.live).map_err(|error| Fault::Open(error.into()))
    }
}

fn is_off() -> Fault {
    Fault::BadRequest("the self-test is off".into())
}
