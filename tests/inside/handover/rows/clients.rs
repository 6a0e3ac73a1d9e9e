//! Rows of clients that speak while one process follows another. Enters: requests. Leaves: their answers, each once. Must not touch:
//! TLS, which has its rows where certificates are made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;

use super::{Line, ROADS, Road, speak};
use crate::support::plain::{self, Line as Bytes, canned};
use crate::support::site::{Backend, Reply, Site, soon};

/// How many messages a client has under way.
const AT_ONCE: usize = 8;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn an_idle_connection_is_answered_by_the_successor() {
    for road in ROADS {
        let (at, _asked) = canned(OK).await;
        let mut line = Line::start(road, &format!("listen = \"127.0.0.1:0\"\nupstream = \"http://{at}\"\n")).await;
        let (mut idle, mut half) = (Bytes::to(line.site.at).await, Bytes::to(line.site.at).await);
        for over in 0..3 {
            idle.say("GET /idle HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let (head, body) = idle.answer().await;
            assert!(head.starts_with("http/1.1 200 ") && body == "ok", "{road:?}, {over}: {head}");
            half.say("GET /half HTTP/1.1\r\nHo").await;
            line.next().await;
            half.say("st: a\r\n\r\n").await;
            let (head, body) = half.answer().await;
            assert!(head.starts_with("http/1.1 200 ") && body == "ok", "{road:?}, {over}: {head}");
        }
    }
}

/// More than is read ahead, and than fits into one segment.
const LARGE: usize = 100_000;

/// A large POST whose body comes behind its head; the backend has read all of it, and has not answered.
async fn post_in_two(client: &mut Bytes, backends: &mut UnboundedReceiver<Bytes>) -> Bytes {
    client.say(format!("POST /large HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n")).await;
    let mut backend = plain::next(backends).await;
    backend.head().await;
    client.say(vec![b'x'; LARGE]).await;
    backend.bytes(LARGE).await;
    backend
}

#[tokio::test]
async fn a_connection_on_which_a_body_came_behind_its_head_is_answered_by_the_successor() {
    for road in ROADS {
        let (at, mut backends) = plain::played().await;
        let mut line = Line::start(road, &format!("listen = \"127.0.0.1:0\"\nupstream = \"http://{at}\"\n")).await;
        let mut client = Bytes::to(line.site.at).await;
        for under_way in [false, true] {
            let mut backend = post_in_two(&mut client, &mut backends).await;
            // A take-over waits for nobody who is proxied: there an exchange that is under way ends with the old process.
            if under_way && road == Road::Restart {
                line.process.signal("-USR2");
                assert_eq!(line.site.get("/_underpass/info").await.status, 200);
                backend.say(OK).await;
                assert_eq!(client.answer().await.1, "ok");
                line.follow().await;
            } else {
                backend.say(OK).await;
                let (head, body) = client.answer().await;
                assert!(body == "ok" && !head.contains("connection: close"), "{road:?}: {head}");
                line.next().await;
            }
            // The backend's connection has ended with the process.
            client.say("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut next = plain::next(&mut backends).await;
            next.head().await;
            next.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nnext").await;
            assert_eq!(client.answer().await.1, "next", "{road:?}, under way: {under_way}");
        }
    }
}

/// Whoever reads a stream or waits for an answer to a poll goes on doing so, on the same connection, and reads nothing of all this.
#[tokio::test]
async fn streams_and_waiting_polls_go_on_and_their_clients_notice_nothing() {
    for road in ROADS {
        let mut backend = Backend::start().await;
        let at = backend.at;
        let mut line = Line::start(road, &format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{at}\"\n")).await;
        let mut readers = Vec::new();
        for (verb, version) in [("sse", "1.1"), ("stream", "1.1"), ("sse", "1.0"), ("poll", "1.1")] {
            let opened = line.site.open("/chat").await;
            let (mut client, socket) = (Bytes::to(line.site.at).await, backend.accept().await);
            client.say(format!("GET {}/{verb} HTTP/{version}\r\nHost: a\r\n\r\n", opened.url)).await;
            if verb != "poll" {
                assert!(client.head().await.starts_with("http/1.1 200 "), "{road:?}, {verb}");
            }
            readers.push((verb, opened.url, client, socket));
        }
        // As a bare EventSource does.
        let mut client = Bytes::to(line.site.at).await;
        client.say("GET /chat?underpass=sse HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(client.head().await.starts_with("http/1.1 200 "));
        readers.push(("bare", String::new(), client, backend.accept().await));
        line.site.counts(r#"underpass_sessions_active{transport="poll"}"#, 1.0).await;
        for number in 1..=3 {
            line.next().await;
            line.site.counts(r#"underpass_sessions_active{transport="sse"}"#, 3.0).await;
            let text = format!("after {number}");
            for (verb, url, client, socket) in &mut readers {
                let said = if *verb == "poll" {
                    line.site.counts(r#"underpass_sessions_active{transport="poll"}"#, 1.0).await;
                    socket.send(&text).await;
                    let (head, body) = client.answer().await;
                    assert!(head.starts_with("http/1.1 200 ") && head.contains("cache-control"), "{road:?}: {head}");
                    client.say(format!("GET {url}/poll?after={number} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
                    body
                } else {
                    socket.send(&text).await;
                    client.until(&text).await
                };
                assert!(said.contains(&text) && !said.contains("reconnect"), "{road:?}, {verb}, {number}: {said}");
                assert!(!said.contains("retry") || number == 1, "{road:?}, {verb}, {number}: {said}");
            }
        }
        // Nobody has acknowledged anything for them.
        let (_, url, ..) = &readers[0];
        let again = line.site.get(&format!("{url}/poll?after=0")).await.json();
        assert_eq!(again["messages"], json!(["after 1", "after 2", "after 3"]), "{road:?}: {again}");
        // Another reader is the newer one also for a stream that has come from another process.
        assert!(readers[0].2.until("superseded").await.len() < 100, "{road:?}");
    }
}

/// True when it was done, false when it is to be asked again.
fn is_done(reply: &Reply, what: &str) -> bool {
    if reply.status == 503 && reply.error() == "draining" {
        assert_eq!(reply.header("retry-after"), Some("0"), "{what}");
        return false;
    }
    assert_eq!(reply.status, 200, "{what}: {}", reply.text());
    true
}

/// Repeats a request until it is done; how often it was not.
async fn insist(site: &Site, path: &str, body: &str) -> (Reply, usize) {
    let mut refused = 0;
    loop {
        let reply = site.post(path, body.to_owned()).await;
        if is_done(&reply, path) {
            return (reply, refused);
        }
        refused += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn short_requests_that_meet_the_freeze_are_answered_once() {
    for road in ROADS {
        let mut backend = Backend::start().await;
        let at = backend.at;
        let mut line = Line::start(road, &format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{at}\"\n")).await;
        let stop = Arc::new(AtomicBool::new(false));
        let (done, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut all = Vec::new();
        for _ in 0..12 {
            let opened = line.site.open("/chat").await;
            let mut socket = backend.accept().await;
            let site = Site::elsewhere(line.site.at, None);
            let (stop, done, refused) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&refused));
            all.push(tokio::spawn(async move {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    // Several at once, which come in any order and go in theirs.
                    let sends = (number + 1..=number + AT_ONCE).map(async |seq| {
                        insist(&site, &format!("{}/send?seq={seq}&as=text", opened.url), &seq.to_string()).await.1
                    });
                    let sends = join_all(sends).await;
                    for seq in number + 1..=number + AT_ONCE {
                        assert_eq!(socket.next_text().await, seq.to_string(), "lost or doubled");
                    }
                    number += AT_ONCE;
                    let after = number / AT_ONCE;
                    socket.send(&after.to_string()).await;
                    let polled = loop {
                        let polled = site.get(&format!("{}/poll?after={}", opened.url, after - 1)).await;
                        if is_done(&polled, "poll") && polled.json()["messages"] != json!([]) {
                            break polled;
                        }
                    };
                    assert_eq!(polled.json()["messages"], json!([after.to_string()]));
                    let (_, acks) = insist(&site, &format!("{}/ack?after={after}", opened.url), "").await;
                    done.fetch_add(AT_ONCE + 2, Ordering::Relaxed);
                    refused.fetch_add(sends.iter().sum::<usize>() + acks, Ordering::Relaxed);
                }
                insist(&site, &format!("{}/close", opened.url), r#"{"code":4000,"reason":"enough"}"#).await;
                assert_eq!(socket.closed().await, (4000, "enough".to_owned()));
            }));
        }
        for _ in 0..6 {
            let before = done.load(Ordering::Relaxed);
            line.next().await;
            let goes_on = async {
                while done.load(Ordering::Relaxed) < before + 120 {
                    tokio::task::yield_now().await;
                }
            };
            soon("requests to go on", goes_on).await;
        }
        stop.store(true, Ordering::Relaxed);
        // Closes meet the last one.
        line.next().await;
        for one in all {
            soon("its end", one).await.expect("nothing lost, nothing doubled");
        }
        println!("{road:?}: {done:?} done, {refused:?} to be asked again");
    }
}

#[tokio::test]
async fn a_request_under_way_is_answered() {
    for road in ROADS {
        let (at, mut backends) = plain::played().await;
        let mut line = Line::start(road, &format!("listen = \"127.0.0.1:0\"\nupstream = \"http://{at}\"\n")).await;
        let mut client = Bytes::to(line.site.at).await;
        client.say("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut slow = plain::next(&mut backends).await;
        slow.head().await;
        let mut old = match road {
            Road::TakeOver => line.go_over().await,
            Road::Restart => {
                line.process.signal("-USR2");
                // Everybody is served meanwhile.
                assert_eq!(line.site.get("/_underpass/info").await.status, 200);
                slow.say(OK).await;
                assert!(client.answer().await.0.starts_with("http/1.1 200 "));
                line.follow().await
            }
        };
        if road == Road::TakeOver {
            slow.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsl").await;
            client.head().await;
            slow.say("ow").await;
            assert_eq!(client.bytes(4).await, b"slow");
            assert_eq!(old.exits().await, 0, "{:#?}", old.lines);
        }
        let mut again = Bytes::to(line.site.at).await;
        again.say("GET /again HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut next = plain::next(&mut backends).await;
        next.head().await;
        next.say(OK).await;
        assert_eq!(again.answer().await.1, "ok");
    }
}

#[tokio::test]
async fn a_nonce_opens_the_same_session_in_the_next_process() {
    for road in ROADS {
        let mut backend = Backend::start().await;
        let at = backend.at;
        let mut line = Line::start(road, &format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{at}\"\n")).await;
        let target = "/chat?underpass.nonce=0123456789abcdef";
        let first = line.site.open(target).await;
        let mut socket = backend.accept().await;
        line.next().await;
        let second = line.site.open(target).await;
        assert_eq!(first.url, second.url, "{road:?}");
        assert!(backend.try_accept().is_none(), "{road:?}: one socket at the backend");
        speak(&line.site, &second.url, &mut socket.ws, 1).await;
    }
}
