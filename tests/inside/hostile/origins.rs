//! Pages of other origins: refused before anything is dialled or changed, whatever they ask for.

use super::house::{House, no_panics, watch_panics};
use super::raw::{self, Answer, handshake};
use super::recorder::{Recorder, Reply, ok, switch};
use crate::support::site::Site;

/// The host that all requests here are for; `good.example` is our own origin.
const HOST: (&str, &str) = ("Host", "good.example");

const FOREIGN: &[&str] = &[
    "null",
    "",
    "*",
    "https://evil.example",
    "https://sub.good.example",
    "https://evil-good.example",
    "https://good.example.evil.example",
    "https://evilgood.example",
    "https://good.example.",
    "http://good.example:8080",
    "https://good.example:80",
    "http://good.example:443",
    "ws://good.example",
    "file://good.example",
    "chrome-extension://good.example",
    "good.example",
    "//good.example",
    "https://",
    "https://:443",
    "https://good.example@evil.example",
    "https://evil.example@good.example",
    "https://good.example/",
    "https://good.example/path",
    "https://good.example#x",
    "https://good.example evil",
    "https://evil.example,https://good.example",
    "https://good.example, https://evil.example",
    "https://good_example",
    "https://good.example\\evil",
    "https://g%6fod.example",
    "https:good.example",
    "https:///good.example",
    "javascript://good.example",
    "data:",
    "https://xn--good.example",
];

const OWN: &[&str] = &[
    "http://good.example",
    "https://good.example",
    "https://GOOD.example",
    "https://good.example:443",
    "http://good.example:80",
];

