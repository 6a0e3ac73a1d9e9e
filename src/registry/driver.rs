//! The task of one session: moves messages between the upstream socket and the session, and keeps its deadlines.
//!
//! Enters: an open upstream WebSocket and its session. Leaves: how the session ended, once it is
//! finished. Must not touch: the client's side. While the session is paused, the socket is not polled.

mod leaving;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Registry;
use super::live_session::LiveSession;
use super::memory::Intake;
use crate::config;
use crate::lifecycle::{Guard, What};
use crate::limits::Held;
use crate::session::Close;
use crate::terms::Ending;
use crate::upstream::dial::Io;
use crate::upstream::socket::{Socket, SocketEvent};

/// How much is read from the socket before the messages go to the session and other tasks go on, in bytes of message cost.
/// As much as one read of the socket brings; only after that does a pause take effect.
const READ_BUDGET: usize = 16 * 1024;
/// How much may wait for a backend whose session is ended for want of memory and that is still told so, in bytes; arbitrary.
const LAST_WORDS: usize = 64 * 1024;
/// When a session without a deadline is looked at again. It always has one, so this is arbitrary.
const FAR: Duration = Duration::from_secs(3600);

/// Drives one session until it is finished, and then removes it. Not an `async fn`, whose future would have room for
/// these fields twice.
pub(super) struct Driver {
    session: Arc<LiveSession>,
    registry: Arc<Registry>,
    /// Its place among the sessions of its client, for as long as the session exists.
    _place: Option<Held>,
    socket: Option<Socket<Io>>,
    paused: bool,
    /// The socket was given a message that it has not written yet.
    sending: bool,
    /// The backend is closed: until then our close frame may still be written.
    closing: Option<Instant>,
    /// The session was written down; only a closing socket is left.
    moved: bool,
    /// It has one of the registry's seats, for as long as the session exists. One that came from another process may have none.
    seated: bool,
    /// When to ping, and how long a pong may take. Shared, since every session has a driver.
    backend: Arc<config::Backend>,
    /// When something last came from the backend or, while a ping waits for its pong, when that was sent.
    heard: Instant,
    pinged: bool,
    intake: Intake,
    timer: Pin<Box<Sleep>>,
    /// Deadlines are to be looked at now. A timer that is set to now would wake this task once more for it.
    overdue: bool,
    /// Kept while the backend is connected: a process that stops waits for it.
    guard: Option<Guard>,
}

