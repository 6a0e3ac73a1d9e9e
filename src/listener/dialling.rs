//! How many requests wait in memory until one backend is connected.
//!
//! Enters: a request whose response waits for a backend to be dialled. Leaves: a turn, at the latest after
//! `MAX_WAIT`. Must not touch: backends; how many connections to one are opened at once is the dialler's own bound.
//!
//! A request that dials takes some 10 KiB for a moment. When thousands of clients come back at once, most of them wait
//! here, where a connection keeps nothing of its request but its bytes. Each backend has a queue of its own, and a turn is over
//! when the backend is connected: one that is slow to connect holds up nobody who wants another, and one that is slow to
//! answer holds up nobody.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::handler::Latency;
use crate::config::Backend;
use crate::http::incoming::IncomingBody;
use crate::metrics::Metrics;

/// How long a request waits for a turn. Then it goes on without one, and the backend's own bound decides.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// The fewest turns, whatever is configured.
const LEAST: usize = 128;

/// The turns of one backend, of all listeners together.
#[derive(Debug)]
pub struct DialQueue {
    turns: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// The right to dial, until it is taken and dropped; empty when it was waited for long enough. It goes with the request, in
/// its extensions.
#[derive(Clone, Debug)]
pub struct DialTurn(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl DialQueue {
    /// A queue for a backend.
    #[must_use]
    pub fn new(backend: &Backend, metrics: Arc<Metrics>) -> Self {
        Self { turns: Arc::new(Semaphore::new(size_for(backend))), metrics }
    }

    /// Where a request waits for its turn, if it is one for which a backend is dialled.
    pub(super) fn of(request: &Request<IncomingBody>, latency: Latency) -> Option<Arc<Self>> {
        let queue = request.extensions().get::<Arc<Self>>().filter(|_| latency == Latency::UntilDialled);
        queue.map(Arc::clone)
    }

    /// A turn, if one is free.
    pub(super) fn try_acquire(&self) -> Option<DialTurn> {
        Arc::clone(&self.turns).try_acquire_owned().ok().map(|turn| DialTurn::new(Some(turn)))
    }

    /// The next turn, at the latest after [`MAX_WAIT`].
    pub(super) async fn acquire(self: Arc<Self>) -> DialTurn {
        let _counted = self.metrics.waiting_to_dial();
        let turn = timeout(MAX_WAIT, Arc::clone(&self.turns).acquire_owned()).await;
        DialTurn::new(turn.ok().and_then(Result::ok))
    }
}

impl DialTurn {
    /// Not waited for any longer.
    pub(super) fn none() -> Self {
        Self::new(None)
    }

    fn new(turn: Option<OwnedSemaphorePermit>) -> Self {
        Self(Arc::new(Mutex::new(turn)))
    }

    /// The turn itself, which ends when that is dropped.
    #[must_use]
    pub fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Twice what is connected at once: who is next has its request ready.
fn size_for(backend: &Backend) -> usize {
    backend.dials.saturating_mul(2).clamp(LEAST, Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(dials: usize) -> Arc<DialQueue> {
        Arc::new(DialQueue::new(&Backend { dials, ..Backend::default() }, Arc::default()))
    }

    fn take_all(queue: &DialQueue) -> Vec<DialTurn> {
        std::iter::from_fn(|| queue.try_acquire()).collect()
    }

    #[test]
    fn the_configuration_decides_how_many_dial_at_once() {
        for (dials, expected) in [(1, LEAST), (64, LEAST), (1000, 2000)] {
            assert_eq!(take_all(&queue(dials)).len(), expected, "{dials}");
        }
    }

    #[test]
    fn a_turn_is_over_when_what_was_taken_is_dropped() {
        let queue = queue(1);
        let held = take_all(&queue);
        let copy = held[0].clone();
        drop(copy.take());
        assert!(queue.try_acquire().is_some() && held[0].take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_turn_has_an_end() {
        let queue = queue(1);
        let held = take_all(&queue);
        let start = tokio::time::Instant::now();
        let late = Arc::clone(&queue).acquire().await;
        assert_eq!((start.elapsed(), late.take().is_none()), (MAX_WAIT, true));
        drop(held);
        assert!(queue.acquire().await.take().is_some());
    }
}
