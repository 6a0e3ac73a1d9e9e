//! One connection: TLS, then HTTP/1.1 or HTTP/2, until its end or the process's.
//!
//! Enters: an accepted socket. Leaves: requests for the handler, each with its [`ConnInfo`]. Must not touch: paths,
//! sessions, statuses (but those with which hyper refuses what is not HTTP).
//!
//! Here is what hyper does: HTTP/2, and of HTTP/1 (`http1`) the requests that are long or odd. When the answer of one of
//! those may take long, the socket is taken back from hyper.

use std::error::Error as StdError;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::rt::Timer;
use hyper::server::conn::{http1, http2};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::exchanges::{Counting, Exchanges};
use super::guard::{Guarded, Hold, Traffic};
use super::handler::{Answering, Handler, Wait};
use super::http1::{Held, Http1};
use super::peer::{ConnInfo, PeerAddr};
use super::socket::Socket;
use super::timer::HeadTimer;
use super::tls::TlsSource;
use crate::config::Client;
use crate::http::body::Body;
use crate::http::incoming::IncomingBody;
use crate::http::replay::Replay;
use crate::lifecycle::{Lifecycle, Phase};
use crate::metrics::Metrics;

/// Why a connection ended that did not end by agreement.
pub(super) type Failure = Box<dyn StdError + Send + Sync>;

/// hyper's read buffer grows up to this with large bodies; its default is about 400 KiB a connection.
const BUFFER: usize = 64 * 1024;

/// Silence on an HTTP/2 connection after which we ping, and how long the answer may take.
const PING: Duration = Duration::from_secs(20);

/// What all connections of a listener share.
#[derive(Clone)]
pub(super) struct Shared<H> {
    pub(super) handler: H,
    pub(super) tls: Option<Arc<TlsSource>>,
    pub(super) client: Arc<Client>,
    pub(super) lifecycle: Lifecycle,
    pub(super) metrics: Arc<Metrics>,
}

/// Drives one connection to its end, in a task of its own.
pub(super) fn drive<H: Handler>(shared: Shared<H>, socket: Socket, peer: PeerAddr, hold: Hold) {
    let Shared { handler, tls, client, lifecycle, metrics } = shared;
    let traffic = Arc::new(Traffic::default());
    let info = ConnInfo { peer, tls: tls.is_some(), bytes: Arc::clone(&traffic) };
    let stream = Guarded::new(socket, client.write, traffic, Some(hold));
    let door = Door { handler, info, client, lifecycle };
    let Some(tls) = tls else { return drop(tokio::spawn(Http1::new(door, stream))) };
    tokio::spawn(async move {
        if let Err(error) = drive_tls(tls, stream, door, &metrics).await {
            tracing::debug!(%peer, error = &*error as &dyn StdError, "connection ended");
        }
    });
}

/// Where the requests of one connection go, and what bounds it.
#[derive(Clone)]
pub(super) struct Door<H> {
    pub(super) handler: H,
    pub(super) info: ConnInfo,
    pub(super) client: Arc<Client>,
    pub(super) lifecycle: Lifecycle,
}

async fn drive_tls<H: Handler>(
    tls: Arc<TlsSource>,
    stream: Guarded<Socket>,
    door: Door<H>,
    metrics: &Metrics,
) -> Result<(), Failure> {
    let silence = door.client.handshake;
    let accept = Box::pin(timeout(silence, TlsAcceptor::from(tls.config()).accept(stream)));
    let accepted = tokio::select! {
        accepted = accept => accepted.map_err(Failure::from).and_then(|stream| stream.map_err(Failure::from)),
        () = door.lifecycle.reached(Phase::Closing) => return Ok(()),
    };
    let stream = accepted.inspect_err(|_| metrics.handshake_failed())?;
    // The protocol is settled by ALPN, so nothing has to be guessed from the first bytes.
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2(door, stream).await
    } else {
        tokio::spawn(Http1::new(door, stream));
        Ok(())
    }
}

/// What hyper hands on of a request whose answer may take long.
type Slot = Arc<Mutex<Option<Held>>>;

/// Lets hyper serve until it ends, or until a request is in the slot: then the socket is taken back.
pub(super) async fn until_held<H, IO>(door: Door<H>, io: Replay<IO>) -> Result<Option<(Replay<IO>, Held)>, Failure>
where
    H: Handler,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let slot = Slot::default();
    let service = Service { door: door.clone(), slot: Some(Arc::clone(&slot)) };
    let timer = HeadTimer::new(&door.client, Arc::clone(&door.info.bytes));
    let mut conn = hyper_settings(&door.client, timer).serve_connection(TokioIo::new(io), service);
    let mut drain = pin!(door.lifecycle.reached(Phase::Draining));
    let mut close = pin!(door.lifecycle.reached(Phase::Closing));
    let mut draining = false;
    let held = poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut conn).poll(cx) {
            return Poll::Ready(ended.map(|()| None));
        }
        // hyper reads the next request when the body of the last one has come, although the end of an answer that was early
        // may still be with it: not all of that would be written.
        if !door.info.bytes.is_blocked()
            && let Some(held) = slot.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            return Poll::Ready(Ok(Some(held)));
        }
        if !draining && drain.as_mut().poll(cx).is_ready() {
            draining = true;
            Pin::new(&mut conn).graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        close.as_mut().poll(cx).map(|()| Ok(None))
    })
    .await?;
    Ok(held.map(|held| {
        let parts = conn.into_parts();
        let mut io = parts.io.into_inner();
        io.put_back(&parts.read_buf);
        (io, held)
    }))
}

