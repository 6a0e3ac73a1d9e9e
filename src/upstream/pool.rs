//! Idle connections to one backend, kept for the next request.
//!
//! Enters: connections whose exchange has ended. Leaves: the one used last, so that the others can age. Must not touch:
//! requests, dialling.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Either, Empty};
use hyper::client::conn::http1::SendRequest;
use tokio::time::{Instant, sleep_until};

/// Any error of a body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of a request on its way to the backend.
pub(crate) type Outgoing = Either<Empty<Bytes>, UnsyncBoxBody<Bytes, BoxError>>;
/// The near end of a connection.
pub(crate) type Sender = SendRequest<Outgoing>;

/// The idle connections of one backend; bounded in number and age.
pub(crate) struct Pool {
    idle: Mutex<Idle>,
    most: usize,
    keep: Duration,
}

#[derive(Default)]
struct Idle {
    /// Oldest first.
    senders: VecDeque<(Instant, Sender)>,
    /// Whether a task watches their age.
    watched: bool,
}

impl Pool {
    /// An empty pool.
    pub(crate) fn new(most: usize, keep: Duration) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), most, keep })
    }

    /// A live connection, if there is one.
    pub(crate) fn take(&self) -> Option<Sender> {
        let mut idle = self.lock();
        while let Some((since, sender)) = idle.senders.pop_back() {
            if sender.is_ready() && since.elapsed() < self.keep {
                return Some(sender);
            }
        }
        None
    }

    /// Keeps the connection once its exchange has ended: request and response are through and nobody closed it.
    pub(crate) fn give_back(self: &Arc<Self>, mut sender: Sender) {
        // A short answer came with its head: nothing is left to wait for.
        if sender.is_ready() {
            return self.keep(sender);
        }
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            if sender.ready().await.is_ok()
                && let Some(pool) = pool.upgrade()
            {
                pool.keep(sender);
            }
        });
    }

    /// How many live connections lie idle.
    pub(crate) fn idle(&self) -> usize {
        self.lock().senders.iter().filter(|(_, sender)| sender.is_ready()).count()
    }

    fn keep(self: &Arc<Self>, sender: Sender) {
        if self.most == 0 || self.keep.is_zero() {
            return;
        }
        let mut idle = self.lock();
        if idle.senders.len() >= self.most {
            idle.senders.pop_front();
        }
        idle.senders.push_back((Instant::now(), sender));
        if !idle.watched {
            idle.watched = true;
            tokio::spawn(watch(Arc::downgrade(self)));
        }
    }

    /// Drops what is too old or closed; says when to look again, unless nothing is left.
    fn age(&self) -> Option<Instant> {
        let mut idle = self.lock();
        idle.senders.retain(|(since, sender)| since.elapsed() < self.keep && !sender.is_closed());
        let next = idle.senders.front().map(|(since, _)| *since + self.keep);
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
