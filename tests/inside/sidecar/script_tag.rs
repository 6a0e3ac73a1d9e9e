//! The script's tag in proxied pages, through a whole sidecar: when it is written, and what else of an answer changes.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;
use tokio::io::AsyncReadExt as _;
use underpass::client::{File, hash};

use crate::support::plain::{Line, canned};
use crate::support::site::{Reply, Site, soon};

const PAGE: &str = "<!doctype html><title>x</title><script>new WebSocket('/')</script>";
const NAVIGATION: &[(&str, &str)] = &[("sec-fetch-dest", "document"), ("accept-encoding", "gzip, br")];

/// The tag as `/page` has it.
fn tag() -> String {
    tag_from("_underpass")
}

fn tag_from(prefix: &str) -> String {
    format!("<script src=\"{prefix}/client.js?v={}\"></script>", hash(File::Script))
}

fn injected() -> String {
    PAGE.replace("</title>", &format!("</title>{}", tag()))
}

fn answer(fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// What a request is answered when the backend says this, and the request as the backend got it.
async fn asked(says: Vec<u8>, method: Method, headers: &[(&str, &str)]) -> (Reply, String) {
    asked_at("/page", "", says, method, headers).await
}

async fn asked_at(path: &str, more: &str, says: Vec<u8>, method: Method, headers: &[(&str, &str)]) -> (Reply, String) {
    let (at, mut asked) = canned(says).await;
    let site = Site::start(at, &format!("inject = true\n{more}"));
    let reply = site.request(method, path, headers, "").await;
    (reply, asked.recv().await.expect("it was asked").to_ascii_lowercase())
}

fn brotli(text: &str) -> Vec<u8> {
    let (mut out, mut params) = (Vec::new(), brotli::enc::BrotliEncoderParams::default());
    params.quality = 4;
    brotli::BrotliCompress(&mut text.as_bytes(), &mut out, &params).expect("memory");
    out
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

#[tokio::test]
async fn a_page_gets_the_script_and_a_head_that_fits() {
    let fields = "Content-Type: text/html; charset=windows-1252\r\nETag: \"e\"\r\nAccept-Ranges: bytes\r\n\
                  Content-MD5: x\r\nVary: Accept-Encoding\r\nSet-Cookie: a=1\r\n";
    let (reply, request) = asked(answer(fields, PAGE.as_bytes()), Method::GET, NAVIGATION).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (200, injected()));
    assert!(request.contains("\r\naccept-encoding: identity\r\n"), "{request}");
    for gone in ["content-length", "accept-ranges", "content-md5", "content-encoding"] {
        assert_eq!(reply.header(gone), None, "{gone}");
    }
    assert_eq!(reply.header("content-type"), Some("text/html; charset=windows-1252"));
    assert_eq!(reply.header("set-cookie"), Some("a=1"));
    let vary: Vec<_> = reply.headers.get_all("vary").into_iter().collect();
    assert_eq!(vary, ["Accept-Encoding", "Sec-Fetch-Dest"]);
    let etag = reply.header("etag").expect("a tag");
    assert!(etag.starts_with("W/\"e-underpass-"), "{etag}");
    // The address that was written leads to the script, to be kept.
    let (at, _asked) = canned("").await;
    let script = Site::start(at, "").get(&format!("/_underpass/client.js?v={}", hash(File::Script))).await;
    assert!(script.header("cache-control").expect("a lifetime").contains("immutable"));
}

#[tokio::test]
async fn what_is_known_is_answered_304_and_what_was_kept_from_before_is_not() {
    let fields = "Content-Type: text/html\r\nETag: \"e\"\r\n";
    let (first, _) = asked(answer(fields, PAGE.as_bytes()), Method::GET, NAVIGATION).await;
    let ours = first.header("etag").expect("a tag").to_owned();
    let unchanged = b"HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\n\r\n".to_vec();
    let known = [NAVIGATION, &[("if-none-match", &*ours)]].concat();
    let (again, request) = asked(unchanged, Method::GET, &known).await;
    assert!(request.contains("\r\nif-none-match: \"e\"\r\n"), "{request}");
    assert_eq!((again.status.as_u16(), again.header("etag"), again.body.len()), (304, Some(&*ours), 0));
    let before = [NAVIGATION, &[("if-none-match", "\"e\""), ("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT")]];
    let (fresh, request) = asked(answer(fields, PAGE.as_bytes()), Method::GET, &before.concat()).await;
    assert!(!request.contains("if-none-match") && !request.contains("if-modified-since"), "{request}");
    assert_eq!(fresh.text(), injected());
}

#[tokio::test]
async fn everything_else_passes_as_it_is() {
    let html = "Content-Type: text/html\r\nETag: \"e\"\r\n";
    let fetch: &[(&str, &str)] =
        &[("sec-fetch-dest", "empty"), ("accept", "text/html"), ("x-requested-with", "XMLHttpRequest")];
    let range = [NAVIGATION, &[("range", "bytes=0-9")]].concat();
    let cases: &[(&str, &[(&str, &str)])] = &[
        (html, fetch),
        (html, &range),
        ("Content-Type: text/plain\r\nETag: \"e\"\r\n", NAVIGATION),
        ("Content-Type: text/html\r\nETag: \"e\"\r\nContent-Disposition: attachment\r\n", NAVIGATION),
        ("Content-Type: text/html\r\nETag: \"e\"\r\nCache-Control: no-transform\r\n", NAVIGATION),
        ("Content-Type: text/html; charset=utf-16\r\nETag: \"e\"\r\n", NAVIGATION),
        ("Content-Type: text/html\r\nETag: \"e\"\r\nContent-Encoding: zstd\r\n", NAVIGATION),
    ];
    for (fields, headers) in cases {
        let (reply, _) = asked(answer(fields, PAGE.as_bytes()), Method::GET, headers).await;
        assert_eq!((reply.text().as_str(), reply.header("etag")), (PAGE, Some("\"e\"")), "{fields} {headers:?}");
        assert_eq!(reply.header("content-length"), Some(&*PAGE.len().to_string()), "{fields} {headers:?}");
    }
    let (reply, _) = asked(answer(html, b""), Method::HEAD, NAVIGATION).await;
    assert_eq!(reply.header("etag"), Some("\"e\""));
    let (reply, _) = asked(answer(html, b"<div>a part</div>"), Method::GET, NAVIGATION).await;
    assert_eq!(reply.text(), "<div>a part</div>");
    let (at, _asked) = canned(answer(html, PAGE.as_bytes())).await;
    assert_eq!(Site::start(at, "").request(Method::GET, "/", NAVIGATION, "").await.text(), PAGE, "off by default");
}

#[tokio::test]
async fn a_page_that_was_compressed_in_spite_of_us_is_unpacked() {
    let long = format!("{PAGE}{}", "0123456789".repeat(100_000));
    for (coding, packed) in [("gzip", gzip(&long)), ("br", brotli(&long))] {
        let fields = format!("Content-Type: text/html\r\nContent-Encoding: {coding}\r\n");
        let (reply, _) = asked(answer(&fields, &packed), Method::GET, NAVIGATION).await;
        assert_eq!(reply.header("content-encoding"), None);
        assert!(reply.text() == long.replace("</title>", &format!("</title>{}", tag())), "{coding}");
    }
}

#[tokio::test]
async fn a_page_that_breaks_off_is_no_whole_page() {
    let packed = gzip(&PAGE.repeat(1000));
    let half = answer("Content-Type: text/html\r\nContent-Encoding: gzip\r\n", &packed[..packed.len() / 2]);
    let short = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1000\r\n\r\n{PAGE}");
    for says in [half, short.into_bytes()] {
        let (at, _asked) = canned(says).await;
        let site = Site::start(at, "inject = true\n");
        let mut client = Line::to(site.at).await;
        client.say("GET / HTTP/1.1\r\nHost: a\r\nSec-Fetch-Dest: document\r\n\r\n").await;
        let mut all = Vec::new();
        let _ = soon("the end", client.0.read_to_end(&mut all)).await;
        assert!(!all.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&all));
    }
}

