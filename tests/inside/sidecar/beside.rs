//! What is not ours passes as if nobody stood between: WebSockets byte for byte, everything else by HTTP.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::support::plain::{Line, canned, next, nowhere, played};
use crate::support::site::{Backend, Site, soon};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Until something that is not to happen would have.
const SHORT: Duration = Duration::from_millis(150);

fn handshake(site: &Site, more: &str) -> String {
    format!(
        "GET /raw?a=%2F HTTP/1.1\r\nHost: {}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{more}\r\n",
        site.at
    )
}

// === tunnels ===

#[tokio::test]
async fn a_websocket_passes_byte_for_byte_with_its_extensions() {
    let (at, mut lines) = played().await;
    let site = Site::start(at, "");
    let mut client = Line::to(site.at).await;
    let offers = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
                  Sec-WebSocket-Protocol: chat.v2, chat.v1\r\nCookie: a=1\r\nOrigin: https://elsewhere.example\r\n";
    // Bytes right behind the handshake, before its answer, are the backend's as well.
    client.say(handshake(&site, offers) + "early").await;
    let mut backend = next(&mut lines).await;
    let head = backend.head().await;
    assert!(head.starts_with("get /raw?a=%2f http/1.1\r\n"), "{head}");
    for line in [
        "sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n",
        "sec-websocket-protocol: chat.v2, chat.v1\r\n",
        "cookie: a=1\r\n",
        "origin: https://elsewhere.example\r\n",
        &format!("sec-websocket-key: {}\r\n", KEY.to_lowercase()),
        &format!("host: {}\r\n", site.at),
        "x-forwarded-for: 127.0.0.1\r\n",
    ] {
        assert!(head.contains(line), "{line} in {head}");
    }
    backend
        .say(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\
             Sec-WebSocket-Protocol: chat.v1\r\nSet-Cookie: b=2\r\n\r\nfirst"
        ))
        .await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for line in [
        &format!("sec-websocket-accept: {}\r\n", ACCEPT.to_lowercase()),
        "sec-websocket-extensions: permessage-deflate\r\n",
        "sec-websocket-protocol: chat.v1\r\n",
        "set-cookie: b=2\r\n",
    ] {
        assert!(head.contains(line), "{line} in {head}");
    }
    assert_eq!(client.bytes(5).await, b"first");
    assert_eq!(backend.bytes(5).await, b"early");
    // Any bytes: compressed frames with RSV1 set, reserved opcodes, rubbish.
    let all: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
    let (up, down) = (all.clone(), all.iter().rev().copied().collect::<Vec<u8>>());
    tokio::join!(async { client.say(&up).await }, async { assert!(backend.bytes(up.len()).await == up, "up") },);
    tokio::join!(async { backend.say(&down).await }, async { assert!(client.bytes(down.len()).await == down, "down") },);
    drop(backend);
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn a_refused_websocket_gets_the_backends_own_answer() {
    let (at, _asked) = canned(
        "HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: 10\r\nX-Why: because\r\n\r\n<b>no</b>\r",
    )
    .await;
    let site = Site::start(at, "");
    let headers = [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];
    let reply = site.request(http::Method::GET, "/raw", &headers, "").await;
    assert_eq!((reply.status.as_u16(), reply.header("x-why")), (403, Some("because")));
    assert_eq!((reply.header("content-type"), reply.text().as_str()), (Some("text/html"), "<b>no</b>\r"));
}

#[tokio::test]
async fn a_handshake_that_lost_its_upgrade_is_told_so() {
    let (at, mut lines) = played().await;
    let site = Site::start(at, "");
    let whole = handshake(&site, "");
    for lost in ["Upgrade: websocket\r\n", "Connection: keep-alive, Upgrade\r\n"] {
        let mut client = Line::to(site.at).await;
        client.say(whole.replace(lost, "")).await;
        let (head, body) = client.answer().await;
        assert!(head.starts_with("http/1.1 426 ") && head.contains("upgrade: websocket\r\n"), "{head}");
        assert!(body.contains("\"upgrade_lost\""), "{body}");
    }
    assert!(lines.try_recv().is_err(), "the backend was asked");
}

#[tokio::test]
async fn tunnels_are_held_to_configured_origins() {
    let backend = Backend::echo().await;
    let site = Site::start(backend, "allowed_origins = [\"https://app.example\"]\n");
    for (origin, status) in [("https://evil.example", "403"), ("https://app.example", "101")] {
        let mut client = Line::to(site.at).await;
        client.say(handshake(&site, &format!("Origin: {origin}\r\n"))).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
    }
}

