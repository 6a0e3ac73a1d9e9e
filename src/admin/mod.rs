//! The operator's door: liveness, readiness and metrics, and what an operator sees of the process and does to it, on a
//! listener of their own.
//!
//! Enters: connections of the operator's machines, checks of readiness, the metrics. Leaves: short answers; the orders of
//! the operator, to those who carry them out. Must not touch: the clients' listeners, what a session carries.
//!
//! Nobody logs in here. So what changes something, or tells of single clients, is only for this machine: a loopback
//! address or a unix socket, whose mode says who may; pages of other sites are refused (`guards`).

pub mod exposition;
mod formats;
mod guards;
mod hand;
mod house;
mod process;
mod status;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, VARY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tower::ServiceBuilder;
use tower_http::set_header::SetResponseHeaderLayer;

use self::exposition::Exposition;
use self::formats::Format;
use self::guards::Reach;
pub use self::house::{BackendLoad, House, Share};

/// What the form of the metrics depends on.
const ACCEPT_FIELD: HeaderValue = HeaderValue::from_static("accept");
/// Connections at once; further ones wait in the listener's backlog.
const CONNECTIONS: usize = 64;
/// From a connection's start to the end of the request's header.
const HEADER: Duration = Duration::from_secs(10);
/// From a connection's start to its end. Each carries one request, so that none can be held for ever.
const CONNECTION: Duration = Duration::from_secs(30);
/// How long accepting rests after a failure, which is mostly a lack of file descriptors and would fail again at once.
const REST: Duration = Duration::from_millis(100);

/// What is said to who asks for something else.
const PATHS: &str =
    "There are /livez, /readyz, /metrics, /status, /sessions, /log-level, /config, and a page at / here.\n";

/// Where the operator's machines connect.
#[derive(Debug)]
pub enum AdminListener {
    /// An IP address and port.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// One condition of readiness.
pub struct Check {
    name: &'static str,
    holds: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl Check {
    /// The check of this name; `holds` says why it does not hold, in a line for people. It is called at each request
    /// and must not block.
    pub fn new(name: &'static str, holds: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { name, holds: Box::new(holds) }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Check").field(&self.name).finish()
    }
}

/// What is reported.
#[derive(Debug)]
pub struct AdminState {
    /// What `/metrics` tells.
    pub exposition: Exposition,
    /// All must hold for `/readyz` to answer 200.
    pub checks: Vec<Check>,
    /// What the operator looks at and acts on.
    pub house: Arc<House>,
}

/// Answers on `listener` until dropped, which also ends the connections. It is to outlive the clients' listeners: while
/// the house drains, readiness is asked more than ever.
pub async fn serve(listener: AdminListener, state: Arc<AdminState>) -> Infallible {
    let router = router(state, listener.reach());
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        let router = router.clone();
        let accepted = match &listener {
            AdminListener::Tcp(tcp) => {
                tcp.accept().await.map(|(stream, _)| drop(connections.spawn(converse(stream, router))))
            }
            AdminListener::Unix(unix) => {
                unix.accept().await.map(|(stream, _)| drop(connections.spawn(converse(stream, router))))
            }
        };
        if let Err(error) = accepted {
            tracing::warn!(%error, "the admin listener could not accept a connection; it goes on after a rest");
            tokio::time::sleep(REST).await;
        }
    }
}

impl AdminListener {
    fn reach(&self) -> Reach {
        match self {
            Self::Tcp(tcp) if tcp.local_addr().is_ok_and(|local| local.ip().to_canonical().is_loopback()) => {
                Reach::Loopback
            }
            Self::Tcp(_) => Reach::Network,
            Self::Unix(_) => Reach::Unix,
        }
    }
}

/// By hyper's own server and not `axum::serve`, which sets no deadline for a header and keeps connections.
fn converse<S>(stream: S, router: Router) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    async move {
        match tokio::time::timeout(CONNECTION, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an admin connection broke"),
            Err(_) => tracing::debug!("an admin connection was cut: it took too long"),
        }
    }
}

