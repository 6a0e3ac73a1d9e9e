//! Handshakes that come to nothing: what a client sends behind one is never passed to the backend as if it had.

use std::time::Duration;

use super::house::{no_panics, watch_panics};
use super::raw::{Wire, find, handshake, request};
use super::recorder::{Recorder, Reply, Seen, ok, switch};
use crate::support::site::{Site, soon};

/// What a client hopes to get through to the backend, at a path that is ours and so can come there by no honest way.
const HIDDEN: &str = "GET /_underpass/info?hidden HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// The statuses that came, and what the backend saw, when an upgrade is asked for with a request behind it.
async fn throw(
    answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    headers: &[(&str, &str)],
) -> (Vec<u16>, Recorder, String) {
    watch_panics();
    let backend = Recorder::start(answer).await;
    let site = Site::start(backend.at, "[client]\nidle = \"300ms\"\n[backend]\nhandshake = \"2s\"\n");
    let mut wire = Wire::open(site.at).await;
    let mut bytes = request("GET", "/chat", &handshake(headers), b"");
    bytes.extend_from_slice(HIDDEN.as_bytes());
    wire.write(&bytes).await;
    let rest = tokio::time::timeout(Duration::from_secs(20), wire.rest()).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&rest).into_owned();
    let statuses = text.split("HTTP/1.1 ").skip(1).filter_map(|head| head.get(..3)?.parse().ok()).collect();
    (statuses, backend, text)
}

#[tokio::test]
async fn nothing_reaches_the_backend_behind_a_refused_upgrade() {
    type Script = (&'static str, fn(&Seen) -> Reply, u16);
    let cases: &[Script] = &[
        ("200", |_| Reply::now(ok("")), 200),
        ("200 that says Upgrade", |_| Reply::now(ok("Upgrade: websocket\r\nConnection: Upgrade\r\n")), 200),
        (
            "426",
            |_| Reply::now("HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n"),
            426,
        ),
        ("403", |_| Reply::now("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"), 403),
        ("503", |_| Reply::now("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), 503),
        (
            "101 with a wrong key",
            |_| {
                Reply::now(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
                )
            },
            502,
        ),
        (
            "101 without a key",
            |_| Reply::now("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
            502,
        ),
        (
            "101 to h2c",
            |seen| Reply::now(String::from_utf8_lossy(&switch(seen)).replace("websocket", "h2c").into_bytes()),
            502,
        ),
        (
            "101 without Connection",
            |seen| {
                Reply::now(String::from_utf8_lossy(&switch(seen)).replace("Connection: Upgrade\r\n", "").into_bytes())
            },
            502,
        ),
        ("no HTTP", |_| Reply::now("hello\r\n\r\n"), 502),
    ];
    for (name, answer, status) in cases {
        let (statuses, backend, text) = throw(*answer, &[]).await;
        let record = backend.record();
        assert_eq!(statuses.first(), Some(status), "{name}: {text}");
        assert!(!statuses.contains(&101), "{name}: {text}");
        assert_eq!((record.requests.len(), record.tail.len(), record.faults.len()), (1, 0, 0), "{name}: {record:?}");
        assert!(!format!("{record:?}").contains("hidden"), "{name}: {record:?}");
    }
    no_panics();
}

/// The version is between client and backend, and a refusal of it is an ordinary answer.
#[tokio::test]
async fn a_version_that_the_backend_refuses_opens_no_tunnel() {
    let upgrade = "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n";
    let (statuses, backend, text) = throw(move |_| Reply::now(upgrade), &[("Sec-WebSocket-Version", "1337")]).await;
    assert_eq!(statuses, [426, 200], "{text}");
    let record = backend.record();
    assert_eq!((record.requests[0].field("sec-websocket-version").as_str(), record.tail.len()), ("1337", 0));
}

/// Bytes are held back until the 101 has been verified, and then are the backend's.
#[tokio::test]
async fn a_late_101_gets_nothing_before_it() {
    watch_panics();
    let backend = Recorder::start(|seen| Reply(switch(seen), Duration::from_millis(300))).await;
    let site = Site::start(backend.at, "");
    let mut wire = Wire::open(site.at).await;
    wire.write(&[request("GET", "/chat", &handshake(&[]), b""), HIDDEN.into()].concat()).await;
    assert_eq!(wire.answer(false).await.expect("an answer").status, 101);
    soon("what stood behind the handshake", async {
        while backend.record().tail.len() < HIDDEN.len() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let record = backend.record();
    assert!(record.faults.is_empty(), "{:?}", record.faults);
    assert_eq!(String::from_utf8_lossy(&record.tail), HIDDEN);
}

/// Answers that have no body must not get one: whatever stood there would be the next answer to the client.
#[tokio::test]
async fn refusals_without_a_body_stay_without() {
    for (status, more) in [(204, ""), (304, ""), (304, "Content-Length: 5\r\n"), (204, "Connection: close\r\n")] {
        let reply = format!("HTTP/1.1 {status} X\r\n{more}\r\n");
        let (statuses, _backend, text) = throw(move |_| Reply::now(reply.clone()), &[]).await;
        assert_eq!(statuses, [status, 200], "{text:?}");
        let end = find(text.as_bytes(), b"\r\n\r\n").expect("a head") + 4;
        assert!(text[end..].starts_with("HTTP/1.1 200"), "a body behind {status}: {text:?}");
    }
}

/// An upgrade is a GET without a body (RFC 6455 section 4.1); another method must not become one.
#[tokio::test]
async fn other_methods_do_not_become_handshakes() {
    watch_panics();
    let backend = Recorder::start(|_| Reply::now("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")).await;
    let site = Site::start(backend.at, "");
    for (method, body) in
        [("POST", "hi"), ("POST", ""), ("DELETE", ""), ("HEAD", ""), ("PUT", "hi"), ("OPTIONS", ""), ("GET", "hi")]
    {
        let mut wire = Wire::open(site.at).await;
        let more = [("Content-Length", if body.is_empty() { "0" } else { "2" })];
        wire.write(&request(method, "/chat", &handshake(&more), body.as_bytes())).await;
        let answer = wire.answer(method == "HEAD").await.expect("an answer");
        let asked: Vec<_> = backend.take().into_iter().map(|seen| (seen.line, seen.body)).collect();
        if method == "GET" {
            assert_eq!((answer.status, asked.len()), (400, 0), "{asked:?}");
            continue;
        }
        assert_eq!(asked, [(format!("{method} /chat HTTP/1.1"), body.as_bytes().to_vec())], "{answer:?}");
    }
    no_panics();
}

/// A handshake with a body changes nothing, though the session's attachment would pass it by.
#[tokio::test]
async fn a_handshake_with_a_body_attaches_nothing() {
    watch_panics();
    let backend = Recorder::polite().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/chat").await;
    let stream = site.stream(&format!("{}/sse", opened.url), &[]).await;
    let headers = handshake(&[("Sec-WebSocket-Protocol", "underpass.v1"), ("Content-Length", "2")]);
    let mut wire = Wire::open(site.at).await;
    wire.write(&request("GET", &format!("{}/ws", opened.url), &headers, b"hi")).await;
    let answer = soon("an answer", wire.answer(false)).await.expect("an answer");
    assert_eq!((answer.status, answer.refused().as_str()), (400, "bad_request"));
    assert!(answer.message().contains("no body"), "{}", answer.message());
    let standing = site.post(&format!("{}/ack?after=0", opened.url), "").await.json();
    assert_eq!(standing["attached"], "sse", "it superseded the stream");
    drop(stream);
}
