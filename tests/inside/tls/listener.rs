//! TLS listeners against real clients: ALPN, renewal, and the limits of HTTP/2 connections. Must not touch: fixed ports.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use underpass::config::{Client, ListenerTls, TlsFiles};
use underpass::http::body::Body;
use underpass::http::incoming::IncomingBody;
use underpass::lifecycle::moving::Kind;
use underpass::listener::tls::TlsSource;

use super::Authority;
use super::frames::{DATA, Frames, GOAWAY, HEADERS, get};
use crate::listener::edge::{Edge, FOREVER, client, ok, one_ok, rest};
use crate::support::scratch::Scratch;

const SHORT: Duration = Duration::from_millis(150);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// The files of a listener, and the only authority that its clients trust.
pub(super) struct Own {
    scratch: Scratch,
    files: TlsFiles,
    authority: Authority,
}

impl Own {
    pub(super) fn new() -> Self {
        let (scratch, authority) = (Scratch::new("listener"), Authority::new());
        Self { files: authority.issue("localhost").files(&scratch), scratch, authority }
    }

    /// Both are others from now on.
    fn renew(&mut self) {
        self.authority = Authority::new();
        self.files = self.authority.issue("localhost").files(&self.scratch);
    }

    pub(super) fn source(&self) -> Arc<TlsSource> {
        Arc::new(
            TlsSource::load(&ListenerTls { certificates: vec![self.files.clone()], clients: None })
                .expect("sound files"),
        )
    }

    pub(super) async fn connect(&self, edge: &Edge, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        self.authority.connect(edge.connect().await, alpn).await
    }
}

/// Answers with the version it was asked in.
async fn version(request: Request<IncomingBody>) -> Response<Body> {
    Response::new(Body::full(format!("{:?}", request.version())))
}

async fn ask_http2(stream: TlsStream<TcpStream>) -> String {
    let (mut send, conn) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("an HTTP/2 connection");
    let conn = tokio::spawn(conn);
    let request =
        Request::get("https://localhost/").version(Version::HTTP_2).body(Empty::<Bytes>::new()).expect("sound parts");
    let body =
        send.send_request(request).await.expect("a whole answer").into_body().collect().await.expect("a whole answer");
    drop(send);
    conn.await.expect("the task does not panic").expect("the connection ends well");
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}

