//! The memory that all payloads together may take, and what each session holds of it.
//!
//! Enters: the sizes of buffers, as their owners know them. Leaves: how much a session may take now, and an alarm when one
//! has to end. Must not touch: buffers, sessions. What is decided, `marks` decides; here is the counting.
//!
//! Counted are messages kept down, queued up and held behind a gap, messages on their way in or out of a socket, bodies of
//! sends and what they were decoded into, other bodies while they come, responses that wait to be written, heads of requests,
//! and what connections of clients have read ahead or hyper has for them. A buffer counts as 0 below 4 KiB, and changes by less
//! are not followed: so a short message costs no shared counter, and up to 4 KiB of each buffer are not counted.

mod give_back;
mod marks;
mod system;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

pub use self::give_back::give_back;
use self::marks::Marks;
pub use self::marks::{Level, Turn, Waiting};
pub use self::system::Source;

const MIB: usize = 1 << 20;
/// Smaller buffers and smaller changes are not counted, in bytes.
const GRAIN: usize = 4 * 1024;

/// The budget of the process.
#[derive(Debug)]
pub struct Budget {
    marks: Marks,
    source: Source,
    held: AtomicUsize,
    accounts: AtomicUsize,
    /// Somebody has waited for too long since this was last asked.
    overdue: AtomicBool,
    alarm: Notify,
}

/// What one session holds.
#[derive(Debug)]
pub struct Account {
    budget: Arc<Budget>,
    held: AtomicUsize,
}

/// What one buffer, or several with one owner, count for in their account, in bytes: at most 4 GiB. Every session has some.
#[derive(Debug, Default)]
pub struct Part(u32);

/// What is held beside all sessions, for a while: a request's body, before it is known whose it is.
#[derive(Debug)]
pub struct Claim {
    budget: Arc<Budget>,
    bytes: usize,
}

/// A claim that is only made when there is something to count. Every connection has one.
#[derive(Debug, Default)]
pub struct LazyClaim(Option<Box<Claim>>);

/// A part that counts nothing any more when it is dropped.
#[derive(Debug)]
pub struct ScopedPart<'a> {
    account: &'a Account,
    part: Part,
}

impl Budget {
    /// The budget that the operator set, or that the system gives.
    #[must_use]
    pub fn of(configured: Option<usize>) -> Self {
        let (bytes, source) = system::budget(configured);
        let (held, accounts) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (overdue, alarm) = (AtomicBool::new(false), Notify::new());
        Self { marks: Marks::new(bytes), source, held, accounts, overdue, alarm }
    }

    /// All of it, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.marks.budget()
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What is held, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// How far it is used.
    #[must_use]
    pub fn level(&self) -> Level {
        self.marks.level(self.held())
    }

    /// What each account may hold while memory is short, in bytes.
    #[must_use]
    pub fn share(&self) -> usize {
        self.marks.share(self.accounts.load(Ordering::Relaxed))
    }

    /// Whether a buffer of so many bytes is large enough to be counted.
    #[must_use]
    pub fn counts(bytes: usize) -> bool {
        bytes >= GRAIN
    }

    /// A claim of nothing yet.
    #[must_use]
    pub fn claim(self: &Arc<Self>) -> Claim {
        Claim { budget: Arc::clone(self), bytes: 0 }
    }

    /// So much more is held, or less.
    fn change(&self, before: usize, after: usize) {
        if after <= before {
            self.held.fetch_sub(before - after, Ordering::Relaxed);
            return;
        }
        let held = self.held.fetch_add(after - before, Ordering::Relaxed) + (after - before);
        let level = self.marks.level(held);
        if level == Level::Spent || level > self.marks.level(held - (after - before)) {
            self.alarm.notify_one();
        }
    }

    /// Says that a session has waited for too long.
    pub fn wait_is_over(&self) {
        self.overdue.store(true, Ordering::Relaxed);
        self.alarm.notify_one();
    }

    /// Returns when memory has become short, or [`Budget::is_exceeded`] may be true.
    pub async fn alarmed(&self) {
        self.alarm.notified().await;
    }

    /// Whether somebody has to end: the budget is spent, or it is short and one has waited for too long, which is said once.
    pub fn is_exceeded(&self) -> bool {
        let overdue = self.overdue.swap(false, Ordering::Relaxed);
        match self.level() {
            Level::Free => false,
            Level::Short => overdue,
            Level::Spent => true,
        }
    }
}

impl Account {
    /// An account that holds nothing.
    #[must_use]
    pub fn new(budget: Arc<Budget>) -> Self {
        budget.accounts.fetch_add(1, Ordering::Relaxed);
        Self { budget, held: AtomicUsize::new(0) }
    }

    /// The budget that it is a part of.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// What it holds, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// How much it may take now, in bytes. One that holds nothing may always take what is too little to be counted.
    #[must_use]
    pub fn room(&self) -> usize {
        let held = self.budget.held();
        if self.budget.marks.level(held) == Level::Free {
            return usize::MAX;
        }
        let own = self.held();
        let room = self.budget.marks.room(held, self.budget.accounts.load(Ordering::Relaxed), own);
        if own == 0 { room.max(GRAIN) } else { room }
    }

