//! The core: one session as a pure state machine (std and bytes; no clock, no runtime, no randomness, no handles).
//!
//! Enters: what the backend, the client and the server itself did, each with the time at which it happened.
//! Leaves: results, and actions for the caller. Must not touch: anything else. All of its state is plain data and can
//! be written out and read back (serde).
//!
//! Four kinds of method, in the manner of `quinn-proto`:
//!
//! | | |
//! |---|---|
//! | the backend did | [`Session::upstream_message`] · [`Session::upstream_took`] · [`Session::upstream_closed`] |
//! | the client did | [`Session::attach`] · [`Session::pull`] · [`Session::wrote`] · [`Session::detach`] · [`Session::ack`] · [`Session::push`] · [`Session::close`] |
//! | the server did | [`Session::end`] · [`Session::abandon`] · [`Session::drop_replay`] · [`Session::expire`] |
//! | what to do next | [`Session::poll_action`] · [`Session::next_deadline`] |
//!
//! **After every call that changes the session, take actions until there are none.**

mod actions;
mod downlink;
mod handover;
mod lease;
mod memory;
mod types;
mod uplink;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::actions::Outbox;
use self::downlink::{Batch, Downlink};
use self::lease::Lease;
pub use self::types::is_default;
pub use self::types::{
    Action, Attach, AttachError, Attachment, Close, Counts, Kind, Limits, Message, Moment, Pulled, Pushed,
};
use self::uplink::{Taken, Uplink};

/// One client's conversation with the backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Shared by many: each session would have a copy otherwise. What is written down of a session does not have them; see
    /// [`Session::governed_by`].
    #[serde(skip)]
    limits: Arc<Limits>,
    down: Downlink,
    up: Uplink,
    lease: Lease,
    /// The client acknowledges, and what it has not acknowledged is kept. Otherwise the session is called bare.
    #[serde(default, skip_serializing_if = "is_default")]
    acknowledging: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    upstream: Upstream,
    #[serde(default, skip_serializing_if = "is_default")]
    ended: Option<Ended>,
    /// The backend is paused: since when, or since the client's last progress if that is later.
    #[serde(default, skip_serializing_if = "is_default")]
    paused: Option<Moment>,
    outbox: Outbox,
}

/// The backend's side of the session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Upstream {
    #[default]
    Open,
    /// We close the WebSocket once all that the client sent before is written, and wait until `until` for the backend's
    /// close frame.
    Closing {
        close: Close,
        until: Moment,
    },
    Gone,
}

/// How the down channel ends, and since when the messages that are left are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ended {
    close: Close,
    since: Moment,
    /// What is left will not be read any more: all is acknowledged, or the grace is over.
    settled: bool,
}

impl Session {
    /// A session whose upstream WebSocket has just opened.
    #[must_use]
    pub fn new(now: Moment, limits: impl Into<Arc<Limits>>, acknowledging: bool) -> Self {
        Self {
            limits: limits.into(),
            down: Downlink::default(),
            up: Uplink::new(),
            lease: Lease::new(now),
            acknowledging,
            upstream: Upstream::Open,
            ended: None,
            paused: None,
            outbox: Outbox { upstream_free: true, ..Outbox::default() },
        }
    }

    // === the backend did ===

    /// A message came from the backend. After the end it is dropped: the client was given the close already, or will be.
    pub fn upstream_message(&mut self, now: Moment, message: Message) {
        if self.ended.is_some() {
            return;
        }
        self.down.push(now, message);
        self.outbox.wake_reader = true;
        self.update_pause(now, false);
    }

    /// The socket has written the last message given to it.
    pub fn upstream_took(&mut self) {
        self.outbox.upstream_free = true;
    }

    /// The backend closed, answered our close, or was lost.
    pub fn upstream_closed(&mut self, now: Moment, theirs: Close) {
        let ours = match std::mem::replace(&mut self.upstream, Upstream::Gone) {
            Upstream::Closing { close, .. } => Some(close),
            Upstream::Open => None,
            Upstream::Gone => return,
        };
        self.up.clear();
        self.outbox.wake_senders |= self.up.take_starved();
        self.finish_down(now, ours.unwrap_or(theirs));
    }

    // === the client did ===

