//! Listening sockets, served by all workers.
//!
//! Enters: bound sockets, the gateway. Leaves: a thread for each further worker, and a task for each socket. Must not touch:
//! what a request is for, the admin listener.

use std::num::NonZero;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower::ServiceBuilder;

use super::{App, StartError};
use crate::budget::give_back;
use crate::config::Config;
use crate::gateway::layers::{WriteRefusals, catch_panic};
use crate::gateway::{Gateway, GatewayService, Router};
use crate::lifecycle::Phase;
use crate::lifecycle::drain::CLOSE_WAIT;
use crate::lifecycle::sockets::{BoundListener, SpareListener};
use crate::listener::given::ListenerRecord;
use crate::listener::handler::{Handler, Stack};
use crate::listener::idle::Connections;
use crate::listener::tls::LOOK_EVERY;
use crate::listener::{self, ListenerContext, Spoken};
use crate::metrics::Metrics;

impl App {
    /// Serves the listening sockets on this runtime and on those of the other workers.
    pub(super) fn serve(&self, listening: Vec<Listening>) -> Result<(), StartError> {
        let context = ListenerContext {
            handler: handler(&self.gateway, &self.metrics),
            client: Arc::new(self.config.client.clone()),
            trusted: Arc::clone(&self.trusted),
            connections: Arc::new(Connections::new(Arc::new(Semaphore::new(self.config.client.connections)))),
            budget: Arc::clone(&self.budget),
            limits: Arc::clone(&self.limits),
            lifecycle: self.lifecycle.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        for worker in 1..workers(&self.config) {
            let spare = |from: &Listening| {
                Ok((from.bound.another(from.record.spread)?, from.record.clone(), from.spoken.clone()))
            };
            let spares = listening.iter().map(spare).collect::<std::io::Result<Vec<_>>>()?;
            let context = context.clone();
            let thread = std::thread::Builder::new().name(format!("underpass-{worker}"));
            thread.spawn(move || work(&context, spares))?;
        }
        for tls in listening.iter().filter_map(|listening| listening.spoken.tls.clone()) {
            tokio::spawn(tls.watch(LOOK_EVERY));
        }
        for Listening { bound, record, spoken } in listening {
            tokio::spawn(listener::serve(bound, record, spoken, context.clone()));
        }
        Ok(())
    }
}

/// A listening socket, what it is in the configuration, and what is spoken on it.
pub(super) struct Listening {
    pub(super) bound: BoundListener,
    pub(super) record: ListenerRecord,
    pub(super) spoken: Spoken,
}

/// What every request passes, from the outside in. The listener has the router decide first, because what a request is for
/// also says how its connection waits.
fn handler(gateway: &Arc<Gateway>, metrics: &Arc<Metrics>) -> impl Handler {
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

/// The life of a further worker: a runtime of its own, so that a connection and what it waits for stay on one core. It ends
/// with the process's last phase.
fn work<H: Handler>(context: &ListenerContext<H>, spares: Vec<(SpareListener, ListenerRecord, Spoken)>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker has no runtime: its share is served by the others"),
    };
    runtime.block_on(async {
        tokio::spawn(give_back());
        for (spare, record, spoken) in spares {
            match spare.adopt() {
                Ok(bound) => drop(tokio::spawn(listener::serve(bound, record, spoken, context.clone()))),
                Err(error) => tracing::error!(%error, "a worker cannot listen: its share is served by the others"),
            }
        }
        context.lifecycle.reached(Phase::Closing).await;
        // What is ended now still says so to its peer. Twice the drain's own wait, so that what does not end is still
        // there to be named.
        let _ = timeout(CLOSE_WAIT * 2, context.lifecycle.emptied()).await;
    });
}

/// How many threads serve.
fn workers(config: &Config) -> usize {
    match config.workers {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        workers => workers,
    }
}
