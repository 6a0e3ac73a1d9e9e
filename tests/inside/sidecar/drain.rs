//! Stopping in good order, and what the admin listener tells meanwhile.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;

use crate::support::plain::Line;
use crate::support::site::{Backend, Site, soon};

const ADMIN: &str = "admin = \"127.0.0.1:0\"\n";
const QUICK: &str = "admin = \"127.0.0.1:0\"\n[drain]\npre = \"200ms\"\nspread = \"300ms\"\ntimeout = \"5s\"\n";
const V1: [(&str, &str); 1] = [("sec-websocket-protocol", "underpass.v1")];

async fn becomes_unready(site: &Site) {
    let asking = async {
        while site.ask_admin("/readyz").await.status != 503 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    soon("/readyz to say no", asking).await;
}

#[tokio::test]
async fn everything_that_is_open_ends_in_good_order() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, QUICK);
    assert_eq!(site.ask_admin("/readyz").await.status, 200);
    let mut backends = Vec::new();
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(site.open("/").await);
        backends.push(backend.accept().await);
    }
    let mut sse = site.stream(&format!("{}/sse", sockets[0].url), &[]).await;
    let mut stream = site.stream(&format!("{}/stream", sockets[1].url), &[]).await;
    let poll_url = format!("{}/poll?wait=20", sockets[2].url);
    let mut ws = site.websocket(&format!("{}/ws", sockets[3].url), &V1).await;
    let mut bare = site.stream("/?underpass=sse", &[]).await;
    backends.push(backend.accept().await);
    let mut tunnel = site.websocket("/raw", &[]).await;
    let mut behind = backend.accept().await;
    sse.told().await;
    bare.told().await;
    stream.frame().await.expect("facts");
    let mut kept = Line::to(site.at).await;
    let info = format!("GET /_underpass/info HTTP/1.1\r\nHost: {}\r\n\r\n", site.at);
    kept.say(&info).await;
    kept.answer().await;

    let start = Instant::now();
    let streams = async {
        let leave = sse.told().await;
        assert_eq!((leave.event.as_str(), leave.json()["after_ms"].is_u64()), ("reconnect", true));
        assert!(sse.event().await.is_none(), "a clean end");
        assert_eq!(bare.told().await.event, "reconnect");
        assert!(bare.event().await.is_none(), "a clean end");
        let mut kinds = Vec::new();
        while let Some((kind, _)) = stream.frame().await {
            kinds.push(kind);
        }
        assert_eq!(kinds.last(), Some(&14), "{kinds:?}");
    };
    let poll = async {
        let answer = site.get(&poll_url).await.json();
        assert!(start.elapsed() < Duration::from_secs(15), "answered at once: {:?}", start.elapsed());
        assert_eq!((&answer["messages"], answer["reconnect"].is_null()), (&json!([]), false), "{answer}");
    };
    let websockets = async {
        let mut last = Vec::new();
        let code = loop {
            match soon("a close", ws.next()).await.expect("a close frame").expect("no error") {
                Message::Close(Some(frame)) => break u16::from(frame.code),
                frame => last = frame.into_data().to_vec(),
            }
        };
        assert_eq!((last[0], code), (14, 1012));
        // Reading a close only prepares the answer to it.
        let _ = ws.flush().await;
        match soon("a close", tunnel.next()).await.expect("a close frame").expect("no error") {
            Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1012),
            other => panic!("{other:?}"),
        }
        let _ = tunnel.flush().await;
        assert_eq!(behind.closed().await.0, 1001);
    };
    let at_backends = async {
        for socket in &mut backends {
            assert_eq!(socket.closed().await.0, 1001);
        }
    };
    let stopping = async {
        sleep(Duration::from_millis(50)).await;
        site.stop().await;
        becomes_unready(&site).await;
        // Until the pre-drain is over, connections are taken and sessions opened as ever.
        assert_eq!(site.ask_admin("/livez").await.status, 200);
    };
    tokio::join!(streams, poll, websockets, at_backends, stopping);
    let alive = site.ended().await;
    assert!(alive.is_empty(), "{alive}");
}

#[tokio::test]
async fn a_request_that_is_under_way_is_answered_and_a_new_session_refused() {
    let mut backend = Backend::start().await;
    let site =
        Site::start(backend.at, "admin = \"127.0.0.1:0\"\n[drain]\npre = \"0s\"\nspread = \"2s\"\ntimeout = \"5s\"\n");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    // A request that is half written when the drain begins.
    let mut line = Line::to(site.at).await;
    let head = format!("POST /?underpass=open HTTP/1.1\r\nHost: {}\r\nContent-Length: 2\r\n\r\n", site.at);
    line.say(format!("{head}{{")).await;
    let mut sending = Line::to(site.at).await;
    let send = format!("POST {}/send?as=text HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\n\r\nla", opened.url, site.at);
    sending.say(send).await;
    sleep(Duration::from_millis(100)).await;
    site.stop().await;
    site.counts("underpass_drain_phase", 2.0).await;
    line.say("}").await;
    let (head, body) = line.answer().await;
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    assert!(head.contains("retry-after: "), "{head}");
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["error"]["code"], "draining");
    sending.say("st").await;
    assert!(sending.head().await.starts_with("http/1.1 200 "));
    assert_eq!(socket.next_text().await, "last");
    assert_eq!(socket.closed().await.0, 1001);
    assert!(site.ended().await.is_empty());
}

