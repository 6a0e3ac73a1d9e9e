//! What is known of a connection while it lives, by all who have to do with it: one allocation.
//!
//! Enters: what happens on the connection. Leaves: the same, for whoever asks. Must not touch: the connection.

use std::any::Any;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};

/// Connections are numbered as they become idle.
static NEXT: AtomicU64 = AtomicU64::new(1);
const BUSY: u64 = 0;
const ENDED: u64 = u64::MAX;

/// Bytes a connection has carried, as they are on the wire (under TLS this counts its records); whether it is idle, and
/// what a room above keeps with it.
#[derive(Debug, Default)]
pub struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
    blocked: AtomicBool,
    /// The number by which it is idle, or one of the two words above.
    idle: AtomicU64,
    /// The connection's task.
    waker: OnceLock<Waker>,
    companion: OnceLock<Box<dyn Companion>>,
}

/// What a room above keeps with a connection.
pub trait Companion: Any + Send + Sync {
    /// Whether there is something in it now that the connection cannot do without.
    fn binds(&self) -> bool;
}

impl fmt::Debug for dyn Companion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Companion")
    }
}

impl Traffic {
    /// Bytes received.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes sent.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether the last write was not taken: who writes has something left.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// What a room above keeps with the connection: made when it is first asked for, dropped with the connection. `None` when
    /// another room has put something else there.
    #[must_use]
    pub fn companion<T: Companion + Default>(&self) -> Option<&T> {
        let companion: &dyn Any = &**self.companion.get_or_init(|| Box::<T>::default());
        companion.downcast_ref()
    }

    /// The same, if it was made already.
    #[must_use]
    pub fn present_companion<T: 'static>(&self) -> Option<&T> {
        let companion: &dyn Any = &**self.companion.get()?;
        companion.downcast_ref()
    }

    /// Whether the connection cannot do without what is kept with it, which goes no further than this process.
    pub(super) fn is_bound(&self) -> bool {
        self.companion.get().is_some_and(|companion| companion.binds())
    }

    pub(super) fn count_read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn count_written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn set_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }

    /// The connection's task is this one, all its life from here.
    pub(super) fn introduce_task(&self, cx: &Context<'_>) {
        self.waker.get_or_init(|| cx.waker().clone());
    }

    /// The connection has nothing to do, from now on if it had before.
    pub(super) fn become_idle(&self) {
        if self.idle.load(Ordering::Relaxed) == BUSY {
            // Its waker is seen by whoever sees this number.
            self.idle.store(NEXT.fetch_add(1, Ordering::Relaxed), Ordering::Release);
        }
    }

    /// The connection has something to do. False when it must end nevertheless.
    pub(super) fn become_busy(&self) -> bool {
        let since = self.idle.load(Ordering::Relaxed);
        since == BUSY
            || since != ENDED && self.idle.compare_exchange(since, BUSY, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether the connection must end: others need its place.
    pub(super) fn must_end(&self) -> bool {
        self.idle.load(Ordering::Relaxed) == ENDED
    }

    /// Since when it is idle: the lower, the longer. `None` when it is not, or must end already.
    pub(super) fn idle_since(&self) -> Option<u64> {
        Some(self.idle.load(Ordering::Relaxed)).filter(|since| *since != BUSY && *since != ENDED)
    }

    /// It must end, if it has been idle since then. Whoever says so wakes it.
    pub(super) fn end_idle(&self, since: u64) -> bool {
        self.idle.compare_exchange(since, ENDED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// What wakes the connection's task, once that was introduced.
    pub(super) fn waker(&self) -> Option<&Waker> {
        self.waker.get()
    }
}
