//! What every request passes through: who asks, whether it is well formed, whose it is, and what the response is.
//!
//! Enters: requests from connections. Leaves: responses. Must not touch: bytes on the wire, the inside of a session.
//!
//! A request is routed once, from its head (`Router::route`), and answered once (`Gateway::respond`); the order of
//! the steps there is the policy. What is about *every* request is a layer around both (see `app`).

mod backends;
mod beside;
mod endpoints;
mod error;
mod injection;
pub mod layers;
mod opening;
mod origin;
mod pages;
mod request_log;
mod rewriting;
mod route;
mod selftest;
pub mod target;
mod tunnels;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::header::{CACHE_CONTROL, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Request, Response, Version};

pub use self::backends::{BackendCount, BackendError};
use self::backends::{Backends, bare};
use self::endpoints::Call;
pub use self::error::Refusal;
use self::error::{Asked, refuse};
use self::request_log::RequestLine;
use self::rewriting::Rewriting;
use self::route::{Endpoint, Purpose};
use crate::config::pattern::matches;
use crate::config::{self, Config};
use crate::http::body::Body;
use crate::http::incoming::IncomingBody;
use crate::http::source::Source;
use crate::http::timely::Patience;
use crate::lifecycle::Lifecycle;
use crate::limits::{Limited, Limits};
use crate::listener::dialling::DialQueue;
use crate::listener::handler::{Latency, Route, SharedConnection};
use crate::listener::peer::{ConnInfo, Peer};
use crate::listener::traffic::{Companion, Traffic};
use crate::metrics::Metrics;
use crate::registry::{Found, Registry};
use crate::transport::{Fault, again};
use crate::upstream::dial::Dialer;
use crate::upstream::headers::{Forwarded, asked_upgrade};
use crate::upstream::own::OwnListeners;
use crate::upstream::private::{PrivateConnections, PrivatePlace};

/// Asks nginx and its kin not to collect an answer before they pass it on.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Whether a route's page can be read.
///
/// # Errors
/// When it cannot.
pub fn check_page(file: &Path) -> Result<(), pages::PageError> {
    pages::Page::read(file).map(drop)
}

/// The service behind every listener.
pub struct Gateway {
    live: ArcSwap<Live>,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    limits: Arc<Limits>,
    lifecycle: Lifecycle,
    own: Arc<OwnListeners>,
    /// The fields about clients' certificates, where any listener asks for one. Those of the start, as listeners are.
    identity: Option<[HeaderName; 2]>,
    tunnels: AtomicU64,
}

/// The configuration in force, with what was made from it. Replaced whole on a reload.
pub(crate) struct Live {
    config: Arc<Config>,
    session: Arc<config::Session>,
    backend: Arc<config::Backend>,
    backends: Backends,
    /// The self-test's conversation: its path, and who answers there. `None` when it is off.
    selftest: Option<(String, Arc<Dialer>)>,
}

impl Live {
    fn new(config: Arc<Config>, metrics: &Arc<Metrics>, own: &Arc<OwnListeners>) -> Result<Self, BackendError> {
        Ok(Self {
            session: Arc::new(config.session.clone()),
            backend: Arc::new(config.backend.clone()),
            backends: Backends::new(&config, metrics, own)?,
            selftest: config.selftest.then(|| selftest::conversation(&config)),
            config,
        })
    }

    /// Whether a host (in lower case, with a port perhaps) is one of those that are served.
    fn serves(&self, host: &str) -> bool {
        let hosts = &self.config.hosts;
        hosts.is_empty() || hosts.iter().any(|named| matches(named, bare(host)))
    }

    /// Where those wait who want the same backend dialled; nobody does for the self-test.
    fn dial_queue(&self, host: &str, path: &str) -> Option<Arc<DialQueue>> {
        let backend = self.backends.find(host, path).filter(|_| !self.is_selftest(path))?;
        Some(Arc::clone(&backend.queue))
    }

    fn is_selftest(&self, path: &str) -> bool {
        self.selftest.as_ref().is_some_and(|(talk, _)| talk == path)
    }

    /// Who is dialled for a WebSocket at this path of this host, what is written anew for that, and the route's name.
    fn dialer(&self, host: &str, path: &str) -> Option<(&Arc<Dialer>, Option<&Rewriting>, Arc<str>)> {
        match &self.selftest {
            Some((talk, dialer)) if talk == path => Some((dialer, None, "selftest".into())),
            _ => {
                let backend = self.backends.find(host, path)?;
                Some((&backend.dialer, backend.rewriting.as_ref(), Arc::clone(&backend.name)))
            }
        }
    }
}

