//! Bounds: a slow client stops the backend, a slow backend stops the client, and what is too large is refused whole.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::support::site::{Backend, Reply, Site, soon};

const MIB: usize = 1024 * 1024;
/// Far more than any kernel buffers for one connection.
const FLOOD: usize = 48 * MIB;

/// Sends messages of 4 KiB, each with its number, until nobody takes them any more; how many were taken.
async fn flood(sink: &mut (impl futures_util::Sink<Message> + Unpin)) -> usize {
    let count = FLOOD / 4096;
    for number in 0..count {
        let text = format!("{number:04096}");
        if timeout(Duration::from_millis(400), sink.send(Message::text(text))).await.is_err() {
            return number;
        }
    }
    panic!("all {count} messages were taken, though nobody reads them");
}

#[tokio::test]
async fn a_backend_is_not_read_while_its_client_is_behind_and_read_on_when_it_comes() {
    let mut backend = Backend::start().await;
    let site =
        Site::start(backend.at, "admin = \"127.0.0.1:0\"\n[session]\nbuffer = \"64KiB\"\nack_bytes = \"16KiB\"\n");
    let opened = site.open("/").await;
    let (mut sink, mut source) = backend.accept().await.ws.split();
    let taken = flood(&mut sink).await;
    // What the kernel holds between the two is its own affair; the sidecar holds 64 KiB of it.
    assert!(taken * 4096 < 24 * MIB, "{taken} messages were taken");
    assert_eq!(site.metric("underpass_pauses_total").await, 1.0);

    // The one that was being written goes on by itself; all of them arrive once somebody reads.
    let flushing = tokio::spawn(async move {
        sink.flush().await.expect("it is taken");
        sink.send(Message::text("last")).await.expect("it is taken");
        while source.next().await.is_some() {}
    });
    let (mut after, mut received) = (0u64, 0);
    'reading: loop {
        let answer = site.get(&format!("{}/poll?after={after}", opened.url)).await.json();
        after = answer["after"].as_u64().expect("a cursor");
        let messages = answer["messages"].as_array().expect("messages");
        assert!(messages.len() * 4096 <= 64 * 1024, "a batch over the buffer");
        for message in messages {
            let text = message.as_str().expect("a text");
            if text == "last" {
                break 'reading;
            }
            assert_eq!(text.parse::<usize>().expect("a number"), received);
            received += 1;
        }
    }
    assert!(received >= taken, "{received} of {taken}");
    flushing.abort();
}

#[tokio::test]
async fn an_attached_client_that_does_not_read_pauses_the_backend_too() {
    let mut backend = Backend::start().await;
    let site =
        Site::start(backend.at, "admin = \"127.0.0.1:0\"\n[session]\nbuffer = \"64KiB\"\nack_bytes = \"16KiB\"\n");
    for verb in ["sse", "stream"] {
        let opened = site.open("/").await;
        let mut socket = backend.accept().await;
        let stream = site.stream(&format!("{}/{verb}", opened.url), &[]).await;
        flood(&mut socket.ws).await;
        drop(stream);
    }
    let mut stream = site.stream("/?underpass=sse", &[]).await;
    let mut socket = backend.accept().await;
    stream.told().await;
    flood(&mut socket.ws).await;
    // Whenever a kernel takes some more of a stream, the backend is read on for a moment.
    assert!(site.metric("underpass_pauses_total").await >= 3.0);
}

#[tokio::test]
async fn a_pause_that_takes_too_long_ends_the_session_on_both_sides() {
    let mut backend = Backend::start().await;
    let site = Site::start(
        backend.at,
        "admin = \"127.0.0.1:0\"\n[session]\nbuffer = \"16KiB\"\nack_bytes = \"16KiB\"\npause = \"500ms\"\n",
    );
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    for number in 0..40 {
        socket.send(&format!("{number:01000}")).await;
    }
    assert_eq!(socket.closed().await, (1013, "client too slow".into()));
    let mut after = 0;
    let close = loop {
        let answer = site.get(&format!("{}/poll?after={after}", opened.url)).await.json();
        after = answer["after"].as_u64().expect("a cursor");
        if !answer["close"].is_null() {
            break answer["close"].clone();
        }
    };
    assert_eq!(close, json!({"code": 1013, "reason": "client too slow", "clean": true}));
    site.counts("underpass_sessions_ended_total{reason=\"too_slow\"}", 1.0).await;
}

async fn send_binary(site: &Site, url: &str, seq: u64, size: usize) -> Reply {
    let path = format!("{url}/send?seq={seq}&as=binary");
    site.request(Method::POST, &path, &[], vec![seq as u8; size]).await
}

#[tokio::test]
async fn a_backend_that_does_not_read_makes_sends_busy_and_nothing_is_lost() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\nqueue = \"16KiB\"\nbusy = \"300ms\"\n");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    let mut seq = 1;
    let busy = loop {
        let reply = send_binary(&site, &opened.url, seq, 900_000).await;
        if reply.status != 200 {
            break reply;
        }
        seq += 1;
        assert_eq!(reply.json()["next"], seq);
        assert!(seq < 100, "nothing bounds what is sent");
    };
    assert_eq!((busy.status.as_u16(), busy.error().as_str()), (503, "busy"));
    assert_eq!(busy.json()["next"], seq);
    // A batch goes in as far as there is room. The rest is repeated with the number that was told.
    let hear = async {
        for number in 1..=seq {
            assert_eq!(socket.next().await, Message::binary(vec![number as u8; 900_000]), "message {number}");
        }
    };
    let repeat = async { while send_binary(&site, &opened.url, seq, 900_000).await.status != 200 {} };
    tokio::join!(hear, repeat);
}

