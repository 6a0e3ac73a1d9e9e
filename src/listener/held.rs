//! An exchange that was taken out of hyper: its answer is waited for and written by hand, on the bare socket.
//!
//! Enters: a socket whose request was read, and the answer to come. Leaves: bytes, and the socket again when another
//! request may follow. Must not touch: what is answered.
//!
//! hyper keeps two buffers of 8 KiB for a connection as long as it waits. A stream, a long poll or a tunnel waits for
//! most of its life, so none of them leaves hyper waiting: this costs a few hundred bytes instead.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::CONNECTION;
use http::{Response, StatusCode, Version, response};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::conn::Door;
use super::handler::{Asking, Handler, Wait};
use super::head::{Framing, SIZE_LINE, finish_head, frame_chunk, head_of};
use super::peer::ConnInfo;
use super::rewind::Rewind;
use crate::lifecycle::Phase;
use crate::transport::Body;
use crate::transport::body::{Relay, Upgrade};
use crate::transport::source::{Chunk, Source};
use crate::upstream::headers::has_token;

/// Exchanges that dial at once, all backends together; each takes some 10 KiB in passing. Twice the default of
/// `backend.dials`, so that one slow backend does not take all.
static DIALLING: Semaphore = Semaphore::const_new(128);
/// How long an exchange waits for its turn to dial; then it goes ahead, and the backend's own bound decides.
const TURN_WAIT: Duration = Duration::from_secs(1);
/// A scratch buffer that grew beyond this is let go.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    /// What is encoded goes through here, and is copied only when the socket does not take it at once.
    static SCRATCHPAD: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// A request that was taken out of hyper, or did without it.
pub(super) struct Held {
    request: Asking,
    /// It waits for a backend to be dialled.
    dials: bool,
    version: Version,
    /// The client allows another request behind this one.
    keep_alive: bool,
}

/// An answer that is being written.
pub(super) struct Carrying<IO> {
    /// `None` once it was given back.
    io: Option<Rewind<IO>>,
    source: Box<dyn Source + Send>,
    /// Status and fields as they are written, without what is settled only then; small, since a poll waits with it.
    head: Option<Box<[u8]>>,
    framing: Framing,
    /// What the socket has not taken yet.
    waiting: Bytes,
    last: bool,
    keep_alive: bool,
}

/// What became of an exchange that was taken out.
pub(super) enum Taken<IO> {
    /// To be driven to its end.
    Carrying(Carrying<IO>),
    /// The head is written, the connection is something else's now.
    Upgraded(Carried),
}

/// What a connection carries behind a 101, to its end.
type Carried = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Held {
    /// The request, and how its answer waits.
    pub(super) fn new(request: Asking, wait: Wait) -> Self {
        let version = request.version();
        let keep_alive = version == Version::HTTP_11 && !has_token(request.headers(), &CONNECTION, "close");
        Self { request, dials: wait == Wait::ToDial, version, keep_alive }
    }

    /// Waits for the answer, as long as the client is there: `None` when it left before.
    pub(super) async fn answer<H, IO>(self, door: &Door<H>, mut io: Rewind<IO>) -> Option<Taken<IO>>
    where
        H: Handler,
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { request, dials, version, keep_alive } = self;
        let (handler, info) = (&door.handler, door.info.clone());
        let mut answering =
            if dials { Box::pin(in_turn(handler.clone(), request, info)) } else { handler.handle(request, info) };
        let mut closing = None;
        let answer = poll_fn(|cx| {
            if let Poll::Ready(response) = answering.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            let closing = closing.get_or_insert_with(|| Box::pin(door.lifecycle.reached(Phase::Closing)));
            if closing.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            while let Poll::Ready(more) = io.poll_ahead(cx) {
                if !more {
                    return Poll::Ready(None);
                }
            }
            Poll::Pending
        })
        .await;
        let (head, body) = answer?.into_parts();
        let keep_alive = keep_alive && !door.lifecycle.is_draining();
        if let Body::Upgrade(upgrade) = body {
            return Some(Taken::Upgraded(Box::pin(switch(io, head, upgrade)).await?));
        }
        Some(Taken::Carrying(begin(io, head, body, version, keep_alive)))
    }
}

/// An answer that waits for its turn to dial.
async fn in_turn(handler: impl Handler, request: Asking, info: ConnInfo) -> Response<Body> {
    let _turn = timeout(TURN_WAIT, DIALLING.acquire()).await.ok();
    handler.handle(request, info).await
}

/// Writes the head of a 101; what the connection carries then. `None` when the client is gone.
async fn switch<IO>(mut io: Rewind<IO>, head: response::Parts, upgrade: Upgrade) -> Option<Carried>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut out = BytesMut::from(&head_of(&head)[..]);
    finish_head(&mut out, Framing::None, 0, true);
    io.write_all(&out).await.ok()?;
    Some(upgrade(Box::new(io)))
}

fn begin<IO>(io: Rewind<IO>, head: response::Parts, body: Body, version: Version, keep_alive: bool) -> Carrying<IO> {
    let streaming = if version == Version::HTTP_11 { Framing::Chunked } else { Framing::End };
    let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let (source, framing): (Box<dyn Source + Send>, _) = match body {
        // Not even the end of an empty body: it would be taken for the beginning of the next answer.
        Body::Empty | Body::Proxied(_) if bodiless => (Box::new(Once(Bytes::new())), Framing::None),
        Body::Batch(source) => (source, Framing::Length),
        Body::Stream(source) => (source, streaming),
        Body::Proxied(body) => (Box::new(Relay(body)), streaming),
        Body::Rewritten(body) => (body, streaming),
        Body::Full(bytes) => (Box::new(Once(bytes)), Framing::Length),
        // An upgrade never comes here.
        Body::Empty | Body::Upgrade(_) => (Box::new(Once(Bytes::new())), Framing::Length),
    };
    let closing = head.headers.get(CONNECTION).is_some_and(|value| value == "close");
    let keep_alive = keep_alive && framing != Framing::End && !closing;
    let (head, waiting) = (Some(head_of(&head)), Bytes::new());
    Carrying { io: Some(io), source, head, framing, waiting, last: false, keep_alive }
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
        self.put_head(out, 0);
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

    fn put_head(&mut self, out: &mut BytesMut, length: usize) {
        if let Some(head) = self.head.take() {
            out.extend_from_slice(&head);
            finish_head(out, self.framing, length, self.keep_alive);
        }
    }

    fn fill_whole(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<usize, Gone>> {
        loop {
            match ready!(self.source.poll_chunk(cx, out)) {
                Chunk::More => {}
                Chunk::Last => break,
                Chunk::Broken => return Poll::Ready(Err(Gone)),
            }
        }
        // The head tells the body's length, so it is written second; then the two change places.
        let length = out.len();
        self.put_head(out, length);
        out.rotate_left(length);
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

/// Known bytes.
struct Once(Bytes);

impl Source for Once {
    fn poll_chunk(&mut self, _cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Chunk> {
        out.extend_from_slice(&self.0);
        Poll::Ready(Chunk::Last)
    }
}
