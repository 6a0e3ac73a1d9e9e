//! Idle connections to one backend, kept for the next request.
//!
//! Enters: connections whose exchange has ended. Leaves: the one of the wanted kind that was used last, so that the others
//! can age. Must not touch:
//! requests, dialling.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Either, Empty};
use hyper::client::conn::http1::SendRequest;
use tokio::time::{Instant, sleep_until};

use crate::http::incoming::BoxError;
use crate::upstream::io::Io;

/// The body of a request on its way to the backend.
pub(crate) type Outgoing = Either<Empty<Bytes>, UnsyncBoxBody<Bytes, BoxError>>;
/// Our end of a connection of hyper's.
pub(crate) type Sender = SendRequest<Outgoing>;

/// A connection on which nothing is under way.
pub(crate) enum Connection {
    /// hyper had no part in it; owns no buffer.
    Bare(Io),
    /// hyper's, once and for all.
    Hyper(Sender),
}

impl Connection {
    fn is_bare(&self) -> bool {
        matches!(self, Self::Bare(_))
    }

    /// Whether a request can be sent, as far as is known.
    fn is_ready(&self) -> bool {
        match self {
            Self::Bare(io) => io.is_quiet(),
            Self::Hyper(sender) => sender.is_ready(),
        }
    }
}

/// The idle connections of one backend; bounded in number and age.
pub(crate) struct Pool {
    idle: Mutex<Idle>,
    most: usize,
    keep: Duration,
}

#[derive(Default)]
struct Idle {
    /// Oldest first.
    connections: VecDeque<(Instant, Connection)>,
    /// Whether a task watches their age.
    watched: bool,
}

impl Pool {
    /// An empty pool.
    pub(crate) fn new(most: usize, keep: Duration) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), most, keep })
    }

    /// A live connection, if there is one: a bare one rather than one of hyper's, or the other way round.
    pub(crate) fn take(&self, bare: bool) -> Option<Connection> {
        let connections = &mut self.lock().connections;
        while let Some(newest) = connections.len().checked_sub(1) {
            let wanted = connections.iter().rposition(|(_, connection)| connection.is_bare() == bare);
            let (since, connection) = connections.remove(wanted.unwrap_or(newest))?;
            if connection.is_ready() && since.elapsed() < self.keep {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps the connection of hyper's once its exchange has ended: request and response are through and nobody closed it.
    pub(crate) fn give_back(self: &Arc<Self>, mut sender: Sender) {
        // A short answer came with its head: nothing is left to wait for.
        if sender.is_ready() {
            return self.keep(Connection::Hyper(sender));
        }
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            if sender.ready().await.is_ok()
                && let Some(pool) = pool.upgrade()
            {
                pool.keep(Connection::Hyper(sender));
            }
        });
    }

    /// How many live connections lie idle.
    pub(crate) fn idle(&self) -> usize {
        self.lock().connections.iter().filter(|(_, connection)| connection.is_ready()).count()
    }

    /// Keeps a connection whose exchange has ended.
    pub(crate) fn keep(self: &Arc<Self>, connection: Connection) {
        if self.most == 0 || self.keep.is_zero() {
            return;
        }
        let mut idle = self.lock();
        if idle.connections.len() >= self.most {
            idle.connections.pop_front();
        }
        idle.connections.push_back((Instant::now(), connection));
        if !idle.watched {
            idle.watched = true;
            tokio::spawn(watch(Arc::downgrade(self)));
        }
    }

    /// Drops what is too old or closed; says when to look again, unless nothing is left.
    fn age(&self) -> Option<Instant> {
        let mut idle = self.lock();
        idle.connections.retain(|(since, connection)| since.elapsed() < self.keep && connection.is_ready());
        let next = idle.connections.front().map(|(since, _)| *since + self.keep);
        idle.watched = next.is_some();
        next
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        // Nothing under the lock can leave the queue half changed, so a panic elsewhere does not spoil it.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One task for the whole pool, alive only while something lies in it.
async fn watch(pool: Weak<Pool>) {
    while let Some(next) = pool.upgrade().and_then(|pool| pool.age()) {
        sleep_until(next).await;
    }
}
