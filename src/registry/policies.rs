//! The limits and timers of sessions: one copy for all that have the same, also of those that came from another process.
//!
//! Enters: policies. Leaves: the same, and the core's part of them, shared. Must not touch: what they say.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::config;
use crate::session::Limits;

/// Those that live sessions have, each once. There are as many as configurations that these were opened under.
#[derive(Debug, Default)]
pub(super) struct Policies(Mutex<Vec<Weak<config::Session>>>);

impl Policies {
    /// This policy, or an equal one that a session has already.
    pub(super) fn share(&self, policy: config::Session) -> Arc<config::Session> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.iter().filter_map(Weak::upgrade).find(|known| **known == policy) {
            return same;
        }
        known.retain(|known| known.strong_count() > 0);
        let policy = Arc::new(policy);
        known.push(Arc::downgrade(&policy));
        policy
    }
}

/// How long a message that was written may be asked for again. A client that was cut off comes back within its grace or not at
/// all; what it lacks then was written after it was cut off, or before and still on its way: in the buffers of the kernel and
/// of boxes, which hold what a slow client takes in half a grace (`client.write` is as long by default).
fn replay_age(grace: Duration) -> Duration {
    grace + grace / 2
}

/// The core's limits, which all sessions of one configuration share.
#[derive(Debug, Default)]
pub(super) struct SharedLimits(Mutex<Option<(Arc<config::Session>, Arc<Limits>)>>);

impl SharedLimits {
    /// Those of `policy`: the last ones, or new ones when the configuration has changed.
    pub(super) fn of(&self, policy: &Arc<config::Session>) -> Arc<Limits> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, limits)) if Arc::ptr_eq(known, policy) => Arc::clone(limits),
            _ => Arc::clone(&last.insert((Arc::clone(policy), Arc::new(limits(policy)))).1),
        }
    }
}

pub(super) fn limits(policy: &config::Session) -> Limits {
    Limits {
        buffer: policy.buffer,
        replay: policy.replay,
        replay_age: replay_age(policy.grace),
        reorder_window: policy.held,
        queue: policy.queue,
        grace: policy.grace,
        pause: policy.pause,
        close_wait: policy.close_wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_policies_are_one_and_those_of_nobody_are_forgotten() {
        let policies = Policies::default();
        let (one, two) = (policies.share(config::Session::default()), policies.share(config::Session::default()));
        assert!(Arc::ptr_eq(&one, &two));
        let other = policies.share(config::Session { max: 7, ..config::Session::default() });
        assert!(!Arc::ptr_eq(&one, &other));
        drop((one, two, other));
        let _last = policies.share(config::Session { max: 8, ..config::Session::default() });
        assert_eq!(policies.0.lock().expect("nobody panics here").len(), 1);
    }
}
