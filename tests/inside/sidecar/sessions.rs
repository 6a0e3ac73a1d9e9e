//! The life of a session: opened once, kept by signs of life, moved between attachments, closed so that both sides know.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use http::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::attachments::{V1, ws_close, ws_frame};
use crate::support::site::{Backend, BackendSocket, Site, soon};

const NONCE: &str = r#"{"nonce":"0123456789abcdef"}"#;

// === nonces ===

#[tokio::test]
async fn the_same_nonce_opens_the_same_session_even_while_the_backend_is_dialled() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let open = || async { site.post("/a?x=1&underpass=open", NONCE).await.json()["session"].clone() };
    let (one, two, three) = tokio::join!(open(), open(), open());
    assert_eq!((&one, &two), (&two, &three));
    assert_eq!(open().await, one);
    backend.accept().await;
    assert!(backend.try_accept().is_none(), "one socket at the backend");
    let mut stream = site.stream("/a?x=1&underpass.nonce=0123456789abcdef&underpass=sse", &[]).await;
    assert_eq!(stream.told().await.json()["id"], one["id"]);
    for (path, body) in [
        ("/b?x=1&underpass=open", NONCE),
        ("/a?x=2&underpass=open", NONCE),
        ("/a?x=1&underpass=open", r#"{"nonce":"0123456789abcdef","protocols":["p"]}"#),
    ] {
        let reply = site.post(path, body).await;
        assert_eq!((reply.status.as_u16(), reply.error().as_str()), (409, "nonce_reused"), "{path}");
    }
    let origin = format!("http://{}", site.at);
    let reply = site.request(Method::POST, "/a?x=1&underpass=open", &[("origin", &origin)], NONCE).await;
    assert_eq!(reply.error(), "nonce_reused");
}

/// A backend that shakes hands only when it is told to; how many it was asked for.
async fn hesitant() -> (std::net::SocketAddr, tokio::sync::mpsc::UnboundedReceiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("an address");
    let (sender, asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let _ = sender.send(socket);
        }
    });
    (at, asked)
}

#[tokio::test]
async fn a_client_that_is_cut_off_while_the_backend_is_dialled_finds_its_session_by_the_nonce() {
    let (at, mut asked) = hesitant().await;
    let site = Site::start(at, "");
    let mut first = TcpStream::connect(site.at).await.expect("it listens");
    let head =
        format!("POST /?underpass=open HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", site.at, NONCE.len());
    first.write_all(format!("{head}{NONCE}").as_bytes()).await.expect("it is taken");
    let dialled = soon("a dial", asked.recv()).await.expect("a dial");
    drop(first);
    // The sidecar notices within milliseconds; the box repeats the request.
    sleep(Duration::from_millis(100)).await;
    let again = async { site.post("/?underpass=open", NONCE).await };
    let shake = async {
        let mut ws = tokio_tungstenite::accept_async(dialled).await.expect("the first dial is still wanted");
        assert!(tokio::time::timeout(Duration::from_millis(300), ws.next()).await.is_err(), "it was dropped");
    };
    let (reply, ()) = tokio::join!(again, shake);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(asked.try_recv().is_err(), "the backend was dialled twice");
}

// === signs of life ===

#[tokio::test]
async fn a_session_whose_client_is_gone_ends_with_1001() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\ngrace = \"400ms\"\nended = \"1s\"\n");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    let start = Instant::now();
    assert_eq!(socket.closed().await, (1001, "client gone".into()));
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    // Told until a cursor counts it; then known to have ended; then forgotten.
    let poll = format!("{}/poll", opened.url);
    assert_eq!(site.get(&poll).await.json()["close"]["code"], 1001);
    assert_eq!(site.get(&format!("{poll}?after=1")).await.status, 410);
    let known = site.get(&poll).await;
    assert_eq!((known.status.as_u16(), known.error().as_str()), (410, "session_closed"));
    assert_eq!(known.json()["close"], json!({"code": 1001, "reason": "client gone", "clean": true}));
    assert_eq!(site.get(&format!("{}/sse", opened.url)).await.status, 204);
    becomes_unknown(&site, &poll).await;
}

