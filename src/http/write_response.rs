//! Writes a response on a bare socket, to its end.
//!
//! Enters: a connection whose request was read, and the response. Leaves: bytes, and the connection again when another
//! request may follow. Must not touch: what the response says.
//!
//! hyper keeps two buffers of 8 KiB for a connection, also while it only waits. A stream, a long poll or a tunnel waits
//! for most of its life, so none of them is left to hyper: here it costs a few hundred bytes instead.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, DATE};
use http::{StatusCode, Version, response};
use http_body::Body as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::bare::Bare;
use super::body::{Body, Relay, Upgrade};
use super::incoming::IncomingBody;
use super::replay::Replay;
use super::source::{Chunk, Source, Tally};
use super::write_head::{CHUNK_SIZE_LINE, Framing, finish_head, frame_chunk, put_response_head, response_head};

/// The most that a thread's scratch buffer keeps after use, in bytes.
const MAX_SCRATCH: usize = 64 * 1024;
/// About the length of a head, in bytes.
const USUAL_HEAD: usize = 384;

thread_local! {
    /// What is encoded is written from here, and copied only when the socket does not take it at once.
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Writes one response. A future: it resolves to the connection when another request may follow on it, and to `None`
/// when the connection is over.
pub struct ResponseWriter<IO> {
    /// `None` once it was given back.
    io: Option<Replay<IO>>,
    /// Where the rest of the body comes from; `None` when all of it is in `pending`.
    source: Option<BodySource>,
    /// Status line and fields, until they are written.
    head: Option<Box<[u8]>>,
    framing: Framing,
    /// The head has a `Date`.
    dated: bool,
    /// What the socket has not taken yet.
    pending: Bytes,
    /// What counts them, where they are many.
    tally: Option<Box<dyn Tally>>,
    /// All of the response was written or is in `pending`.
    last: bool,
    /// The source has nothing more for now, and has the waker.
    drained: bool,
    keep_alive: bool,
}

/// Where the rest of a body comes from.
enum BodySource {
    Chunks(Box<dyn Source + Send>),
    /// A backend's body of a known length. Its pieces are written as they came.
    Pieces(Box<Relay>),
}

/// A response that was begun, for the process that goes on with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct ResponseRecord {
    /// Status line and fields, if they were not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head: Option<Bytes>,
    framing: Framing,
    dated: bool,
    keep_alive: bool,
    /// What the socket has not taken.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pending: Bytes,
    /// What the rest of the body is made of: see [`Source::record`].
    pub source: Bytes,
}

/// What a connection does behind a 101, to its end.
pub type Upgraded = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Writes the head of a 101, and returns what the connection does then; `None` when the client is gone.
pub async fn write_switching<IO>(mut io: Replay<IO>, head: response::Parts, upgrade: Upgrade) -> Option<Upgraded>
where
    IO: AsyncRead + AsyncWrite + Bare + Unpin + Send + 'static,
{
    let out = known_response(&head, Framing::None, &[], true);
    io.write_all(&out).await.ok()?;
    Some(upgrade(Box::new(io)))
}

/// A response whose body is known, as bytes.
fn known_response(head: &response::Parts, framing: Framing, body: &[u8], keep_alive: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(USUAL_HEAD + body.len());
    let framing = if framing == Framing::Length(None) { Framing::Length(Some(body.len() as u64)) } else { framing };
    put_response_head(&mut out, head);
    finish_head(&mut out, framing, keep_alive, head.headers.contains_key(DATE));
    out.extend_from_slice(body);
    out.freeze()
}

impl Source for BodySource {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Chunk> {
        match self {
            Self::Chunks(source) => source.poll_chunk(cx, out),
            Self::Pieces(relay) => relay.poll_chunk(cx, out),
        }
    }

    fn tally(&self, bytes: usize) -> Option<Box<dyn Tally>> {
        match self {
            Self::Chunks(source) => source.tally(bytes),
            Self::Pieces(relay) => relay.tally(bytes),
        }
    }
}

// === impl ResponseWriter ===