#[tokio::test]
async fn the_pages_nonce_is_on_the_tag_and_a_policy_that_forbids_it_is_heeded() {
    let policy = |policy: &str| format!("Content-Type: text/html\r\nContent-Security-Policy: {policy}\r\n");
    let fields = policy("default-src 'self'; script-src 'nonce-r4nd0m' 'strict-dynamic'");
    let (reply, _) = asked(answer(&fields, PAGE.as_bytes()), Method::GET, NAVIGATION).await;
    assert!(reply.text().contains(&tag().replace("></", " nonce=\"r4nd0m\"></")), "{}", reply.text());
    let fields = policy("script-src 'self'; connect-src 'none'");
    let (reply, _) = asked(answer(&fields, PAGE.as_bytes()), Method::GET, NAVIGATION).await;
    assert_eq!(reply.text(), PAGE);
}

/// Service workers ask for pages in ways of their own; what they get is shown later.
#[tokio::test]
async fn a_page_that_a_service_worker_fetches_or_puts_by_gets_the_script() {
    let html = "Content-Type: text/html\r\nETag: \"e\"\r\n";
    let fetched = [("sec-fetch-dest", "empty"), ("sec-fetch-mode", "cors"), ("accept", "*/*")];
    let passed_on = [("sec-fetch-dest", "empty"), ("sec-fetch-mode", "navigate"), ("accept", "text/html,*/*;q=0.8")];
    for (headers, expected) in [(fetched, tag_from("/_underpass")), (passed_on, tag())] {
        for accepted in ["gzip, deflate, br, zstd", "identity"] {
            let headers = [&headers[..], &[("accept-encoding", accepted)]].concat();
            let packed = format!("{html}Content-Encoding: gzip\r\n");
            for says in [answer(html, PAGE.as_bytes()), answer(&packed, &gzip(PAGE))] {
                let (reply, request) = asked(says, Method::GET, &headers).await;
                assert_eq!(reply.text(), PAGE.replace("</title>", &format!("</title>{expected}")), "{headers:?}");
                assert!(!request.contains("zstd"), "{request}");
            }
        }
    }
    // What is fetched and is no page stays as it is, compressed and known.
    let headers = [&fetched[..], &[("accept-encoding", "gzip, zstd"), ("if-none-match", "\"e\"")]].concat();
    let data = answer("Content-Type: application/json\r\nContent-Encoding: gzip\r\nETag: \"e\"\r\n", &gzip("{}"));
    let (reply, request) = asked(data, Method::GET, &headers).await;
    assert_eq!((reply.header("content-encoding"), reply.header("etag")), (Some("gzip"), Some("\"e\"")));
    assert!(request.contains("\r\naccept-encoding: gzip\r\n") && request.contains("\r\nif-none-match: \"e\"\r\n"));
    let (reply, _) = asked(answer(html, b"<li>a part</li>"), Method::GET, &headers).await;
    assert_eq!(reply.text(), "<li>a part</li>");
}

