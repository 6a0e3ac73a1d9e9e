//! The self-test's requests: off, as if they were not there; on, a page, what was seen, and a WebSocket.

use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::plain::nowhere;
use crate::support::site::{Site, marked, soon};

const TALK: &str = "/_underpass/selftest/talk";

/// Nothing of it needs a backend.
async fn on(more: &str) -> Site {
    Site::start(nowhere().await, &format!("selftest = true\n{more}"))
}

fn header<'a>(reply: &'a crate::support::site::Reply, name: &str) -> &'a str {
    reply.header(name).unwrap_or_default()
}

#[tokio::test]
async fn off_it_is_not_there() {
    let site = Site::start(nowhere().await, "");
    for path in ["/_underpass/selftest", "/_underpass/selftest/seen", TALK, "/_underpass/selftest/x"] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let reply = site.request(method, path, &[], "").await;
            assert_eq!((reply.status.as_u16(), reply.error().as_str()), (404, "not_found"), "{path}");
        }
    }
    assert_eq!(site.post(&marked(TALK, "open"), "").await.error(), "not_found");
}

#[tokio::test]
async fn the_page_runs_its_own_script_only_and_is_never_kept() {
    let site = on("").await;
    let reply = site.get("/_underpass/selftest").await;
    assert_eq!((reply.status.as_u16(), header(&reply, "content-type")), (200, "text/html; charset=utf-8"));
    assert_eq!(header(&reply, "cache-control"), "no-store, no-transform");
    assert_eq!(header(&reply, "referrer-policy"), "no-referrer");
    let policy = header(&reply, "content-security-policy");
    let nonce = policy.split("script-src 'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).expect("a nonce");
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(reply.text().contains(&format!("<script nonce=\"{nonce}\">")));
    assert_ne!(site.get("/_underpass/selftest").await.header("content-security-policy"), Some(policy));
    let head = site.request(Method::HEAD, "/_underpass/selftest", &[], "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(site.post("/_underpass/selftest", "").await.error(), "method_not_allowed");
    for unknown in ["/_underpass/selftest/", "/_underpass/selftest/x", "/_underpass/selftest/seen/"] {
        assert_eq!(site.get(unknown).await.error(), "not_found", "{unknown}");
    }
}

/// A link in a mail leads to it; only the page itself, which tells nothing, is for everybody.
#[tokio::test]
async fn a_link_elsewhere_opens_the_page_and_nothing_else() {
    let site = on("require_origin = true\n").await;
    let from_mail = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
    let foreign = [("origin", "https://evil.example")];
    for headers in [&from_mail[..], &foreign[..]] {
        assert_eq!(site.request(Method::GET, "/_underpass/selftest", headers, "").await.status.as_u16(), 200);
        let seen = site.request(Method::GET, "/_underpass/selftest/seen", headers, "").await;
        assert_eq!(seen.error(), "origin_refused");
        assert_eq!(site.request(Method::GET, TALK, headers, "").await.error(), "origin_refused");
    }
}

#[tokio::test]
async fn what_was_seen_of_a_request_is_told_without_its_secrets() {
    let site = on("").await;
    let headers =
        [("via", "1.1 box"), ("cookie", "a=secret"), ("authorization", "Basic c2VjcmV0"), ("x-new", "secret")];
    let reply = site.request(Method::POST, "/_underpass/selftest/seen", &headers, "12345").await;
    let seen = reply.json();
    assert_eq!((&seen["method"], &seen["version"], &seen["body"]), (&json!("POST"), &json!("HTTP/1.1"), &json!(5)));
    assert_eq!((&seen["proto"], &seen["client"], &seen["talk"]), (&json!("http"), &json!("127.0.0.1"), &json!(TALK)));
    let fields = seen["headers"].as_array().expect("a list");
    for field in
        [json!(["via", "1.1 box"]), json!(["cookie", null]), json!(["authorization", null]), json!(["x-new", null])]
    {
        assert!(fields.contains(&field), "{field} in {seen}");
    }
    assert!(!reply.text().contains("secret"), "{}", reply.text());
    assert_eq!(site.post("/_underpass/selftest/seen", vec![b'x'; 9000]).await.error(), "too_large");
}

#[tokio::test]
async fn its_websocket_ticks_echoes_and_bursts() {
    let site = on("").await;
    let mut socket = site.websocket(TALK, &[]).await;
    let next = async |socket: &mut tokio_tungstenite::WebSocketStream<_>| {
        soon("a message", socket.next()).await.expect("it goes on").expect("a message")
    };
    let tick: Value = serde_json::from_str(next(&mut socket).await.to_text().expect("text")).expect("JSON");
    assert!(tick["tick"] == 1 && tick["at"].is_u64(), "{tick}");
    for message in [Message::text("echo"), Message::binary(vec![0, 255]), Message::text("")] {
        socket.send(message.clone()).await.expect("it reads");
        let mut back = next(&mut socket).await;
        while back.to_text().is_ok_and(|text| text.starts_with("{\"tick\"")) {
            back = next(&mut socket).await;
        }
        assert_eq!(back, message);
    }
    socket.send(Message::text("burst")).await.expect("it reads");
    let (mut bursts, mut ticks) = (0, 1);
    while bursts < 8 || ticks < 5 {
        let message = next(&mut socket).await;
        let text = message.to_text().expect("text");
        if text.starts_with("burst") {
            assert!(text.len() >= 16 * 1024);
            bursts += 1;
        } else {
            ticks += usize::from(text.starts_with("{\"tick\""));
        }
    }
    assert_eq!((bursts, ticks), (8, 5));
    socket.close(None).await.expect("it closes");
    let lost = site.get(TALK).await;
    assert_eq!((lost.status.as_u16(), lost.error().as_str()), (426, "upgrade_lost"));
}

#[tokio::test]
async fn a_session_with_it_is_a_session_like_any_other() {
    let site = on("").await;
    let opened = site.open(TALK).await;
    let reply = site.post(&format!("{}/send?seq=1&as=text", opened.url), "echo-1").await;
    assert_eq!(reply.json()["next"], 2);
    let (mut after, mut texts) = (0, Vec::new());
    let is_tick = |text: &Value| text.as_str().is_some_and(|text| text.starts_with("{\"tick\":1"));
    while !(texts.iter().any(|text: &Value| text == "echo-1") && texts.iter().any(is_tick)) {
        let batch = site.get(&format!("{}/poll?after={after}&wait=5", opened.url)).await.json();
        after = batch["after"].as_u64().expect("a cursor");
        texts.extend(batch["messages"].as_array().expect("messages").clone());
    }
    let closed = site.post(&format!("{}/close", opened.url), "").await;
    assert_eq!(closed.json()["close"]["code"], 1000);
}
