//! The `poll` transport: one batch per request (PROTOCOL 4.3). A pure read; the cursor of the next request acknowledges.
//!
//! Enters: a reader. Leaves: a response whose body is one batch, once there is something to say or time is up. Must not
//! touch: how batches are encoded.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use tokio::time::Instant;

use super::record::{PollRecord, SourceRecord};
use super::stream::OCTET_STREAM;
use crate::codec::poll::PollResponse;
use crate::http::body::Body;
use crate::http::source::{Chunk, Source, Tally};
use crate::registry::Reader;
use crate::session::{Close, Message, Pulled};

/// After how many milliseconds a client comes back whose session has moved: at once.
const MOVED_MS: u32 = 0;
/// After how many milliseconds a client comes back when this process stops: the next one needs a moment to start.
const STOPPING_MS: u32 = 1000;

/// The options of one poll request.
pub struct PollOptions {
    /// How long to wait for a first message.
    pub wait: Duration,
    /// The response is frames instead of JSON.
    pub frames: bool,
    /// The `n` of the request, which is echoed.
    pub nonce: Option<String>,
}

/// One waiting poll.
struct WaitingPoll {
    reader: Reader,
    frames: bool,
    /// Behind the JSON, for terminals.
    newline: bool,
    nonce: Option<String>,
    deadline: Instant,
    gathered: Gathered,
}

/// What the response will hold.
#[derive(Default)]
struct Gathered {
    messages: Vec<Message>,
    close: Option<Close>,
    lost: Option<(u64, u64)>,
    superseded: bool,
    reconnect: Option<u32>,
    after: u64,
}

/// Responds once there is something to say, at the latest after the time that the request asked for.
#[must_use]
pub fn respond(reader: Reader, options: PollOptions) -> Response<Body> {
    let content_type = if options.frames { OCTET_STREAM } else { "application/json" };
    let mut poll = waiting(reader, options);
    poll.newline = !poll.frames;
    let mut response = Response::new(Body::Batch(Box::new(poll)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The body of the response, as a source of one chunk; a part of another, if it is JSON.
#[must_use]
pub fn source(reader: Reader, options: PollOptions) -> Box<dyn Source + Send> {
    Box::new(waiting(reader, options))
}

/// The same of a poll that waited in another process.
pub(super) fn again(reader: Reader, record: PollRecord) -> Box<dyn Source + Send> {
    let PollRecord { after, frames, newline, nonce, deadline, .. } = record;
    let (gathered, deadline) = (Gathered { after, ..Gathered::default() }, reader.instant(deadline));
    Box::new(WaitingPoll { reader, frames, newline, nonce, deadline, gathered })
}

fn waiting(reader: Reader, options: PollOptions) -> WaitingPoll {
    WaitingPoll {
        gathered: Gathered { after: reader.from(), ..Gathered::default() },
        reader,
        frames: options.frames,
        newline: false,
        nonce: options.nonce,
        deadline: Instant::now() + options.wait,
    }
}

impl Source for WaitingPoll {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Chunk> {
        loop {
            let now = Instant::now();
            if self.pull(cx) || self.is_over(now) {
                self.encode(out);
                // They are the session's again alone, which knows how long it keeps them.
                self.gathered.messages = Vec::new();
                return Poll::Ready(Chunk::Last);
            }
            let due = self.reader.leave_at().map_or(self.deadline, |leave| leave.min(self.deadline));
            ready!(self.reader.poll_due(cx, now, due));
        }
    }

    fn tally(&self, bytes: usize) -> Option<Box<dyn Tally>> {
        Some(self.reader.session().tally(bytes))
    }

    fn record(&self) -> Option<Bytes> {
        let Self { reader, frames, newline, nonce, deadline, .. } = self;
        let record = PollRecord {
            reader: reader.record(),
            after: reader.from(),
            frames: *frames,
            newline: *newline,
            nonce: nonce.clone(),
            deadline: reader.moment(*deadline),
        };
        SourceRecord::Poll(record).to_bytes()
    }
}

impl WaitingPoll {
    /// Takes what the session has, up to the limit of a batch; true when there is something to say.
    fn pull(&mut self, cx: &Context<'_>) -> bool {
        let batch = self.reader.session().policy().batch;
        let gathered = &mut self.gathered;
        loop {
            // What was pulled is the batch: behind it there may be the close, but no message that had no room.
            let budget = if gathered.messages.is_empty() { batch } else { 0 };
            let messages = &mut gathered.messages;
            let keep = |_, message: &Message| messages.push(message.clone());
            let Poll::Ready(pulled) = self.reader.poll_pull(cx, budget, keep) else { break };
            let Ok(pulled) = pulled else {
                gathered.reconnect = Some(MOVED_MS);
                break;
            };
            if gathered.take(pulled) || self.reader.is_dry() {
                break;
            }
        }
        gathered.has_news()
    }

    /// Time is up, or the process wants the client to leave.
    fn is_over(&mut self, now: Instant) -> bool {
        if self.reader.leave_at().is_some_and(|leave| leave <= now) {
            self.gathered.reconnect = Some(STOPPING_MS);
            return true;
        }
        self.deadline <= now
    }

    fn encode(&self, out: &mut BytesMut) {
        let Gathered { messages, close, lost, superseded, reconnect, after, .. } = &self.gathered;
        let response = PollResponse {
            from: self.reader.from(),
            after: *after,
            messages,
            close: close.as_ref(),
            lost: *lost,
            next: self.reader.session().progress().counts.next,
            nonce: self.nonce.as_deref(),
            superseded: *superseded,
            reconnect: *reconnect,
        };
        if self.frames {
            response.encode_frames(out);
        } else {
            response.encode_json(out);
            if self.newline {
                out.extend_from_slice(b"\n");
            }
        }
    }
}

impl Gathered {
    /// Adds what was pulled; true when nothing more can follow.
    fn take(&mut self, pulled: Pulled) -> bool {
        match pulled {
            Pulled::Batch { first, count, .. } => {
                self.after = first + count - 1;
                return false;
            }
            // It stands before all messages of an answer. The next one says it, for it begins behind those.
            Pulled::Lost { .. } if !self.messages.is_empty() => {}
            Pulled::Lost { from, to } => {
                self.lost = Some((from, to));
                self.after = to;
                return false;
            }
            Pulled::Ended { number, close } => {
                self.close = Some(close);
                self.after = number;
            }
            Pulled::Superseded | Pulled::Wait => self.superseded = true,
        }
        true
    }

    fn has_news(&self) -> bool {
        let says = self.close.is_some() || self.lost.is_some() || self.superseded || self.reconnect.is_some();
        says || !self.messages.is_empty()
    }
}
