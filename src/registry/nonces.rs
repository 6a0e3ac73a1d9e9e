//! Nonces: an open that a box or a browser repeats returns the session of the first one (PROTOCOL 3.1).
//!
//! Enters: a nonce with what it was used for. Leaves: its place, held by one opener at a time. Must not touch: dialling.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::live_session::LiveSession;

/// What a nonce was used for; another use is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Purpose {
    pub(super) target: String,
    pub(super) protocols: Vec<String>,
    pub(super) origin: Option<String>,
}

/// The session of a nonce, once there is one. Held locked while one opener dials, so that a twin waits for it.
pub(super) type Place = Arc<AsyncMutex<Option<Arc<LiveSession>>>>;

/// The nonces of the last minute.
#[derive(Default)]
pub(super) struct Nonces {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    places: HashMap<Box<str>, Entry>,
    /// Oldest first.
    order: VecDeque<Box<str>>,
}

struct Entry {
    purpose: Purpose,
    place: Place,
    since: Instant,
}

/// Why a nonce gives no place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// It was used for something else.
    Reused,
    /// Too many nonces are remembered.
    Full,
}

impl Nonces {
    /// The place of this nonce, for at most `age`; at most `count` are remembered.
    pub(super) fn place(&self, nonce: &str, purpose: Purpose, age: Duration, count: usize) -> Result<Place, NoPlace> {
        // Every change is a single insert or remove, so a panic leaves nothing half done.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sweep(age);
        if let Some(entry) = inner.places.get(nonce) {
            return if entry.purpose == purpose { Ok(Arc::clone(&entry.place)) } else { Err(NoPlace::Reused) };
        }
        if inner.places.len() >= count {
            return Err(NoPlace::Full);
        }
        let place = Place::default();
        let entry = Entry { purpose, place: Arc::clone(&place), since: Instant::now() };
        inner.places.insert(nonce.into(), entry);
        inner.order.push_back(nonce.into());
        Ok(place)
    }
}

impl Inner {
    fn sweep(&mut self, age: Duration) {
        while let Some(nonce) = self.order.front() {
            if self.places.get(nonce).is_some_and(|entry| entry.since.elapsed() < age) {
                return;
            }
            self.places.remove(nonce);
            self.order.pop_front();
        }
    }
}
