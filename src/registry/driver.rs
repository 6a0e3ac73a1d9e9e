//! The task of one session: moves messages between the upstream socket and the session, and lets time pass.
//!
//! Enters: an open upstream WebSocket and its session. Leaves: the session's end, once nobody will ask for it any more.
//! Must not touch: the client's side. Not polling the socket is the pause.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Registry;
use super::live_session::LiveSession;
use crate::config;
use crate::lifecycle::{Guard, What};
use crate::session::Close;
use crate::terms::Ending;
use crate::upstream::socket::{Socket, SocketEvent};

/// What is taken from the socket before the session is told, and other tasks get a turn, in bytes as bounds count them.
/// As much as one read of the socket brings: a pause is heeded behind it.
const TURN: usize = 16 * 1024;
/// A session without any deadline looks again after this long; it has one as long as it lives, so this is arbitrary.
const FAR: Duration = Duration::from_secs(3600);

/// Drives one session until it may be forgotten, and then forgets it. Written out and not `async`, which would keep room
/// for it twice.
pub(super) struct Driver<S> {
    session: Arc<LiveSession>,
    registry: Arc<Registry>,
    /// The session's place among those that may live at once.
    _seat: OwnedSemaphorePermit,
    socket: Option<Socket<S>>,
    paused: bool,
    /// The socket has a message of ours that it has not written yet.
    sending: bool,
    /// The backend has closed: what is left to do is to write our answer, until then.
    parting: Option<Instant>,
    pulse: Pulse,
    timer: Pin<Box<Sleep>>,
    /// Time is to pass at once, without the timer: arming one for now would only wake this task once more.
    overdue: bool,
    /// Held while the backend is connected: a process that stops waits for it.
    guard: Option<Guard>,
}

/// When the backend was last heard, and whether it owes us a pong.
struct Pulse {
    every: Duration,
    patience: Duration,
    heard: Instant,
    asked: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(
        registry: Arc<Registry>,
        session: Arc<LiveSession>,
        socket: Socket<S>,
        backend: &config::Backend,
        seat: OwnedSemaphorePermit,
    ) -> Self {
        let now = Instant::now();
        let guard = registry.lifecycle.guard(What::Session);
        Self {
            session,
            registry,
            _seat: seat,
            socket: Some(socket),
            paused: false,
            sending: false,
            parting: None,
            pulse: Pulse { every: backend.ping, patience: backend.pong, heard: now, asked: None },
            timer: Box::pin(sleep_until(now)),
            overdue: true,
            guard: Some(guard),
        }
    }

    /// Carries out what the core wants; the close once the session is finished.
    fn obey(&mut self, cx: &Context<'_>) -> Option<Close> {
        let orders = self.session.orders(cx);
        if self.paused && !orders.paused {
            self.pulse.hear();
        }
        self.paused = orders.paused;
        self.overdue |= orders.rearm;
        if let Some(socket) = &mut self.socket {
            if let Some(message) = orders.send {
                // Refused only when the backend is closing, which is about to end the session anyway.
                self.sending = socket.send(&message).is_ok();
            }
            if let Some(close) = orders.close {
                socket.close(close.code, &close.reason);
            }
        }
        if orders.upstream_gone && self.parting.is_none() {
            self.part();
        }
        orders.finished
    }

    /// Writes what waits. True when the session may have the next message for it.
    fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        let flushed = match socket.poll_flush(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                // A write that fails does not hide what can still be read: the end comes from there.
                self.parting.is_some()
            }
            Poll::Pending => false,
        };
        if self.parting.is_some() {
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

    /// Reads a turn's worth, and hands it to the session in one go. True when there may be more to read, or more
    /// than messages came: what follows from those, the session says by waking us.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        if self.paused || self.parting.is_some() {
            return false;
        }
        let Some(socket) = &mut self.socket else { return false };
        let (mut messages, mut bytes) = (Vec::new(), 0);
        let other = loop {
            match socket.poll_next(cx) {
                Poll::Pending => break None,
                Poll::Ready(SocketEvent::Message(message)) => {
                    bytes += message.cost();
                    messages.push(message);
                    if bytes >= TURN {
                        // Other tasks get their turn; the socket may have more.
                        cx.waker().wake_by_ref();
                        break None;
                    }
                }
                Poll::Ready(other) => break Some(other),
            }
        };
        if !messages.is_empty() || other.is_some() {
            self.pulse.hear();
        }
        if !messages.is_empty() {
            self.paused = self.session.upstream_messages(messages);
        }
        let Some(event) = other else { return bytes >= TURN };
        self.hear(event);
        true
    }

    fn hear(&mut self, event: SocketEvent) {
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
        self.part();
    }

    /// The backend is done with: our last frames are still written, if it takes them soon.
    fn part(&mut self) {
        self.parting = Some(Instant::now() + self.session.policy().close_wait);
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

    /// Lets time pass when it is time. True when something may have come of it.
    fn tick(&mut self, cx: &mut Context<'_>) -> bool {
        if !std::mem::take(&mut self.overdue) && self.timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        let now = Instant::now();
        if self.parting.is_some_and(|until| until <= now) {
            self.socket = None;
        }
        let mut due = self.session.expire().unwrap_or(now + FAR);
        if let Some(parting) = self.parting.filter(|_| self.socket.is_some()) {
            due = due.min(parting);
        }
        if let Some(pulse) = self.feel_pulse(now) {
            due = due.min(pulse);
        }
        self.timer.as_mut().reset(due);
        true
    }

    /// Pings a silent backend and gives up one that does not answer; when to look again.
    fn feel_pulse(&mut self, now: Instant) -> Option<Instant> {
        if self.paused || self.parting.is_some() || self.pulse.every.is_zero() {
            return (!self.pulse.every.is_zero() && self.parting.is_none()).then(|| now + self.pulse.every);
        }
        let socket = self.socket.as_mut()?;
        match self.pulse.asked {
            Some(asked) if asked + self.pulse.patience <= now => {
                self.closed(Close { reason: "backend does not answer".into(), ..Close::lost() }, Ending::BackendLost);
                None
            }
            Some(asked) => Some(asked + self.pulse.patience),
            None if self.pulse.heard + self.pulse.every <= now => {
                socket.ping();
                self.pulse.asked = Some(now);
                Some(now + self.pulse.patience)
            }
            None => Some(self.pulse.heard + self.pulse.every),
        }
    }
}

impl Pulse {
    fn hear(&mut self) {
        self.heard = Instant::now();
        self.asked = None;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            if let Some(close) = this.obey(cx) {
                this.registry.forget(&this.session, close);
                return Poll::Ready(());
            }
            if this.flush(cx) {
                continue;
            }
            if !(this.read(cx) | this.tick(cx)) {
                return Poll::Pending;
            }
        }
    }
}
