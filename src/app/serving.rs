//! Listening sockets, served by all workers.
//!
//! Enters: bound sockets; connections that another process had. Leaves: a thread for each further worker, and a task for each
//! socket. Must not touch: what a request is for, the admin listener.

use std::io;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::timeout;
use tower::ServiceBuilder;

use super::{App, StartError};
use crate::budget::give_back;
use crate::config::Config;
use crate::gateway::layers::{WriteRefusals, catch_panic};
use crate::gateway::{Gateway, GatewayService, Router};
use crate::http::bare::Duplex;
use crate::lifecycle::drain::CLOSE_WAIT;
use crate::lifecycle::moving::Parcel;
use crate::lifecycle::sockets::{BoundListener, SpareListener};
use crate::lifecycle::{Guard, Lifecycle, Phase, What};
use crate::listener::adopt::{NotAdopted, adopt, adopt_upgraded};
use crate::listener::given::ListenerRecord;
use crate::listener::handler::{Handler, Stack};
use crate::listener::tls::LOOK_EVERY;
use crate::listener::{self, ListenerContext, Spoken};
use crate::metrics::Metrics;

/// Where connections are served, whatever handles their requests. To be called on the runtime that is to serve.
pub(super) trait Doors: Send + Sync {
    /// Serves a listening socket.
    fn serve(&self, bound: BoundListener, record: ListenerRecord, spoken: Spoken, guard: Guard);

    /// Goes on with a connection that another process had; see [`adopt`].
    ///
    /// # Errors
    /// [`NotAdopted`]; it is closed.
    fn adopt(&self, parcel: Parcel, all_here: bool) -> Result<Option<Parcel>, NotAdopted>;

    /// A client's connection behind a 101 that another process had.
    ///
    /// # Errors
    /// When it is no socket.
    fn adopt_upgraded(&self, socket: OwnedFd) -> io::Result<Box<dyn Duplex>>;
}

impl<H: Handler> Doors for Arc<ListenerContext<H>> {
    fn serve(&self, bound: BoundListener, record: ListenerRecord, spoken: Spoken, guard: Guard) {
        tokio::spawn(listener::serve(bound, record, spoken, Self::clone(self), guard));
    }

    fn adopt(&self, parcel: Parcel, all_here: bool) -> Result<Option<Parcel>, NotAdopted> {
        adopt(parcel, self, all_here)
    }

    fn adopt_upgraded(&self, socket: OwnedFd) -> io::Result<Box<dyn Duplex>> {
        adopt_upgraded(socket, self)
    }
}

/// The listening sockets of one address, what it is in the configuration, and what is spoken there.
pub(super) struct Listening {
    pub(super) bound: Vec<BoundListener>,
    pub(super) record: ListenerRecord,
    pub(super) spoken: Spoken,
}

impl App {
    /// Serves the listening sockets, each address by every worker.
    pub(super) fn serve(&self, listening: Vec<Listening>) -> Result<(), StartError> {
        for Listening { bound, record, spoken } in listening {
            if let Some(tls) = spoken.tls.clone() {
                tokio::spawn(tls.watch(LOOK_EVERY));
            }
            for (worker, spare) in share(bound, record.spread, self.workers.len())? {
                self.serve_by(worker, spare, record.clone(), spoken.clone());
            }
        }
        Ok(())
    }

    /// Has a worker serve a listening socket.
    pub(super) fn serve_by(&self, worker: usize, spare: SpareListener, record: ListenerRecord, spoken: Spoken) {
        // From now on: a hand-over may begin before the worker does.
        let (doors, guard) = (Arc::clone(&self.doors), self.lifecycle.guard(What::Listener));
        self.workers[worker % self.workers.len()].spawn(async move {
            match spare.adopt() {
                Ok(bound) => doors.serve(bound, record, spoken, guard),
                Err(error) => tracing::error!(%error, "a worker cannot listen: its share is served by the others"),
            }
        });
    }
}

