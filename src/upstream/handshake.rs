//! The WebSocket handshake on a connected stream: writes the request, and verifies the answer.
//!
//! Enters: a connection, a finished request head. Leaves: a verified WebSocket, a refusal with its body, or what was
//! wrong. Must not touch: where the connection goes, deadlines, subprotocols and extensions.
//!
//! What nearly every backend answers, a sound 101, is read here: a connection of hyper's would cost two buffers of
//! 8 KiB, a task and three channels, to be thrown away at once. **Everything else is hyper's to judge**: on the first
//! doubt a connection of hyper's is put over the stream, with the bytes read so far in front, and finds out what they
//! are: a refusal and its body, early hints, a head in many pieces, or no HTTP. tungstenite's own client is not used: it
//! refuses `Connection: keep-alive, Upgrade` and loses the body of a refusal.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use http::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, request, response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::upstream::headers;
use crate::upstream::io::Io;
use crate::upstream::wire::with_block;

/// The longest head of an answer, and what a connection may buffer. A backend that never ends its head is cut off.
pub(crate) const MAX_HEAD: usize = 64 * 1024;

/// Fields of a 101 that is read here, and its bytes in several pieces; it has four or five, and comes in one.
const MOST_FIELDS: usize = 32;
const MOST_IN_PIECES: usize = 4 * 1024;

/// How an answer begins that may be a sound 101.
const SWITCHING: &[u8] = b"HTTP/1.1 101";

/// A WebSocket whose handshake was answered with a verified 101.
#[derive(Debug)]
pub struct Upgraded {
    /// The connection.
    pub io: Io,
    /// What the backend sent right behind its answer; comes before anything read from `io`.
    pub unread: Bytes,
    /// The head of the 101, as the backend wrote it.
    pub head: response::Parts,
}

/// Why there is no WebSocket.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection ended, or what came was no HTTP.
    Dropped(hyper::Error),
    /// A 101 that is not the answer to this handshake, and why.
    Bad(&'static str),
    /// Any other answer.
    Refused(Box<response::Parts>, Incoming),
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        Self::Dropped(error)
    }
}

/// Sends `head` as it is and verifies the answer.
pub(super) async fn shake_hands(mut io: Io, head: request::Parts) -> Result<Upgraded, Failure> {
    let key = head.headers.get(SEC_WEBSOCKET_KEY);
    let expected = key.map(|key| derive_accept_key(key.as_bytes()));
    // A backend that answers without reading closes what it does not read: its answer may be there all the same.
    let written = write(&mut io, &text_of(&head)).await;
    let mut seen = Vec::new();
    while written.is_ok() && poll_fn(|cx| poll_more(&mut io, cx, &mut seen)).await {
        match plain_switch(&seen, expected.as_deref()) {
            Answer::Sound(head, end) => {
                // Copied, since a few bytes would keep the whole head alive.
                let unread = Bytes::copy_from_slice(&seen[end..]);
                return Ok(Upgraded { io, unread, head });
            }
            Answer::Unfinished if seen.len() < MOST_IN_PIECES => {}
            Answer::Unfinished | Answer::Doubtful => break,
        }
    }
    Box::pin(ask_hyper(Replay::new(seen, io), head, expected.as_deref())).await
}

async fn write(io: &mut Io, text: &[u8]) -> io::Result<()> {
    io.write_all(text).await?;
    // TLS may keep something back.
    io.flush().await
}

/// Reads what there is behind `seen`; false at the end, clean or not.
fn poll_more(io: &mut Io, cx: &mut Context<'_>, seen: &mut Vec<u8>) -> Poll<bool> {
    with_block(|block| {
        let mut block = ReadBuf::new(block);
        let read = ready!(Pin::new(io).poll_read(cx, &mut block));
        seen.extend_from_slice(block.filled());
        Poll::Ready(read.is_ok() && !block.filled().is_empty())
    })
}

/// What the bytes of an answer are so far.
enum Answer {
    /// A verified 101, and where it ends.
    Sound(response::Parts, usize),
    /// The beginning of what may be one.
    Unfinished,
    /// For hyper to judge.
    Doubtful,
}

fn plain_switch(seen: &[u8], expected: Option<&str>) -> Answer {
    let begun = seen.len().min(SWITCHING.len());
    if seen[..begun] != SWITCHING[..begun] {
        return Answer::Doubtful;
    }
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    let end = match answer.parse(seen) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Answer::Unfinished,
        Err(_) => return Answer::Doubtful,
    };
    let Some(headers) = fields_of(answer.headers).filter(|_| answer.code == Some(101)) else { return Answer::Doubtful };
    if flaw(&headers, expected).is_some() {
        return Answer::Doubtful;
    }
    let (mut head, ()) = Response::new(()).into_parts();
    (head.status, head.version, head.headers) = (StatusCode::SWITCHING_PROTOCOLS, Version::HTTP_11, headers);
    Answer::Sound(head, end)
}

fn fields_of(parsed: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some(headers)
}