/// Below a path that a front takes away, and where a `<base>` leads elsewhere, the tag leads to us.
#[tokio::test]
async fn the_tag_leads_to_us_from_wherever_the_page_is_shown() {
    let html = "Content-Type: text/html\r\n";
    let page = || answer(html, PAGE.as_bytes());
    let trusting = "trusted_proxies = [\"127.0.0.0/8\"]\n";
    let below = [NAVIGATION, &[("x-forwarded-prefix", "/app/")]].concat();
    for (path, more, headers, prefix) in [
        ("/", "", NAVIGATION, "_underpass"),
        ("/a/b/page", "", NAVIGATION, "../../_underpass"),
        ("/a/b/page", trusting, &below, "/app/_underpass"),
        ("/a/b/page", "", &below, "../../_underpass"),
        ("/app/page", "prefix = \"/app/up\"\n", NAVIGATION, "up"),
    ] {
        let (reply, _) = asked_at(path, more, page(), Method::GET, headers).await;
        assert!(reply.text().contains(&format!("</title>{}", tag_from(prefix))), "{path} {}", reply.text());
    }
    let based = "<html><head><meta charset=utf-8><base href=\"https://cdn.example/\"><title>x</title><script></script>";
    let (reply, _) = asked(answer(html, based.as_bytes()), Method::GET, NAVIGATION).await;
    assert_eq!(reply.text(), based.replace("<base", &format!("{}<base", tag())));
}

