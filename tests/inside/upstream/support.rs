//! Enters: scripts of backends. Leaves: their addresses and what they saw. Must not touch: fixed ports, sleeps.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, request};
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use underpass::config::{Backend, Endpoint, Upstream, UpstreamTls};
use underpass::http::incoming::IncomingBody;
use underpass::upstream::dial::{Dialer, fresh_key};
use underpass::upstream::headers::{Forwarded, session_handshake};
use underpass::upstream::proxy::Proxy;

/// Nothing here should take that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn settings() -> Backend {
    Backend {
        connect: PATIENCE,
        handshake: PATIENCE,
        response: PATIENCE,
        ping: Duration::ZERO,
        pong: PATIENCE,
        idle: PATIENCE,
        pool: 8,
        dials: 64,
        ..Backend::default()
    }
}

pub(crate) fn tcp(address: SocketAddr) -> Upstream {
    Upstream { endpoint: Endpoint::Tcp { host: address.ip().to_string(), port: address.port() }, tls: None }
}

pub(crate) fn secured(host: &str, address: SocketAddr, tls: UpstreamTls) -> Upstream {
    Upstream { endpoint: Endpoint::Tcp { host: host.to_owned(), port: address.port() }, tls: Some(tls) }
}

pub(crate) fn dialer(upstream: &Upstream) -> Dialer {
    Dialer::new(upstream, &settings()).expect("a usable upstream")
}

/// A backend that serves one connection by this script. Await the handle: panics of the script come out there.
pub(crate) async fn once<S, F, T>(script: S) -> (Upstream, JoinHandle<T>)
where
    S: FnOnce(TcpStream) -> F + Send + 'static,
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = tcp(listener.local_addr().expect("an address"));
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        script(stream).await
    });
    (upstream, served)
}

/// Reads up to the empty line that ends a head. One byte at a time, so that nothing behind it is lost.
pub(crate) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a whole head"));
    }
    String::from_utf8(head).expect("text")
}

/// Everything up to the end, clean or not.
pub(crate) async fn read_rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut rest = Vec::new();
    // A reset is an end as well; what came before it is in the buffer.
    let _ = stream.read_to_end(&mut rest).await;
    String::from_utf8_lossy(&rest).into_owned()
}

pub(crate) async fn write(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.expect("a reader");
}

/// A field of a head in text form.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

pub(crate) fn accept_for(head: &str) -> String {
    derive_accept_key(field(head, "sec-websocket-key").expect("a key").as_bytes())
}

pub(crate) fn forwarded() -> Forwarded<'static> {
    Forwarded {
        chain: "192.0.2.1".into(),
        proto: "http",
        host: "app.example",
        trusted: false,
        prefix: "",
        identity: Vec::new(),
    }
}

pub(crate) fn handshake() -> request::Parts {
    let target = "/chat?room=1".parse().expect("a target");
    let host = HeaderValue::from_static("app.example");
    session_handshake(&HeaderMap::new(), &target, &["a".to_owned()], &forwarded(), &host, fresh_key())
}

/// Hyper's HTTP/1.1 server with the proxy behind it, as the gateway will have it; errors are plain 502.
pub(crate) async fn front(proxy: Proxy) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let proxy = Arc::new(proxy);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let proxy = proxy.clone();
            let answer = service_fn(move |request| {
                let proxy = proxy.clone();
                async move { Ok::<_, Infallible>(answer(&proxy, request).await) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}

type Answer = Response<Either<IncomingBody, Empty<Bytes>>>;

async fn answer(proxy: &Proxy, request: Request<Incoming>) -> Answer {
    match proxy.forward(request, &forwarded(), None).await {
        Ok(response) => response.map(Either::Left),
        Err(_) => {
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    }
}
