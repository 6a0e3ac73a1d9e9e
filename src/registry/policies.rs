//! The limits and timers of sessions that came from another process: one copy for all that have the same.
//!
//! Enters: policies. Leaves: the same, shared. Must not touch: what they say.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::config;

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
