//! The WebSocket handshake on a connected stream: writes the request, and verifies the response.
//!
//! Enters: a connection, a finished request head. Leaves: a verified WebSocket, a refusal with its body, or what was
//! wrong. Must not touch: where the connection goes, deadlines, subprotocols and extensions.
//!
//! A correct 101 is read by `crate::http`; everything else is hyper's (see `http1_exchange`). tungstenite's own client is
//! not used: it refuses `Connection: keep-alive, Upgrade` and loses the body of a refusal.

use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode, request, response};
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::http::as_written::{AsWritten, NamesKeptByHyper, stand_in};
use crate::http::fields::has_token;
use crate::http::read_response::{Parsed, ResponseHead, read_head};
use crate::http::replay::Replay;
use crate::http::write_head::request_head;
use crate::upstream::http1_exchange::{HeadLimits, connect_hyper, exchange};
use crate::upstream::hyper_stream::HyperStream;
use crate::upstream::io::Io;
use crate::upstream::pool::{Carrier, Outgoing, Sender};

/// A WebSocket whose 101 was verified.
#[derive(Debug)]
pub struct Upgraded {
    /// The connection.
    pub io: Io,
    /// What the backend sent right behind its 101; comes before anything read from `io`.
    pub unread: Bytes,
    /// The head of the 101, as the backend wrote it.
    pub head: response::Parts,
}

/// Why there is no WebSocket.
pub(super) enum HandshakeFailure {
    /// The connection ended, or what came is no HTTP.
    Dropped(hyper::Error),
    /// A 101 that does not belong to this handshake, and why.
    Bad(&'static str),
    /// Any other response.
    Refused(Box<Refusal>),
}

/// A response that is no 101, and the connection that can be used again once its body has ended.
pub(super) struct Refusal {
    pub(super) head: response::Parts,
    pub(super) body: Incoming,
    pub(super) sender: Sender,
}

impl From<hyper::Error> for HandshakeFailure {
    fn from(error: hyper::Error) -> Self {
        Self::Dropped(error)
    }
}

/// Sends `head` as it is and verifies the response.
pub(super) async fn perform(
    carrier: Carrier,
    head: request::Parts,
    limits: HeadLimits,
) -> Result<Upgraded, HandshakeFailure> {
    let key = head.headers.get(SEC_WEBSOCKET_KEY);
    let expected = key.map(|key| derive_accept_key(key.as_bytes()));
    let request = Request::from_parts(head, Either::Left(Empty::new()));
    let replay = match carrier {
        Carrier::Hyper(sender) => return Box::pin(exchange_by_hyper(sender, request, expected.as_deref())).await,
        // The case of its names is in hyper's own extension.
        Carrier::Bare(io) if request.extensions().get::<NamesKeptByHyper>().is_some() => Replay::new(io),
        Carrier::Bare(io) => {
            let text = request_head(&request);
            match exchange(io, text, |seen| read_switching(seen, expected.as_deref())).await {
                Ok((io, (head, unread))) => return Ok(Upgraded { io, unread, head }),
                Err(replay) => replay,
            }
        }
    };
    let sender = connect_hyper(replay, limits).await?;
    Box::pin(exchange_by_hyper(sender, request, expected.as_deref())).await
}

/// Sends `head` as it is, which asks for another protocol, and verifies that the response switches to that.
pub(super) async fn perform_other(
    io: Io,
    head: request::Parts,
    limits: HeadLimits,
    protocol: &str,
) -> Result<Upgraded, HandshakeFailure> {
    let request = Request::from_parts(head, Either::Left(Empty::new()));
    let response = switched_by_hyper(connect_hyper(Replay::new(io), limits).await?, request).await?;
    if !has_token(response.headers(), &UPGRADE, protocol) {
        return Err(HandshakeFailure::Bad("its Upgrade header does not name the protocol that was asked for"));
    }
    if !has_token(response.headers(), &CONNECTION, "upgrade") {
        return Err(HandshakeFailure::Bad("its Connection header does not name upgrade"));
    }
    take_over(response).await
}

/// A verified 101, and what follows it.
#[must_use]
pub fn read_switching(seen: &Bytes, expected: Option<&str>) -> Parsed<(response::Parts, Bytes)> {
    read_head(seen, |_, _| false).and_then(|ResponseHead { parts, end, .. }| {
        let is_verified =
            parts.status == StatusCode::SWITCHING_PROTOCOLS && violation(&parts.headers, expected).is_none();
        // Copied, so that a few bytes do not keep the whole head in memory.
        is_verified.then(|| (parts, Bytes::copy_from_slice(&seen[end..])))
    })
}

/// What is wrong with a 101, if anything (RFC 6455 section 4.1).
fn violation(answer: &HeaderMap, expected: Option<&str>) -> Option<&'static str> {
    if !has_token(answer, &UPGRADE, "websocket") {
        return Some("its Upgrade header does not name websocket");
    }
    if !has_token(answer, &CONNECTION, "upgrade") {
        return Some("its Connection header does not name upgrade");
    }
    let accept = answer.get(SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes().trim_ascii());
    match (accept, expected) {
        (_, None) => Some("the handshake had no Sec-WebSocket-Key"),
        (None, _) => Some("it has no Sec-WebSocket-Accept header"),
        (Some(accept), Some(expected)) if accept != expected.as_bytes() => {
            Some("its Sec-WebSocket-Accept does not belong to our key")
        }
        _ => None,
    }
}

