//! Tunnels for as long as they live: counted, asked to leave when the process stops, given when it hands over.
//!
//! Enters: a client's connection and a backend's behind a 101; a tunnel that was given. Leaves: their bytes on the other side; a
//! parcel. Must not touch: the bytes, handshakes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{Gateway, Live};
use crate::http::bare::Duplex;
use crate::lifecycle::drain::{leave_after, spread_for};
use crate::lifecycle::moving::Parcel;
use crate::lifecycle::{Lifecycle, Phase, What};
use crate::metrics::Counted;
use crate::terms::Direction;
use crate::transport::tunnel::given::NotThawed;
use crate::transport::tunnel::{Asked, Tunnel, TunnelLimits};
use crate::upstream::dial::{Io, Upgraded};

/// What the configuration says of a tunnel.
#[derive(Clone, Copy)]
pub(super) struct Options {
    limits: TunnelLimits,
    spread: Duration,
    /// Whether its bytes are frames of WebSocket.
    frames: bool,
}

/// A tunnel whose client's end may be anything.
type AnyTunnel = Tunnel<Box<dyn Duplex>, Io>;

impl Options {
    pub(super) fn of(live: &Live, frames: bool) -> Self {
        let client = &live.config.client;
        let idle = Some(client.tunnel_idle).filter(|idle| !idle.is_zero());
        let limits = TunnelLimits { idle, write: client.write };
        Self { limits, spread: live.config.drain.spread, frames }
    }
}

impl Gateway {
    /// Goes on with a tunnel that was given, as if nothing had happened; `adopt` makes a connection of the client's socket. Must be
    /// called on the runtime that is to carry it.
    ///
    /// # Errors
    /// [`NotThawed`]; both its connections are closed.
    pub fn thaw_tunnel(
        self: &Arc<Self>,
        parcel: Parcel,
        adopt: impl FnOnce(OwnedFd) -> io::Result<Box<dyn Duplex>>,
    ) -> Result<(), NotThawed> {
        let options = Options::of(&self.live.load(), true);
        let tunnel = Tunnel::thaw(parcel, adopt, options.limits)?;
        let counted = self.metrics.tunnel_again();
        tokio::spawn(run(Arc::clone(self), tunnel, counted, options.spread));
        Ok(())
    }
}

/// Carries a new tunnel to its end.
pub(super) async fn carry(gateway: Arc<Gateway>, client: Box<dyn Duplex>, upgraded: Upgraded, options: Options) {
    let Upgraded { io, unread, .. } = upgraded;
    let tunnel = Tunnel::new((client, &[]), (io, &unread), options.frames, options.limits);
    // The tunnel has a copy; this one may keep a larger block alive.
    drop(unread);
    let counted = gateway.metrics.tunnel();
    run(gateway, tunnel, counted, options.spread).await;
}

async fn run(gateway: Arc<Gateway>, mut tunnel: AnyTunnel, _counted: Counted, spread: Duration) {
    let _guard = gateway.lifecycle.guard(What::Tunnel);
    let key = gateway.tunnel_key();
    let mut was_asked = false;
    let spliced = loop {
        if let Some(spliced) = tunnel.run(asked(&gateway.lifecycle, was_asked, spread, key)).await {
            break spliced;
        }
        was_asked = true;
        if tunnel.can_be_given() {
            match give(&gateway.lifecycle, tunnel) {
                Some(kept) => tunnel = kept,
                None => return,
            }
        }
    };
    gateway.metrics.tunnelled(Direction::Up, spliced.up);
    gateway.metrics.tunnelled(Direction::Down, spliced.down);
    tracing::debug!(up = spliced.up, down = spliced.down, end = ?spliced.end, "tunnel ended");
}

/// Gives a tunnel to the successor; back, where nobody takes it (any more).
fn give(lifecycle: &Lifecycle, tunnel: AnyTunnel) -> Option<AnyTunnel> {
    lifecycle.give_made(tunnel, Tunnel::freeze).err()
}

/// What the process asks of a tunnel, when it does. A tunnel that `was_asked` to move and is still here is asked again only by
/// the next move.
async fn asked(lifecycle: &Lifecycle, was_asked: bool, spread: Duration, key: u64) -> Asked {
    if was_asked {
        lifecycle.stayed().await;
    }
    while !lifecycle.is_draining() {
        lifecycle.leaving().await;
        if lifecycle.is_moving() && !lifecycle.is_draining() {
            return Asked::Move;
        }
    }
    let alive = lifecycle.alive();
    let leave = leave_after(spread_for(spread, alive.sessions + alive.tunnels), key);
    tokio::select! {
        () = sleep(leave) => {}
        () = lifecycle.reached(Phase::Closing) => {}
    }
    Asked::Close
}
