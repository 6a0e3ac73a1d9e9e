//! Complaints that strangers can cause, at a bounded rate.
//!
//! Enters: the moments at which there is something to complain about. Leaves: which of them are said, and how many before
//! were not. Must not touch: what is complained about.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// At most one complaint in this time.
pub(super) const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// When the last complaint was, and how many were swallowed since.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<(Option<Instant>, u64)>);

impl Complaints {
    /// Whether a complaint is due: then how many were swallowed before it. Otherwise this one is swallowed.
    pub(super) fn due(&self) -> Option<u64> {
        // Two plain values: a panic elsewhere leaves nothing half changed.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.is_some_and(|last| last.elapsed() < COMPLAIN_EVERY) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(Instant::now());
        Some(std::mem::take(&mut state.1))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn complaints_are_rare_and_count_what_they_swallow() {
        let complaints = Complaints::default();
        assert_eq!([complaints.due(), complaints.due(), complaints.due()], [Some(0), None, None]);
        sleep(COMPLAIN_EVERY).await;
        assert_eq!([complaints.due(), complaints.due()], [Some(2), None]);
    }
}
