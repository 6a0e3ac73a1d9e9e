//! Which connections have nothing to do, and which of them end when others need their place.
//!
//! Enters: connections, and when each begins and ends to be idle. Leaves: the end of those that have been idle for longest. Must
//! not touch: connections with a request under way, deadlines.
//!
//! A request costs two atomic operations here. The connections are looked through only when there is no place left.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Waker};

use slab::Slab;

/// Connections are numbered as they become idle.
static NEXT: AtomicU64 = AtomicU64::new(1);
const BUSY: u64 = 0;
const ENDED: u64 = u64::MAX;

/// All connections of all listeners.
#[derive(Debug, Default)]
pub struct Connections {
    all: Mutex<Slab<Arc<Idleness>>>,
}

/// One connection among all, for as long as it lives.
#[derive(Debug)]
#[must_use = "dropping it is the end of the connection"]
pub struct Place {
    connections: Arc<Connections>,
    key: usize,
}

/// Whether a connection is idle, since when, and whether it is to end.
#[derive(Debug, Default)]
pub(super) struct Idleness {
    since: AtomicU64,
    /// The connection's task.
    waker: OnceLock<Waker>,
}

impl Connections {
    /// Counts in a connection, which is busy.
    pub(super) fn enter(self: &Arc<Self>) -> (Place, Arc<Idleness>) {
        let idleness = Arc::<Idleness>::default();
        let key = self.all().insert(Arc::clone(&idleness));
        (Place { connections: Arc::clone(self), key }, idleness)
    }

    /// Ends those that have been idle for longest, at most so many. How many that were.
    pub(super) fn end_longest_idle(&self, most: usize) -> usize {
        let mut idle: Vec<(u64, usize)> = Vec::new();
        let all = self.all();
        for (key, connection) in all.iter() {
            let since = connection.since.load(Ordering::Relaxed);
            if since != BUSY && since != ENDED {
                idle.push((since, key));
            }
        }
        if idle.len() > most {
            idle.select_nth_unstable(most);
            idle.truncate(most);
        }
        // What became busy in the meantime stays.
        let ended: Vec<_> = idle.iter().filter(|(since, key)| all[*key].end(*since)).map(|(_, key)| *key).collect();
        let wakers: Vec<Waker> = ended.iter().filter_map(|key| all[*key].waker.get().cloned()).collect();
        drop(all);
        wakers.into_iter().for_each(Waker::wake);
        ended.len()
    }

    fn all(&self) -> MutexGuard<'_, Slab<Arc<Idleness>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.all().remove(self.key);
    }
}

impl Idleness {
    /// The connection's task is this one, all its life from here.
    pub(super) fn introduce(&self, cx: &Context<'_>) {
        self.waker.get_or_init(|| cx.waker().clone());
    }

    /// The connection has nothing to do, from now on if it had before.
    pub(super) fn begin(&self) {
        if self.since.load(Ordering::Relaxed) == BUSY {
            // Its waker is seen by whoever sees this number.
            self.since.store(NEXT.fetch_add(1, Ordering::Relaxed), Ordering::Release);
        }
    }

    /// The connection has something to do. False when it is to end nevertheless.
    pub(super) fn finish(&self) -> bool {
        let since = self.since.load(Ordering::Relaxed);
        since == BUSY
            || since != ENDED && self.since.compare_exchange(since, BUSY, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether the connection is to end: others need its place.
    pub(super) fn is_ended(&self) -> bool {
        self.since.load(Ordering::Relaxed) == ENDED
    }

    fn end(&self, since: u64) -> bool {
        self.since.compare_exchange(since, ENDED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

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
        let connections = Arc::<Connections>::default();
        let (places, idle): (Vec<_>, Vec<_>) = (0..6).map(|_| connections.enter()).unzip();
        let woken = Arc::<Woken>::default();
        for one in &idle {
            one.introduce(&Context::from_waker(&Waker::from(Arc::clone(&woken))));
        }
        // In another order than they came; the first two are busy again.
        for index in [0, 3, 1, 5, 4] {
            idle[index].begin();
        }
        assert!(idle[0].finish() && idle[1].finish());
        idle[0].begin();
        idle[3].begin();
        assert_eq!(connections.end_longest_idle(2), 2);
        let ended = |idle: &[Arc<Idleness>]| idle.iter().map(|one| one.is_ended()).collect::<Vec<_>>();
        assert_eq!(ended(&idle), [false, false, false, true, false, true]);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert!(!idle[3].finish() && idle[4].finish(), "what came too late is not begun");
        assert_eq!(connections.end_longest_idle(10), 1);
        assert_eq!(ended(&idle), [true, false, false, true, false, true]);
        assert_eq!(connections.end_longest_idle(10), 0);
        drop(places);
        assert!(connections.all().is_empty());
    }
}
