//! Promise 1 over a bad network: everything arrives once, in order, with its type and bytes, on every transport and
//! with transports changed in mid-session. A failing run prints its seed; `UNDERPASS_SEED` repeats it.

mod cutter;
mod handed_over;
mod talk;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::Full;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use underpass::session::{Kind, Message};

use self::cutter::Cutter;
use self::talk::Talk;
use self::wire::{base64, exchange};
use crate::simulation::chance::Chance;
use crate::support::site::{Backend, BackendSocket, Site, soon};

const MESSAGES: usize = 3000;
/// Small bounds, so that all of them are met; short timers, so that a dead end would be noticed.
const BOUNDS: &str = "[session]\nheartbeat = \"500ms\"\nprobe = \"50ms\"\nrecycle = \"400ms\"\nbuffer = \"128KiB\"\n\
                      ack_bytes = \"16KiB\"\nqueue = \"64KiB\"\nbusy = \"1s\"\n";

/// Any text, with everything in it that a codec may stumble over.
const SYLLABLES: [&str; 16] = [
    "a",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "data: ",
    "id: 7\n",
    "é",
    "😀",
    "\u{2028}",
    "\0",
    "\"",
    "\\",
    ":",
    " ",
    "event: close\n",
];

fn message(chance: &mut Chance, number: usize) -> Message {
    let size = match number % 500 {
        250 => 100_000,
        _ => match chance.below(16) {
            0 => 0,
            1 => chance.between(1000, 5000),
            _ => chance.below(300),
        },
    };
    if chance.one_in(3) {
        let bytes: Vec<u8> = (0..size).map(|_| chance.below(256) as u8).collect();
        return Message::binary(bytes);
    }
    let mut text = if size == 0 { String::new() } else { format!("{number} ") };
    while text.len() < size as usize {
        text.push_str(chance.pick(&SYLLABLES));
    }
    Message::text(text)
}

fn messages(chance: &mut Chance) -> Arc<Vec<Message>> {
    Arc::new((1..=MESSAGES).map(|number| message(chance, number)).collect())
}

fn as_ws(message: &Message) -> WsMessage {
    match message.kind() {
        Kind::Text => WsMessage::text(std::str::from_utf8(message.payload()).expect("UTF-8")),
        Kind::Binary => WsMessage::binary(message.payload().clone()),
    }
}

/// Says everything, hears everything; then closes, unless the client is to.
async fn play(socket: BackendSocket, downs: Arc<Vec<Message>>, ups: Arc<Vec<Message>>, closes: bool) -> (u16, String) {
    play_slowly(socket, downs, ups, closes, Duration::from_millis(3)).await
}

/// The same with such a pause behind each hundred messages.
async fn play_slowly(
    socket: BackendSocket,
    downs: Arc<Vec<Message>>,
    ups: Arc<Vec<Message>>,
    closes: bool,
    pause: Duration,
) -> (u16, String) {
    let (mut sink, mut source) = socket.ws.split();
    let say = async {
        for (index, message) in downs.iter().enumerate() {
            sink.send(as_ws(message)).await.expect("the sidecar takes it");
            if index % 100 == 0 {
                sleep(pause).await;
            }
        }
        if closes {
            // The close may overtake nothing, so what the client says is heard behind it.
            sink.flush().await.expect("the sidecar takes it");
        }
    };
    let hear = async {
        let mut heard = 0;
        while heard < ups.len() {
            match source.next().await.expect("no end").expect("no error") {
                WsMessage::Ping(_) | WsMessage::Pong(_) => continue,
                said => assert_eq!(said, as_ws(&ups[heard]), "up message {}", heard + 1),
            }
            heard += 1;
        }
    };
    tokio::join!(say, hear);
    if closes {
        let frame = CloseFrame { code: 4001.into(), reason: "kicked".into() };
        sink.send(WsMessage::Close(Some(frame))).await.expect("the sidecar takes it");
    }
    loop {
        match source.next().await.expect("a close frame").expect("no error") {
            WsMessage::Close(Some(frame)) => return (frame.code.into(), frame.reason.to_string()),
            WsMessage::Ping(_) | WsMessage::Pong(_) => {}
            other => panic!("one too many at the backend: {other:?}"),
        }
    }
}

fn seeds(base: u64, count: u64) -> Vec<u64> {
    match std::env::var("UNDERPASS_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (base..base + count).collect(),
    }
}

