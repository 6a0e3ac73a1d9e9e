//! What is not ours: WebSockets that are passed through, and everything else, proxied to the same backend.
//!
//! Enters: a request outside the prefix. Leaves: the backend's response. Must not touch: bytes on their way.

use std::sync::Arc;

use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;

use super::endpoints::Call;
use super::error::{Refusal, from_dial};
use super::origin::{Verdict, judge};
use super::rewriting::Rewriting;
use super::tunnels::{Options, carry};
use super::{BoxRequest, Gateway, Live, forwarded, patience};
use crate::http::as_written::AsWritten;
use crate::http::body::Body;
use crate::http::incoming::IncomingBody;
use crate::http::timely::Timely;
use crate::limits::Limited;
use crate::listener::dialling::DialTurn;
use crate::listener::peer::Peer;
use crate::upstream::dial::{DialError, Upgraded};
use crate::upstream::headers::{end_to_end, other_handshake, request_host, tunnel_handshake};
use crate::upstream::private::PrivatePlace;
use crate::upstream::proxy::Repeated;

/// Proxies a plain request.
pub(super) async fn proxy(
    call: &Call<'_>,
    mut request: BoxRequest,
    private: Option<&dyn PrivatePlace>,
) -> Result<Response<Body>, Refusal> {
    let Call { gateway, live, peer } = *call;
    let path = request.uri().path();
    let backend = live.backends.find(&peer.host, path).ok_or_else(|| Refusal::not_found(path))?;
    let injection = backend.injection.as_ref();
    let expected = injection.and_then(|injection| injection.prepare(&mut request, peer, &live.config.prefix));
    let rewriting = backend.rewriting.as_ref();
    let written = write_anew(rewriting, &mut request).map_err(Refusal::bad_request)?;
    let counted = gateway.metrics.proxying();
    let timely = request.map(|body| Timely::new(body, patience(&live.config.client)));
    let response = backend.proxy.forward(timely, &forwarded(gateway, peer, rewriting), private).await;
    gateway.metrics.proxied(response.as_ref().ok().map(|response| response.status().as_u16()));
    let mut response = response?.map(|body| body.accompanied(counted));
    lead_back(response.headers_mut(), written, peer);
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
    mut request: BoxRequest,
    private: Option<&dyn PrivatePlace>,
) -> Result<Response<Body>, Refusal> {
    let Call { gateway, live, peer } = *call;
    if let Some(refusal) = handshake_fault(call, &request) {
        return Err(refusal);
    }
    let path = request.uri().path();
    let (dialer, rewriting, _) = live.dialer(&peer.host, path).ok_or_else(|| Refusal::not_found(path))?;
    let written = write_anew(rewriting, &mut request).map_err(Refusal::bad_request)?;
    let _handshaking = gateway.limits.handshake(peer.client).map_err(limited)?;
    let (mut head, _) = request.into_parts();
    let turn = head.extensions.remove::<DialTurn>().map(|turn| turn.take());
    let mut handshake = tunnel_handshake(&head, &forwarded(gateway, peer, rewriting));
    // How it was written.
    handshake.extensions = std::mem::take(&mut head.extensions);
    let upgraded = dialer.upgrade_in_turn(handshake, private, turn).await;
    let mut response = tunnel_of(upgraded, gateway, live).map_err(from_dial)?;
    lead_back(response.headers_mut(), written, peer);
    Ok(response)
}