/// The request as it is written; names in the usual case, for backends that compare them by case.
fn text_of(head: &request::Parts) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    text.extend_from_slice(b"GET ");
    text.extend_from_slice(headers::target(&head.uri).as_str().as_bytes());
    text.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &head.headers {
        let start = text.len();
        text.extend_from_slice(name.as_str().as_bytes());
        let mut begins = true;
        for byte in &mut text[start..] {
            if std::mem::replace(&mut begins, *byte == b'-') {
                byte.make_ascii_uppercase();
            }
        }
        for part in [b": ", value.as_bytes(), b"\r\n"] {
            text.extend_from_slice(part);
        }
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// What is wrong with a 101, if anything (RFC 6455 section 4.1).
fn flaw(answer: &HeaderMap, expected: Option<&str>) -> Option<&'static str> {
    if !headers::has_token(answer, &UPGRADE, "websocket") {
        return Some("its Upgrade header does not name websocket");
    }
    if !headers::has_token(answer, &CONNECTION, "upgrade") {
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

// === by hyper ===

async fn ask_hyper(io: Replay, head: request::Parts, expected: Option<&str>) -> Result<Upgraded, Failure> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_header_size(MAX_HEAD)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(io))
        .await?;
    // Ends by itself: with the upgrade, with the refusal's body, or when this future is dropped.
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(Request::from_parts(head, Empty::new())).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = response.into_parts();
        return Err(Failure::Refused(Box::new(head), body));
    }
    match flaw(response.headers(), expected) {
        Some(what) => Err(Failure::Bad(what)),
        None => take_over(response).await,
    }
}

async fn take_over(mut response: Response<Incoming>) -> Result<Upgraded, Failure> {
    let upgraded = hyper::upgrade::on(&mut response).await?;
    let parts =
        upgraded.downcast::<TokioIo<Replay>>().map_err(|_| Failure::Bad("the connection could not be taken over"))?;
    let Replay { seen, io, .. } = parts.io.into_inner();
    // What hyper has read comes first; copied, since a few bytes would keep its whole read block alive.
    Ok(Upgraded { io, unread: [&parts.read_buf[..], &seen].concat().into(), head: response.into_parts().0 })
}

/// A stream whose request is written and whose answer was begun to be read, as if neither had happened yet.
#[derive(Debug)]
struct Replay {
    seen: Bytes,
    io: Io,
    /// hyper believes that it has written the request. What could be read before would be an answer to nothing, for
    /// which it would drop the connection.
    asked: bool,
    reader: Option<Waker>,
}

impl Replay {
    fn new(seen: Vec<u8>, io: Io) -> Self {
        Self { seen: seen.into(), io, asked: false, reader: None }
    }
}

impl AsyncRead for Replay {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.asked {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.seen.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, into);
        }
        let fits = self.seen.len().min(into.remaining());
        into.put_slice(&self.seen[..fits]);
        self.seen.advance(fits);
        Poll::Ready(Ok(()))
    }
}

/// Swallows the request, which is all that hyper writes: the backend has it.
impl AsyncWrite for Replay {
    fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    fn is_sound(head: &str) -> bool {
        matches!(plain_switch(head.as_bytes(), Some(ACCEPT)), Answer::Sound(..))
    }

    #[test]
    fn a_sound_answer_ends_where_its_head_ends() {
        let all = [GOOD, "\u{81}\r\n\r\n"].concat();
        let Answer::Sound(head, end) = plain_switch(all.as_bytes(), Some(ACCEPT)) else { panic!("it is sound") };
        assert_eq!((head.status.as_u16(), head.version, end), (101, Version::HTTP_11, GOOD.len()));
        assert_eq!((head.headers.len(), &head.headers["sec-websocket-accept"]), (3, &ACCEPT.parse().expect("a value")));
    }

    #[test]
    fn every_beginning_of_a_sound_answer_is_unfinished() {
        for end in 0..GOOD.len() {
            assert!(matches!(plain_switch(&GOOD.as_bytes()[..end], Some(ACCEPT)), Answer::Unfinished), "{end}");
        }
    }

    #[test]
    fn what_is_odd_in_any_way_is_left_to_hyper() {
        assert!(is_sound(GOOD));
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
            ("Upgrade: websocket", "Upgrade : websocket"),
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
            assert!(!is_sound(&odd), "{odd:?}");
        }
        let many = GOOD.replacen("\r\n", &["\r\n", &"X: y\r\n".repeat(MOST_FIELDS)].concat(), 1);
        assert!(!is_sound(&many));
        assert!(matches!(plain_switch(GOOD.as_bytes(), None), Answer::Doubtful));
    }

    #[test]
    fn a_request_is_written_as_it_is() {
        let mut head = Request::get("/chat?room=%20&a");
        for (name, value) in
            [("host", "app.example"), ("sec-websocket-key", KEY), ("x--odd-", "A b"), ("cookie", "\u{e9}")]
        {
            head = head.header(name, value);
        }
        let (head, ()) = head.body(()).expect("a request").into_parts();
        let expected = "GET /chat?room=%20&a HTTP/1.1\r\nHost: app.example\r\n\
                        Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX--Odd-: A b\r\nCookie: \u{e9}\r\n\r\n";
        assert_eq!(String::from_utf8(text_of(&head)).expect("text"), expected);
    }
}
