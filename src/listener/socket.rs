//! An accepted socket, TCP or unix, as one type.
//!
//! Enters: a [`BoundListener`]. Leaves: a [`Socket`] with our options set, and who is at its other end. Must not touch:
//! its bytes.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::peer::PeerAddr;
use crate::http::bare::{Bare, BareSocket, Stream};
use crate::lifecycle::sockets::BoundListener;

/// How long sent bytes may stay unacknowledged, and how long a peer may be silently gone.
const GONE: Duration = Duration::from_secs(30);

/// A client's socket.
#[derive(Debug)]
pub(super) enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

/// Sets what long-lived client connections need; on the listening socket, from which Linux hands it on to every accepted
/// one: no Nagle, and a peer that vanished without a word is noticed after half a minute, with bytes under way (user
/// timeout) or without (keep-alive). The kernel's user timeout also ends a connection whose window stays shut, so it
/// never undercuts `write`, our own limit on that.
///
/// # Errors
/// Those of setsockopt(2).
pub(super) fn prepare(listener: &BoundListener, write: Duration) -> io::Result<()> {
    let BoundListener::Tcp(listener) = listener else { return Ok(()) };
    set_options(&SockRef::from(listener), write)
}

/// The same for a socket that another process has accepted, which has it all already, but for a limit of another
/// configuration: the options are the socket's own, and come together.
fn prepare_again(socket: &SockRef<'_>, write: Duration) -> io::Result<()> {
    if socket.tcp_user_timeout()? == Some(write.max(GONE)) {
        return Ok(());
    }
    set_options(socket, write)
}

fn set_options(socket: &SockRef<'_>, write: Duration) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(write.max(GONE)))?;
    socket
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(GONE).with_interval(Duration::from_secs(10)).with_retries(3))
}

/// The next connection. Cancel-safe: none is lost.
///
/// # Errors
/// Those of accept(2); see [`is_harmless`].
pub(super) async fn accept(listener: &BoundListener) -> io::Result<(Socket, PeerAddr)> {
    match listener {
        BoundListener::Tcp(listener) => {
            let (stream, from) = listener.accept().await?;
            Ok((Socket::Tcp(stream), PeerAddr::Tcp(from)))
        }
        BoundListener::Unix(listener) => {
            let (stream, _) = listener.accept().await?;
            Ok((Socket::Unix(stream), PeerAddr::Unix))
        }
    }
}

/// A connection that another process has accepted. Must be called on a runtime.
///
/// # Errors
/// When the descriptor is no connected socket.
pub(super) fn adopt(socket: OwnedFd, write: Duration) -> io::Result<(Socket, PeerAddr)> {
    // Which also says what kind of socket it is.
    let peer = SockRef::from(&socket).peer_addr()?;
    Ok(match Stream::in_domain(peer.domain(), socket)? {
        Stream::Tcp(stream) => {
            let from = peer.as_socket().ok_or(io::ErrorKind::Unsupported)?;
            prepare_again(&SockRef::from(&stream), write)?;
            (Socket::Tcp(stream), PeerAddr::Tcp(from))
        }
        Stream::Unix(stream) => (Socket::Unix(stream), PeerAddr::Unix),
    })
}

/// True when only this one connection failed, so that the next can be accepted at once.
pub(super) fn is_harmless(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

// === impl Socket ===

impl Bare for Socket {
    fn is_bare(&self) -> bool {
        true
    }

    fn into_socket(self: Box<Self>) -> Option<BareSocket> {
        match *self {
            Self::Tcp(stream) => Box::new(stream).into_socket(),
            Self::Unix(stream) => Box::new(stream).into_socket(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_sockets_inherit_what_the_listener_was_given() {
        let bound = BoundListener::Tcp(tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free address"));
        prepare(&bound, Duration::from_secs(45)).expect("a listening socket");
        let BoundListener::Tcp(listener) = &bound else { unreachable!("it was made above") };
        let _client =
            TcpStream::connect(listener.local_addr().expect("a bound socket")).await.expect("somebody listens");
        let (Socket::Tcp(stream), _) = accept(&bound).await.expect("a connection") else {
            unreachable!("a TCP listener")
        };
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().expect("an open socket") && socket.keepalive().expect("an open socket"));
        assert_eq!(socket.tcp_user_timeout().expect("an open socket"), Some(Duration::from_secs(45)));
        assert_eq!(socket.tcp_keepalive_time().expect("an open socket"), GONE);
        assert_eq!(socket.tcp_keepalive_interval().expect("an open socket"), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_retries().expect("an open socket"), 3);
    }

    #[tokio::test]
    async fn adopted_sockets_have_the_options_of_this_process() {
        let limit = Duration::from_secs(60);
        for before in [None, Some(Duration::from_secs(45)), Some(limit)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free address");
            let at = listener.local_addr().expect("a bound socket");
            let bound = BoundListener::Tcp(listener);
            if let Some(before) = before {
                prepare(&bound, before).expect("a listening socket");
            }
            let client = TcpStream::connect(at).await.expect("somebody listens");
            let (accepted, _) = accept(&bound).await.expect("a connection");
            let given = Box::new(accepted).into_socket().expect("it is bare").socket;
            let (socket, peer) = adopt(given, limit).expect("it is connected");
            assert_eq!(peer, PeerAddr::Tcp(client.local_addr().expect("a connected socket")));
            let Socket::Tcp(stream) = socket else { panic!("it is one of TCP") };
            let socket = SockRef::from(&stream);
            assert_eq!(socket.tcp_user_timeout().expect("an open socket"), Some(limit), "{before:?}");
            assert_eq!(socket.tcp_keepalive_time().expect("an open socket"), GONE, "{before:?}");
            assert!(socket.tcp_nodelay().expect("an open socket"), "{before:?}");
        }
    }

    #[tokio::test]
    async fn a_unix_client_is_adopted_even_if_it_has_left() {
        let (near, far) = UnixStream::pair().expect("a pair");
        drop(far);
        let given = Box::new(near).into_socket().expect("it is bare").socket;
        let (socket, peer) = adopt(given, GONE).expect("it was connected");
        assert!(matches!((socket, peer), (Socket::Unix(_), PeerAddr::Unix)));
    }
}
