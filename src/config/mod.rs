//! What the operator said, checked: the run-time [`Config`].
//!
//! Enters: a TOML file or command-line flags (`reader` walks the tables, `file` gives them their shape, `forms` and
//! `values` read single values, `rules` has the rules between keys, `parse` applies them all). Leaves: [`Config`], of which each room
//! receives its own struct, or [`Mistakes`], all at once. Must not touch: any other room, the network.

mod defaults;
mod file;
mod forms;
mod mistakes;
mod parse;
mod reader;
mod rules;
mod values;

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use self::mistakes::Found;
pub use self::mistakes::{Mistake, Mistakes, Place};

/// A longer file is not read: it is not a configuration.
const FILE_MAX: u64 = 1 << 20;

/// Everything the operator may set. Sizes are bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This node's name; every token begins with it and a `-`. Letters and digits, at most 16.
    pub node: String,
    /// The path under which all requests of the protocol live; begins with `/`, does not end with it.
    pub prefix: String,
    /// Whether the self-test is served under the prefix.
    pub selftest: bool,
    /// Threads that serve, each with its own runtime and listening sockets; zero is one for each core.
    pub workers: usize,
    /// Where clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// Which backend serves what; at least one.
    pub routes: Vec<Route>,
    /// Which pages may use us.
    pub origins: Origins,
    /// Whose word on the client's address, scheme and host we take.
    pub trusted: Trusted,
    /// Sessions: bounds and timers.
    pub session: Session,
    /// Client connections and requests: bounds and deadlines.
    pub client: Client,
    /// The backend's side: deadlines and pings.
    pub backend: Backend,
    /// Where `/livez`, `/readyz` and `/metrics` are served, if anywhere.
    pub admin: Option<Address>,
    /// Log lines.
    pub log: Log,
    /// How the process stops.
    pub drain: Drain,
}

impl Config {
    /// Reads a file. The files that it names (certificates, keys) are not opened.
    ///
    /// # Errors
    /// All mistakes in it at once; also that it cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Mistakes> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let bytes = read(path).map_err(|error| {
            let what = format!("cannot be read: {error}");
            let hint = "name another, begin one from config.example.toml, or do without: \
                        underpass run --listen 127.0.0.1:8080 --upstream ws://127.0.0.1:9000";
            Mistakes::new(&name, "", vec![Found { span: None, what, hint: hint.to_owned() }])
        })?;
        Self::parse(bytes, &name)
    }

    /// Reads a text in the form of the file. `name` is what mistakes call it.
    ///
    /// # Errors
    /// All mistakes in it at once.
    pub fn parse(text: impl AsRef<[u8]>, name: &str) -> Result<Self, Mistakes> {
        parse::config(text.as_ref(), name)
    }

    /// One cleartext listener and one backend for everything, the rest by default: the flags `--listen` and
    /// `--upstream`, in the same forms as the keys `listen` and `upstream`.
    ///
    /// # Errors
    /// The mistakes in both.
    pub fn from_flags(listen: &str, upstream: &str) -> Result<Self, Mistakes> {
        match (forms::address(listen), forms::upstream(upstream)) {
            (Ok(address), Ok(upstream)) => Ok(Self {
                listeners: vec![Listener { address, tls: None }],
                routes: vec![Route { host: None, path: "/".to_owned(), upstream, inject: false }],
                ..Self::default()
            }),
            (address, endpoint) => {
                let flags = [("listen", listen, address.err()), ("upstream", upstream, endpoint.err())];
                let found = flags.into_iter().filter_map(|(flag, value, wrong)| {
                    let wrong = wrong?;
                    let what = format!("`--{flag} {}` {}", value.escape_debug(), wrong.what);
                    Some(Found { span: None, what, hint: wrong.hint })
                });
                Err(Mistakes::new("command line", "", found.collect()))
            }
        }
    }

    /// Every key that the file may have, as `node` or `session.grace`, in no particular order. For documentation and
    /// its tests.
    pub fn keys() -> Vec<String> {
        parse::keys()
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB, so no configuration"));
    }
    Ok(bytes)
}

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

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub address: Address,
    /// Certificate and key, when it speaks TLS.
    pub tls: Option<TlsFiles>,
}

/// A certificate chain and its key, both PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Requests for this host and path go to this backend. The longest matching path wins, a named host before any host.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Lower-case host without port; `None` is any host.
    pub host: Option<String>,
    /// Path prefix, matched on whole segments; begins with `/`.
    pub path: String,
    /// Where the backend listens.
    pub upstream: Upstream,
    /// Whether the script's tag is written into its pages.
    pub inject: bool,
}

