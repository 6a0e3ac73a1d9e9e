//! One connection to a backend, whatever carries it.
//!
//! Enters and leaves: bytes. Must not touch: their meaning, deadlines.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use crate::http::bare::{Bare, BareSocket, Stream};

/// A connection to a backend. An enum and not a trait object, so that a tunnel can take the bare socket out again.
#[derive(Debug)]
pub enum Io {
    /// TCP, Nagle's algorithm off.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS over one of the others.
    Tls(Box<TlsStream<Self>>),
}

/// Calls the same method on whichever stream this is.
macro_rules! each {
    ($io:expr, $stream:ident => $call:expr) => {
        match $io {
            Io::Tcp($stream) => $call,
            Io::Unix($stream) => $call,
            Io::Tls($stream) => $call,
        }
    };
}

impl Io {
    /// Whether the socket can be given to another process: nothing lies over it.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        !matches!(self, Self::Tls(_))
    }

    /// The socket, which nobody polls any more.
    ///
    /// # Errors
    /// TLS, whose keys stay with it, and what the runtime reports.
    pub fn into_descriptor(self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(OwnedFd::from),
            Self::Unix(stream) => stream.into_std().map(OwnedFd::from),
            Self::Tls(_) => Err(io::Error::other("TLS cannot be given to another process")),
        }
    }

    /// The connection of a descriptor that another process had. Must be called on a runtime.
    ///
    /// # Errors
    /// When it is no connected stream socket.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        Ok(match Stream::of(descriptor)? {
            Stream::Tcp(stream) => Self::Tcp(stream),
            Stream::Unix(stream) => Self::Unix(stream),
        })
    }

    /// Whether nothing came behind the last answer, not even the end, as far as is known without asking the kernel. What
    /// comes under TLS need not be an answer, so that is not known there.
    pub(super) fn is_quiet(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(&mut cx).is_pending(),
            Self::Unix(stream) => stream.poll_read_ready(&mut cx).is_pending(),
            Self::Tls(_) => false,
        }
    }
}

impl Bare for Io {
    fn is_bare(&self) -> bool {
        self.is_bare()
    }

    fn into_socket(self: Box<Self>) -> Option<BareSocket> {
        self.into_descriptor().ok().map(BareSocket::new)
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, stream => Pin::new(stream).poll_read(cx, into))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(&mut *self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut *self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
