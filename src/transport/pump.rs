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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;
    use crate::lifecycle::Alive;
    use crate::upstream::frame::close_frame;

    const WRITE: Duration = Duration::from_secs(30);

    /// The session's end, and the backend's.
    fn pumped(standing: Standing, lifecycle: &Lifecycle) -> (UnixStream, DuplexStream) {
        let (near, backend) = duplex(1024);
        let session = pump(near, standing, lifecycle, WRITE).expect("a pair of sockets");
        (UnixStream::from_std(session.into()).expect("a socket of a runtime"), backend)
    }

    async fn read(stream: &mut (impl AsyncRead + Unpin), count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).await.expect("the pump runs");
        bytes
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_the_process_lives_for_them() {
        let lifecycle = Lifecycle::new();
        let (mut session, mut backend) = pumped(Standing::default(), &lifecycle);
        assert_eq!(lifecycle.alive(), Alive { tunnels: 1, ..Alive::default() });
        session.write_all(b"\x81\x80abcd").await.expect("the pump runs");
        assert_eq!(read(&mut backend, 6).await, b"\x81\x80abcd");
        backend.write_all(b"\x81\x01x").await.expect("the pump runs");
        assert_eq!(read(&mut session, 3).await, b"\x81\x01x");
        drop(session);
        assert_eq!(backend.read(&mut [0; 8]).await.ok(), Some(0));
        drop(backend);
        lifecycle.emptied().await;
    }

    #[tokio::test]
    async fn the_end_of_the_process_comes_between_two_frames_also_where_one_was_open() {
        let (lifecycle, mut standing) = (Lifecycle::new(), Standing::default());
        // Three bytes of a frame of five went to the session before, and half a header to the backend.
        standing.read.follow(b"\x81\x03a");
        standing.sent.follow(b"\x81\x81ab");
        let (mut session, mut backend) = pumped(standing, &lifecycle);
        lifecycle.advance(Phase::Draining);
        backend.write_all(b"bc").await.expect("the pump runs");
        session.write_all(b"cdx").await.expect("the pump runs");
        assert_eq!(
            read(&mut session, 2 + 19).await,
            [&b"bc"[..], &close_frame(1012, "service restart", None)].concat()
        );
        assert_eq!(read(&mut backend, 3).await, b"cdx");
        assert_eq!(read(&mut backend, 2).await, [0x88, 0x80 | 17]);
        drop((session, backend));
        lifecycle.emptied().await;
    }
}
