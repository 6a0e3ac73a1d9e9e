//! The stream under a connection of hyper's to a backend: puts heads there as they were written, and notes what comes.
//!
//! Enters: hyper's bytes, and the head that is to be written instead of the one that hyper makes of the same request.
//! Leaves: that head; whether anything came behind it; how the head of the response was written. Must not touch: what heads
//! mean, bodies, framing. Those are hyper's.
//!
//! hyper writes names in a case of its own and takes no target that `Uri` refuses, and its errors do not say whether a byte
//! of a response had come. So both ends of the connection share a [`Record`] of the exchange that is under way.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::as_written::AsWritten;
use crate::http::fields::end_of_head;
use crate::http::replay::Replay;
use crate::upstream::io::Io;

/// The most interim responses (100, 102, 103 …) before a response. A backend that sends more has no other in mind.
const MAX_INTERIM: u32 = 100;

/// The exchange that is under way on a connection; known at both of its ends.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// What is left to write of the head that is written instead of hyper's.
    head: Bytes,
    /// How much of that was written.
    written: usize,
    /// Bytes have come since the request.
    answered: bool,
    /// Interim responses so far.
    interim: u32,
    response: ResponseHead,
}

/// The head of a response, as it comes.
#[derive(Default)]
enum ResponseHead {
    /// Not looked for.
    #[default]
    Ignored,
    Coming(BytesMut),
    Complete(Bytes),
}

/// The stream; owned by hyper's connection.
pub(crate) struct HyperStream {
    io: Replay<Io>,
    record: Record,
    /// The longest head of a response, in bytes.
    limit: usize,
}

// === impl Record ===

impl Record {
    /// Begins an exchange: the next head that hyper writes is replaced by this one of the same length. An empty one leaves
    /// hyper's.
    pub(crate) fn begin(&self, head: Bytes) {
        let response = ResponseHead::Coming(BytesMut::new());
        *self.lock() = State { head, response, ..State::default() };
    }

    /// Whether a byte has come since the exchange began.
    pub(crate) fn is_answered(&self) -> bool {
        self.lock().answered
    }

    /// How the head of the response was written.
    pub(crate) fn take_written(&self) -> Option<AsWritten> {
        match std::mem::take(&mut self.lock().response) {
            ResponseHead::Complete(head) => AsWritten::of_head(&head),
            ResponseHead::Ignored | ResponseHead::Coming(_) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can leave it half changed, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn note(&mut self, new: &[u8], limit: usize) {
        self.answered |= !new.is_empty();
        let ResponseHead::Coming(seen) = &mut self.response else { return };
        let mut from = seen.len();
        seen.extend_from_slice(new);
        while let Some(end) = end_of_head(seen, from) {
            if is_interim(seen) {
                seen.advance(end);
                from = 0;
                self.interim += 1;
            } else {
                self.response = ResponseHead::Complete(std::mem::take(seen).freeze().slice(..end));
                return;
            }
        }
        if seen.len() > limit {
            self.response = ResponseHead::Ignored;
        }
    }
}

/// Whether it is the head of an informational response that another one follows (RFC 9110 section 15.2).
fn is_interim(head: &[u8]) -> bool {
    head.get(8..12).is_some_and(|status| status.starts_with(b" 1") && status != b" 101")
}

/// Whether two heads are of the same request: the same fields in any case, and first lines of the same length, for a target
/// that `Uri` refuses has a stand-in.
fn is_same(theirs: &[u8], ours: &[u8]) -> bool {
    let fields = ours.iter().position(|byte| *byte == b'\n').unwrap_or_default();
    theirs.len() >= ours.len() && theirs[fields..ours.len()].eq_ignore_ascii_case(&ours[fields..])
}

// === impl HyperStream ===

impl HyperStream {
    /// A stream whose exchanges are recorded.
    pub(crate) fn new(io: Replay<Io>, record: Record, limit: usize) -> Self {
        Self { io, record, limit }
    }

    /// The stream itself, and what was read ahead of it.
    pub(crate) fn into_parts(self) -> (Io, Bytes) {
        self.io.into_parts()
    }

    /// Writes the recorded head instead of what hyper writes; `None` when there is none.
    fn poll_head(&mut self, cx: &mut Context<'_>, theirs: &[u8]) -> Option<Poll<io::Result<usize>>> {
        let mut state = self.record.lock();
        if state.head.is_empty() {
            return None;
        }
        if state.written == 0 && !is_same(theirs, &state.head) {
            let what = "hyper would write another head than the one that belongs to the request";
            return Some(Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what))));
        }
        let written = Pin::new(&mut self.io).poll_write(cx, &state.head);
        if let Poll::Ready(Ok(count)) = written {
            state.head.advance(count);
            state.written += count;
        }
        Some(written)
    }
}

