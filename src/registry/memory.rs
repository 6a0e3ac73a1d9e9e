//! What becomes of a session when the process is short of memory: it waits, gives back, or is ended.
//!
//! Enters: how much room its account has. Leaves: waits with an end, the end of the session. Must not touch: which session is
//! ended; the registry chooses.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::live_session::LiveSession;
use crate::budget::{Account, Part, Turn, Waiting};
use crate::session::Close;
use crate::terms::Ending;

/// The close of a session that held most of the memory when it ran short.
const OUT_OF_MEMORY: (u16, &str) = (1013, "server is out of memory");
/// How often who waits for memory looks again. Nobody is woken for it: those who let go of it would have to know who waits.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl LiveSession {
    /// What the session's buffers hold.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Waits until the session may take more memory, a bounded time; false when it still may not. A session that has ended
    /// waits for nothing.
    pub async fn wait_for_memory(&self) -> bool {
        let waits = || {
            let state = self.lock();
            self.account.room() == 0 && state.frozen.is_none() && state.session.closed_for_sending().is_none()
        };
        if !waits() {
            return true;
        }
        self.metrics.memory_waited();
        let deadline = Instant::now() + self.policy().busy;
        while Instant::now() < deadline {
            sleep(LOOK_AGAIN).await;
            if !waits() {
                return true;
            }
        }
        false
    }

    /// What is only kept for a client that may come back, in bytes.
    pub(super) fn replay(&self) -> usize {
        self.lock().session.replay()
    }

    /// Gives back what is only kept for a client that may come back.
    pub(super) fn drop_replay(&self) {
        self.tell(|state, _| state.session.drop_replay());
    }

    /// Ends the session towards both sides and drops what is kept for either, because there is no memory for it. Its
    /// buffers beside the core are let go of by their owners, who are woken.
    pub(super) fn abandon(&self) {
        tracing::warn!(
            session = self.id(),
            held = self.account.held(),
            budget = self.account.budget().bytes(),
            "memory ran short: the session that held most of it is ended"
        );
        self.abandoned.store(true, Ordering::Release);
        self.tell(|state, now| {
            state.note_ending(Ending::OutOfMemory);
            state.session.abandon(now, Close::clean(OUT_OF_MEMORY.0, OUT_OF_MEMORY.1));
            state.orders.send = None;
            state.orders.abandoned = true;
        });
        let driver = self.lock().driver.take();
        if let Some(driver) = driver {
            driver.wake();
        }
        self.room.notify_waiters();
    }

    /// Counts bytes for the session that wait to be written to its client.
    #[must_use]
    pub fn tally(self: &Arc<Self>, bytes: usize) -> Box<PendingBytes> {
        let mut held = Part::default();
        self.account.set(&mut held, bytes);
        let session = Arc::clone(self);
        let abandoned = async move {
            loop {
                let changed = session.room.notified();
                if session.abandoned.load(Ordering::Acquire) {
                    return;
                }
                changed.await;
            }
        };
        Box::new(PendingBytes { session: Arc::clone(self), held, abandoned: Box::pin(abandoned) })
    }

    /// True when it may be abandoned: it was not yet.
    pub(super) fn is_abandonable(&self) -> bool {
        !self.abandoned.load(Ordering::Acquire)
    }
}

/// What a socket of a session takes in: counted, and no more than there is room for.
#[derive(Debug, Default)]
pub struct Intake {
    held: Part,
    waiting: Waiting<Instant>,
}

/// How much is read before it is counted and other tasks go on, in bytes; a larger message takes several turns.
const READ_AT_ONCE: usize = 64 * 1024;

impl Intake {
    /// How much may be read now; `None` while memory is short and the session holds its share of it. Then look again by
    /// [`Intake::look_again`].
    pub fn room(&mut self, session: &LiveSession) -> Option<usize> {
        match self.waiting.turn(session.account.room(), session.policy().pause, Instant::now) {
            Turn::Take(room) => return Some(room.min(READ_AT_ONCE)),
            Turn::Begin => {
                session.metrics.memory_waited();
                session.drop_replay();
            }
            Turn::Wait => {}
            Turn::Overdue => session.account.budget().wait_is_over(),
        }
        None
    }

    /// Counts what the socket's buffers hold.
    pub fn count(&mut self, session: &LiveSession, held: usize) {
        session.account.set(&mut self.held, held);
    }

    /// When to look for room again, while it waits.
    #[must_use]
    pub fn look_again(&self) -> Option<Instant> {
        self.waiting.waits().then(|| Instant::now() + LOOK_AGAIN)
    }

    /// Nothing is to be read for another reason.
    pub(super) fn stop(&mut self) {
        self.waiting.stop();
    }

    /// Whether memory is waited for.
    pub(super) fn waits(&self) -> bool {
        self.waiting.waits()
    }
}

/// Bytes for a client that are encoded and not yet written.
pub struct PendingBytes {
    session: Arc<LiveSession>,
    held: Part,
    abandoned: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl PendingBytes {
    /// Ready once the session was ended because it held most of the memory: these bytes, too, have to go.
    pub fn poll_abandoned(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.abandoned.as_mut().poll(cx)
    }
}

impl Drop for PendingBytes {
    fn drop(&mut self) {
        self.session.account.set(&mut self.held, 0);
    }
}
