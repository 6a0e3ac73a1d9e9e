//! The machine's monotonic clock, which driver and backend share.
//!
//! Leaves: nanoseconds. `Instant` will not do: it cannot be sent to another process.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine started.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither part is negative on a monotonic clock.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
