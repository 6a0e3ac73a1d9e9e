//! A stream that repeats what has happened on it already, for a reader or a writer that comes later.
//!
//! Enters: a stream; bytes that were read from it too early; a request that was written to it. Leaves: the same stream:
//! those bytes are read first, and that request is not written a second time. Must not touch: what the bytes mean.
//!
//! Both sides need it. A client's connection is read before it is known whether hyper has to read it. A backend's
//! connection may carry a request of ours and the beginning of its response when hyper takes over: hyper then believes
//! that it writes the request itself, and reads the whole response.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::bare::{Bare, BareSocket};

/// How much is read ahead at once, in bytes; the head of a request, as a rule.
const READ_AHEAD: usize = 4 * 1024;
/// The most that a client may send ahead of a response, in bytes. Beyond it nothing more is read, so that its leaving is
/// not noticed either.
const MAX_AHEAD: usize = 16 * 1024;

/// A stream, and what is repeated on it.
#[derive(Debug)]
pub struct Replay<IO> {
    /// Was read from `io` already, and is read again first.
    ahead: Bytes,
    io: IO,
    /// Was written to `io` already; `None` when the next write goes to `io`. Boxed: a client's connection never has it.
    written: Option<Box<Written>>,
}

/// A request that the peer has already, and that is about to be written again.
#[derive(Debug)]
struct Written {
    /// What of it was not written again yet.
    rest: Bytes,
    /// Who waits for the response. What could be read before the request was written again would look like a response
    /// to no request, for which hyper closes the connection.
    reader: Option<Waker>,
}

// === impl Replay ===

impl<IO> Replay<IO> {
    /// A stream on which nothing has happened.
    pub fn new(io: IO) -> Self {
        Self { ahead: Bytes::new(), io, written: None }
    }

    /// A stream to which `written` was written and from which `ahead` was read, as if neither had happened: the same
    /// bytes must be written again before anything is read.
    ///
    /// Writing something else fails with [`io::ErrorKind::InvalidData`], and then nothing reaches the peer: it would
    /// take the difference for the beginning of another request.
    pub fn again(io: IO, written: Bytes, ahead: Bytes) -> Self {
        let written = (!written.is_empty()).then(|| Box::new(Written { rest: written, reader: None }));
        Self { ahead, io, written }
    }

    /// True when nothing was read ahead.
    pub fn is_fresh(&self) -> bool {
        self.ahead.is_empty()
    }

    /// True when no more is read ahead.
    pub fn is_full(&self) -> bool {
        self.ahead.len() >= MAX_AHEAD
    }

    /// What was read ahead.
    pub fn ahead(&self) -> &Bytes {
        &self.ahead
    }

    /// Drops the first `count` bytes of what was read ahead.
    pub fn skip(&mut self, count: usize) {
        self.ahead.advance(count);
        if self.ahead.len() < count {
            // A small rest does not keep the memory of all. However many requests come at once, no more is copied than came.
            self.ahead = Bytes::copy_from_slice(&self.ahead);
        }
    }

    /// Puts bytes back in front of what is there. They are copied: a slice of a read buffer would keep all of it.
    pub fn put_back(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.ahead = [bytes, &self.ahead].concat().into();
        }
    }

    /// The stream, and what was read ahead of it.
    pub fn into_parts(self) -> (IO, Bytes) {
        (self.io, self.ahead)
    }

    /// Takes bytes that the peer has already; `None` when there are no more of those, so that `bytes` are new.
    fn repeat(&mut self, bytes: &[u8]) -> Option<io::Result<usize>> {
        let written = self.written.as_mut()?;
        let count = written.rest.len().min(bytes.len());
        if written.rest[..count] != bytes[..count] {
            let what = "another request was written than the one that the peer has";
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
        }
        written.rest.advance(count);
        if written.rest.is_empty()
            && let Some(reader) = self.written.take().and_then(|written| written.reader)
        {
            reader.wake();
        }
        Some(Ok(count))
    }
}

impl<IO: Bare> Bare for Replay<IO> {
    fn is_bare(&self) -> bool {
        self.written.is_none() && self.io.is_bare()
    }

    fn into_socket(self: Box<Self>) -> Option<BareSocket> {
        let Self { ahead, io, written } = *self;
        Box::new(io).into_socket().filter(|_| written.is_none()).map(|socket| socket.behind(ahead))
    }
}

