//! A backend's body that is changed on its way.
//!
//! Enters: the body, and what changes it. Leaves: changed bytes, as they come. Errors of both are passed on and never
//! become the end of the body. Must not touch: what the bytes mean. Trailers are left out: they describe other bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::Body as _;

use super::incoming::{BoxError, IncomingBody};
use super::source::{Chunk, Source};

/// What changes a body.
pub trait Rewrite: Send {
    /// Takes bytes and appends what can leave.
    ///
    /// # Errors
    /// When the rest cannot be rewritten.
    fn write(&mut self, bytes: &[u8], out: &mut BytesMut) -> io::Result<()>;

    /// The body has ended: appends what was kept back.
    ///
    /// # Errors
    /// As [`Rewrite::write`]; also when the body was incomplete.
    fn end(&mut self, out: &mut BytesMut) -> io::Result<()>;
}

/// A body and what changes it.
pub struct RewritingBody {
    body: IncomingBody,
    /// Came from the body, and was not rewritten yet.
    pending: Bytes,
    /// The most bytes that are given to `rewrite` at once.
    piece: usize,
    rewrite: Box<dyn Rewrite>,
}

impl RewritingBody {
    /// Changes `body`, at most `piece` bytes at once.
    #[must_use]
    pub fn new(body: IncomingBody, piece: usize, rewrite: Box<dyn Rewrite>) -> Self {
        Self { body, pending: Bytes::new(), piece, rewrite }
    }

    /// Appends the next bytes; false behind the last of them.
    ///
    /// # Errors
    /// What hyper or the rewriting says. Not to be polled again.
    pub fn poll_bytes(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<bool, BoxError>> {
        while out.is_empty() {
            if self.pending.is_empty() {
                match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                    None => return Poll::Ready(self.rewrite.end(out).map(|()| false).map_err(Into::into)),
                    Some(frame) => self.pending = frame?.into_data().unwrap_or_default(),
                }
            }
            let piece = self.pending.split_to(self.piece.min(self.pending.len()));
            self.rewrite.write(&piece, out)?;
        }
        Poll::Ready(Ok(true))
    }
}

impl Source for RewritingBody {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Chunk> {
        // What lies in `out` already is the caller's.
        let mut own = BytesMut::new();
        let polled = ready!(self.poll_bytes(cx, &mut own));
        out.unsplit(own);
        Poll::Ready(match polled {
            Ok(true) => Chunk::More,
            Ok(false) => Chunk::Last,
            Err(_) => Chunk::Broken,
        })
    }
}
