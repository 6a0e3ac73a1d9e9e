//! What a session must be like, in the plainest terms: lists, sums and dates, with nothing clever about them.
//!
//! Enters: what the world did to the session. Leaves: what the session must answer, and complaints where it is not so.
//! Must not touch: the session's own methods, beyond its questions.

use std::collections::BTreeMap;

use underpass::session::{Attach, AttachError, Attachment, Close, Limits, Message, Moment, Pushed, Session};

/// The backend's side, as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upstream {
    Open,
    /// A close was begun; it is over at this time at the latest.
    Closing(Moment),
    Gone,
}

/// The reference.
pub(crate) struct Model {
    pub(crate) limits: Limits,
    /// Whether the backend may have one message under way when it is paused.
    pub(crate) slack: usize,
    /// All messages down, and when they came.
    pub(crate) messages: Vec<(Message, Moment)>,
    /// How often a message was let go of for its age.
    pub(crate) aged: u64,
    /// Memory ran short just now.
    pub(crate) short: bool,
    /// When each of them was last given to a reader.
    written: Vec<Option<Moment>>,
    /// `sums[n]`: what the messages 1 to n cost together.
    sums: Vec<usize>,
    biggest: usize,
    pub(crate) base: u64,
    pub(crate) read: u64,
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) acknowledging: bool,
    pub(crate) was_bare: bool,
    pub(crate) current: Option<(Attachment, bool)>,
    pub(crate) heard: Moment,
    pub(crate) paused: Option<Moment>,
    /// What the backend must get, in order.
    pub(crate) accepted: Vec<Message>,
    pub(crate) early: BTreeMap<u64, Message>,
    pub(crate) given: usize,
    biggest_batch: usize,
    biggest_up: usize,
    pub(crate) upstream: Upstream,
    /// The close that counts, once there is one.
    pub(crate) closing: Option<Close>,
    /// Since when the end is kept.
    pub(crate) ended: Option<Moment>,
    pub(crate) settled: bool,
    pub(crate) finished: bool,
}

impl Model {
    pub(crate) fn new(now: Moment, limits: Limits, acknowledging: bool, slack: usize) -> Self {
        Self {
            limits,
            slack,
            messages: Vec::new(),
            written: Vec::new(),
            aged: 0,
            short: false,
            sums: vec![0],
            biggest: 0,
            base: 0,
            read: 0,
            sent: 0,
            acked: 0,
            acknowledging,
            was_bare: !acknowledging,
            current: None,
            heard: now,
            paused: None,
            accepted: Vec::new(),
            early: BTreeMap::new(),
            given: 0,
            biggest_batch: 0,
            biggest_up: 0,
            upstream: Upstream::Open,
            closing: None,
            ended: None,
            settled: false,
            finished: false,
        }
    }

    pub(crate) fn last(&self) -> u64 {
        self.messages.len() as u64
    }

    pub(crate) fn next(&self) -> u64 {
        self.accepted.len() as u64 + 1
    }

    pub(crate) fn is_current(&self, attachment: Attachment) -> bool {
        self.current.is_some_and(|(current, _)| current == attachment)
    }

    // === down ===

    pub(crate) fn arrive(&mut self, now: Moment, message: Message) {
        self.biggest = self.biggest.max(message.cost());
        self.sums.push(self.sums[self.messages.len()] + message.cost());
        self.messages.push((message, now));
        self.written.push(None);
    }

    /// A reader was given so many messages behind what it had read.
    pub(crate) fn give(&mut self, now: Moment, count: u64) {
        let read = self.read as usize;
        self.written[read..read + count as usize].fill(Some(now));
        self.read += count;
        self.sent = self.sent.max(self.read);
    }

    /// What the messages `from` + 1 to `to` cost.
    fn cost(&self, from: u64, to: u64) -> usize {
        let to = to.min(self.last()) as usize;
        self.sums[to].saturating_sub(self.sums[(from as usize).min(to)])
    }

    pub(crate) fn refusal(&self, attach: Attach) -> Option<AttachError> {
        let cursor = attach.after.unwrap_or(self.acked);
        if cursor > self.sent {
            return Some(AttachError::Beyond { sent: self.sent });
        }
        if cursor < self.acked {
            return Some(AttachError::Stale { acked: self.acked });
        }
        let counts_close = self.ended.is_some() && cursor > self.last();
        counts_close.then(|| AttachError::Ended(self.closing.clone().expect("what has ended has a close")))
    }

