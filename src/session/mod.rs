//! The core: one session as a pure state machine (std and bytes; no clock, no runtime, no randomness, no handles).
//!
//! Enters: what the backend did, what the client did, what the house did, each with the time at which it happened.
//! Leaves: answers, and actions for the house. Must not touch: anything else. All of its state is plain data and can
//! be written out and read back (serde).
//!
//! Four kinds of method, in the manner of `quinn-proto`:
//!
//! | | |
//! |---|---|
//! | the backend did | [`Session::upstream_message`] · [`Session::upstream_took`] · [`Session::upstream_closed`] |
//! | the client did | [`Session::attach`] · [`Session::pull`] · [`Session::wrote`] · [`Session::detach`] · [`Session::ack`] · [`Session::push`] · [`Session::close`] |
//! | the house did | [`Session::end`] · [`Session::expire`] |
//! | what to do next | [`Session::poll_action`] · [`Session::next_deadline`] |
//!
//! **After every call that changes the session, take actions until there are none.**

mod attach;
mod downlink;
pub mod event;
mod next;
mod uplink;

use serde::{Deserialize, Serialize};

use self::attach::Lease;
use self::downlink::{Batch, Downlink};
pub use self::event::{
    Action, Attach, AttachError, Attachment, Close, Counts, Kind, Limits, Message, Moment, Pulled, Pushed,
};
use self::uplink::{Taken, Uplink};

/// One client's conversation with the backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    limits: Limits,
    down: Downlink,
    up: Uplink,
    lease: Lease,
    /// The client acknowledges: what it has not acknowledged is kept. Otherwise the session is bare.
    acknowledging: bool,
    upstream: Upstream,
    ended: Option<Ended>,
    /// Since when the backend is not read, or since the client's last progress while it is not.
    paused: Option<Moment>,
    told: Told,
}

/// The backend's side of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Upstream {
    Open,
    /// We close, as soon as what the client sent before has been given; until the backend answers, or until then.
    Closing {
        close: Close,
        until: Moment,
    },
    Gone,
}

/// How the down channel ends, and since when its remainder is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ended {
    close: Close,
    since: Moment,
    /// Nobody will ask for the remainder: all is acknowledged, or the grace is over.
    settled: bool,
}

/// What the house has been told, and what it is still to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    wake_reader: bool,
    wake_senders: bool,
    paused: bool,
    /// The socket takes a message.
    upstream_free: bool,
    closed: bool,
    finished: bool,
}

impl Session {
    /// A session whose upstream WebSocket has just opened.
    #[must_use]
    pub fn new(now: Moment, limits: Limits, acknowledging: bool) -> Self {
        Self {
            limits,
            down: Downlink::default(),
            up: Uplink::new(),
            lease: Lease::new(now),
            acknowledging,
            upstream: Upstream::Open,
            ended: None,
            paused: None,
            told: Told { upstream_free: true, ..Told::default() },
        }
    }

    // === the backend did ===

    /// A message came from the backend. After the end it is dropped: nobody may be told of it any more.
    pub fn upstream_message(&mut self, now: Moment, message: Message) {
        if self.ended.is_some() {
            return;
        }
        self.down.push(now, message);
        self.told.wake_reader = true;
        self.weigh(now, false);
    }

    /// The socket has taken the last message given to it.
    pub fn upstream_took(&mut self) {
        self.told.upstream_free = true;
    }

    /// The backend closed, answered our close, or was lost.
    pub fn upstream_closed(&mut self, now: Moment, theirs: Close) {
        let ours = match std::mem::replace(&mut self.upstream, Upstream::Gone) {
            Upstream::Closing { close, .. } => Some(close),
            Upstream::Open => None,
            Upstream::Gone => return,
        };
        self.up.clear();
        self.told.wake_senders |= self.up.take_starved();
        self.finish_down(now, ours.unwrap_or(theirs));
    }

    // === the client did ===

