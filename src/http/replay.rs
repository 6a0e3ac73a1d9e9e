//! A stream with bytes put back in front of it.
//!
//! Enters: a stream, bytes that were read from it too early. Leaves: the same stream, those bytes first. Must not touch:
//! what the bytes mean.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read at once; a request's head, as a rule.
const BLOCK: usize = 4 * 1024;
/// What a client may send ahead of an answer; beyond it nothing more is read, and its leaving is not noticed.
const MOST: usize = 16 * 1024;

/// A stream and what of it was read ahead.
#[derive(Debug)]
pub(crate) struct Rewind<IO> {
    ahead: Bytes,
    io: IO,
}

impl<IO> Rewind<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self { ahead: Bytes::new(), io }
    }

    /// True when nothing was read ahead.
    pub(crate) fn is_fresh(&self) -> bool {
        self.ahead.is_empty()
    }

    /// What was read ahead.
    pub(crate) fn ahead(&self) -> &Bytes {
        &self.ahead
    }

    /// Drops the first `count` bytes of what was read ahead.
    pub(crate) fn skip(&mut self, count: usize) {
        self.ahead.advance(count);
        if self.ahead.is_empty() {
            self.ahead = Bytes::new();
        }
    }

    /// Puts bytes back in front of what is there. They are copied: a slice of a read block would keep all of it.
    pub(crate) fn put_back(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.ahead = [bytes, &self.ahead].concat().into();
        }
    }
}

impl<IO: AsyncRead + Unpin> Rewind<IO> {
    /// Reads ahead what is there; ready with false when the other side has ended or failed, with true when something
    /// came. No buffer is held while there is nothing.
    pub(crate) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.ahead.len() >= MOST {
            return Poll::Pending;
        }
        let mut block = [MaybeUninit::uninit(); BLOCK];
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

impl<IO: AsyncRead + Unpin> AsyncRead for Rewind<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let fits = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..fits]);
        self.skip(fits);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewind<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
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
