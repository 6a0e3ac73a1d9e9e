//! Connections that another process has accepted, or this one before a hand-over that failed: they live on here.
//!
//! Enters: what was given of them. Leaves: connections that go on as if nothing had happened. Must not touch: requests.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::context::{ConnContext, ListenerContext};
use super::given::ConnectionRecord;
use super::guard::{ConnPermits, Guarded};
use super::handler::Handler;
use super::http1::Http1;
use super::idle::Place;
use super::peer::ConnInfo;
use super::socket::{self, Socket};
use super::traffic::Traffic;
use crate::http::bare::Duplex;
use crate::http::replay::Replay;
use crate::http::write_response::ResponseWriter;
use crate::lifecycle::What;
use crate::lifecycle::moving::{Parcel, Unreadable};
use crate::limits::{Held, Limited};

/// Why a connection that was given does not go on.
#[derive(Debug, thiserror::Error)]
pub enum NotAdopted {
    #[error(transparent)]
    Record(#[from] Unreadable),
    #[error("a connection's record names its peer `{0}`, which is no address")]
    Peer(String),
    #[error("a connection came without its socket")]
    NoSocket,
    /// Most likely its client has left.
    #[error("a connection's socket cannot be used: {0}")]
    Socket(#[from] io::Error),
    /// Its client has as many as it may have here.
    #[error("a connection's client has as many connections as one may have: raise `limits.connections`")]
    Limited,
    /// There are as many as there may be here.
    #[error("there are as many connections as there may be: raise `client.connections`")]
    Full,
}

/// Goes on with a connection that was given: with the response that was being written, or else as if it had just answered a
/// request. Until `all_here`, when all sessions are, a response comes back that does not find its own.
/// Must be called on the runtime that is to serve it.
///
/// # Errors
/// [`NotAdopted`]; the connection is closed.
pub fn adopt<H: Handler>(
    mut parcel: Parcel,
    context: &Arc<ListenerContext<H>>,
    all_here: bool,
) -> Result<Option<Parcel>, NotAdopted> {
    let record: ConnectionRecord = parcel.read()?;
    let source = record.response.as_ref().and_then(|response| context.handler.go_on(&response.source));
    if record.response.is_some() && source.is_none() && !all_here {
        return Ok(Some(parcel));
    }
    let peer = record.peer().ok_or_else(|| NotAdopted::Peer(record.peer.clone()))?;
    let socket = parcel.descriptors.pop().ok_or(NotAdopted::NoSocket)?;
    let (socket, near) = socket::adopt(socket, context.client.write)?;
    let held = context.limits.connection(near.ip()).map_err(|Limited { .. }| NotAdopted::Limited)?;
    let Ok(permit) = Arc::clone(context.connections.places()).try_acquire_owned() else {
        context.metrics.connections_full();
        return Err(NotAdopted::Full);
    };
    let traffic = Arc::<Traffic>::default();
    let place = context.connections.enter(Arc::clone(&traffic), permit);
    let info = ConnInfo { peer, tls: false, certificate: None, bytes: Arc::clone(&traffic) };
    let mut io = Replay::new(guarded(context, socket, traffic, (Some(place), held)));
    io.put_back(&record.ahead);
    let again = ConnContext { shared: Arc::clone(context), info };
    match (record.response, source) {
        (None, _) => drop(tokio::spawn(Http1::again_on(again, io))),
        (Some(response), Some(source)) => {
            drop(tokio::spawn(Http1::writing(again, ResponseWriter::again(io, response, source))));
        }
        // As when a network cuts it: the client comes back.
        (Some(_), None) => tracing::debug!(%peer, "connection ended: what was written on it does not go on"),
    }
    Ok(None)
}

/// The client's end of something that is no HTTP any more. It goes on also where it finds no place: it had one.
///
/// # Errors
/// When its socket cannot be used.
pub fn adopt_upgraded<H>(socket: OwnedFd, context: &ListenerContext<H>) -> io::Result<Box<dyn Duplex>> {
    let (socket, near) = socket::adopt(socket, context.client.write)?;
    let held = context.limits.connection(near.ip()).unwrap_or_default();
    let traffic = Arc::<Traffic>::default();
    let permit = Arc::clone(context.connections.places()).try_acquire_owned().ok();
    let place = permit.map(|permit| context.connections.enter(Arc::clone(&traffic), permit));
    Ok(Box::new(guarded(context, socket, traffic, (place, held))))
}

fn guarded<H>(
    context: &ListenerContext<H>,
    socket: Socket,
    traffic: Arc<Traffic>,
    (place, held): (Option<Place>, Option<Held>),
) -> Guarded<Socket> {
    let guard = context.lifecycle.guard(What::Connection);
    let permits = ConnPermits { place, held, guard, counted: context.metrics.connection_again() };
    Guarded::new(socket, Arc::clone(&context.client), traffic, Some(permits))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::budget::Budget;
    use crate::config::{Client, Config};
    use crate::lifecycle::Lifecycle;
    use crate::limits::Limits;
    use crate::listener::idle::Connections;

    #[tokio::test]
    async fn what_is_upgraded_lives_on_without_a_place_and_gives_none_back() {
        let places = Arc::new(Semaphore::new(1));
        let context = ListenerContext {
            handler: (),
            client: Arc::new(Client::default()),
            trusted: Arc::default(),
            connections: Arc::new(Connections::new(Arc::clone(&places))),
            budget: Arc::new(Budget::of(None)),
            limits: Arc::new(Limits::new(&Config::default(), Arc::default())),
            lifecycle: Lifecycle::new(),
            metrics: Arc::default(),
        };
        let given = || {
            let (near, far) = UnixStream::pair().expect("a pair");
            let socket = near.into_std().expect("the runtime lets it go").into();
            (adopt_upgraded(socket, &context).expect("it is a socket"), far)
        };
        let both = [given(), given()];
        assert!(both.iter().all(|(near, _)| near.is_bare()));
        assert_eq!((context.lifecycle.alive().connections, places.available_permits()), (2, 0));
        drop(both);
        assert_eq!((context.lifecycle.alive().connections, places.available_permits()), (0, 1));
    }
}
