//! When there is no session to be had: what `open` answers, and what a bare `EventSource` is told (PROTOCOL 3.1 to 3.3).

use serde_json::{Value, json};

use crate::support::plain::{canned, nowhere, silent};
use crate::support::site::{Backend, Reply, Site, soon};

const OPEN: &str = "/chat?underpass=open";
const SSE: &str = "/chat?underpass=sse";

/// The error inside the one event of an answer that says `unavailable`.
async fn unavailable(site: &Site) -> Value {
    let mut stream = site.stream(SSE, &[]).await;
    assert_eq!((stream.status.as_u16(), stream.headers["content-type"].as_bytes()), (200, &b"text/event-stream"[..]));
    let event = stream.event().await.expect("an event");
    assert_eq!(event.event, "unavailable");
    assert!(stream.event().await.is_none(), "the response ends");
    event.json()["error"].clone()
}

async fn retry_of_unavailable(site: &Site) -> String {
    site.get(SSE).await.text().lines().next().unwrap_or_default().to_owned()
}

fn told(reply: &Reply) -> (u16, String) {
    (reply.status.as_u16(), reply.error())
}

async fn refusing(answer: &str) -> (Site, Reply) {
    let (at, _asked) = canned(answer).await;
    let site = Site::start(at, "");
    let reply = site.post(OPEN, "").await;
    (site, reply)
}

#[tokio::test]
async fn a_backend_that_is_down() {
    let site = Site::start(nowhere().await, "");
    assert_eq!(told(&site.post(OPEN, "").await), (502, "backend_unreachable".into()));
    let error = unavailable(&site).await;
    assert_eq!((&error["code"], &error["status"]), (&json!("backend_unreachable"), &json!(502)));
    assert_eq!(retry_of_unavailable(&site).await, "retry: 5000");
}

#[tokio::test]
async fn a_backend_that_is_slow() {
    let site = Site::start(silent().await, "[backend]\nhandshake = \"100ms\"\n");
    assert_eq!(told(&site.post(OPEN, "").await), (504, "backend_timeout".into()));
    assert_eq!(unavailable(&site).await["code"], "backend_timeout");
}

#[tokio::test]
async fn a_backend_that_drops_the_handshake_or_answers_with_a_wrong_key() {
    let wrong = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n";
    for answer in ["", wrong] {
        let (site, reply) = refusing(answer).await;
        assert_eq!(told(&reply), (502, "backend_unreachable".into()), "{answer}");
        assert_eq!(unavailable(&site).await["code"], "backend_unreachable");
    }
}

