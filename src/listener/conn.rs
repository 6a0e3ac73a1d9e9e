//! One connection: TLS, then HTTP/1.1 or HTTP/2, until its end or the process's.
//!
//! Enters: an accepted socket. Leaves: requests for the service, each with its [`ConnInfo`]. Must not touch: paths,
//! sessions, statuses (but those with which hyper refuses what is not HTTP).
//!
//! The HTTP/1 connection is hyper's concrete type and is driven here, not by a helper of some crate: while a
//! long-waiting response is pending, its socket can be taken back with `into_parts` and written by hand, which frees
//! some 12 KiB a client. That door is used by nobody yet.

use std::error::Error as StdError;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::exchanges::{Counting, Exchanges};
use super::guard::{Guarded, Hold, Traffic};
use super::peer::{ConnInfo, PeerAddr};
use super::socket::Socket;
use super::timer::HeadTimer;
use super::tls::TlsSource;
use crate::config::Client;
use crate::lifecycle::{Lifecycle, Phase};

/// Any error of a service or a body.
pub(super) type Failure = Box<dyn StdError + Send + Sync>;

/// hyper's read buffer grows up to this with large bodies; its default is about 400 KiB a connection.
const BUFFER: usize = 64 * 1024;

/// Silence on an HTTP/2 connection after which we ping, and how long the answer may take.
const PING: Duration = Duration::from_secs(20);

/// What all connections of a listener share.
#[derive(Clone)]
pub(super) struct Shared<S> {
    pub(super) service: S,
    pub(super) tls: Option<Arc<TlsSource>>,
    pub(super) client: Arc<Client>,
    pub(super) lifecycle: Lifecycle,
}

/// Drives one connection to its end; says why it ended when that was not by agreement.
pub(super) async fn drive<S, B>(shared: Shared<S>, socket: Socket, peer: PeerAddr, hold: Hold) -> Result<(), Failure>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Failure>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Failure>,
{
    let Shared { service, tls, client, lifecycle } = shared;
    socket.prepare(client.write)?;
    let traffic = Arc::new(Traffic::default());
    let info = ConnInfo { peer, tls: tls.is_some(), bytes: Arc::clone(&traffic) };
    let stream = Guarded::new(socket, client.write, traffic, Some(hold));
    let service = Informed { inner: service, info };
    match tls {
        None => serve_http1(TokioIo::new(stream), service, &client, &lifecycle).await,
        // Boxed, so that connections without TLS do not carry the room for it; so are the two below.
        Some(tls) => Box::pin(drive_tls(tls, stream, service, &client, &lifecycle)).await,
    }
}

async fn drive_tls<S, B>(
    tls: Arc<TlsSource>,
    stream: Guarded<Socket>,
    service: Informed<S>,
    client: &Client,
    lifecycle: &Lifecycle,
) -> Result<(), Failure>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Failure>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Failure>,
{
    let accept = Box::pin(timeout(client.handshake, TlsAcceptor::from(tls.config()).accept(stream)));
    let stream = tokio::select! {
        stream = accept => stream.map_err(|_| "TLS handshake took too long")??,
        () = lifecycle.reached(Phase::Closing) => return Ok(()),
    };
    // The protocol is settled by ALPN, so nothing has to be guessed from the first bytes.
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        Box::pin(serve_http2(TokioIo::new(stream), service, client, lifecycle)).await
    } else {
        Box::pin(serve_http1(TokioIo::new(stream), service, client, lifecycle)).await
    }
}

async fn serve_http1<I, S, B>(
    io: I,
    service: Informed<S>,
    client: &Client,
    lifecycle: &Lifecycle,
) -> Result<(), Failure>
where
    I: Read + Write + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Failure>,
    B: Body + 'static,
    B::Error: Into<Failure>,
{
    let timer = HeadTimer::new(client, Arc::clone(&service.info.bytes));
    let mut conn = pin!(http1_settings(client, timer).serve_connection(io, service).with_upgrades());
    tokio::select! {
        ended = conn.as_mut() => return Ok(ended?),
        () = lifecycle.reached(Phase::Draining) => conn.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = conn => Ok(ended?),
        () = lifecycle.reached(Phase::Closing) => Ok(()),
    }
}

fn http1_settings(client: &Client, timer: HeadTimer) -> http1::Builder {
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

async fn serve_http2<I, S, B>(
    io: I,
    service: Informed<S>,
    client: &Client,
    lifecycle: &Lifecycle,
) -> Result<(), Failure>
where
    I: Read + Write + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Failure>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Failure>,
{
    let traffic = Arc::clone(&service.info.bytes);
    let exchanges = Arc::new(Exchanges::new());
    let service = Counting::new(service, Arc::clone(&exchanges));
    let mut conn = pin!(http2_settings(client).serve_connection(io, service));
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

/// A service that tells each request which connection it came by.
#[derive(Clone, Debug)]
struct Informed<S> {
    inner: S,
    info: ConnInfo,
}

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for Informed<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.info.clone());
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};

    use http_body_util::Empty;
    use hyper::service::service_fn;
    use tokio::net::UnixStream;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::lifecycle::What;

    fn limits() -> Client {
        let second = Duration::from_secs(1);
        Client {
            connections: 1,
            header_bytes: 16 * 1024,
            header_fields: 100,
            handshake: second,
            header: second,
            body: second,
            write: second,
            idle: second,
            streams: 128,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            tunnel_idle: second,
        }
    }

    /// Each connection has one such task, TLS or not; what TLS needs besides is boxed.
    #[tokio::test]
    async fn the_task_of_a_connection_is_small() {
        let (near, _far) = UnixStream::pair().unwrap();
        let lifecycle = Lifecycle::new();
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let hold = Hold { permit, guard: lifecycle.guard(What::Connection) };
        let service =
            service_fn(|_| -> Ready<Result<_, Infallible>> { ready(Ok(Response::new(Empty::<&[u8]>::new()))) });
        let shared = Shared { service, tls: None, client: Arc::new(limits()), lifecycle };
        let task = drive(shared, Socket::Unix(near), PeerAddr::Unix, hold);
        let size = size_of_val(&task);
        assert!(size < 2048, "{size} bytes");
    }
}
