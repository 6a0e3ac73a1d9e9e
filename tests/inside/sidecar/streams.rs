//! What a streaming answer looks like on the wire: its first bytes, its probe and heartbeats, its end; and the headers of
//! every answer of ours.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;

use crate::support::plain::{Line, nowhere};
use crate::support::site::{Backend, Site};

const PROTECTION: [(&str, &str); 4] = [
    ("cache-control", "no-store, no-transform"),
    ("x-accel-buffering", "no"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
];

#[tokio::test]
async fn the_opening_comes_at_once_and_the_probe_soon_after() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/").await;
    let _socket = backend.accept().await;
    let mut line = Line::to(site.at).await;
    let start = Instant::now();
    line.say(format!("GET {}/sse HTTP/1.1\r\nHost: {}\r\n\r\n", opened.url, site.at)).await;
    let head = line.head().await;
    assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    let opening = line.until("\n\n").await;
    assert!(opening.ends_with("retry: 1000\n\n"), "{opening}");
    let session = line.until("\n\n").await;
    assert!(session.starts_with("event: session\nid: 0\ndata: {"), "{session}");
    let probe = line.until("\n\n").await;
    assert!(probe.ends_with("event: heartbeat\ndata: 0\n\n"), "{probe:?}");
    let after = start.elapsed();
    assert!((350..10_000).contains(&after.as_millis()), "neither with the opening nor with a heartbeat: {after:?}");
}

#[tokio::test]
async fn heartbeats_tell_the_last_number_when_nothing_else_is_written() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\nheartbeat = \"300ms\"\nprobe = \"100ms\"\n");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    let mut sse = site.stream(&format!("{}/sse", opened.url), &[]).await;
    assert_eq!(sse.event().await.expect("an event").event, "session");
    socket.send("flows").await;
    assert_eq!(sse.event().await.expect("an event").data, "flows");
    let start = Instant::now();
    for _ in 0..3 {
        let beat = sse.event().await.expect("an event");
        assert_eq!((beat.event.as_str(), beat.data.as_str(), beat.id.as_str()), ("heartbeat", "1", ""));
    }
    // A message took the place of the probe, so all three are heartbeats.
    assert!(start.elapsed() >= Duration::from_millis(700), "{:?}", start.elapsed());
    let mut stream = site.stream(&format!("{}/stream?after=1", opened.url), &[]).await;
    assert_eq!(stream.frame().await.expect("facts").0, 11);
    assert_eq!(stream.frame().await, Some((9, bytes::Bytes::copy_from_slice(&1u64.to_be_bytes()))));
}

#[tokio::test]
async fn an_old_stream_is_recycled_and_nothing_is_missed() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\nrecycle = \"1s\"\n");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    let mut sse = site.stream(&format!("{}/sse", opened.url), &[]).await;
    sse.told().await;
    let start = Instant::now();
    let leave = sse.told().await;
    assert_eq!((leave.event.as_str(), leave.json()["after_ms"].is_u64()), ("reconnect", true));
    assert!(sse.event().await.is_none(), "a clean end");
    assert!(start.elapsed() >= Duration::from_millis(800), "{:?}", start.elapsed());
    socket.send("between").await;
    let mut stream = site.stream(&format!("{}/stream?after=0", opened.url), &[]).await;
    let mut kinds = Vec::new();
    while let Some((kind, _)) = stream.frame().await {
        kinds.push(kind);
    }
    assert_eq!((kinds.first(), kinds.get(1), kinds.last()), (Some(&11), Some(&1), Some(&14)));
}

#[tokio::test]
async fn without_recycling_a_stream_stays() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\nrecycle = 0\nheartbeat = \"100ms\"\n");
    let opened = site.open("/").await;
    let _socket = backend.accept().await;
    assert_eq!(opened.session["recycle"], 0);
    let mut sse = site.stream(&format!("{}/sse", opened.url), &[]).await;
    for _ in 0..8 {
        assert_ne!(sse.event().await.expect("it stays").event, "reconnect");
    }
}

#[tokio::test]
async fn http_1_0_gets_streams_ended_by_the_close_and_polls_with_a_length() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    socket.send("hello").await;
    let mut line = Line::to(site.at).await;
    let keep = "Connection: keep-alive\r\n";
    line.say(format!("GET {}/poll HTTP/1.0\r\nHost: {}\r\n{keep}\r\n", opened.url, site.at)).await;
    let (head, body) = line.answer().await;
    assert!(head.contains("content-length: ") && !head.contains("transfer-encoding"), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&body).expect("JSON")["messages"], json!(["hello"]));
    assert!(line.rest().await.is_empty());

    let mut line = Line::to(site.at).await;
    line.say(format!("GET {}/sse HTTP/1.0\r\nHost: {}\r\n{keep}\r\n", opened.url, site.at)).await;
    let head = line.head().await;
    assert!(!head.contains("transfer-encoding") && !head.contains("content-length"), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
    // Without chunks: the first bytes are the event stream's own.
    assert_eq!(line.until("\n\n").await, "retry: 1000\n\n");
    socket.close(1000, "").await;
    let rest = String::from_utf8(line.rest().await).expect("UTF-8");
    assert!(rest.contains("event: close\n") && rest.ends_with("\n\n"), "{rest}");
}

