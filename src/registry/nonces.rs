//! Nonces: an open that a proxy or a browser repeats gets the session of the first one (PROTOCOL 3.1).
//!
//! Enters: a nonce with what it was used for, and by whom. Leaves: its slot, which one opener locks at a time. Must not
//! touch: dialling.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderName, HeaderValue};
use ring::digest::{Context, SHA256};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::Opened;

/// What a nonce was used for, and by whom: the first half of the SHA-256 of the target and the fields `BELONGING` of the
/// handshake. With anything else it is refused.
pub(super) type Purpose = [u8; 16];

/// Whose a session is: it must not be given to anybody else who learns of the nonce.
const BELONGING: [HeaderName; 4] = [SEC_WEBSOCKET_PROTOCOL, ORIGIN, COOKIE, AUTHORIZATION];

/// What came of a nonce, once it is there. It is locked while one opener dials, so that a repeated open waits for it.
pub(super) type Slot = Arc<AsyncMutex<Option<Opened>>>;

/// The nonces that were used of late.
#[derive(Default)]
pub(super) struct Nonces {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    slots: HashMap<Box<str>, Entry>,
    /// How long the last one is to be remembered.
    age: Duration,
    /// Oldest first.
    order: VecDeque<Box<str>>,
}

struct Entry {
    purpose: Purpose,
    slot: Slot,
    since: Instant,
}

/// Why a nonce has no slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NonceError {
    /// It was used for something else.
    Reused,
    /// Too many nonces are remembered.
    Full,
}

impl Nonces {
    /// The purpose of a handshake.
    pub(super) fn purpose(handshake: &http::request::Parts) -> Purpose {
        let mut hash = Context::new(&SHA256);
        let target = handshake.uri.to_string();
        let fields = BELONGING.map(|name| handshake.headers.get(name).map(HeaderValue::as_bytes));
        for part in [Some(target.as_bytes())].into_iter().chain(fields) {
            // Told apart by their lengths; what is missing has none of any text.
            hash.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
            hash.update(part.unwrap_or_default());
        }
        *hash.finish().as_ref().first_chunk().expect("SHA-256 has 32 bytes")
    }

    /// The nonces that have opened something, with what they were used for, for how long they are remembered, and what they
    /// opened.
    pub(super) fn opened(&self) -> Vec<(String, Purpose, Duration, Opened)> {
        let inner = self.lock();
        let of = |nonce: &str| {
            let entry = inner.slots.get(nonce)?;
            let opened = entry.slot.try_lock().ok()?.clone()?;
            Some((nonce.to_string(), entry.purpose, entry.since.elapsed(), opened))
        };
        inner.order.iter().filter_map(|nonce| of(nonce)).collect()
    }

    /// Remembers a nonce that was used `age` ago, in another process or before its session was thawed here.
    pub(super) fn recall(&self, nonce: &str, purpose: Purpose, age: Duration, opened: Opened) {
        let mut inner = self.lock();
        let since = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        let entry = Entry { purpose, slot: Arc::new(AsyncMutex::new(Some(opened))), since };
        if inner.slots.insert(nonce.into(), entry).is_none() {
            inner.order.push_back(nonce.into());
        }
    }

    /// Forgets the nonces whose time is over, and with them what they opened.
    pub(super) fn sweep(&self) {
        let mut inner = self.lock();
        let age = inner.age;
        inner.sweep(age);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is a single insert or remove, so a panic leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot of this nonce, for at most `age`; at most `count` are remembered.
    pub(super) fn slot(&self, nonce: &str, purpose: Purpose, age: Duration, count: usize) -> Result<Slot, NonceError> {
        let mut inner = self.lock();
        inner.age = age;
        inner.sweep(age);
        if let Some(entry) = inner.slots.get(nonce) {
            return if entry.purpose == purpose { Ok(Arc::clone(&entry.slot)) } else { Err(NonceError::Reused) };
        }
        if inner.slots.len() >= count {
            return Err(NonceError::Full);
        }
        let slot = Slot::default();
        let entry = Entry { purpose, slot: Arc::clone(&slot), since: Instant::now() };
        inner.slots.insert(nonce.into(), entry);
        inner.order.push_back(nonce.into());
        Ok(slot)
    }
}

impl Inner {
    fn sweep(&mut self, age: Duration) {
        while let Some(nonce) = self.order.front() {
            if self.slots.get(nonce).is_some_and(|entry| entry.since.elapsed() < age) {
                return;
            }
            self.slots.remove(nonce);
            self.order.pop_front();
        }
        if self.slots.is_empty() {
            (self.slots, self.order) = (HashMap::new(), VecDeque::new());
        }
    }
}