    /// Gives the right to read behind a cursor to a new attachment; an older one is superseded. Returns the attachment
    /// and the cursor at which it starts.
    ///
    /// # Errors
    /// [`AttachError`]; nothing has changed, except that a cursor which counts the close settles the session.
    pub fn attach(&mut self, now: Moment, attach: Attach) -> Result<(Attachment, u64), AttachError> {
        let start = attach.after.unwrap_or(self.down.acked());
        if start > self.down.sent() {
            return Err(AttachError::Beyond { sent: self.down.sent() });
        }
        if start < self.down.acked() {
            return Err(AttachError::Stale { acked: self.down.acked() });
        }
        self.acknowledging |= attach.acknowledging;
        if self.is_past_close(start) {
            self.acknowledge(now, start);
            return Err(AttachError::Ended(self.closing()));
        }
        let attachment = self.lease.attach(now, attach.holds);
        self.told.wake_reader = true;
        self.down.seek(start);
        if self.acknowledging {
            self.acknowledge(now, start);
        }
        self.weigh(now, false);
        Ok((attachment, start))
    }

    /// What comes next for this attachment. Messages are handed to `each` with their numbers: payloads up to `budget`
    /// bytes together, but at least one message.
    pub fn pull(
        &mut self,
        now: Moment,
        attachment: Attachment,
        budget: usize,
        each: impl FnMut(u64, &Message),
    ) -> Pulled {
        if !self.lease.is_current(attachment) {
            return Pulled::Superseded;
        }
        if let Some((from, to)) = self.down.skip_lost() {
            return Pulled::Lost { from, to };
        }
        if let Some(Batch { first, count, bytes, arrived }) = self.down.pull(budget, each) {
            self.wrote(now, attachment);
            self.keep_ended(now);
            self.settle_read(now);
            return Pulled::Batch { first, count, bytes, arrived };
        }
        match &self.ended {
            Some(ended) => Pulled::Ended { close: ended.close.clone(), number: self.down.pull_close() },
            None => Pulled::Wait,
        }
    }

    /// The attachment's stream took a write. For a bare session that is a sign of life, since nothing better exists.
    pub fn wrote(&mut self, now: Moment, attachment: Attachment) {
        if !self.acknowledging && self.lease.is_current(attachment) {
            self.lease.hear(now);
        }
    }

    /// The reader is gone.
    pub fn detach(&mut self, now: Moment, attachment: Attachment) {
        if self.lease.detach(now, attachment) {
            self.down.release(false);
            self.weigh(now, false);
        }
    }

    /// The client has everything up to `cursor`; an older cursor is ignored.
    ///
    /// # Errors
    /// [`AttachError::Beyond`] when so much was not sent; nothing has changed.
    pub fn ack(&mut self, now: Moment, cursor: u64) -> Result<(), AttachError> {
        if cursor > self.down.sent() {
            return Err(AttachError::Beyond { sent: self.down.sent() });
        }
        self.lease.hear(now);
        self.acknowledging = true;
        self.acknowledge(now, cursor);
        Ok(())
    }

    /// The client sent messages, the first of which has the number `first`; without one they take the next numbers.
    pub fn push(&mut self, now: Moment, first: Option<u64>, batch: &[Message]) -> Pushed {
        if let Some(close) = self.closed_for_sending() {
            return Pushed::Ended(close);
        }
        self.lease.hear(now);
        let taken = self.up.push(first, batch, self.limits.held, self.limits.queue);
        let next = self.up.next();
        match taken {
            Taken::All => Pushed::Accepted { next },
            Taken::Some(taken) => Pushed::Busy { taken, next },
            Taken::Gap => Pushed::Gap { next },
        }
    }

    /// The client closes: what it sent before goes to the backend first. Returns the close that counts, which is the
    /// first one's.
    pub fn close(&mut self, now: Moment, close: Close) -> Close {
        if let Some(earlier) = self.closed_for_sending() {
            return earlier;
        }
        self.lease.hear(now);
        self.close_upstream(now, close.clone());
        close
    }

    // === the house did ===

