//! An exchange without hyper, or taken out of it: its answer is written by hand, on the bare socket.
//!
//! Enters: a socket whose request was read, and the answer to come. Leaves: bytes, and the socket again when another
//! request may follow. Must not touch: what is answered.
//!
//! hyper keeps two buffers of 8 KiB for a connection as long as it waits. A stream, a long poll or a tunnel waits for
//! most of its life, so none of them leaves hyper waiting: this costs a few hundred bytes instead.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, DATE};
use http::{StatusCode, Version, response};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::body::{Body, Relay, Upgrade};
use super::incoming::Sent;
use super::replay::Replay;
use super::source::{Chunk, Source};
use super::write_head::{Framing, SIZE_LINE, finish_head, frame_chunk, head_of, put_head};

/// A scratch buffer that grew beyond this is let go.
const SCRATCH: usize = 64 * 1024;
/// About the length of a head.
const HEAD: usize = 384;

thread_local! {
    /// What is encoded goes through here, and is copied only when the socket does not take it at once.
    static SCRATCHPAD: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// An answer that is being written.
pub(crate) struct Carrying<IO> {
    /// `None` once it was given back.
    io: Option<Replay<IO>>,
    /// What is pulled from; `None` when all of the answer was known.
    source: Option<Feed>,
    /// Status and fields as they are written, without what is settled only then; small, since a poll waits with it.
    head: Option<Box<[u8]>>,
    framing: Framing,
    /// The head has a date.
    dated: bool,
    /// What the socket has not taken yet.
    waiting: Bytes,
    last: bool,
    /// The source has nothing more for now, and will wake us.
    dry: bool,
    keep_alive: bool,
}

/// What the rest of an answer comes from.
enum Feed {
    Source(Box<dyn Source + Send>),
    /// A backend's body of a known length, whose pieces are written as they came.
    Relay(Box<Relay>),
}

/// What a connection carries behind a 101, to its end.
pub(crate) type Carried = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Writes the head of a 101; what the connection carries then. `None` when the client is gone.
pub(crate) async fn switch<IO>(mut io: Replay<IO>, head: response::Parts, upgrade: Upgrade) -> Option<Carried>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let out = whole_answer(&head, Framing::None, &[], true);
    io.write_all(&out).await.ok()?;
    Some(upgrade(Box::new(io)))
}

/// An answer to be written. What is known of it at once is written down at once, the rest as it comes.
pub(crate) fn begin<IO>(
    io: Replay<IO>,
    head: response::Parts,
    body: Body,
    version: Version,
    keep_alive: bool,
) -> Carrying<IO> {
    let streaming = if version == Version::HTTP_11 { Framing::Chunked } else { Framing::End };
    let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let (source, framing) = match body {
        // Not even the end of an empty body: it would be taken for the beginning of the next answer.
        Body::Empty | Body::Proxied(_) if bodiless => (Err(Bytes::new()), Framing::None),
        Body::Batch(source) => (Ok(Feed::Source(source)), Framing::Length(None)),
        Body::Stream(source) => (Ok(Feed::Source(source)), streaming),
        Body::Full(bytes) | Body::Proxied(Sent::Whole(bytes)) => (Err(bytes), Framing::Length(None)),
        Body::Proxied(body) => match body.size_hint().exact() {
            length @ Some(_) => (Ok(Feed::Relay(Box::new(Relay(body)))), Framing::Length(length)),
            None => (Ok(Feed::Source(Box::new(Relay(body)))), streaming),
        },
        Body::Rewritten(body) => (Ok(Feed::Source(body)), streaming),
        // An upgrade never comes here.
        Body::Empty | Body::Upgrade(_) => (Err(Bytes::new()), Framing::Length(None)),
    };
    let closing = head.headers.get(CONNECTION).is_some_and(|value| value == "close");
    let keep_alive = keep_alive && framing != Framing::End && !closing;
    let dated = head.headers.contains_key(DATE);
    let (source, head, waiting) = match source {
        Ok(source) => (Some(source), Some(head_of(&head)), Bytes::new()),
        Err(body) => (None, None, whole_answer(&head, framing, &body, keep_alive)),
    };
    Carrying { io: Some(io), last: source.is_none(), dry: false, source, head, framing, dated, waiting, keep_alive }
}

