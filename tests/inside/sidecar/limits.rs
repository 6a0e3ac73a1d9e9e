//! One client cannot take all: what its address may have and do, and that others do not notice. Clients here are told apart
//! by what a trusted proxy says, for all of them are on this machine. Enters: `[limits]`. Leaves: who is answered what.

use std::net::SocketAddr;

use futures_util::StreamExt as _;
use http::Method;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, Instant};

use crate::support::plain::{Line, silent};
use crate::support::site::{Backend, Reply, Site, soon};

/// Loopback speaks for others, and is exempt from nothing.
fn behind(backend: SocketAddr, limits: &str) -> Site {
    let toml = format!(
        "trusted_proxies = [\"127.0.0.1\"]\nadmin = \"127.0.0.1:0\"\n[limits]\nexempt = [\"198.51.100.0/24\"]\n{limits}"
    );
    Site::start(backend, &toml)
}

async fn from(site: &Site, client: &str, method: Method, path: &str) -> Reply {
    site.request(method, path, &[("x-forwarded-for", client)], "").await
}

fn is_limited(reply: &Reply, limit: &str) -> u64 {
    assert_eq!((reply.status.as_u16(), reply.error().as_str()), (429, "rate_limited"), "{}", reply.text());
    assert!(reply.text().contains(limit), "{}", reply.text());
    reply.header("retry-after").expect("Retry-After").parse().expect("seconds")
}

#[tokio::test]
async fn the_requests_of_a_client_have_a_rate() {
    let site = behind(Backend::echo().await, "requests = 1\n");
    let info = "/_underpass/info";
    let mut refused = 0;
    for _ in 0..30 {
        let reply = from(&site, "192.0.2.1", Method::GET, info).await;
        if reply.status != 200 {
            assert!((1..=2).contains(&is_limited(&reply, "requests")));
            refused += 1;
        }
    }
    // Ten at once, and one for each second that this took.
    assert!((1..=20).contains(&refused), "{refused}");
    assert_eq!(from(&site, "192.0.2.2", Method::GET, info).await.status, 200);
    for _ in 0..30 {
        assert_eq!(from(&site, "198.51.100.7", Method::GET, info).await.status, 200, "exempt");
    }
    assert_eq!(site.metric("underpass_limited_total{limit=\"requests\"}").await, f64::from(refused));
}

#[tokio::test]
async fn the_sessions_of_a_client_are_counted_until_they_end() {
    let mut backend = Backend::start().await;
    let site = behind(backend.at, "sessions = 1\n");
    let open = "/chat?underpass=open";
    // Both are one client: a /64.
    assert_eq!(from(&site, "2001:db8::1", Method::POST, open).await.status, 200);
    is_limited(&from(&site, "2001:db8::2", Method::POST, open).await, "sessions");
    assert_eq!(from(&site, "2001:db8:0:1::1", Method::POST, open).await.status, 200);
    backend.accept().await.close(1000, "").await;
    site.counts("underpass_sessions_ended_total{reason=\"backend_closed\"}", 1.0).await;
    // An ended session lasts until its client has heard of that, or the grace is over.
    let reply = from(&site, "2001:db8::3", Method::POST, open).await;
    is_limited(&reply, "limits.sessions");
}

#[tokio::test]
async fn opens_have_a_rate_and_an_event_source_is_told_to_come_back() {
    let site = behind(Backend::echo().await, "opens = 1\n");
    let mut limited = None;
    for _ in 0..20 {
        let reply = from(&site, "192.0.2.1", Method::POST, "/?underpass=open").await;
        if reply.status != 200 {
            limited = Some(is_limited(&reply, "opens"));
            break;
        }
    }
    assert!(limited.is_some());
    let reply = from(&site, "192.0.2.1", Method::GET, "/?underpass=sse").await;
    assert!(reply.status == 200 && reply.text().contains("event: unavailable"), "{}", reply.text());
    assert!(reply.text().contains("rate_limited"), "{}", reply.text());
}

#[tokio::test]
async fn connections_of_one_address_are_bounded() {
    let site = Site::start(Backend::echo().await, "admin = \"127.0.0.1:0\"\n[limits]\nexempt = []\nconnections = 3\n");
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(site.at).await.expect("it listens"));
        site.counts("underpass_connections_active", held.len() as f64).await;
    }
    let mut one_more = TcpStream::connect(site.at).await.expect("the kernel accepts");
    let read = soon("the end", one_more.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert_eq!(site.metric("underpass_limited_total{limit=\"connections\"}").await, 1.0);
    held.pop();
    site.counts("underpass_connections_active", 2.0).await;
    site.get("/_underpass/info").await.json();
}

/// Answers handshakes at once, but for those under `/slow`, which it never answers.
async fn thoughtful() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut start = [0; 9];
                socket.readable().await.expect("a request");
                socket.peek(&mut start).await.expect("a request");
                if start.starts_with(b"GET /slow") {
                    return std::future::pending().await;
                }
                let mut socket = tokio_tungstenite::accept_async(socket).await.expect("a handshake");
                while let Some(Ok(_)) = socket.next().await {}
            });
        }
    });
    at
}

/// Handshakes that are answered late, or to a backend that is slow to connect, whoever sends them: others have their own
/// turns, and the next path has them too.
#[tokio::test]
async fn what_is_slow_to_connect_or_to_answer_holds_up_nobody() {
    let (backend, silent) = (thoughtful().await, silent().await);
    let site = Site::from_toml(&format!(
        "listen = \"127.0.0.1:0\"\nupstream = \"ws://{backend}\"\nadmin = \"127.0.0.1:0\"\n\
         [[route]]\npath = \"/unconnected\"\nupstream = \"wss://{silent}\"\n\
         [backend]\ndials = 2\nconnect = \"15s\"\nhandshake = \"15s\"\n"
    ));
    let mut waiting = Vec::new();
    for path in ["/slow", "/unconnected"] {
        for _ in 0..150 {
            let mut line = Line::to(site.at).await;
            let handshake = "HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
            line.say(format!("GET {path} {handshake}")).await;
            waiting.push(line);
        }
    }
    // More want the one that does not connect than have turns.
    site.counts("underpass_connections_active", 300.0).await;
    let begin = Instant::now();
    for _ in 0..40 {
        site.open("/quick").await;
    }
    // With one second for each that has to wait for a turn, it were 40.
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    drop(waiting);
}

/// One client has so many handshakes under way, and no more.
#[tokio::test]
async fn handshakes_under_way_are_bounded_for_each_client() {
    let site = behind(silent().await, "handshakes = 2\n");
    let handshake = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                     X-Forwarded-For: 192.0.2.1\r\n\r\n";
    let mut lines = Vec::new();
    for _ in 0..3 {
        let mut line = Line::to(site.at).await;
        line.say(handshake).await;
        lines.push(line);
    }
    site.counts("underpass_limited_total{limit=\"handshakes\"}", 1.0).await;
    is_limited(&from(&site, "192.0.2.1", Method::POST, "/?underpass=open").await, "limits.handshakes");
    // Those that are given up make room.
    lines.clear();
    site.counts("underpass_connections_active", 0.0).await;
    let mut line = Line::to(site.at).await;
    line.say(handshake).await;
    site.counts("underpass_connections_active", 1.0).await;
    assert_eq!(site.metric("underpass_limited_total{limit=\"handshakes\"}").await, 2.0);
}