    /// Ends the session towards both sides at once; what is kept for the client stays until the grace is over.
    pub fn end(&mut self, now: Moment, close: Close) {
        let close = self.closed_for_sending().unwrap_or(close);
        if self.is_open() {
            self.close_upstream(now, close.clone());
        }
        self.finish_down(now, close);
    }

    // === questions ===

    /// True when an attachment that has read everything would have to wait.
    #[must_use]
    pub fn is_dry(&self) -> bool {
        self.down.unread_cost() == 0 && self.ended.is_none()
    }

    /// Cursors and counters.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            sent: self.down.sent(),
            acked: self.down.acked(),
            next: self.up.next(),
            down: self.down.last(),
            up: self.up.given(),
            kept: self.down.kept_cost(),
        }
    }

    /// True when this attachment is the one that reads.
    #[must_use]
    pub fn is_current(&self, attachment: Attachment) -> bool {
        self.lease.is_current(attachment)
    }

    /// True when the backend is closed or given up: its socket is to be dropped.
    #[must_use]
    pub fn is_upstream_gone(&self) -> bool {
        matches!(self.upstream, Upstream::Gone)
    }

    /// How the session ends or ended; `None` while it is open both ways.
    #[must_use]
    pub fn closed_for_sending(&self) -> Option<Close> {
        match (&self.upstream, &self.ended) {
            (_, Some(ended)) => Some(ended.close.clone()),
            (Upstream::Closing { close, .. }, None) => Some(close.clone()),
            _ => None,
        }
    }

    /// What must always hold, for simulators.
    ///
    /// # Errors
    /// The name of what does not.
    pub fn check(&self) -> Result<(), &'static str> {
        self.down.check()?;
        self.up.check(self.limits.held)?;
        if !self.acknowledging && self.down.kept_cost() - self.down.unread_cost() > self.limits.replay {
            return Err("replay window");
        }
        Ok(())
    }

    // === below: how ===

    fn acknowledge(&mut self, now: Moment, cursor: u64) {
        let progress = self.down.acknowledge(cursor);
        self.down.release(self.lease.is_attached());
        if self.is_past_close(cursor) {
            self.settle();
        }
        self.weigh(now, progress);
    }

    /// After a read: what needs no longer be kept goes.
    fn settle_read(&mut self, now: Moment) {
        if self.acknowledging {
            self.down.release(true);
        } else {
            self.down.trim(self.limits.replay);
        }
        self.weigh(now, !self.acknowledging);
    }

    /// Holds what is kept against the bound: pauses at the high mark, resumes at half of it. After the end nothing is
    /// kept any more, and the backend must be read on: its answer to our close lies behind what it still sends.
    fn weigh(&mut self, now: Moment, progress: bool) {
        if self.ended.is_some() {
            return;
        }
        let weight = if self.acknowledging { self.down.kept_cost() } else { self.down.unread_cost() };
        match self.paused {
            None if weight >= self.limits.buffer => self.paused = Some(now),
            Some(_) if weight <= self.limits.buffer / 2 => self.paused = None,
            Some(_) if progress => self.paused = Some(now),
            _ => {}
        }
    }

    fn close_upstream(&mut self, now: Moment, close: Close) {
        self.upstream = Upstream::Closing { close, until: now.after(self.limits.close_wait) };
        self.told.wake_senders = true;
    }

    fn finish_down(&mut self, now: Moment, close: Close) {
        if self.ended.is_none() {
            self.ended = Some(Ended { close, since: now, settled: false });
            self.paused = None;
            self.told.wake_reader = true;
            self.told.wake_senders = true;
        }
    }

    /// A reader is catching up with the remainder: it is kept for one more grace.
    fn keep_ended(&mut self, now: Moment) {
        if let Some(ended) = &mut self.ended {
            ended.since = now;
        }
    }

    fn settle(&mut self) {
        if let Some(ended) = &mut self.ended {
            ended.settled = true;
        }
    }

    fn is_past_close(&self, cursor: u64) -> bool {
        self.ended.is_some() && cursor > self.down.last()
    }

    /// The close of a session that has one.
    fn closing(&self) -> Close {
        self.closed_for_sending().unwrap_or_else(Close::lost)
    }
}
