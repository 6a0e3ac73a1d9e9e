//! An exchange that was taken out of hyper: its answer is waited for and written by hand, on the bare socket.
//!
//! Enters: a socket whose request was read, and the answer to come. Leaves: bytes, and the socket again when another
//! request may follow. Must not touch: what is answered.
//!
//! hyper keeps two buffers of 8 KiB for a connection as long as it waits. A stream, a long poll or a tunnel waits for
//! most of its life, so none of them leaves hyper waiting: this costs a few hundred bytes instead.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderValue, TRANSFER_ENCODING};
use http::{Response, StatusCode, Version, response};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::handler::Answering;
use super::rewind::Rewind;
use crate::transport::Body;
use crate::transport::body::Relay;
use crate::transport::source::{Chunk, Source};

/// Room for the size line of a chunk: eight digits and its end.
const SIZE_LINE: usize = 10;
/// A scratch buffer that grew beyond this is let go.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    /// What is encoded goes through here, and is copied only when the socket does not take it at once.
    static SCRATCHPAD: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// A request that was taken out of hyper.
pub(super) struct Held {
    pub(super) answering: Answering,
    pub(super) version: Version,
    /// The client allows another request behind this one.
    pub(super) keep_alive: bool,
}

/// An answer that is being written.
pub(super) struct Carrying<IO> {
    /// `None` once it was given back.
    io: Option<Rewind<IO>>,
    source: Box<dyn Source + Send>,
    head: Option<Box<response::Parts>>,
    framing: Framing,
    /// What the socket has not taken yet.
    waiting: Bytes,
    last: bool,
    keep_alive: bool,
}

/// How the end of the body is told (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// Nothing but the head: there is no body.
    None,
    /// By its length; the head waits for it.
    Length,
    Chunked,
    /// By the end of the connection, for HTTP/1.0.
    End,
}

/// What became of an exchange.
pub(super) enum Answered<IO> {
    /// The client is gone, before there was an answer.
    Gone,
    /// To be driven to its end.
    Carrying(Carrying<IO>),
    /// The head is written, the connection is something else's now.
    Upgraded(Pin<Box<dyn Future<Output = ()> + Send>>),
}

