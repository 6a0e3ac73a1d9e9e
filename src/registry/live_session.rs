//! One live session: the pure core under a mutex, with the wakers of the tasks that wait for it.
//!
//! Enters: what transports and the driver report. Leaves: results, wake-ups, orders for the driver. Must not touch:
//! sockets, HTTP.
//!
//! The rule: the mutex is never held across an await, and no task is woken while it is held.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::moved::{Freeze, Moved};
use super::owner::{Change, Owner};
use super::record::Facts;
use super::token::Token;
use crate::budget::{Account, Budget, Part};
use crate::config;
use crate::metrics::Metrics;
use crate::session::{Action, AttachError, Close, Counts, Message, Moment, Session};
use crate::terms::{Cause, Ending, Transport};

/// One live session. Its token is a secret and stays out of every `Debug` and log line.
pub struct LiveSession {
    token: Token,
    protocol: String,
    policy: Arc<config::Session>,
    pub(super) epoch: Instant,
    pub(super) metrics: Arc<Metrics>,
    /// When streams are asked to leave, in microseconds since `epoch`; zero: not at all.
    pub(super) leave: AtomicU64,
    /// What all buffers of this session hold.
    pub(super) account: Account,
    /// It was ended because it held most, see `memory`.
    pub(super) abandoned: AtomicBool,
    pub(super) room: Notify,
    /// Who opened it, for the operator.
    pub(super) owner: Owner,
    /// What the pushes hold that wait for room, in bytes.
    pub(super) crowd: AtomicUsize,
    state: Mutex<State>,
}

/// What the mutex protects.
pub(super) struct State {
    pub(super) session: Session,
    pub(super) reader: Option<Waker>,
    pub(super) driver: Option<Waker>,
    pub(super) orders: Orders,
    /// What the core holds, and the orders.
    held: Part,
    /// The transport of the current attachment.
    pub(super) attached: Option<Transport>,
    /// The transport of the newest attachment, current or not.
    pub(super) newest: Option<Transport>,
    /// Why the session ends: the first cause that was seen.
    ending: Option<Ending>,
    /// Counted among the active sessions.
    pub(super) active: bool,
    /// How it came to its transport, for the operator.
    pub(super) change: Change,
    /// Payload bytes that came from the backend, and those that were given to it.
    pub(super) bytes: [u64; 2],
    /// The session has moved to another process; these are its last counts. Nothing is asked of `session` any more.
    pub(super) frozen: Option<Box<Counts>>,
    /// When the driver wakes up by its timer.
    pub(super) armed: Moment,
    /// The timer by which readers wait; a reader has it while there is one.
    pub(super) timer: Option<Pin<Box<Sleep>>>,
}

impl State {
    /// Why the session ends, if it does.
    pub(super) fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Knows what was known of the session in another process.
    pub(super) fn recall(&mut self, facts: Facts) {
        let Facts { newest, change, bytes, ending, reported } = facts;
        (self.newest, self.change, self.bytes) = (newest, change, bytes);
        (self.ending, self.active) = (ending, !reported);
        self.orders.paused = self.session.is_backend_paused();
    }

    /// Notes why the session ends, unless it ends already: a backend that answers our close frame is not the cause.
    pub(super) fn note_ending(&mut self, ending: Ending) {
        if self.session.closed_for_sending().is_none() {
            self.ending = Some(ending);
        }
    }
}

/// What the driver is to do.
#[derive(Debug, Default)]
pub(super) struct Orders {
    pub(super) send: Option<Message>,
    pub(super) close: Option<Close>,
    pub(super) paused: bool,
    pub(super) upstream_gone: bool,
    pub(super) finished: Option<Close>,
    /// The session goes to another process.
    pub(super) freeze: Option<Box<Freeze>>,
    /// What is on its way is given up: there is no memory for it.
    pub(super) abandoned: bool,
    /// The next deadline is earlier than the one the driver waits for.
    pub(super) rearm: bool,
}

/// The tasks to wake once the mutex is free.
#[derive(Default)]
struct Wakes {
    reader: Option<Waker>,
    driver: Option<Waker>,
    senders: bool,
}

/// Why a session does not do what its client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The session says no.
    Attach(AttachError),
    /// It is not here any more.
    Moved,
}

impl From<AttachError> for Refused {
    fn from(error: AttachError) -> Self {
        Self::Attach(error)
    }
}

impl From<Moved> for Refused {
    fn from(_: Moved) -> Self {
        Self::Moved
    }
}

/// What the response to a `send` or an `ack` says.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub counts: Counts,
    pub attached: Option<Transport>,
}

impl LiveSession {
    pub(super) fn new(
        token: Token,
        protocol: String,
        policy: Arc<config::Session>,
        session: Session,
        epoch: Instant,
        (metrics, budget): (Arc<Metrics>, Arc<Budget>),
        owner: Owner,
    ) -> Self {
        let state = State {
            session,
            reader: None,
            driver: None,
            orders: Orders::default(),
            held: Part::default(),
            attached: None,
            newest: None,
            ending: None,
            active: true,
            change: Change::default(),
            bytes: [0; 2],
            frozen: None,
            armed: Moment::default(),
            timer: None,
        };
        let (leave, room, abandoned) = (AtomicU64::new(0), Notify::new(), AtomicBool::new(false));
        let (account, state) = (Account::new(budget), Mutex::new(state));
        Self {
            token,
            protocol,
            policy,
            epoch,
            metrics,
            leave,
            account,
            abandoned,
            room,
            crowd: AtomicUsize::new(0),
            owner,
            state,
        }
    }

    /// The public name of the session, for logs.
    #[must_use]
    pub fn id(&self) -> &str {
        self.token.id()
    }

