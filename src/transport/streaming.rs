//! A streaming transport as one source of bytes: pulls from the session, encodes, sends heartbeats, and says why it ends.
//!
//! Enters: a reader, an encoding, the timers. Leaves: chunks, each for one write. Must not touch: hyper; a `Body` polls
//! it, or the listener does on a plain socket.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::record::{SourceRecord, StreamingRecord};
use crate::codec::encoding::Encoding;
use crate::http::source::{Chunk, Source, Tally};
use crate::registry::{Moved, PendingBytes, Reader};
use crate::session::Pulled;

/// Payload bytes of one chunk; arbitrary, a few TCP segments. A larger message is a chunk of its own.
const CHUNK: usize = 16 * 1024;
/// After how many milliseconds a client comes back whose stream was recycled, or whose session has moved: at once.
const AT_ONCE_MS: u32 = 0;
/// The same when this process stops: the next one needs a moment to start.
const STOPPING_MS: u32 = 1000;

/// The source of the `sse` and `stream` transports.
pub struct Streaming<E> {
    reader: Reader,
    encoding: E,
    greeting: Option<String>,
    /// The last number written to this stream.
    sent: u64,
    /// When the next heartbeat is due unless something is written before; the first one is the probe.
    beat: Instant,
    recycle: Option<Instant>,
}

/// An encoding of which a record can be made.
pub(super) trait Recorded: Encoding {
    fn record(&self, streaming: StreamingRecord) -> SourceRecord;
}

impl<E: Encoding> Streaming<E> {
    /// Goes on where another process has stopped.
    pub(super) fn again(reader: Reader, encoding: E, record: StreamingRecord) -> Self {
        let StreamingRecord { greeting, sent, beat, recycle, .. } = record;
        let (beat, recycle) = (reader.instant(beat), recycle.map(|at| reader.instant(at)));
        Self { reader, encoding, greeting, sent, beat, recycle }
    }

    /// Begins with `greeting`. The first heartbeat comes early, as the probe by which a client sees whether its network lets
    /// a stream through.
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

    /// Encodes what the session has until `out` has `full` bytes; true when the stream ends behind it.
    fn pull(&mut self, cx: &Context<'_>, out: &mut BytesMut, full: usize) -> bool {
        while out.len() < full {
            let encoding = &self.encoding;
            match self.reader.poll_pull(cx, CHUNK, |number, message| encoding.message(out, number, message)) {
                Poll::Pending => return false,
                Poll::Ready(Err(Moved)) => {
                    self.encoding.reconnect(out, AT_ONCE_MS);
                    return true;
                }
                Poll::Ready(Ok(Pulled::Batch { first, count, .. })) => {
                    self.sent = first + count - 1;
                    if self.reader.is_dry() {
                        return false;
                    }
                }
                Poll::Ready(Ok(Pulled::Lost { from, to })) => {
                    self.encoding.lost(out, from, to);
                    self.sent = to;
                }
                Poll::Ready(Ok(Pulled::Ended { number, close })) => {
                    self.encoding.close(out, number, &close);
                    return true;
                }
                Poll::Ready(Ok(Pulled::Superseded | Pulled::Wait)) => {
                    self.encoding.superseded(out);
                    return true;
                }
            }
        }
        false
    }

    /// Writes what is due at `now`; true when the stream ends behind it.
    fn tick(&mut self, now: Instant, out: &mut BytesMut) -> bool {
        if self.reader.leave_at().is_some_and(|at| at <= now) {
            self.encoding.reconnect(out, STOPPING_MS);
            return true;
        }
        if self.recycle.is_some_and(|at| at <= now) {
            self.encoding.reconnect(out, AT_ONCE_MS);
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

impl Tally for PendingBytes {
    fn poll_revoked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_abandoned(cx)
    }
}

impl<E: Recorded> Source for Streaming<E> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Chunk> {
        if let Some(greeting) = self.greeting.take() {
            // Alone and at once. A box that waits for a first byte must not have to wait for a message. And a box that passes
            // on each write only when the next one comes must be found out: it would not be if a message came together with
            // the opening, because then the probe pushes both through.
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
                return Poll::Ready(if waits { Chunk::Drained } else { Chunk::More });
            }
            let due = self.due();
            ready!(self.reader.poll_due(cx, now, due));
        }
    }

    fn tally(&self, bytes: usize) -> Option<Box<dyn Tally>> {
        Some(self.reader.session().tally(bytes))
    }

    fn record(&self) -> Option<Bytes> {
        let Self { reader, greeting, sent, beat, recycle, .. } = self;
        let streaming = StreamingRecord {
            reader: reader.record(),
            greeting: greeting.clone(),
            sent: *sent,
            beat: reader.moment(*beat),
            recycle: recycle.map(|at| reader.moment(at)),
        };
        self.encoding.record(streaming).to_bytes()
    }
}
