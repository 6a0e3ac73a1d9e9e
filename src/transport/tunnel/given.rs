//! A tunnel on its way to another process.
//!
//! Enters: a tunnel in the middle of its work; a parcel. Leaves: the parcel, with both sockets and all bytes that are in between;
//! a tunnel that goes on exactly there. Must not touch: limits, which are those of the process that has it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::lane::{Lane, LanePhase, LaneRecord};
use super::{Side, Tunnel, TunnelLimits};
use crate::http::bare::{Bare, BareSocket};
use crate::lifecycle::moving::{Kind, Parcel, Unreadable};
use crate::upstream::dial::Io;

/// The record of [`Kind::Tunnel`]; its sockets are the client's and the backend's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct TunnelRecord {
    up: LaneRecord,
    down: LaneRecord,
    /// Whether the bytes are frames of WebSocket.
    frames: bool,
    /// For how long nothing had moved, in milliseconds.
    #[serde(default)]
    idle_ms: u64,
}

/// Why a tunnel that was given does not go on.
#[derive(Debug, thiserror::Error)]
pub enum NotThawed {
    #[error(transparent)]
    Record(#[from] Unreadable),
    #[error("a tunnel came with {0} sockets instead of two")]
    Sockets(usize),
    /// Most likely one of the two has ended.
    #[error("a socket of a tunnel cannot be used: {0}")]
    Socket(#[from] io::Error),
}

impl<C: Bare, B: Bare> Tunnel<C, B> {
    /// Whether [`Tunnel::freeze`] gives it: both ends are bare sockets, and no end has begun.
    #[must_use]
    pub fn can_be_given(&self) -> bool {
        let flows = |lane: &Lane| lane.phase == LanePhase::Flow && lane.stop.is_none();
        self.closing.is_none()
            && [&self.up, &self.down].into_iter().all(flows)
            && self.client.is_bare()
            && self.backend.is_bare()
    }

    /// Puts it into a parcel. `None` when it cannot be given: then it has ended.
    #[must_use]
    pub fn freeze(self) -> Option<Parcel> {
        if !self.can_be_given() {
            return None;
        }
        // Only known where there is a limit.
        let idle = self.limits.idle.map_or(Duration::ZERO, |_| self.moved.elapsed());
        let client = Box::new(self.client).into_socket()?;
        let backend = Box::new(self.backend).into_socket()?;
        let lane = |lane: Lane, BareSocket { socket, ahead }| (lane.freeze(&ahead), socket);
        let ((up, client), (down, backend)) = (lane(self.up, client), lane(self.down, backend));
        let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        let record = TunnelRecord { up, down, frames: self.frames, idle_ms };
        Some(Parcel::new(Kind::Tunnel, &record, vec![client, backend]))
    }
}

impl<C> Tunnel<C, Io> {
    /// A tunnel that goes on where [`Tunnel::freeze`] stopped; `adopt` makes a connection of the client's socket. Must be called
    /// on the runtime that is to carry it.
    ///
    /// # Errors
    /// [`NotThawed`]; both connections are closed.
    pub fn thaw(
        parcel: Parcel,
        adopt: impl FnOnce(OwnedFd) -> io::Result<C>,
        limits: TunnelLimits,
    ) -> Result<Self, NotThawed> {
        let TunnelRecord { up, down, frames, idle_ms } = parcel.read()?;
        let count = parcel.descriptors.len();
        let Ok([client, backend]) = <[OwnedFd; 2]>::try_from(parcel.descriptors) else {
            return Err(NotThawed::Sockets(count));
        };
        let (client, backend) = (adopt(client)?, Io::from_descriptor(backend)?);
        let (up, down) = (Lane::thawed(Side::Client, up), Lane::thawed(Side::Backend, down));
        let now = Instant::now();
        let moved = now.checked_sub(Duration::from_millis(idle_ms)).unwrap_or(now);
        Ok(Self { up, down, client, backend, limits, frames, moved, closing: None, end: None })
    }
}