    /// Gives the right to read behind a cursor to a new attachment and supersedes an older one. Returns the attachment
    /// and the cursor at which it starts.
    ///
    /// # Errors
    /// [`AttachError`]; nothing has changed, except that a cursor which includes the close settles the session.
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
        let attachment = self.lease.attach(now, attach.is_poll);
        self.outbox.wake_reader = true;
        self.down.seek(start);
        if self.acknowledging {
            self.acknowledge(now, start);
        }
        self.update_pause(now, false);
        Ok((attachment, start))
    }

    /// What comes next for this attachment. Messages are given to `each` with their numbers: payloads up to `budget`
    /// bytes together, but at least one message. With a budget of 0 there are none: only what stands between or behind them.
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
        if budget == 0 && self.down.unread_cost() > 0 {
            return Pulled::Wait;
        }
        if let Some(Batch { first, count, bytes, arrived }) = self.down.pull(now, budget, each) {
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

    /// The client's socket took a write. For a bare session that counts as a sign of life, since it has no better one.
    pub fn wrote(&mut self, now: Moment, attachment: Attachment) {
        if !self.acknowledging && self.lease.is_current(attachment) {
            self.lease.hear(now);
        }
    }

    /// The reader of this attachment is gone.
    pub fn detach(&mut self, now: Moment, attachment: Attachment) {
        if self.lease.detach(now, attachment) {
            self.down.release(false);
            self.update_pause(now, false);
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
        let taken = self.up.push(first, batch, self.limits.reorder_window, self.limits.queue);
        let next = self.up.next();
        match taken {
            Taken::All => Pushed::Accepted { next },
            Taken::Part(taken) => Pushed::Busy { taken, next },
            Taken::Gap => Pushed::Gap { next },
        }
    }

    /// The client closes: what it sent before goes to the backend first. Returns the close that counts: that of the first
    /// call.
    pub fn close(&mut self, now: Moment, close: Close) -> Close {
        if let Some(earlier) = self.closed_for_sending() {
            return earlier;
        }
        self.lease.hear(now);
        self.close_upstream(now, close.clone());
        close
    }

    // === the server did ===

    /// Ends the session towards both sides at once; what is kept for the client stays until the grace is over.
    pub fn end(&mut self, now: Moment, close: Close) {
        let close = self.closed_for_sending().unwrap_or(close);
        if self.is_open() {
            self.close_upstream(now, close.clone());
        }
        self.finish_down(now, close);
    }

    // === state ===

    /// True when there is nothing to read: the next pull would have to wait.
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

    /// When the client was last heard of.
    #[must_use]
    pub fn heard(&self) -> Moment {
        self.lease.heard()
    }

    /// True when this attachment is the one that reads.
    #[must_use]
    pub fn is_current(&self, attachment: Attachment) -> bool {
        self.lease.is_current(attachment)
    }

    /// True when the backend is closed or given up: its socket can be dropped.
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

    /// Checks the invariants, for simulators.
    ///
    /// # Errors
    /// The name of the one that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        self.down.check()?;
        self.up.check(self.limits.reorder_window)?;
        if !self.acknowledging && self.down.kept_cost() - self.down.unread_cost() > self.limits.replay {
            return Err("replay window");
        }
        Ok(())
    }

    // === internals ===

    fn acknowledge(&mut self, now: Moment, cursor: u64) {
        let progress = self.down.acknowledge(cursor);
        self.down.release(self.lease.is_attached());
        if self.is_past_close(cursor) {
            self.settle();
        }
        self.update_pause(now, progress);
    }

    /// After a read: frees what need not be kept any longer.
    fn settle_read(&mut self, now: Moment) {
        if self.acknowledging {
            self.down.release(true);
        } else {
            self.down.trim(self.limits.replay);
            self.down.trim_older(now, self.limits.replay_age);
        }
        self.update_pause(now, !self.acknowledging);
    }

    /// Compares what is buffered with the limit: pauses the backend at the limit, resumes at half of it. After the end
    /// nothing more is kept, and the backend must be read on: its close frame comes behind what it still sends.
    fn update_pause(&mut self, now: Moment, progress: bool) {
        if self.ended.is_some() {
            return;
        }
        let buffered = if self.acknowledging { self.down.kept_cost() } else { self.down.unread_cost() };
        match self.paused {
            None if buffered >= self.limits.buffer => self.paused = Some(now),
            Some(_) if buffered <= self.limits.buffer / 2 => self.paused = None,
            Some(_) if progress => self.paused = Some(now),
            _ => {}
        }
    }

    fn close_upstream(&mut self, now: Moment, close: Close) {
        self.upstream = Upstream::Closing { close, until: now.after(self.limits.close_wait) };
        self.outbox.wake_senders = true;
    }

    fn finish_down(&mut self, now: Moment, close: Close) {
        if self.ended.is_none() {
            self.ended = Some(Ended { close, since: now, settled: false });
            self.paused = None;
            self.outbox.wake_reader = true;
            self.outbox.wake_senders = true;
        }
    }

    /// A reader still reads what is left, so it is kept for one more grace.
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

    /// The close of a session that is known to have one.
    fn closing(&self) -> Close {
        self.closed_for_sending().unwrap_or_else(Close::lost)
    }
}
