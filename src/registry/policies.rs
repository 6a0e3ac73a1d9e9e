//! The limits and timers of sessions: one copy for all that have the same, also of those that came from another process.
//!
//! Enters: policies. Leaves: the same, and the core's part of them, shared. Must not touch: what they say.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;

use crate::config;
use crate::lifecycle::moving::pack;
use crate::session::Limits;

/// Those that were written down or read, each once. There are as many as configurations that live sessions were opened under.
#[derive(Debug, Default)]
pub(super) struct Policies(Mutex<Vec<Known>>);

#[derive(Debug)]
struct Known {
    policy: Weak<config::Session>,
    /// In the form in which it travels. Another program may have another one for the same.
    packed: Bytes,
}

impl Policies {
    /// What is written down of this policy, made once.
    pub(super) fn pack(&self, policy: &Arc<config::Session>) -> Bytes {
        let mut known = self.known();
        if let Some(same) = known.iter().find(|known| known.policy.as_ptr() == Arc::as_ptr(policy)) {
            return same.packed.clone();
        }
        let packed = pack(&**policy).expect("a policy is plain data");
        remember(&mut known, policy, packed.clone());
        packed
    }

    /// The policy of which this was written down, read once; or an equal one that a session has already.
    ///
    /// # Errors
    /// It is of another make.
    pub(super) fn unpack(&self, packed: &Bytes) -> Result<Arc<config::Session>, rmp_serde::decode::Error> {
        let mut known = self.known();
        let same = known.iter().find(|known| known.packed == packed).and_then(|known| known.policy.upgrade());
        if let Some(same) = same {
            return Ok(same);
        }
        let policy: config::Session = rmp_serde::from_slice(packed)?;
        let equal = known.iter().filter_map(|known| known.policy.upgrade()).find(|known| **known == policy);
        let policy = equal.unwrap_or_else(|| Arc::new(policy));
        // Copied: it is a slice of all that was handed over.
        remember(&mut known, &policy, Bytes::copy_from_slice(packed));
        Ok(policy)
    }

    fn known(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets what nobody has any more, and knows one more.
fn remember(known: &mut Vec<Known>, policy: &Arc<config::Session>, packed: Bytes) {
    known.retain(|known| known.policy.strong_count() > 0);
    known.push(Known { policy: Arc::downgrade(policy), packed });
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
        let (here, there) = (Policies::default(), Policies::default());
        let packed = |max| here.pack(&Arc::new(config::Session { max, ..config::Session::default() }));
        let unpack = |packed: &Bytes| there.unpack(packed).expect("a policy");
        let (one, two) = (unpack(&packed(5)), unpack(&packed(5)));
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(one.max, 5);
        let other = unpack(&packed(7));
        assert!(!Arc::ptr_eq(&one, &other));
        drop((one, two, other));
        let _last = unpack(&packed(8));
        assert_eq!((there.known().len(), here.known().len()), (1, 1));
        assert!(there.unpack(&Bytes::from_static(b"no policy")).is_err());
    }

    #[test]
    fn a_policy_is_packed_once() {
        let (policies, policy) = (Policies::default(), Arc::new(config::Session::default()));
        assert_eq!(policies.pack(&policy).as_ptr(), policies.pack(&policy).as_ptr());
        // One that has come is known as it came.
        let come = Bytes::copy_from_slice(&policies.pack(&policy));
        let successor = Policies::default();
        let policy = successor.unpack(&come).expect("a policy");
        assert_eq!(successor.pack(&policy), come);
    }
}
