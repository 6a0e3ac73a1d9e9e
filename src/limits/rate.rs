//! How many in a second, by the generic cell rate algorithm (GCRA): one number for each rate, without a queue. Pure.
//!
//! Enters: moments in nanoseconds, a rate. Leaves: yes, or how long to wait. Must not touch: clocks, whose rate it is.

use std::sync::atomic::{AtomicU64, Ordering};

const SECOND: u64 = 1_000_000_000;
/// So much of what a rate allows may come at once: clients behind one address come back together.
const AHEAD: u64 = 10 * SECOND;

/// How far a rate is used up: the moment from which it is unused.
#[derive(Debug, Default)]
pub(super) struct Rate(AtomicU64);

impl Rate {
    /// Takes one, of `most` in a second; `most` is not zero. Else how many nanoseconds it takes until there is one.
    pub(super) fn take(&self, now: u64, most: u32) -> Result<(), u64> {
        let each = SECOND / u64::from(most);
        let mut used = self.0.load(Ordering::Relaxed);
        loop {
            let next = used.max(now) + each;
            let early = next.saturating_sub(now + AHEAD);
            if early > 0 {
                return Err(early);
            }
            match self.0.compare_exchange_weak(used, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(changed) => used = changed,
            }
        }
    }

    /// Whether nothing of it is used at this moment.
    pub(super) fn is_unused(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_seconds_worth_may_come_at_once_and_then_the_rate() {
        let (rate, start) = (Rate::default(), 77 * SECOND);
        let taken = (0..1000).filter(|_| rate.take(start, 20).is_ok()).count();
        assert_eq!(taken, 200);
        assert_eq!(rate.take(start, 20), Err(SECOND / 20));
        let taken = (0..1000).filter(|_| rate.take(start + 3 * SECOND, 20).is_ok()).count();
        assert_eq!(taken, 60);
        assert!(!rate.is_unused(start + 12 * SECOND));
        assert!(rate.is_unused(start + 13 * SECOND));
    }

    #[test]
    fn a_steady_client_at_the_rate_is_never_refused() {
        let rate = Rate::default();
        for number in 0..10_000 {
            assert_eq!(rate.take(number * SECOND / 50, 50), Ok(()));
        }
    }
}
