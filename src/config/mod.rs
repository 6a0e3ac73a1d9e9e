//! The operator's configuration, checked: the run-time [`Config`].
//!
//! Enters: a TOML file or command-line flags (`parse` is the entry; `reader` walks the tables, `keys` names the
//! keys, `formats` and `values` read single values, `rules` has the rules between keys). Leaves: [`Config`], of which each room
//! receives its own struct, or all [`ConfigErrors`] at once. Must not touch: any other room, the network.

mod defaults;
mod errors;
mod formats;
mod keys;
mod layers;
mod leaving;
mod listening;
mod networks;
mod parse;
mod paths;
pub mod pattern;
mod reader;
mod restart;
mod rules;
mod settings;
mod sources;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use self::errors::SpannedError;
pub use self::errors::{ConfigError, ConfigErrors, Location};
pub use self::layers::Overlay;
pub use self::leaving::{Drain, Handover};
pub use self::listening::{Address, ClientAuth, Listener, ListenerTls, TlsFiles};
pub use self::settings::{Loaded, Setting};
pub use self::sources::Sources;

/// Where `admin = "unix"` listens, and where a process is asked when nothing else is said.
pub const ADMIN_SOCKET: &str = "/run/underpass/admin.sock";

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
    /// Most bytes that all payloads together may take; `None` is what the system gives.
    pub memory: Option<usize>,
    /// Where clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// Which backend serves what; at least one.
    pub routes: Vec<Route>,
    /// The hosts that are served, without ports, some perhaps with a wildcard ([`pattern`]); empty is any.
    pub hosts: Vec<String>,
    /// Which pages may use us.
    pub origins: Origins,
    /// Peers that may tell us a client's address, scheme and host.
    pub trusted: Trusted,
    /// The fields that tell a backend of a client's certificate, in lower case: its subject, its SHA-256.
    pub identity: [String; 2],
    /// How much one client may take.
    pub limits: Limits,
    /// Sessions: bounds and timers.
    pub session: Session,
    /// Client connections and requests: bounds and deadlines.
    pub client: Client,
    /// The backend's side: deadlines and pings.
    pub backend: Backend,
    /// Where `/livez`, `/readyz` and `/metrics` are served, if anywhere.
    pub admin: Option<Address>,
    /// Format and level of log lines.
    pub log: Log,
    /// How the process stops.
    pub drain: Drain,
    /// How it gives everything to its successor.
    pub handover: Handover,
}

impl Config {
    /// Reads a text in the format of the file. `name` stands for it in errors.
    ///
    /// # Errors
    /// All errors in it at once.
    pub fn parse(text: impl AsRef<[u8]>, name: &str) -> Result<Self, ConfigErrors> {
        parse::config(text.as_ref(), name)
    }

    /// One cleartext listener and one backend for everything, with the defaults for all other keys: the flags `--listen` and
    /// `--upstream`, in the same formats as the keys `listen` and `upstream`.
    ///
    /// # Errors
    /// All errors in both.
    pub fn from_flags(listen: &str, upstream: &str) -> Result<Self, ConfigErrors> {
        match (formats::address(listen), formats::upstream(upstream)) {
            (Ok(address), Ok((upstream, add))) => {
                let listeners = vec![Listener { address, tls: None, proxy_protocol: false }];
                if let Some(what) = rules::leads_home(&upstream.endpoint, &listeners) {
                    let what = format!("`--upstream` {}", what.what);
                    let error = SpannedError { span: None, what, hint: String::new() };
                    return Err(ConfigErrors::new("command line", "", vec![error]));
                }
                let rewriting = Rewriting { add, ..Rewriting::default() };
                let (path, script) = ("/".to_owned(), Script::default());
                let route =
                    Route { host: None, path, upstream, script, rewriting, upgrades: Vec::new(), error_page: None };
                Ok(Self { listeners, routes: vec![route], ..Self::default() })
            }
            (address, endpoint) => {
                let flags = [("listen", listen, address.err()), ("upstream", upstream, endpoint.err())];
                let errors = flags.into_iter().filter_map(|(flag, value, error)| {
                    let error = error?;
                    let what = format!("`--{flag} {}` {}", value.escape_debug(), error.what);
                    Some(SpannedError { span: None, what, hint: error.hint })
                });
                Err(ConfigErrors::new("command line", "", errors.collect()))
            }
        }
    }

    /// What is no error, and what the operator should know of nevertheless; each with what to do.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        rules::warnings(self)
    }

    /// Every key that the file may have, as `node` or `session.grace`, in no particular order. For documentation and
    /// its tests.
    pub fn keys() -> Vec<String> {
        parse::all_keys()
    }
}

/// Requests for this host and path go to this backend. The longest matching path wins, a named host before any host.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Lower-case host without port, perhaps with a wildcard ([`pattern`]); `None` is any host.
    pub host: Option<String>,
    /// Path prefix, matched on whole segments; begins with `/`.
    pub path: String,
    /// Where the backend listens.
    pub upstream: Upstream,
    /// How its pages come to the browser client.
    pub script: Script,
    /// What the backend gets to see otherwise than the client has written it.
    pub rewriting: Rewriting,
    /// Protocols, in lower case, to which a connection may be switched besides `websocket`.
    pub upgrades: Vec<String>,
    /// The page that a browser is shown when a request is refused; `None` is ours.
    pub error_page: Option<PathBuf>,
}

/// What is written anew of a request on its way to a backend; by default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewriting {
    /// Whether the route's path is taken away.
    pub strip: bool,
    /// What is put before the path, behind that: empty, or with a `/` at its beginning and none at its end.
    pub add: String,
    /// `Host`, with a port perhaps; `None` keeps the client's.
    pub host: Option<String>,
    /// `Origin`, where there is one; `None` keeps the client's.
    pub origin: Option<String>,
}