#[tokio::test]
async fn a_page_that_wants_digests_of_scripts_gets_one() {
    let fields = "Content-Type: text/html\r\nIntegrity-Policy: blocked-destinations=(script), endpoints=(x)\r\n";
    let (reply, _) = asked(answer(fields, PAGE.as_bytes()), Method::GET, NAVIGATION).await;
    let text = reply.text();
    let digest = text.split("integrity=\"sha384-").nth(1).and_then(|rest| rest.split('"').next()).expect("a digest");
    assert!(text.contains(&format!("integrity=\"sha384-{digest}\" crossorigin=\"anonymous\"></script>")), "{text}");
    let (at, _asked) = canned("").await;
    let script = Site::start(at, "").get("/_underpass/client.js").await.body;
    use base64::Engine as _;
    let served = ring::digest::digest(&ring::digest::SHA384, &script);
    assert_eq!(digest, base64::engine::general_purpose::STANDARD.encode(served));
}

#[tokio::test]
async fn a_route_says_what_carries_a_conversation() {
    let page = answer("Content-Type: text/html\r\n", PAGE.as_bytes());
    let (reply, _) = asked_at("/page", "ws = \"raw\"\n", page, Method::GET, NAVIGATION).await;
    assert!(reply.text().contains(&tag().replace("></", " data-ws=\"raw\"></")), "{}", reply.text());
}

/// No tag reaches a worker; the operator may have the script written before its own.
#[tokio::test]
async fn a_workers_script_gets_ours_before_it_where_that_is_allowed() {
    const WORKER: &str = "'use strict';\nconst socket = new WebSocket('/');\n";
    let js = "Content-Type: text/javascript; charset=utf-8\r\nETag: \"e\"\r\n";
    let worker: &[(&str, &str)] = &[("sec-fetch-dest", "worker"), ("accept-encoding", "gzip")];
    let on = "inject_workers = true\n";
    for path in ["/worker.js", "/a/worker.js"] {
        let (reply, _) = asked_at(path, on, answer(js, WORKER.as_bytes()), Method::GET, worker).await;
        let text = reply.text();
        let up = if path == "/worker.js" { "" } else { "../" };
        let start =
            format!("\"use strict\";self.underpassAddress=new URL(\"{up}_underpass/client.js\",location.href).href;");
        assert!(text.starts_with(&start) && text.ends_with(&format!(";{WORKER}")), "{}", &text[..200]);
        assert_ne!(reply.header("etag"), Some("\"e\""));
        assert_eq!(reply.header("vary"), Some("Sec-Fetch-Dest"));
    }
    let script = [("sec-fetch-dest", "script")];
    let forbidding = format!("{js}Content-Security-Policy: connect-src 'none'\r\n");
    for (more, headers, fields) in [
        ("", worker, js),
        (on, &script[..], js),
        (on, worker, "Content-Type: text/plain\r\nETag: \"e\"\r\n"),
        (on, worker, &forbidding),
    ] {
        let (reply, _) = asked_at("/w.js", more, answer(fields, WORKER.as_bytes()), Method::GET, headers).await;
        assert_eq!(
            (reply.text().as_str(), reply.header("etag")),
            (WORKER, Some("\"e\"")),
            "{more} {headers:?} {fields}"
        );
    }
}

#[tokio::test]
async fn a_page_streams_while_it_is_written() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let site = Site::start(listener.local_addr().expect("an address"), "inject = true\n");
    let mut client = Line::to(site.at).await;
    client.say("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n").await;
    let mut backend = Line(soon("a connection", listener.accept()).await.expect("it is accepted").0);
    backend.head().await;
    backend.say("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    backend.say("9\r\n<html><p>\r\n").await;
    client.until(&format!("<html>{}<p>\r\n", tag())).await;
    backend.say("5\r\nlater\r\n").await;
    client.until("later\r\n").await;
    backend.say("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
}
