//! Where clients connect, and what is spoken there: the run-time types.
//!
//! Enters and leaves: nothing; these are data. Must not touch: the file that they were read from, other rooms.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a listening socket comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and port; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A unix socket at this path, written `unix:/path`.
    Unix(PathBuf),
    /// A socket that systemd passes under this name (`FileDescriptorName=`), written `systemd:name`.
    Activated(String),
}

/// As it is written in the file.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Activated(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its address, or the name of a socket that is passed.
    pub address: Address,
    /// When it speaks TLS.
    pub tls: Option<ListenerTls>,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// At least one; the first whose names fit what the client asks for is shown, or the first of all.
    pub certificates: Vec<TlsFiles>,
    /// Whether clients are asked for certificates.
    pub clients: Option<ClientAuth>,
}

/// Certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// PEM file of the authorities that may have signed them.
    pub ca: PathBuf,
    /// Whether a client without one is refused.
    pub required: bool,
}

/// A certificate chain and its key, both PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}