impl<IO> ResponseWriter<IO> {
    /// Begins a response to a request of this version; `keep_alive` when another request may follow. What is known of
    /// the response is put into bytes at once.
    pub fn new(io: Replay<IO>, head: response::Parts, body: Body, version: Version, keep_alive: bool) -> Self {
        let (body, framing) = framed(body, head.status, version);
        let closes = head.headers.get(CONNECTION).is_some_and(|value| value == "close");
        let keep_alive = keep_alive && framing != Framing::End && !closes;
        let dated = head.headers.contains_key(DATE);
        let (source, head, pending) = match body {
            Ok(source) => (Some(source), Some(response_head(&head)), Bytes::new()),
            Err(body) => (None, None, known_response(&head, framing, &body, keep_alive)),
        };
        Self {
            io: Some(io),
            last: source.is_none(),
            drained: false,
            source,
            head,
            framing,
            dated,
            pending,
            tally: None,
            keep_alive,
        }
    }

    /// What the client has sent ahead of the response's end, in bytes.
    pub fn ahead(&self) -> usize {
        self.io.as_ref().map_or(0, |io| io.ahead().len())
    }

    /// True when only the end of the connection or of the session ends it.
    pub fn is_stream(&self) -> bool {
        matches!(self.framing, Framing::Chunked | Framing::End)
    }

    /// Goes on with a response that another process has begun.
    pub fn again(io: Replay<IO>, record: ResponseRecord, source: Box<dyn Source + Send>) -> Self {
        let ResponseRecord { head, framing, dated, keep_alive, pending, .. } = record;
        let tally = if pending.len() > MAX_SCRATCH { source.tally(pending.len()) } else { None };
        Self {
            io: Some(io),
            source: Some(BodySource::Chunks(source)),
            head: head.map(|head| Box::from(&head[..])),
            framing,
            dated,
            pending,
            tally,
            last: false,
            drained: false,
            keep_alive,
        }
    }

    /// The connection, unless it was given back.
    pub fn io(&self) -> Option<&Replay<IO>> {
        self.io.as_ref()
    }

    /// The connection, and what another process needs to go on with the response. `None` when it has to end here; nothing
    /// has happened then.
    pub fn take_apart(&mut self) -> Option<(Replay<IO>, ResponseRecord)> {
        let Some(BodySource::Chunks(source)) = self.source.as_ref().filter(|_| !self.last) else { return None };
        let source = source.record()?;
        let io = self.io.take()?;
        let (framing, dated, keep_alive) = (self.framing, self.dated, self.keep_alive);
        let (head, pending) = (self.head.take().map(Bytes::from), std::mem::take(&mut self.pending));
        Some((io, ResponseRecord { head, framing, dated, keep_alive, pending, source }))
    }
}

