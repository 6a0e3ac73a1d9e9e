//! When memory is short, who may take more of it, and how long one waits. Pure.
//!
//! Enters: how much all hold, how many they are, how much one of them holds, and the time. Leaves: how much it may take, or
//! that it must wait. Must not touch: who they are, what they hold.
//!
//! ```text
//!  0 ─────────────────────────── 80 % ───────────── 95 % ──── budget
//!    free: whatever its own        short: up to its   spent: the one that holds
//!    limits allow                  share, then waits  most has to end
//! ```
//!
//! The share is what each could hold if all held the same at the first mark. So while memory is short, at least one holds its
//! share or more, and those that hold little do not notice.

use std::ops::{Add, Sub};
use std::time::Duration;

/// How far the budget is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Below the first mark.
    Free,
    /// From the first mark on, what would add has to wait.
    Short,
    /// From the second mark on, the one that holds most has to end.
    Spent,
}

/// The budget and its two marks, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    budget: usize,
    short: usize,
    spent: usize,
}

impl Marks {
    /// The marks of a budget of so many bytes.
    #[must_use]
    pub(super) fn new(budget: usize) -> Self {
        let percent = |part: usize| budget / 100 * part;
        Self { budget, short: percent(80), spent: percent(95) }
    }

    /// The whole budget.
    #[must_use]
    pub(super) fn budget(&self) -> usize {
        self.budget
    }

    /// How far it is used when `held` bytes are held.
    #[must_use]
    pub(super) fn level(&self, held: usize) -> Level {
        match held {
            held if held >= self.spent => Level::Spent,
            held if held >= self.short => Level::Short,
            _ => Level::Free,
        }
    }

    /// What each of so many may hold when memory is short.
    #[must_use]
    pub(super) fn share(&self, count: usize) -> usize {
        self.short / count.max(1)
    }

    /// How much one that holds `own` may take when all `count` hold `held`. Without a bound while memory is free.
    #[must_use]
    pub(super) fn room(&self, held: usize, count: usize, own: usize) -> usize {
        let left = self.share(count).saturating_sub(own);
        match self.level(held) {
            Level::Free => usize::MAX,
            Level::Short => left,
            // However many there are, all together take no more than there is.
            Level::Spent => left.min(self.budget.saturating_sub(held) / count.max(1)),
        }
    }
}

/// The waiting of one of them. `T` is a time.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<T> {
    since: Option<T>,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// So many bytes may be taken.
    Take(usize),
    /// The wait begins.
    Begin,
    /// It goes on.
    Wait,
    /// It was as long as it may be: somebody has to end. It begins anew.
    Overdue,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { since: None }
    }
}

impl<T: Copy + PartialOrd + Sub<T, Output = Duration> + Add<Duration, Output = T>> Waiting<T> {
    /// Whether one may take something at `now`, which it is only asked for when there is no `room`.
    pub fn turn(&mut self, room: usize, patience: Duration, now: impl FnOnce() -> T) -> Turn {
        if room > 0 {
            self.since = None;
            return Turn::Take(room);
        }
        let now = now();
        match self.since {
            None => {
                self.since = Some(now);
                Turn::Begin
            }
            Some(since) if now - since >= patience => {
                self.since = Some(now);
                Turn::Overdue
            }
            Some(_) => Turn::Wait,
        }
    }

    /// True while one waits.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.since.is_some()
    }

    /// There is nothing to wait for any more.
    pub fn stop(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MARKS: fn() -> Marks = || Marks::new(1000);

    #[test]
    fn the_marks_are_at_80_and_95_percent() {
        let levels = [0, 799, 800, 949, 950, 5000].map(|held| MARKS().level(held));
        assert_eq!(levels, [Level::Free, Level::Free, Level::Short, Level::Short, Level::Spent, Level::Spent]);
    }

    #[test]
    fn while_memory_is_free_nobody_is_asked_what_it_holds() {
        assert_eq!(MARKS().room(799, 4, 799), usize::MAX);
    }

    #[test]
    fn while_memory_is_short_each_may_take_up_to_its_share() {
        assert_eq!([0, 199, 200, 700].map(|own| MARKS().room(900, 4, own)), [200, 1, 0, 0]);
        assert_eq!(
            [960, 1000, 1200].map(|held| MARKS().room(held, 4, 50)),
            [10, 0, 0],
            "all take no more than is left"
        );
        assert_eq!(MARKS().room(900, 0, 0), 800, "nobody is counted: no division by zero");
    }

    #[test]
    fn a_wait_begins_once_is_overdue_once_for_each_span_and_ends_with_room() {
        let second = Duration::from_secs;
        let mut waiting = Waiting::<Duration>::default();
        let mut turn = |room, now| waiting.turn(room, second(10), || second(now));
        assert_eq!(turn(7, 0), Turn::Take(7));
        assert_eq!([1, 2, 10, 11, 12, 21].map(|now| turn(0, now)), {
            [Turn::Begin, Turn::Wait, Turn::Wait, Turn::Overdue, Turn::Wait, Turn::Overdue]
        });
        assert_eq!([turn(1, 22), turn(0, 60)], [Turn::Take(1), Turn::Begin], "the clock begins anew");
        assert!(waiting.waits());
        waiting.stop();
        assert!(!waiting.waits());
    }

    proptest! {
        /// Otherwise all could wait for each other.
        #[test]
        fn when_memory_is_short_somebody_holds_its_share(budget in 100..1usize << 40, parts in prop::collection::vec(0..1000usize, 1..50)) {
            let marks = Marks::new(budget);
            let sum: usize = parts.iter().sum::<usize>().max(1);
            // The same proportions, spread over what is held at the first mark.
            let held: Vec<u128> = parts.iter().map(|part| *part as u128 * marks.short as u128 / sum as u128).collect();
            let most = held.iter().max().copied().unwrap_or_default();
            prop_assert!(most + parts.len() as u128 >= marks.share(parts.len()) as u128 || parts.iter().sum::<usize>() == 0);
        }
    }
}
