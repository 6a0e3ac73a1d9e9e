//! One HTTP/1.1 exchange on a bare connection to a backend, and how hyper takes it over.
//!
//! Enters: a connection, the head of a request without a body, and how to read the response. Leaves: a complete response
//! with the connection, or a connection of hyper's which reads the response from its first byte. Must not touch: what the
//! response means.
//!
//! A connection of hyper's costs two buffers of 8 KiB, a task and three channels, and each exchange on it wakes two tasks.
//! What nearly every backend responds to a handshake or to a short request is read without it. **Everything else is
//! hyper's**: a long response, early hints, a head in many pieces, or no HTTP at all. hyper then gets the connection as if
//! nothing had been read from it (see [`Replay`]).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};

use crate::config::Backend;
use crate::http::block::with_block;
use crate::http::incoming::BoxError;
use crate::http::read_response::Parsed;
use crate::http::replay::Replay;
use crate::upstream::io::Io;

/// Bounds of a response's head. A backend that never ends its head is cut off there.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// The longest head, and the most that hyper buffers for a connection.
    bytes: usize,
    /// The most fields.
    fields: usize,
}

impl From<&Backend> for HeadLimits {
    fn from(backend: &Backend) -> Self {
        Self { bytes: backend.header_bytes, fields: backend.header_fields }
    }
}

/// Up to how many bytes a response that comes in several pieces is read here.
const MAX_IN_PIECES: usize = 4 * 1024;

/// Writes a request, and reads until `parse` knows what comes.
///
/// # Errors
/// What hyper has to parse: the connection as if nothing had been read.
pub(super) async fn exchange<T>(
    mut io: Io,
    text: Vec<u8>,
    parse: impl Fn(&Bytes) -> Parsed<T>,
) -> Result<(Io, T), Replay<Io>> {
    // A backend that responds without reading may reset the connection: its response may have come all the same.
    let written = write(&mut io, &text).await;
    let mut seen = Bytes::new();
    while written.is_ok() && poll_fn(|cx| poll_more(&mut io, cx, &mut seen)).await {
        match parse(&seen) {
            Parsed::Complete(response) => return Ok((io, response)),
            Parsed::Partial if seen.len() < MAX_IN_PIECES => {}
            Parsed::Partial | Parsed::Ambiguous => break,
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
        // Copied: the block is the thread's.
        *seen = [&seen[..], block.filled()].concat().into();
        Poll::Ready(read.is_ok() && !block.filled().is_empty())
    })
}

// === hyper's connections ===

/// Both ends of a connection of hyper's.
pub(super) type HyperConnection<B> = (http1::SendRequest<B>, http1::Connection<TokioIo<Replay<Io>>, B>);

/// Makes a connection of hyper's over the stream. When a request was written to it already, the first one that is sent
/// must be the same.
///
/// # Errors
/// hyper's.
pub(super) async fn connect_hyper<B>(io: Replay<Io>, limits: HeadLimits) -> Result<HyperConnection<B>, hyper::Error>
where
    B: Body<Data: Send, Error: Into<BoxError>> + 'static,
{
    hyper_settings(limits).handshake(TokioIo::new(io)).await
}

/// hyper's settings towards backends.
#[must_use]
pub fn hyper_settings(limits: HeadLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .title_case_headers(true)
        .max_headers(limits.fields)
        .max_header_size(limits.bytes)
        .max_buf_size(limits.bytes);
    builder
}
