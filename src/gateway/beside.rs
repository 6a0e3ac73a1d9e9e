//! What is not ours: WebSockets that are passed through, and everything else, proxied to the same backend.
//!
//! Enters: a request outside the prefix. Leaves: the backend's response. Must not touch: bytes on their way.

use std::sync::Arc;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Response, StatusCode};
use http_body::Body as _;

use super::endpoints::Call;
use super::error::{Refusal, from_dial};
use super::origin::{Verdict, judge};
use super::{BoxRequest, Gateway, Live, forwarded};
use crate::http::as_written::AsWritten;
use crate::http::body::{Body, Duplex};
use crate::http::incoming::IncomingBody;
use crate::lifecycle::drain::leave_after;
use crate::lifecycle::{Phase, What};
use crate::terms::Direction;
use crate::transport::tunnel::{SpliceOptions, splice};
use crate::upstream::dial::{DialError, Dialer, Upgraded};
use crate::upstream::headers::{end_to_end, tunnel_handshake};
use crate::upstream::private::PrivateConnections;
use crate::upstream::proxy::Repeated;

/// Proxies a plain request.
pub(super) async fn proxy(
    call: &Call<'_>,
    mut request: BoxRequest,
    private: Option<&PrivateConnections>,
) -> Result<Response<Body>, Refusal> {
    let Call { gateway, live, peer } = *call;
    let path = request.uri().path();
    let backend = live.backends.find(&peer.host, path).ok_or_else(|| Refusal::not_found(path))?;
    let injection = backend.injection.as_ref();
    let expected = injection.and_then(|injection| injection.prepare(&mut request, peer, &live.config.prefix));
    let _counted = gateway.metrics.proxying();
    let response = backend.proxy.forward(*request, &forwarded(peer), private).await;
    gateway.metrics.proxied(response.as_ref().ok().map(|response| response.status().as_u16()));
    let response = response?;
    if response.extensions().get::<Repeated>().is_some() {
        gateway.metrics.repeated();
    }
    Ok(match (injection, expected) {
        (Some(injection), Some(expected)) => expected.answer(injection, response, peer),
        (Some(injection), None) => injection.aside(response),
        (None, _) => response.map(Body::Proxied),
    })
}

/// Passes a WebSocket through: the handshake is the backend's to answer, and nobody looks at the bytes behind a verified
/// 101.
pub(super) async fn tunnel(
    call: &Call<'_>,
    request: BoxRequest,
    private: Option<&PrivateConnections>,
) -> Result<Response<Body>, Refusal> {
    let Call { gateway, live, peer } = *call;
    if !request.body().is_end_stream() {
        return Err(Refusal::bad_request("a WebSocket handshake has no body"));
    }
    if !live.config.origins.allowed.is_empty()
        && let Verdict::Refused(why) = judge(&live.config.origins, request.headers(), &peer.host)
    {
        return Err(Refusal::origin_refused(why));
    }
    let path = request.uri().path();
    let dialer = live.dialer(&peer.host, path).ok_or_else(|| Refusal::not_found(path))?;
    let (mut head, _) = request.into_parts();
    let mut handshake = tunnel_handshake(&head, &forwarded(peer));
    // How it was written.
    handshake.extensions = std::mem::take(&mut head.extensions);
    tunnel_to(dialer, gateway, live, handshake, private).await.map_err(from_dial)
}

/// Passes a finished handshake, and what follows it.
pub(super) async fn tunnel_to(
    dialer: &Dialer,
    gateway: &Arc<Gateway>,
    live: &Live,
    handshake: http::request::Parts,
    private: Option<&PrivateConnections>,
) -> Result<Response<Body>, DialError> {
    match dialer.upgrade(handshake, private).await {
        Ok(upgraded) => Ok(switching(Arc::clone(gateway), upgraded, options(live))),
        Err(DialError::Refused { mut head, body }) => {
            end_to_end(&mut head.headers);
            Ok(Response::from_parts(*head, Body::Proxied(IncomingBody::Streaming(body))))
        }
        Err(error) => Err(error),
    }
}

fn switching(gateway: Arc<Gateway>, mut upgraded: Upgraded, options: Options) -> Response<Body> {
    let backends = std::mem::take(&mut upgraded.head.headers);
    let written = upgraded.head.extensions.remove::<AsWritten>();
    let mut response = Response::new(Body::upgrade(move |client| carry(gateway, client, upgraded, options)));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    if let Some(written) = written {
        response.extensions_mut().insert(written);
    }
    let headers = response.headers_mut();
    *headers = backends;
    end_to_end(headers);
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response
}

struct Options {
    idle: std::time::Duration,
    write: std::time::Duration,
    spread: std::time::Duration,
}

fn options(live: &Live) -> Options {
    let client = &live.config.client;
    Options { idle: client.tunnel_idle, write: client.write, spread: live.config.drain.spread }
}

async fn carry(gateway: Arc<Gateway>, client: Box<dyn Duplex>, upgraded: Upgraded, options: Options) {
    let _guard = gateway.lifecycle.guard(What::Tunnel);
    let _counted = gateway.metrics.tunnel();
    let lifecycle = gateway.lifecycle.clone();
    let leave = leave_after(options.spread, gateway.tunnel_key());
    let drain = async move {
        lifecycle.reached(Phase::Draining).await;
        tokio::select! {
            () = tokio::time::sleep(leave) => {}
            () = lifecycle.reached(Phase::Closing) => {}
        }
    };
    let idle = (!options.idle.is_zero()).then_some(options.idle);
    let splicing = SpliceOptions { idle, write: options.write, drain };
    let spliced = splice(client, bytes::Bytes::new(), upgraded.io, upgraded.unread, splicing).await;
    gateway.metrics.tunnelled(Direction::Up, spliced.up);
    gateway.metrics.tunnelled(Direction::Down, spliced.down);
    tracing::debug!(up = spliced.up, down = spliced.down, end = ?spliced.end, "tunnel ended");
}