/// Everything under the prefix, with what a page would send there.
fn endpoints(url: &str) -> Vec<(&'static str, String, &'static [u8])> {
    let mut all: Vec<(&str, String, &[u8])> = vec![
        ("POST", "/chat?underpass=open".into(), b""),
        ("GET", "/chat?underpass=sse".into(), b""),
        ("GET", "/_underpass/info".into(), b""),
        ("GET", "/_underpass/nothing".into(), b""),
        ("PUT", "/chat?underpass=open".into(), b""),
        ("OPTIONS", "/chat?underpass=open".into(), b""),
        ("OPTIONS", format!("{url}/send"), b""),
        ("POST", format!("{url}/send?as=text"), b"never"),
        ("POST", format!("{url}/send"), br#"{"messages":["never"]}"#),
        ("POST", format!("{url}/ack?after=0"), b""),
        ("POST", format!("{url}/close"), b""),
    ];
    all.extend(["sse", "stream", "poll", "ws"].map(|verb| ("GET", format!("{url}/{verb}"), b"".as_slice())));
    all
}

fn has_cors(answer: &Answer) -> bool {
    answer.headers.keys().any(|name| name.as_str() == "access-control-allow-origin")
        || answer.headers.keys().any(|name| name.as_str() == "access-control-allow-credentials")
}

#[track_caller]
fn is_refused(answer: &Answer, what: &str) {
    assert_eq!((answer.status, answer.refused().as_str()), (403, "origin_refused"), "{what}");
    assert!(!has_cors(answer), "{what}: {answer:?}");
}

async fn site(more: &str) -> (Recorder, Site, String) {
    watch_panics();
    let backend = Recorder::polite().await;
    let site = Site::start(backend.at, more);
    let opened = site.open("/chat").await;
    (backend, site, opened.url)
}

#[tokio::test]
async fn foreign_pages_are_refused_everywhere_and_change_nothing() {
    for config in [
        "",
        "allowed_origins = [\"https://app.example\", \"http://other.example:8080\"]\n",
        "allowed_origins = [\"https://app.example\"]\nallow_credentials = true\n",
    ] {
        let (backend, site, url) = site(config).await;
        for origin in FOREIGN.iter().chain(&["https://app.example.", "http://app.example", "https://app.example:8443"])
        {
            for (method, path, body) in endpoints(&url) {
                let cookie = ("Cookie", "session=of-the-victim");
                let mut headers = vec![HOST, ("Origin", *origin), cookie, ("Content-Type", "text/plain")];
                headers.extend(
                    handshake(&[("Sec-WebSocket-Protocol", "underpass.v1")])
                        .into_iter()
                        .filter(|_| path.ends_with("/ws")),
                );
                let answer = raw::ask(site.at, method, &path, &headers, body).await;
                is_refused(&answer, &format!("{origin} {method} {path}"));
                assert_eq!(answer.header("vary").is_some(), !config.is_empty(), "{answer:?}");
            }
        }
        let standing = raw::ask(site.at, "POST", &format!("{url}/ack?after=0"), &[], b"").await.json();
        assert_eq!((standing["next"].as_u64(), standing["attached"].is_null()), (Some(1), true), "{standing}");
        let record = backend.record();
        assert_eq!((record.connections, record.tail.len()), (1, 0), "something was dialled or sent");
    }
    no_panics();
}

#[tokio::test]
async fn two_origins_are_none() {
    let (backend, site, url) = site("allowed_origins = [\"https://app.example\"]\n").await;
    for (method, path, body) in endpoints(&url) {
        for two in [["https://good.example", "https://evil.example"], ["https://app.example", "https://app.example"]] {
            let headers = [HOST, ("Origin", two[0]), ("Origin", two[1])];
            is_refused(&raw::ask(site.at, method, &path, &headers, body).await, &path);
        }
    }
    assert_eq!(backend.connections(), 1);
}

/// Browsers leave `Origin` out of some GETs, but say where the page is from.
#[tokio::test]
async fn pages_of_other_sites_without_an_origin_are_refused() {
    let (backend, site, url) = site("").await;
    for (method, path, body) in endpoints(&url) {
        for from in ["cross-site", "same-site"] {
            let headers = [HOST, ("Sec-Fetch-Site", from)];
            is_refused(&raw::ask(site.at, method, &path, &headers, body).await, &path);
        }
    }
    assert_eq!(backend.connections(), 1);
    for from in ["none", "same-origin"] {
        let headers = [HOST, ("Sec-Fetch-Site", from)];
        assert_eq!(raw::ask(site.at, "GET", "/_underpass/info", &headers, b"").await.status, 200);
    }
}

#[tokio::test]
async fn a_missing_origin_is_refused_where_one_is_required() {
    watch_panics();
    let backend = Recorder::polite().await;
    let site = Site::start(backend.at, "require_origin = true\n");
    for (method, path, body) in endpoints("/_underpass/s/n1-x") {
        is_refused(&raw::ask(site.at, method, &path, &[HOST], body).await, &path);
    }
    let headers = [HOST, ("Origin", OWN[0])];
    assert_eq!(raw::ask(site.at, "POST", "/chat?underpass=open", &headers, b"").await.status, 200);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn our_own_pages_pass_without_cors() {
    let (backend, site, _) = site("").await;
    for (count, origin) in (2..).zip(OWN) {
        let headers = [HOST, ("Origin", *origin)];
        let answer = raw::ask(site.at, "POST", "/chat?underpass=open", &headers, b"").await;
        assert_eq!((answer.status, has_cors(&answer)), (200, false), "{origin}");
        assert_eq!(backend.connections(), count, "{origin}");
    }
}

#[tokio::test]
async fn configured_pages_pass_and_only_they_get_cors() {
    for credentials in [false, true] {
        let config = format!("allowed_origins = [\"https://app.example\"]\nallow_credentials = {credentials}\n");
        let (_backend, site, url) = site(&config).await;
        let headers = [HOST, ("Origin", "https://app.example"), ("Access-Control-Request-Headers", "content-type")];
        for (method, path, body) in endpoints(&url) {
            let answer = raw::ask(site.at, method, &path, &headers, body).await;
            assert_ne!(answer.status, 403, "{method} {path}");
            assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"), "{method} {path}");
            let allowed = answer.header("access-control-allow-credentials");
            assert_eq!(allowed, credentials.then_some("true"), "{method} {path}");
            assert_eq!(answer.header("vary"), Some("Origin"), "{method} {path}");
            if method == "OPTIONS" {
                assert_eq!(answer.status, 204);
                assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST"));
                assert_eq!(answer.header("access-control-allow-headers"), Some("content-type"));
            }
        }
        for origin in OWN {
            let answer = raw::ask(site.at, "GET", "/_underpass/info", &[HOST, ("Origin", *origin)], b"").await;
            assert_eq!((answer.status, has_cors(&answer), answer.header("vary")), (200, false, Some("Origin")));
        }
    }
}

/// The three kinds of body that a page may send anywhere without being asked.
#[tokio::test]
async fn simple_posts_of_foreign_pages_do_not_run() {
    let mut house = House::open("").await;
    let before = house.standing().await;
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        for verb in ["send", "send?as=text", "ack?after=0", "close"] {
            let headers = [("Origin", "https://evil.example"), ("Content-Type", content_type)];
            let answer = raw::ask(house.site.at, "POST", &house.url(verb), &headers, b"messages=[%22never%22]").await;
            is_refused(&answer, verb);
        }
    }
    assert_eq!(house.standing().await, before);
    house.lives_on().await;
}

#[tokio::test]
async fn a_passed_through_upgrade_is_judged_only_where_origins_are_configured() {
    watch_panics();
    for config in ["", "allowed_origins = [\"https://app.example\"]\n"] {
        let backend = Recorder::polite().await;
        let site = Site::start(backend.at, config);
        for origin in FOREIGN {
            let headers = handshake(&[HOST, ("Origin", *origin)]);
            let headers: Vec<_> = headers.into_iter().chain(origin.is_empty().then_some(("Origin", ""))).collect();
            let answer = raw::ask(site.at, "GET", "/chat", &headers, b"").await;
            if config.is_empty() {
                assert_eq!((answer.status, has_cors(&answer)), (101, false), "{origin}");
                assert_eq!(backend.take()[0].field("origin"), *origin, "the backend decides by the real one");
            } else {
                is_refused(&answer, origin);
            }
        }
        let expected = if config.is_empty() { FOREIGN.len() } else { 0 };
        assert_eq!(backend.connections(), expected);
        for origin in ["https://app.example", "https://good.example"] {
            let headers = handshake(&[HOST, ("Origin", origin)]);
            assert_eq!(raw::ask(site.at, "GET", "/chat", &headers, b"").await.status, 101);
        }
    }
}

#[tokio::test]
async fn plain_requests_are_the_backends_affair() {
    watch_panics();
    let cors = "Access-Control-Allow-Origin: *\r\nVary: Cookie\r\n";
    let backend =
        Recorder::start(move |seen| Reply::now(if seen.has("upgrade") { switch(seen) } else { ok(cors) })).await;
    let site = Site::start(backend.at, "allowed_origins = [\"https://app.example\"]\nrequire_origin = true\n");
    for origin in FOREIGN {
        for method in ["GET", "POST", "OPTIONS", "DELETE"] {
            let answer = raw::ask(site.at, method, "/api", &[HOST, ("Origin", *origin)], b"").await;
            assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")), "{origin}");
            assert_eq!(answer.headers.get_all("vary").iter().count(), 1, "{answer:?}");
            assert_eq!(backend.take()[0].field("origin"), *origin);
        }
    }
    assert_eq!(raw::ask(site.at, "GET", "/api", &[HOST], b"").await.status, 200);
}
