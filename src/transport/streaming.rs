//! A streaming transport as one source of bytes: pulls from the session, encodes, beats, and ends in good order.
//!
//! Enters: a reader, an encoding, the timers. Leaves: chunks, each to be written with one write. Must not touch: hyper;
//! a `Body` drives it, or the listener on a bare socket.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use crate::codec::encoding::Encoding;
use crate::http::source::{Chunk, Source};
use crate::registry::Reader;
use crate::session::Pulled;

/// Payload bytes of one chunk; arbitrary, a few TCP segments. A larger message goes alone.
const CHUNK: usize = 16 * 1024;
/// When a client that was recycled should come back: at once.
const COME_BACK: u32 = 0;
/// When a client that was asked to leave a stopping process should come back: its successor needs a moment.
const COME_BACK_LATER: u32 = 1000;

/// The source of the `sse` and `stream` transports.
pub struct Streaming<E> {
    reader: Reader,
    encoding: E,
    greeting: Option<String>,
    /// The last number written here.
    sent: u64,
    /// When the next heartbeat is due unless something is written before; the first one is the probe.
    beat: Instant,
    recycle: Option<Instant>,
}

impl<E: Encoding> Streaming<E> {
    /// Begins with `greeting`; the first heartbeat follows as the probe.
    pub fn new(reader: Reader, encoding: E, greeting: String) -> Self {
        let now = Instant::now();
        let policy = reader.session().policy();
        let (beat, recycle) = (now + policy.probe.min(policy.heartbeat), policy.recycle);
        Self {
            sent: reader.from(),
            reader,
            encoding,
            greeting: Some(greeting),
            beat,
            recycle: (!recycle.is_zero()).then(|| now + recycle),
        }
    }

    /// Takes what the session has until `out` is `full`; true when the stream is to end behind it.
    fn pull(&mut self, cx: &Context<'_>, out: &mut BytesMut, full: usize) -> bool {
        while out.len() < full {
            let encoding = &self.encoding;
            match self.reader.poll_pull(cx, CHUNK, |number, message| encoding.message(out, number, message)) {
                Poll::Pending => return false,
                Poll::Ready(Pulled::Batch { first, count, .. }) => {
                    self.sent = first + count - 1;
                    if self.reader.is_dry() {
                        return false;
                    }
                }
                Poll::Ready(Pulled::Lost { from, to }) => {
                    self.encoding.lost(out, from, to);
                    self.sent = to;
                }
                Poll::Ready(Pulled::Ended { number, close }) => {
                    self.encoding.close(out, number, &close);
                    return true;
                }
                Poll::Ready(Pulled::Superseded | Pulled::Wait) => {
                    self.encoding.superseded(out);
                    return true;
                }
            }
        }
        false
    }

    /// What time demands; true when the stream is to end behind it.
    fn tick(&mut self, now: Instant, out: &mut BytesMut) -> bool {
        if self.reader.leave_at().is_some_and(|at| at <= now) {
            self.encoding.reconnect(out, COME_BACK_LATER);
            return true;
        }
        if self.recycle.is_some_and(|at| at <= now) {
            self.encoding.reconnect(out, COME_BACK);
            return true;
        }
        if self.beat <= now {
            self.encoding.heartbeat(out, self.sent);
            self.reader.wrote();
        }
        false
    }

    fn due(&self) -> Instant {
        [self.recycle, self.reader.leave_at()].into_iter().flatten().fold(self.beat, Instant::min)
    }

    fn heartbeat(&self) -> Duration {
        self.reader.session().policy().heartbeat
    }
}

impl<E: Encoding> Source for Streaming<E> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Chunk> {
        if let Some(greeting) = self.greeting.take() {
            // Alone and at once. Boxes that wait for a first byte must not wait for a message; and one that gives each write
            // when the next one comes must not seem sound because a message came with the opening, and then the probe.
            self.encoding.opening(out, self.sent, &greeting);
            return Poll::Ready(Chunk::More);
        }
        let start = out.len();
        loop {
            let now = Instant::now();
            let ended = self.pull(cx, out, start + CHUNK) || self.tick(now, out);
            if ended {
                return Poll::Ready(Chunk::Last);
            }
            if out.len() > start {
                self.beat = now + self.heartbeat();
                let due = self.due();
                let waits = self.reader.is_dry() && self.reader.poll_due(cx, now, due).is_pending();
                return Poll::Ready(if waits { Chunk::Now } else { Chunk::More });
            }
            let due = self.due();
            ready!(self.reader.poll_due(cx, now, due));
        }
    }
}
