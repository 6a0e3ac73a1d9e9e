//! The session under test and its caller: every call is made here, is compared with the model, and is followed by its
//! actions, all invariants and, now and then, a round trip of the whole state through JSON.
//!
//! Enters: what backend, client and clock do. Leaves: the session's answers. Must not touch: decisions of what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use underpass::session::{
    Action, Attach, AttachError, Attachment, Close, Limits, Message, Moment, Pulled, Pushed, Session,
};

use super::chance::Chance;
use super::model::{Model, Upstream};
use super::trace::{Trace, brief, brief_pulled};

/// How often what happened.
pub(crate) type Coverage = BTreeMap<&'static str, u64>;

/// One session and everything around it.
pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) now: Moment,
    pub(crate) model: Model,
    pub(crate) coverage: Coverage,
    session: Session,
    limits: Arc<Limits>,
    /// Attachments that were told to wait and have not been woken.
    waiting: BTreeSet<u64>,
    sender_waits: bool,
    /// Room was made while a sender waited.
    owes_wake: bool,
    /// The backend has not yet taken the last message.
    pub(crate) in_flight: bool,
    pub(crate) close_asked: bool,
    /// Messages that the backend may still deliver although it is paused.
    pub(crate) allowance: usize,
    trace: Trace,
}

impl World {
    pub(crate) fn new(mut chance: Chance, acknowledging: bool, traced: bool) -> Self {
        let limits = Arc::new(chance.limits());
        let now = Moment(chance.below(1 << 40));
        let slack = chance.below(2) as usize;
        Self {
            model: Model::new(now, *limits, acknowledging, slack),
            session: Session::new(now, Arc::clone(&limits), acknowledging),
            limits,
            chance,
            now,
            coverage: Coverage::new(),
            waiting: BTreeSet::new(),
            sender_waits: false,
            owes_wake: false,
            in_flight: false,
            close_asked: false,
            allowance: 0,
            trace: Trace::new(traced),
        }
    }

    pub(crate) fn cover(&mut self, what: &'static str) {
        *self.coverage.entry(what).or_default() += 1;
    }

