//! What every request passes through: who asks, whether it is well formed, whose it is, and what it is answered.
//!
//! Enters: requests from connections. Leaves: responses. Must not touch: bytes on the wire, the inside of a session.
//!
//! Read [`Gateway::handle`] from top to bottom; the order of its steps is the policy.

mod beside;
mod endpoints;
mod error;
mod injection;
mod origin;
mod route;
mod selftest;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use http::header::{CACHE_CONTROL, CONNECTION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;

use self::endpoints::Call;
use self::error::{Refusal, refuse};
use self::origin::Verdict;
use self::route::{Endpoint, Place, Routes, Selftest, Verb};
use crate::config::{self, Config};
use crate::http::body::Body;
use crate::http::incoming::IncomingBody;
use crate::lifecycle::Lifecycle;
use crate::listener::framing::request_fault;
use crate::listener::handler::{Answering, Asking, Handler, Wait};
use crate::listener::peer::{ConnInfo, Peer};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::terms::ErrorCode;
use crate::transport::Fault;
use crate::transport::query::Query;
use crate::upstream::dial::Dialer;
use crate::upstream::headers::{Forwarded, lost_upgrade, wants_upgrade};
use crate::upstream::tls::UpstreamTlsError;

/// Asks nginx and its kin not to collect an answer before they pass it on.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The service behind every listener.
pub struct Gateway {
    live: ArcSwap<Live>,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
    tunnels: AtomicU64,
}

/// The configuration in force, with what was made from it. Replaced whole on a reload.
pub(crate) struct Live {
    config: Arc<Config>,
    session: Arc<config::Session>,
    backend: Arc<config::Backend>,
    routes: Routes,
    /// The self-test's conversation: its path, and who answers there. `None` when it is off.
    selftest: Option<(String, Arc<Dialer>)>,
}

impl Live {
    fn new(config: Arc<Config>) -> Result<Self, UpstreamTlsError> {
        Ok(Self {
            session: Arc::new(config.session.clone()),
            backend: Arc::new(config.backend.clone()),
            routes: Routes::new(&config)?,
            selftest: config.selftest.then(|| selftest::conversation(&config)),
            config,
        })
    }

    /// Who is dialled for a WebSocket at this path of this host.
    fn dialer(&self, host: &str, path: &str) -> Option<&Arc<Dialer>> {
        match &self.selftest {
            Some((talk, dialer)) if talk == path => Some(dialer),
            _ => self.routes.find(host, path).map(|backend| &backend.dialer),
        }
    }
}

impl Gateway {
    /// A gateway for this configuration.
    ///
    /// # Errors
    /// When the TLS files of an upstream cannot be used.
    pub fn new(
        config: Arc<Config>,
        registry: Arc<Registry>,
        metrics: Arc<Metrics>,
        lifecycle: Lifecycle,
    ) -> Result<Self, UpstreamTlsError> {
        let live = ArcSwap::from_pointee(Live::new(config)?);
        Ok(Self { live, registry, metrics, lifecycle, tunnels: AtomicU64::new(0) })
    }

    /// Takes another configuration into force, for requests from now on.
    ///
    /// # Errors
    /// When the TLS files of an upstream cannot be used; the old configuration stays in force.
    pub fn reload(&self, config: Arc<Config>) -> Result<(), UpstreamTlsError> {
        self.live.store(Arc::new(Live::new(config)?));
        Ok(())
    }

    /// Answers a request.
    pub async fn handle(self: Arc<Self>, request: Asking, conn: ConnInfo) -> Response<Body> {
        let live = self.live.load_full();
        let version = request.version();
        let mut response = match self.admit(&live, request, &conn).await {
            Ok(response) => response,
            Err(refusal) => self.refusal(refusal),
        };
        if version == Version::HTTP_10 {
            // What has no length is delimited by the end of the connection, whatever the client hoped for.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            // In an answer of a newer version hyper would add that it keeps the connection.
            *response.version_mut() = version;
        }
        response
    }

