//! The doors: accepts connections, one task each, and hands their requests to a handler.
//!
//! Enters: listening sockets. Leaves: requests, each with its [`peer::ConnInfo`]. Must not touch: what is behind the handler.
//!
//! The order is accept, spawn, and only then TLS and HTTP: nothing that a client does, or omits, holds up the loop.

mod conn;
mod context;
pub mod dialling;
pub mod framing;
pub mod guard;
mod h2_idle;
pub mod handler;
mod header_deadline;
mod http1;
pub mod hyper_server;
pub mod peer;
mod socket;
pub mod tls;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use self::context::ConnContext;
use self::dialling::DialQueue;
use self::guard::{ConnPermits, Traffic};
use self::handler::Handler;
use self::peer::{ConnInfo, PeerAddr};
use self::socket::Socket;
use self::tls::TlsSource;
use crate::config::Client;
use crate::lifecycle::sockets::BoundListener;
use crate::lifecycle::{Lifecycle, Phase, What};
use crate::metrics::Metrics;

/// How long accepting rests after an error that the next accept would meet again, such as too many open files.
const REST: Duration = Duration::from_millis(100);

/// At most one complaint about accepting in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// What all listeners share.
#[derive(Clone)]
pub struct ListenerContext<H> {
    /// Where requests go.
    pub handler: H,
    /// The bounds of a connection.
    pub client: Arc<Client>,
    /// Bounds the connections of all listeners together.
    pub connections: Arc<Semaphore>,
    /// Bounds the requests that dial a backend.
    pub dials: Arc<DialQueue>,
    /// When to stop.
    pub lifecycle: Lifecycle,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Serves the connections of one listener, until [`Phase::Draining`]; then the listener is closed. The connections live on
/// in their own tasks: idle ones end at once, busy ones with their exchange, all of them at [`Phase::Closing`]. When there
/// is no permit left, the next connection waits accepted, and those behind it in the kernel's queue.
pub async fn serve<H: Handler>(bound: BoundListener, tls: Option<Arc<TlsSource>>, context: ListenerContext<H>) {
    if let Err(error) = socket::prepare(&bound, context.client.write) {
        tracing::warn!(%error, "a listener does not take its options: a client that vanishes may be noticed late");
    }
    let mut complaints = Complaints::default();
    loop {
        let (socket, peer, permits) = tokio::select! {
            biased;
            () = context.lifecycle.reached(Phase::Draining) => return,
            next = next(&bound, &context, &mut complaints) => next,
        };
        let info = ConnInfo { peer, tls: tls.is_some(), bytes: Arc::new(Traffic::default()) };
        let tls = tls.clone().map(|tls| (tls, Arc::clone(&context.metrics)));
        conn::drive(context.conn(info), socket, permits, tls);
    }
}

impl<H: Handler> ListenerContext<H> {
    fn conn(&self, info: ConnInfo) -> ConnContext<H> {
        ConnContext {
            handler: self.handler.clone(),
            info,
            client: Arc::clone(&self.client),
            dials: Arc::clone(&self.dials),
            lifecycle: self.lifecycle.clone(),
        }
    }
}

/// The next connection, once there is a place for it.
async fn next<H>(
    bound: &BoundListener,
    context: &ListenerContext<H>,
    complaints: &mut Complaints,
) -> (Socket, PeerAddr, ConnPermits) {
    loop {
        match socket::accept(bound).await {
            Ok((socket, peer)) => {
                // The permit comes last. An idle listener that kept one ready would keep it from the others: the kernel
                // gives each its own share of the connections, and those of a full share would wait beside a free permit.
                let Ok(permit) = Arc::clone(&context.connections).acquire_owned().await else {
                    // Nobody closes the semaphore; if somebody did, no connection is allowed.
                    return std::future::pending().await;
                };
                let guard = context.lifecycle.guard(What::Connection);
                return (socket, peer, ConnPermits { permit, guard, counted: context.metrics.connection() });
            }
            Err(error) if socket::is_harmless(&error) => {}
            Err(error) => {
                complaints.say(&error);
                sleep(REST).await;
            }
        }
    }
}

/// Complains about failing accepts, but not a thousand times.
#[derive(Debug, Default)]
struct Complaints {
    last: Option<Instant>,
    swallowed: u64,
}

impl Complaints {
    fn say(&mut self, error: &io::Error) -> bool {
        if self.last.is_some_and(|last| last.elapsed() < COMPLAIN_EVERY) {
            self.swallowed += 1;
            return false;
        }
        let swallowed = std::mem::take(&mut self.swallowed);
        tracing::error!(%error, swallowed, "connections cannot be accepted; if too many files are open, raise LimitNOFILE");
        self.last = Some(Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn complaints_are_rare_and_count_what_they_swallow() {
        let error = io::Error::other("too many open files");
        let mut complaints = Complaints::default();
        assert!(complaints.say(&error));
        assert!(!complaints.say(&error));
        assert!(!complaints.say(&error));
        assert_eq!(complaints.swallowed, 2);
        sleep(COMPLAIN_EVERY).await;
        assert!(complaints.say(&error));
        assert_eq!(complaints.swallowed, 0);
    }
}