/// All requests, from top to bottom.
fn router(state: Arc<AdminState>, reach: Reach) -> Router {
    let routes = Router::new()
        .route("/livez", get("ok\n"))
        .route("/readyz", get(readiness))
        .route("/metrics", get(scrape))
        .merge(hand::routes().layer(from_fn_with_state(reach, guards::only_here)))
        .fallback((StatusCode::NOT_FOUND, PATHS))
        .with_state(state);
    let all = ServiceBuilder::new()
        // First, so that they stand on refusals too.
        .layer(set_header(X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(set_header(CACHE_CONTROL, "no-store"))
        // Before anything is said: a page that asks by a name of its own learns nothing, not even the methods.
        .layer(from_fn_with_state(reach, guards::known_hosts))
        // For unknown paths as well, where the routes would say 404.
        .layer(from_fn(guards::methods))
        .service(routes);
    // Around the routes: within them, axum adds the methods of a path to each of these refusals.
    Router::new().fallback_service(all)
}

fn set_header(name: http::HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}

/// Off the runtime's threads, since it reads files.
async fn scrape(State(state): State<Arc<AdminState>>, headers: HeaderMap) -> Response {
    let format = Format::asked(&headers);
    match tokio::task::spawn_blocking(move || format.write(state.exposition.text())).await {
        Ok(samples) => ([(CONTENT_TYPE, format.content_type()), (VARY, ACCEPT_FIELD)], samples).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "The metrics could not be read; see the log.\n").into_response(),
    }
}

/// Without `verbose`, only what does not hold is told.
async fn readiness(State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    let verbose = asks_verbose(query.as_deref());
    let (mut ready, mut told) = (true, String::new());
    for Check { name, holds } in &state.checks {
        match holds() {
            Ok(()) if verbose => told.push_str(&format!("[+] {name}: ok\n")),
            Ok(()) => {}
            Err(reason) => {
                ready = false;
                told.push_str(&format!("[-] {name}: {reason}\n"));
            }
        }
    }
    if ready { (StatusCode::OK, told + "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, told + "not ready\n") }
}

fn asks_verbose(query: Option<&str>) -> bool {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes()).any(|(key, _)| key == "verbose")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixStream};

    use super::*;
    use crate::metrics::Metrics;

    fn state(checks: Vec<Check>) -> Arc<AdminState> {
        let house = Arc::new(House::sample());
        let read = Arc::clone(&house);
        let exposition = Exposition::new(&Metrics::default(), "0", move || read.readings());
        Arc::new(AdminState { exposition, checks, house })
    }

    /// A served loopback listener; the tasks end with the test's runtime.
    async fn site(checks: Vec<Check>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        tokio::spawn(serve(AdminListener::Tcp(listener), state(checks)));
        address
    }

    async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
        stream.write_all(request.as_bytes()).await.expect("the request is taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("the answer is text and ends");
        answer
    }

    async fn ask(site: SocketAddr, line: &str, host: &str) -> String {
        let stream = TcpStream::connect(site).await.expect("the site listens");
        exchange(stream, &format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
    }

    fn status(answer: &str) -> u16 {
        answer.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("the answer has a status")
    }

    fn body(answer: &str) -> &str {
        answer.split_once("\r\n\r\n").expect("the answer has a header").1
    }

    #[tokio::test]
    async fn each_path_answers_what_it_is_for() {
        let site = site(Vec::new()).await;
        let live = ask(site, "GET /livez", "localhost").await;
        assert_eq!((status(&live), body(&live)), (200, "ok\n"));
        let metrics = ask(site, "GET /metrics", "localhost").await;
        assert_eq!(status(&metrics), 200);
        assert!(metrics.contains("content-type: text/plain; version=0.0.4"));
        assert!(!body(&metrics).contains("# EOF"));
        let asking = "localhost\r\nAccept: application/openmetrics-text";
        let metrics = ask(site, "GET /metrics", asking).await;
        assert!(metrics.contains("content-type: application/openmetrics-text; version=1.0.0"));
        assert!(body(&metrics).ends_with("# EOF\n"));
        let head = ask(site, "HEAD /livez", "localhost").await;
        assert_eq!((status(&head), body(&head)), (200, ""));
        assert!(head.contains("content-length: 3\r\n"));
        assert_eq!(status(&ask(site, "GET /nothing", "localhost").await), 404);
        assert_eq!(status(&ask(site, "GET /livez/", "localhost").await), 404);
    }

    #[tokio::test]
    async fn other_methods_are_told_which_are_answered() {
        let site = site(Vec::new()).await;
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
            let answer = ask(site, &format!("{method} /livez"), "localhost").await;
            assert_eq!(status(&answer), 405, "{method}");
            assert!(answer.contains("allow: GET, HEAD\r\n"), "{method}");
            let elsewhere = ask(site, &format!("{method} /nothing"), "localhost").await;
            assert_eq!(status(&elsewhere), 405, "{method}");
        }
    }

    #[tokio::test]
    async fn readiness_follows_its_checks_and_says_why() {
        let draining = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&draining);
        let drain = Check::new("drain", move || match seen.load(Ordering::Relaxed) {
            true => Err("draining since a minute".to_owned()),
            false => Ok(()),
        });
        let site = site(vec![drain, Check::new("listener", || Ok(()))]).await;

        let ready = ask(site, "GET /readyz", "localhost").await;
        assert_eq!((status(&ready), body(&ready)), (200, "ok\n"));
        draining.store(true, Ordering::Relaxed);
        let unready = ask(site, "GET /readyz", "localhost").await;
        assert_eq!((status(&unready), body(&unready)), (503, "[-] drain: draining since a minute\nnot ready\n"));
        let verbose = ask(site, "GET /readyz?verbose", "localhost").await;
        let expected = "[-] drain: draining since a minute\n[+] listener: ok\nnot ready\n";
        assert_eq!((status(&verbose), body(&verbose)), (503, expected));
        assert_eq!(status(&ask(site, "GET /livez", "localhost").await), 200);
        draining.store(false, Ordering::Relaxed);
        let verbose = ask(site, "GET /readyz?verbose=1", "localhost").await;
        assert_eq!((status(&verbose), body(&verbose)), (200, "[+] drain: ok\n[+] listener: ok\nok\n"));
    }

    #[tokio::test]
    async fn on_loopback_a_name_from_outside_is_refused() {
        let site = site(Vec::new()).await;
        for host in ["localhost", "LocalHost:9090", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:9090", "10.0.0.7:1"] {
            assert_eq!(status(&ask(site, "GET /metrics", host).await), 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.nip.example:80", "a@localhost", "", "\u{e4}"]
        {
            assert_eq!(status(&ask(site, "GET /metrics", host).await), 403, "{host}");
        }
        assert_eq!(status(&ask(site, "GET http://evil.example/metrics", "localhost").await), 403);
        let refused = ask(site, "POST /livez", "evil.example").await;
        assert!(status(&refused) == 403 && !refused.contains("allow"), "{refused}");
    }

    #[tokio::test]
    async fn a_request_has_one_host() {
        let site = site(Vec::new()).await;
        assert_eq!(status(&ask(site, "GET /livez", "localhost\r\nHost: localhost").await), 400);
        for (request, expected) in [("GET /livez HTTP/1.1\r\n\r\n", 400), ("GET /livez HTTP/1.0\r\n\r\n", 200)] {
            let stream = TcpStream::connect(site).await.expect("the site listens");
            assert_eq!(status(&exchange(stream, request).await), expected, "{request}");
        }
    }

    #[tokio::test]
    async fn a_unix_socket_answers_to_any_name() {
        let path = std::env::temp_dir().join(format!("underpass-admin-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).expect("the path is this process's own");
        tokio::spawn(serve(AdminListener::Unix(listener), state(Vec::new())));
        let stream = UnixStream::connect(&path).await.expect("the site listens");
        std::fs::remove_file(&path).expect("the socket was bound there");
        let answer = exchange(stream, "GET /livez HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
        assert_eq!(status(&answer), 200);
    }

    #[tokio::test]
    async fn connections_are_bounded_and_the_next_waits_its_turn() {
        let site = site(Vec::new()).await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(site).await.expect("the backlog takes it"));
        }
        let late = ask(site, "GET /livez", "localhost");
        tokio::pin!(late);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut late).await;
        assert!(early.is_err(), "answered beyond the bound");
        silent.pop();
        assert_eq!(status(&late.await), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_cut_and_makes_room() {
        let (ours, theirs) = tokio::io::duplex(64);
        let started = tokio::time::Instant::now();
        converse(theirs, router(state(Vec::new()), Reach::Unix)).await;
        assert_eq!(started.elapsed(), HEADER);
        drop(ours);
    }
}
