//! The doors: accepts connections, one task each, and hands their requests to a handler.
//!
//! Enters: listening sockets. Leaves: requests, each with its [`peer::ConnInfo`]. Must not touch: what is behind the handler.
//!
//! The order is accept, spawn, and only then TLS and HTTP: nothing that a client does, or omits, holds up the loop.

pub mod conn;
mod exchanges;
pub mod framing;
pub mod guard;
pub mod handler;
mod http1;
pub mod peer;
mod socket;
mod timer;
pub mod tls;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use self::conn::Shared;
use self::guard::Hold;
use self::handler::Handler;
use self::peer::PeerAddr;
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

/// Serves the connections of one listener with `handler`, until [`Phase::Draining`]; then the listener is closed. The
/// connections live on in their own tasks: idle ones end at once, busy ones with their exchange, all of them at
/// [`Phase::Closing`]. Each holds one of `permits`, which bounds the connections of all listeners that share them, and a
/// guard of `lifecycle`; without one, the next connection waits accepted, and those behind it in the kernel's queue.
pub async fn serve<H: Handler>(
    bound: BoundListener,
    tls: Option<Arc<TlsSource>>,
    handler: H,
    client: Arc<Client>,
    permits: Arc<Semaphore>,
    (lifecycle, metrics): (Lifecycle, Arc<Metrics>),
) {
    if let Err(error) = socket::prepare(&bound, client.write) {
        tracing::warn!(%error, "a listener does not take its options: a client that vanishes may be noticed late");
    }
    let shared = Shared { handler, tls, client, lifecycle: lifecycle.clone(), metrics };
    let mut complaints = Complaints::default();
    loop {
        let (socket, peer, hold) = tokio::select! {
            biased;
            () = lifecycle.reached(Phase::Draining) => return,
            next = next(&bound, &permits, &shared, &mut complaints) => next,
        };
        conn::drive(shared.clone(), socket, peer, hold);
    }
}

/// The next connection, once there is a place for it.
async fn next<H>(
    bound: &BoundListener,
    permits: &Arc<Semaphore>,
    shared: &Shared<H>,
    complaints: &mut Complaints,
) -> (Socket, PeerAddr, Hold) {
    loop {
        match socket::accept(bound).await {
            Ok((socket, peer)) => {
                // The place comes last. An idle listener that kept one ready would keep it from the others: the kernel
                // gives each its own share of the connections, and those of a full share would wait beside a free place.
                let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
                    // Nobody closes the semaphore; if somebody did, no connection is allowed.
                    return std::future::pending().await;
                };
                let guard = shared.lifecycle.guard(What::Connection);
                return (socket, peer, Hold { permit, guard, counted: shared.metrics.connection() });
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