impl Driver {
    /// The driver of a session that was just opened, or that came from another process: what its socket was last told is the
    /// session's to say.
    pub(super) fn new(
        registry: Arc<Registry>,
        session: Arc<LiveSession>,
        socket: Option<Socket<Io>>,
        backend: Arc<config::Backend>,
        (seat, place): (Option<SemaphorePermit<'_>>, Option<Held>),
    ) -> Self {
        let now = Instant::now();
        let guard = socket.is_some().then(|| registry.lifecycle.guard(What::Session));
        let (paused, sending) = session.told();
        // It is given back by number: a driver needs no other pointer for it than the one to the registry.
        let seated = seat.map(SemaphorePermit::forget).is_some();
        Self {
            session,
            registry,
            _place: place,
            socket,
            paused,
            sending,
            closing: None,
            moved: false,
            seated,
            backend,
            heard: now,
            pinged: false,
            intake: Intake::default(),
            timer: Box::pin(sleep_until(now)),
            overdue: true,
            guard,
        }
    }

    /// Carries out the orders of the session; returns its close once it is finished.
    fn carry_out(&mut self, cx: &Context<'_>) -> Option<Close> {
        let orders = self.session.orders(cx);
        if self.paused && !orders.paused {
            self.hear();
        }
        self.paused = orders.paused;
        self.overdue |= orders.rearm;
        if let Some(socket) = &mut self.socket {
            if let Some(message) = orders.send {
                // Fails only when the backend is closing, which ends the session anyway.
                self.sending = socket.send(&message).is_ok();
            }
            if let Some(close) = orders.close {
                socket.close(close.code, &close.reason);
            }
            if orders.abandoned {
                socket.abandon();
                if socket.unsent() > LAST_WORDS {
                    self.socket = None;
                    self.closed(Close::lost(), Ending::OutOfMemory);
                }
            }
        }
        if orders.upstream_gone && self.closing.is_none() {
            self.finish_upstream();
        }
        // An order that comes too late is none: the session stays with this process.
        if let Some(order) = orders.freeze
            && orders.finished.is_none()
            && self.registry.lifecycle.takes_parcels()
        {
            self.moved = self.freeze(&order);
            if !self.moved {
                // Behind what is to be done first: this task is woken for it.
                self.session.order_freeze(*order);
            }
        }
        orders.finished
    }

    /// Writes what is pending. True when the session can give the next message.
    fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        let flushed = match socket.poll_flush(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                // After a failed write something can still be read, and the end of the session comes from there.
                self.closing.is_some()
            }
            Poll::Pending => false,
        };
        if self.closing.is_some() {
            if flushed {
                self.socket = None;
            }
            return false;
        }
        let took = flushed && std::mem::take(&mut self.sending);
        if took {
            self.session.upstream_took();
        }
        took
    }

    /// Reads up to the budget and gives the messages to the session together. True when there may be more to read, or when
    /// something else than messages came. If an order follows from the messages, the session wakes this task.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        if self.paused || self.closing.is_some() {
            self.intake.stop();
            return false;
        }
        let Some(room) = self.room() else { return false };
        let Some(socket) = &mut self.socket else { return false };
        socket.allow(room);
        let (mut messages, mut bytes) = (Vec::new(), 0);
        let other = loop {
            match socket.poll_next(cx) {
                Poll::Pending => break None,
                Poll::Ready(SocketEvent::Message(message)) => {
                    bytes += message.cost();
                    messages.push(message);
                    if bytes >= READ_BUDGET {
                        // The socket may have more, but other tasks go first.
                        cx.waker().wake_by_ref();
                        break None;
                    }
                }
                Poll::Ready(other) => break Some(other),
            }
        };
        if !messages.is_empty() || other.is_some() {
            self.hear();
        }
        if !messages.is_empty() {
            // First what the socket has no more: nothing is counted twice, which could seem to be too much.
            self.count();
            self.paused = self.session.upstream_messages(messages);
        }
        let Some(event) = other else { return bytes >= READ_BUDGET };
        self.handle(event);
        true
    }

    /// How much may be read now, see [`Intake::room`].
    fn room(&mut self) -> Option<usize> {
        let waited = self.intake.waits();
        let room = self.intake.room(&self.session);
        match room {
            // A backend that was not read is not silent.
            Some(_) if waited => self.hear(),
            None if !waited => self.overdue = true,
            Some(_) | None => {}
        }
        room
    }

    /// Counts what the socket's buffers hold.
    fn count(&mut self) {
        let held = self.socket.as_ref().map_or(0, Socket::held);
        self.intake.count(&self.session, held);
    }

    fn handle(&mut self, event: SocketEvent) {
        match event {
            SocketEvent::Message(_) | SocketEvent::Pong => {}
            SocketEvent::Closed(close) => self.closed(close, Ending::BackendClosed),
            SocketEvent::Failed(close) => self.closed(close, Ending::BackendLost),
            SocketEvent::TooLarge => {
                let limit = self.session.policy().message;
                tracing::warn!(
                    session = self.session.id(),
                    limit,
                    "the backend sent a message over the limit `session.message`"
                );
                self.session.end(Close::clean(1009, "message too large"), Ending::TooLarge);
            }
        }
    }

    fn closed(&mut self, close: Close, ending: Ending) {
        self.session.upstream_closed(close, ending);
        self.finish_upstream();
    }

    /// The upstream socket is finished, except that our last frames are still written if the backend takes them soon.
    fn finish_upstream(&mut self) {
        self.closing = Some(Instant::now() + self.session.policy().close_wait);
        self.guard = None;
        self.report();
    }

    fn report(&self) {
        let Some((close, ending, counts)) = self.session.retire() else { return };
        tracing::info!(
            session = self.session.id(),
            cause = ending.as_str(),
            code = close.code,
            reason = close.reason,
            down = counts.down,
            up = counts.up,
            "session ended"
        );
    }

    /// Does what is due. True when something may follow from it.
    fn tick(&mut self, cx: &mut Context<'_>) -> bool {
        if !std::mem::take(&mut self.overdue) && self.timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        let now = Instant::now();
        if self.closing.is_some_and(|until| until <= now) {
            self.socket = None;
        }
        let due = self.session.expire().unwrap_or(now + FAR);
        let closing = self.closing.filter(|_| self.socket.is_some());
        let others = [closing, self.check_backend(now), self.intake.look_again()];
        let due = others.into_iter().flatten().fold(due, Instant::min);
        self.timer.as_mut().reset(due);
        true
    }

    /// Pings a silent backend and gives up one that sends no pong. Returns when to check again.
    fn check_backend(&mut self, now: Instant) -> Option<Instant> {
        let config::Backend { ping, pong, .. } = *self.backend;
        if self.paused || self.intake.waits() || self.closing.is_some() || ping.is_zero() {
            return (!ping.is_zero() && self.closing.is_none()).then(|| now + ping);
        }
        let socket = self.socket.as_mut()?;
        let due = self.heard + if self.pinged { pong } else { ping };
        if now < due {
            return Some(due);
        }
        if self.pinged {
            self.closed(Close { reason: "backend does not answer".into(), ..Close::lost() }, Ending::BackendLost);
            return None;
        }
        socket.ping();
        (self.heard, self.pinged) = (now, true);
        Some(now + pong)
    }

    /// The backend has given a sign of life.
    fn hear(&mut self) {
        (self.heard, self.pinged) = (Instant::now(), false);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.intake.count(&self.session, 0);
        self.registry.seats.add_permits(usize::from(self.seated));
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            if let Some(close) = this.carry_out(cx) {
                this.registry.retire(&this.session, close);
                return Poll::Ready(());
            }
            if this.moved {
                return this.see_off(cx);
            }
            let again = this.flush(cx) || (this.read(cx) | this.tick(cx));
            this.count();
            if !again {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What tokio has beside a future in the allocation of its task: 104 bytes with version 1.48 to 1.54.
    const TASK: usize = 104;

    #[test]
    fn an_idle_session_fits_into_its_size_classes() {
        // tokio rounds up to 128 bytes, and the allocator has no class between these and the next: one word more here, and
        // each session takes 128 bytes more.
        assert!(size_of::<Driver>() + TASK <= 640);
        // Beside the two counts of an `Arc`.
        assert!(size_of::<LiveSession>() + 16 <= 768);
    }
}