/// An answer whose body is known.
fn whole_answer(head: &response::Parts, framing: Framing, body: &[u8], keep_alive: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD + body.len());
    let framing = if framing == Framing::Length(None) { Framing::Length(Some(body.len() as u64)) } else { framing };
    put_head(&mut out, head);
    finish_head(&mut out, framing, keep_alive, head.headers.contains_key(DATE));
    out.extend_from_slice(body);
    out.freeze()
}

impl Source for Feed {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Chunk> {
        match self {
            Self::Source(source) => source.poll_chunk(cx, out),
            Self::Relay(relay) => relay.poll_chunk(cx, out),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Carrying<IO> {
    /// True when nothing but the end of the connection or the session ends it.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.framing, Framing::Chunked | Framing::End)
    }

    /// Pulls, frames and writes once. Ready when something was written or begun to be.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        if let (Some(Feed::Relay(relay)), None) = (&mut self.source, &self.head) {
            let piece = ready!(relay.poll_piece(cx));
            (self.waiting, self.last) = piece.map_err(|_| Gone)?;
            return Poll::Ready(Ok(()));
        }
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
        if self.framing == Framing::Length(None) {
            return self.fill_whole(cx, out);
        }
        self.put_head(out);
        let body = out.len();
        let room = if self.framing == Framing::Chunked { SIZE_LINE } else { 0 };
        out.resize(body + room, 0);
        let Some(source) = &mut self.source else { return Poll::Ready(Err(Gone)) };
        let chunk = match source.poll_chunk(cx, out) {
            Poll::Ready(Chunk::Broken) => return Poll::Ready(Err(Gone)),
            Poll::Ready(chunk) => chunk,
            Poll::Pending if body > 0 => {
                // The head alone: whoever waits for it need not wait for a body.
                out.truncate(body);
                return Poll::Ready(Ok(0));
            }
            Poll::Pending => return Poll::Pending,
        };
        (self.last, self.dry) = (chunk == Chunk::Last, chunk == Chunk::Now);
        Poll::Ready(Ok(if room > 0 { frame_chunk(out, body, self.last) } else { 0 }))
    }

    fn put_head(&mut self, out: &mut BytesMut) {
        if let Some(head) = self.head.take() {
            out.extend_from_slice(&head);
            finish_head(out, self.framing, self.keep_alive, self.dated);
        }
    }

    fn fill_whole(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<usize, Gone>> {
        loop {
            let Some(source) = &mut self.source else { return Poll::Ready(Err(Gone)) };
            match ready!(source.poll_chunk(cx, out)) {
                Chunk::More | Chunk::Now => {}
                Chunk::Last => break,
                Chunk::Broken => return Poll::Ready(Err(Gone)),
            }
        }
        // The head tells the body's length, so it is written second; then the two change places.
        let length = out.len();
        self.framing = Framing::Length(Some(length as u64));
        self.put_head(out);
        out.rotate_left(length);
        self.last = true;
        Poll::Ready(Ok(0))
    }
}

/// The client is gone, or must be told that the answer is not whole: the connection is dropped.
struct Gone;

/// Resolves to the socket when another request may follow.
impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Carrying<IO> {
    type Output = Option<Replay<IO>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // What the source said is true for as long as nobody had a chance to wake us.
        this.dry = false;
        loop {
            if ready!(this.poll_written(cx)).is_err() {
                return Poll::Ready(None);
            }
            if this.last {
                return this.finish(cx);
            }
            if !this.dry {
                match this.poll_more(cx) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(Gone)) => return Poll::Ready(None),
                    Poll::Pending => {}
                }
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
    fn finish(&mut self, cx: &mut Context<'_>) -> Poll<Option<Replay<IO>>> {
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
