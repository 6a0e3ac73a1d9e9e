//! Opening a session at the WebSocket's own address: what the address decides stays decided by it, what the backend's
//! answer makes a browser do it does, and nobody gets what is another's.

use serde_json::json;

use super::house::watch_panics;
use super::raw::{self, Answer, handshake};
use super::recorder::{Recorder, Reply, switch};
use crate::support::site::{Site, marked, resolved};

const NONCE: &[u8] = br#"{"nonce":"0123456789abcdef"}"#;

/// A backend that answers handshakes with these lines behind the status line's fields.
async fn answering(lines: &'static str) -> (Recorder, Site) {
    watch_panics();
    let backend = Recorder::start(move |seen| {
        let head = String::from_utf8(switch(seen)).expect("text");
        Reply::now(head.replacen("\r\n\r\n", &format!("\r\n{lines}\r\n"), 1))
    })
    .await;
    let site = Site::start(backend.at, "");
    (backend, site)
}

fn cookies(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().expect("text")).collect()
}

/// Of a 101 browsers take cookies (Fetch, "HTTP-network fetch"). Each line stays as it is.
#[tokio::test]
async fn what_a_browser_does_with_a_101_it_does_with_our_answer() {
    let lines = "Set-Cookie: node=7; Path=/; HttpOnly\r\nSet-Cookie: renewed=1\r\nClear-Site-Data: \"cache\"\r\n\
                 X-Internal: secret\r\nLocation: /x\r\nContent-Security-Policy: default-src 'none'\r\n";
    let (_backend, site) = answering(lines).await;
    let open = raw::ask(site.at, "POST", "/chat?underpass=open", &[], NONCE).await;
    // One that a box repeats gets the same, for the first answer may be lost.
    let twin = raw::ask(site.at, "POST", "/chat?underpass=open", &[], NONCE).await;
    let sse = raw::ask(site.at, "GET", "/chat?underpass=sse", &[], b"").await;
    for answer in [open, twin, sse] {
        assert_eq!((answer.status, cookies(&answer)), (200, vec!["node=7; Path=/; HttpOnly", "renewed=1"]));
        assert_eq!(answer.header("clear-site-data"), Some("\"cache\""));
        for name in ["x-internal", "location", "content-security-policy"] {
            assert_eq!(answer.header(name), None, "{name}");
        }
        answer.is_protected();
    }
}

#[tokio::test]
async fn what_a_browser_does_with_a_refusal_it_does_with_ours() {
    watch_panics();
    let refusal = "HTTP/1.1 401 No\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nRetry-After: 9\r\n\
                   WWW-Authenticate: Basic realm=\"x\"\r\nWWW-Authenticate: Negotiate\r\nContent-Length: 4\r\n\r\nwhy?";
    let backend = Recorder::start(move |_| Reply::now(refusal)).await;
    let site = Site::start(backend.at, "");
    for (method, mark) in [("POST", "open"), ("GET", "sse")] {
        let answer = raw::ask(site.at, method, &marked("/chat", mark), &[], b"").await;
        assert_eq!((answer.status, answer.refused().as_str()), (401, "backend_refused"));
        assert_eq!((cookies(&answer), answer.header("retry-after")), (vec!["a=1", "b=2"], Some("9")));
        // Browsers ask nobody for a password because of a WebSocket, but they do for a fetch.
        assert_eq!(answer.header("www-authenticate"), None);
        let challenges = ["Basic realm=\"x\"", "Negotiate"];
        assert_eq!(answer.json()["error"]["backend"], json!({"status": 401, "body": "why?", "challenges": challenges}));
    }
}

/// A front may let a path be asked for as a WebSocket only, or not at all: its page is nothing that we hand out.
#[tokio::test]
async fn a_page_is_not_handed_out_by_opening_a_session_there() {
    for (status, kind) in [
        ("200 OK", "text/plain"),
        ("302 Found", "text/plain"),
        ("403 No", "Text/HTML; charset=utf-8"),
        ("404 No", "application/xhtml+xml"),
        ("500 No", "text/html"),
    ] {
        watch_panics();
        let page = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: 6\r\n\r\nsecret");
        let backend = Recorder::start(move |_| Reply::now(page.clone())).await;
        let site = Site::start(backend.at, "");
        for (method, mark) in [("POST", "open"), ("GET", "sse")] {
            let answer = raw::ask(site.at, method, &marked("/admin", mark), &[], b"").await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(text.contains("backend_refused") && !text.contains("secret"), "{status} {kind}: {text}");
        }
    }
}

