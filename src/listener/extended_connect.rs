//! WebSockets over HTTP/2 (RFC 8441): a CONNECT that names a protocol is a handshake, and its stream the connection.
//!
//! Enters: a request as hyper gives it, then the handler's response. Leaves: the same handshake as HTTP/1.1 has it, so that
//! nobody behind the listener needs to know; a 200, and the stream in the hands of what the handler made of it. Must not
//! touch: frames, paths.

use http::header::{CONNECTION, HOST, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use super::h2_idle::Exchange;
use super::handler::SharedConnection;
use crate::http::body::Body;

/// What a request is here.
pub(super) enum Asked {
    /// Any other request.
    Plain,
    /// A handshake, written anew; its stream comes when it is answered.
    WebSocket(OnUpgrade),
    /// A protocol that nobody here speaks.
    Unknown,
}

/// Makes a WebSocket's CONNECT the GET that it is over HTTP/1.1. Its key is ours: over HTTP/2 there is none.
pub(super) fn accept<B>(request: &mut Request<B>) -> Asked {
    if request.method() != Method::CONNECT {
        return Asked::Plain;
    }
    let Some(protocol) = request.extensions_mut().remove::<Protocol>() else { return Asked::Plain };
    let stream = request.extensions_mut().remove::<OnUpgrade>();
    let (Some(stream), "websocket") = (stream, protocol.as_str()) else { return Asked::Unknown };
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    request.extensions_mut().insert(SharedConnection);
    let host = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let headers = request.headers_mut();
    if let (Some(host), false) = (host, headers.contains_key(HOST)) {
        headers.insert(HOST, host);
    }
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(key) = HeaderValue::from_str(&generate_key()) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    Asked::WebSocket(stream)
}

/// The answer to a handshake as HTTP/2 has it. The connection is not idle for as long as the stream lives.
pub(super) fn answer(mut response: Response<Body>, stream: OnUpgrade, exchange: Option<Exchange>) -> Response<Body> {
    if !matches!(response.body(), Body::Upgrade(_)) {
        if response.status().is_success() {
            // It would say that the WebSocket is open.
            response = refusal(StatusCode::BAD_GATEWAY, "the backend did not switch to WebSocket\n");
        }
        return response;
    }
    let (mut head, body) = response.into_parts();
    if let Body::Upgrade(upgrade) = body {
        tokio::spawn(async move {
            let _exchange = exchange;
            match stream.await {
                Ok(stream) => upgrade(Box::new(TokioIo::new(stream))).await,
                Err(error) => tracing::debug!(%error, "a WebSocket's stream ended before it began"),
            }
        });
    }
    head.status = StatusCode::OK;
    for name in [UPGRADE, CONNECTION, SEC_WEBSOCKET_ACCEPT] {
        head.headers.remove(name);
    }
    Response::from_parts(head, Body::Empty)
}

/// The answer to [`Asked::Unknown`].
pub(super) fn unknown() -> Response<Body> {
    refusal(StatusCode::NOT_IMPLEMENTED, "of extended CONNECT only `websocket` is served\n")
}

fn refusal(status: StatusCode, words: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(words));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_protocol_stays_as_it_is() {
        for method in [Method::GET, Method::CONNECT] {
            let mut request = Request::builder().method(method.clone()).uri("https://a/x").body(()).expect("a request");
            assert!(matches!(accept(&mut request), Asked::Plain));
            assert_eq!((request.method(), request.headers().len()), (&method, 0));
        }
    }

    #[test]
    fn only_websockets_are_known() {
        let connect = Request::builder().method(Method::CONNECT).uri("https://a/x");
        let mut request = connect.extension(Protocol::from_static("connect-udp")).body(()).expect("a request");
        assert!(matches!(accept(&mut request), Asked::Unknown));
        assert_eq!(unknown().status(), StatusCode::NOT_IMPLEMENTED);
    }
}
