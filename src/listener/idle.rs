//! All connections: how many there may be, which of them have nothing to do, and which end when others need their place.
//!
//! Enters: connections. Leaves: the end of those that have been idle for longest. Must not touch: connections with a request
//! under way, deadlines.
//!
//! A request costs two atomic operations, in its connection's [`Traffic`]. The connections are looked through only when there is
//! no place left, and when the process drains.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use slab::Slab;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::traffic::Traffic;

/// All connections of all listeners.
#[derive(Debug)]
pub struct Connections {
    /// Those that there may be at once.
    places: Arc<Semaphore>,
    all: Mutex<Slab<Arc<Traffic>>>,
}

/// One connection among all, for as long as it lives.
#[derive(Debug)]
#[must_use = "dropping it is the end of the connection"]
pub struct Place {
    connections: Arc<Connections>,
    key: usize,
}

impl Connections {
    /// None yet, of as many as there are places.
    #[must_use]
    pub fn new(places: Arc<Semaphore>) -> Self {
        Self { places, all: Mutex::default() }
    }

    /// What there is to have, for one connection each.
    pub(super) fn places(&self) -> &Arc<Semaphore> {
        &self.places
    }

    /// Counts in a connection, which has this one of our places.
    pub(super) fn enter(self: &Arc<Self>, traffic: Arc<Traffic>, place: OwnedSemaphorePermit) -> Place {
        // It is given back by number: every connection would have a pointer to the same semaphore.
        place.forget();
        let key = self.all().insert(traffic);
        Place { connections: Arc::clone(self), key }
    }

    /// Ends those that have been idle for longest, at most so many. How many that were.
    pub(super) fn end_longest_idle(&self, most: usize) -> usize {
        let all = self.all();
        let mut idle: Vec<(u64, usize)> = idle(&all).map(|(key, since)| (since, key)).collect();
        if idle.len() > most {
            idle.select_nth_unstable(most);
            idle.truncate(most);
        }
        // What became busy in the meantime stays.
        let ended: Vec<_> =
            idle.iter().filter(|(since, key)| all[*key].end_idle(*since)).map(|(_, key)| *key).collect();
        wake(all, &ended);
        ended.len()
    }

    /// Wakes those that are idle, since something is different now for all.
    pub(super) fn wake_idle(&self) {
        let all = self.all();
        let idle: Vec<_> = idle(&all).map(|(key, _)| key).collect();
        wake(all, &idle);
    }

    fn all(&self) -> MutexGuard<'_, Slab<Arc<Traffic>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The idle ones, and since when they are.
fn idle(all: &Slab<Arc<Traffic>>) -> impl Iterator<Item = (usize, u64)> {
    all.iter().filter_map(|(key, connection)| connection.idle_since().map(|since| (key, since)))
}

/// Wakes these, when others may look at all again.
fn wake(all: MutexGuard<'_, Slab<Arc<Traffic>>>, keys: &[usize]) {
    let wakers: Vec<Waker> = keys.iter().filter_map(|key| all[*key].waker().cloned()).collect();
    drop(all);
    wakers.into_iter().for_each(Waker::wake);
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.all().remove(self.key);
        self.connections.places.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn those_that_are_idle_for_longest_end_and_the_busy_never() {
        let semaphore = Arc::new(Semaphore::new(6));
        let connections = Arc::new(Connections::new(Arc::clone(&semaphore)));
        let enter = |_| {
            let (traffic, place) = (Arc::<Traffic>::default(), Arc::clone(&semaphore).try_acquire_owned());
            (connections.enter(Arc::clone(&traffic), place.expect("a free place")), traffic)
        };
        let (places, idle): (Vec<_>, Vec<_>) = (0..6).map(enter).unzip();
        assert_eq!(semaphore.available_permits(), 0);
        let woken = Arc::<Woken>::default();
        for one in &idle {
            one.introduce_task(&Context::from_waker(&Waker::from(Arc::clone(&woken))));
        }
        // In another order than they came; the first two are busy again.
        for index in [0, 3, 1, 5, 4] {
            idle[index].become_idle();
        }
        assert!(idle[0].become_busy() && idle[1].become_busy());
        idle[0].become_idle();
        idle[3].become_idle();
        assert_eq!(connections.end_longest_idle(2), 2);
        let ended = |idle: &[Arc<Traffic>]| idle.iter().map(|one| one.must_end()).collect::<Vec<_>>();
        assert_eq!(ended(&idle), [false, false, false, true, false, true]);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert!(!idle[3].become_busy() && idle[4].become_busy(), "what came too late is not begun");
        assert_eq!(connections.end_longest_idle(10), 1);
        assert_eq!(ended(&idle), [true, false, false, true, false, true]);
        assert_eq!(connections.end_longest_idle(10), 0);
        let before = woken.0.load(Ordering::Relaxed);
        connections.wake_idle();
        assert_eq!(woken.0.load(Ordering::Relaxed), before, "nobody is idle who does not end already");
        idle[4].become_idle();
        connections.wake_idle();
        assert_eq!((woken.0.load(Ordering::Relaxed), idle[4].must_end()), (before + 1, false));
        drop(places);
        assert!(connections.all().is_empty());
        assert_eq!(semaphore.available_permits(), 6);
    }
}
