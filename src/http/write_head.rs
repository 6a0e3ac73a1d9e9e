//! Writes heads, and the framing of bodies.
//!
//! Enters: the head of a request or a response, and how its body is framed. Leaves: bytes. Must not touch: bodies,
//! sockets.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{Request, StatusCode, Uri, response};
use hyper::ext::ReasonPhrase;
use serde::{Deserialize, Serialize};

use super::as_written::{AsWritten, put_name};

/// About the length of a request's head, in bytes.
const USUAL_REQUEST_HEAD: usize = 512;
/// Room for the line that begins a chunk, in bytes: its size in eight digits, and CRLF.
pub(crate) const CHUNK_SIZE_LINE: usize = 10;

thread_local! {
    /// Heads are written here first: their length is not known before.
    static SCRATCHPAD: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    /// The date as it was written last, and its second.
    static DATE_NOW: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// The framing of a message body (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// There is no body, and no field about one.
    None,
    /// `Content-Length`; `None` until the length is known, which the head waits for.
    Length(Option<u64>),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The body ends with the connection: for HTTP/1.0.
    End,
}

/// Status line and fields of a response, without what [`finish_head`] adds. The box has exactly the size that is needed,
/// because a long poll keeps it while it waits.
pub(crate) fn response_head(head: &response::Parts) -> Box<[u8]> {
    SCRATCHPAD.with_borrow_mut(|out| {
        out.clear();
        put_response_head(out, head);
        Box::from(&out[..])
    })
}

/// Appends status line and fields of a response, without what [`finish_head`] adds.
pub fn put_response_head(out: &mut BytesMut, head: &response::Parts) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    // The backend's own reason phrase, or the registered one.
    let reason = head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
    out.extend_from_slice(reason.or(head.status.canonical_reason().map(str::as_bytes)).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
    let written = head.extensions.get();
    for (name, value) in &head.headers {
        if !is_framing(name, head.status) {
            put_name(out, name.as_str(), written);
            for part in [b": ", value.as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
    }
}

/// Appends the fields that depend on the body and on the connection, `Date` unless the head has one, and the empty line.
pub fn finish_head(out: &mut BytesMut, framing: Framing, keep_alive: bool, dated: bool) {
    match framing {
        Framing::None | Framing::End | Framing::Length(None) => {}
        Framing::Length(Some(length)) => {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    if !keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    if !dated {
        out.extend_from_slice(b"Date: ");
        put_date(out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the time as an HTTP date (RFC 9110 section 5.6.7), which is formatted once a second.
fn put_date(out: &mut BytesMut) {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    DATE_NOW.with_borrow_mut(|(written, text)| {
        if *written != second || text.is_empty() {
            (*written, *text) = (second, httpdate::fmt_http_date(now));
        }
        out.extend_from_slice(text.as_bytes());
    });
}

/// Fields that [`finish_head`] writes: those of a relayed head describe the other connection.
fn is_framing(name: &HeaderName, status: StatusCode) -> bool {
    match *name {
        TRANSFER_ENCODING | CONTENT_LENGTH => true,
        CONNECTION => status != StatusCode::SWITCHING_PROTOCOLS,
        _ => false,
    }
}

/// Completes a chunk: its data follow the room of [`CHUNK_SIZE_LINE`] that `out` has at `body`. Behind the `last` one the
/// body is ended too. Returns where in `out` the bytes to write begin.
pub(crate) fn frame_chunk(out: &mut BytesMut, body: usize, last: bool) -> usize {
    let size = out.len() - body - CHUNK_SIZE_LINE;
    let mut start = 0;
    if size == 0 {
        out.truncate(body);
    } else {
        let digits = hex_digits(size);
        let gap = CHUNK_SIZE_LINE - 2 - digits;
        // The size line stands right before the data, so what is in front of it moves up: a head, or nothing.
        out.copy_within(..body, gap);
        let line = &mut out[body + gap..body + CHUNK_SIZE_LINE];
        for (place, digit) in line[..digits].iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[size >> (4 * (digits - 1 - place)) & 0xf];
        }
        line[digits..].copy_from_slice(b"\r\n");
        out.extend_from_slice(b"\r\n");
        start = gap;
    }
    if last {
        out.extend_from_slice(b"0\r\n\r\n");
    }
    start
}

/// Hexadecimal digits of a size; at most eight, since no chunk comes near 4 GiB.
fn hex_digits(size: usize) -> usize {
    (size.max(1).ilog2() / 4 + 1) as usize
}

/// The head of a request, with names and target [as they were written](AsWritten).
#[must_use]
pub fn request_head<B>(request: &Request<B>) -> Bytes {
    let mut text = BytesMut::with_capacity(USUAL_REQUEST_HEAD);
    let written = request.extensions().get::<AsWritten>();
    let target = origin_form(request.uri());
    let target = written.and_then(AsWritten::target).map_or(target.as_str().as_bytes(), |target| &target[..]);
    for part in [request.method().as_str().as_bytes(), b" ", target, b" HTTP/1.1\r\n"] {
        text.extend_from_slice(part);
    }
    for (name, value) in request.headers() {
        put_name(&mut text, name.as_str(), written);
        for part in [b": ", value.as_bytes(), b"\r\n"] {
            text.extend_from_slice(part);
        }
    }
    text.extend_from_slice(b"\r\n");
    text.freeze()
}

/// The target in origin form (RFC 9112 section 3.2.1): path and query as they were received. An absolute target without a
/// path means `/`.
#[must_use]
pub(crate) fn origin_form(uri: &Uri) -> PathAndQuery {
    let root = || PathAndQuery::from_static("/");
    match uri.path_and_query() {
        Some(target) if target.as_str().starts_with(['/', '*']) => target.clone(),
        Some(target) => format!("/{}", target.as_str()).parse().unwrap_or_else(|_| root()),
        None => root(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_head_is_written_in_the_usual_case() {
        let mut request = Request::get("/chat?room=%20&a");
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        for (name, value) in
            [("host", "app.example"), ("sec-websocket-key", key), ("x--odd-", "A b"), ("cookie", "\u{e9}")]
        {
            request = request.header(name, value);
        }
        let expected = "GET /chat?room=%20&a HTTP/1.1\r\nHost: app.example\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX--Odd-: A b\r\nCookie: \u{e9}\r\n\r\n";
        let text = request_head(&request.body(()).expect("a request"));
        assert_eq!(text, expected);
    }
}