/// Who of so many workers serves what. Sockets of one address that are `spread` are queues, of which each worker has one, or more
/// where there are more; otherwise each worker accepts from each socket.
fn share(bound: Vec<BoundListener>, spread: bool, workers: usize) -> io::Result<Vec<(usize, SpareListener)>> {
    let mut shares = Vec::new();
    for worker in 0..workers {
        let further = if spread { bound.get(..1).filter(|_| worker >= bound.len()) } else { Some(&bound[..]) };
        for one in further.unwrap_or_default() {
            // The last one gets the socket itself.
            if spread || worker + 1 < workers {
                shares.push((worker, one.another(spread)?));
            }
        }
    }
    for (index, bound) in bound.into_iter().enumerate() {
        shares.push((if spread { index } else { workers - 1 }, bound.into_spare()?));
    }
    Ok(shares)
}

/// What every request passes, from the outside in. The listener has the router decide first, because what a request is for
/// also says how its connection waits.
pub(super) fn handler(gateway: &Arc<Gateway>, metrics: &Arc<Metrics>) -> impl Handler {
    let (panics, refusals) = (Arc::clone(metrics), Arc::clone(metrics));
    let service = ServiceBuilder::new()
        // Outermost, so that a panic in any step below ends one request and not its connection.
        .map_future(move |response| catch_panic(response, Arc::clone(&panics)))
        // Above every step that refuses, so that each refusal is counted, logged and written in one place.
        .layer_fn(move |inner| WriteRefusals::new(inner, Arc::clone(&refusals)))
        // What limits or logs requests belongs here: behind the router, so that it knows who asks and for what, and
        // below the refusals, so that it can refuse.
        .service(GatewayService(Arc::clone(gateway)));
    Arc::new(Stack { router: Router(Arc::clone(gateway)), service })
}

/// Starts the further workers: a runtime each, so that a connection and what it waits for stay on one core. This runtime, then
/// theirs.
pub(super) fn start_workers(config: &Config, lifecycle: &Lifecycle) -> io::Result<Vec<Handle>> {
    let mut handles = vec![Handle::current()];
    for worker in 1..workers(config) {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        handles.push(runtime.handle().clone());
        let (thread, lifecycle) = (std::thread::Builder::new(), lifecycle.clone());
        thread.name(format!("underpass-{worker}")).spawn(move || work(&runtime, &lifecycle))?;
    }
    Ok(handles)
}

/// The life of a further worker. It ends with the process's last phase.
fn work(runtime: &Runtime, lifecycle: &Lifecycle) {
    runtime.block_on(async {
        tokio::spawn(give_back());
        lifecycle.reached(Phase::Closing).await;
        // What is ended now still says so to its peer. Twice the drain's own wait, so that what does not end is still
        // there to be named.
        let _ = timeout(CLOSE_WAIT * 2, lifecycle.emptied()).await;
    });
}

/// How many threads serve.
fn workers(config: &Config) -> usize {
    match config.workers {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        workers => workers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Address;
    use crate::lifecycle::sockets::Sockets;

    fn bound(count: usize) -> Vec<BoundListener> {
        let any = Address::Tcp(([127, 0, 0, 1], 0).into());
        (0..count).map(|_| Sockets::none().bind(&any).expect("a free address").remove(0)).collect()
    }

    #[tokio::test]
    async fn each_worker_has_a_queue_and_none_is_left_out() {
        for (sockets, spread, workers, expected) in [
            (1, true, 3, vec![0, 1, 2]),
            (2, true, 3, vec![0, 1, 2]),
            (3, true, 2, vec![0, 1, 2]),
            (2, false, 2, vec![0, 0, 1, 1]),
            (1, false, 1, vec![0]),
        ] {
            let shares = share(bound(sockets), spread, workers).expect("spare descriptors");
            let mut who: Vec<_> = shares.iter().map(|(worker, _)| *worker).collect();
            who.sort_unstable();
            assert_eq!(who, expected, "{sockets} sockets, {workers} workers");
        }
    }
}