/// Passes the handshake of another protocol, and then whatever it is. Nothing is known of the bytes, so nobody is told of an
/// end but by the connection's.
pub(super) async fn switch(
    call: &Call<'_>,
    mut request: BoxRequest,
    protocol: &HeaderValue,
) -> Result<Response<Body>, Refusal> {
    let Call { gateway, live, peer } = *call;
    if let Some(refusal) = handshake_fault(call, &request) {
        return Err(refusal);
    }
    let path = request.uri().path();
    let backend = live.backends.find(&peer.host, path).ok_or_else(|| Refusal::not_found(path))?;
    let rewriting = backend.rewriting.as_ref();
    let written = write_anew(rewriting, &mut request).map_err(Refusal::bad_request)?;
    let _handshaking = gateway.limits.handshake(peer.client).map_err(limited)?;
    let (mut head, _) = request.into_parts();
    let turn = head.extensions.remove::<DialTurn>().map(|turn| turn.take());
    let mut handshake = other_handshake(&head, &forwarded(gateway, peer, rewriting), protocol);
    handshake.extensions = std::mem::take(&mut head.extensions);
    let switched = backend.dialer.upgrade_to(protocol.to_str().unwrap_or_default(), handshake, turn).await;
    let options = Options::of(live, false);
    let mut response = passed(gateway, switched, options, protocol).map_err(from_dial)?;
    lead_back(response.headers_mut(), written, peer);
    Ok(response)
}

/// How a request was written anew, and the host that its backend is asked by.
type Written<'a> = Option<(&'a Rewriting, HeaderValue)>;

/// Writes the addresses in an answer as its client knows them.
fn lead_back(headers: &mut HeaderMap, written: Written<'_>, peer: &Peer) {
    if let Some((rewriting, host)) = written {
        rewriting.answer(headers, host.to_str().unwrap_or_default(), peer);
    }
}

/// Why a handshake is not passed on: it has a body, or comes from a page that may not use us.
fn handshake_fault(call: &Call<'_>, request: &Request<IncomingBody>) -> Option<Refusal> {
    if !request.body().is_end_stream() {
        return Some(Refusal::bad_request("a handshake has no body"));
    }
    let origins = &call.live.config.origins;
    match judge(origins, request.headers(), &call.peer.host) {
        Verdict::Refused(why) if !origins.allowed.is_empty() => Some(Refusal::origin_refused(why)),
        _ => None,
    }
}

/// Writes a request anew for its backend, if its route says so.
fn write_anew<'a>(
    rewriting: Option<&'a Rewriting>,
    request: &mut Request<IncomingBody>,
) -> Result<Written<'a>, &'static str> {
    let Some(rewriting) = rewriting else { return Ok(None) };
    let host = request_host(request.uri(), request.headers()).unwrap_or_else(|| HeaderValue::from_static(""));
    if request.uri().authority().is_some() {
        request.headers_mut().insert(HOST, host.clone());
    }
    let mut uri = std::mem::take(request.uri_mut());
    let written = rewriting.request(&mut uri, request.headers_mut());
    *request.uri_mut() = uri;
    written?;
    if let Some(as_written) = request.extensions_mut().get_mut::<AsWritten>() {
        *as_written = as_written.with_target(as_written.target().map(|target| rewriting.as_written(target)));
    }
    Ok(Some((rewriting, rewriting.host().cloned().unwrap_or(host))))
}

/// Passes what the backend answered to a handshake, and what follows it.
pub(super) fn tunnel_of(
    upgraded: Result<Upgraded, DialError>,
    gateway: &Arc<Gateway>,
    live: &Live,
) -> Result<Response<Body>, DialError> {
    let protocol = HeaderValue::from_static("websocket");
    passed(gateway, upgraded, Options::of(live, true), &protocol)
}

fn limited(Limited { limit, after }: Limited) -> Refusal {
    Refusal::limited(limit, after)
}

fn passed(
    gateway: &Arc<Gateway>,
    switched: Result<Upgraded, DialError>,
    options: Options,
    protocol: &HeaderValue,
) -> Result<Response<Body>, DialError> {
    match switched {
        Ok(upgraded) => Ok(switching(Arc::clone(gateway), upgraded, options, protocol)),
        Err(DialError::Refused { mut head, body }) => {
            end_to_end(&mut head.headers);
            Ok(Response::from_parts(*head, Body::Proxied(IncomingBody::Streaming(body))))
        }
        Err(error) => Err(error),
    }
}

fn switching(
    gateway: Arc<Gateway>,
    mut upgraded: Upgraded,
    options: Options,
    protocol: &HeaderValue,
) -> Response<Body> {
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
    headers.insert(UPGRADE, protocol.clone());
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response
}