/// A backend's address.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// TCP or unix socket.
    pub endpoint: Endpoint,
    /// TLS towards the backend, for `https` and `wss`.
    pub tls: Option<UpstreamTls>,
}

/// Where a backend listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Host name or address, and port.
    Tcp {
        /// A name, an IPv4 address, or an IPv6 address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// TLS towards a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// PEM file of the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// What we show when the backend asks for a client certificate.
    pub client: Option<TlsFiles>,
}

/// Which pages may use us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// Origins besides our own, as browsers write them (`https://app.example`), lower case.
    pub allowed: Vec<String>,
    /// Whether answers to allowed origins let the browser send and see with credentials.
    pub credentials: bool,
    /// Whether a request under the prefix without `Origin` is refused.
    pub require: bool,
}

/// Peers whose forwarding headers are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    /// Networks.
    pub networks: Vec<IpNet>,
    /// Peers on a unix socket, which have no address.
    pub unix: bool,
}

/// Bounds and timers of sessions.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Sessions at most; above it opening is refused.
    pub max: usize,
    /// Largest message, either way.
    pub message: usize,
    /// Most payload bytes of a poll answer; a single larger message goes alone.
    pub batch: usize,
    /// Largest body of a `send`.
    pub body: usize,
    /// Kept for a client, unacknowledged plus unsent; at it the backend is not read.
    pub buffer: usize,
    /// Kept of written messages for a client that never acknowledges.
    pub replay: usize,
    /// Up messages kept ahead of a gap, in messages.
    pub held: u64,
    /// Up messages waiting for the backend.
    pub queue: usize,
    /// After how many received bytes a client should acknowledge.
    pub ack_bytes: usize,
    /// Silence on a stream after which a heartbeat is written.
    pub heartbeat: Duration,
    /// When the probe follows the opening bytes of a stream.
    pub probe: Duration,
    /// How long a poll waits when it does not say.
    pub wait: Duration,
    /// How long a poll may wait.
    pub wait_max: Duration,
    /// How long a session lives without a sign of life from its client.
    pub grace: Duration,
    /// Age at which a stream is ended and the client asked to come back; zero is never.
    pub recycle: Duration,
    /// How long the backend may stay unread without progress of the client.
    pub pause: Duration,
    /// How long the backend may take to answer a close.
    pub close_wait: Duration,
    /// How long a `send` waits for room before it is answered `busy`.
    pub busy: Duration,
    /// How long a nonce returns the same session.
    pub nonce: Duration,
    /// How long it is remembered that a session has ended, after its grace.
    pub ended: Duration,
    /// How many ended sessions are remembered.
    pub ended_max: usize,
    /// Whether `Content-Encoding: identity` is set on streams (it defeats nginx's gzip).
    pub identity: bool,
}

/// Bounds and deadlines of client connections and requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// Connections at most, all listeners together; above it accepting waits.
    pub connections: usize,
    /// Header block of a request.
    pub header_bytes: usize,
    /// Header fields of a request.
    pub header_fields: usize,
    /// From accept to the first byte, and through the TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a request to the end of its header.
    pub header: Duration,
    /// Between two pieces of a request body.
    pub body: Duration,
    /// How long a write may make no progress.
    pub write: Duration,
    /// How long a connection may stay open between requests.
    pub idle: Duration,
    /// HTTP/2 streams of a connection at once.
    pub streams: u32,
    /// HTTP/2 receive window of a stream.
    pub stream_window: u32,
    /// HTTP/2 receive window of a connection.
    pub connection_window: u32,
    /// How long a tunnel may carry nothing either way; zero is for ever.
    pub tunnel_idle: Duration,
}

/// Deadlines and pings on the backend's side.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// TCP (or unix) connect, with TLS.
    pub connect: Duration,
    /// From the handshake request to the answer's header.
    pub handshake: Duration,
    /// From a proxied request to the answer's header.
    pub response: Duration,
    /// Silence after which a session's backend is pinged; zero is never.
    pub ping: Duration,
    /// How long it may take to answer a ping.
    pub pong: Duration,
    /// How long an idle pooled connection is kept.
    pub idle: Duration,
    /// Idle pooled connections kept for a backend.
    pub pool: usize,
    /// Upstream handshakes under way at once.
    pub dials: usize,
}

/// Log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Text or JSON.
    pub format: LogFormat,
    /// A level, or directives as `RUST_LOG` takes them.
    pub level: String,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How the process stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// From the signal to the end of the last connection.
    pub timeout: Duration,
    /// Over how long streams are asked to leave.
    pub spread: Duration,
    /// How long connections are still accepted after readiness was withdrawn.
    pub pre: Duration,
}