/// A handler as hyper calls it.
#[derive(Clone)]
struct Service<H> {
    door: Door<H>,
    /// Where requests go whose answer may take long; `None` where the connection is not one exchange at a time.
    slot: Option<Slot>,
}

impl<H: Handler> hyper::service::Service<Request<Incoming>> for Service<H> {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut request = Box::new(request.map(IncomingBody::Streaming));
        let alone = request.body().is_end_stream();
        let wait = if alone { self.door.handler.wait(&request) } else { Wait::No };
        match &self.slot {
            Some(slot) if matches!(wait, Wait::ToTell | Wait::ToDial) => {
                if wait == Wait::ToDial {
                    compact(&mut request);
                }
                slot.lock().unwrap_or_else(PoisonError::into_inner).replace(Held::new(request, wait));
                Box::pin(std::future::pending())
            }
            _ => Box::pin(through_hyper(self.door.handler.handle(request, self.door.info.clone()))),
        }
    }
}

/// An answer that hyper writes.
async fn through_hyper(answering: Answering) -> Result<Response<Body>, std::convert::Infallible> {
    let response = answering.await;
    if !matches!(response.body(), Body::Upgrade(_)) {
        return Ok(Body::with_known_length(response).await);
    }
    // A handshake with a body, or over HTTP/2: neither is one (RFC 6455 section 4.1).
    let mut refusal = Response::new(Body::full("a WebSocket handshake has no body\n"));
    *refusal.status_mut() = StatusCode::BAD_REQUEST;
    refusal.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(refusal)
}

/// Copies a request's head out of hyper's read block, all 8 KiB of which it would keep while it waits.
fn compact(request: &mut Request<IncomingBody>) {
    if let Ok(uri) = request.uri().to_string().parse() {
        *request.uri_mut() = uri;
    }
    for value in request.headers_mut().values_mut() {
        if let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) {
            copy.set_sensitive(value.is_sensitive());
            *value = copy;
        }
    }
}

/// How hyper serves HTTP/1 here.
#[must_use]
pub fn hyper_settings(client: &Client, timer: impl Timer + Send + Sync + 'static) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // Without a timer hyper's limits on time are silently off; the value is only a switch, see `timer`.
        .timer(timer)
        .header_read_timeout(client.idle)
        .max_headers(client.header_fields)
        .max_header_size(client.header_bytes)
        .max_buf_size(BUFFER.max(client.header_bytes))
        // With half-closed connections allowed, a client that left is not noticed while its response waits.
        .half_close(false)
        .pipeline_flush(false);
    builder
}

async fn http2<H: Handler, IO>(door: Door<H>, io: IO) -> Result<(), Failure>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, lifecycle, traffic) = (door.client.clone(), door.lifecycle.clone(), door.info.bytes.clone());
    let exchanges = Arc::new(Exchanges::new());
    let service = Counting::new(Service { door, slot: None }, Arc::clone(&exchanges));
    let mut conn = pin!(http2_settings(&client).serve_connection(TokioIo::new(io), service));
    tokio::select! {
        ended = conn.as_mut() => return Ok(ended?),
        () = stays_silent(&traffic, client.handshake) => return Err("no first byte after the TLS handshake".into()),
        () = exchanges.idle(client.idle) => conn.as_mut().graceful_shutdown(),
        () = lifecycle.reached(Phase::Draining) => conn.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = conn => Ok(ended?),
        () = lifecycle.reached(Phase::Closing) => Ok(()),
    }
}

fn http2_settings(client: &Client) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(client.streams)
        .initial_stream_window_size(client.stream_window)
        .initial_connection_window_size(client.connection_window)
        .max_header_list_size(u32::try_from(client.header_bytes).unwrap_or(u32::MAX))
        .max_frame_size(16 * 1024)
        // What may wait for one stream's window; the default of about 400 KiB times the streams is too much.
        .max_send_buf_size(64 * 1024)
        // The guard against rapid resets (CVE-2023-44487): more than this unaccepted at once ends the connection.
        .max_pending_accept_reset_streams(20)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

/// Returns when nothing at all was read within `limit`, otherwise never.
async fn stays_silent(traffic: &Traffic, limit: Duration) {
    let before = traffic.read();
    sleep(limit).await;
    if traffic.read() != before {
        std::future::pending().await
    }
}
