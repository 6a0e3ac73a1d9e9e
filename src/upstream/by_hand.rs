//! A request without a body and its answer, on the bare connection to a backend; and how hyper takes over.
//!
//! Enters: a connection, a finished request head, and who judges what comes back. Leaves: a sound answer with the
//! connection, or a connection of hyper's that reads the answer from its first byte. Must not touch: what an answer is to
//! be.
//!
//! A connection of hyper's costs two buffers of 8 KiB, a task and three channels, and an exchange on it two changes of task.
//! What nearly every backend answers to a handshake or to a short request can be read without. **Everything else is
//! hyper's to judge**: on the first doubt a connection of hyper's is put over the stream, with the bytes read so far in
//! front, and finds out what they are: a long answer, early hints, a head in many pieces, or no HTTP.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use http::{HeaderName, Request, Response, StatusCode, response};
use http_body::Body;
use httparse::{ParserConfig, Status};
use hyper::client::conn::http1;
use hyper::ext::ReasonPhrase;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::upstream::headers::{self, Fields, read_fields};
use crate::upstream::io::Io;
use crate::upstream::pool::BoxError;
use crate::upstream::wire::with_block;

/// The longest head of an answer, and what a connection may buffer. A backend that never ends its head is cut off.
const MAX_HEAD: usize = 64 * 1024;

/// Bytes of an answer that is read by hand although it comes in several pieces.
const MOST_IN_PIECES: usize = 4 * 1024;

/// Fields of an answer that is read by hand; most have a dozen at most.
pub(super) const FIELDS: usize = 32;

/// What the bytes of an answer are so far.
#[derive(Debug)]
pub enum Judged<T> {
    /// All of it, with nothing behind it but what is a part of `T`.
    Sound(T),
    /// The beginning of what may be sound.
    Unfinished,
    /// For hyper to judge.
    Doubtful,
}

impl<T> Judged<T> {
    /// Judges on: `None` is a doubt.
    pub(super) fn and_then<U>(self, judge: impl FnOnce(T) -> Option<U>) -> Judged<U> {
        match self {
            Self::Sound(sound) => judge(sound).map_or(Judged::Doubtful, Judged::Sound),
            Self::Unfinished => Judged::Unfinished,
            Self::Doubtful => Judged::Doubtful,
        }
    }
}

/// The head of an answer.
pub(super) struct Head {
    pub(super) parts: response::Parts,
    /// The length of the body that it tells, in bytes.
    pub(super) length: Option<usize>,
    /// Where it ends.
    pub(super) end: usize,
}

/// Reads the head of an answer. The parser is hyper's own, with its settings, so that both read alike; an odd field is a
/// doubt (see [`read_fields`]).
pub(super) fn read_head(seen: &Bytes, is_odd: impl Fn(&HeaderName, &[u8]) -> bool) -> Judged<Head> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut head = httparse::Response::new(&mut []);
    match ParserConfig::default().parse_response_with_uninit_headers(&mut head, seen, &mut fields) {
        Ok(Status::Complete(end)) => Judged::Sound(end).and_then(|end| whole_head(seen, end, &head, is_odd)),
        Ok(Status::Partial) => Judged::Unfinished,
        Err(_) => Judged::Doubtful,
    }
}

fn whole_head(
    seen: &Bytes,
    end: usize,
    head: &httparse::Response<'_, '_>,
    is_odd: impl Fn(&HeaderName, &[u8]) -> bool,
) -> Option<Head> {
    // An empty line may stand before it (RFC 9112 section 2.2), but who would write one?
    if head.version != Some(1) || !seen.starts_with(b"H") {
        return None;
    }
    let Fields { headers, length } = read_fields(seen, head.headers, 0, is_odd)?;
    let (mut parts, ()) = Response::new(()).into_parts();
    (parts.status, parts.headers) = (StatusCode::from_u16(head.code?).ok()?, headers);
    let own = head.reason.filter(|reason| Some(*reason) != parts.status.canonical_reason());
    if let Some(reason) = own {
        parts.extensions.insert(ReasonPhrase::try_from(seen.slice_ref(reason.as_bytes())).ok()?);
    }
    Some(Head { parts, length, end })
}

/// Writes a request, and reads until `judge` knows what comes.
///
/// # Errors
/// What hyper has to judge: the connection as if nothing had been read.
pub(super) async fn ask<T>(mut io: Io, text: &[u8], judge: impl Fn(&Bytes) -> Judged<T>) -> Result<(Io, T), Replay> {
    // A backend that answers without reading closes what it does not read: its answer may be there all the same.
    let written = write(&mut io, text).await;
    let mut seen = Bytes::new();
    while written.is_ok() && poll_fn(|cx| poll_more(&mut io, cx, &mut seen)).await {
        match judge(&seen) {
            Judged::Sound(answer) => return Ok((io, answer)),
            Judged::Unfinished if seen.len() < MOST_IN_PIECES => {}
            Judged::Unfinished | Judged::Doubtful => break,
        }
    }
    Err(Replay { seen, io, asked: false, reader: None })
}

async fn write(io: &mut Io, text: &[u8]) -> io::Result<()> {
    io.write_all(text).await?;
    // TLS may keep something back.
    io.flush().await
}

/// Reads what there is behind `seen`; false at the end, clean or not.
fn poll_more(io: &mut Io, cx: &mut Context<'_>, seen: &mut Bytes) -> Poll<bool> {
    with_block(|block| {
        let mut block = ReadBuf::new(block);
        let read = ready!(Pin::new(io).poll_read(cx, &mut block));
        // Copied, since it would be the whole block else.
        *seen = [&seen[..], block.filled()].concat().into();
        Poll::Ready(read.is_ok() && !block.filled().is_empty())
    })
}

/// A request without a body, as it is written; names in the usual case, for backends that compare them by case.
#[must_use]
pub fn request_text<B>(request: &Request<B>) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    let target = headers::target(request.uri());
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

// === by hyper ===

/// Both ends of a connection of hyper's.
pub(super) type ByHyper<B> = (http1::SendRequest<B>, http1::Connection<TokioIo<Replay>, B>);

/// Puts a connection of hyper's over the stream. If a request was written already, the first one that is sent must be
/// the same.
///
/// # Errors
/// hyper's.
pub(super) async fn by_hyper<B>(io: Replay) -> Result<ByHyper<B>, hyper::Error>
where
    B: Body<Data: Send, Error: Into<BoxError>> + 'static,
{
    hyper_settings().handshake(TokioIo::new(io)).await
}

/// How hyper speaks to backends.
#[must_use]
pub fn hyper_settings() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.title_case_headers(true).max_buf_size(MAX_HEAD).max_header_size(MAX_HEAD);
    builder
}

/// A stream whose request may be written and whose answer may be begun to be read, as if neither had happened yet.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) seen: Bytes,
    pub(super) io: Io,
    /// hyper believes that it has written the request. What could be read before would be an answer to nothing, for
    /// which it would drop the connection.
    asked: bool,
    reader: Option<Waker>,
}

impl Replay {
    /// A stream on which nothing has happened.
    pub(super) fn new(io: Io) -> Self {
        Self { seen: Bytes::new(), io, asked: true, reader: None }
    }

    /// Swallows what is the request: a head without a body, which hyper writes at once and before it reads. The backend
    /// has it. False for everything that follows.
    fn swallow(&mut self) -> bool {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        !std::mem::replace(&mut self.asked, true)
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

impl AsyncWrite for Replay {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.swallow() {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.swallow() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
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
