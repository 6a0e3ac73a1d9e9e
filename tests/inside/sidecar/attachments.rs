//! One reader at a time: a newer attachment supersedes, an old request that is repeated changes nothing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::site::{Backend, Site, Streaming, soon};

pub(crate) const V1: [(&str, &str); 1] = [("sec-websocket-protocol", "underpass.v1")];

/// The next frame that is no heartbeat.
pub(crate) async fn ws_frame(ws: &mut WebSocketStream<TcpStream>) -> Vec<u8> {
    loop {
        let frame = soon("a frame", ws.next()).await.expect("not ended").expect("no error");
        assert!(frame.is_text() || frame.is_binary(), "{frame:?}");
        let frame = frame.into_data().to_vec();
        if frame[0] != 9 {
            return frame;
        }
    }
}

/// The code with which it ends.
pub(crate) async fn ws_close(ws: &mut WebSocketStream<TcpStream>) -> u16 {
    match soon("a close", ws.next()).await.expect("a close frame").expect("no error") {
        Message::Close(Some(frame)) => frame.code.into(),
        other => panic!("{other:?}"),
    }
}

enum Held {
    Stream(Streaming),
    Frames(Streaming),
    Ws(Box<WebSocketStream<TcpStream>>),
    Poll(tokio::task::JoinHandle<Value>),
}

const TRANSPORTS: [&str; 4] = ["sse", "stream", "poll", "ws"];

/// Attaches and waits until that has taken effect.
async fn hold(site: &Arc<Site>, url: &str, transport: &str) -> Held {
    let path = format!("{url}/{transport}?after=0&wait=20");
    match transport {
        "sse" => {
            let mut stream = site.stream(&path, &[]).await;
            stream.told().await;
            Held::Stream(stream)
        }
        "stream" => {
            let mut stream = site.stream(&path, &[]).await;
            stream.frame().await.expect("facts");
            Held::Frames(stream)
        }
        "poll" => {
            let held = Arc::clone(site);
            let poll = tokio::spawn(async move { held.get(&path).await.json() });
            let attached = async {
                while site.post(&format!("{url}/ack?after=0"), "").await.json()["attached"] != "poll" {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            soon("the poll", attached).await;
            Held::Poll(poll)
        }
        _ => {
            let mut ws = site.websocket(&path, &V1).await;
            ws_frame(&mut ws).await;
            Held::Ws(Box::new(ws))
        }
    }
}

async fn ends_superseded(held: Held) {
    match held {
        Held::Stream(mut stream) => {
            let event = stream.told().await;
            assert_eq!((event.event.as_str(), &event.json()), ("superseded", &json!({"superseded": true})));
            assert!(stream.event().await.is_none());
        }
        Held::Frames(mut stream) => {
            let frame = loop {
                let frame = stream.frame().await.expect("a frame");
                if frame.0 != 9 {
                    break frame;
                }
            };
            assert_eq!(frame, (13, bytes::Bytes::new()));
            assert!(stream.frame().await.is_none());
        }
        Held::Poll(poll) => {
            let answer = soon("the poll's answer", poll).await.expect("an answer");
            assert_eq!((&answer["superseded"], &answer["messages"]), (&json!(true), &json!([])));
        }
        Held::Ws(mut ws) => {
            assert_eq!(ws_frame(&mut ws).await, [13]);
            assert_eq!(ws_close(&mut ws).await, 1000);
        }
    }
}

#[tokio::test]
async fn the_newest_attachment_wins_and_the_older_ends_cleanly() {
    let mut backend = Backend::start().await;
    let site = Arc::new(Site::start(backend.at, ""));
    for older in TRANSPORTS {
        for newer in TRANSPORTS {
            println!("{older} then {newer}");
            let opened = site.open("/").await;
            let mut socket = backend.accept().await;
            let first = hold(&site, &opened.url, older).await;
            // A second poll looks like the first one to whoever asks what is attached.
            let second = if newer == "poll" && older == "poll" {
                let (held, path) = (Arc::clone(&site), format!("{}/poll?after=0", opened.url));
                Held::Poll(tokio::spawn(async move { held.get(&path).await.json() }))
            } else {
                hold(&site, &opened.url, newer).await
            };
            ends_superseded(first).await;
            let standing = site.post(&format!("{}/ack?after=0", opened.url), "").await.json();
            assert_eq!(standing["attached"], newer);
            socket.send("to the newer one").await;
            match second {
                Held::Stream(mut stream) => assert_eq!(stream.told().await.data, "to the newer one"),
                Held::Frames(mut stream) => while stream.frame().await.expect("a frame").0 != 1 {},
                Held::Poll(poll) => assert_eq!(poll.await.expect("an answer")["messages"][0], "to the newer one"),
                Held::Ws(mut ws) => assert_eq!(ws_frame(&mut ws).await, b"1to the newer one"),
            }
        }
    }
}

#[tokio::test]
async fn an_old_request_that_is_repeated_changes_nothing() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    socket.send("one").await;
    let mut stream = site.stream(&format!("{}/sse", opened.url), &[]).await;
    stream.told().await;
    assert_eq!(stream.told().await.data, "one");
    let standing = site.post(&format!("{}/ack?after=1", opened.url), "").await.json();
    assert_eq!(standing, json!({"next": 1, "attached": "sse", "sent": 1, "unacked": 0}));
    for verb in ["sse", "stream", "poll"] {
        let reply = site.get(&format!("{}/{verb}?after=0", opened.url)).await;
        assert_eq!((reply.status.as_u16(), reply.error().as_str()), (409, "stale_cursor"), "{verb}");
        assert_eq!(reply.json()["after"], 1);
        let reply = site.get(&format!("{}/{verb}?after=9&n=x", opened.url)).await;
        assert_eq!((reply.status.as_u16(), reply.error().as_str()), (400, "bad_cursor"), "{verb}");
        assert_eq!(reply.json()["n"], "x");
    }
    // In acknowledgements an older cursor is ignored, one beyond is refused.
    assert_eq!(site.post(&format!("{}/ack?after=0", opened.url), "").await.json()["unacked"], 0);
    for request in ["ack?after=2", "send?as=text&after=2"] {
        let reply = site.post(&format!("{}/{request}", opened.url), "x").await;
        assert_eq!((reply.status.as_u16(), reply.error().as_str()), (400, "bad_cursor"), "{request}");
    }
    socket.send("two").await;
    assert_eq!(stream.told().await.data, "two");
    let standing = site.post(&format!("{}/send", opened.url), r#"{"messages":[]}"#).await.json();
    assert_eq!(standing, json!({"next": 1, "attached": "sse", "sent": 2, "unacked": 1}));
}

#[tokio::test]
async fn unknown_and_forged_tokens_get_the_same_answer() {
    let site = Site::start(Backend::echo().await, "");
    let opened = site.open("/").await;
    let forged = format!("{}A", &opened.url[..opened.url.len() - 1]);
    let forged = if forged == opened.url { format!("{}B", &opened.url[..opened.url.len() - 1]) } else { forged };
    let mut bodies = Vec::new();
    for url in [forged.as_str(), "/_underpass/s/n1-x", &format!("/_underpass/s/n1-{}", "A".repeat(44))] {
        let reply = site.get(&format!("{url}/poll")).await;
        assert_eq!((reply.status.as_u16(), reply.error().as_str()), (404, "unknown_session"), "{url}");
        bodies.push(reply.text());
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
}
