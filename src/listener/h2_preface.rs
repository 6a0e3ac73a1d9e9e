//! How an HTTP/2 connection begins: the preface and the client's settings (RFC 9113 section 3.4) must come in time. hyper waits
//! for them for ever, and a graceful shutdown of it waits for them, too.
//!
//! Enters: the bytes of a connection. Leaves: the same bytes, and whether the beginning is over. Must not touch: whether it is
//! right, which h2 judges; only that settings come first it does not ask for, so that is asked here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

/// `PRI * HTTP/2.0 …`, in bytes.
const PREFACE: usize = 24;
/// The preface, and the header of the first frame, whose first three bytes are its length.
const HEADER: usize = PREFACE + 9;

/// The kind of the first frame.
const SETTINGS: u8 = 4;

/// A connection of which the beginning is watched.
pub(super) struct Beginning<IO> {
    io: IO,
    /// So many bytes have come, up to the end of the beginning; `None` behind it.
    come: Option<usize>,
    /// The length of the first frame, as far as it has come.
    length: usize,
    begun: Begun,
}

/// Whether it is over.
#[derive(Clone, Default)]
pub(super) struct Begun(Arc<AtomicBool>);

impl<IO> Beginning<IO> {
    pub(super) fn new(io: IO) -> (Self, Begun) {
        let begun = Begun::default();
        (Self { io, come: Some(0), length: 0, begun: begun.clone() }, begun)
    }

    /// False when the first frame has no settings.
    fn note(&mut self, bytes: &[u8]) -> bool {
        let Some(come) = &mut self.come else { return true };
        let kind = (PREFACE + 3).checked_sub(*come).and_then(|at| bytes.get(at));
        for byte in bytes.iter().take((PREFACE + 3).saturating_sub(*come)).skip(PREFACE.saturating_sub(*come)) {
            self.length = self.length << 8 | usize::from(*byte);
        }
        *come += bytes.len();
        if *come >= HEADER + self.length {
            self.come = None;
            self.begun.0.store(true, Ordering::Relaxed);
        }
        kind.is_none_or(|kind| *kind == SETTINGS)
    }
}

impl Begun {
    /// Returns when the beginning was not over within `limit`, otherwise never.
    pub(super) async fn late(&self, limit: Duration) {
        sleep(limit).await;
        if self.0.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Beginning<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if self.note(&buf.filled()[before..]) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the first frame is not SETTINGS")))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Beginning<IO> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_the_last_byte_of_the_first_frame_however_it_is_cut() {
        for length in [0, 6, 300] {
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            bytes.extend([0, (length >> 8) as u8, length as u8, 4, 0, 0, 0, 0, 0]);
            bytes.resize(HEADER + length, 0);
            for cut in [1, 2, 7, 25, 26, 1000] {
                let (mut beginning, begun) = Beginning::new(());
                assert!(bytes[..bytes.len() - 1].chunks(cut).all(|piece| beginning.note(piece)));
                assert!(!begun.0.load(Ordering::Relaxed), "{length}, {cut}");
                assert!(beginning.note(&[0, 0, 0, 9]));
                assert!(begun.0.load(Ordering::Relaxed) && beginning.come.is_none(), "{length}, {cut}");
            }
        }
    }

    #[test]
    fn the_first_frame_has_settings() {
        let bytes = [&[b'x'; PREFACE][..], &[0, 0, 8, 6, 0, 0, 0, 0, 0]].concat();
        for cut in [1, 5, 27, 28, 100] {
            let (mut beginning, _) = Beginning::new(());
            assert!(!bytes.chunks(cut).all(|piece| beginning.note(piece)), "{cut}");
        }
    }
}
