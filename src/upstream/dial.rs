//! Connections and WebSocket handshakes towards one backend.
//!
//! Enters: a configured address, and finished request heads (see `headers`). Leaves: a connection, a verified
//! WebSocket, or a [`DialError`] that tells an operator what happened, where, and what to do. Must not touch: where to
//! dial on a request's word, frames, statuses towards the client.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::{HeaderValue, Response, StatusCode, request, response};
use hyper::body::Incoming;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::SemaphorePermit;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::config::{Backend, Endpoint, Upstream};
pub use crate::upstream::dials::DialCount;
use crate::upstream::dials::Dials;
pub use crate::upstream::handshake::Upgraded;
use crate::upstream::handshake::{self, HandshakeFailure, Refusal};
use crate::upstream::http1_exchange::HeadLimits;
pub use crate::upstream::io::Io;
use crate::upstream::login;
use crate::upstream::own::OwnListeners;
use crate::upstream::pool::{Carrier, Connection};
use crate::upstream::private::PrivatePlace;
use crate::upstream::tls::{self, UpstreamTlsError};

/// How long to wait before a unix socket with a full backlog is tried again.
const BACKLOG_RETRY: Duration = Duration::from_millis(5);

/// A backend that can be dialled. One for each configured upstream, shared.
pub struct Dialer {
    endpoint: Endpoint,
    /// Who answers instead of the endpoint.
    inside: Option<fn(UnixStream)>,
    address: Arc<str>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connect: Duration,
    handshake: Duration,
    dials: Dials,
    limits: HeadLimits,
    own: Arc<OwnListeners>,
}

/// A new key for a handshake (RFC 6455 section 4.1).
#[must_use]
pub fn fresh_key() -> HeaderValue {
    HeaderValue::from_str(&generate_key()).expect("a key is base64, which is visible ASCII")
}

/// Why there is no connection or no WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The connection was refused, unreachable, or the name did not resolve.
    #[error("cannot connect to the backend at {address}: {source}; check that it runs and listens there")]
    Connect {
        /// Where to.
        address: Arc<str>,
        /// The system's answer.
        source: io::Error,
    },
    /// This host has no local port left for that destination (EADDRNOTAVAIL).
    #[error(
        "no local port is left to connect to the backend at {address}: {source}; widen net.ipv4.ip_local_port_range, give the backend more addresses, or use a unix socket"
    )]
    PortsExhausted {
        /// Where to.
        address: Arc<str>,
        /// The system's answer.
        source: io::Error,
    },
    /// The process or the system has no file descriptor left (EMFILE, ENFILE).
    #[error(
        "no file descriptor is left to connect to the backend at {address}: {source}; raise the open files limit (LimitNOFILE, ulimit -n)"
    )]
    FilesExhausted {
        /// Where to.
        address: Arc<str>,
        /// The system's answer.
        source: io::Error,
    },
    /// Connected to a listener of our own. Nothing was sent.
    #[error(
        "the backend at {address} is this server itself: a request would come back for ever; name the backend's own address in `upstream`"
    )]
    Loop {
        /// Where to.
        address: Arc<str>,
    },
    /// Connected, but TLS failed: often a certificate of another name or authority.
    #[error("the TLS handshake with the backend at {address} failed: {}", tls::explain(source))]
    Tls {
        /// Where to.
        address: Arc<str>,
        /// What rustls or the socket said.
        source: io::Error,
    },
    /// No connection (TLS included) in time.
    #[error(
        "no connection to the backend at {address} within {after:?}; check the network path, or allow more time to connect"
    )]
    ConnectTimeout {
        /// Where to.
        address: Arc<str>,
        /// How long it was waited.
        after: Duration,
    },
    /// Too many connections are being opened already, and none of them was open in time.
    #[error(
        "{most} connections to the backend at {address} are being opened and none was open within {after:?}; the backend is slow to accept, or the bound is too low"
    )]
    Crowded {
        /// Where to.
        address: Arc<str>,
        /// How many may be opened at once.
        most: usize,
        /// How long it was waited.
        after: Duration,
    },
    /// Connected, but the handshake was not answered in time.
    #[error(
        "the backend at {address} did not answer the handshake within {after:?}; check that it serves WebSockets at this path, or allow more time"
    )]
    HandshakeTimeout {
        /// Where to.
        address: Arc<str>,
        /// How long it was waited.
        after: Duration,
    },
    /// Connected, but the connection ended or its answer was no HTTP before the handshake was answered.
    #[error(
        "the backend at {address} dropped the WebSocket handshake: {source}; look into the backend's log for this moment"
    )]
    Dropped {
        /// Where to.
        address: Arc<str>,
        /// What hyper saw.
        source: hyper::Error,
    },
    /// A 101 that is not the answer to our handshake; nothing was tunnelled.
    #[error(
        "the backend at {address} answered 101, but {what}: this is not what was asked for; check what answers at this address"
    )]
    BadHandshake {
        /// Where to.
        address: Arc<str>,
        /// Which check failed.
        what: &'static str,
    },
    /// Any other status: an ordinary HTTP answer, which may be passed on.
    #[error("the backend refused the WebSocket handshake with {}; it decides by path, origin, cookies or credentials", head.status)]
    Refused {
        /// The head of the answer, as the backend wrote it.
        head: Box<response::Parts>,
        /// Its body, streamed from the connection; how long and how much to read is the caller's to bound.
        body: Incoming,
    },
}