impl Gateway {
    /// A gateway for this configuration, in a process that listens at `own`.
    ///
    /// # Errors
    /// When a file of a backend cannot be used.
    pub fn new(
        config: Arc<Config>,
        registry: Arc<Registry>,
        (metrics, limits): (Arc<Metrics>, Arc<Limits>),
        lifecycle: Lifecycle,
        own: OwnListeners,
    ) -> Result<Self, BackendError> {
        let own = Arc::new(own);
        let identity = identity_fields(&config);
        let live = ArcSwap::from_pointee(Live::new(config, &metrics, &own)?);
        Ok(Self { live, registry, metrics, limits, lifecycle, own, identity, tunnels: AtomicU64::new(0) })
    }

    /// Takes another configuration into force, for requests from now on.
    ///
    /// # Errors
    /// When a file of a backend cannot be used; the old configuration stays in force.
    pub fn reload(&self, config: Arc<Config>) -> Result<(), BackendError> {
        let live = Live::new(Arc::clone(&config), &self.metrics, &self.own)?;
        self.limits.reload(&config);
        self.live.store(Arc::new(live));
        Ok(())
    }

    /// The connections to each backend, and how many may lie idle at each.
    #[must_use]
    pub fn backends(&self) -> (Vec<BackendCount>, usize) {
        let live = self.live.load();
        (live.backends.count(), live.backend.pool)
    }

    /// Decides from its head what a request is for, and who asks. Once for each request.
    fn decide<B>(&self, request: &Request<B>, conn: &ConnInfo) -> Routed {
        let live = self.live.load_full();
        let peer = Peer::of(conn, request.headers(), request.uri().authority(), &live.config.trusted);
        let mut purpose = Purpose::of(request, &live.config.prefix, live.selftest.is_some());
        // What is wrong with a request is said first: one that cannot be read names no host.
        if !matches!(purpose, Purpose::Faulty(_) | Purpose::Unaffordable) && !live.serves(&peer.host) {
            purpose = Purpose::Misdirected;
        }
        if purpose == Purpose::Proxied
            && let Some(protocol) = asked_upgrade(request.headers(), request.version())
            && let Some(backend) = live.backends.find(&peer.host, request.uri().path())
            && backend.switches_to(protocol)
            && let Ok(protocol) = HeaderValue::from_str(protocol)
        {
            purpose = Purpose::Switch(protocol);
        }
        // Over HTTP/2, and behind a proxy, a connection may carry the requests of many.
        let is_shared =
            request.version() == Version::HTTP_2 || request.extensions().get::<SharedConnection>().is_some();
        let is_for_backend = matches!(purpose, Purpose::Proxied | Purpose::Tunnel);
        let connection = (!is_shared && !peer.trusted && is_for_backend).then(|| Arc::clone(&conn.bytes));
        Routed { live, peer, purpose, connection }
    }

    /// Responds to a request that was routed.
    async fn respond(self: &Arc<Self>, routed: &Routed, request: BoxRequest) -> Result<Response<Body>, Refusal> {
        let Routed { live, peer, purpose, connection } = routed;
        if let Err(Limited { limit, after }) = self.limits.request(peer.client) {
            return Err(Refusal::limited(limit, after));
        }
        let private = connection.as_deref().map(|connection| connection as &dyn PrivatePlace);
        let call = Call { gateway: self, live, peer };
        // What takes long or is rare is boxed: each future on the way of every message has room for its largest branch,
        // and is moved and allocated with it.
        match purpose {
            Purpose::Faulty(what) => Err(Refusal::bad_request(*what).closing()),
            Purpose::Unaffordable => Err(Refusal::out_of_memory()),
            Purpose::Misdirected => Err(Refusal::host_refused(&peer.host)),
            Purpose::Untraceable => Err(Refusal::not_traced()),
            Purpose::Disguised => Err(Refusal::disguised(&live.config.prefix)),
            Purpose::Endpoint(endpoint) => call.respond(request, endpoint).await,
            Purpose::Tunnel => Box::pin(beside::tunnel(&call, request, private)).await,
            Purpose::Switch(protocol) => Box::pin(beside::switch(&call, request, protocol)).await,
            Purpose::LostUpgrade => Err(Box::pin(refuse(Fault::UpgradeLost)).await),
            Purpose::Proxied => Box::pin(beside::proxy(&call, request, private)).await,
        }
    }

    fn tunnel_key(&self) -> u64 {
        self.tunnels.fetch_add(1, Ordering::Relaxed)
    }
}

