//! Whether a session is live, ended, or unknown. If sessions are ever found on other nodes, it is decided here.
//!
//! Enters: new sessions, ends, presented tokens. Leaves: what is known of them. Must not touch: the state of a session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::ended::EndedSessions;
pub(super) use super::ended::Memory;
use super::live_session::LiveSession;
use super::token::id_of;
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
pub(super) struct Directory {
    /// The first part of every token here.
    node: Box<str>,
    memory: Memory,
    epoch: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    live: HashMap<Box<str>, Arc<LiveSession>>,
    ended: EndedSessions,
}

impl Directory {
    /// An empty one of this node, which remembers so much of ended sessions.
    pub(super) fn new(node: &str, memory: Memory) -> Self {
        Self { node: node.into(), memory, epoch: Instant::now(), inner: Mutex::default() }
    }

    pub(super) fn insert(&self, session: &Arc<LiveSession>) {
        self.lock().live.insert(session.id().into(), Arc::clone(session));
    }

    /// Compares the secret in constant time; an unknown id and a wrong secret give the same answer.
    pub(super) fn find(&self, presented: &str) -> Found {
        let Some(id) = id_of(presented) else { return Found::Unknown };
        let inner = self.lock();
        if let Some(session) = inner.live.get(id) {
            return if session.token().is(presented) { Found::Here(Arc::clone(session)) } else { Found::Unknown };
        }
        let ours = presented.strip_prefix(&*self.node).is_some_and(|rest| rest.starts_with('-'));
        match inner.ended.find(presented, self.epoch.elapsed(), self.memory) {
            Some(close) if ours => Found::Ended(close),
            _ => Found::Unknown,
        }
    }

    /// Removes a finished session and remembers how it ended.
    pub(super) fn retire(&self, session: &LiveSession, close: Close) {
        let mut inner = self.lock();
        inner.live.remove(session.id());
        inner.ended.remember(session.token().as_str(), close, self.epoch.elapsed(), self.memory);
    }

    /// Forgets ended sessions whose time is over.
    pub(super) fn sweep(&self) {
        self.lock().ended.sweep(self.epoch.elapsed(), self.memory);
    }

    /// How many ended sessions are remembered, and may be.
    pub(super) fn remembered(&self) -> (usize, usize) {
        (self.lock().ended.count(), self.memory.count)
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