impl Dialer {
    /// A dialer for this upstream. Reads the certificate files, so call it before the house serves.
    ///
    /// # Errors
    /// [`UpstreamTlsError`] when TLS is configured and its files cannot be used.
    pub fn new(upstream: &Upstream, backend: &Backend) -> Result<Self, UpstreamTlsError> {
        let tls = match &upstream.tls {
            None => None,
            Some(tls) => Some((tls::connector(tls)?, tls::server_name(&upstream.endpoint)?)),
        };
        Ok(Self {
            address: address(&upstream.endpoint).into(),
            endpoint: upstream.endpoint.clone(),
            inside: None,
            tls,
            connect: backend.connect,
            handshake: backend.handshake,
            dials: Dials::new(backend.dials),
            limits: backend.into(),
            own: Arc::default(),
        })
    }

    /// The same, which goes to none of these.
    #[must_use]
    pub fn avoiding(self, own: Arc<OwnListeners>) -> Self {
        Self { own, ..self }
    }

    /// A dialer whose backend is this process: each handshake is granted at once, and `talk` gets the WebSocket's other
    /// end, a bare stream of frames. `name` is its address for people.
    #[must_use]
    pub fn inside(name: &str, backend: &Backend, talk: fn(UnixStream)) -> Self {
        Self {
            endpoint: Endpoint::Unix(name.into()),
            inside: Some(talk),
            address: name.into(),
            tls: None,
            connect: backend.connect,
            handshake: backend.handshake,
            dials: Dials::new(backend.dials),
            limits: backend.into(),
            own: Arc::default(),
        }
    }

    /// The backend's address for people: `host:port` or `unix:/path`.
    #[must_use]
    pub fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// How many connections are being opened, and may be.
    #[must_use]
    pub fn dials(&self) -> DialCount {
        self.dials.count()
    }

    /// The `Host` for requests that came without one.
    #[must_use]
    pub fn authority(&self) -> &str {
        match &self.endpoint {
            Endpoint::Tcp { .. } => &self.address,
            Endpoint::Unix(_) => "localhost",
        }
    }

    /// A new connection, TLS included.
    ///
    /// # Errors
    /// The first six of [`DialError`]: connecting, ports, files, a loop, TLS, deadline.
    pub async fn connect(&self) -> Result<Io, DialError> {
        timeout(self.connect, self.connect_and_secure())
            .await
            .unwrap_or_else(|_| Err(DialError::ConnectTimeout { address: self.address.clone(), after: self.connect }))
    }

    /// A WebSocket: connects, sends `head` as it is, and verifies the answer. `head` has its final headers and a target
    /// in origin form. Subprotocol and extensions are not judged here: a tunnel passes them, a session checks them.
    ///
    /// A handshake in several steps, each refused but the last, goes on over one connection, which is kept among the
    /// `private` ones in between. With `None` it is closed.
    ///
    /// # Errors
    /// Any [`DialError`]; [`DialError::Refused`] carries the backend's whole answer.
    pub async fn upgrade(
        &self,
        head: request::Parts,
        private: Option<&dyn PrivatePlace>,
    ) -> Result<Upgraded, DialError> {
        self.upgrade_in_turn(head, private, ()).await
    }