    /// A part of a scope.
    #[must_use]
    pub fn part(&self) -> ScopedPart<'_> {
        ScopedPart { account: self, part: Part::default() }
    }

    /// Counts `bytes` for this part from now on. The owner sets it to 0 before it lets go of it.
    pub fn set(&self, part: &mut Part, bytes: usize) {
        let bytes = if bytes < GRAIN { 0 } else { u32::try_from(bytes).unwrap_or(u32::MAX) };
        let before = part.0 as usize;
        if bytes == part.0 || (bytes > 0 && (bytes as usize).abs_diff(before) < GRAIN) {
            return;
        }
        part.0 = bytes;
        let bytes = bytes as usize;
        if bytes > before {
            self.held.fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(before - bytes, Ordering::Relaxed);
        }
        self.budget.change(before, bytes);
    }
}

impl Claim {
    /// Counts `bytes` from now on.
    pub fn set(&mut self, bytes: usize) {
        self.budget.change(self.bytes, bytes);
        self.bytes = bytes;
    }
}

impl LazyClaim {
    /// Counts `bytes` for `budget` from now on.
    pub fn set(&mut self, budget: &Arc<Budget>, bytes: usize) {
        if !Budget::counts(bytes) {
            self.0 = None;
            return;
        }
        let claim = self.0.get_or_insert_with(|| Box::new(budget.claim()));
        if claim.bytes.abs_diff(bytes) >= GRAIN {
            claim.set(bytes);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl ScopedPart<'_> {
    /// Counts `bytes` from now on.
    pub fn set(&mut self, bytes: usize) {
        self.account.set(&mut self.part, bytes);
    }
}

impl Drop for ScopedPart<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.budget.accounts.fetch_sub(1, Ordering::Relaxed);
        self.budget.held.fetch_sub(self.held(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(bytes: usize, count: usize) -> (Arc<Budget>, Vec<Account>) {
        let budget = Arc::new(Budget::of(Some(bytes)));
        let accounts = (0..count).map(|_| Account::new(Arc::clone(&budget))).collect();
        (budget, accounts)
    }

    #[test]
    fn what_is_set_is_held_once_and_given_back() {
        let (budget, mut accounts) = accounts(MIB, 2);
        let (mut one, mut two) = (Part::default(), Part::default());
        accounts[0].set(&mut one, 100_000);
        accounts[0].set(&mut two, 50_000);
        accounts[0].set(&mut one, 60_000);
        assert_eq!((budget.held(), accounts[0].held(), accounts[1].held()), (110_000, 110_000, 0));
        accounts[0].set(&mut one, 0);
        assert_eq!(budget.held(), 50_000);
        accounts.clear();
        assert_eq!((budget.held(), budget.share()), (0, budget.marks.share(0)), "the rest goes with the account");
    }

    #[test]
    fn small_buffers_and_small_changes_are_not_followed_and_nothing_of_them_stays() {
        let (budget, accounts) = accounts(MIB, 1);
        let mut part = Part::default();
        for (bytes, held) in [(GRAIN - 1, 0), (GRAIN, GRAIN), (2 * GRAIN - 1, GRAIN), (2 * GRAIN, 2 * GRAIN), (1, 0)] {
            accounts[0].set(&mut part, bytes);
            assert_eq!(budget.held(), held, "at {bytes}");
        }
    }

    #[tokio::test]
    async fn a_spent_budget_raises_the_alarm_and_only_the_greedy_have_no_room() {
        let (budget, accounts) = accounts(MIB, 4);
        let mut part = Part::default();
        accounts[0].set(&mut part, MIB * 9 / 10);
        assert_eq!(budget.level(), Level::Short);
        assert_eq!([accounts[0].room(), accounts[1].room()], [0, budget.share()]);
        accounts[0].set(&mut part, MIB);
        budget.alarmed().await;
        assert!(budget.is_exceeded());
        accounts[0].set(&mut part, MIB / 2);
        assert!(!budget.is_exceeded(), "an alarm that came too late ends nobody");
        assert_eq!(accounts[0].room(), usize::MAX);
    }

    #[tokio::test]
    async fn what_is_claimed_beside_sessions_is_held_and_raises_the_alarm() {
        let (budget, _accounts) = accounts(MIB, 2);
        let share = budget.share();
        let mut claim = budget.claim();
        claim.set(100);
        claim.set(MIB * 9 / 10);
        budget.alarmed().await;
        assert_eq!((budget.held(), budget.level(), budget.share()), (MIB * 9 / 10, Level::Short, share));
        drop(claim);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_lazy_claim_follows_what_is_large_and_nothing_of_it_stays() {
        let (budget, _accounts) = accounts(MIB, 0);
        let mut claim = LazyClaim::default();
        for (bytes, held) in [(GRAIN - 1, 0), (GRAIN, GRAIN), (GRAIN + 1, GRAIN), (3 * GRAIN, 3 * GRAIN), (1, 0)] {
            claim.set(&budget, bytes);
            assert_eq!((budget.held(), claim.0.is_some()), (held, held > 0), "at {bytes}");
        }
        claim.set(&budget, MIB);
        drop(claim);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn a_wait_that_was_too_long_counts_once_and_only_while_memory_is_short() {
        let (budget, accounts) = accounts(MIB, 2);
        let mut scope = accounts[0].part();
        scope.set(MIB * 9 / 10);
        budget.wait_is_over();
        budget.alarmed().await;
        assert_eq!([budget.is_exceeded(), budget.is_exceeded()], [true, false]);
        budget.wait_is_over();
        drop(scope);
        assert!(!budget.is_exceeded());
    }
}
