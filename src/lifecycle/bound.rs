//! One listening socket: bound, copied for another runtime, given to another process.
//!
//! Enters: an address, or a socket. Leaves: a [`BoundListener`], or an error that says what to do. Must not touch: what is
//! accepted from it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::{fs, net, os};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::config::Address;

/// How many connections the kernel queues while we are busy. It lowers this to `net.core.somaxconn` (4096 by default).
const BACKLOG: i32 = 4096;

/// The owner and the group of our unix socket may connect to it.
pub(super) const SOCKET_MODE: u32 = 0o660;
/// Only the owner may.
pub(super) const PRIVATE_MODE: u32 = 0o600;

/// A socket that listens.
#[derive(Debug)]
pub enum BoundListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Why a listening socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("cannot listen on {address}: it is in use; stop the other process or choose another address")]
    InUse { address: String },
    #[error(
        "cannot listen on {address}: permission denied; for ports below 1024 use a systemd socket unit \
         (`systemd:http`), for a unix socket a directory that this user may write"
    )]
    Permission { address: String },
    /// The address is not one of this machine.
    #[error("cannot listen on {address}: no interface of this machine has it; use 0.0.0.0 or [::] for all")]
    NotAvailable { address: String },
    /// There is a file at the path that we do not remove, because it is not a socket.
    #[error("cannot listen on unix:{}: a file that is not a socket is there; move it or choose another path", path.display())]
    NotASocket { path: PathBuf },
    /// systemd did not pass a socket under this name.
    #[error(
        "no socket named `{name}` was passed by systemd (passed: {}); set FileDescriptorName={name} in the socket unit \
         and start the service through it",
        list(passed)
    )]
    NotPassed {
        name: String,
        /// The names that were passed.
        passed: Vec<String>,
    },
    #[error("cannot listen on {address}: {source}")]
    Other { address: String, source: io::Error },
}

// === impl BoundListener ===

impl BoundListener {
    /// Where it listens; for port 0, with the port that the system chose.
    ///
    /// # Errors
    /// When the system cannot name it.
    pub fn local_addr(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix(listener) => {
                let path = listener.local_addr()?.as_pathname().map(Path::to_owned);
                Ok(Address::Unix(path.unwrap_or_default()))
            }
        }
    }

    /// One more listener at the same address, for another runtime. With `spread` the kernel distributes connections over
    /// both (SO_REUSEPORT), if the address can be bound a second time. Otherwise both accept from one queue. This is right
    /// for a socket that systemd keeps open: connections waiting in a queue of our own would be lost at a restart.
    ///
    /// # Errors
    /// When the system gives no further descriptor.
    pub fn another(&self, spread: bool) -> io::Result<SpareListener> {
        match self {
            Self::Tcp(listener) => {
                let copy = || listener.as_fd().try_clone_to_owned().map(net::TcpListener::from);
                let second = || listener.local_addr().and_then(|at| bind_again(listener, at)).or_else(|_| copy());
                if spread { second() } else { copy() }.map(SpareListener::Tcp)
            }
            Self::Unix(listener) => {
                let copy = listener.as_fd().try_clone_to_owned()?;
                Ok(SpareListener::Unix(os::unix::net::UnixListener::from(copy)))
            }
        }
    }

    /// The socket alone, for another process.
    ///
    /// # Errors
    /// When the runtime does not let it go.
    pub fn into_socket(self) -> io::Result<OwnedFd> {
        Ok(match self.into_spare()? {
            SpareListener::Tcp(listener) => listener.into(),
            SpareListener::Unix(listener) => listener.into(),
        })
    }

    /// The same listener, for another runtime.
    ///
    /// # Errors
    /// When this one does not let it go.
    pub fn into_spare(self) -> io::Result<SpareListener> {
        match self {
            Self::Tcp(listener) => listener.into_std().map(SpareListener::Tcp),
            Self::Unix(listener) => listener.into_std().map(SpareListener::Unix),
        }
    }

    /// A further descriptor of the same socket, for another process.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Self::Unix(listener) => listener.as_fd().try_clone_to_owned(),
        }
    }

    /// A listener over a socket that came from another process. Must be called on the runtime that is to serve it.
    ///
    /// # Errors
    /// When it does not listen, or the runtime cannot register it.
    pub fn of(socket: OwnedFd) -> io::Result<Self> {
        SpareListener::of(socket)?.adopt()
    }

    pub(super) fn tcp(listener: net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(Self::Tcp)
    }

    pub(super) fn unix(listener: os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(Self::Unix)
    }
}

/// A listener that no runtime drives yet.
#[derive(Debug)]
pub enum SpareListener {
    Tcp(net::TcpListener),
    Unix(os::unix::net::UnixListener),
}

impl SpareListener {
    /// A listener over a socket that came from another process.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn of(socket: OwnedFd) -> io::Result<Self> {
        let known = SockRef::from(&socket);
        if !known.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
        }
        Ok(match known.domain()? {
            Domain::UNIX => Self::Unix(socket.into()),
            _ => Self::Tcp(socket.into()),
        })
    }

    /// Registers it with the runtime on which this is called.
    ///
    /// # Errors
    /// When the runtime cannot register it.
    pub fn adopt(self) -> io::Result<BoundListener> {
        match self {
            Self::Tcp(listener) => BoundListener::tcp(listener),
            Self::Unix(listener) => BoundListener::unix(listener),
        }
    }
}

/// Binds the address of our own listener a second time. The listener was bound without SO_REUSEPORT, so that a second
/// process gets the error that the address is in use; SO_REUSEPORT is set only now.
fn bind_again(listener: &TcpListener, at: SocketAddr) -> io::Result<net::TcpListener> {
    SockRef::from(listener).set_reuse_port(true)?;
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

pub(super) fn bind_tcp(at: SocketAddr) -> io::Result<BoundListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    BoundListener::tcp(socket.into())
}

pub(super) fn bind_unix(path: &Path, mode: u32) -> Result<BoundListener, BindError> {
    let fail = |error| explain(format!("unix:{}", path.display()), error);
    let address = SockAddr::unix(path).map_err(fail)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(fail)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            socket.bind(&address).map_err(fail)?;
        }
        other => other.map_err(fail)?,
    }
    // Before `listen`, because until then nobody can connect, whatever permissions the umask gave.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(fail)?;
    socket.listen(BACKLOG).map_err(fail)?;
    BoundListener::unix(socket.into()).map_err(fail)
}

/// Removes the socket file of a process that has ended: a socket that refuses connections, and nothing else.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let address = format!("unix:{}", path.display());
    let kind = fs::symlink_metadata(path).map_err(|error| explain(address.clone(), error))?.file_type();
    if !kind.is_socket() {
        return Err(BindError::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| explain(address, error))
        }
        _ => Err(BindError::InUse { address }),
    }
}

pub(super) fn explain(address: String, source: io::Error) -> BindError {
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        io::ErrorKind::PermissionDenied => BindError::Permission { address },
        io::ErrorKind::AddrNotAvailable => BindError::NotAvailable { address },
        _ => BindError::Other { address, source },
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