#[tokio::test]
async fn a_nonce_belongs_to_who_brought_it() {
    watch_panics();
    let backend = Recorder::polite().await;
    let site = Site::start(backend.at, "");
    let open = async |headers: &[(&str, &str)]| raw::ask(site.at, "POST", "/chat?underpass=open", headers, NONCE).await;
    let anna = [("Cookie", "session=anna"), ("Authorization", "Basic YW5uYQ==")];
    let first = open(&anna).await;
    assert_eq!(open(&anna).await.json()["session"]["token"], first.json()["session"]["token"]);
    for other in [
        vec![],
        vec![("Cookie", "session=ben"), anna[1]],
        vec![anna[0], ("Authorization", "Basic YmVu")],
        vec![anna[0]],
        vec![anna[1]],
    ] {
        let answer = open(&other).await;
        assert_eq!((answer.status, answer.refused().as_str()), (409, "nonce_reused"), "{other:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("n1-"));
    }
    assert_eq!(backend.connections(), 1);
}

/// `<img src="http://good.example/chat?underpass=sse">` on any page brings the visitor's cookies, and over plain HTTP nothing
/// that says where it is from.
#[tokio::test]
async fn a_foreign_image_opens_nothing_with_its_visitors_cookies() {
    watch_panics();
    let backend = Recorder::polite().await;
    let site = Site::start(backend.at, "");
    let get = async |site: &Site, more: &[(&str, &str)]| {
        let headers: Vec<_> = [("Host", "good.example"), ("Accept", "image/*")].iter().chain(more).copied().collect();
        raw::ask(site.at, "GET", "/chat?underpass=sse", &headers, b"").await
    };
    let cookie = ("Cookie", "session=of-the-visitor");
    for more in [
        vec![cookie],
        vec![("Authorization", "Basic YTpi")],
        vec![cookie, ("Referer", "http://evil.example/good.example")],
        vec![cookie, ("Referer", "http://good.example.evil.example/")],
    ] {
        let answer = get(&site, &more).await;
        assert_eq!((answer.status, answer.refused().as_str()), (403, "origin_refused"), "{more:?}");
        assert!(answer.message().contains("trust_unnamed_origin"), "{}", answer.message());
    }
    assert_eq!(backend.connections(), 0);
    for more in [
        vec![],
        vec![cookie, ("Referer", "http://good.example/page?x")],
        vec![cookie, ("Sec-Fetch-Site", "same-origin")],
        vec![cookie, ("Sec-Fetch-Site", "none")],
    ] {
        assert_eq!(get(&site, &more).await.status, 200, "{more:?}");
    }
    let trusting = Site::start(backend.at, "trust_unnamed_origin = true\n");
    assert_eq!(get(&trusting, &[cookie]).await.status, 200);
    assert_eq!(get(&trusting, &[cookie, ("Sec-Fetch-Site", "cross-site")]).await.status, 403);
}

/// Services carry tokens of some KiB as subprotocols; a handshake of a browser may hold as much.
#[tokio::test]
async fn subprotocols_may_weigh_what_a_handshake_can_carry() {
    watch_panics();
    let backend = Recorder::polite().await;
    let site = Site::start(backend.at, "");
    let bearer = format!("bearer.{}", "x".repeat(8 * 1024));
    let many: Vec<String> = (0..1000).map(|number| format!("protocol-{number}")).collect();
    for protocols in [vec!["graphql-ws".to_owned(), bearer], many] {
        let body = json!({ "protocols": protocols }).to_string();
        let answer = raw::ask(site.at, "POST", "/chat?underpass=open", &[], body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(backend.take()[0].field("sec-websocket-protocol"), protocols.join(", "));
    }
    let body = json!({ "protocols": ["x".repeat(16 * 1024)] }).to_string();
    let answer = raw::ask(site.at, "POST", "/chat?underpass=open", &[], body.as_bytes()).await;
    assert_eq!((answer.status, answer.refused().as_str()), (413, "too_large"));
    assert_eq!(answer.json()["limit"], 16 * 1024);
}

/// A front that serves us below a path takes that path away on the way in; what we answer must lead back through it.
#[tokio::test]
async fn a_session_is_found_below_a_prefix_that_a_front_takes_away() {
    watch_panics();
    let backend = Recorder::polite().await;
    for (config, prefix) in [("", "/_underpass"), ("prefix = \"/rt/up\"\n", "/rt/up")] {
        let site = Site::start(backend.at, config);
        for front in ["", "/app", "/apps/one"] {
            for path in ["/", "/chat", "/a/b/chat", "/a//b/", "/rt/chat", "/rt/up2/x"] {
                let answer = raw::ask(site.at, "POST", &marked(path, "open"), &[], b"").await.json();
                let session = &answer["session"];
                let seen = resolved(&format!("{front}{path}"), session);
                let token = session["token"].as_str().expect("a token");
                assert_eq!(seen, format!("{front}{prefix}/s/{token}"), "{path} below {front}");
                let here = seen.strip_prefix(front).expect("below the front");
                let head = raw::ask(site.at, "GET", &format!("{here}/poll?wait=0"), &[], b"").await;
                assert_eq!(head.status, 200);
            }
        }
    }
}

/// A browser writes the URL of a WebSocket that failed into its console, where anybody may read it.
#[tokio::test]
async fn a_sessions_websocket_needs_no_token_in_its_url() {
    watch_panics();
    let backend = Recorder::polite().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/chat").await;
    let word = |name: &str| opened.session[name].as_str().expect("text").to_owned();
    let (token, name) = (word("token"), format!("n1-{}", word("id")));
    let path = |name: &str| format!("/_underpass/s/{name}/ws?after=0");
    let ask = async |name: &str, offered: &str| {
        raw::ask(site.at, "GET", &path(name), &handshake(&[("Sec-WebSocket-Protocol", offered)]), b"").await
    };
    let both = format!("underpass.v1, underpass.token.{token}");
    let answer = ask(&name, &both).await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, Some("underpass.v1")));
    assert_eq!(ask(&token, "underpass.v1").await.status, 101);
    let forged = format!("underpass.v1, underpass.token.{name}{}", "A".repeat(token.len() - name.len()));
    for (name, offered, status) in [
        (name.as_str(), "underpass.v1", 404),
        (&name, &forged, 404),
        (&name, &format!("underpass.token.{token}"), 400),
        ("n1-another", &both, 400),
    ] {
        assert_eq!(ask(name, offered).await.status, status, "{name} {offered}");
    }
    // Nothing else is found by the name.
    for verb in ["poll", "sse", "stream"] {
        let headers = [("Sec-WebSocket-Protocol", both.as_str())];
        let answer = raw::ask(site.at, "GET", &format!("/_underpass/s/{name}/{verb}?wait=0"), &headers, b"").await;
        assert_eq!(answer.status, 404, "{verb}");
    }
}

/// A request with a mark of ours is ours whatever else it is, and no backend hears of it.
#[tokio::test]
async fn a_marked_request_is_never_proxied() {
    watch_panics();
    let backend = Recorder::polite().await;
    let site = Site::start(backend.at, "");
    for query in [
        "underpass=open",
        "underpass=sse",
        "underpass=x",
        "underpass",
        "underpass.nonce=0123456789abcdef",
        "%75nderpass=open",
        "underpass=open&underpass=sse",
        "a=1&underpass=",
    ] {
        for method in ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "POST", "GET"] {
            let opens = (method == "POST" && query.ends_with("=open") && !query.contains('&'))
                || (method, query) == ("GET", "underpass=sse");
            for more in [vec![], handshake(&[])] {
                if opens {
                    continue;
                }
                let answer = raw::ask(site.at, method, &format!("/admin/?{query}"), &more, b"").await;
                let expected = if method == "OPTIONS" { &[204][..] } else { &[400, 405][..] };
                assert!(expected.contains(&answer.status), "{method} {query}: {answer:?}");
            }
        }
    }
    assert_eq!(backend.connections(), 0);
}