#[tokio::test]
async fn an_end_that_nobody_asks_for_is_kept_for_one_more_grace() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\ngrace = \"400ms\"\nended = \"100ms\"\n");
    let opened = site.open("/").await;
    backend.accept().await.close(4001, "kicked").await;
    let start = Instant::now();
    let send = format!("{}/send", opened.url);
    // The close is on its way still, as long as a send is taken.
    while soon("an answer", site.post(&send, "")).await.status == 200 {
        sleep(Duration::from_millis(5)).await;
    }
    // A send is no sign of life once the session has ended.
    becomes_unknown(&site, &send).await;
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
}

/// Asks until the session is forgotten.
async fn becomes_unknown(site: &Site, path: &str) {
    let method = if path.ends_with("send") { Method::POST } else { Method::GET };
    let asking = async {
        loop {
            let reply = site.request(method.clone(), path, &[], "").await;
            match reply.error().as_str() {
                "unknown_session" => return assert_eq!(reply.status, 404),
                code => assert_eq!(code, "session_closed"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the session to be forgotten", asking).await;
}

#[tokio::test]
async fn a_waiting_poll_holds_the_session() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\ngrace = \"2s\"\nheartbeat = \"100ms\"\n");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    for _ in 0..3 {
        // Capped at half the grace.
        let start = Instant::now();
        assert_eq!(site.get(&format!("{}/poll?wait=30", opened.url)).await.json()["messages"], json!([]));
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    }
    socket.send("alive").await;
    assert_eq!(site.get(&format!("{}/poll", opened.url)).await.json()["messages"], json!(["alive"]));
    assert_eq!(socket.closed().await.0, 1001);
}

#[tokio::test]
async fn an_open_stream_proves_nothing_but_acknowledgements_do() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\ngrace = \"1500ms\"\nheartbeat = \"100ms\"\n");
    for verb in ["sse", "stream"] {
        let opened = site.open("/").await;
        let mut socket = backend.accept().await;
        let mut stream = site.stream(&format!("{}/{verb}", opened.url), &[]).await;
        for _ in 0..20 {
            site.post(&format!("{}/ack?after=0", opened.url), "").await.json();
            sleep(Duration::from_millis(100)).await;
        }
        socket.send("still here").await;
        // From here on nobody acknowledges; the stream is read, and its heartbeats flow.
        let reading = async { while stream.more().await {} };
        let ((), closed) = tokio::join!(reading, socket.closed());
        assert_eq!(closed, (1001, "client gone".into()), "{verb}");
    }
}

#[tokio::test]
async fn a_bare_stream_lives_by_what_it_takes() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\ngrace = \"800ms\"\nheartbeat = \"100ms\"\nprobe = \"100ms\"\n");
    let mut stream = site.stream("/?underpass=sse", &[]).await;
    let mut socket = backend.accept().await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2000) {
        assert!(stream.more().await, "it lives");
    }
    socket.send("still here").await;
    while stream.told().await.data != "still here" {}
    drop(stream);
    assert_eq!(socket.closed().await, (1001, "client gone".into()));
}

// === the close ===

async fn lose(mut socket: BackendSocket) {
    socket.ws.get_mut().shutdown().await.expect("it closes");
}

/// The close as each transport tells it, behind one message.
async fn close_on_every_transport(how: &str, expected: &Value) {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    socket.send("before").await;
    match how {
        "lost" => lose(socket).await,
        "bare" => {
            socket.ws.close(None).await.expect("it is taken");
        }
        code => socket.close(code.parse().expect("a code"), "why").await,
    }
    for _ in 0..2 {
        let mut sse = site.stream(&format!("{}/sse?after=0", opened.url), &[]).await;
        sse.told().await;
        assert_eq!(sse.told().await.data, "before");
        let close = sse.told().await;
        assert_eq!((close.event.as_str(), close.id.as_str(), &close.json()), ("close", "2", expected));
        assert!(sse.event().await.is_none());
        let polled = site.get(&format!("{}/poll?after=0", opened.url)).await.json();
        assert_eq!((&polled["close"], &polled["after"]), (expected, &json!(2)));
        let mut stream = site.stream(&format!("{}/stream", opened.url), &[]).await;
        assert_eq!((stream.frame().await.expect("facts").0, stream.frame().await.expect("a text").0), (11, 1));
        let (kind, payload) = stream.frame().await.expect("a close");
        assert_eq!(
            (kind, u16::from_be_bytes([payload[0], payload[1]])),
            (8, expected["code"].as_u64().expect("a number") as u16)
        );
        assert_eq!(payload[2] == 1, expected["clean"]);
        let mut ws = site.websocket(&format!("{}/ws", opened.url), &V1).await;
        assert_eq!(ws_frame(&mut ws).await[0], 11);
        assert_eq!(ws_frame(&mut ws).await, b"1before");
        assert_eq!(ws_frame(&mut ws).await[..3], [&[8], &payload[..2]].concat());
        assert_eq!(ws_close(&mut ws).await, 1000);
    }
    // Who counts the close has everything.
    for (verb, status) in [("sse", 204), ("poll", 410), ("stream", 410)] {
        let reply = site.get(&format!("{}/{verb}?after=2", opened.url)).await;
        assert_eq!(reply.status, status, "{verb} {}", reply.text());
        if status == 410 {
            assert_eq!((reply.error().as_str(), &reply.json()["close"]), ("session_closed", expected));
        }
    }
    let reply = site.request(Method::POST, &format!("{}/send?as=text", opened.url), &[], "late").await;
    assert_eq!((reply.error().as_str(), &reply.json()["close"]), ("session_closed", expected));
    assert_eq!(site.post(&format!("{}/close", opened.url), "").await.json()["close"], *expected);
}