/// Where a body comes from (or all of it), and how it is framed.
fn framed(body: Body, status: StatusCode, version: Version) -> (Result<BodySource, Bytes>, Framing) {
    let streaming = if version == Version::HTTP_11 { Framing::Chunked } else { Framing::End };
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    match body {
        // Not even the end of an empty chunked body: it would be taken for the beginning of the next response.
        Body::Empty | Body::Proxied(_) if bodiless => (Err(Bytes::new()), Framing::None),
        Body::Batch(source) => (Ok(BodySource::Chunks(source)), Framing::Length(None)),
        Body::Stream(source) => (Ok(BodySource::Chunks(source)), streaming),
        Body::Full(bytes) | Body::Proxied(IncomingBody::Buffered(bytes)) => (Err(bytes), Framing::Length(None)),
        Body::Proxied(body) => match body.size_hint().exact() {
            length @ Some(_) => (Ok(BodySource::Pieces(Box::new(Relay(body)))), Framing::Length(length)),
            None => (Ok(BodySource::Chunks(Box::new(Relay(body)))), streaming),
        },
        Body::Rewriting(body) => (Ok(BodySource::Chunks(body)), streaming),
        // An upgrade goes to `write_switching`.
        Body::Empty | Body::Upgrade(_) => (Err(Bytes::new()), Framing::Length(None)),
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> ResponseWriter<IO> {
    /// Pulls, frames and writes once. Ready when something was written, or is in `pending`.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        if let (Some(BodySource::Pieces(relay)), None) = (&mut self.source, &self.head) {
            let piece = ready!(relay.poll_piece(cx));
            (self.pending, self.last) = piece.map_err(|_| Gone)?;
            return Poll::Ready(Ok(()));
        }
        SCRATCH.with_borrow_mut(|out| {
            out.clear();
            let start = ready!(self.poll_fill(cx, out))?;
            let written = start + self.write(cx, &out[start..])?;
            let rest = out.len() - written;
            if out.capacity() <= MAX_SCRATCH || rest < out.capacity() / 2 {
                self.pending = Bytes::copy_from_slice(&out[written..]);
            } else {
                // Most of it waits: it is not copied.
                self.pending = std::mem::take(out).freeze().split_off(written);
            }
            if out.capacity() > MAX_SCRATCH {
                *out = BytesMut::new();
            }
            if self.pending.len() > MAX_SCRATCH {
                self.tally = self.source.as_ref().and_then(|source| source.tally(self.pending.len()));
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Writes what the socket takes; returns how much that is.
    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<usize, Gone> {
        let Some(io) = &mut self.io else { return Err(Gone) };
        let mut written = 0;
        while written < bytes.len() {
            match Pin::new(&mut *io).poll_write(cx, &bytes[written..]) {
                Poll::Ready(Ok(0) | Err(_)) => return Err(Gone),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Pending => break,
            }
        }
        Ok(written)
    }

    /// Ready when nothing is pending any more.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Err(Gone)) };
        while !self.pending.is_empty() {
            match Pin::new(&mut *io).poll_write(cx, &self.pending) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Gone)),
                Poll::Ready(Ok(written)) => self.pending.advance(written),
                Poll::Pending => {
                    let revoked = self.tally.as_mut().is_some_and(|tally| tally.poll_revoked(cx).is_ready());
                    return if revoked { Poll::Ready(Err(Gone)) } else { Poll::Pending };
                }
            }
        }
        (self.pending, self.tally) = (Bytes::new(), None);
        Pin::new(io).poll_flush(cx).map_err(|_| Gone)
    }

    /// Appends the next piece, with the head in front if it was not written yet; where in `out` it begins.
    fn poll_fill(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<usize, Gone>> {
        if self.framing == Framing::Length(None) {
            return self.poll_fill_whole(cx, out);
        }
        self.put_head(out);
        let body = out.len();
        let room = if self.framing == Framing::Chunked { CHUNK_SIZE_LINE } else { 0 };
        out.resize(body + room, 0);
        let Some(source) = &mut self.source else { return Poll::Ready(Err(Gone)) };
        let chunk = match source.poll_chunk(cx, out) {
            Poll::Ready(Chunk::Broken) => return Poll::Ready(Err(Gone)),
            Poll::Ready(chunk) => chunk,
            Poll::Pending if body > 0 => {
                // The head alone: it does not wait for the body.
                out.truncate(body);
                return Poll::Ready(Ok(0));
            }
            Poll::Pending => return Poll::Pending,
        };
        (self.last, self.drained) = (chunk == Chunk::Last, chunk == Chunk::Drained);
        Poll::Ready(Ok(if room > 0 { frame_chunk(out, body, self.last) } else { 0 }))
    }

    fn put_head(&mut self, out: &mut BytesMut) {
        if let Some(head) = self.head.take() {
            out.extend_from_slice(&head);
            finish_head(out, self.framing, self.keep_alive, self.dated);
        }
    }

    /// Appends the head and all of the body, whose length is known once its source has ended.
    fn poll_fill_whole(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<usize, Gone>> {
        loop {
            let Some(source) = &mut self.source else { return Poll::Ready(Err(Gone)) };
            match ready!(source.poll_chunk(cx, out)) {
                Chunk::More | Chunk::Drained => {}
                Chunk::Last => break,
                Chunk::Broken => return Poll::Ready(Err(Gone)),
            }
        }
        // The head has the body's length, so it is written second; then the two change places.
        let length = out.len();
        self.framing = Framing::Length(Some(length as u64));
        self.put_head(out);
        out.rotate_left(length);
        self.last = true;
        Poll::Ready(Ok(0))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Option<Replay<IO>>> {
        if !self.keep_alive
            && let Some(io) = &mut self.io
        {
            // Its error changes nothing: the socket is closed next.
            let _ = ready!(Pin::new(io).poll_shutdown(cx));
            self.io = None;
        }
        Poll::Ready(self.io.take())
    }
}

/// The client is gone, or the body is incomplete and the client must see that: the connection is closed.
struct Gone;

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for ResponseWriter<IO> {
    type Output = Option<Replay<IO>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // The source may have been the reason why this task was woken.
        this.drained = false;
        loop {
            if ready!(this.poll_flush(cx)).is_err() {
                return Poll::Ready(None);
            }
            if this.last {
                return this.poll_finish(cx);
            }
            if !this.drained {
                match this.poll_more(cx) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(Gone)) => return Poll::Ready(None),
                    Poll::Pending => {}
                }
            }
            // Nothing to write: what comes from the client meanwhile may be the next request, or its end.
            let Some(io) = &mut this.io else { return Poll::Ready(None) };
            match io.poll_ahead(cx) {
                Poll::Ready(true) => continue,
                Poll::Ready(false) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;
    use crate::lifecycle::moving::pack;

    /// What the socket takes at once, in bytes: less than a chunk.
    const SOCKET: usize = 64;

    /// Chunks of some hundred bytes, with a rest before each.
    struct Chunks {
        next: u8,
        last: u8,
        rests: bool,
    }

    impl Source for Chunks {
        fn poll_chunk(&mut self, _: &mut Context<'_>, out: &mut BytesMut) -> Poll<Chunk> {
            self.rests = !self.rests;
            if self.rests {
                return Poll::Pending;
            }
            self.next += 1;
            out.extend_from_slice(&vec![b'a' + self.next; 300 + usize::from(self.next)]);
            Poll::Ready(if self.next == self.last { Chunk::Last } else { Chunk::More })
        }

        fn record(&self) -> Option<Bytes> {
            pack(&(self.next, self.last, self.rests)).ok()
        }
    }

    fn again(record: &[u8]) -> Box<dyn Source + Send> {
        let (next, last, rests) = rmp_serde::from_slice(record).expect("its own");
        Box::new(Chunks { next, last, rests })
    }

    fn begun(
        body: fn(Box<dyn Source + Send>) -> Body,
        version: Version,
    ) -> (ResponseWriter<DuplexStream>, DuplexStream) {
        // A batch is one chunk.
        let (next, rests) = (0, false);
        let last = if matches!(body(Box::new(Chunks { next, last: 0, rests })), Body::Batch(_)) { 1 } else { 5 };
        let (near, far) = duplex(SOCKET);
        let (head, ()) = http::Response::new(()).into_parts();
        let chunks = Box::new(Chunks { next, last, rests });
        (ResponseWriter::new(Replay::new(near), head, body(chunks), version, true), far)
    }

    /// Polls the writer so many times at most, while the client reads; whether it has ended.
    fn step(
        writer: &mut ResponseWriter<DuplexStream>,
        far: &mut DuplexStream,
        read: &mut Vec<u8>,
        steps: usize,
    ) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..steps {
            if let Poll::Ready(io) = Pin::new(&mut *writer).poll(&mut cx) {
                drop(io);
                return true;
            }
            let mut some = [0; SOCKET / 2];
            let mut some = tokio::io::ReadBuf::new(&mut some);
            if Pin::new(&mut *far).poll_read(&mut cx, &mut some).is_ready() {
                read.extend_from_slice(some.filled());
            }
        }
        false
    }

    /// What is left to be read when nobody writes any more.
    fn rest(mut far: DuplexStream, read: &mut Vec<u8>) {
        far.read_to_end(read).now_or_never().expect("it is there").expect("a pipe");
    }

    // Not in a task of tokio's, which would be made to rest.
    #[test]
    fn a_response_goes_on_elsewhere_from_any_of_its_steps() {
        const MANY: usize = 1000;
        for (body, version) in [
            (Body::Stream as fn(_) -> _, Version::HTTP_11),
            (Body::Stream, Version::HTTP_10),
            (Body::Batch, Version::HTTP_11),
        ] {
            let (mut writer, mut far) = begun(body, version);
            let mut whole = Vec::new();
            assert!(step(&mut writer, &mut far, &mut whole, MANY), "it ends");
            drop(writer);
            rest(far, &mut whole);
            assert!(whole.starts_with(b"HTTP/1.1 200 OK\r\n") && whole.len() > 300, "{}", whole.len());
            let mut crossed = 0;
            for steps in 0.. {
                let (mut writer, mut far) = begun(body, version);
                let mut read = Vec::new();
                if step(&mut writer, &mut far, &mut read, steps) {
                    break;
                }
                // What is left is in its hands already behind the last chunk: it is finished here.
                if let Some((io, record)) = writer.take_apart() {
                    assert!(writer.take_apart().is_none() && writer.io().is_none(), "nothing is left of it");
                    let record: ResponseRecord = rmp_serde::from_slice(&pack(&record).expect("data")).expect("its own");
                    let source = again(&record.source);
                    writer = ResponseWriter::again(io, record, source);
                    crossed += 1;
                }
                assert!(step(&mut writer, &mut far, &mut read, MANY), "it ends");
                drop(writer);
                rest(far, &mut read);
                assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(&whole), "cut at step {steps}");
            }
            assert!(crossed > 1, "{crossed}");
        }
    }
}
