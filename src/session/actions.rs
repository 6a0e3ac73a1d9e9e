//! What the caller is to do next: actions, and the time of the next deadline.
//!
//! Enters: the state. Leaves: one [`Action`] at a time, the next deadline. Must not touch: messages down.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::types::{Action, Close, Moment, is_default};
use super::{Session, Upstream};

/// The close of a session whose client went away.
const CLIENT_GONE: (u16, &str) = (1001, "client gone");
/// The close of a session whose client reads too slowly.
const CLIENT_TOO_SLOW: (u16, &str) = (1013, "client too slow");

/// Actions that are pending, and what the caller was already given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outbox {
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) wake_reader: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) wake_senders: bool,
    /// The last of `Pause` and `Resume` that was given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) paused: bool,
    /// The socket has written the last message, so it may be given the next one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) upstream_free: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) closed: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) finished: bool,
}

impl Session {
    /// For how long the client has given no sign of life; a poll that waits is one.
    #[must_use]
    pub fn quiet(&self, now: Moment) -> Duration {
        now.since(self.lease.last_heard(now))
    }

    /// Does what is due at `now`.
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
        self.expire_replay(now);
    }

    /// The next thing that the caller must do; `None` when there is none.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.outbox.finished {
            return None;
        }
        if std::mem::take(&mut self.outbox.wake_reader) && self.lease.is_attached() {
            return Some(Action::WakeReader);
        }
        if std::mem::take(&mut self.outbox.wake_senders) {
            return Some(Action::WakeSenders);
        }
        self.upstream_action().or_else(|| self.finish_action())
    }

    /// When [`Session::expire`] must be called next, unless another call changes that.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        if self.outbox.finished {
            return None;
        }
        let closing = match self.upstream {
            Upstream::Closing { until, .. } => Some(until),
            _ => None,
        };
        let deadlines =
            [closing, self.pause_deadline(), self.grace_deadline(), self.keep_deadline(), self.replay_deadline()];
        deadlines.into_iter().flatten().min()
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
        if self.outbox.upstream_free
            && let Some(message) = self.up.take()
        {
            self.outbox.upstream_free = false;
            self.outbox.wake_senders |= self.up.take_starved();
            return Some(Action::SendUp(message));
        }
        let pause = self.paused.is_some();
        if pause != self.outbox.paused {
            self.outbox.paused = pause;
            return Some(if pause { Action::Pause } else { Action::Resume });
        }
        self.close_action()
    }

    fn close_action(&mut self) -> Option<Action> {
        let Upstream::Closing { close, .. } = &self.upstream else { return None };
        if self.outbox.closed || !self.up.is_empty() {
            return None;
        }
        self.outbox.closed = true;
        Some(Action::CloseUpstream(close.clone()))
    }

    fn finish_action(&mut self) -> Option<Action> {
        let ended = self.ended.as_ref().filter(|ended| ended.settled)?;
        if !matches!(self.upstream, Upstream::Gone) {
            return None;
        }
        self.outbox.finished = true;
        Some(Action::Finished(ended.close.clone()))
    }
}