    pub(crate) fn acknowledge(&mut self, now: Moment, cursor: u64) {
        if cursor > self.acked {
            self.acked = cursor;
            self.progress(now);
        }
        self.settled |= self.ended.is_some() && cursor > self.last();
    }

    pub(crate) fn progress(&mut self, now: Moment) {
        if self.paused.is_some() {
            self.paused = Some(now);
        }
    }

    // === up ===

    fn waiting(&self) -> usize {
        let ready: usize = self.accepted[self.given..].iter().map(Message::cost).sum();
        ready + self.early.values().map(Message::cost).sum::<usize>()
    }

    /// What a push must be answered; what it accepts is taken into the model.
    pub(crate) fn push(&mut self, first: Option<u64>, batch: &[Message]) -> Pushed {
        if let Some(close) = &self.closing {
            return Pushed::Ended(close.clone());
        }
        self.biggest_batch = self.biggest_batch.max(batch.iter().map(Message::cost).sum());
        self.biggest_up = batch.iter().map(Message::cost).max().unwrap_or(0).max(self.biggest_up);
        match first {
            Some(first) if first > self.next() && !batch.is_empty() => self.hold(first, batch),
            _ => self.append(first, batch),
        }
    }

    fn hold(&mut self, first: u64, batch: &[Message]) -> Pushed {
        let next = self.next();
        if first + batch.len() as u64 - 1 > next + self.limits.reorder_window {
            return Pushed::Gap { next };
        }
        let fresh: Vec<_> = (first..).zip(batch).filter(|(number, _)| !self.early.contains_key(number)).collect();
        let cost: usize = fresh.iter().map(|(_, message)| message.cost()).sum();
        if cost > 0 && self.waiting() > 0 && self.waiting() + cost > self.limits.queue {
            return Pushed::Busy { taken: 0, next };
        }
        self.early.extend(fresh.into_iter().map(|(number, message)| (number, message.clone())));
        Pushed::Accepted { next }
    }

    fn append(&mut self, first: Option<u64>, batch: &[Message]) -> Pushed {
        for (taken, message) in batch.iter().enumerate() {
            if first.is_some_and(|first| first + (taken as u64) < self.next()) {
                continue;
            }
            let queued = self.given < self.accepted.len();
            if queued && self.waiting() + message.cost() > self.limits.queue {
                return Pushed::Busy { taken, next: self.next() };
            }
            self.early.remove(&self.next());
            self.accepted.push(message.clone());
            while let Some(message) = self.early.remove(&self.next()) {
                self.accepted.push(message);
            }
        }
        Pushed::Accepted { next: self.next() }
    }

    // === the end ===

    pub(crate) fn begin_close(&mut self, now: Moment, close: &Close) {
        if self.closing.is_none() {
            self.closing = Some(close.clone());
            self.upstream = Upstream::Closing(now.after(self.limits.close_wait));
        }
    }

    pub(crate) fn end(&mut self, now: Moment, close: &Close) {
        self.begin_close(now, close);
        self.ended.get_or_insert(now);
    }

    pub(crate) fn upstream_gone(&mut self, now: Moment, close: &Close) {
        if self.upstream != Upstream::Gone {
            self.closing.get_or_insert_with(|| close.clone());
            self.ended.get_or_insert(now);
            self.upstream = Upstream::Gone;
            self.paused = None;
            self.early.clear();
        }
    }

