//! Whether a session is live, ended, or unknown. If sessions are ever found on other nodes, it is decided here.
//!
//! Enters: new sessions, ends, presented tokens. Leaves: what is known of them. Must not touch: the state of a session.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::live_session::LiveSession;
use super::token::{Token, id_of};
use crate::session::Close;

/// What is known of a presented token.
pub enum Found {
    /// Its session is live.
    Here(Arc<LiveSession>),
    /// Its session has ended, and how.
    Ended(Close),
    /// It was never issued here, is forged, or is forgotten.
    Unknown,
}

/// All live sessions of this process by id, and how the ended ones ended.
#[derive(Default)]
pub(super) struct Directory {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    live: HashMap<Box<str>, Arc<LiveSession>>,
    ended: HashMap<Box<str>, Tombstone>,
    /// Ids of ended sessions, oldest first.
    order: VecDeque<Box<str>>,
}

struct Tombstone {
    token: Token,
    close: Close,
    since: Instant,
}

/// How long and how many ended sessions are remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) age: Duration,
    pub(super) count: usize,
}

impl Directory {
    pub(super) fn insert(&self, session: &Arc<LiveSession>) {
        self.lock().live.insert(session.id().into(), Arc::clone(session));
    }

    /// Compares the secret in constant time; an unknown id and a wrong secret give the same answer.
    pub(super) fn find(&self, presented: &str, memory: Memory) -> Found {
        let Some(id) = id_of(presented) else { return Found::Unknown };
        let inner = self.lock();
        if let Some(session) = inner.live.get(id) {
            return if session.token().is(presented) { Found::Here(Arc::clone(session)) } else { Found::Unknown };
        }
        match inner.ended.get(id) {
            Some(end) if end.token.is(presented) && end.since.elapsed() < memory.age => Found::Ended(end.close.clone()),
            _ => Found::Unknown,
        }
    }

    /// Removes a finished session and remembers how it ended.
    pub(super) fn retire(&self, session: &LiveSession, close: Close, memory: Memory) {
        let mut inner = self.lock();
        inner.live.remove(session.id());
        inner
            .ended
            .insert(session.id().into(), Tombstone { token: session.token().clone(), close, since: Instant::now() });
        inner.order.push_back(session.id().into());
        inner.sweep(memory);
    }

    pub(super) fn all(&self) -> Vec<Arc<LiveSession>> {
        self.lock().live.values().cloned().collect()
    }

    /// The session that holds most memory, more than `least`, and was not abandoned yet.
    pub(super) fn greediest(&self, least: usize) -> Option<Arc<LiveSession>> {
        let inner = self.lock();
        let held = |live: &&Arc<LiveSession>| live.account().held();
        let greedy = inner.live.values().filter(|live| live.is_abandonable() && held(live) > least);
        greedy.max_by_key(held).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is a single insert or remove, so a panic leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn sweep(&mut self, memory: Memory) {
        while let Some(id) = self.order.front() {
            let old = self.ended.get(id).is_none_or(|end| end.since.elapsed() >= memory.age);
            if !old && self.order.len() <= memory.count {
                return;
            }
            self.ended.remove(id);
            self.order.pop_front();
        }
    }
}