#[tokio::test]
async fn what_is_too_large_is_refused_whole() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\nmessage = \"2KiB\"\nbody = \"4KiB\"\n");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    let json = [("content-type", "application/json")];
    let send = format!("{}/send?seq=1", opened.url);
    let two = json!({"messages": ["small", "x".repeat(2049)]}).to_string();
    let reply = site.request(Method::POST, &send, &json, two).await;
    assert_eq!((reply.status.as_u16(), reply.error().as_str()), (413, "too_large"));
    assert_eq!(reply.json()["limit"], 2048);
    let reply = site.request(Method::POST, &send, &json, "x".repeat(5000)).await;
    assert_eq!((reply.status.as_u16(), reply.error().as_str()), (413, "too_large"));
    assert_eq!(reply.json()["limit"], 4096);
    for body in ["{", r#"{"messages":[1]}"#, r#"{"messages":["a",{"base64":"*"}]}"#] {
        let reply = site.request(Method::POST, &send, &json, body).await;
        assert_eq!((reply.status.as_u16(), reply.error().as_str()), (400, "bad_request"), "{body}");
    }
    let fits = "y".repeat(2048);
    site.request(Method::POST, &send, &json, json!({"messages": [fits]}).to_string()).await.json();
    assert_eq!(socket.next_text().await, fits, "nothing of the others was kept");
}

/// What each wrong frame of a client ends its attachment with; the session lives on.
#[tokio::test]
async fn a_websocket_that_breaks_the_rules_loses_its_attachment_only() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\nmessage = \"8KiB\"\n");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    let ack = [&[10][..], &9u64.to_be_bytes()].concat();
    let close = [&[8][..], &1001u16.to_be_bytes(), &[1]].concat();
    for (wrong, code) in [
        (Message::text(format!("1{}", "x".repeat(8193))), 1009),
        (Message::binary(vec![2; 9000]), 1009),
        (Message::text("no kind"), 1002),
        (Message::text(""), 1002),
        (Message::binary(vec![]), 1002),
        (Message::binary(vec![99]), 1002),
        (Message::binary(vec![10, 1]), 1002),
        (Message::binary(ack), 1002),
        (Message::binary(close), 1002),
    ] {
        let headers = [("sec-websocket-protocol", "underpass.v1")];
        let mut ws = site.websocket(&format!("{}/ws?after=0", opened.url), &headers).await;
        let shown = format!("{wrong:.40}");
        ws.send(wrong).await.expect("it is taken");
        let ended = loop {
            match soon("a close", ws.next()).await.expect("a close frame") {
                Ok(Message::Close(Some(frame))) => break u16::from(frame.code),
                Ok(_) => {}
                Err(error) => panic!("{error} instead of a close frame for {shown}"),
            }
        };
        assert_eq!(ended, code, "{shown}");
    }
    site.post(&format!("{}/send?as=text", opened.url), "alive").await.json();
    assert_eq!(socket.next_text().await, "alive");
}

#[tokio::test]
async fn a_poll_holds_a_batch_or_one_message_that_is_larger() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "[session]\nbatch = \"64KiB\"\n");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    for size in [40_000, 40_000, 1, 70_000, 1] {
        socket.send(&"x".repeat(size)).await;
    }
    socket.close(4001, "done").await;
    // Once the session is closed, all messages before the close are there.
    soon("the close", async { while site.post(&format!("{}/send", opened.url), "").await.status != 410 {} }).await;
    let (mut after, mut batches) = (0, Vec::new());
    loop {
        let answer = site.get(&format!("{}/poll?after={after}", opened.url)).await.json();
        after = answer["after"].as_u64().expect("a cursor");
        let sizes = answer["messages"].as_array().expect("messages").iter();
        batches.push(sizes.map(|text| text.as_str().expect("a text").len()).collect::<Vec<_>>());
        if answer["close"].is_object() {
            break;
        }
    }
    assert_eq!(batches, [vec![40_000], vec![40_000, 1], vec![70_000], vec![1]]);
}

#[tokio::test]
async fn a_message_that_is_sent_twice_counts_once() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "admin = \"127.0.0.1:0\"\n");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    let send = |seq: u64| format!("{}/send?seq={seq}&as=text", opened.url);
    for seq in [1, 1, 3, 3, 2, 1, 3] {
        site.post(&send(seq), "four").await.json();
    }
    for _ in 0..3 {
        assert_eq!(socket.next_text().await, "four");
    }
    let up = |name: &str| format!("underpass_{name}_total{{direction=\"up\",transport=\"any\"}}");
    assert_eq!(site.metric(&up("messages")).await, 3.0);
    assert_eq!(site.metric(&up("message_bytes")).await, 12.0);
}
