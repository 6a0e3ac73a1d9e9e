//! A backend's TLS connection whose session has gone to another process: this one keeps it, and carries its bytes.
//!
//! Enters: the connection, and where in its frames both directions stand. Leaves: a socket that stands for it, without the
//! encryption. Must not touch: payloads, the session.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use super::tunnel::{Asked, Tunnel, TunnelLimits};
use crate::http::bare::{Bare as _, BareSocket};
use crate::lifecycle::{Lifecycle, Phase, What};
use crate::upstream::wire::Standing;

/// Carries the bytes of `backend` to and from the socket that is returned, until either ends, or with "service restart" when
/// the process drains. Until then the process has a tunnel that it lives for. `write` is how long either may take nothing
/// while something waits for it. Must be called on the runtime that has `backend`.
///
/// # Errors
/// When the system has no pair of sockets; `backend` is closed then.
pub fn pump<B>(backend: B, standing: Standing, lifecycle: &Lifecycle, write: Duration) -> io::Result<OwnedFd>
where
    B: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (near, far) = UnixStream::pair()?;
    let Some(BareSocket { socket, .. }) = Box::new(far).into_socket() else {
        return Err(io::Error::other("a socket of our own cannot be taken from the runtime"));
    };
    let limits = TunnelLimits { idle: None, write };
    let mut tunnel = Tunnel::new((near, &[]), (backend, &[]), true, limits).standing(standing.sent, standing.read);
    let (guard, lifecycle) = (lifecycle.guard(What::Tunnel), lifecycle.clone());
    tokio::spawn(async move {
        let _guard = guard;
        let asked = async {
            lifecycle.reached(Phase::Draining).await;
            Asked::Close
        };
        let spliced = tunnel.run(asked).await;
        tracing::debug!(?spliced, "a session's connection ended that another process has");
    });
    Ok(socket)
}