    /// [`Self::upgrade`], for which others wait: `turn` is dropped as soon as it is connected. How long a backend thinks of
    /// its answer is no reason to let others wait.
    ///
    /// # Errors
    /// Those of [`Self::upgrade`].
    pub async fn upgrade_in_turn<T>(
        &self,
        head: request::Parts,
        private: Option<&dyn PrivatePlace>,
        turn: T,
    ) -> Result<Upgraded, DialError> {
        if let Some(talk) = self.inside {
            return self.connect_inside(talk, &head);
        }
        let kept = match private {
            Some(private) => private.take(&self.address).await,
            None => None,
        };
        let is_login = kept.is_some() || login::speaks(&head.headers);
        let connection = match kept {
            Some(connection) => connection,
            None => {
                let _under_way = self.acquire_dial().await?;
                Connection::new(self.connect().await?)
            }
        };
        drop(turn);
        let since = connection.since;
        match timeout(self.handshake, handshake::perform(connection.carrier, head, self.limits)).await {
            Ok(Ok(upgraded)) => Ok(upgraded),
            Ok(Err(HandshakeFailure::Refused(refusal))) => {
                let Refusal { head, body, sender } = *refusal;
                if let Some(private) = private
                    && (is_login || login::asks(head.status, &head.headers))
                {
                    private.keep(&self.address, Connection { carrier: Carrier::Hyper(sender), since });
                }
                Err(DialError::Refused { head: Box::new(head), body })
            }
            Ok(Err(failure)) => Err(self.failed(failure)),
            Err(_) => Err(DialError::HandshakeTimeout { address: self.address.clone(), after: self.handshake }),
        }
    }

    /// A connection that speaks `protocol`: connects, sends `head` as it is, which asks for that, and verifies the answer. As
    /// for `turn`, see [`Self::upgrade_in_turn`].
    ///
    /// # Errors
    /// Any [`DialError`]; [`DialError::Refused`] carries the backend's whole answer.
    pub async fn upgrade_to<T>(&self, protocol: &str, head: request::Parts, turn: T) -> Result<Upgraded, DialError> {
        let io = {
            let _turns = (turn, self.acquire_dial().await?);
            self.connect().await?
        };
        match timeout(self.handshake, handshake::perform_other(io, head, self.limits, protocol)).await {
            Ok(Ok(upgraded)) => Ok(upgraded),
            Ok(Err(failure)) => Err(self.failed(failure)),
            Err(_) => Err(DialError::HandshakeTimeout { address: self.address.clone(), after: self.handshake }),
        }
    }

    fn connect_inside(&self, talk: fn(UnixStream), asked: &request::Parts) -> Result<Upgraded, DialError> {
        let (ours, theirs) = UnixStream::pair().map_err(|source| self.not_connected(source))?;
        talk(theirs);
        let mut answer = Response::new(());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let accept = asked.headers.get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
        if let Some(accept) = accept.and_then(|accept| HeaderValue::try_from(accept).ok()) {
            answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        Ok(Upgraded { io: Io::Unix(ours), unread: Bytes::new(), head: answer.into_parts().0 })
    }

    async fn acquire_dial(&self) -> Result<SemaphorePermit<'_>, DialError> {
        let crowded =
            || DialError::Crowded { address: self.address.clone(), most: self.dials.limit(), after: self.handshake };
        self.dials.acquire(self.handshake).await.ok_or_else(crowded)
    }

    async fn connect_and_secure(&self) -> Result<Io, DialError> {
        let plain = self.open().await.map_err(|source| self.not_connected(source))?;
        if self.own.are_behind(&plain) {
            return Err(DialError::Loop { address: self.address.clone() });
        }
        let Some((connector, name)) = &self.tls else { return Ok(plain) };
        match connector.connect(name.clone(), plain).await {
            Ok(stream) => Ok(Io::Tls(Box::new(stream))),
            Err(source) => Err(DialError::Tls { address: self.address.clone(), source }),
        }
    }

    async fn open(&self) -> io::Result<Io> {
        match &self.endpoint {
            Endpoint::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Io::Tcp(stream))
            }
            Endpoint::Unix(path) => loop {
                match UnixStream::connect(path).await {
                    // Linux does not wait for room in a unix backlog as it does for TCP: a burst is no dead backend.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BACKLOG_RETRY).await,
                    outcome => return outcome.map(Io::Unix),
                }
            },
        }
    }

    fn failed(&self, failure: HandshakeFailure) -> DialError {
        let address = self.address.clone();
        match failure {
            HandshakeFailure::Dropped(source) => DialError::Dropped { address, source },
            HandshakeFailure::Bad(what) => DialError::BadHandshake { address, what },
            HandshakeFailure::Refused(refusal) => {
                let Refusal { head, body, .. } = *refusal;
                DialError::Refused { head: Box::new(head), body }
            }
        }
    }

    fn not_connected(&self, source: io::Error) -> DialError {
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        let address = self.address.clone();
        match (source.kind(), source.raw_os_error()) {
            (io::ErrorKind::AddrNotAvailable, _) => DialError::PortsExhausted { address, source },
            (_, Some(ENFILE | EMFILE)) => DialError::FilesExhausted { address, source },
            _ => DialError::Connect { address, source },
        }
    }
}

fn address(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        Endpoint::Tcp { host, port } => format!("{host}:{port}"),
        Endpoint::Unix(path) => format!("unix:{}", path.display()),
    }
}
