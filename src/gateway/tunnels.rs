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
use crate::lifecycle::{Guard, Lifecycle, Phase, What};
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
        let alive = (self.lifecycle.guard(What::Tunnel), self.metrics.tunnel_again());
        tokio::spawn(run(Arc::clone(self), tunnel, alive, options.spread));
        Ok(())
    }
}

/// Carries a new tunnel to its end.
pub(super) async fn carry(gateway: Arc<Gateway>, client: Box<dyn Duplex>, upgraded: Upgraded, options: Options) {
    let Upgraded { io, unread, .. } = upgraded;
    let tunnel = Tunnel::new((client, &[]), (io, &unread), options.frames, options.limits);
    // The tunnel has a copy; this one may keep a larger block alive.
    drop(unread);
    let alive = (gateway.lifecycle.guard(What::Tunnel), gateway.metrics.tunnel());
    run(gateway, tunnel, alive, options.spread).await;
}

/// Carries a tunnel until it ends or is given; it is `alive` for so long.
async fn run(gateway: Arc<Gateway>, mut tunnel: AnyTunnel, _alive: (Guard, Counted), spread: Duration) {
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
        if lifecycle.lets_go() && !lifecycle.is_draining() {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;
    use crate::budget::Budget;
    use crate::config::Config;
    use crate::http::bare::Stream;
    use crate::limits::Limits;
    use crate::metrics::Metrics;
    use crate::registry::Registry;
    use crate::upstream::own::OwnListeners;

    fn gateway() -> Arc<Gateway> {
        let (config, metrics, lifecycle) = (Arc::new(Config::default()), Arc::<Metrics>::default(), Lifecycle::new());
        let shared = (Arc::clone(&metrics), Arc::new(Budget::of(config.memory)));
        let registry = Registry::new(&config.node, &config.session, shared, lifecycle.clone());
        let limits = Arc::new(Limits::new(&config, Arc::clone(&metrics)));
        let gateway =
            Gateway::new(config, registry.into(), (metrics, limits), lifecycle, OwnListeners::new(Vec::new()));
        Arc::new(gateway.expect("a configuration without files"))
    }

    fn adopt(socket: OwnedFd) -> io::Result<Box<dyn Duplex>> {
        match Stream::of(socket)? {
            Stream::Tcp(stream) => Ok(Box::new(stream)),
            Stream::Unix(stream) => Ok(Box::new(stream)),
        }
    }

    /// A tunnel that `gateway` has been given, and its two peers.
    fn given(gateway: &Arc<Gateway>) -> [UnixStream; 2] {
        let ((near, client), (far, backend)) =
            (UnixStream::pair().expect("a pair"), UnixStream::pair().expect("a pair"));
        let limits = TunnelLimits { idle: None, write: Duration::from_secs(30) };
        let parcel = Tunnel::new((near, &[]), (Io::Unix(far), &[]), true, limits).freeze().expect("two sockets");
        gateway.thaw_tunnel(parcel, adopt).expect("a whole parcel");
        [client, backend]
    }

    async fn pass([client, backend]: &mut [UnixStream; 2], bytes: &'static [u8]) {
        client.write_all(bytes).await.expect("the tunnel is open");
        let mut got = vec![0; bytes.len()];
        backend.read_exact(&mut got).await.expect("the tunnel is open");
        assert_eq!(Bytes::from(got), bytes);
    }

    #[tokio::test]
    async fn a_tunnel_goes_from_one_gateway_to_another_and_is_counted_by_who_has_it() {
        let (here, there) = (gateway(), gateway());
        let mut peers = given(&here);
        pass(&mut peers, b"\x81\x85abcd").await;
        let mut parcels = here.lifecycle.begin_move();
        here.lifecycle.let_go();
        let parcel = parcels.recv().await.expect("it is given");
        here.lifecycle.emptied().await;
        there.thaw_tunnel(parcel, adopt).expect("a whole parcel");
        assert_eq!(there.lifecycle.alive().tunnels, 1);
        pass(&mut peers, b"hello").await;
        drop(peers);
        there.lifecycle.emptied().await;
    }

    #[tokio::test]
    async fn a_tunnel_that_is_too_late_lives_on_and_is_asked_by_the_next_move() {
        let gateway = gateway();
        let mut peers = given(&gateway);
        let mut parcels = gateway.lifecycle.begin_move();
        gateway.lifecycle.let_go();
        gateway.lifecycle.close_parcels();
        pass(&mut peers, b"\x81\x85abcdhello").await;
        assert!(parcels.recv().await.is_none());
        gateway.lifecycle.end_move();
        pass(&mut peers, b"\x81\x85abcdhello").await;
        let mut parcels = gateway.lifecycle.begin_move();
        gateway.lifecycle.let_go();
        gateway.thaw_tunnel(parcels.recv().await.expect("it is given"), adopt).expect("a whole parcel");
        // What has come back is given again at once, as long as the process is on the move.
        parcels.recv().await.expect("it is given");
    }

    #[tokio::test]
    async fn a_tunnel_that_is_still_here_when_the_process_drains_is_closed() {
        let gateway = gateway();
        let mut peers = given(&gateway);
        let _parcels = gateway.lifecycle.begin_move();
        gateway.lifecycle.let_go();
        gateway.lifecycle.close_parcels();
        pass(&mut peers, b"\x81\x80abcd").await;
        gateway.lifecycle.advance(Phase::Closing);
        let mut got = [0; 4];
        peers[0].read_exact(&mut got).await.expect("the tunnel is open");
        assert_eq!(got, [0x88, 17, 0x03, 0xF4], "a close frame with 1012");
    }
}