#[tokio::test]
async fn a_4xx_of_the_backend_is_ours_with_its_body_and_no_challenge_that_asks_anybody() {
    let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\r\nnot you";
    let (site, reply) = refusing(answer).await;
    let expected = json!({"status": 403, "body": "not you", "challenges": ["Basic realm=\"x\""]});
    for reply in [reply, site.get(SSE).await] {
        assert_eq!(told(&reply), (403, "backend_refused".into()));
        assert_eq!(reply.json()["error"]["backend"], expected);
        assert_eq!(reply.header("www-authenticate"), None);
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn of_a_long_body_the_first_4_kib_are_told() {
    let body = "é".repeat(5000);
    let (_site, reply) =
        refusing(&format!("HTTP/1.1 401 Unauthorized\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    assert_eq!(reply.status, 401);
    assert_eq!(reply.json()["error"]["backend"]["body"], "é".repeat(2048));
}

#[tokio::test]
async fn a_503_stays_one_with_its_retry_after() {
    let (site, reply) = refusing("HTTP/1.1 503 No\r\nContent-Length: 4\r\nRetry-After: 17\r\n\r\nbusy").await;
    assert_eq!(told(&reply), (503, "backend_refused".into()));
    assert_eq!(reply.header("retry-after"), Some("17"));
    let error = unavailable(&site).await;
    assert_eq!(error["backend"], json!({"status": 503, "body": "busy"}));
}

#[tokio::test]
async fn anything_else_is_a_bad_gateway() {
    for status in ["200 OK", "302 Found\r\nLocation: /login", "500 Oops"] {
        let (site, reply) = refusing(&format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nhi")).await;
        assert_eq!(told(&reply), (502, "backend_refused".into()), "{status}");
        assert_eq!(reply.json()["error"]["backend"]["status"], status[..3].parse::<u16>().expect("a status"));
        assert_eq!(reply.header("location"), None);
        assert_eq!(unavailable(&site).await["code"], "backend_refused");
    }
}

#[tokio::test]
async fn a_full_house_says_when_to_come_back() {
    let site = Site::start(Backend::echo().await, "[session]\nmax = 1\n");
    let opened = site.open("/").await;
    let reply = site.post(OPEN, "").await;
    assert_eq!(told(&reply), (503, "overloaded".into()));
    assert!(reply.header("retry-after").is_some_and(|after| after.parse::<u32>().is_ok()));
    assert_eq!(unavailable(&site).await["code"], "overloaded");
    // The one seat is free again once its session is over and done with.
    site.post(&format!("{}/close", opened.url), "").await.json();
    let gone = site.get(&format!("{}/poll?after=0", opened.url)).await.json();
    site.get(&format!("{}/poll?after={}", opened.url, gone["after"])).await;
    let freed = async {
        while site.post(OPEN, "").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    soon("the seat", freed).await;
}

#[tokio::test]
async fn malformed_requests_are_named_and_open_nothing() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    for (path, body) in [
        (OPEN, "{"),
        (OPEN, r#"{"nonce":"short"}"#),
        (OPEN, r#"{"protocols":["a b"]}"#),
        (OPEN, r#"{"protocols":"a"}"#),
        ("/chat?underpass.nonce=short&underpass=open", ""),
    ] {
        let reply = site.post(path, body).await;
        assert_eq!(told(&reply), (400, "bad_request".into()), "{path} {body}");
    }
    for query in ["underpass.nonce=x", "underpass.after=12", "underpass.protocols=a%20b"] {
        let reply = site.get(&format!("{SSE}&{query}")).await;
        assert_eq!(told(&reply), (400, "bad_request".into()), "{query}");
    }
    assert!(backend.try_accept().is_none(), "the backend was dialled");
}

#[tokio::test]
async fn a_foreign_page_is_refused_before_anything_is_dialled() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    for (method, path) in [("POST", OPEN), ("GET", SSE)] {
        let method = method.parse().expect("a method");
        let reply = site.request(method, path, &[("origin", "https://evil.example")], "").await;
        assert_eq!(told(&reply), (403, "origin_refused".into()));
    }
    assert!(backend.try_accept().is_none(), "the backend was dialled");
}

#[tokio::test]
async fn what_a_session_is_opened_with_reaches_the_backend() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let host = site.at.to_string();
    let headers = [
        ("cookie", "a=1; b=2"),
        ("authorization", "Bearer x"),
        ("origin", &format!("http://{host}")),
        ("user-agent", "test"),
        ("x-custom", "kept"),
    ];
    let path = "/chat/%C3%A9?room=1&underpass.x=y&b=%2F&underpass=open";
    let body = r#"{"protocols":["one","two"]}"#;
    let reply = site.request(http::Method::POST, path, &headers, body).await;
    assert_eq!(reply.json()["session"]["protocol"], "one", "{}", reply.text());
    let socket = backend.accept().await;
    assert_eq!(socket.path, "/chat/%C3%A9?room=1&b=%2F");
    for (name, value) in headers {
        assert_eq!(socket.headers[name], value, "{name}");
    }
    assert_eq!(socket.headers["sec-websocket-protocol"], "one, two");
    assert_eq!(socket.headers["host"], host.as_str());
    assert!(socket.headers.get("content-type").is_none() && socket.headers.get("content-length").is_none());
}

#[tokio::test]
async fn a_forgotten_session_opens_a_new_one_that_says_so() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let id = format!("n1-{}.7", "A".repeat(44));
    let ways: [(String, Vec<(&str, &str)>); 3] = [
        (SSE.to_owned(), vec![("last-event-id", id.as_str())]),
        (format!("{SSE}&underpass.after={id}"), vec![]),
        (format!("{SSE}&lastEventId={id}"), vec![]),
    ];
    for (path, headers) in ways {
        let mut stream = site.stream(&path, &headers).await;
        let session = stream.told().await;
        assert_eq!(session.event, "session");
        let facts = session.json();
        assert_eq!((&facts["resumed"], &facts["lost"], &facts["from"]), (&json!(false), &json!(true), &json!(0)));
        assert_eq!(backend.accept().await.path, "/chat");
    }
    // An id that is not of our form is the backend's own.
    let mut stream = site.stream(&format!("{SSE}&lastEventId=42"), &[("last-event-id", "42")]).await;
    assert_eq!(stream.told().await.json().get("lost"), None);
    assert_eq!(backend.accept().await.path, "/chat?lastEventId=42");
}
