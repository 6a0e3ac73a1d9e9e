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
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use http_body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::http::block::with_block;
use crate::http::incoming::BoxError;
use crate::http::read_response::Judged;
use crate::upstream::io::Io;

/// The longest head of an answer, and what a connection may buffer. A backend that never ends its head is cut off.
const MAX_HEAD: usize = 64 * 1024;

/// Bytes of an answer that is read by hand although it comes in several pieces.
const MOST_IN_PIECES: usize = 4 * 1024;

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