#[tokio::test]
async fn alpn_chooses_the_protocol() {
    let own = Own::new();
    let edge = Edge::tcp(client(), Some(own.source()), version);
    let stream = own.connect(&edge, &["h2", "http/1.1"]).await.expect("a TLS handshake");
    assert_eq!(ask_http2(stream).await, "HTTP/2.0");
    for alpn in [&["http/1.1"] as &[_], &[]] {
        let mut stream = own.connect(&edge, alpn).await.expect("a TLS handshake");
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .expect("the other end reads");
        assert!(rest(&mut stream).await.ends_with("\r\n\r\nHTTP/1.1"));
    }
    assert!(own.connect(&edge, &["spdy/3"]).await.is_err());
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_connections() {
    let mut own = Own::new();
    let source = own.source();
    let edge = Edge::tcp(client(), Some(Arc::clone(&source)), ok);
    let mut old = own.connect(&edge, &[]).await.expect("a TLS handshake");
    own.renew();
    assert!(own.connect(&edge, &[]).await.is_err(), "the new one is not shown before the reload");
    source.reload().expect("sound files, or the old ones");
    own.connect(&edge, &[]).await.expect("a TLS handshake");
    old.write_all(GET).await.expect("the other end reads");
    one_ok(&mut old).await;
}

#[tokio::test]
async fn an_idle_http2_connection_makes_room() {
    let own = Own::new();
    let edge = Edge::tcp(Client { connections: 1, idle: FOREVER * 10, ..client() }, Some(own.source()), version);
    let io = TokioIo::new(own.connect(&edge, &["h2"]).await.expect("a TLS handshake"));
    let (mut send, conn) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("an HTTP/2 connection");
    let conn = tokio::spawn(conn);
    let request = Request::get("https://localhost/").body(Empty::<Bytes>::new()).expect("sound parts");
    let response = send.send_request(request).await.expect("an answer");
    response.into_body().collect().await.expect("a whole answer");
    let stream = timeout(FOREVER, own.connect(&edge, &["h2"])).await.expect("a place").expect("a TLS handshake");
    assert_eq!(ask_http2(stream).await, "HTTP/2.0");
    let _ = timeout(FOREVER, conn).await.expect("the idle one ends").expect("the task does not panic");
}

#[tokio::test]
async fn idle_http2_connections_end() {
    let own = Own::new();
    let edge = Edge::tcp(Client { idle: SHORT, ..client() }, Some(own.source()), version);
    let stream = own.connect(&edge, &["h2"]).await.expect("a TLS handshake");
    let io = TokioIo::new(stream);
    let (mut send, conn) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("an HTTP/2 connection");
    let conn = tokio::spawn(conn);
    let request = Request::get("https://localhost/").body(Empty::<Bytes>::new()).expect("sound parts");
    assert!(send.send_request(request).await.expect("a whole answer").status().is_success());
    // `send` stays, so only the server can end this.
    timeout(FOREVER, conn)
        .await
        .expect("an idle connection stays")
        .expect("the task does not panic")
        .expect("the connection ends well");
    assert!(send.is_closed());
}

#[tokio::test]
async fn fields_are_counted_over_http2_as_well_and_a_split_cookie_is_one() {
    let own = Own::new();
    let edge = Edge::tcp(Client { header_fields: 10, ..client() }, Some(own.source()), version);
    let io = TokioIo::new(own.connect(&edge, &["h2"]).await.expect("a TLS handshake"));
    let (mut send, conn) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("an HTTP/2 connection");
    tokio::spawn(conn);
    for (cookies, others, status) in [(0, 10, 200), (0, 11, 431), (30, 9, 200), (30, 10, 431)] {
        let mut request = Request::get("https://localhost/");
        for _ in 0..cookies {
            request = request.header("cookie", "a=1");
        }
        for at in 0..others {
            request = request.header(format!("x-{at}"), "1");
        }
        let request = request.body(Empty::<Bytes>::new()).expect("sound parts");
        let response = send.send_request(request).await.expect("a whole answer");
        assert_eq!(response.status(), status, "{cookies} cookies and {others} others");
    }
}

#[tokio::test]
async fn a_tls_connection_that_promises_http2_must_say_something() {
    let own = Own::new();
    let edge = Edge::tcp(Client { handshake: SHORT, ..client() }, Some(own.source()), ok);
    let mut stream = own.connect(&edge, &["h2"]).await.expect("a TLS handshake");
    rest(&mut stream).await;
    timeout(FOREVER, edge.lifecycle.emptied()).await.expect("all leave in time");
}

#[tokio::test]
async fn an_unfinished_tls_handshake_ends() {
    let own = Own::new();
    let edge = Edge::tcp(Client { handshake: SHORT, ..client() }, Some(own.source()), ok);
    let start = Instant::now();
    assert_eq!(edge.throw(b"\x16\x03\x01").await, "");
    assert!(start.elapsed() >= SHORT);
}

#[tokio::test]
async fn a_tls_connection_ends_behind_its_exchange_when_the_process_hands_over() {
    let (own, go) = (Own::new(), Arc::new(Notify::new()));
    let (came, mut comes) = mpsc::unbounded_channel();
    let waits = Arc::clone(&go);
    let edge = Edge::tcp(client(), Some(own.source()), move |request| {
        let waits = Arc::clone(&waits);
        came.send(()).expect("the test looks");
        async move {
            waits.notified().await;
            ok(request).await
        }
    });
    let mut busy = own.connect(&edge, &[]).await.expect("a TLS handshake");
    let mut idle = own.connect(&edge, &[]).await.expect("a TLS handshake");
    for stream in [&mut busy, &mut idle] {
        go.notify_one();
        stream.write_all(GET).await.expect("the other end reads");
        comes.recv().await.expect("it has come");
        one_ok(stream).await;
    }
    busy.write_all(GET).await.expect("the other end reads");
    comes.recv().await.expect("it has come");
    let mut parcels = edge.lifecycle.begin_move();
    edge.lifecycle.let_go();
    // An end without close_notify would be an error here.
    assert_eq!(timeout(FOREVER, idle.read(&mut [0])).await.expect("it ends").expect("in good order"), 0);
    go.notify_one();
    let answer = one_ok(&mut busy).await.to_ascii_lowercase();
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(timeout(FOREVER, busy.read(&mut [0])).await.expect("it ends").expect("in good order"), 0);
    timeout(FOREVER, edge.lifecycle.emptied()).await.expect("nothing is left");
    assert_eq!(parcels.recv().await.map(|parcel| parcel.kind), Some(Kind::Listener));
    assert!(parcels.try_recv().is_err(), "what is encrypted cannot be given");
}

#[tokio::test]
async fn an_http2_connection_is_told_to_go_away_when_the_process_hands_over() {
    let own = Own::new();
    let edge = Edge::tcp(client(), Some(own.source()), ok);
    let mut frames = Frames::begin(own.connect(&edge, &["h2"]).await.expect("a TLS handshake"), &[]).await;
    frames.say(&get(1)).await;
    while !frames.next_of(&[HEADERS, DATA]).await.expect("an answer").ends_stream() {}
    let _parcels = edge.lifecycle.begin_move();
    edge.lifecycle.let_go();
    assert_eq!(frames.next_of(&[GOAWAY]).await.expect("it is told").code(), 0);
    // The second one says which stream was the last; then it waits for nothing but the answer to its ping.
    while frames.next_of(&[GOAWAY]).await.is_some() {}
    timeout(FOREVER, edge.lifecycle.emptied()).await.expect("the connection ends");
}