/// One conversation through the box.
async fn converse(seed: u64, transports: &[&'static str]) {
    println!("UNDERPASS_SEED={seed} {transports:?}");
    let mut chance = Chance::new(seed);
    let (downs, ups) = (messages(&mut chance), messages(&mut chance));
    let backend_closes = seed.is_multiple_of(2);
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, BOUNDS);
    let cutter = Cutter::start(site.at, seed).await;
    let opened = site.open("/talk").await;
    let socket = backend.accept().await;
    let theirs = tokio::spawn(play(socket, Arc::clone(&downs), Arc::clone(&ups), backend_closes));

    let talk = Talk::new(cutter.at, &opened.url, transports);
    let receive = tokio::spawn(Arc::clone(&talk).receive(Arc::clone(&ups), Chance::new(seed + 1)));
    let acknowledge = tokio::spawn(Arc::clone(&talk).acknowledge());
    let by_requests = transports != ["ws"];
    let sending = by_requests.then(|| tokio::spawn(Arc::clone(&talk).send(Arc::clone(&ups), Chance::new(seed + 2))));
    let whole = async {
        if let Some(sending) = sending {
            sending.await.expect("sending");
        }
        if !backend_closes {
            // A close of the client's does not wait for what is on its way down; so it comes last here.
            while talk.outcome().0.len() < downs.len() || !talk.has_sent(ups.len()) {
                sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(talk.hang_up(4002, "bye").await["close"]["code"], 4002);
        }
        receive.await.expect("receiving");
        acknowledge.await.expect("acknowledging");
        theirs.await.expect("the backend")
    };
    let theirs = timeout(Duration::from_secs(60), whole).await.unwrap_or_else(|_| {
        panic!("seed {seed}: stuck at {} of {}, {talk:?}", talk.outcome().0.len(), downs.len());
    });

    let (received, closed) = talk.outcome();
    let first_wrong = received.iter().zip(downs.iter()).position(|(got, sent)| got != sent);
    assert_eq!((first_wrong, received.len()), (None, downs.len()), "seed {seed}");
    let (code, reason) = if backend_closes { (4001, "kicked") } else { (4002, "bye") };
    assert_eq!(closed, Some(json!({"code": code, "reason": reason, "clean": true})), "seed {seed}");
    assert_eq!(theirs, (code, reason.to_owned()), "seed {seed}");
    assert!(backend.try_accept().is_none(), "one socket at the backend, seed {seed}");
    let attached = talk.attached.load(Ordering::Relaxed);
    assert!(attached > 5, "the box harmed nothing: {attached} attachments, seed {seed}");
    let past = site.get(&format!("{}/poll?after={}", opened.url, MESSAGES + 1)).await;
    assert_eq!((past.status.as_u16(), past.error().as_str()), (410, "session_closed"));
}

async fn each(seeds: Vec<u64>, transports: &[&'static str]) {
    for seed in seeds {
        converse(seed, transports).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_sse() {
    each(seeds(100, 2), &["sse"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_stream() {
    each(seeds(200, 2), &["stream"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_poll() {
    each(seeds(300, 2), &["poll"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_ws() {
    each(seeds(400, 2), &["ws"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_transports_changed_in_mid_session() {
    each(seeds(500, 3), &["sse", "stream", "poll", "ws"]).await;
}

/// What a browser does with the one-request form: its URL for ever, and the last id it saw.
async fn event_source(at: SocketAddr, seed: u64) -> (Vec<Message>, serde_json::Value, u64) {
    let path = format!("/feed?room=1&underpass.nonce=nonce-of-seed-{seed:06}&underpass=sse");
    let (mut received, mut last_id, mut attempts) = (Vec::new(), String::new(), 0u64);
    let mut close = None;
    loop {
        attempts += 1;
        let mut request = hyper::Request::get(&path).header("host", "site.example").header("connection", "close");
        if !last_id.is_empty() {
            request = request.header("last-event-id", &last_id);
        }
        let Some(mut wire) = exchange(at, request.body(Full::new(Bytes::new())).expect("a request")).await else {
            continue;
        };
        if wire.status == 204 {
            return (received, close.expect("a close before the end"), attempts);
        }
        if wire.status == 503 {
            continue;
        }
        assert_eq!(wire.status, 200);
        while let Some(event) = wire.event().await {
            let number = event.id.rsplit_once('.').map(|(_, number)| number.parse::<usize>().expect("a number"));
            match event.event.as_str() {
                "session" => assert_eq!(number, Some(received.len()), "resumed elsewhere than asked"),
                "heartbeat" | "reconnect" | "superseded" => {}
                "close" => {
                    assert_eq!(number, Some(received.len() + 1));
                    close = Some(event.json());
                }
                kind => {
                    assert_eq!(number, Some(received.len() + 1), "a hole or a twin: {kind}");
                    received.push(match kind {
                        "" => Message::text(event.data.as_str()),
                        "json" => Message::text(event.json().as_str().expect("a string")),
                        "binary" => Message::binary(base64(&event.data)),
                        other => panic!("event {other}"),
                    });
                }
            }
            if !event.id.is_empty() {
                last_id = event.id;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_bare_event_source() {
    for seed in seeds(600, 2) {
        println!("UNDERPASS_SEED={seed} bare");
        let mut chance = Chance::new(seed);
        let downs = messages(&mut chance);
        let mut backend = Backend::start().await;
        // Of what was written nothing may be forgotten here: how much a kernel holds is its own affair.
        let site = Site::start(backend.at, &format!("{BOUNDS}replay = \"16MiB\"\n"));
        let cutter = Cutter::start(site.at, seed).await;
        let script = Arc::clone(&downs);
        let at_backend = async {
            let socket = backend.accept().await;
            assert_eq!(socket.path, "/feed?room=1");
            play(socket, script, Arc::default(), true).await
        };
        let (theirs, (received, close, attempts)) =
            soon("the whole feed", async { tokio::join!(at_backend, event_source(cutter.at, seed)) }).await;
        assert!(received == *downs, "seed {seed}");
        assert_eq!(close, json!({"code": 4001, "reason": "kicked", "clean": true}));
        assert_eq!(theirs, (4001, "kicked".into()));
        assert!(attempts > 5, "the box harmed nothing");
        assert!(backend.try_accept().is_none(), "one socket at the backend, seed {seed}");
    }
}

#[tokio::test]
async fn what_is_gone_is_told_to_a_bare_event_source() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\nreplay = \"4KiB\"\n");
    let mut stream = site.stream("/feed?underpass=sse", &[]).await;
    let first = stream.told().await;
    let mut socket = backend.accept().await;
    for number in 1..=20 {
        socket.send(&format!("{number} {}", "x".repeat(1000))).await;
    }
    for number in 1..=20 {
        assert!(stream.told().await.data.starts_with(&format!("{number} ")));
    }
    drop(stream);
    let headers = [("last-event-id", first.id.as_str())];
    let mut again = site.stream("/feed?underpass=sse", &headers).await;
    let session = again.told().await;
    assert_eq!((session.event.as_str(), session.json()["resumed"].as_bool()), ("session", Some(true)));
    let lost = again.told().await;
    assert_eq!((lost.event.as_str(), lost.json()["from"].as_u64()), ("lost", Some(1)));
    let to = lost.json()["to"].as_u64().expect("a number");
    assert!((15..20).contains(&to), "the window holds some of 4 KiB: {to}");
    for number in to + 1..=20 {
        assert!(again.told().await.data.starts_with(&format!("{number} ")));
    }
    socket.send("goes on").await;
    assert_eq!(again.told().await.data, "goes on");
}

#[tokio::test]
async fn a_websocket_counts_its_messages_from_the_facts() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    let headers = [("sec-websocket-protocol", "underpass.v1")];
    let mut ws = site.websocket(&format!("{}/ws", opened.url), &headers).await;
    let facts = soon("facts", ws.next()).await.expect("a frame").expect("no error");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&facts.into_data()[1..]).expect("JSON")["next"], 1);
    // A send of the transport before arrives late: the same message comes by both.
    site.post(&format!("{}/send?seq=1&as=text", opened.url), "one").await.json();
    ws.send(WsMessage::text("1one")).await.expect("it takes it");
    ws.send(WsMessage::text("1two")).await.expect("it takes it");
    assert_eq!(socket.next_text().await, "one");
    assert_eq!(socket.next_text().await, "two", "message 1 came twice");
    let safe = loop {
        let frame = soon("an acknowledgement", ws.next()).await.expect("a frame").expect("no error").into_data();
        if frame[0] == 10 && frame[1..] == 3u64.to_be_bytes() {
            break true;
        }
    };
    assert!(safe);
}