impl Held {
    /// Waits for the answer, as long as the client is there.
    pub(super) async fn answer<IO>(mut self, mut io: Rewind<IO>) -> Answered<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answer = poll_fn(|cx| {
            if let Poll::Ready(response) = self.answering.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            while let Poll::Ready(more) = io.poll_ahead(cx) {
                if !more {
                    return Poll::Ready(None);
                }
            }
            Poll::Pending
        })
        .await;
        match answer {
            Some(response) => self.begin(io, response).await,
            None => Answered::Gone,
        }
    }

    async fn begin<IO>(self, mut io: Rewind<IO>, response: Response<Body>) -> Answered<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut head, body) = response.into_parts();
        let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if head.status == StatusCode::NO_CONTENT {
            head.headers.remove(CONTENT_LENGTH);
        }
        let (source, framing): (Box<dyn Source + Send>, _) = match body {
            Body::Upgrade(upgrade) => {
                let mut out = BytesMut::new();
                write_head(&mut out, &head, Framing::None, None, true);
                return match io.write_all(&out).await {
                    Ok(()) => Answered::Upgraded(upgrade(Box::new(io))),
                    Err(_) => Answered::Gone,
                };
            }
            // Not even the end of an empty body: it would be taken for the next answer.
            Body::Empty | Body::Proxied(_) if bodiless => (Box::new(Once(Bytes::new())), Framing::None),
            Body::Batch(source) => (source, Framing::Length),
            Body::Stream(source) => (source, self.streaming()),
            Body::Proxied(body) => (Box::new(Relay(body)), self.streaming()),
            Body::Full(bytes) => (Box::new(Once(bytes)), Framing::Length),
            Body::Empty => (Box::new(Once(Bytes::new())), Framing::Length),
        };
        let closing = head.headers.get(CONNECTION).is_some_and(|value| value == "close");
        let keep_alive = self.keep_alive && framing != Framing::End && !closing;
        let (head, waiting) = (Some(Box::new(head)), Bytes::new());
        Answered::Carrying(Carrying { io: Some(io), source, head, framing, waiting, last: false, keep_alive })
    }

    fn streaming(&self) -> Framing {
        if self.version == Version::HTTP_11 { Framing::Chunked } else { Framing::End }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Carrying<IO> {
    /// Pulls, frames and writes once. Ready when something was written or begun to be.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        SCRATCHPAD.with_borrow_mut(|out| {
            out.clear();
            let start = ready!(self.fill(cx, out))?;
            let written = self.write(cx, &out[start..]);
            if out.capacity() > SCRATCH {
                *out = BytesMut::new();
            }
            Poll::Ready(written)
        })
    }

    /// Writes what the socket takes, and keeps the rest.
    fn write(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> Result<(), Gone> {
        let Some(io) = &mut self.io else { return Err(Gone) };
        while !bytes.is_empty() {
            match Pin::new(&mut *io).poll_write(cx, bytes) {
                Poll::Ready(Ok(0) | Err(_)) => return Err(Gone),
                Poll::Ready(Ok(written)) => bytes = &bytes[written..],
                Poll::Pending => break,
            }
        }
        self.waiting = Bytes::copy_from_slice(bytes);
        Ok(())
    }

    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Err(Gone)) };
        while !self.waiting.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &self.waiting)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Gone)),
                Ok(written) => self.waiting.advance(written),
            }
        }
        self.waiting = Bytes::new();
        Pin::new(io).poll_flush(cx).map_err(|_| Gone)
    }

    /// Appends the next piece; where in `out` it begins.
    fn fill(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<usize, Gone>> {
        if matches!(self.framing, Framing::Length | Framing::None) {
            return self.fill_whole(cx, out);
        }
        if let Some(head) = self.head.take() {
            write_head(out, &head, self.framing, None, self.keep_alive);
        }
        let body = out.len();
        let room = if self.framing == Framing::Chunked { SIZE_LINE } else { 0 };
        out.resize(body + room, 0);
        let chunk = match self.source.poll_chunk(cx, out) {
            Poll::Ready(Chunk::Broken) => return Poll::Ready(Err(Gone)),
            Poll::Ready(chunk) => chunk,
            Poll::Pending if body > 0 => {
                // The head alone: whoever waits for it need not wait for a body.
                out.truncate(body);
                return Poll::Ready(Ok(0));
            }
            Poll::Pending => return Poll::Pending,
        };
        self.last = chunk == Chunk::Last;
        Poll::Ready(Ok(if room > 0 { frame_chunk(out, body, self.last) } else { 0 }))
    }

    fn fill_whole(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<usize, Gone>> {
        let mut body = BytesMut::new();
        loop {
            match ready!(self.source.poll_chunk(cx, &mut body)) {
                Chunk::More => {}
                Chunk::Last => break,
                Chunk::Broken => return Poll::Ready(Err(Gone)),
            }
        }
        if let Some(head) = self.head.take() {
            write_head(out, &head, self.framing, Some(body.len()), self.keep_alive);
        }
        out.extend_from_slice(&body);
        self.last = true;
        Poll::Ready(Ok(0))
    }
}

/// The client is gone, or must be told that the answer is not whole: the connection is dropped.
struct Gone;

/// Resolves to the socket when another request may follow.
impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Carrying<IO> {
    type Output = Option<Rewind<IO>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            if ready!(this.poll_written(cx)).is_err() {
                return Poll::Ready(None);
            }
            if this.last {
                return this.finish(cx);
            }
            match this.poll_more(cx) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(Gone)) => return Poll::Ready(None),
                Poll::Pending => {}
            }
            let Some(io) = &mut this.io else { return Poll::Ready(None) };
            match io.poll_ahead(cx) {
                Poll::Ready(true) => continue,
                Poll::Ready(false) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Carrying<IO> {
    fn finish(&mut self, cx: &mut Context<'_>) -> Poll<Option<Rewind<IO>>> {
        if !self.keep_alive
            && let Some(io) = &mut self.io
        {
            // Its error changes nothing: the socket is dropped next.
            let _ = ready!(Pin::new(io).poll_shutdown(cx));
            self.io = None;
        }
        Poll::Ready(self.io.take())
    }
}

/// Closes the chunk whose data follow a [`SIZE_LINE`] at `body`, and the whole body behind the last one; where the
/// bytes to write begin.
fn frame_chunk(out: &mut BytesMut, body: usize, last: bool) -> usize {
    let size = out.len() - body - SIZE_LINE;
    let mut start = 0;
    if size == 0 {
        out.truncate(body);
    } else {
        let mut line = [0; SIZE_LINE];
        let mut rest = &mut line[..];
        // Eight digits hold any size up to 4 GiB, far above the largest message.
        let _ = write!(rest, "{size:x}\r\n");
        let used = SIZE_LINE - rest.len();
        let gap = SIZE_LINE - used;
        // The line goes right before the data, and what stands before it is moved up: nothing, or a head.
        out.copy_within(..body, gap);
        out[body + gap..body + SIZE_LINE].copy_from_slice(&line[..used]);
        out.extend_from_slice(b"\r\n");
        start = gap;
    }
    if last {
        out.extend_from_slice(b"0\r\n\r\n");
    }
    start
}

fn write_head(out: &mut BytesMut, head: &response::Parts, framing: Framing, length: Option<usize>, keep_alive: bool) {
    let reason = head.status.canonical_reason().unwrap_or("");
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to memory cannot fail.
        let _ = std::fmt::Write::write_fmt(out, text);
    };
    line(format_args!("HTTP/1.1 {} {reason}\r\n", head.status.as_str()));
    match framing {
        Framing::None | Framing::End => {}
        Framing::Length => line(format_args!("content-length: {}\r\n", length.unwrap_or_default())),
        Framing::Chunked => line(format_args!("transfer-encoding: chunked\r\n")),
    }
    if !keep_alive && !head.headers.contains_key(CONNECTION) {
        line(format_args!("connection: close\r\n"));
    }
    if !head.headers.contains_key(DATE) {
        line(format_args!("date: {}\r\n", httpdate::HttpDate::from(SystemTime::now())));
    }
    for (name, value) in &head.headers {
        if framing_is_ours(name, framing) {
            continue;
        }
        put_field(out, name.as_str(), value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Of a relayed head these describe the other side's framing.
fn framing_is_ours(name: &http::HeaderName, framing: Framing) -> bool {
    *name == TRANSFER_ENCODING || (*name == CONTENT_LENGTH && framing != Framing::None)
}

fn put_field(out: &mut BytesMut, name: &str, value: &HeaderValue) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Known bytes.
struct Once(Bytes);

impl Source for Once {
    fn poll_chunk(&mut self, _cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Chunk> {
        out.extend_from_slice(&self.0);
        Poll::Ready(Chunk::Last)
    }
}
