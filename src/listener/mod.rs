//! The doors: accepts connections, one task each, and hands their requests to a handler.
//!
//! Enters: listening sockets. Leaves: requests, each with its [`peer::ConnInfo`]. Must not touch: what is behind the handler.
//!
//! The order is accept, spawn, and only then TLS and HTTP: nothing that a client does, or omits, holds up the loop.

pub mod adopt;
mod client_certificates;
mod complaints;
mod conn;
mod context;
pub mod dialling;
mod extended_connect;
pub mod framing;
pub mod given;
pub mod guard;
mod h2_idle;
mod h2_preface;
mod h2_window;
pub mod handler;
mod header_deadline;
mod http1;
pub mod hyper_server;
pub mod idle;
mod memory;
pub mod peer;
pub mod proxy_protocol;
mod socket;
pub mod tls;
pub mod traffic;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use self::complaints::Complaints;
use self::conn::Layers;
use self::context::ConnContext;
pub use self::context::ListenerContext;
use self::given::ListenerRecord;
use self::guard::ConnPermits;
use self::handler::Handler;
use self::peer::{ConnInfo, PeerAddr};
use self::proxy_protocol::Introductions;
use self::socket::Socket;
use self::tls::TlsSource;
use self::traffic::Traffic;
use crate::lifecycle::sockets::BoundListener;
use crate::lifecycle::{Guard, Phase, What};
use crate::limits::Held;

/// How long accepting rests after an error that the next accept would meet again, such as too many open files.
const REST: Duration = Duration::from_millis(100);

/// Most idle connections that end at once to make room, arbitrary: to find them all are looked through.
const MOST_ENDED: usize = 64;

/// What is spoken on a listener before HTTP.
#[derive(Clone, Debug, Default)]
pub struct Spoken {
    /// Each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// TLS, behind that.
    pub tls: Option<Arc<TlsSource>>,
}

/// Serves the connections of one listener, until [`Phase::Draining`]; then the listener is closed. The connections live on
/// in their own tasks: idle ones end at once, busy ones with their exchange, all of them at [`Phase::Closing`]. When there
/// is no permit left, the connections that have been idle for longest end; until there is one, the next connection waits
/// accepted, and those behind it in the kernel's queue.
///
/// When the process hands over, the listening socket goes to the successor with those in its queue; `record` tells what it is.
/// Until then, `guard` counts it as alive.
pub async fn serve<H: Handler>(
    mut bound: BoundListener,
    record: ListenerRecord,
    spoken: Spoken,
    context: Arc<ListenerContext<H>>,
    guard: Guard,
) {
    let mut guard = Some(guard);
    if let Err(error) = socket::prepare(&bound, context.client.write) {
        tracing::warn!(%error, "a listener does not take its options: a client that vanishes may be noticed late");
    }
    let complaints = Complaints::default();
    let introductions = || Introductions::new(Arc::clone(&context.trusted), Arc::clone(&context.metrics));
    let layers = Layers {
        introductions: spoken.proxy_protocol.then(|| Arc::new(introductions())),
        tls: spoken.tls.map(|tls| (tls, Arc::clone(&context.metrics))),
    };
    loop {
        let guard = guard.take().unwrap_or_else(|| context.lifecycle.guard(What::Listener));
        accept_all(&bound, &layers, &context, &complaints).await;
        context.connections.wake_idle();
        match given::give_listener(bound, &record, &context.lifecycle) {
            // Too late: it is served again if the process stays.
            Some(kept) if !context.lifecycle.is_draining() => bound = kept,
            _ => return,
        }
        drop(guard);
        context.lifecycle.stayed().await;
    }
}

/// Accepts connections until the process hands over or drains.
async fn accept_all<H: Handler>(
    bound: &BoundListener,
    layers: &Layers,
    context: &Arc<ListenerContext<H>>,
    complaints: &Complaints,
) {
    let lifecycle = &context.lifecycle;
    loop {
        let (socket, peer, held) = tokio::select! {
            biased;
            () = lifecycle.leaving() => return,
            next = next(bound, context, complaints) => next,
        };
        let mut place = pin!(place(context, complaints));
        let permit = tokio::select! {
            biased;
            permit = place.as_mut() => permit,
            () = lifecycle.reached(Phase::Draining) => return,
            // What goes to the successor makes room here.
            () = lifecycle.let_go_of() => {
                context.connections.wake_idle();
                match timeout(REST, place).await {
                    Ok(permit) => permit,
                    Err(_) => return,
                }
            }
        };
        let (guard, counted) = (lifecycle.guard(What::Connection), context.metrics.connection());
        let traffic = Arc::<Traffic>::default();
        let place = Some(context.connections.enter(Arc::clone(&traffic), permit));
        let info = ConnInfo { peer, tls: layers.tls.is_some(), certificate: None, bytes: traffic };
        let shared = Arc::clone(context);
        conn::drive(ConnContext { shared, info }, socket, ConnPermits { place, held, guard, counted }, layers.clone());
    }
}

/// The next connection, whose client may have one more. Cancel-safe.
async fn next<H>(
    bound: &BoundListener,
    context: &ListenerContext<H>,
    complaints: &Complaints,
) -> (Socket, PeerAddr, Option<Held>) {
    loop {
        match socket::accept(bound).await {
            Ok((socket, peer)) => {
                // Counted and logged there. There is no answer: nothing was asked yet.
                let Ok(held) = context.limits.connection(peer.ip()) else { continue };
                return (socket, peer, held);
            }
            Err(error) if socket::is_harmless(&error) => {}
            Err(error) => {
                complain(complaints, &error);
                sleep(REST).await;
            }
        }
    }
}

/// A place for a connection. It comes last: an idle listener that kept one ready would keep it from the others, since the kernel
/// gives each its own share of the connections, and those of a full share would wait beside a free place.
async fn place<H>(context: &ListenerContext<H>, complaints: &Complaints) -> OwnedSemaphorePermit {
    match Arc::clone(context.connections.places()).try_acquire_owned() {
        Ok(permit) => permit,
        Err(_) => place_of_another(context, complaints).await,
    }
}

/// Waits for a place while there is none: those that have been idle for longest make room.
async fn place_of_another<H>(context: &ListenerContext<H>, complaints: &Complaints) -> OwnedSemaphorePermit {
    let most = context.client.connections;
    context.metrics.connections_full();
    let mut acquire = pin!(Arc::clone(context.connections.places()).acquire_owned());
    loop {
        let ended = context.connections.end_longest_idle((most / 256).clamp(1, MOST_ENDED));
        if let Some(swallowed) = complaints.due() {
            let what = "all connections are taken: idle ones end, others wait; `client.connections` may be too low";
            tracing::warn!(most, ended, swallowed, "{what}");
        }
        match timeout(REST, acquire.as_mut()).await {
            Ok(Ok(permit)) => return permit,
            // Nobody closes the semaphore; if somebody did, no connection is allowed.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => {}
        }
    }
}

/// Complains about failing accepts, but not a thousand times.
fn complain(complaints: &Complaints, error: &io::Error) {
    if let Some(swallowed) = complaints.due() {
        tracing::error!(%error, swallowed, "connections cannot be accepted; if too many files are open, raise LimitNOFILE");
    }
}