#[tokio::test]
async fn every_answer_of_ours_is_protected_and_has_its_type() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    socket.send("one").await;
    let url = &opened.url;
    let json = "application/json";
    let cases = [
        ("POST", "/?underpass=open".to_owned(), 200, json),
        ("POST", "/?underpass.nonce=x&underpass=open".to_owned(), 400, json),
        ("GET", "/_underpass/info".to_owned(), 200, json),
        ("HEAD", "/_underpass/info".to_owned(), 200, json),
        ("GET", "/_underpass/nothing".to_owned(), 404, json),
        ("GET", "/_underpass".to_owned(), 404, json),
        ("GET", "/?underpass=open".to_owned(), 405, json),
        ("PUT", format!("{url}/send"), 405, json),
        ("POST", format!("{url}/poll"), 405, json),
        ("DELETE", "/_underpass/info".to_owned(), 405, json),
        ("GET", format!("{url}/poll"), 200, json),
        ("GET", format!("{url}/poll?as=frames"), 200, "application/octet-stream"),
        ("GET", format!("{url}/poll?after=99"), 400, json),
        ("GET", format!("{url}/poll?after=x"), 400, json),
        ("GET", format!("{url}/ws"), 426, json),
        ("GET", "/_underpass/s/n1-x/sse".to_owned(), 404, json),
        ("POST", format!("{url}/ack?after=0"), 200, json),
        ("POST", format!("{url}/ack"), 400, json),
        ("POST", format!("{url}/send?as=text"), 200, json),
        ("POST", format!("{url}/close"), 200, json),
        ("OPTIONS", format!("{url}/send"), 204, ""),
    ];
    for (method, path, status, content_type) in cases {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let reply = site.request(method.clone(), &path, &[], "").await;
        assert_eq!(reply.status, status, "{method} {path} {}", reply.text());
        assert_eq!(reply.header("content-type").unwrap_or_default(), content_type, "{method} {path}");
        for (name, value) in PROTECTION {
            assert_eq!(reply.header(name), Some(value), "{name} of {method} {path}");
        }
        if status == 405 {
            assert_eq!(reply.error(), "method_not_allowed");
            assert!(reply.header("allow").is_some(), "{method} {path}");
        }
        assert_eq!(reply.header("content-encoding"), None);
    }
}

#[tokio::test]
async fn streams_are_protected_too_and_say_identity_when_asked_to() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\nidentity = true\n");
    let opened = site.open("/").await;
    let _socket = backend.accept().await;
    let sse = "text/event-stream";
    for (path, content_type) in [
        (format!("{}/sse", opened.url), sse),
        (format!("{}/stream", opened.url), "application/octet-stream"),
        ("/?underpass=sse".to_owned(), sse),
    ] {
        let stream = site.stream(&path, &[]).await;
        assert_eq!(stream.headers.get_all("content-type").iter().collect::<Vec<_>>(), [content_type], "{path}");
        assert_eq!(stream.headers["content-encoding"], "identity", "{path}");
        for (name, value) in PROTECTION {
            assert_eq!(stream.headers[name], value, "{name} of {path}");
        }
    }
    let none = Site::start(nowhere().await, "");
    let stream = none.stream("/?underpass=sse", &[]).await;
    assert_eq!(stream.headers["content-type"], sse);
    for (name, value) in PROTECTION {
        assert_eq!(stream.headers[name], value, "{name} of unavailable");
    }
}

#[tokio::test]
async fn the_cursor_of_an_event_source_is_the_highest_it_knows() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    for text in ["one", "two", "three"] {
        socket.send(text).await;
    }
    let mut all = site.stream(&format!("{}/sse", opened.url), &[]).await;
    for _ in 0..4 {
        all.told().await;
    }
    // The header wins over the old `after` of the URL; and `after` over an older header.
    let mut two = site.stream(&format!("{}/sse?after=1", opened.url), &[("last-event-id", "2")]).await;
    assert_eq!(two.told().await.json()["from"], 2);
    assert_eq!(two.told().await.data, "three");
    let mut none = site.stream(&format!("{}/sse?after=3", opened.url), &[("last-event-id", "2")]).await;
    assert_eq!(none.told().await.json()["from"], 3);
    let mut neither = site.stream(&format!("{}/sse", opened.url), &[]).await;
    assert_eq!(neither.told().await.json()["from"], 3);
}
