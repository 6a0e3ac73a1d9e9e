//! A connection's own socket, so that it can go on in another process.
//!
//! Enters: a connection of any kind, or the descriptor of one. Leaves: its socket with what was read ahead of it, if nothing
//! lies over it that cannot go with it; or a stream over that socket. Must not touch: what the bytes mean.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use socket2::{Domain, SockRef};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server;

/// A connection of any kind.
pub trait Duplex: AsyncRead + AsyncWrite + Bare + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Bare + Send + Unpin> Duplex for T {}

/// A connection that may be no more than a socket. What is encrypted or multiplexed is more: the state of that cannot be taken out.
pub trait Bare {
    /// Whether [`Bare::into_socket`] gives the socket.
    fn is_bare(&self) -> bool {
        false
    }

    /// The socket below. `None` when there is none, or the runtime does not let it go: then the connection has ended.
    fn into_socket(self: Box<Self>) -> Option<BareSocket> {
        None
    }
}

/// A socket, and what was read from it already.
#[derive(Debug)]
pub struct BareSocket {
    pub socket: OwnedFd,
    pub ahead: Bytes,
}

/// A stream over a socket that came from another process.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl BareSocket {
    /// Nothing was read from it.
    pub fn new(socket: impl Into<OwnedFd>) -> Self {
        Self { socket: socket.into(), ahead: Bytes::new() }
    }

    /// The same where `ahead` was read before.
    #[must_use]
    pub fn behind(self, ahead: Bytes) -> Self {
        let ahead = match (ahead.is_empty(), self.ahead.is_empty()) {
            (_, true) => ahead,
            (true, _) => self.ahead,
            (false, false) => [ahead, self.ahead].concat().into(),
        };
        Self { ahead, ..self }
    }
}

impl Stream {
    /// Makes a stream of a connected socket, which must not block: none does that a runtime had, in whatever process. Must be
    /// called on a runtime.
    ///
    /// # Errors
    /// When the descriptor is no socket of TCP or unix, or the runtime cannot register it.
    pub fn of(socket: OwnedFd) -> io::Result<Self> {
        let domain = SockRef::from(&socket).domain()?;
        Self::in_domain(domain, socket)
    }

    /// The same of a socket whose domain is known.
    ///
    /// # Errors
    /// Those of [`Stream::of`].
    pub fn in_domain(domain: Domain, socket: OwnedFd) -> io::Result<Self> {
        match domain {
            Domain::IPV4 | Domain::IPV6 => TcpStream::from_std(socket.into()).map(Self::Tcp),
            Domain::UNIX => UnixStream::from_std(socket.into()).map(Self::Unix),
            other => Err(io::Error::new(io::ErrorKind::Unsupported, format!("a socket of another kind: {other:?}"))),
        }
    }
}

impl Bare for TcpStream {
    fn is_bare(&self) -> bool {
        true
    }

    fn into_socket(self: Box<Self>) -> Option<BareSocket> {
        self.into_std().ok().map(BareSocket::new)
    }
}

impl Bare for UnixStream {
    fn is_bare(&self) -> bool {
        true
    }

    fn into_socket(self: Box<Self>) -> Option<BareSocket> {
        self.into_std().ok().map(BareSocket::new)
    }
}

impl<T: Bare + ?Sized> Bare for Box<T> {
    fn is_bare(&self) -> bool {
        (**self).is_bare()
    }

    fn into_socket(self: Box<Self>) -> Option<BareSocket> {
        (*self).into_socket()
    }
}

/// Encrypted.
impl<IO> Bare for server::TlsStream<IO> {}

/// A stream of HTTP/2.
impl Bare for TokioIo<Upgraded> {}

/// In memory.
impl Bare for DuplexStream {}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::http::replay::Replay;

    #[tokio::test]
    async fn a_socket_goes_on_with_what_was_read_ahead_of_it() {
        let (near, mut far) = UnixStream::pair().expect("a pair");
        let mut near = Replay::new(near);
        near.put_back(b"read ");
        let near: Box<dyn Duplex> = Box::new(near);
        assert!(near.is_bare());
        let BareSocket { socket, ahead } = near.into_socket().expect("it is bare");
        assert_eq!(ahead, "read ");
        far.write_all(b"unread").await.expect("the socket is open");
        let Ok(Stream::Unix(mut again)) = Stream::of(socket) else { panic!("it is a unix socket") };
        let mut rest = [0; 6];
        again.read_exact(&mut rest).await.expect("the socket is open");
        assert_eq!(&rest, b"unread");
    }

    #[tokio::test]
    async fn what_is_no_socket_gives_none_and_is_none() {
        let near: Box<dyn Duplex> = Box::new(Replay::new(duplex(8).0));
        assert!(!near.is_bare() && near.into_socket().is_none());
        let file = File::open("/dev/null").expect("every system has it");
        assert!(Stream::of(file.into()).is_err());
    }
}
