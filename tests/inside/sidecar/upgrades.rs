//! Upgrades to protocols that are no WebSocket: passed where a route names them, and nowhere else.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::plain::{Line, canned};
use crate::support::site::{Site, soon};

const ASKS: &str = "POST /exec?x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\
                    X-Forwarded-For: 203.0.113.66\r\n\r\n";

/// One connection of a backend that switches to this protocol, and the head that it was asked by.
async fn switched(listener: &TcpListener, protocol: &str) -> (TcpStream, String) {
    let (socket, _) = soon("a connection", listener.accept()).await.expect("a connection");
    let mut line = Line(socket);
    let head = line.head().await;
    line.say(format!("HTTP/1.1 101 Switching\r\nUpgrade: {protocol}\r\nConnection: Upgrade\r\nX-A: b\r\n\r\nfirst"))
        .await;
    (line.0, head)
}

async fn site(more: &str) -> (Site, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let backend = listener.local_addr().expect("an address");
    let site = Site::start(backend, &format!("admin = \"127.0.0.1:0\"\nupgrades = [\"spdy/3.1\"]\n{more}"));
    (site, listener)
}

#[tokio::test]
async fn a_protocol_that_a_route_names_is_passed_both_ways() {
    let (site, listener) = site("").await;
    let mut client = Line::to(site.at).await;
    // In pieces, so that the other reader of requests has it as well.
    for (at, piece) in [ASKS, &ASKS[..40]].into_iter().enumerate() {
        client = Line::to(site.at).await;
        client.say(piece).await;
        if at == 1 {
            tokio::task::yield_now().await;
            client.say(&ASKS[40..]).await;
        }
        let (mut backend, head) = switched(&listener, "SPDY/3.1").await;
        assert!(head.starts_with("post /exec?x http/1.1\r\n") && head.contains("\r\nupgrade: spdy/3.1\r\n"), "{head}");
        assert!(head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n") && !head.contains("content-length"), "{head}");
        let answer = client.head().await;
        assert!(answer.starts_with("http/1.1 101 ") && answer.contains("\r\nupgrade: spdy/3.1\r\n"), "{answer}");
        assert!(answer.contains("\r\nx-a: b\r\n"), "{answer}");
        assert_eq!(client.bytes(5).await, b"first");
        // No frames: what looks like the close of a WebSocket is not.
        client.say(b"\x88\x00then more").await;
        let mut read = [0; 11];
        soon("bytes", backend.read_exact(&mut read)).await.expect("they come");
        assert_eq!(&read, b"\x88\x00then more");
        backend.write_all(b"\x88\x00and back").await.expect("they are taken");
        assert_eq!(client.bytes(10).await, b"\x88\x00and back");
        site.counts("underpass_tunnels_active", 1.0).await;
        backend.shutdown().await.expect("it is open");
        assert_eq!(client.rest().await, b"");
        client.0.shutdown().await.expect("it is open");
        site.counts("underpass_tunnels_active", 0.0).await;
    }
    drop(client);
}

#[tokio::test]
async fn one_that_is_idle_or_drained_ends_without_a_word() {
    for drain in [false, true] {
        let idle = if drain { "[drain]\npre = 0\nspread = 0\n" } else { "[client]\ntunnel_idle = \"200ms\"\n" };
        let (site, listener) = site(idle).await;
        let mut client = Line::to(site.at).await;
        client.say(ASKS).await;
        let (mut backend, _) = switched(&listener, "spdy/3.1").await;
        client.head().await;
        assert_eq!(client.bytes(5).await, b"first");
        if drain {
            site.stop().await;
        }
        assert_eq!(client.rest().await, b"");
        let mut rest = Vec::new();
        soon("the end", backend.read_to_end(&mut rest)).await.expect("a clean end");
        assert_eq!(rest, b"");
    }
}

#[tokio::test]
async fn other_protocols_are_requests_like_any_other() {
    let (backend, mut asked) = canned("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let named = Site::start(backend, "upgrades = [\"spdy/3.1\"]\n");
    let unnamed = Site::start(backend, "");
    for (site, protocol) in [(&named, "h2c"), (&named, "spdy/3.1, h2c"), (&unnamed, "spdy/3.1")] {
        let mut line = Line::to(site.at).await;
        line.say(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n")).await;
        assert!(line.head().await.starts_with("http/1.1 200 "), "{protocol}");
        let head = soon("a request", asked.recv()).await.expect("the backend lives").to_ascii_lowercase();
        assert!(!head.contains("upgrade"), "{head}");
    }
}

#[tokio::test]
async fn a_backend_that_does_not_switch_answers_and_one_that_switches_elsewhere_does_not() {
    let (refusing, _asked) = canned("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let site = Site::start(refusing, "upgrades = [\"spdy/3.1\"]\n");
    let mut line = Line::to(site.at).await;
    line.say(ASKS).await;
    let (head, body) = line.answer().await;
    assert!(head.starts_with("http/1.1 403 ") && body == "no", "{head}");
    let (other, _asked) = canned("HTTP/1.1 101 S\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n").await;
    let site = Site::start(other, "upgrades = [\"spdy/3.1\"]\n");
    let mut line = Line::to(site.at).await;
    line.say(ASKS).await;
    assert!(line.head().await.starts_with("http/1.1 502 "));
}