// === what hyper reads ===

async fn exchange_by_hyper(
    sender: Sender,
    request: Request<Outgoing>,
    expected: Option<&str>,
) -> Result<Upgraded, HandshakeFailure> {
    let response = switched_by_hyper(sender, request).await?;
    match violation(response.headers(), expected) {
        Some(what) => Err(HandshakeFailure::Bad(what)),
        None => take_over(response).await,
    }
}

/// A 101, whatever it switches to.
async fn switched_by_hyper(
    mut sender: Sender,
    mut request: Request<Outgoing>,
) -> Result<Response<Incoming>, HandshakeFailure> {
    let is_hypers = request.extensions().get::<NamesKeptByHyper>().is_some();
    sender.record.begin(if is_hypers { Bytes::new() } else { request_head(&request) });
    if let Some(target) = request.extensions().get::<AsWritten>().and_then(AsWritten::target).and_then(stand_in) {
        *request.uri_mut() = target;
    }
    let mut response = sender.requests.send_request(request).await?;
    if let Some(written) = sender.record.take_written() {
        response.extensions_mut().insert(written);
    }
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = response.into_parts();
        return Err(HandshakeFailure::Refused(Box::new(Refusal { head, body, sender })));
    }
    Ok(response)
}

async fn take_over(mut response: Response<Incoming>) -> Result<Upgraded, HandshakeFailure> {
    let upgraded = hyper::upgrade::on(&mut response).await?;
    let parts = upgraded
        .downcast::<TokioIo<HyperStream>>()
        .map_err(|_| HandshakeFailure::Bad("the connection could not be taken over"))?;
    let (io, seen) = parts.io.into_inner().into_parts();
    // What hyper has read comes first; copied, so that a few bytes do not keep hyper's read buffer in memory.
    Ok(Upgraded { io, unread: [&parts.read_buf[..], &seen].concat().into(), head: response.into_parts().0 })
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;
    use crate::http::read_response::MAX_FIELDS;

    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    fn read(text: &str, expected: Option<&str>) -> Parsed<(response::Parts, Bytes)> {
        read_switching(&Bytes::copy_from_slice(text.as_bytes()), expected)
    }

    fn is_complete(head: &str) -> bool {
        matches!(read(head, Some(ACCEPT)), Parsed::Complete(_))
    }

    #[test]
    fn a_complete_101_ends_where_its_head_ends() {
        let all = [GOOD, "\u{81}\r\n\r\n"].concat();
        let Parsed::Complete((head, unread)) = read(&all, Some(ACCEPT)) else { panic!("it is complete") };
        assert_eq!((head.status.as_u16(), head.version), (101, Version::HTTP_11));
        assert_eq!(unread, all[GOOD.len()..]);
        assert_eq!((head.headers.len(), &head.headers["sec-websocket-accept"]), (3, &ACCEPT.parse().expect("a value")));
    }

    #[test]
    fn every_beginning_of_a_101_is_partial() {
        for end in 0..GOOD.len() {
            assert!(matches!(read(&GOOD[..end], Some(ACCEPT)), Parsed::Partial), "{end}");
        }
    }

    #[test]
    fn what_is_ambiguous_in_any_way_is_left_to_hyper() {
        assert!(is_complete(GOOD));
        for (from, to) in [
            ("HTTP/1.1", "HTTP/1.0"),
            ("HTTP/1.1", "http/1.1"),
            ("101 ", "100 "),
            ("101 ", "1010 "),
            ("101 ", "200 "),
            ("HTTP/1.1 101", "HTTP/1.1  101"),
            ("HTTP/1.1 101", "\r\nHTTP/1.1 101"),
            ("Upgrade: websocket\r\n", ""),
            ("Upgrade: websocket", "Upgrade: h2c"),
            ("Upgrade: websocket", "Upgrade: websocket\0"),
            ("Upgrade: websocket", "Upgrade: websocket\rX: y"),
            ("Upgrade: websocket", "Upgrade:\r\n websocket"),
            ("Upgrade: websocket", "Up grade: websocket"),
            ("Upgrade: websocket", ": websocket"),
            ("Upgrade: websocket", "Upgrade"),
            ("Connection: Upgrade", "Connection: close"),
            ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", ""),
            ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "S3PPLMBITXAQ9KYGZZHZRBK+XOO="),
            ("Sec-WebSocket-Accept", "Sec-WebSocket-Except"),
        ] {
            let odd = GOOD.replacen(from, to, 1);
            assert_ne!(odd, GOOD);
            assert!(!is_complete(&odd), "{odd:?}");
        }
        let many = GOOD.replacen("\r\n", &["\r\n", &"X: y\r\n".repeat(MAX_FIELDS)].concat(), 1);
        assert!(!is_complete(&many));
        assert!(matches!(read(GOOD, None), Parsed::Ambiguous));
    }
}