    #[must_use]
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The subprotocol that the backend chose; empty when none.
    #[must_use]
    pub fn protocol(&self) -> &str {
        &self.protocol
    }

    /// The limits and timers with which the session was opened; a reload does not change them.
    #[must_use]
    pub fn policy(&self) -> &config::Session {
        &self.policy
    }

    pub(super) fn shared_policy(&self) -> &Arc<config::Session> {
        &self.policy
    }

    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn note_first(&self, transport: Transport, said: Option<&str>) {
        let cause = Cause::of(said);
        self.metrics.attached_first(transport, cause);
        let cause = said.unwrap_or(cause.as_str());
        tracing::info!(session = self.id(), transport = transport.as_str(), cause, "session attached");
    }

    pub(super) fn note_change(&self, from: Transport, to: Transport, cause: &str) {
        if from == to {
            return;
        }
        self.metrics.changed(from, to);
        tracing::info!(session = self.id(), from = from.as_str(), to = to.as_str(), cause, "session changed transport");
    }

    /// Acknowledges everything down up to `cursor`.
    ///
    /// # Errors
    /// [`AttachError::Beyond`] when so much was not sent, or [`Moved`].
    pub fn ack(&self, cursor: u64) -> Result<(), Refused> {
        self.act(|state, now| state.session.ack(now, cursor))?.map_err(Refused::from)
    }

    /// Closes for the client; returns the close that counts, which is the first one's.
    ///
    /// # Errors
    /// [`Moved`]; nothing was closed here.
    pub fn close(&self, close: Close) -> Result<Close, Moved> {
        self.act(|state, now| {
            state.note_ending(Ending::ClientClosed);
            state.session.close(now, close)
        })
    }

    /// Ends the session towards both sides.
    pub fn end(&self, close: Close, ending: Ending) {
        self.tell(|state, now| {
            state.note_ending(ending);
            state.session.end(now, close);
        });
    }

    /// Cursors, counters and what is attached.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let state = self.lock();
        let counts = state.frozen.as_deref().copied().unwrap_or_else(|| state.session.counts());
        Progress { counts, attached: state.attached }
    }

    /// Whether nothing is attached and the client was not heard of for this long.
    pub(super) fn is_gone(&self, silence: Duration) -> bool {
        let now = self.now();
        let state = self.lock();
        state.attached.is_none() && now.since(state.session.heard()) >= silence
    }

    /// Asks the client to leave at `at`, whether it is attached now or later.
    pub(super) fn leave(&self, at: Instant) {
        self.leave.store(self.moment(at).0.max(1), Ordering::Release);
        let reader = self.lock().reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    // === internals ===

    pub(super) fn now(&self) -> Moment {
        self.moment(Instant::now())
    }

    pub(super) fn moment(&self, at: Instant) -> Moment {
        Moment(u64::try_from(at.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX))
    }

    /// Counts what the core and the orders hold.
    pub(super) fn count(&self, state: &mut State) {
        let held = state.session.held() + state.orders.send.as_ref().map_or(0, Message::cost);
        self.account.set(&mut state.held, held);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves plain data behind; the session goes on instead of failing every later request.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports an event to the core, takes its actions, and wakes the tasks that they concern.
    ///
    /// # Errors
    /// [`Moved`]: nothing has happened.
    pub(super) fn act<R>(&self, event: impl FnOnce(&mut State, Moment) -> R) -> Result<R, Moved> {
        self.step(event).map(|(result, _)| result)
    }

    /// As [`LiveSession::act`], for what need not happen when the session has moved.
    pub(super) fn tell(&self, event: impl FnOnce(&mut State, Moment)) {
        let _ = self.step(event);
    }

    /// As [`LiveSession::act`]; also returns whether the backend is paused now.
    pub(super) fn step<R>(&self, event: impl FnOnce(&mut State, Moment) -> R) -> Result<(R, bool), Moved> {
        let now = self.now();
        let mut state = self.lock();
        if state.frozen.is_some() {
            return Err(Moved);
        }
        let result = event(&mut state, now);
        let wakes = settle(&mut state, &self.metrics);
        self.count(&mut state);
        let paused = state.orders.paused;
        drop(state);
        if let Some(reader) = wakes.reader {
            reader.wake();
        }
        if let Some(driver) = wakes.driver {
            driver.wake();
        }
        if wakes.senders {
            self.room.notify_waiters();
        }
        Ok((result, paused))
    }
}

/// Takes all actions of the core: some wake tasks, the others become orders for the driver.
fn settle(state: &mut State, metrics: &Metrics) -> Wakes {
    let mut wakes = Wakes::default();
    let mut ordered = false;
    while let Some(action) = state.session.poll_action() {
        ordered |= !matches!(action, Action::WakeReader | Action::WakeSenders);
        match action {
            Action::WakeReader => wakes.reader = state.reader.take(),
            Action::WakeSenders => wakes.senders = true,
            Action::SendUp(message) => {
                // Here each message comes by once, however often it was sent.
                metrics.up(message.payload().len() as u64);
                state.bytes[1] += message.payload().len() as u64;
                state.orders.send = Some(message);
            }
            Action::Pause => {
                metrics.paused();
                state.orders.paused = true;
            }
            Action::Resume => state.orders.paused = false,
            Action::CloseUpstream(close) => state.orders.close = Some(close),
            Action::Finished(close) => state.orders.finished = Some(close),
        }
    }
    if state.session.next_deadline().is_some_and(|deadline| deadline < state.armed) {
        state.orders.rearm = true;
        ordered = true;
    }
    if ordered {
        wakes.driver = state.driver.take();
    }
    wakes
}

pub(super) fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}
