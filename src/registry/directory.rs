//! Whether a session is live, ended, or unknown. If sessions are ever found on other nodes, it is decided here.
//!
//! Enters: new sessions, ends, presented tokens. Leaves: what is known of them. Must not touch: the state of a session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::ended::EndedSessions;
pub(super) use super::ended::Memory;
use super::live_session::LiveSession;
use super::record::EndedRecord;
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
    /// It may be on its way from another process: then it is here in a moment.
    Awaited,
    /// It is not here any more, if it ever was: all sessions have moved to the process that takes this one's place.
    Moved,
}

/// All live sessions of this process by id, and how the ended ones ended.
pub(super) struct Directory {
    /// The first part of every token here, and of those that came from processes before this one.
    nodes: Mutex<Vec<Box<str>>>,
    memory: Memory,
    epoch: Instant,
    inner: Mutex<Inner>,
    /// Sessions have come that were awaited.
    arrivals: Notify,
}

/// Whether sessions may be added, and what it means that one is not found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Gate {
    #[default]
    Open,
    /// They move to another process: none is opened, and what is not found has moved.
    Closed,
    /// They come from another process: none is opened, and what is not found may still come.
    Awaiting,
}

#[derive(Default)]
struct Inner {
    live: HashMap<Box<str>, Arc<LiveSession>>,
    ended: EndedSessions,
    gate: Gate,
}

impl Directory {
    /// An empty one of this node, which remembers so much of ended sessions.
    pub(super) fn new(node: &str, memory: Memory) -> Self {
        Self {
            nodes: Mutex::new(vec![node.into()]),
            memory,
            epoch: Instant::now(),
            inner: Mutex::default(),
            arrivals: Notify::new(),
        }
    }

    /// Adds a new session. False when none may be added any more.
    pub(super) fn insert(&self, session: &Arc<LiveSession>) -> bool {
        let mut inner = self.lock();
        let is_open = inner.gate == Gate::Open;
        if is_open {
            inner.live.insert(session.id().into(), Arc::clone(session));
        }
        is_open
    }

    /// Adds a session that was handed over, or comes back: those have their place already.
    pub(super) fn restore(&self, session: &Arc<LiveSession>) {
        self.lock().live.insert(session.id().into(), Arc::clone(session));
    }

    /// Adds no more new sessions; those that are there.
    pub(super) fn close(&self) -> Vec<Arc<LiveSession>> {
        let mut inner = self.lock();
        inner.gate = Gate::Closed;
        inner.live.values().cloned().collect()
    }

    /// Adds sessions again.
    pub(super) fn open(&self) {
        self.lock().gate = Gate::Open;
    }

    /// Adds no new sessions until those are here that come from another process.
    pub(super) fn await_sessions(&self) {
        self.lock().gate = Gate::Awaiting;
    }

    pub(super) fn awaits(&self) -> bool {
        self.lock().gate == Gate::Awaiting
    }

    pub(super) fn arrivals(&self) -> &Notify {
        &self.arrivals
    }

    /// Removes a session that has moved.
    pub(super) fn remove(&self, session: &LiveSession) {
        self.lock().live.remove(session.id());
    }

    /// The live session of this public name.
    pub(super) fn live(&self, id: &str) -> Option<Arc<LiveSession>> {
        self.lock().live.get(id).cloned()
    }

    /// Tokens that begin with the name of this node are ours, too.
    pub(super) fn call(&self, node: &str) {
        let mut nodes = self.nodes();
        if !nodes.iter().any(|known| **known == *node) {
            nodes.push(node.into());
        }
    }

    /// The names of this node, the present one first.
    pub(super) fn names(&self) -> Vec<String> {
        self.nodes().iter().map(|node| node.to_string()).collect()
    }

    /// The ended sessions that are remembered, the oldest first.
    pub(super) fn ended(&self) -> Vec<EndedRecord> {
        let name = self.names().swap_remove(0);
        self.lock().ended.records(&name, self.epoch.elapsed(), self.memory)
    }

    /// Remembers a session that ended in another process, unless it is remembered.
    pub(super) fn remember(&self, ended: EndedRecord) {
        let now = self.epoch.elapsed();
        self.lock().ended.recall(&ended.token, ended.close, now, ended.age, self.memory);
    }

    /// Compares the secret in constant time; an unknown id and a wrong secret give the same answer.
    pub(super) fn find(&self, presented: &str) -> Found {
        let Some(id) = id_of(presented) else { return Found::Unknown };
        let inner = self.lock();
        if let Some(session) = inner.live.get(id) {
            return if session.token().is(presented) { Found::Here(Arc::clone(session)) } else { Found::Unknown };
        }
        match inner.ended.find(presented, self.epoch.elapsed(), self.memory) {
            Some(close) if self.is_ours(presented) => Found::Ended(close),
            _ => match inner.gate {
                Gate::Open => Found::Unknown,
                Gate::Closed => Found::Moved,
                Gate::Awaiting => Found::Awaited,
            },
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

    fn is_ours(&self, presented: &str) -> bool {
        let begins = |node: &str| presented.strip_prefix(node).is_some_and(|rest| rest.starts_with('-'));
        self.nodes().iter().any(|node| begins(node))
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Box<str>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is a single insert or remove, so a panic leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
