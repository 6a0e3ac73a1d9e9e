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

use crate::config::Backend;
use crate::http::incoming::BoxError;
use crate::upstream::hyper_stream::Record;
use crate::upstream::io::Io;

/// The body of a request on its way to the backend.
pub(crate) type Outgoing = Either<Empty<Bytes>, UnsyncBoxBody<Bytes, BoxError>>;

/// Our end of a connection of hyper's.
pub(crate) struct Sender {
    pub(crate) requests: SendRequest<Outgoing>,
    /// What is under way on it.
    pub(crate) record: Record,
}

/// A connection on which nothing is under way.
pub(crate) struct Connection {
    pub(crate) carrier: Carrier,
    pub(crate) since: Instant,
}

/// Who has the stream.
pub(crate) enum Carrier {
    /// hyper had no part in it; owns no buffer.
    Bare(Io),
    /// hyper, once and for all.
    Hyper(Sender),
}

impl Connection {
    /// A new one.
    pub(crate) fn new(io: Io) -> Self {
        Self { carrier: Carrier::Bare(io), since: Instant::now() }
    }

    fn is_bare(&self) -> bool {
        matches!(self.carrier, Carrier::Bare(_))
    }

    /// Whether a request can be sent, as far as is known.
    fn is_ready(&self) -> bool {
        match &self.carrier {
            Carrier::Bare(io) => io.is_quiet(),
            Carrier::Hyper(sender) => sender.requests.is_ready(),
        }
    }

    /// Waits for the end of the exchange that is under way; whether a request can be sent then.
    pub(crate) async fn settle(&mut self) -> bool {
        match &mut self.carrier {
            Carrier::Bare(io) => io.is_quiet(),
            Carrier::Hyper(sender) => sender.requests.ready().await.is_ok(),
        }
    }
}

/// The idle connections of one backend; bounded in number and age.
pub(crate) struct Pool {
    idle: Mutex<Idle>,
    most: usize,
    /// How long a connection may lie idle.
    keep: Duration,
    /// How old it may become, so that a name that has moved is followed.
    max_age: Duration,
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
    pub(crate) fn new(backend: &Backend) -> Arc<Self> {
        let Backend { pool: most, idle: keep, max_age, .. } = *backend;
        Arc::new(Self { idle: Mutex::default(), most, keep, max_age })
    }

    /// A live connection, if there is one: a bare one rather than one of hyper's, or the other way round.
    pub(crate) fn take(&self, bare: bool) -> Option<Connection> {
        let connections = &mut self.lock().connections;
        while let Some(newest) = connections.len().checked_sub(1) {
            let wanted = connections.iter().rposition(|(_, connection)| connection.is_bare() == bare);
            let (since, connection) = connections.remove(wanted.unwrap_or(newest))?;
            if connection.is_ready() && since.elapsed() < self.keep && self.is_young(&connection) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps the connection once its exchange has ended: request and response are through and nobody closed it.
    pub(crate) fn give_back(self: &Arc<Self>, mut connection: Connection) {
        // A short answer came with its head: nothing is left to wait for.
        if connection.is_ready() {
            return self.keep(connection);
        }
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            if connection.settle().await
                && let Some(pool) = pool.upgrade()
            {
                pool.keep(connection);
            }
        });
    }

    /// How many live connections lie idle.
    pub(crate) fn idle(&self) -> usize {
        self.lock().connections.iter().filter(|(_, connection)| connection.is_ready()).count()
    }

    fn keep(self: &Arc<Self>, connection: Connection) {
        if self.most == 0 || self.keep.is_zero() || !self.is_young(&connection) {
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

    fn is_young(&self, connection: &Connection) -> bool {
        self.max_age.is_zero() || connection.since.elapsed() < self.max_age
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