    async fn admit(self: &Arc<Self>, live: &Live, request: Asking, conn: &ConnInfo) -> Result<Response<Body>, Refusal> {
        if let Some(what) = request_fault(&request) {
            let mut response = self.refusal(Refusal::bad_request(what));
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return Ok(response);
        }
        let peer = Peer::of(conn, request.headers(), request.uri().authority(), &live.config.trusted);
        let path = request.uri().path().to_owned();
        match route::place(&path, &live.config.prefix) {
            Place::Ours(Endpoint::Selftest(_)) if live.selftest.is_none() => {
                Ok(self.ours(live, &peer, request, Endpoint::Unknown).await)
            }
            Place::Ours(endpoint) => Ok(self.ours(live, &peer, request, endpoint).await),
            Place::Ambiguous => Err(Refusal::bad_request(format!(
                "the path leads to `{}` only when decoded or normalised: write it plainly",
                live.config.prefix
            ))),
            // Only a GET without a body is a handshake (RFC 6455 section 4.1); other methods are requests like any other,
            // which no backend must get to see as a GET.
            Place::Beside if request.method() == Method::GET && wants_upgrade(request.headers(), request.version()) => {
                if !request.body().is_end_stream() {
                    return Err(Refusal::bad_request("a WebSocket handshake has no body"));
                }
                Box::pin(beside::tunnel(self, live, &peer, request)).await
            }
            Place::Beside if request.method() == Method::GET && lost_upgrade(request.headers(), request.version()) => {
                Err(Box::pin(refuse(Fault::UpgradeLost)).await)
            }
            Place::Beside => Box::pin(beside::proxy(self, live, &peer, request)).await,
        }
    }

    /// A request under the prefix: origin first, then the method, then the endpoint.
    async fn ours(
        self: &Arc<Self>,
        live: &Live,
        peer: &Peer,
        request: Asking,
        endpoint: Endpoint<'_>,
    ) -> Response<Body> {
        let origins = &live.config.origins;
        let verdict = origin::judge(origins, request.headers(), &peer.host);
        let mut response = match &verdict {
            // Public, and asked for by script tags of other origins' pages, which do not name themselves; or by a link in
            // a mail.
            Verdict::Refused(_) if matches!(endpoint, Endpoint::Client(_) | Endpoint::Selftest(Selftest::Page)) => {
                self.dispatch(live, peer, request, endpoint).await
            }
            Verdict::Refused(why) => {
                let query = Query::parse(request.uri().query());
                self.refusal(Refusal::origin_refused(why.clone()).echo(query.nonce().ok().flatten()))
            }
            _ if request.method() == Method::OPTIONS => preflight(request.headers()),
            _ => self.dispatch(live, peer, request, endpoint).await,
        };
        origin::mark(origins, &verdict, response.headers_mut());
        response
    }

    async fn dispatch(
        self: &Arc<Self>,
        live: &Live,
        peer: &Peer,
        request: Asking,
        endpoint: Endpoint<'_>,
    ) -> Response<Body> {
        let query = request.uri().query().map(str::to_owned);
        let query = Query::parse(query.as_deref());
        let nonce = query.nonce().ok().flatten().map(str::to_owned);
        let mut response = match self.call(live, peer, request, endpoint, &query).await {
            Ok(response) => response,
            Err(refusal) => self.refusal(refusal.echo(nonce.as_deref())),
        };
        protect(&mut response);
        response
    }

    async fn call(
        self: &Arc<Self>,
        live: &Live,
        peer: &Peer,
        request: Asking,
        endpoint: Endpoint<'_>,
        query: &Query<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let allowed = endpoint.methods();
        if endpoint != Endpoint::Unknown && !lists(allowed, request.method()) {
            return Err(Refusal::method_not_allowed(allowed));
        }
        let call = Call { gateway: self, live, peer };
        // What is long or rare is boxed: every future on the way of every message has room for its largest branch, and
        // is moved and allocated with it.
        let answered = match endpoint {
            Endpoint::Open { target } => Box::pin(call.open(request, target)).await,
            Endpoint::Sse { target } => return Box::pin(call.open_sse(&request.into_parts().0, target)).await,
            Endpoint::Session { token, verb } => call.session(request, (token, verb), query).await,
            Endpoint::Poll => Box::pin(call.poll_many(request, query)).await,
            Endpoint::Info => Ok(call.info()),
            Endpoint::Client(file) => Ok(call.client(&request.into_parts().0, file)),
            Endpoint::Selftest(what) => Box::pin(call.selftest(request, what)).await,
            Endpoint::Unknown => return Err(Refusal::no_endpoint()),
        };
        match answered {
            Ok(response) => Ok(response),
            Err(fault) => Err(Box::pin(refuse(fault)).await),
        }
    }