    /// What time brings. The name of what it brought, for the coverage.
    pub(crate) fn expire(&mut self, now: Moment) -> Option<&'static str> {
        let mut brought = None;
        if let Upstream::Closing(until) = self.upstream
            && until <= now
        {
            self.upstream_gone(now, &Close::lost());
            brought = Some("close never answered");
        }
        if self.pause_deadline().is_some_and(|deadline| deadline <= now) {
            self.end(now, &Close::clean(1013, "client too slow"));
            brought = Some("client too slow");
        }
        if self.grace_deadline().is_some_and(|deadline| deadline <= now) {
            self.end(now, &Close::clean(1001, "client gone"));
            brought = Some("client gone");
        }
        if self.keep_deadline().is_some_and(|deadline| deadline <= now) {
            self.settled = true;
            brought = Some("remainder given up");
        }
        brought
    }

    fn replay_deadline(&self) -> Option<Moment> {
        let oldest = self.written.get(self.base as usize).filter(|_| !self.acknowledging && self.base < self.read)?;
        let age = self.limits.replay_age;
        Some(oldest.expect("it was read").after(age + age / 4))
    }

    /// Whether a written message is so old that it need not be kept.
    fn is_old(&self, number: u64, now: Moment) -> bool {
        let written = self.written[number as usize - 1];
        written.is_some_and(|written| written.after(self.limits.replay_age) <= now)
    }

    fn pause_deadline(&self) -> Option<Moment> {
        Some(self.paused?.after(self.limits.pause)).filter(|_| self.upstream == Upstream::Open)
    }

    fn grace_deadline(&self) -> Option<Moment> {
        let polled = self.current.is_some_and(|(_, is_poll)| is_poll);
        (self.upstream == Upstream::Open && !polled).then(|| self.heard.after(self.limits.grace))
    }

    fn keep_deadline(&self) -> Option<Moment> {
        let since = self.ended.filter(|_| !self.settled)?;
        Some(since.max(self.heard).after(self.limits.grace))
    }

    fn deadline(&self) -> Option<Moment> {
        let closing = match self.upstream {
            Upstream::Closing(until) => Some(until),
            _ => None,
        };
        let all = [closing, self.pause_deadline(), self.grace_deadline(), self.keep_deadline(), self.replay_deadline()];
        all.into_iter().flatten().min().filter(|_| !self.finished)
    }

    // === the invariants, after every call and its actions ===

    pub(crate) fn verify(&mut self, now: Moment, session: &Session) {
        session.check().unwrap_or_else(|what| panic!("the session's own check: {what}"));
        let counts = session.counts();
        assert_eq!((counts.sent, counts.acked, counts.down), (self.sent, self.acked, self.last()), "down cursors");
        if self.upstream == Upstream::Gone {
            // What waited for a backend that is gone is forgotten; the numbers stay.
            assert!(session.is_upstream_gone(), "the upstream is not given up");
        }
        assert_eq!((counts.next, counts.up), (self.next(), self.given as u64), "up cursors");
        self.verify_kept(now, counts.kept);
        self.verify_pause(counts.kept);
        // One early batch when nothing waits, and the message that fills its gap, whatever their size.
        let room = self.limits.queue.max(self.biggest_batch) + self.biggest_up;
        assert!(self.upstream == Upstream::Gone || self.waiting() <= room, "{} B wait for the backend", self.waiting());
        assert_eq!(session.closed_for_sending(), self.closing, "the close that counts");
        assert_eq!(self.finished, self.settled && self.upstream == Upstream::Gone, "finished");
        assert_eq!(session.next_deadline(), self.deadline(), "next deadline");
    }

    /// What is kept is a tail of what came: nothing unacknowledged is let go of, and nothing is kept for too long.
    fn verify_kept(&mut self, now: Moment, kept: usize) {
        let gone = self.sums[self.messages.len()].checked_sub(kept).expect("more is kept than came");
        let base = self.sums.binary_search(&gone).expect("what is kept is not a tail of what came") as u64;
        if self.settled && !self.acknowledging {
            // A bare client has presented the close: nobody needs what a rival may still be reading.
            assert!(base >= self.base, "base {base}");
        } else if self.acknowledging {
            let free = if self.current.is_some() { self.acked.min(self.read) } else { self.acked };
            assert_eq!(base, self.base.max(free.min(self.last())), "let go of up to; acknowledged {}", self.acked);
        } else {
            assert!(base >= self.base && base <= self.sent, "base {base}");
            let inside = base > self.base && self.cost(base - 1, self.read) <= self.limits.replay;
            let old = inside && self.is_old(base, now);
            self.aged += u64::from(old);
            assert!(!inside || old || self.short, "message {base} was let go of within the replay window");
            assert!(
                !self.short || base >= self.read.min(self.last()),
                "what was read is kept although memory is short"
            );
            assert!(self.cost(base, self.sent) <= self.limits.replay, "more than the replay window is kept");
        }
        (self.base, self.short) = (base, false);
        if self.current.is_none() {
            self.read = self.read.max(base);
        }
        let replay = if self.was_bare { self.limits.replay } else { 0 };
        let bound = self.limits.buffer + self.biggest * (1 + self.slack) + replay;
        assert!(kept <= bound, "{kept} B kept, {bound} B allowed");
    }

    fn verify_pause(&self, kept: usize) {
        if self.upstream == Upstream::Gone {
            return;
        }
        if self.ended.is_some() {
            assert_eq!(self.paused, None, "the backend is not read although its answer to a close is awaited");
            return;
        }
        let weight = if self.acknowledging { kept } else { self.cost(self.read.max(self.base), self.last()) };
        assert!(weight < self.limits.buffer || self.paused.is_some(), "not paused with {weight} B");
        assert!(weight > self.limits.buffer / 2 || self.paused.is_none(), "still paused with {weight} B");
    }
}