    pub(crate) fn note(&mut self, step: impl FnOnce() -> String) {
        self.trace.note(self.now, step);
    }

    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.session.next_deadline()
    }

    // === the backend did ===

    pub(crate) fn upstream_message(&mut self, message: Message) {
        self.note(|| format!("backend sends {}", brief(&message)));
        self.session.upstream_message(self.now, message.clone());
        if self.model.ended.is_none() {
            self.model.arrive(self.now, message);
        }
        self.settle();
    }

    pub(crate) fn upstream_took(&mut self) {
        self.note(|| "backend took".into());
        self.in_flight = false;
        self.session.upstream_took();
        self.settle();
    }

    pub(crate) fn upstream_closed(&mut self, close: Close) {
        self.note(|| format!("backend closed {close:?}"));
        self.session.upstream_closed(self.now, close.clone());
        self.model.upstream_gone(self.now, &close);
        self.settle();
    }

    // === the client did ===

    pub(crate) fn attach(&mut self, attach: Attach) -> Result<(Attachment, u64), AttachError> {
        let expected = self.model.refusal(attach);
        let before = expected.is_some().then(|| self.session.clone());
        let answer = self.session.attach(self.now, attach);
        self.note(|| format!("{attach:?} -> {answer:?}"));
        match (&answer, expected) {
            (Ok((attachment, start)), None) => self.attached(attach, *attachment, *start),
            (Err(error), Some(expected)) => {
                assert_eq!(*error, expected, "refusal of {attach:?}");
                self.refused(attach, error, before.as_ref());
            }
            (answer, expected) => panic!("{attach:?} was answered {answer:?}, expected refusal: {expected:?}"),
        }
        self.settle();
        answer
    }

    fn attached(&mut self, attach: Attach, attachment: Attachment, start: u64) {
        assert_eq!(start, attach.after.unwrap_or(self.model.acked), "where the reader starts");
        if self.model.current.is_some() {
            self.cover("superseding");
        }
        if attach.acknowledging && !self.model.acknowledging {
            self.cover("bare became acknowledging");
        }
        self.model.current = Some((attachment, attach.is_poll));
        self.model.heard = self.now;
        self.model.read = start;
        self.model.acknowledging |= attach.acknowledging;
        if self.model.acknowledging {
            self.model.acknowledge(self.now, start);
        }
    }

    fn refused(&mut self, attach: Attach, error: &AttachError, before: Option<&Session>) {
        match error {
            AttachError::Ended(_) => {
                self.cover("ended by cursor");
                self.model.acknowledging |= attach.acknowledging;
                self.model.acknowledge(self.now, attach.after.unwrap_or(self.model.acked));
                return;
            }
            AttachError::Beyond { .. } => self.cover("attach beyond"),
            AttachError::Stale { .. } => self.cover("attach stale"),
        }
        assert_eq!(before, Some(&self.session), "a refused attach changed the session");
    }

    pub(crate) fn pull(&mut self, attachment: Attachment, budget: usize) -> (Pulled, Vec<Message>) {
        let current = self.model.is_current(attachment);
        let before = (!current).then(|| self.session.clone());
        let mut messages = Vec::new();
        let mut numbers = Vec::new();
        let pulled = self.session.pull(self.now, attachment, budget, |number, message| {
            numbers.push(number);
            messages.push(message.clone());
        });
        assert!(numbers.iter().copied().eq((self.model.read + 1..).take(numbers.len())), "numbers {numbers:?}");
        self.note(|| format!("pull {} of {budget} B -> {}", attachment.0, brief_pulled(&pulled)));
        self.waiting.remove(&attachment.0);
        match &pulled {
            Pulled::Superseded => {
                assert!(!current, "the live attachment was told that it is superseded");
                assert_eq!(before.as_ref(), Some(&self.session), "a superseded reader changed the session");
                self.cover("superseded");
            }
            _ if !current => panic!("a superseded reader was given {pulled:?}"),
            Pulled::Batch { first, count, bytes, arrived } => {
                let size: usize = messages.iter().map(|message| message.payload().len()).sum();
                assert_eq!((*count, *bytes), (messages.len() as u64, size), "how much was handed over");
                self.pulled_batch(*first, &messages, *arrived, budget);
            }
            Pulled::Lost { from, to } => {
                assert!(self.model.was_bare, "an acknowledging client was told of a loss");
                assert_eq!((*from, *to), (self.model.read + 1, self.model.base), "what is lost");
                self.model.read = *to;
                self.cover("lost");
            }
            Pulled::Wait if budget == 0 && self.model.read < self.model.last() => self.cover("messages without room"),
            Pulled::Wait => {
                assert_eq!((self.model.read, self.model.ended), (self.model.last(), None), "told to wait");
                self.waiting.insert(attachment.0);
            }
            Pulled::Ended { number, close } => {
                assert!(self.model.read >= self.model.last(), "the close came before a message");
                assert_eq!((*number, Some(close)), (self.model.last() + 1, self.model.closing.as_ref()), "close");
                assert!(self.model.ended.is_some(), "a close before the end");
                self.model.read = *number;
                self.model.sent = *number;
                self.cover("close pulled");
            }
        }
        self.settle();
        (pulled, messages)
    }

    fn pulled_batch(&mut self, first: u64, messages: &[Message], arrived: Option<Moment>, budget: usize) {
        assert_eq!(first, self.model.read + 1, "a hole or a duplicate");
        let original = &self.model.messages[self.model.read as usize..];
        assert!(original.len() >= messages.len(), "messages that never came");
        assert!(original.iter().zip(messages).all(|((one, _), other)| one == other), "another content than was sent");
        let size: usize = messages.iter().map(|message| message.payload().len()).sum();
        assert!(budget > 0 && (size <= budget || messages.len() == 1), "{size} B given, {budget} B asked for");
        let more = original.get(messages.len()).map(|(message, _)| message.payload().len());
        assert!(more.is_none_or(|more| size + more > budget), "a batch that is shorter than it must be");
        let fresh = (first > self.model.sent).then_some(original[0].1);
        assert_eq!(arrived, fresh, "when the first message came");
        if first <= self.model.sent {
            self.cover("replayed");
        }
        self.model.give(self.now, messages.len() as u64);
        if !self.model.acknowledging {
            self.model.heard = self.now;
            self.model.progress(self.now);
        }
        if self.model.ended.is_some() {
            self.model.ended = Some(self.now);
        }
    }

    pub(crate) fn wrote(&mut self, attachment: Attachment) {
        self.note(|| format!("{} wrote", attachment.0));
        self.session.wrote(self.now, attachment);
        if !self.model.acknowledging && self.model.is_current(attachment) {
            self.model.heard = self.now;
        }
        self.settle();
    }

    pub(crate) fn detach(&mut self, attachment: Attachment) {
        self.note(|| format!("{} detaches", attachment.0));
        self.waiting.remove(&attachment.0);
        self.session.detach(self.now, attachment);
        if self.model.is_current(attachment) {
            if self.model.current.is_some_and(|(_, is_poll)| is_poll) {
                self.model.heard = self.now;
            }
            self.model.current = None;
        }
        self.settle();
    }

    pub(crate) fn ack(&mut self, cursor: u64) {
        let before = (cursor > self.model.sent).then(|| self.session.clone());
        let answer = self.session.ack(self.now, cursor);
        self.note(|| format!("ack {cursor} -> {answer:?}"));
        if let Some(before) = before {
            assert_eq!(answer, Err(AttachError::Beyond { sent: self.model.sent }));
            assert_eq!(before, self.session, "an ack beyond changed the session");
            self.cover("ack beyond");
        } else {
            assert_eq!(answer, Ok(()));
            if cursor < self.model.acked {
                self.cover("ack old");
            }
            if !self.model.acknowledging {
                self.cover("bare became acknowledging");
            }
            self.model.heard = self.now;
            self.model.acknowledging = true;
            self.model.acknowledge(self.now, cursor);
        }
        self.settle();
    }

    pub(crate) fn push(&mut self, first: Option<u64>, batch: &[Message]) -> Pushed {
        let expected = self.model.push(first, batch);
        let pushed = self.session.push(self.now, first, batch);
        self.note(|| format!("push {} from {first:?} -> {pushed:?}", batch.len()));
        assert_eq!(pushed, expected, "answer to a push");
        if !matches!(pushed, Pushed::Ended(_)) {
            self.model.heard = self.now;
        }
        match &pushed {
            Pushed::Busy { .. } => {
                self.sender_waits = true;
                self.cover("busy");
            }
            Pushed::Gap { .. } => self.cover("gap"),
            Pushed::Accepted { .. } if !self.model.early.is_empty() => self.cover("early"),
            Pushed::Accepted { .. } => self.cover("accepted"),
            Pushed::Ended(_) => self.cover("push after close"),
        }
        self.settle();
        pushed
    }

    pub(crate) fn close(&mut self, close: Close) {
        self.note(|| format!("client closes {close:?}"));
        let counts = self.session.close(self.now, close.clone());
        if self.model.closing.is_none() {
            self.model.heard = self.now;
            self.cover("client closes");
        }
        self.model.begin_close(self.now, &close);
        assert_eq!(Some(counts), self.model.closing, "the close that counts");
        self.settle();
    }

    // === the server did ===

    pub(crate) fn end(&mut self, close: Close) {
        self.note(|| format!("server ends {close:?}"));
        self.session.end(self.now, close.clone());
        if self.model.closing.is_none() {
            self.cover("server ends");
        }
        self.model.end(self.now, &close);
        self.settle();
    }

    pub(crate) fn memory_is_short(&mut self) {
        self.note(|| "memory is short".into());
        if self.session.replay() > 0 {
            self.cover("replay given back");
        }
        self.session.drop_replay();
        self.model.short = !self.model.acknowledging;
        assert_eq!(self.session.replay(), 0, "what is only kept for a client that may come back");
        self.settle();
    }

    /// The session goes to another process: its readers stay behind or read on there, and its state travels.
    pub(crate) fn hand_over(&mut self) {
        self.note(|| "handed over".into());
        let (current, read) = (self.model.current, self.model.read);
        self.session.leave_reader(self.now);
        if self.model.current.take().is_some_and(|(_, is_poll)| is_poll) {
            self.model.heard = self.now;
        }
        self.session = self.written_and_read();
        if self.model.upstream != Upstream::Gone {
            let told = (self.session.is_backend_paused(), self.session.is_sending());
            assert_eq!(told, (self.model.paused.is_some(), self.in_flight), "what the next driver is told");
        }
        // Whoever waited is told by others.
        self.waiting.clear();
        (self.sender_waits, self.owes_wake) = (false, false);
        self.cover("handed over");
        self.settle();
        if let Some((attachment, is_poll)) = current.filter(|_| self.chance.one_in(2)) {
            self.read_on(attachment, read, is_poll);
        }
    }

    /// A reader that stayed behind reads on in the other process, unless what follows is gone.
    fn read_on(&mut self, attachment: Attachment, read: u64, is_poll: bool) {
        let reads_on = self.session.read_on(attachment, read, is_poll);
        self.note(|| format!("{} reads on behind {read}: {reads_on}", attachment.0));
        assert_eq!(reads_on, (self.model.base..=self.model.last()).contains(&read), "base {}", self.model.base);
        if reads_on {
            (self.model.current, self.model.read) = (Some((attachment, is_poll)), read);
            self.cover("read on");
        }
        self.settle();
    }

    fn written_and_read(&self) -> Session {
        let text = serde_json::to_string(&self.session).expect("a session is data");
        let session: Session = serde_json::from_str(&text).expect("what was written can be read");
        session.governed_by(self.limits.clone())
    }

    pub(crate) fn expire(&mut self) {
        self.note(|| "expire".into());
        self.session.expire(self.now);
        if let Some(brought) = self.model.expire(self.now) {
            self.cover(brought);
        }
        self.settle();
        let later = self.session.next_deadline().is_none_or(|deadline| deadline > self.now);
        assert!(later, "nothing has come of a deadline that is over");
    }

    // === what to do next ===

    /// Takes actions until there are none; then everything must hold.
    fn settle(&mut self) {
        while let Some(action) = self.session.poll_action() {
            assert!(!self.model.finished, "{action:?} after the session was finished");
            self.note(|| format!("    {action:?}"));
            self.act(action);
        }
        self.verify_wakes();
        let aged = self.model.aged;
        self.model.verify(self.now, &self.session);
        if self.model.aged > aged {
            self.cover("let go of for its age");
        }
        if self.chance.one_in(32) {
            let copy = self.written_and_read();
            assert_eq!(copy, self.session, "a session that was written and read back");
            self.session = copy;
        }
    }

    fn act(&mut self, action: Action) {
        let gone = self.model.upstream == Upstream::Gone;
        match action {
            Action::WakeReader => self.waiting.clear(),
            Action::WakeSenders => (self.sender_waits, self.owes_wake) = (false, false),
            _ if gone && !matches!(action, Action::Finished(_)) => panic!("{action:?} without an upstream"),
            Action::SendUp(message) => {
                assert!(!self.in_flight, "a message for a backend that takes none");
                assert_eq!(self.model.accepted.get(self.model.given), Some(&message), "up, in order, once");
                assert!(!self.close_asked, "a message after the close");
                self.model.given += 1;
                self.in_flight = true;
                self.owes_wake |= self.sender_waits;
            }
            Action::Pause => {
                assert_eq!(self.model.paused.replace(self.now), None, "paused twice");
                self.allowance = self.model.slack;
                self.cover("pause");
            }
            Action::Resume => {
                assert!(self.model.paused.take().is_some(), "resumed without a pause");
                self.cover("resume");
            }
            Action::CloseUpstream(close) => {
                assert_eq!(Some(&close), self.model.closing.as_ref(), "the close for the backend");
                assert!(!std::mem::replace(&mut self.close_asked, true), "closed twice");
                assert_eq!(self.model.given, self.model.accepted.len(), "a close overtook a message");
                self.cover("close upstream");
            }
            Action::Finished(close) => {
                assert_eq!(Some(&close), self.model.closing.as_ref(), "the last word");
                self.model.finished = true;
                self.cover("finished");
            }
        }
    }

    /// Nobody sleeps through what it waits for.
    fn verify_wakes(&self) {
        let idle = self.model.read == self.model.last() && self.model.ended.is_none();
        let slept = |&number: &u64| !(idle && self.model.is_current(Attachment(number)));
        assert!(!self.waiting.iter().any(slept), "a reader was not woken: {:?}", self.waiting);
        assert!(!self.owes_wake, "a sender was not woken although there is room");
        assert!(!(self.sender_waits && self.model.closing.is_some()), "a sender was not woken at the close");
        let empty = self.model.early.is_empty() && self.model.given == self.model.accepted.len();
        assert!(!(self.sender_waits && empty), "a sender waits for an empty queue");
    }
}
