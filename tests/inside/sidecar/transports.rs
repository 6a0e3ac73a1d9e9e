//! Every transport carries a conversation: open, down, up, close.

use http::Method;
use tokio_tungstenite::tungstenite::Message;
use underpass::terms::Transport;

use crate::support::site::{Backend, Site};

#[tokio::test]
async fn sse_carries_text_binary_and_the_close_with_their_numbers() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/chat?room=1").await;
    let mut socket = backend.accept().await;
    assert_eq!(socket.path, "/chat?room=1");
    let mut stream = site.stream(&format!("{}/sse", opened.url), &[]).await;
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    let session = stream.told().await;
    assert_eq!((session.event.as_str(), session.id.as_str()), ("session", "0"));
    assert_eq!(session.json()["token"], opened.session["token"]);

    socket.send("one\ntwo").await;
    socket.send_binary(&[0, 1, 2, 255]).await;
    socket.send("a\rb").await;
    socket.close(4001, "kicked").await;
    let text = stream.told().await;
    assert_eq!((text.event.as_str(), text.id.as_str(), text.data.as_str()), ("", "1", "one\ntwo"));
    let binary = stream.told().await;
    assert_eq!((binary.event.as_str(), binary.id.as_str(), binary.data.as_str()), ("binary", "2", "AAEC/w=="));
    let json = stream.told().await;
    assert_eq!((json.event.as_str(), json.id.as_str(), json.data.as_str()), ("json", "3", r#""a\rb""#));
    let close = stream.told().await;
    assert_eq!((close.event.as_str(), close.id.as_str()), ("close", "4"));
    assert_eq!(close.json(), serde_json::json!({"code": 4001, "reason": "kicked", "clean": true}));
    assert_eq!(stream.event().await, None);
}

#[tokio::test]
async fn frames_carry_the_same() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    let mut stream = site.stream(&format!("{}/stream", opened.url), &[]).await;
    assert_eq!(stream.frame().await.expect("facts").0, 11);
    socket.send("text").await;
    socket.send_binary(b"\0\n").await;
    socket.close(1000, "").await;
    assert_eq!(stream.frame().await, Some((1, "text".into())));
    assert_eq!(stream.frame().await, Some((2, b"\0\n".as_slice().into())));
    assert_eq!(stream.frame().await, Some((8, b"\x03\xe8\x01".as_slice().into())));
    assert_eq!(stream.frame().await, None);
}

#[tokio::test]
async fn a_poll_is_a_pure_read_until_its_cursor_is_presented() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    socket.send("one").await;
    let first = site.get(&format!("{}/poll?after=0&n=abc", opened.url)).await.json();
    assert_eq!(first["messages"], serde_json::json!(["one"]));
    assert_eq!((first["from"].as_u64(), first["after"].as_u64()), (Some(0), Some(1)));
    assert_eq!((first["next"].as_u64(), first["n"].as_str()), (Some(1), Some("abc")));
    let again = site.get(&format!("{}/poll?after=0", opened.url)).await.json();
    assert_eq!(again["messages"], first["messages"]);
    let none = site.get(&format!("{}/poll?after=1&wait=0.05", opened.url)).await.json();
    assert_eq!(none["messages"], serde_json::json!([]));
    let stale = site.get(&format!("{}/poll?after=0", opened.url)).await;
    assert_eq!((stale.error().as_str(), stale.json()["after"].as_u64()), ("stale_cursor", Some(1)));
    socket.close(4001, "kicked").await;
    let end = site.get(&format!("{}/poll?after=1", opened.url)).await.json();
    assert_eq!(end["close"], serde_json::json!({"code": 4001, "reason": "kicked", "clean": true}));
    assert_eq!(end["after"], 2);
    let gone = site.get(&format!("{}/poll?after=2", opened.url)).await;
    assert_eq!((gone.status.as_u16(), gone.error().as_str()), (410, "session_closed"));
}

#[tokio::test]
async fn sends_reach_the_backend_once_and_in_order() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    let send = format!("{}/send", opened.url);
    let headers = [("content-type", "application/json")];
    let body = r#"{"messages":["three",{"base64":"AAEC/w=="}]}"#;
    let ahead = site.request(Method::POST, &format!("{send}?seq=3"), &headers, body).await.json();
    assert_eq!(ahead["next"], 1);
    let body = r#"{"messages":["one","two"]}"#;
    let filled = site.request(Method::POST, &format!("{send}?seq=1"), &headers, body).await.json();
    assert_eq!((filled["next"].as_u64(), filled["attached"].is_null()), (Some(5), true));
    let again = site.request(Method::POST, &format!("{send}?seq=1"), &headers, body).await.json();
    assert_eq!(again["next"], 5);
    let plain = site.post(&format!("{send}?as=text"), "five").await.json();
    assert_eq!(plain["next"], 6);
    let gap = site.request(Method::POST, &format!("{send}?seq=71"), &headers, body).await;
    assert_eq!((gap.error().as_str(), gap.json()["next"].as_u64()), ("gap", Some(6)));
    for text in ["one", "two", "three"] {
        assert_eq!(socket.next_text().await, text);
    }
    assert_eq!(socket.next().await, Message::binary(vec![0, 1, 2, 255]));
    assert_eq!(socket.next_text().await, "five");
}

#[tokio::test]
async fn a_clients_close_reaches_the_backend_behind_its_messages() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    let mut stream = site.stream(&format!("{}/sse", opened.url), &[]).await;
    stream.told().await;
    site.post(&format!("{}/send?as=text", opened.url), "last words").await.json();
    let closed = site.post(&format!("{}/close", opened.url), r#"{"code":4000,"reason":"bye"}"#).await;
    assert_eq!(closed.json(), serde_json::json!({"close": {"code": 4000, "reason": "bye", "clean": true}}));
    assert_eq!(socket.next_text().await, "last words");
    assert_eq!(socket.closed().await, (4000, "bye".into()));
    let close = stream.told().await;
    assert_eq!((close.event.as_str(), close.json()["code"].as_u64()), ("close", Some(4000)));
    let again = site.post(&format!("{}/close", opened.url), "").await.json();
    assert_eq!(again["close"]["code"], 4000);
    let late = site.post(&format!("{}/send?as=text", opened.url), "late").await;
    assert_eq!((late.error().as_str(), late.json()["close"]["code"].as_u64()), ("session_closed", Some(4000)));
}

#[tokio::test]
async fn a_session_is_found_from_every_worker() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "workers = 3\n");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    // Each request is a connection of its own, which the kernel gives to one of the three.
    for number in 1..=30 {
        let sent = site.post(&format!("{}/send?seq={number}&as=text", opened.url), "up").await;
        assert_eq!(sent.json()["next"], number + 1);
        assert_eq!(socket.next_text().await, "up");
        socket.send("down").await;
        let got = site.get(&format!("{}/poll?after={}", opened.url, number - 1)).await.json();
        assert_eq!((got["messages"][0].as_str(), got["after"].as_u64()), (Some("down"), Some(number)));
    }
}

#[tokio::test]
async fn whoever_lists_the_transports_lists_all_of_them() {
    let site = Site::start(Backend::start().await.at, "selftest = true");
    let script = site.get("/_underpass/client.js").await.text();
    let page = site.get("/_underpass/selftest").await.text();
    assert!(script.contains(&format!("\"{}\"", Transport::WORDS.join(","))), "the client's order");
    for word in Transport::WORDS {
        assert!(page.contains(&format!("[\"{word}\", \"{word}\"]")), "the self-test's page has no row for {word}");
    }
}
