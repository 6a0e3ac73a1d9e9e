//! Planted secrets: they go where they belong, and into no log line, metric or error of somebody else.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::binary::Running;
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, Site};

use super::house::watch_panics;
use super::raw::{self, handshake};
use super::recorder::{Recorder, Reply};

/// What must never be told.
const PLANTED: [&str; 6] = [
    "planted-cookie",
    "planted-authorization",
    "planted-query",
    "planted-message",
    "planted-header",
    "planted-nonce-1",
];

const FIELDS: &[(&str, &str)] = &[
    ("Cookie", "session=planted-cookie"),
    ("Authorization", "Bearer planted-authorization"),
    ("X-Api-Key", "planted-header"),
    ("Proxy-Authorization", "Basic planted-header"),
    ("Referer", "https://x/?planted-query"),
];

/// Requests of all kinds that carry secrets and succeed, fail, or never come to anything.
async fn speak(site: &Site, token: &str) {
    let s = format!("/_underpass/s/{token}");
    let ws = handshake(&[("Sec-WebSocket-Protocol", "underpass.v1")]);
    for (method, path, body) in [
        ("GET", "/plain?token=planted-query".to_owned(), ""),
        ("POST", "/plain?planted-query".into(), "planted-message"),
        ("GET", "/chat?planted-query&underpass.nonce=planted-nonce-1&underpass=sse".into(), ""),
        ("POST", "/chat?token=planted-query&underpass=open".into(), r#"{"nonce":"planted-nonce-1"}"#),
        ("POST", "/chat?planted-query&underpass=open".into(), "planted-message"),
        ("PUT", "/chat?planted-query&underpass=open".into(), ""),
        ("POST", "/chat?planted-query&underpass.nonce=x&underpass=open".into(), ""),
        ("GET", "/_underpass/x?planted-query".into(), ""),
        ("GET", "//_underpass/x?planted-query".into(), ""),
        ("GET", format!("//{s}/poll"), ""),
        ("GET", format!("/x/..{s}/poll"), ""),
        ("GET", format!("{s}/poll?wait=0"), ""),
        ("GET", format!("{s}/polls"), ""),
        ("GET", s.clone(), ""),
        ("GET", format!("{s}//poll"), ""),
        ("DELETE", format!("{s}/poll"), ""),
        ("GET", format!("{s}/poll?after=99"), ""),
        ("GET", format!("{s}/poll?wait=x"), ""),
        ("POST", format!("{s}/send?as=text"), "planted-message"),
        ("POST", format!("{s}/send"), "{\"planted-message"),
        ("POST", format!("{s}/send?as=frames"), "planted-message"),
        ("POST", format!("{s}/send?seq=999&as=text"), "planted-message"),
        ("POST", format!("{s}/close"), "planted-message"),
        ("GET", format!("/_underpass/s/{token}x/poll"), ""),
        ("GET", format!("/chat?underpass.after={token}.0&underpass=sse"), ""),
        ("GET", format!("/chat?underpass.after={token}.x&underpass=sse"), ""),
        ("GET", format!("/_underpass/S/{token}/poll"), ""),
        ("GET", format!("/_underpass/{token}"), ""),
    ] {
        raw::ask(site.at, method, &path, FIELDS, body.as_bytes()).await;
        let foreign: Vec<_> = FIELDS.iter().copied().chain([("Origin", "https://evil.example")]).collect();
        raw::ask(site.at, method, &path, &foreign, body.as_bytes()).await;
    }
    for path in ["/chat?planted-query".to_owned(), format!("{s}/ws")] {
        let headers: Vec<_> = FIELDS.iter().copied().chain(ws.iter().copied()).collect();
        raw::ask(site.at, "GET", &path, &headers, b"").await;
    }
}

/// A configuration that logs all there is, at the finest level.
fn configured(scratch: &Scratch, backend: SocketAddr) -> PathBuf {
    let listeners = "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n";
    let log = "[log]\nformat = \"json\"\nlevel = \"trace\"\n[drain]\npre = \"0s\"\nspread = \"0s\"\ntimeout = \"2s\"\n";
    scratch.file(&format!("{}.toml", backend.port()), &format!("{listeners}upstream = \"ws://{backend}\"\n{log}"))
}

#[tokio::test]
async fn secrets_are_in_no_log_and_no_metric() {
    let at = Backend::echo().await;
    let down =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    // One that tells all it was asked, as debug pages do.
    let talker = Recorder::start(|seen| {
        let told = format!("{seen:?}");
        Reply::now(format!("HTTP/1.1 500 Oh\r\nContent-Length: {}\r\n\r\n{told}", told.len()))
    })
    .await;
    // Processes of their own: a process has one log, and it is read to its end here.
    let scratch = Scratch::new("secrets");
    let mut processes = [at, down, talker.at].map(|backend| Running::start(&configured(&scratch, backend)));
    let [up, dead, talking] = &mut processes;
    let (up, dead, talking) =
        (up.site_with_admin().await, dead.site_with_admin().await, talking.site_with_admin().await);
    let opened = up.open("/chat").await;
    let text = |key: &str| opened.session[key].as_str().expect("a text").to_owned();
    let (token, id) = (text("token"), text("id"));
    speak(&up, &token).await;
    speak(&dead, &token).await;
    speak(&talking, &token).await;
    assert!(format!("{:?}", talker.record()).contains("planted-cookie"), "nothing was planted");
    let closed = up.post(&format!("{}/close", opened.url), "").await;
    assert_eq!(closed.status, 200);

    // Behind the public id, the token is the secret.
    let secret = token.split(&id).nth(1).expect("the id is the beginning of the token").to_owned();
    assert!(secret.len() >= 22, "{token} {id}");
    let mut metrics = String::new();
    for site in [&up, &dead, &talking] {
        let answer = raw::ask(site.admin.expect("an admin"), "GET", "/metrics", &[("Connection", "close")], b"").await;
        metrics.push_str(&String::from_utf8_lossy(&answer.body));
    }
    assert!(metrics.contains("underpass_"), "no metrics: {metrics}");
    let mut said = String::new();
    for process in &mut processes {
        process.signal("-TERM");
        assert_eq!(process.exits().await, 0);
        said.push_str(&process.lines.join("\n"));
    }
    assert!(
        said.contains(&id) && said.contains("session opened") && said.contains("request refused"),
        "nothing was logged: {said}"
    );
    for secret in PLANTED.iter().copied().chain([secret.as_str()]) {
        for (place, text) in [("log", &said), ("metrics", &metrics)] {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret} is in the {place}");
        }
    }
    assert!(!metrics.contains(&id) && !metrics.contains("/chat") && !metrics.contains("/plain"), "{metrics}");
}

/// What one client sent is in no answer to another.
#[tokio::test]
async fn errors_tell_nothing_of_others() {
    watch_panics();
    let site = Site::start(Backend::echo().await, "");
    let opened = site.open("/chat?planted-query").await;
    let token = opened.session["token"].as_str().expect("a token").to_owned();
    speak(&site, &token).await;
    let id = opened.session["id"].as_str().expect("an id").to_owned();
    let guess = format!("n1-{id}{}", "A".repeat(token.len() - 3 - id.len()));
    let stranger = format!("n1-{}", "B".repeat(44));
    let mut bodies = Vec::new();
    for token in [&guess, &stranger] {
        for verb in ["poll", "sse", "send", "close", "x"] {
            for method in ["GET", "POST"] {
                let answer = raw::ask(site.at, method, &format!("/_underpass/s/{token}/{verb}"), &[], b"").await;
                let text = String::from_utf8_lossy(&answer.body).replace(&token[..8], "");
                assert!(PLANTED.iter().chain(&[token.as_str()]).all(|secret| !text.contains(secret)), "{text}");
                bodies.push((answer.status, text));
            }
        }
    }
    let (known, unknown) = bodies.split_at(bodies.len() / 2);
    assert_eq!(known, unknown, "a known id makes a difference");
}
