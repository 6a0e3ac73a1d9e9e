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
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};

use crate::http::block::with_block;
use crate::http::incoming::BoxError;
use crate::http::read_response::Judged;
use crate::http::replay::Replay;
use crate::upstream::io::Io;

/// The longest head of an answer, and what a connection may buffer. A backend that never ends its head is cut off.
const MAX_HEAD: usize = 64 * 1024;

/// Bytes of an answer that is read by hand although it comes in several pieces.
const MOST_IN_PIECES: usize = 4 * 1024;

/// Writes a request, and reads until `judge` knows what comes.
///
/// # Errors
/// What hyper has to judge: the connection as if nothing had been read.
pub(super) async fn ask<T>(
    mut io: Io,
    text: Vec<u8>,
    judge: impl Fn(&Bytes) -> Judged<T>,
) -> Result<(Io, T), Replay<Io>> {
    // A backend that answers without reading closes what it does not read: its answer may be there all the same.
    let written = write(&mut io, &text).await;
    let mut seen = Bytes::new();
    while written.is_ok() && poll_fn(|cx| poll_more(&mut io, cx, &mut seen)).await {
        match judge(&seen) {
            Judged::Sound(answer) => return Ok((io, answer)),
            Judged::Unfinished if seen.len() < MOST_IN_PIECES => {}
            Judged::Unfinished | Judged::Doubtful => break,
        }
    }
    Err(Replay::again(io, text.into(), seen))
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
pub(super) type ByHyper<B> = (http1::SendRequest<B>, http1::Connection<TokioIo<Replay<Io>>, B>);

/// Puts a connection of hyper's over the stream. If a request was written already, the first one that is sent must be
/// the same.
///
/// # Errors
/// hyper's.
pub(super) async fn by_hyper<B>(io: Replay<Io>) -> Result<ByHyper<B>, hyper::Error>
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
