//! Raw bytes on which two servers could disagree, and what becomes of each: at the listener how many answers, with which
//! statuses, and which requests the service saw; through the whole sidecar which requests the backend saw, whose parser
//! forgives nothing. Must not touch: the requests of well-behaved clients.
//!
//! Every case that carries a hidden request names it `/hidden`; no case may let that reach the service or the backend.

use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use hyper::{Request, Response};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use underpass::http::body::Body;
use underpass::http::incoming::IncomingBody;
use underpass::listener::framing::request_fault;
use underpass::listener::handler::Latency;

use crate::hostile::house::{no_panics, watch_panics};
use crate::hostile::raw::Wire;
use crate::hostile::recorder::{Recorder, Seen};
use crate::listener::edge::{Edge, FOREVER, client};
use crate::support::site::Site;

/// What is answered to these bytes, and what the service is asked: `METHOD target [body]`.
struct Case(&'static str, &'static str, &'static [u16], &'static [&'static str]);

/// hyper ends these connections without a word.
const HTTP2_PREFACE: &str = "HTTP/2 without TLS";

/// What `~` stands for.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

/// The end of a case: a request of its own, which shows whether the connection was still usable.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

const CORPUS: &[Case] = &[
    // === sound ===
    Case("plain", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[200, 200], &["GET / []", "GET /next []"]),
    Case(
        "content-length",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        &[200, 200],
        &["POST / [hi]", "GET /next []"],
    ),
    Case(
        "chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        &[200, 200],
        &["POST / [hi]", "GET /next []"],
    ),
    Case(
        "equal lengths",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        &[200, 200],
        &["POST / [hi]", "GET /next []"],
    ),
    Case("HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", &[200], &["GET / []"]),
    Case("empty lines before", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", &[200, 200], &["GET / []", "GET /next []"]),
    Case(
        "capitals",
        "POST / HTTP/1.1\r\nHost: a\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        &[200, 200],
        &["POST / [hi]", "GET /next []"],
    ),
    Case(
        "extensions",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;a=\"b\"\r\nhi\r\n0;x\r\n\r\n",
        &[200, 200],
        &["POST / [hi]", "GET /next []"],
    ),
    Case(
        "leading zeros",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0002\r\nhi\r\n000\r\n\r\n",
        &[200, 200],
        &["POST / [hi]", "GET /next []"],
    ),
    Case(
        "trailers",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nContent-Length: 40\r\n\r\n",
        &[200, 200],
        &["POST / [hi]", "GET /next []"],
    ),
    Case(
        "a request in a body",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 24\r\n\r\nGET /hid HTTP/1.1\r\nA:b\r\n",
        &[200, 200],
        &["POST / [GET /hid HTTP/1.1\r\nA:b\r\n]", "GET /next []"],
    ),
    Case(
        "length of a GET",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        &[200, 200],
        &["GET / [hi]", "GET /next []"],
    ),
    // === body length: both, several, odd ===
    Case(
        "length, then chunked: chunked alone counts, and the connection ends",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 45\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n",
        &[200],
        &["POST / []"],
    ),
    Case(
        "chunked, then length: the same",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 45\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n",
        &[200],
        &["POST / []"],
    ),
    Case(
        "chunked, then a length that ends in the next request",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n~",
        &[200],
        &["POST / []"],
    ),
    Case(
        "a length that ends in a chunk, then chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n~",
        &[200],
        &["POST / [hi]"],
    ),
    Case(
        "two lengths",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 30\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n",
        &[400],
        &[],
    ),
    Case(
        "two lengths, turned",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\nContent-Length: 0\r\n\r\n~",
        &[400],
        &[],
    ),
    Case("list of two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 30\r\n\r\n~", &[400], &[]),
    Case(
        "length with an underscore is another field",
        "POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 40\r\nContent-Length: 0\r\nConnection: close\r\n\r\n~",
        &[200],
        &["POST / []"],
    ),
    Case(
        "length named by Connection",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Content-Length, close\r\nContent-Length: 2\r\n\r\nhi",
        &[200],
        &["POST / [hi]"],
    ),
    Case("length list", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2, 2\r\n\r\nhi", &[400], &[]),
    Case("signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\nhi", &[400], &[]),
    Case("negative length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nhi", &[400], &[]),
    Case("hexadecimal length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x2\r\n\r\nhi", &[400], &[]),
    Case("empty length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\nhi", &[400], &[]),
    Case(
        "length beyond 64 bits",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\nh",
        &[400],
        &[],
    ),
    // === transfer codings ===
    Case(
        "coding in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n",
        &[400],
        &[],
    ),
    Case("unknown coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", &[400], &[]),
    Case(
        "identity",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi",
        &[400],
        &[],
    ),
    Case(
        "chunked is not last",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        &[400],
        &[],
    ),
    Case("gzip first", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", &[400], &[]),
    Case(
        "chunked twice",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400],
        &[],
    ),
    Case(
        "chunked, then identity",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        &[400],
        &[],
    ),
    Case("quoted", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", &[400], &[]),
    Case("vertical tab", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", &[400], &[]),
    Case(
        "coding list",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n~",
        &[400],
        &[],
    ),
    Case(
        "unknown coding beside a length",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n~",
        &[400],
        &[],
    ),
    Case(
        "space behind the name of the coding",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n~",
        &[400],
        &[],
    ),
    Case(
        "folded coding",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n~",
        &[400],
        &[],
    ),
    Case(
        "coding behind a bare carriage return",
        "POST / HTTP/1.1\r\nHost: a\r\nX: 1\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n~",
        &[400],
        &[],
    ),
    Case(
        "coding named by Connection",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding, close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        &[200],
        &["POST / [hi]"],
    ),
    Case(
        "coding and length in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n~",
        &[400],
        &[],
    ),
    // === chunks ===
    Case(
        "chunk size too big",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        &[500],
        &["POST / broken"],
    ),
    Case(
        "chunk size is no number",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nhi\r\n0\r\n\r\n",
        &[500],
        &["POST / broken"],
    ),
    Case(
        "chunk size with a sign",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nhi\r\n0\r\n\r\n",
        &[500],
        &["POST / broken"],
    ),
    Case(
        "chunk longer than its size",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhix\r\n0\r\n\r\n",
        &[500],
        &["POST / broken"],
    ),
    Case(
        "bare line feed after a chunk",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\n0\r\n\r\n",
        &[500],
        &["POST / broken"],
    ),
    Case(
        "line feed in a chunk extension",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;a\nb\r\nhi\r\n0\r\n\r\n",
        &[500],
        &["POST / broken"],
    ),
    Case(
        "chunk size of nothing",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\n\r\n~",
        &[500],
        &["POST / broken"],
    ),
    Case(
        "chunk size with a plus",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\nhi\r\n0\r\n\r\n~",
        &[500],
        &["POST / broken"],
    ),
    Case(
        "chunk size with a space",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2 \t1\r\nhi\r\n0\r\n\r\n~",
        &[500],
        &["POST / broken"],
    ),
    Case(
        "chunk shorter than its size",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhi\r\n0\r\n\r\n~",
        &[500],
        &["POST / broken"],
    ),
    Case(
        "bare line feed behind a chunk size",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\nhi\r\n0\r\n\r\n~",
        &[500],
        &["POST / broken"],
    ),
    Case(
        "endless extension",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;EXTENSION\r\nhi\r\n0\r\n\r\n~",
        &[500],
        &["POST / broken"],
    ),
    Case(
        "bare carriage return at the end",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\r\n~",
        &[500],
        &["POST / broken"],
    ),
    Case(
        "trailer that is none",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX Y: 1\r\n\r\n~",
        &[500],
        &["POST / broken"],
    ),
    // === hosts ===
    Case("no host", "GET / HTTP/1.1\r\n\r\n", &[400], &[]),
    Case("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[400], &[]),
    Case("user in the host", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", &[400], &[]),
    Case("user in the target", "GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n", &[400], &[]),
    Case("target of another host", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", &[400], &[]),
    Case(
        "target of the same host",
        "GET http://a/x HTTP/1.1\r\nHost: A:80\r\nConnection: close\r\n\r\n",
        &[200],
        &["GET http://a/x []"],
    ),
    // === the grammar of the head ===
    Case("folded line", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", &[400], &[]),
    Case("folded length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 2\r\n\r\nhi", &[400], &[]),
    Case("space before the colon", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 2\r\n\r\nhi", &[400], &[]),
    Case("space before the name", "POST / HTTP/1.1\r\n Content-Length: 2\r\nHost: a\r\n\r\nhi", &[400], &[]),
    Case("no name", "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", &[400], &[]),
    Case("no colon", "GET / HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n", &[400], &[]),
    Case("bare carriage return", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\rTransfer-Encoding: chunked\r\n\r\n", &[400], &[]),
    Case("null byte", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n\r\n", &[400], &[]),
    Case("null byte in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\x00: 2\r\n\r\n", &[400], &[]),
    Case("space in the target", "GET / x HTTP/1.1\r\nHost: a\r\n\r\n", &[400], &[]),
    Case(
        "request line in two parts",
        "GET /x HTTP/1.1\r\nHost: b\r\n\r\n HTTP/1.1\r\nHost: a\r\n\r\n",
        &[200, 400],
        &["GET /x []"],
    ),
    Case("null byte in the target", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", &[400], &[]),
    Case(
        "encoded line ends in the target stay encoded",
        "GET /%0d%0aX:1%0d%0a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        &[200],
        &["GET /%0d%0aX:1%0d%0a []"],
    ),
    Case("bare carriage return before a line end", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\r\n\r\n", &[400], &[]),
    Case("two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", &[400], &[]),
    Case("no version", "GET /\r\nHost: a\r\n\r\n", &[400], &[]),
    Case("version 1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", &[400], &[]),
    Case("version 2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", &[400], &[]),
    Case(HTTP2_PREFACE, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400], &[]),
    Case("not HTTP", "\x16\x03\x01\x00\x05hello\r\n\r\n", &[400], &[]),
];

#[tokio::test]
async fn nothing_is_smuggled() {
    let run_all = |reader| CORPUS.iter().map(move |case| tokio::spawn(run(case, reader)));
    verdict(run_all(Reader::Underpass).chain(run_all(Reader::Hyper)).collect()).await;
}

#[tokio::test]
async fn the_backend_gets_one_sound_request_or_none() {
    watch_panics();
    verdict(CORPUS.iter().map(|case| tokio::spawn(run_through(case))).collect()).await;
    no_panics();
}

/// All cases went right.
async fn verdict(runs: Vec<JoinHandle<Option<String>>>) {
    let mut wrong = Vec::new();
    for run in runs {
        wrong.extend(run.await.expect("the task does not panic"));
    }
    assert!(CORPUS.len() > 80, "the corpus is gone");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The bytes of a case.
fn thrown(raw: &str) -> String {
    raw.replace('~', HIDDEN).replace("EXTENSION", &"x".repeat(100_000)) + NEXT
}

/// Who reads a request first: both must read alike.
#[derive(Clone, Copy, Debug)]
enum Reader {
    /// A short request that is there in one piece is read without hyper, which reads the others.
    Underpass,
    /// hyper, because it has the connection already.
    Hyper,
}

/// A request that is left to hyper, and with it the connection.
const FOR_HYPER: &str = "GET /first HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n";

/// What is wrong with how this case went.
async fn run(Case(name, raw, statuses, asked): &'static Case, reader: Reader) -> Option<String> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let edge = Edge::carrying(client(), Latency::Short, move |request| answer(request, Arc::clone(&log)));
    let (before, first) = match reader {
        Reader::Underpass => ("", None),
        Reader::Hyper => (FOR_HYPER, Some((200, "GET /first []"))),
    };
    let answer = edge.throw(format!("{before}{}", thrown(raw)).as_bytes()).await;
    let got: Vec<u16> = answer.split("HTTP/1.").skip(1).filter_map(|head| head.get(2..5)?.parse().ok()).collect();
    let statuses = if *name == HTTP2_PREFACE && matches!(reader, Reader::Hyper) { &[] } else { *statuses };
    let statuses: Vec<u16> = first.iter().map(|first| first.0).chain(statuses.iter().copied()).collect();
    let asked: Vec<&str> = first.iter().map(|first| first.1).chain(asked.iter().copied()).collect();
    let seen = seen.lock().expect("nobody panicked with it");
    let right = got == statuses && *seen == asked && !seen.iter().any(|line| line.contains("/hidden"));
    (!right).then(|| format!("{name} ({reader:?}): answered {got:?} for {statuses:?}, asked {seen:?} for {asked:?}"))
}

/// The gateway in small: 400 and the end to what is faulty, otherwise the body is read and the request noted.
async fn answer(request: Request<IncomingBody>, log: Arc<Mutex<Vec<String>>>) -> Response<Body> {
    let respond = |status| Response::builder().status(status);
    if let Some(fault) = request_fault(&request) {
        return respond(400).header("connection", "close").body(Body::full(fault)).expect("sound parts");
    }
    let head = format!("{} {}", request.method(), request.uri());
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
    let (status, line) = match body {
        Ok(body) => (200, format!("{head} [{}]", String::from_utf8_lossy(&body))),
        Err(_) => (500, format!("{head} broken")),
    };
    log.lock().expect("nobody panicked with it").push(line);
    respond(status).body(Body::full("")).expect("sound parts")
}

/// The same through the whole sidecar: the backend sees what the service sees, but for what turned out to be broken.
async fn run_through(Case(name, raw, _, asked): &'static Case) -> Option<String> {
    let backend = Recorder::polite().await;
    let site = Site::start(backend.at, "");
    let mut wire = Wire::open(site.at).await;
    wire.write(thrown(raw).as_bytes()).await;
    let ended = timeout(FOREVER, wire.rest()).await.is_ok();
    let record = backend.record();
    let line =
        |seen: &Seen| format!("{} [{}]", seen.line.trim_end_matches(" HTTP/1.1"), String::from_utf8_lossy(&seen.body));
    let seen: Vec<String> = record.requests.iter().map(line).collect();
    // A backend is asked for a path.
    let asked: Vec<String> =
        asked.iter().filter(|line| !line.ends_with(" broken")).map(|line| line.replace("http://a/", "/")).collect();
    let twice = record.requests.iter().any(|seen| seen.has("content-length") && seen.has("transfer-encoding"));
    let hidden = format!("{record:?}").contains("/hidden");
    let right = seen == asked && record.faults.is_empty() && !twice && !hidden && ended;
    (!right).then(|| format!("{name}: asked {seen:?} for {asked:?}, {:?}, ended {ended}", record.faults))
}
