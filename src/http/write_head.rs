//! How an answer is written by hand: its head, the size lines of its chunks.
//!
//! Enters: the head as the gateway made it, and how the body's end is told. Leaves: bytes. Must not touch: the body,
//! sockets.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{Request, StatusCode, Uri, response};
use hyper::ext::ReasonPhrase;

/// Room for the size line of a chunk: eight digits and its end.
pub(crate) const SIZE_LINE: usize = 10;

thread_local! {
    /// Heads are put together here before it is known how long they are.
    static SCRATCHPAD: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    /// The date as last written, and the second it is true for.
    static DATE_NOW: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// How the end of the body is told (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Nothing but the head: there is no body.
    None,
    /// By its length; the head waits until it is known.
    Length(Option<u64>),
    /// In chunks.
    Chunked,
    /// By the end of the connection, for HTTP/1.0.
    End,
}

/// Status line and fields of a head, all but what [`finish_head`] adds; of exactly its size, since a poll waits with it.
pub(crate) fn head_of(head: &response::Parts) -> Box<[u8]> {
    SCRATCHPAD.with_borrow_mut(|out| {
        out.clear();
        put_head(out, head);
        Box::from(&out[..])
    })
}

/// The same at the end of a buffer.
pub fn put_head(out: &mut BytesMut, head: &response::Parts) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    // A backend's own words, or the usual ones.
    let reason = head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
    out.extend_from_slice(reason.or(head.status.canonical_reason().map(str::as_bytes)).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
    for (name, value) in &head.headers {
        if !is_settled_later(name, head.status) {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
    }
}

/// Adds what depends on the body, on the connection and, unless the head is dated, on the time; and the head's end.
pub fn finish_head(out: &mut BytesMut, framing: Framing, keep_alive: bool, dated: bool) {
    match framing {
        Framing::None | Framing::End | Framing::Length(None) => {}
        Framing::Length(Some(length)) => {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    if !keep_alive {
        out.extend_from_slice(b"connection: close\r\n");
    }
    if !dated {
        out.extend_from_slice(b"date: ");
        put_date(out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// The time as HTTP has it (RFC 9110 section 5.6.7); written anew once a second.
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

/// The framing of a relayed head is the other side's; the rest is [`finish_head`]'s.
fn is_settled_later(name: &HeaderName, status: StatusCode) -> bool {
    match *name {
        TRANSFER_ENCODING | CONTENT_LENGTH => true,
        CONNECTION => status != StatusCode::SWITCHING_PROTOCOLS,
        _ => false,
    }
}

/// Closes the chunk whose data follow a [`SIZE_LINE`] at `body`, and the whole body behind the last one; where the
/// bytes to write begin.
pub(crate) fn frame_chunk(out: &mut BytesMut, body: usize, last: bool) -> usize {
    let size = out.len() - body - SIZE_LINE;
    let mut start = 0;
    if size == 0 {
        out.truncate(body);
    } else {
        let digits = hex_digits(size);
        let gap = SIZE_LINE - 2 - digits;
        // The line goes right before the data, and what stands before it is moved up: nothing, or a head.
        out.copy_within(..body, gap);
        let line = &mut out[body + gap..body + SIZE_LINE];
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

/// A request without a body, as it is written; names in the usual case, for backends that compare them by case.
#[must_use]
pub fn request_text<B>(request: &Request<B>) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    let target = target(request.uri());
    for part in [request.method().as_str(), " ", target.as_str(), " HTTP/1.1\r\n"] {
        text.extend_from_slice(part.as_bytes());
    }
    for (name, value) in request.headers() {
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

/// Path and query as they were received. An absolute target without a path means `/`.
#[must_use]
pub(crate) fn target(uri: &Uri) -> PathAndQuery {
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
    fn a_request_is_written_as_it_is() {
        let mut request = Request::get("/chat?room=%20&a");
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        for (name, value) in
            [("host", "app.example"), ("sec-websocket-key", key), ("x--odd-", "A b"), ("cookie", "\u{e9}")]
        {
            request = request.header(name, value);
        }
        let expected = "GET /chat?room=%20&a HTTP/1.1\r\nHost: app.example\r\n\
                        Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX--Odd-: A b\r\nCookie: \u{e9}\r\n\r\n";
        let text = request_text(&request.body(()).expect("a request"));
        assert_eq!(String::from_utf8(text).expect("text"), expected);
    }
}
