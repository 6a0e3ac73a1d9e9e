//! How many connections to one backend are opened at once.
//!
//! Enters: those who want to open one. Leaves: permits, and numbers for the operator. Must not touch: connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// The permits of one backend.
#[derive(Debug)]
pub(super) struct Dials {
    permits: Semaphore,
    limit: usize,
    waiting: AtomicUsize,
}

/// The dials of one backend at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialCount {
    /// Connections that are being opened.
    pub active: usize,
    /// Those who wait for a permit to open one.
    pub waiting: usize,
    /// How many may be opened at once.
    pub limit: usize,
}

/// One of those who wait, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dials {
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Self { permits: Semaphore::new(limit), limit, waiting: AtomicUsize::new(0) }
    }

    /// How many may be opened at once.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The next permit; `None` when there was none in this time.
    pub(super) async fn acquire(&self, within: Duration) -> Option<SemaphorePermit<'_>> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Some(permit);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        // The semaphore is never closed, so only the deadline is an error.
        timeout(within, self.permits.acquire()).await.ok()?.ok()
    }

    /// The numbers of this moment.
    pub(super) fn count(&self) -> DialCount {
        let active = self.limit.saturating_sub(self.permits.available_permits());
        DialCount { active, waiting: self.waiting.load(Ordering::Relaxed), limit: self.limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_opens_and_who_waits_is_counted_and_the_wait_has_an_end() {
        let dials = Dials::new(1);
        let first = dials.acquire(Duration::from_secs(1)).await;
        assert_eq!(dials.count(), DialCount { active: 1, waiting: 0, limit: 1 });
        let mut second = Box::pin(dials.acquire(Duration::from_secs(1)));
        assert!(futures_util::poll!(&mut second).is_pending());
        assert_eq!(dials.count(), DialCount { active: 1, waiting: 1, limit: 1 });
        assert!(second.await.is_none());
        assert_eq!(dials.count().waiting, 0);
        drop(first);
        assert_eq!(dials.count(), DialCount { active: 0, waiting: 0, limit: 1 });
        assert!(dials.acquire(Duration::ZERO).await.is_some());
    }
}
