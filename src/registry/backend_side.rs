//! A live session as its driver sees it: what the backend did, and what is to be done for it.
//!
//! Enters: what came from the backend's socket. Leaves: orders, deadlines, the one report of the end. Must not touch: the socket.

use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use super::live_session::{LiveSession, Orders, State, register};
use crate::session::{Close, Counts, Message, Moment};
use crate::terms::Ending;

impl LiveSession {
    /// Messages came; returns whether the backend is paused now.
    pub(super) fn upstream_messages(&self, messages: Vec<Message>) -> bool {
        // Only the driver freezes its session, and then it has no socket to read from any more.
        let push = |state: &mut State, now| {
            for message in messages {
                state.bytes[0] += message.payload().len() as u64;
                state.session.upstream_message(now, message);
            }
        };
        self.step(push).is_ok_and(|((), paused)| paused)
    }

    pub(super) fn upstream_took(&self) {
        self.tell(|state, _| state.session.upstream_took());
    }

    pub(super) fn upstream_closed(&self, close: Close, ending: Ending) {
        self.tell(|state, now| {
            state.note_ending(ending);
            state.session.upstream_closed(now, close);
        });
    }

    /// Does what is due; returns when to call it next.
    pub(super) fn expire(&self) -> Option<Instant> {
        let deadline = self.act(|state, now| {
            state.session.expire(now);
            let deadline = state.session.next_deadline();
            state.armed = deadline.unwrap_or(Moment(u64::MAX));
            deadline
        });
        deadline.ok()?.map(|deadline| self.epoch + Duration::from_micros(deadline.0))
    }

    /// Whether the backend was told to pause, and whether its socket has a message that was not reported as written.
    pub(super) fn told(&self) -> (bool, bool) {
        let session = &self.lock().session;
        (session.is_backend_paused(), session.is_sending())
    }

    /// True while neither side has closed.
    pub(super) fn is_open(&self) -> bool {
        self.lock().session.closed_for_sending().is_none()
    }

    /// Takes the orders that are pending and registers the waker for the next ones.
    pub(super) fn orders(&self, cx: &Context<'_>) -> Orders {
        let mut state = self.lock();
        register(&mut state.driver, cx);
        state.orders.upstream_gone = state.session.is_upstream_gone();
        let paused = state.orders.paused;
        let orders = std::mem::replace(&mut state.orders, Orders { paused, ..Orders::default() });
        if orders.send.is_some() {
            self.count(&mut state);
        }
        orders
    }

    /// Counts the session as ended, once: how, why, and its counters.
    pub(super) fn retire(&self) -> Option<(Close, Ending, Counts)> {
        let mut state = self.lock();
        let close = state.session.closed_for_sending()?;
        let ending = state.ending().unwrap_or(match close.code {
            1013 => Ending::TooSlow,
            _ => Ending::GraceOver,
        });
        if std::mem::take(&mut state.active) {
            self.metrics.session_ended(state.attached, ending);
            return Some((close, ending, state.session.counts()));
        }
        None
    }
}