impl<IO: AsyncRead + Unpin> Replay<IO> {
    /// Reads ahead what is there; ready with false when the other side has ended or failed, with true when something
    /// came. No buffer is held while there is nothing.
    pub fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.is_full() {
            return Poll::Pending;
        }
        let mut block = [MaybeUninit::uninit(); READ_AHEAD];
        let mut read = ReadBuf::uninit(&mut block);
        match ready!(Pin::new(&mut self.io).poll_read(cx, &mut read)) {
            Ok(()) if !read.filled().is_empty() => {
                self.ahead = [&self.ahead, read.filled()].concat().into();
                Poll::Ready(true)
            }
            _ => Poll::Ready(false),
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Replay<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(written) = &mut self.written {
            written.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let fits = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..fits]);
        self.skip(fits);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Replay<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.repeat(bytes) {
            Some(repeated) => Poll::Ready(repeated),
            None => Pin::new(&mut self.io).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Fewer bytes than all may be taken, so the first slice is enough.
        let first = slices.iter().find(|slice| !slice.is_empty());
        match first.and_then(|slice| self.repeat(slice)) {
            Some(repeated) => Poll::Ready(repeated),
            None => Pin::new(&mut self.io).poll_write_vectored(cx, slices),
        }
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// The near end repeats `GET` and then `OK`; the far end is the peer's.
    fn repeating() -> (Replay<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(64);
        (Replay::again(near, Bytes::from_static(b"GET"), Bytes::from_static(b"OK")), far)
    }

    fn poll_once<F: Future + Unpin>(future: F) -> Poll<F::Output> {
        Pin::new(&mut { future }).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn what_was_written_is_taken_again_in_any_pieces_and_what_follows_goes_on() {
        for piece in 1..=5 {
            let (mut near, mut far) = repeating();
            for bytes in b"GETab".chunks(piece) {
                near.write_all(bytes).await.expect("the same bytes");
            }
            let mut new = [0; 2];
            far.read_exact(&mut new).await.expect("what is new");
            assert_eq!(&new, b"ab", "in pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn vectored_writes_are_taken_again_as_well() {
        let (mut near, mut far) = repeating();
        let mut slices = [IoSlice::new(b""), IoSlice::new(b"GE"), IoSlice::new(b"Tab")];
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let count = near.write_vectored(rest).await.expect("the same bytes");
            IoSlice::advance_slices(&mut rest, count);
        }
        let mut new = [0; 2];
        far.read_exact(&mut new).await.expect("what is new");
        assert_eq!(&new, b"ab");
    }

    #[tokio::test]
    async fn another_request_is_refused_and_nothing_of_it_reaches_the_peer() {
        for other in ["PUT", "GEX", "G T"] {
            let (mut near, mut far) = repeating();
            let error = near.write_all(other.as_bytes()).await.expect_err("it differs");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{other}");
            drop(near);
            let mut came = Vec::new();
            far.read_to_end(&mut came).await.expect("the end");
            assert!(came.is_empty(), "{other}: {came:?}");
        }
    }

    #[tokio::test]
    async fn nothing_is_read_before_the_whole_request_was_written_again() {
        let (mut near, mut far) = repeating();
        far.write_all(b"!").await.expect("room");
        let mut read = [0; 3];
        near.write_all(b"GE").await.expect("the same bytes");
        assert!(poll_once(Box::pin(near.read(&mut read))).is_pending());
        near.write_all(b"T").await.expect("the same bytes");
        near.read_exact(&mut read).await.expect("what was read ahead, and what came then");
        assert_eq!(&read, b"OK!");
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken_when_the_request_is_written_again() {
        let (near, _far) = repeating();
        let (mut reader, mut writer) = tokio::io::split(near);
        let waiting = tokio::spawn(async move {
            let mut read = [0; 2];
            reader.read_exact(&mut read).await.map(|_| read)
        });
        tokio::task::yield_now().await;
        writer.write_all(b"GET").await.expect("the same bytes");
        assert_eq!(&waiting.await.expect("no panic").expect("what was read ahead"), b"OK");
    }

    #[tokio::test]
    async fn what_is_put_back_is_read_first() {
        let (near, mut far) = duplex(64);
        let mut near = Replay::new(near);
        far.write_all(b"abcd").await.expect("room");
        assert!(std::future::poll_fn(|cx| near.poll_ahead(cx)).await);
        near.skip(2);
        near.put_back(b"xy");
        assert_eq!((near.is_fresh(), &near.ahead()[..]), (false, &b"xycd"[..]));
        let mut read = [0; 4];
        near.read_exact(&mut read).await.expect("four bytes");
        assert_eq!((&read, near.is_fresh()), (b"xycd", true));
    }
}
