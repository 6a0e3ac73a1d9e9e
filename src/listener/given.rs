//! What a listener gives to a successor: listening sockets, and connections between two requests.
//!
//! Enters: those, as they are let go of. Leaves: parcels. Must not touch: requests; what was read and not answered goes with
//! the connection.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::context::ConnContext;
use super::peer::PeerAddr;
use crate::http::bare::{Bare, BareSocket};
use crate::http::replay::Replay;
use crate::http::write_response::{ResponseRecord, ResponseWriter};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::moving::{Kind, Parcel};
use crate::lifecycle::sockets::BoundListener;

/// Where a listening socket belongs in the configuration. The record of [`Kind::Listener`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerRecord {
    /// The address, as the configuration spells it; behind `admin ` for the operators' listener. For port 0 the socket knows which
    /// one the system chose.
    pub address: String,
    /// Each worker has a socket of its own, with its own queue; otherwise all have the same.
    #[serde(default)]
    pub spread: bool,
}

/// The record of [`Kind::Connection`]. Whatever lies behind a connection that is not encrypted is known from its socket, but
/// for whom it was introduced as.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ConnectionRecord {
    /// Who is at its other end: an address and port, or `unix`.
    pub(super) peer: String,
    /// What was read from it and not answered.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub(super) ahead: Bytes,
    /// The response that is being written, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) response: Option<ResponseRecord>,
}

/// Whether a connection can be given, where it stands so that the successor can go on.
pub(super) fn may_be_given<H, IO: Bare>(context: &ConnContext<H>, io: &Replay<IO>) -> bool {
    io.is_bare() && !context.info.bytes.is_bound()
}

/// Whether another request may follow on a connection, here or, if the connection may be given, at the successor.
pub(super) fn goes_on(lifecycle: &Lifecycle, may_be_given: bool) -> bool {
    !lifecycle.is_leaving() || may_be_given && !lifecycle.is_draining() && lifecycle.takes_parcels()
}

/// Gives a connection to the successor. Nothing is left of it: where nobody takes it (any more), it ends.
pub(super) fn give<H, IO: Bare>(context: &ConnContext<H>, io: Replay<IO>, response: Option<ResponseRecord>) {
    let peer = context.info.peer;
    let parcel = |io: Replay<IO>| {
        let BareSocket { socket, ahead } = Box::new(io).into_socket()?;
        let record = ConnectionRecord { peer: peer.to_string(), ahead, response };
        Some(Parcel::new(Kind::Connection, &record, vec![socket]))
    };
    if context.shared.lifecycle.give_made(io, parcel).is_err() {
        tracing::debug!(%peer, "connection ended: it is too late for it to be handed over");
    }
}

/// Gives a connection with the response that is being written on it, which the successor goes on with: its client notices nothing.
/// False when it has to end here; nothing has happened then.
pub(super) fn give_response<H, IO: Bare>(context: &ConnContext<H>, writer: &mut ResponseWriter<IO>) -> bool {
    let can_go = writer.io().is_some_and(|io| may_be_given(context, io));
    if !can_go || !context.shared.lifecycle.takes_parcels() {
        return false;
    }
    let Some((io, response)) = writer.take_apart() else { return false };
    give(context, io, Some(response));
    true
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

impl ConnectionRecord {
    /// Who is at its other end; `None` when that is no address.
    pub(super) fn peer(&self) -> Option<PeerAddr> {
        if self.peer == "unix" {
            return Some(PeerAddr::Unix);
        }
        self.peer.parse::<SocketAddr>().ok().map(PeerAddr::Tcp)
    }
}