#[tokio::test]
async fn every_way_in_which_a_backend_closes_is_told_on_every_transport() {
    let told = |code: u16, reason: &str, clean: bool| json!({"code": code, "reason": reason, "clean": clean});
    close_on_every_transport("4001", &told(4001, "why", true)).await;
    close_on_every_transport("1000", &told(1000, "why", true)).await;
    close_on_every_transport("1011", &told(1011, "why", true)).await;
    close_on_every_transport("bare", &told(1005, "", true)).await;
    close_on_every_transport("lost", &told(1006, "", false)).await;
}

#[tokio::test]
async fn a_bare_event_source_is_stopped_by_its_close() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let mut stream = site.stream("/?underpass=sse", &[]).await;
    let mut socket = backend.accept().await;
    socket.close(4001, "kicked").await;
    stream.told().await;
    let close = stream.told().await;
    assert!(close.id.ends_with(".1"), "{close:?}");
    let headers = [("last-event-id", close.id.as_str())];
    assert_eq!(site.request(Method::GET, "/?underpass=sse", &headers, "").await.status, 204);
    assert!(backend.try_accept().is_none(), "it opened another");
}

#[tokio::test]
async fn a_backend_that_never_answers_a_close_is_given_up() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\nclose_wait = \"200ms\"\n");
    let opened = site.open("/").await;
    let socket = backend.accept().await;
    let mut stream = site.stream(&format!("{}/sse", opened.url), &[]).await;
    stream.told().await;
    let start = Instant::now();
    site.post(&format!("{}/close", opened.url), r#"{"code":4000,"reason":"bye"}"#).await.json();
    let close = stream.told().await;
    assert_eq!((close.event.as_str(), &close.json()["code"]), ("close", &json!(4000)));
    assert!(start.elapsed() >= Duration::from_millis(200), "the backend had no time to answer");
    drop(socket);
}

#[tokio::test]
async fn only_closes_that_a_page_may_ask_for_are_taken() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    let long = json!({"code": 4000, "reason": "é".repeat(62)}).to_string();
    for body in [r#"{"code":1001}"#, r#"{"code":1005}"#, r#"{"code":2999}"#, r#"{"code":5000}"#, "{", &long] {
        let reply = site.post(&format!("{}/close", opened.url), body.to_owned()).await;
        assert_eq!((reply.status.as_u16(), reply.error().as_str()), (400, "bad_request"), "{body}");
    }
    socket.send("still open").await;
    site.post(&format!("{}/close", opened.url), "").await.json();
    assert_eq!(socket.closed().await, (1000, String::new()));
}

#[tokio::test]
async fn a_message_from_the_backend_over_the_limit_ends_the_session_on_both_sides() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\nmessage = \"1KiB\"\n");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    socket.send("fits").await;
    socket.send(&"x".repeat(1025)).await;
    assert_eq!(socket.closed().await.0, 1009);
    let polled = site.get(&format!("{}/poll?after=0", opened.url)).await.json();
    assert_eq!(polled["messages"], json!(["fits"]));
    let polled = site.get(&format!("{}/poll?after=1", opened.url)).await.json();
    assert_eq!((&polled["close"]["code"], &polled["after"]), (&json!(1009), &json!(2)));
}