// === plain HTTP ===

#[tokio::test]
async fn requests_and_answers_pass_as_they_are() {
    let (at, mut lines) = played().await;
    let site = Site::start(at, "");
    let mut client = Line::to(site.at).await;
    client
        .say("GET /a%20b/../c?x=%2F&y HTTP/1.1\r\nHost: www.example:81\r\nRange: bytes=2-3\r\nIf-None-Match: \"e\"\r\n\r\n")
        .await;
    let mut backend = next(&mut lines).await;
    let head = backend.head().await;
    assert!(head.starts_with("get /a%20b/../c?x=%2f&y http/1.1\r\n"), "{head}");
    for line in ["host: www.example:81\r\n", "range: bytes=2-3\r\n", "if-none-match: \"e\"\r\n"] {
        assert!(head.contains(line), "{line} in {head}");
    }
    let partial = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-3/9\r\nContent-Length: 2\r\n\
                   Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\ncd";
    backend.say(partial).await;
    let (head, body) = client.answer().await;
    assert!(head.starts_with("http/1.1 206 ") && head.contains("content-range: bytes 2-3/9\r\n"), "{head}");
    assert!(head.contains("set-cookie: a=1\r\n") && head.contains("set-cookie: b=2\r\n"), "{head}");
    assert_eq!(body, "cd");

    // The same connections go on, on both sides: HEAD, then 304.
    client.say("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(backend.head().await.starts_with("head / "));
    backend.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.contains("content-length: 1000\r\n"), "{head}");
    client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    backend.head().await;
    backend.say("HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 304 ") && head.contains("etag: \"e\"\r\n"), "{head}");
    assert!(lines.try_recv().is_err(), "one connection to the backend for all three");
}

