//! What hyper serves: HTTP/2, and the requests of HTTP/1 that come in pieces or are ambiguous.
//!
//! Enters: a connection. Leaves: requests for the handler; of HTTP/1, the connection behind an exchange, or with the request
//! whose response may take long. Must not touch: paths, sessions, statuses (except where hyper refuses what is not HTTP).

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, COOKIE, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::rt::Timer;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use super::context::ConnContext;
use super::extended_connect::{self, Asked};
use super::given::goes_on;
use super::h2_idle::{Counting, Exchanges};
use super::h2_preface::Beginning;
use super::h2_window::Streams;
use super::handler::{Handler, Latency, ResponseFuture};
use super::header_deadline::{Awaited, HeaderTimer};
use super::memory;
use super::traffic::Traffic;
use crate::config::Client;
use crate::http::as_written::NamesKeptByHyper;
use crate::http::bare::Bare;
use crate::http::body::Body;
use crate::http::incoming::{BoxError, IncomingBody};
use crate::http::read_request::Head;
use crate::http::replay::Replay;
use crate::lifecycle::Phase;

/// hyper's read buffer grows up to this with large bodies, in bytes; its default is about 400 KiB a connection.
const MAX_BUFFER: usize = 64 * 1024;

/// Silence on an HTTP/2 connection after which we ping, and how long the reply may take.
const PING: Duration = Duration::from_secs(20);

/// A request that was taken out of hyper, because its response may take long.
pub(super) struct TakenRequest {
    pub(super) request: Box<Request<IncomingBody>>,
    pub(super) latency: Latency,
}

/// Where hyper's service leaves a request that is to be taken.
type Slot = Arc<Mutex<Option<TakenRequest>>>;

/// The handler as hyper calls it.
#[derive(Clone)]
struct Service<H> {
    context: ConnContext<H>,
    /// `None` where no request is taken, because the connection is not one exchange at a time.
    slot: Option<Slot>,
    /// The head of the first request, which was read before.
    first: Arc<Mutex<Option<Head>>>,
    /// The exchanges of an HTTP/2 connection.
    exchanges: Option<Arc<Exchanges>>,
    /// The connection may be given to a successor, as far as its stream is concerned.
    is_bare: bool,
}

// === HTTP/1 ===

/// Lets hyper serve until the connection ends, until a request is in the slot, or until an exchange is over: then the connection is
/// taken back, with the request if there is one. `first` is the head that hyper reads first.
///
/// That an exchange is over is hyper's own word: it waits for the next head, and does so only where the request's body was read
/// to its end, the response was encoded to its end, and neither side asks for the connection's end. Beside that the socket must
/// have taken all.
pub(super) async fn serve_until_taken<H, IO>(
    context: ConnContext<H>,
    io: Replay<IO>,
    first: Head,
) -> Result<Option<(Replay<IO>, Option<TakenRequest>)>, BoxError>
where
    H: Handler,
    IO: AsyncRead + AsyncWrite + Bare + Unpin + Send + 'static,
{
    let (shared, traffic) = (Arc::clone(&context.shared), Arc::clone(&context.info.bytes));
    let (slot, is_bare) = (Slot::default(), io.is_bare());
    let first = Arc::new(Mutex::new(Some(first)));
    let service = Service { context, slot: Some(Arc::clone(&slot)), first, exchanges: None, is_bare };
    let (timer, awaits) = HeaderTimer::new(shared.client.header);
    let mut conn = http1_settings(&shared.client, timer).serve_connection(TokioIo::new(io), service);
    let mut moved = pin!(shared.lifecycle.let_go_of());
    let mut close = pin!(shared.lifecycle.reached(Phase::Closing));
    let mut written = traffic.written();
    let taken = poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut conn).poll(cx) {
            return Poll::Ready(ended.map(|()| None));
        }
        // hyper reads the next request when the body of the last one has come, although it may still have the end of an
        // early response to write. That end would be lost.
        if !traffic.is_blocked() {
            if let Some(taken) = slot.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Poll::Ready(Ok(Some(Some(taken))));
            }
            let is_over = match awaits.head() {
                Some(Awaited::Next) => true,
                // The successor can read it.
                Some(Awaited::First) => is_bare && !traffic.is_bound() && moved.as_mut().poll(cx).is_ready(),
                None => false,
            };
            if is_over {
                return Poll::Ready(Ok(Some(None)));
            }
        }
        // Where a body ends between two looks of hyper's at it, hyper writes the end and does not go on to the next head.
        if std::mem::replace(&mut written, traffic.written()) != written {
            cx.waker().wake_by_ref();
        }
        close.as_mut().poll(cx).map(|()| Ok(None))
    })
    .await?;
    Ok(taken.map(|taken| {
        let parts = conn.into_parts();
        let mut io = parts.io.into_inner();
        io.put_back(&parts.read_buf);
        (io, taken)
    }))
}