/// Where the browser client is written into what a backend serves, and what it does there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// The script's tag is written into pages.
    pub pages: bool,
    /// The script itself is written before the scripts of workers.
    pub workers: bool,
    /// A plain WebSocket carries a conversation for as long as it works, without a session.
    pub raw: bool,
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
        /// From 1 to 65535.
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
    /// Origins besides our own, as browsers write them (`https://app.example`), lower case; some perhaps with a wildcard
    /// ([`pattern`]).
    pub allowed: Vec<String>,
    /// Whether responses to allowed origins let browsers send credentials and read the result.
    pub credentials: bool,
    /// Whether a request under the prefix without `Origin` is refused.
    pub require: bool,
    /// Whether a GET that opens a session may bring credentials without saying which page it comes from.
    pub trust_unnamed: bool,
}

/// Peers whose forwarding fields are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    /// Peers with an address in these networks.
    pub networks: Vec<IpNet>,
    /// Peers on a unix socket, which have no address.
    pub unix: bool,
}

/// How much one client may take, by its address; zero is without limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most connections, of a socket's other end that is no trusted proxy.
    pub connections: u32,
    /// Most sessions.
    pub sessions: u32,
    /// Most handshakes with backends under way.
    pub handshakes: u32,
    /// Most opens in a second, and ten times as many at once.
    pub opens: u32,
    /// Most requests in a second, and ten times as many at once.
    pub requests: u32,
    /// Clients in these networks are not limited.
    pub exempt: Vec<IpNet>,
}

/// Bounds and timers of sessions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// Most sessions. At this limit opening another one is refused.
    pub max: usize,
    /// Largest message in either direction.
    pub message: usize,
    /// Most payload bytes in the response to a poll; a larger message is sent alone.
    pub batch: usize,
    /// Largest body of a `send`.
    pub body: usize,
    /// Most bytes kept for a client, unsent and unacknowledged together. At this limit the backend is not read.
    pub buffer: usize,
    /// Most bytes of written messages kept for a client that never acknowledges.
    pub replay: usize,
    /// How many messages from the client are kept behind a gap in the numbers.
    pub held: u64,
    /// Most bytes of messages that wait for the backend.
    pub queue: usize,
    /// After how many received bytes a client should acknowledge.
    pub ack_bytes: usize,
    /// After this time of silence a heartbeat is written to a stream.
    pub heartbeat: Duration,
    /// How long after the first bytes of a stream the probe is sent.
    pub probe: Duration,
    /// How long a poll waits when the request does not say how long.
    pub wait: Duration,
    /// How long a poll may wait.
    pub wait_max: Duration,
    /// How long a session lives without a sign of life from its client.
    pub grace: Duration,
    /// Age at which a stream is ended and the client asked to attach again; zero is never.
    pub recycle: Duration,
    /// How long the backend may stay unread without progress of the client.
    pub pause: Duration,
    /// How long the backend may take to answer a close.
    pub close_wait: Duration,
    /// How long a `send` waits for room in the queue before the response is `busy`.
    pub busy: Duration,
    /// How long a nonce returns the same session.
    pub nonce: Duration,
    /// How long after its grace an ended session is remembered as such.
    pub ended: Duration,
    /// How many ended sessions are remembered.
    pub ended_max: usize,
    /// Whether `Content-Encoding: identity` is set on streams (it defeats nginx's gzip).
    pub identity: bool,
}

/// Bounds and deadlines of client connections and requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// Most connections of all listeners together. At this limit no further one is accepted.
    pub connections: usize,
    /// Most bytes in the header section of a request.
    pub header_bytes: usize,
    /// Most header fields in a request.
    pub header_fields: usize,
    /// From accept to the first byte, and through the TLS handshake; then again to the end of HTTP/2's preface and settings.
    pub handshake: Duration,
    /// From the first byte of a request to the end of its header.
    pub header: Duration,
    /// Between two pieces of a request body.
    pub body: Duration,
    /// The least bytes of a request body in a second, on average; zero is any.
    pub body_rate: u64,
    /// How long a write may make no progress.
    pub write: Duration,
    /// How long a connection may stay open between requests.
    pub idle: Duration,
    /// Most HTTP/2 streams open at once on a connection.
    pub streams: u32,
    /// HTTP/2 receive window of a stream.
    pub stream_window: u32,
    /// HTTP/2 receive window of a connection.
    pub connection_window: u32,
    /// How long a tunnel may be idle in both directions; zero is without limit.
    pub tunnel_idle: Duration,
}

/// Deadlines and pings on the backend's side.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// For connecting to the backend, including TLS.
    pub connect: Duration,
    /// From the handshake request to the head of the response.
    pub handshake: Duration,
    /// From a proxied request to the head of the response.
    pub response: Duration,
    /// After this time of silence a session's backend is pinged; zero is never.
    pub ping: Duration,
    /// How long it may take to answer a ping.
    pub pong: Duration,
    /// How long an idle pooled connection is kept.
    pub idle: Duration,
    /// How old a kept connection may become; zero is any age.
    pub max_age: Duration,
    /// Most idle connections kept for a backend.
    pub pool: usize,
    /// Most connections to a backend that are being opened at once.
    pub dials: usize,
    /// The longest head of an answer.
    pub header_bytes: usize,
    /// Most fields of an answer.
    pub header_fields: usize,
}

/// Log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Text or JSON.
    pub format: LogFormat,
    /// A level, or directives as `RUST_LOG` takes them.
    pub level: String,
    /// A line for each request.
    pub requests: bool,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For human readers.
    Text,
    /// One JSON object a line.
    Json,
}
