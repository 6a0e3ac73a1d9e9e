//! Freed memory goes back to the system, also when the process has become quiet.
//!
//! Enters: time. Leaves: nothing. Must not touch: anything that is in use.
//!
//! mimalloc keeps what was freed for a second, in case it is wanted again, and what one thread freed of another's until that
//! one comes by. Both it looks after on the occasion of further allocations, of which a quiet thread makes too few: after a
//! flood some 170 KiB remained of each session, and 450 KiB where messages were large. `mi_collect` would be the word for it,
//! but has no safe form. An allocation that cannot succeed has the same effect: before an allocator says that there is no
//! memory it looks for all that there is. For any other allocator it is an error of a few instructions.

use std::hint::black_box;
use std::time::Duration;

/// How often a thread does it. It takes a look at each of the thread's pages, 64 KiB of memory or more.
const EVERY: Duration = Duration::from_secs(5);

/// Gives back what this thread does not need. Never returns; each thread has one.
pub async fn give_back() {
    loop {
        tokio::time::sleep(EVERY).await;
        // No machine has so much, and no allocator tries.
        let refused = Vec::<u8>::new().try_reserve_exact(black_box(isize::MAX.unsigned_abs()));
        debug_assert!(black_box(refused).is_err());
    }
}