/// Adds what every response of ours carries: nobody may store (unless it allows that itself), change, sniff or leak it.
fn protect(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    if let http::header::Entry::Vacant(unsaid) = headers.entry(CACHE_CONTROL) {
        unsaid.insert(HeaderValue::from_static("no-store, no-transform"));
    }
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

/// The fields that tell of a client's certificate: from the start on where one listener asks for them, whoever sends them.
fn identity_fields(config: &Config) -> Option<[HeaderName; 2]> {
    let asks = |listener: &config::Listener| listener.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
    let [subject, fingerprint] = &config.identity;
    let name = |text: &String| HeaderName::from_bytes(text.as_bytes()).ok();
    let names = name(subject).zip(name(fingerprint)).filter(|_| config.listeners.iter().any(asks));
    names.map(|(subject, fingerprint)| [subject, fingerprint])
}

/// How long the body of a client's request is waited for.
fn patience(client: &config::Client) -> Patience {
    Patience { piece: client.body, rate: client.body_rate }
}

/// What the backend is told of the client.
fn forwarded<'a>(gateway: &Gateway, peer: &'a Peer, rewriting: Option<&'a Rewriting>) -> Forwarded<'a> {
    Forwarded {
        chain: peer.chain().into(),
        proto: peer.proto,
        host: &peer.host,
        trusted: peer.trusted,
        prefix: rewriting.map_or("", Rewriting::stripped),
        identity: gateway.identity.as_ref().map(|fields| identity(fields, peer)).unwrap_or_default(),
    }
}

fn identity([subject, fingerprint]: &[HeaderName; 2], peer: &Peer) -> Vec<(HeaderName, Option<HeaderValue>)> {
    let shown = peer.certificate.as_ref();
    vec![
        (subject.clone(), shown.map(|shown| shown.subject.clone())),
        (fingerprint.clone(), shown.map(|shown| shown.fingerprint.clone())),
    ]
}

/// A client's connection is bound to those over which it has logged in.
impl Companion for PrivateConnections {
    fn binds(&self) -> bool {
        !self.is_empty()
    }
}

/// What belongs to a client's connection is kept with it.
impl PrivatePlace for Traffic {
    fn present(&self) -> Option<&PrivateConnections> {
        self.present_companion()
    }

    fn made(&self) -> Option<&PrivateConnections> {
        self.companion()
    }
}

/// What was decided of a request. It goes with the request, in its extensions.
#[derive(Clone)]
struct Routed {
    /// The configuration in force when the request came.
    live: Arc<Live>,
    peer: Peer,
    purpose: Purpose,
    /// The client's connection, where that is one client's and the request is for a backend.
    connection: Option<Arc<Traffic>>,
}

/// A request on its way. Boxed: each future that it passes through would have room for it twice.
pub(crate) type BoxRequest = Box<Request<IncomingBody>>;

// === as listeners see it ===

/// Routes requests to [`GatewayService`].
#[derive(Clone)]
pub struct Router(pub Arc<Gateway>);

impl Route for Router {
    fn route(&self, request: &mut Request<IncomingBody>, conn: &ConnInfo) -> Latency {
        let routed = self.0.decide(request, conn);
        let latency = routed.purpose.latency();
        if latency == Latency::UntilDialled
            && let Some(queue) = routed.live.dial_queue(&routed.peer.host, request.uri().path())
        {
            request.extensions_mut().insert(queue);
        }
        request.extensions_mut().insert(routed);
        latency
    }

    fn has_moved(&self, request: &Request<IncomingBody>) -> bool {
        let routed = request.extensions().get::<Routed>();
        match routed.map(|routed| &routed.purpose) {
            Some(Purpose::Endpoint(Endpoint::Session { token, .. })) => {
                matches!(self.0.registry.find(token), Found::Moved)
            }
            // It opens a session, or is about many.
            Some(Purpose::Endpoint(Endpoint::Open | Endpoint::Sse | Endpoint::Poll)) => true,
            _ => false,
        }
    }

    fn go_on(&self, record: &[u8]) -> Option<Box<dyn Source + Send>> {
        again::go_on(&self.0.registry, record)
    }
}

/// Responds to requests that [`Router`] has routed; an error is a response that was not written yet.
#[derive(Clone)]
pub struct GatewayService(pub Arc<Gateway>);

impl tower::Service<Request<IncomingBody>> for GatewayService {
    type Response = Response<Body>;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Refusal>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<IncomingBody>) -> Self::Future {
        let gateway = Arc::clone(&self.0);
        let routed = request.extensions_mut().remove::<Routed>();
        let request = Box::new(request);
        Box::pin(async move {
            match routed {
                Some(routed) => {
                    let line = RequestLine::of(&gateway, &routed, &*request);
                    let target = routed.purpose.is_at_target().then(|| request.uri().path_and_query().cloned());
                    let responded = gateway.respond(&routed, request).await;
                    if let Some(line) = line {
                        line.write(&responded);
                    }
                    responded.map_err(|refusal| {
                        refusal.asked_by(|| Asked {
                            client: routed.peer.client_text(),
                            host: routed.peer.host.clone(),
                            path: target.flatten().map(|target| target.path().to_owned()),
                        })
                    })
                }
                None => Err(Refusal::internal("this request was not routed: put `Router` in front of the service")),
            }
        })
    }
}