#[tokio::test]
async fn what_does_not_end_is_named_and_left_behind() {
    let mut backend = Backend::start().await;
    let site = Site::start(
        backend.at,
        "[session]\nclose_wait = \"30s\"\n[drain]\npre = \"0s\"\nspread = \"0s\"\ntimeout = \"1s\"\n",
    );
    site.open("/").await;
    // It neither reads nor answers.
    let _mute = backend.accept().await;
    let start = Instant::now();
    site.stop().await;
    let alive = site.ended().await;
    assert_eq!(alive.sessions, 1, "{alive}");
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
}

#[tokio::test]
async fn the_metrics_count_what_happened() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, ADMIN);
    let active = |transport: &str| format!("underpass_sessions_active{{transport=\"{transport}\"}}");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    assert_eq!(site.metric("underpass_sessions_opened_total").await, 1.0);
    assert_eq!(site.metric(&active("none")).await, 1.0);
    let mut sse = site.stream(&format!("{}/sse", opened.url), &[]).await;
    sse.told().await;
    assert_eq!((site.metric(&active("sse")).await, site.metric(&active("none")).await), (1.0, 0.0));
    for _ in 0..3 {
        socket.send("down").await;
        sse.told().await;
    }
    site.post(&format!("{}/send?as=text", opened.url), "up").await.json();
    let down = "underpass_messages_total{direction=\"down\",transport=\"sse\"}";
    assert_eq!(site.metric(down).await, 3.0);
    assert_eq!(site.metric("underpass_messages_total{direction=\"up\",transport=\"any\"}").await, 1.0);
    assert_eq!(site.metric("underpass_message_bytes_total{direction=\"down\",transport=\"sse\"}").await, 12.0);
    assert_eq!(site.metric("underpass_delivery_delay_seconds_count{transport=\"sse\"}").await, 3.0);
    // Three deliveries to a reader that waits, within the same process: far below a tenth of a second.
    let sum = site.metric("underpass_delivery_delay_seconds_sum{transport=\"sse\"}").await;
    assert!((0.0..0.3).contains(&sum), "{sum}");

    site.get(&format!("{}/poll?after=3&wait=0.01", opened.url)).await.json();
    assert_eq!(site.metric("underpass_transport_changes_total{from=\"sse\",to=\"poll\"}").await, 1.0);
    // The response is read before its connection is done with it.
    site.counts(&active("none"), 1.0).await;
    site.get(&format!("{}/poll?after=99", opened.url)).await;
    site.get("/_underpass/s/n1-x/poll").await;
    assert_eq!(site.metric("underpass_refusals_total{code=\"bad_cursor\"}").await, 1.0);
    assert_eq!(site.metric("underpass_refusals_total{code=\"unknown_session\"}").await, 1.0);
    let mut tunnel = site.websocket("/raw", &[]).await;
    let mut behind = backend.accept().await;
    tunnel.send(Message::text("x")).await.expect("it is taken");
    behind.next_text().await;
    assert_eq!(site.metric("underpass_tunnels_active").await, 1.0);
    drop((tunnel, behind));
    site.counts("underpass_tunnels_active", 0.0).await;
    socket.close(4000, "").await;
    site.counts("underpass_sessions_ended_total{reason=\"backend_closed\"}", 1.0).await;
    site.counts(&active("none"), 0.0).await;
}

#[tokio::test]
async fn a_client_that_lost_messages_is_counted() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, &format!("{ADMIN}[session]\nreplay = \"4KiB\"\n"));
    let mut stream = site.stream("/?underpass=sse", &[]).await;
    let id = stream.told().await.id;
    let mut socket = backend.accept().await;
    for _ in 0..10 {
        socket.send(&"x".repeat(1000)).await;
        stream.told().await;
    }
    drop(stream);
    let mut again = site.stream("/?underpass=sse", &[("last-event-id", &id)]).await;
    again.told().await;
    assert_eq!(again.told().await.event, "lost");
    assert_eq!(site.metric("underpass_session_resumes_total{result=\"lost\"}").await, 1.0);
}

#[tokio::test]
async fn sessions_without_a_client_end_at_once_and_few_clients_leave_quickly() {
    let mut backend = Backend::start().await;
    // With the defaults, under which it once took 23 s.
    let site = Site::start(backend.at, "");
    let mut behind = Vec::new();
    for _ in 0..3 {
        site.open("/").await;
        behind.push(backend.accept().await);
    }
    let opened = site.open("/").await;
    behind.push(backend.accept().await);
    let mut there = site.stream(&format!("{}/sse", opened.url), &[]).await;
    there.told().await;
    // Until those that were only opened are not heard of any more.
    sleep(Duration::from_millis(600)).await;
    drop(there);
    let start = Instant::now();
    site.stop().await;
    for socket in &mut behind {
        assert_eq!(socket.closed().await.0, 1001);
    }
    assert!(site.ended().await.is_empty());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn with_nothing_alive_a_stop_takes_no_time() {
    let site = Site::start(Backend::echo().await, "");
    let start = Instant::now();
    site.stop().await;
    assert!(site.ended().await.is_empty());
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}