impl<H: Handler> hyper::service::Service<Request<Incoming>> for Service<H> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let ConnContext { shared, info } = &self.context;
        let handler = &shared.handler;
        if request.version() == Version::HTTP_2 && field_lines(request.headers()) > shared.client.header_fields {
            return Box::pin(async { Ok(too_many_fields()) });
        }
        let is_http2 = request.version() == Version::HTTP_2;
        let asked = extended_connect::accept(&mut request);
        let mut request = request.map(IncomingBody::Streaming);
        let stream = match asked {
            Asked::Plain => None,
            Asked::WebSocket(stream) => Some(stream),
            Asked::Unknown => return Box::pin(async { Ok(extended_connect::unknown()) }),
        };
        if !is_http2 {
            let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
            match first.filter(|head| head.is_known) {
                Some(Head { written: Some(written), .. }) => drop(request.extensions_mut().insert(written)),
                Some(_) => {}
                None => drop(request.extensions_mut().insert(NamesKeptByHyper)),
            }
        }
        let head = memory::size_of_head(&request);
        memory::hold_head(&shared.budget, &mut request, head);
        let latency = handler.route(&mut request, info);
        match &self.slot {
            Some(slot) if latency != Latency::Short && request.body().is_end_stream() => {
                if latency == Latency::UntilDialled {
                    compact(&mut request);
                }
                let taken = TakenRequest { request: Box::new(request), latency };
                slot.lock().unwrap_or_else(PoisonError::into_inner).replace(taken);
                Box::pin(std::future::pending())
            }
            _ if let Some(stream) = stream => {
                let response = handler.respond(request);
                let exchange = self.exchanges.as_ref().map(Exchanges::begin);
                Box::pin(async move { Ok(extended_connect::answer(response.await, stream, exchange)) })
            }
            _ => {
                let (version, is_bare) = (request.version(), self.is_bare);
                let (lifecycle, traffic) = (shared.lifecycle.clone(), Arc::clone(&info.bytes));
                let response = through_hyper(handler.respond(request), version);
                Box::pin(async move {
                    let mut response = response.await;
                    if !is_http2 && !goes_on(&lifecycle, is_bare && !traffic.is_bound()) {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok(response)
                })
            }
        }
    }
}

/// Fields as HTTP/1.1 would have them: HTTP/2 may split `Cookie` (RFC 9113 section 8.2.3), which a backend gets in one line.
fn field_lines(headers: &HeaderMap) -> usize {
    let crumbs = headers.get_all(COOKIE).iter().count();
    headers.len() - crumbs.saturating_sub(1)
}

/// What hyper answers itself over HTTP/1.1, and does not count over HTTP/2.
fn too_many_fields() -> Response<Body> {
    let mut response = Response::new(Body::full("too many header fields\n"));
    *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    response
}

/// A response that hyper writes, to a request of this version.
async fn through_hyper(response: ResponseFuture, version: Version) -> Response<Body> {
    let mut response = response.await;
    if matches!(response.body(), Body::Upgrade(_)) {
        // A handshake with a body, or over HTTP/2: neither is one (RFC 6455 section 4.1).
        response = Response::new(Body::full("a WebSocket handshake has no body\n"));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if version == Version::HTTP_10 {
        // A body without a length ends with the connection, whatever the client asked for. In a response of a newer
        // version hyper would add that it keeps the connection.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        *response.version_mut() = version;
    }
    Body::with_known_length(response).await
}

/// Copies a request's head out of hyper's read buffer, all 8 KiB of which it would keep while it waits.
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

/// hyper's settings towards clients.
#[must_use]
pub fn http1_settings(client: &Client, timer: impl Timer + Send + Sync + 'static) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // Without a timer hyper's limits on time are silently off; the value is only a switch, see `header_deadline`.
        .timer(timer)
        .header_read_timeout(client.idle)
        // Names are written as they came: by us where we read them, by hyper where it has.
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_headers(client.header_fields)
        .max_header_size(client.header_bytes)
        .max_buf_size(MAX_BUFFER.max(client.header_bytes))
        // With half-closed connections allowed, a client that left is not noticed while its response waits.
        .half_close(false)
        .pipeline_flush(false);
    builder
}

// === HTTP/2 ===

/// Serves HTTP/2 on a connection, to its end.
pub(super) async fn serve_http2<H: Handler, IO>(context: ConnContext<H>, io: IO) -> Result<(), BoxError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (shared, traffic) = (Arc::clone(&context.shared), Arc::clone(&context.info.bytes));
    let (client, lifecycle) = (&shared.client, &shared.lifecycle);
    let exchanges = Arc::new(Exchanges::new(Arc::clone(&traffic)));
    traffic.become_idle();
    let mut held = shared.budget.claim();
    held.set(memory::HTTP2);
    let streams = Streams::default();
    let service =
        Service { context, slot: None, first: Arc::default(), exchanges: Some(Arc::clone(&exchanges)), is_bare: false };
    let service = Counting::new(service, Arc::clone(&exchanges));
    let (io, begun) = Beginning::new(io);
    let mut conn = pin!(http2_settings(client, streams.clone()).serve_connection(TokioIo::new(io), service));
    let mut watch = pin!(streams.watch(client.write, &traffic));
    tokio::select! {
        ended = conn.as_mut() => return Ok(ended?),
        () = begun.late(client.handshake) => return Err("no HTTP/2 preface and settings in time".into()),
        () = watch.as_mut() => {}
        () = exchanges.idle(client.idle) => conn.as_mut().graceful_shutdown(),
        () = ended(&traffic) => return Ok(()),
        () = lifecycle.leaving() => conn.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = conn => Ok(ended?),
        () = watch => Ok(()),
        // What is left then is a goodbye that is not answered, or the end of a response that finds no window.
        () = leave(&exchanges, client.write, &traffic) => Ok(()),
        () = lifecycle.reached(Phase::Closing) => Ok(()),
    }
}

/// Returns when no exchange has been open for `limit` from now on, and the socket takes what is written.
async fn leave(exchanges: &Exchanges, limit: Duration, traffic: &Traffic) {
    sleep(limit).await;
    exchanges.idle(limit).await;
    while traffic.is_blocked() {
        sleep(limit / 4).await;
    }
}

fn http2_settings(client: &Client, streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
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
        .keep_alive_timeout(PING)
        .enable_connect_protocol();
    builder
}

/// Returns when others need the place of this connection, which is idle.
async fn ended(traffic: &Traffic) {
    poll_fn(|cx| {
        traffic.introduce_task(cx);
        if traffic.must_end() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
