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
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};

use crate::config::Backend;
use crate::http::block::with_block;
use crate::http::read_response::Parsed;
use crate::http::replay::Replay;
use crate::upstream::hyper_stream::{HyperStream, Record};
use crate::upstream::io::Io;
use crate::upstream::pool::Sender;

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
/// What hyper has to parse: the connection as if nothing had been read. It is [fresh](Replay::is_fresh) when the connection
/// ended before a byte of a response.
pub(super) async fn exchange<T>(
    mut io: Io,
    text: Bytes,
    parse: impl Fn(&Bytes) -> Parsed<T>,
) -> Result<(Io, T), Replay<Io>> {
    // A backend that responds without reading may reset the connection: its response may have come all the same.
    let written = write(&mut io, &text).await;
    let mut seen = Bytes::new();
    while poll_fn(|cx| poll_more(&mut io, cx, &mut seen)).await {
        match parse(&seen) {
            Parsed::Complete(response) if written.is_ok() => return Ok((io, response)),
            Parsed::Partial if seen.len() < MAX_IN_PIECES => {}
            Parsed::Complete(_) | Parsed::Partial | Parsed::Ambiguous => break,
        }
    }
    Err(Replay::again(io, text, seen))
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

/// Makes a connection of hyper's over the stream. When a request was written to it already, the first one that is sent
/// must be the same.
///
/// # Errors
/// hyper's.
pub(super) async fn connect_hyper(io: Replay<Io>, limits: HeadLimits) -> Result<Sender, hyper::Error> {
    let record = Record::default();
    let stream = HyperStream::new(io, record.clone(), limits.bytes);
    let (requests, connection) = hyper_settings(limits).handshake(TokioIo::new(stream)).await?;
    // Its errors reach the exchange that they belong to; an idle connection that fails is simply no longer ready.
    tokio::spawn(connection.with_upgrades());
    Ok(Sender { requests, record })
}

/// hyper's settings towards backends.
#[must_use]
pub fn hyper_settings(limits: HeadLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // The case of names is ours to write (see `hyper_stream`), save of those that hyper has read from a client.
        .title_case_headers(true)
        .preserve_header_case(true)
        // A proxy takes them out (RFC 9112 section 5.1).
        .allow_spaces_after_header_name_in_responses(true)
        .max_headers(limits.fields)
        .max_header_size(limits.bytes)
        .max_buf_size(limits.bytes);
    builder
}