impl AsyncRead for HyperStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, into))?;
        let mut state = self.record.lock();
        state.note(&into.filled()[before..], self.limit);
        if state.interim > MAX_INTERIM {
            let what = format!("more than {MAX_INTERIM} interim responses and no other");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HyperStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.poll_head(cx, bytes) {
            Some(written) => written,
            None => Pin::new(&mut self.io).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // hyper has a head in one piece. Fewer bytes than all may be taken, so the first slice is enough.
        let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        match self.poll_head(cx, first) {
            Some(written) => written,
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;

    fn connected() -> (HyperStream, Record, UnixStream) {
        let (near, far) = UnixStream::pair().expect("two sockets");
        let record = Record::default();
        (HyperStream::new(Replay::new(Io::Unix(near)), record.clone(), 256), record, far)
    }

    #[tokio::test]
    async fn the_head_is_ours_and_what_follows_it_is_hypers() {
        let (mut near, record, mut far) = connected();
        record.begin(Bytes::from_static(b"GET /\"b HTTP/1.1\r\nX-ApiKey: 1\r\n\r\n"));
        near.write_all(b"GET /_b HTTP/1.1\r\nX-Apikey: 1\r\n\r\nbody").await.expect("it is the same");
        near.write_all(b"GET /c HTTP/1.1\r\nX-Apikey: 1\r\n\r\n").await.expect("nothing is recorded");
        drop(near);
        let mut came = String::new();
        far.read_to_string(&mut came).await.expect("the end");
        let expected = "GET /\"b HTTP/1.1\r\nX-ApiKey: 1\r\n\r\nbodyGET /c HTTP/1.1\r\nX-Apikey: 1\r\n\r\n";
        assert_eq!(came, expected);
    }

    #[tokio::test]
    async fn another_head_is_refused_and_nothing_of_it_reaches_the_backend() {
        for other in ["GET / HTTP/1.1\r\nA: 2\r\n\r\n", "GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\nA: 1\r\n\r\n"] {
            let (mut near, record, mut far) = connected();
            record.begin(Bytes::from_static(b"GET / HTTP/1.1\r\nA: 1\r\n\r\n"));
            let error = near.write_all(other.as_bytes()).await.expect_err("it differs");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{other}");
            drop(near);
            let mut came = Vec::new();
            far.read_to_end(&mut came).await.expect("the end");
            assert!(came.is_empty(), "{other}");
        }
    }

    #[test]
    fn the_head_of_a_response_is_found_in_whatever_pieces_behind_interim_ones() {
        let text =
            b"HTTP/1.1 103 Early Hints\r\nX-Hint: a\r\n\r\nHTTP/1.1 200 OK\r\nX-ApiKey: 1\r\n\r\nX-BODY: 1\r\n\r\n";
        for piece in 1..text.len() {
            let record = Record::default();
            record.begin(Bytes::new());
            assert!(!record.is_answered());
            text.chunks(piece).for_each(|piece| record.lock().note(piece, 256));
            assert!(record.is_answered());
            let written = record.take_written().expect("one name is unusual");
            assert_eq!(format!("{written:?}").matches("X-ApiKey").count(), 1, "{written:?}");
            assert!(!format!("{written:?}").contains("BODY"), "in pieces of {piece}: {written:?}");
        }
    }

    #[test]
    fn a_head_without_end_is_not_kept() {
        let record = Record::default();
        record.begin(Bytes::new());
        for _ in 0..100 {
            record.lock().note(b"X-ApiKey: 1\r\n", 256);
        }
        assert!(matches!(record.lock().response, ResponseHead::Ignored));
    }
}
