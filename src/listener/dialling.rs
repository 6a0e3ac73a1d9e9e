//! How many requests that dial a backend are under way at once.
//!
//! Enters: a request whose response waits for a backend to be dialled. Leaves: a permit, at the latest after
//! [`MAX_WAIT`]. Must not touch: backends; how many dials one of them takes is the dialler's own bound.
//!
//! A request that dials takes some 10 KiB for a moment. When thousands of clients come back at once, most of them wait
//! here, where a connection keeps nothing of its request but its bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::config::Backend;
use crate::metrics::Metrics;

/// How long a request waits for a permit. Then it goes on without one, and the backend's own bound decides.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// The fewest permits, whatever is configured.
const LEAST: usize = 128;

/// The permits to dial, of all listeners together.
#[derive(Debug)]
pub struct DialQueue {
    permits: Arc<Semaphore>,
    /// How many permits there are, free or not.
    size: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// The right to dial; without a permit when it was waited for long enough.
#[derive(Debug)]
pub(super) struct DialPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

impl DialQueue {
    /// A queue for these backends.
    #[must_use]
    pub fn new(backend: &Backend, metrics: Arc<Metrics>) -> Self {
        let size = size_for(backend);
        Self { permits: Arc::new(Semaphore::new(size)), size: AtomicUsize::new(size), metrics }
    }

    /// Follows a changed configuration. When there are to be fewer permits, those that are in use stay.
    pub fn resize(&self, backend: &Backend) {
        let (wanted, size) = (size_for(backend), self.size.load(Ordering::Relaxed));
        let changed = if wanted >= size {
            self.permits.add_permits(wanted - size);
            wanted
        } else {
            size - self.permits.forget_permits(size - wanted)
        };
        self.size.store(changed, Ordering::Relaxed);
    }

    /// A permit, if one is free.
    pub(super) fn try_acquire(&self) -> Option<DialPermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok().map(|permit| DialPermit { _permit: Some(permit) })
    }

    /// The next permit, at the latest after [`MAX_WAIT`].
    pub(super) async fn acquire(self: Arc<Self>) -> DialPermit {
        let _counted = self.metrics.waiting_to_dial();
        let permit = timeout(MAX_WAIT, Arc::clone(&self.permits).acquire_owned()).await;
        DialPermit { _permit: permit.ok().and_then(Result::ok) }
    }
}

/// Twice what one backend takes at once, so that one that is slow does not take all.
fn size_for(backend: &Backend) -> usize {
    backend.dials.saturating_mul(2).clamp(LEAST, Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(dials: usize) -> Arc<DialQueue> {
        Arc::new(DialQueue::new(&backend(dials), Arc::default()))
    }

    fn backend(dials: usize) -> Backend {
        Backend { dials, ..Backend::default() }
    }

    fn take_all(queue: &DialQueue) -> Vec<DialPermit> {
        std::iter::from_fn(|| queue.try_acquire()).collect()
    }

    #[test]
    fn the_configuration_decides_how_many_dial_at_once() {
        for (dials, expected) in [(1, LEAST), (64, LEAST), (1000, 2000)] {
            assert_eq!(take_all(&queue(dials)).len(), expected, "{dials}");
        }
    }

    #[test]
    fn a_reload_changes_how_many_and_takes_no_permit_away() {
        let queue = queue(100);
        let held = take_all(&queue);
        queue.resize(&backend(150));
        let more = take_all(&queue);
        assert_eq!((held.len(), more.len()), (200, 100));
        drop(more);
        queue.resize(&backend(64));
        assert_eq!(take_all(&queue).len(), 0);
        drop(held);
        assert_eq!(take_all(&queue).len(), 200);
        queue.resize(&backend(64));
        assert_eq!(take_all(&queue).len(), LEAST);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_permit_has_an_end() {
        let queue = queue(1);
        let held = take_all(&queue);
        let start = tokio::time::Instant::now();
        let late = Arc::clone(&queue).acquire().await;
        assert_eq!((start.elapsed(), late._permit.is_none()), (MAX_WAIT, true));
        drop(held);
        assert!(queue.acquire().await._permit.is_some());
    }
}
