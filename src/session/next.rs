//! What to do next: actions for the house, and the time at which waiting is over.
//!
//! Enters: the state. Leaves: one [`Action`] at a time, the next deadline. Must not touch: messages down.

use super::event::{Action, Close, Moment};
use super::{Session, Upstream};

/// What a client that went away is closed with.
const CLIENT_GONE: (u16, &str) = (1001, "client gone");
/// What a client that does not keep up is closed with.
const CLIENT_TOO_SLOW: (u16, &str) = (1013, "client too slow");

impl Session {
    /// Time has passed.
    pub fn expire(&mut self, now: Moment) {
        if let Upstream::Closing { close, until } = &self.upstream
            && *until <= now
        {
            let close = close.clone();
            self.upstream_closed(now, close);
        }
        if self.pause_deadline().is_some_and(|deadline| deadline <= now) {
            self.end(now, Close::clean(CLIENT_TOO_SLOW.0, CLIENT_TOO_SLOW.1));
        }
        if self.grace_deadline().is_some_and(|deadline| deadline <= now) {
            self.end(now, Close::clean(CLIENT_GONE.0, CLIENT_GONE.1));
        }
        if self.keep_deadline().is_some_and(|deadline| deadline <= now) {
            self.settle();
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.told.finished {
            return None;
        }
        if std::mem::take(&mut self.told.wake_reader) && self.lease.is_attached() {
            return Some(Action::WakeReader);
        }
        if std::mem::take(&mut self.told.wake_senders) {
            return Some(Action::WakeSenders);
        }
        self.upstream_action().or_else(|| self.finish_action())
    }

    /// When [`Session::expire`] has something to do, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        if self.told.finished {
            return None;
        }
        let closing = match self.upstream {
            Upstream::Closing { until, .. } => Some(until),
            _ => None,
        };
        [closing, self.pause_deadline(), self.grace_deadline(), self.keep_deadline()].into_iter().flatten().min()
    }

    fn pause_deadline(&self) -> Option<Moment> {
        self.paused.filter(|_| self.is_open()).map(|since| since.after(self.limits.pause))
    }

    fn grace_deadline(&self) -> Option<Moment> {
        self.is_open().then(|| self.lease.deadline(self.limits.grace)).flatten()
    }

    fn keep_deadline(&self) -> Option<Moment> {
        let ended = self.ended.as_ref().filter(|ended| !ended.settled)?;
        Some(ended.since.max(self.lease.heard()).after(self.limits.grace))
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.upstream, Upstream::Open)
    }

    fn upstream_action(&mut self) -> Option<Action> {
        if matches!(self.upstream, Upstream::Gone) {
            return None;
        }
        if self.told.upstream_free
            && let Some(message) = self.up.take()
        {
            self.told.upstream_free = false;
            self.told.wake_senders |= self.up.take_starved();
            return Some(Action::SendUp(message));
        }
        let pause = self.paused.is_some();
        if pause != self.told.paused {
            self.told.paused = pause;
            return Some(if pause { Action::Pause } else { Action::Resume });
        }
        self.close_action()
    }

    fn close_action(&mut self) -> Option<Action> {
        let Upstream::Closing { close, .. } = &self.upstream else { return None };
        if self.told.closed || !self.up.is_empty() {
            return None;
        }
        self.told.closed = true;
        Some(Action::CloseUpstream(close.clone()))
    }

    fn finish_action(&mut self) -> Option<Action> {
        let ended = self.ended.as_ref().filter(|ended| ended.settled)?;
        if !matches!(self.upstream, Upstream::Gone) {
            return None;
        }
        self.told.finished = true;
        Some(Action::Finished(ended.close.clone()))
    }
}