    /// Counts a refusal and says it, once, where it stops.
    fn refusal(&self, refusal: Refusal) -> Response<Body> {
        self.metrics.refused(refusal.code);
        if refusal.status.is_server_error() {
            tracing::warn!(code = refusal.code.as_str(), what = refusal.message(), "request refused");
        } else {
            tracing::debug!(code = refusal.code.as_str(), what = refusal.message(), "request refused");
        }
        let mut response = refusal.respond();
        protect(&mut response);
        response
    }

    fn tunnel_key(&self) -> u64 {
        self.tunnels.fetch_add(1, Ordering::Relaxed)
    }
}

/// Whether a list for `Allow` has this method; the first is the usual one.
fn lists(allowed: &str, method: &Method) -> bool {
    let first = allowed.strip_prefix(method.as_str()).is_some_and(|rest| rest.starts_with(','));
    first || allowed.split(", ").any(|allowed| allowed == method)
}

/// What every answer of ours carries: nobody may keep (unless it says so itself), change, guess at or leak it.
fn protect(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    if let http::header::Entry::Vacant(unsaid) = headers.entry(CACHE_CONTROL) {
        unsaid.insert(HeaderValue::from_static("no-store, no-transform"));
    }
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

fn preflight(request: &http::HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    origin::mark_preflight(request, response.headers_mut());
    protect(&mut response);
    response
}

/// The panic itself has been told by the panic hook. State that it may have left is plain data behind locks that
/// recover, so the next request may come.
fn panicked(metrics: &Metrics) -> Response<Body> {
    metrics.refused(ErrorCode::Internal);
    let message = "this server failed at this request: its log says how, please report it";
    let mut response = Refusal::new(ErrorCode::Internal, StatusCode::INTERNAL_SERVER_ERROR, message).respond();
    protect(&mut response);
    response
}

/// What the backend is told of the client.
fn forwarded(peer: &Peer) -> Forwarded<'_> {
    Forwarded { chain: peer.chain().into(), proto: peer.proto, host: &peer.host, trusted: peer.trusted }
}

/// The gateway as listeners call it.
#[derive(Clone)]
pub struct Service(pub Arc<Gateway>);

impl Handler for Service {
    /// A panic in a request ends that request with a 500, not its connection's neighbours.
    fn handle(&self, request: Asking, conn: ConnInfo) -> Answering {
        let gateway = Arc::clone(&self.0);
        let metrics = Arc::clone(&gateway.metrics);
        Box::pin(async move {
            let answered = AssertUnwindSafe(gateway.handle(request, conn)).catch_unwind().await;
            answered.unwrap_or_else(|_| panicked(&metrics))
        })
    }

    fn wait(&self, request: &Request<IncomingBody>) -> Wait {
        let live = self.0.live.load();
        match route::place(request.uri().path(), &live.config.prefix) {
            Place::Ours(Endpoint::Open { .. } | Endpoint::Sse { .. }) => Wait::ToDial,
            Place::Ours(Endpoint::Session { verb: Verb::Attach(_), .. }) => Wait::ToTell,
            Place::Beside | Place::Ours(Endpoint::Selftest(Selftest::Talk))
                if wants_upgrade(request.headers(), request.version()) =>
            {
                Wait::ToDial
            }
            Place::Ours(_) | Place::Ambiguous | Place::Beside => Wait::No,
        }
    }
}
