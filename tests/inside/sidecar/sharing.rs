//! What the browser client needs beside the transports: one poll for several sessions, numbered messages on a `ws`, its
//! own files.

use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use tokio_tungstenite::tungstenite::Message;

use crate::support::site::{Backend, Site, soon};

#[tokio::test]
async fn one_poll_tells_of_several_sessions() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let (a, b) = (site.open("/a").await, site.open("/b").await);
    let url = a.url.clone();
    let (mut first, _second) = (backend.accept().await, backend.accept().await);
    let token = |opened: &crate::support::site::Opened| opened.session["token"].as_str().expect("a token").to_owned();
    let (a, b) = (token(&a), token(&b));
    let ask = serde_json::json!({ "sessions": { (a.as_str()): 0, (b.as_str()): null } }).to_string();
    let waiting = site.post("/_underpass/poll?wait=10&n=abc", ask.clone());
    let speaking = async {
        while site.post(&format!("{url}/ack?after=0"), "").await.json()["attached"] != "poll" {}
        first.send("hello").await;
    };
    let (reply, ()) = tokio::join!(waiting, speaking);
    let answer = reply.json();
    assert_eq!(answer["n"], "abc");
    assert_eq!(answer["sessions"][&a]["messages"], serde_json::json!(["hello"]));
    assert_eq!(answer["sessions"][&a]["after"], 1);
    assert!(answer["sessions"].get(&b).is_none(), "{answer}");
    assert_eq!(reply.header("cache-control"), Some("no-store, no-transform"));

    // It is a pure read, and each answers when the time is up; the path of one of them will do, and a form.
    let form: String = percent_encoding::utf8_percent_encode(&ask, percent_encoding::NON_ALPHANUMERIC).collect();
    let again = site.post(&format!("{url}/polls?wait=0"), format!("json={form}")).await.json();
    assert_eq!(again["sessions"][&a]["messages"], serde_json::json!(["hello"]));
    assert_eq!(again["sessions"][&b]["messages"], serde_json::json!([]));

    // A fault of one is its own affair, and answered at once.
    let ask = serde_json::json!({ "sessions": { "n1-nobody": 0, (a.as_str()): 9, (b.as_str()): 0 } }).to_string();
    let faults = site.post("/_underpass/poll?wait=10", ask).await.json();
    assert_eq!(faults["sessions"]["n1-nobody"]["error"]["code"], "unknown_session");
    assert_eq!(faults["sessions"][&a]["error"]["code"], "bad_cursor");
    assert!(faults["sessions"].get(&b).is_none(), "{faults}");
}

#[tokio::test]
async fn a_poll_for_several_is_checked() {
    let backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let many: serde_json::Map<_, _> = (0..257).map(|at| (format!("n1-{at}"), 0.into())).collect();
    let bodies =
        ["", "{}", r#"{"sessions":{}}"#, r#"{"sessions":[]}"#, r#"{"sessions":{"a b":0}}"#, r#"{"sessions":{"a":-1}}"#]
            .map(str::to_owned)
            .into_iter()
            .chain([serde_json::json!({ "sessions": many }).to_string()]);
    for body in bodies {
        assert_eq!(site.post("/_underpass/poll", body.clone()).await.error(), "bad_request", "{body}");
    }
    assert_eq!(site.get("/_underpass/poll").await.error(), "method_not_allowed");
    let foreign = [("origin", "https://evil.example")];
    let refused = site.request(Method::POST, "/_underpass/poll", &foreign, "{}").await;
    assert_eq!(refused.error(), "origin_refused");
}

#[tokio::test]
async fn on_a_ws_every_acknowledgement_is_answered() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    let protocol = [("sec-websocket-protocol", "underpass.v1")];
    let mut ws = site.websocket(&format!("{}/ws?after=0", opened.url), &protocol).await;
    let mut next = async |sent: Option<Message>, kind: u8| {
        if let Some(sent) = sent {
            ws.send(sent).await.expect("sent");
        }
        loop {
            let frame = soon("a frame", ws.next()).await.expect("open").expect("no error").into_data();
            if frame[0] == kind {
                return frame;
            }
        }
    };
    next(None, 11).await;
    let acknowledge = || Some(Message::binary(vec![10, 0, 0, 0, 0, 0, 0, 0, 0]));
    // Nothing was sent, and still there is an answer: the round trip is the proof.
    assert_eq!(next(acknowledge(), 10).await[1..], 1_u64.to_be_bytes());
    assert_eq!(next(Some(Message::text("1one")), 10).await[1..], 2_u64.to_be_bytes());
    assert_eq!(next(acknowledge(), 10).await[1..], 2_u64.to_be_bytes());
    assert_eq!(socket.next_text().await, "one");
}

#[tokio::test]
async fn the_clients_files_are_served() {
    let backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    // A script tag of another site's page, which is not asked for its origin.
    let foreign = [("sec-fetch-site", "cross-site"), ("accept-encoding", "gzip")];
    let script = site.request(Method::GET, "/_underpass/client.js", &foreign, "").await;
    assert_eq!((script.status.as_u16(), script.header("content-encoding")), (200, Some("gzip")));
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(
        (script.header("cache-control"), script.header("x-content-type-options")),
        (Some("no-cache"), Some("nosniff"))
    );
    assert!(script.body.len() <= 11 * 1024);
    let tag = script.header("etag").expect("a tag").to_owned();
    let known = site.request(Method::GET, "/_underpass/client.js", &[("if-none-match", &tag)], "").await;
    assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
    let plain = site.get("/_underpass/client.js").await;
    let head = site.request(Method::HEAD, "/_underpass/client.js", &[], "").await;
    assert_eq!(head.header("content-length"), Some(plain.body.len().to_string().as_str()));
    let hash = plain.header("etag").expect("a tag").trim_matches('"').to_owned();
    let kept = site.get(&format!("/_underpass/client.js?v={hash}")).await;
    assert_eq!(kept.header("cache-control"), Some("public, max-age=31536000, immutable"));
    assert!(site.get("/_underpass/client.mjs").await.text().contains("export const{WebSocket"));
    assert!(site.get("/_underpass/client.d.ts").await.text().contains("export class WebSocket"));
}