/// A request that the backend has got, with fields of its own.
async fn asked(fields: &str) -> (Site, Line, Line) {
    let (at, mut lines) = played().await;
    let site = Site::start(at, "");
    let mut client = Line::to(site.at).await;
    client.say(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
    let mut backend = next(&mut lines).await;
    backend.head().await;
    (site, client, backend)
}

/// Requests that are read by hand have their answers written by hand; hyper does both for the others.
const READ_BY_EITHER: [&str; 2] = ["", "TE: trailers\r\n"];

#[tokio::test]
async fn answers_are_the_backends_own_and_come_as_it_gives_them() {
    for fields in READ_BY_EITHER {
        let (_site, mut client, mut backend) = asked(fields).await;
        let date = "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
        backend.say(format!("HTTP/1.1 200 As You Like\r\n{date}Content-Length: 6\r\n\r\nabc")).await;
        let head = client.head().await;
        assert!(head.starts_with("http/1.1 200 as you like\r\n"), "{head}");
        assert!(head.matches("date: ").count() == 1 && head.contains(&date.to_lowercase()), "{head}");
        assert!(head.contains("content-length: 6\r\n"), "{head}");
        assert_eq!(client.bytes(3).await, b"abc");
        backend.say("def").await;
        assert_eq!(client.bytes(3).await, b"def");

        let (_site, mut client, mut backend) = asked(fields).await;
        backend.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
        assert!(client.head().await.contains("transfer-encoding: chunked\r\n"));
        client.until("3\r\nabc\r\n").await;
        backend.say("0\r\n\r\n").await;
        client.until("0\r\n\r\n").await;
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_whole() {
    for fields in READ_BY_EITHER {
        for framed in ["Content-Length: 6\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
            let (_site, mut client, mut backend) = asked(fields).await;
            backend.say(format!("HTTP/1.1 200 OK\r\n{framed}")).await;
            client.head().await;
            client.until("abc").await;
            drop(backend);
            let rest = client.rest().await;
            assert!(rest.is_empty() || rest == b"\r\n", "{rest:?} behind {framed:?}");
        }
    }
}

#[tokio::test]
async fn bodies_stream_both_ways_while_they_are_written() {
    let (at, mut lines) = played().await;
    let site = Site::start(at, "");
    let mut client = Line::to(site.at).await;
    client
        .say("POST /up HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        .await;
    let mut backend = next(&mut lines).await;
    assert!(backend.head().await.contains("transfer-encoding: chunked\r\n"));
    backend.until("5\r\nfirst\r\n").await;
    // The answer begins before the request has ended.
    backend.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4\r\npart\r\n").await;
    client.head().await;
    client.until("4\r\npart\r\n").await;
    let big = vec![b'x'; 3_000_000];
    let up = async {
        client.say(format!("{:x}\r\n", big.len())).await;
        client.say(&big).await;
        client.say("\r\n0\r\n\r\n").await;
    };
    let down = async {
        let mut seen = 0;
        let mut buffer = vec![0; 64 * 1024];
        while seen < big.len() {
            let count = soon("the body", backend.0.read(&mut buffer)).await.expect("bytes");
            assert_ne!(count, 0, "it ended after {seen}");
            seen += buffer[..count].iter().filter(|byte| **byte == b'x').count();
        }
    };
    tokio::join!(up, down);
    backend.say("3\r\nend\r\n0\r\nX-Sum: 7\r\n\r\n").await;
    let rest = client.until("\r\n\r\n").await;
    assert!(rest.ends_with("3\r\nend\r\n0\r\nX-Sum: 7\r\n\r\n"), "{rest:?}");
}

#[tokio::test]
async fn an_expectation_is_answered_and_the_body_arrives() {
    let (at, mut lines) = played().await;
    let site = Site::start(at, "");
    let mut client = Line::to(site.at).await;
    client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    let serve = async {
        let mut backend = next(&mut lines).await;
        let head = backend.head().await;
        if head.contains("expect: 100-continue") {
            backend.say("HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        assert_eq!(backend.bytes(4).await, b"body");
        backend.say("HTTP/1.1 204 No Content\r\n\r\n").await;
        backend
    };
    let ask = async {
        let head = client.head().await;
        assert!(head.starts_with("http/1.1 100 "), "{head}");
        client.say("body").await;
        assert!(client.head().await.starts_with("http/1.1 204 "));
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn an_answer_that_was_early_is_whole_before_the_next_one_begins() {
    // Its end waits inside the sidecar when it is a little longer than what the sockets hold, wherever that is.
    for length in (1..64).map(|n| n * 64 * 1024) {
        // With a sidecar of its own no round meets the kept connection of another.
        let (at, mut lines) = played().await;
        let site = Site::start(at, "");
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("it is small");
        let mut client = Line(socket.connect(site.at).await.expect("it listens"));
        client.say("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n1").await;
        let mut backend = next(&mut lines).await;
        backend.head().await;
        backend.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).await;
        let body = vec![b'x'; length];
        let was_taken = timeout(SHORT, backend.0.write_all(&body)).await.is_ok();
        // The end of the request, and behind it one that is answered without hyper.
        client.say("2GET /next?underpass=sse HTTP/1.1\r\nHost: a\r\n\r\n").await;
        if !was_taken {
            break;
        }
        let early = timeout(SHORT, lines.recv()).await;
        client.until("\r\n\r\n").await;
        assert!(client.bytes(length).await == body, "{length} bytes");
        if early.is_err() {
            next(&mut lines).await;
        }
        drop(early);
        assert_eq!(client.bytes(9).await, b"HTTP/1.1 ", "behind {length} bytes");
    }
}

#[tokio::test]
async fn a_backend_that_is_down_is_told_as_an_error_of_ours() {
    let site = Site::start(nowhere().await, "");
    let reply = site.get("/").await;
    assert_eq!((reply.status.as_u16(), reply.error().as_str()), (502, "backend_unreachable"));
    let mut client = Line::to(site.at).await;
    client.say(handshake(&site, "")).await;
    let (head, body) = client.answer().await;
    assert!(head.starts_with("http/1.1 502 ") && body.contains("backend_unreachable"), "{head}{body}");
}

#[tokio::test]
async fn a_proxied_request_is_active_until_its_answer_has_ended_or_its_client_is_gone() {
    let (at, mut lines) = played().await;
    let site = Site::start(at, "admin = \"127.0.0.1:0\"\n");
    let active = "underpass_proxied_requests_active";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n";
    for ends in [true, false] {
        let mut client = Line::to(site.at).await;
        client.say(format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", site.at)).await;
        let mut backend = next(&mut lines).await;
        backend.head().await;
        assert_eq!(site.metric(active).await, 1.0, "no answer yet");
        backend.say(head).await;
        client.head().await;
        assert_eq!(client.bytes(7).await, b"2\r\nhi\r\n");
        assert_eq!(site.metric(active).await, 1.0, "its answer streams");
        match ends {
            true => backend.say("0\r\n\r\n").await,
            false => drop(client),
        }
        site.counts(active, 0.0).await;
    }
}
