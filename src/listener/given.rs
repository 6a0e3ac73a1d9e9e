//! What a listener gives to a successor, and lives on from what it was given: listening sockets, and connections between
//! two requests.
//!
//! Enters: those, as they are let go of; parcels. Leaves: parcels; connections that go on as if nothing had happened. Must not
//! touch: requests. What was read and not answered goes with the connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ListenerContext;
use super::context::ConnContext;
use super::guard::{ConnPermits, Guarded, Traffic};
use super::handler::Handler;
use super::http1::Http1;
use super::idle::Idleness;
use super::peer::{ConnInfo, PeerAddr};
use super::socket::{self, Socket};
use crate::http::bare::{Bare, BareSocket, Duplex};
use crate::http::replay::Replay;
use crate::lifecycle::moving::{Kind, Parcel, Unreadable};
use crate::lifecycle::sockets::BoundListener;
use crate::lifecycle::{Lifecycle, What};
use crate::limits::{Held, Limited};

/// Where a listening socket belongs in the configuration. The record of [`Kind::Listener`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerRecord {
    /// The address, as the configuration spells it. For port 0 the socket knows which one the system chose.
    pub address: String,
    /// Each worker has a socket of its own, with its own queue; otherwise all have the same.
    #[serde(default)]
    pub spread: bool,
}

/// The record of [`Kind::Connection`]. Whatever lies behind a connection that is not encrypted is known from its socket, but
/// for whom it was introduced as.
#[derive(Debug, Serialize, Deserialize)]
struct ConnectionRecord {
    /// Who is at its other end: an address and port, or `unix`.
    peer: String,
    /// What was read from it and not answered.
    #[serde(default)]
    ahead: Bytes,
}

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

// === what is given ===

/// Whether a connection would be given, once it is between two requests.
pub(super) fn may_be_given<H, IO: Bare>(context: &ConnContext<H>, io: &Replay<IO>) -> bool {
    io.is_bare() && !context.info.bytes.has_companion()
}

/// Gives a connection to the successor. Nothing is left of it: where nobody takes it (any more), it ends.
pub(super) fn give<H, IO: Bare>(context: &ConnContext<H>, io: Replay<IO>) {
    let peer = context.info.peer;
    let parcel = |io: Replay<IO>| {
        let BareSocket { socket, ahead } = Box::new(io).into_socket()?;
        let record = ConnectionRecord { peer: peer.to_string(), ahead };
        Some(Parcel::new(Kind::Connection, &record, vec![socket]))
    };
    if context.lifecycle.give_made(io, parcel).is_err() {
        tracing::debug!(%peer, "connection ended: it is too late for it to be handed over");
    }
}

/// Gives a listening socket to the successor. Gives it back where nobody takes it (any more).
pub(super) fn give_listener(
    bound: BoundListener,
    record: &ListenerRecord,
    lifecycle: &Lifecycle,
) -> Option<BoundListener> {
    let parcel = |bound: BoundListener| {
        let lost =
            |error: &io::Error| tracing::error!(%error, address = record.address, "a listener cannot be handed over");
        let socket = bound.into_socket().inspect_err(lost).ok()?;
        Some(Parcel::new(Kind::Listener, record, vec![socket]))
    };
    lifecycle.give_made(bound, parcel).err()
}

// === what was given ===

/// Goes on with a connection that was given, as if it had just answered a request. Must be called on the runtime that is to
/// serve it.
///
/// # Errors
/// [`NotAdopted`]; the connection is closed.
pub fn adopt<H: Handler>(mut parcel: Parcel, context: &ListenerContext<H>) -> Result<(), NotAdopted> {
    let record: ConnectionRecord = parcel.read()?;
    let peer = record.peer()?;
    let socket = parcel.descriptors.pop().ok_or(NotAdopted::NoSocket)?;
    let (socket, near) = socket::adopt(socket, context.client.write)?;
    let held = context.limits.connection(near.ip()).map_err(|Limited { .. }| NotAdopted::Limited)?;
    let Ok(permit) = Arc::clone(&context.connections).try_acquire_owned() else {
        context.metrics.connections_full();
        return Err(NotAdopted::Full);
    };
    let (permits, idleness) = permits(context, Some(permit), held);
    let info = ConnInfo { peer, tls: false, certificate: None, bytes: Arc::default() };
    let mut io = Replay::new(guarded(context, socket, Arc::clone(&info.bytes), permits));
    io.put_back(&record.ahead);
    tokio::spawn(Http1::again_on(context.conn(info, idleness), io));
    Ok(())
}

/// The client's end of something that is no HTTP any more. It goes on also where it finds no place: it had one.
///
/// # Errors
/// When its socket cannot be used.
pub fn adopt_upgraded<H>(socket: OwnedFd, context: &ListenerContext<H>) -> io::Result<Box<dyn Duplex>> {
    let (socket, near) = socket::adopt(socket, context.client.write)?;
    let held = context.limits.connection(near.ip()).unwrap_or_default();
    let permit = Arc::clone(&context.connections).try_acquire_owned().ok();
    let (permits, _) = permits(context, permit, held);
    Ok(Box::new(guarded(context, socket, Arc::default(), permits)))
}

fn permits<H>(
    context: &ListenerContext<H>,
    permit: Option<tokio::sync::OwnedSemaphorePermit>,
    held: Option<Held>,
) -> (ConnPermits, Arc<Idleness>) {
    let (place, idleness) = context.all.enter();
    let guard = context.lifecycle.guard(What::Connection);
    let counted = context.metrics.connection_again();
    (ConnPermits { permit, place, held, guard, counted }, idleness)
}

fn guarded<H>(
    context: &ListenerContext<H>,
    socket: Socket,
    traffic: Arc<Traffic>,
    permits: ConnPermits,
) -> Guarded<Socket> {
    Guarded::new(socket, context.client.write, traffic, Some(permits))
}

impl ConnectionRecord {
    fn peer(&self) -> Result<PeerAddr, NotAdopted> {
        match self.peer.as_str() {
            "unix" => Ok(PeerAddr::Unix),
            address => match address.parse::<SocketAddr>() {
                Ok(address) => Ok(PeerAddr::Tcp(address)),
                Err(_) => Err(NotAdopted::Peer(self.peer.clone())),
            },
        }
    }
}
