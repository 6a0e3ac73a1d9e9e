//! Bytes on which two servers could disagree, through the whole sidecar: what the backend gets is parsed by one that
//! forgives nothing, and is at most the one request that everybody would read there.

use std::time::Duration;

use super::house::{no_panics, watch_panics};
use super::raw::Wire;
use super::recorder::Recorder;
use crate::support::site::Site;

/// What is thrown, and what the backend may be asked for by it: `METHOD target [body]`.
struct Case(&'static str, &'static str, &'static [&'static str]);

const ONE: &[&str] = &["POST / [hi]"];

/// `~` stands for the hidden request; nobody may ever be asked for it.
const CORPUS: &[Case] = &[
    // === sound, re-framed ===
    Case("length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", ONE),
    Case("chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", ONE),
    Case("capitals", "POST / HTTP/1.1\r\nHost: a\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n2\r\nhi\r\n0\r\n\r\n", ONE),
    Case(
        "extensions",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;a=\"b\"\r\nhi\r\n0;x\r\n\r\n",
        ONE,
    ),
    Case(
        "leading zeros",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0002\r\nhi\r\n000\r\n\r\n",
        ONE,
    ),
    Case(
        "trailers",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nContent-Length: 40\r\n\r\n",
        ONE,
    ),
    Case("equal lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", ONE),
    Case(
        "a request in a body",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 24\r\n\r\nGET /hid HTTP/1.1\r\nA:b\r\n",
        &["POST / [GET /hid HTTP/1.1\r\nA:b\r\n]"],
    ),
    Case("length of a GET", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", &["GET / [hi]"]),
    // === CL.TE, TE.CL and their kin ===
    Case(
        "CL.TE",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 45\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n~",
        &["POST / []"],
    ),
    Case(
        "TE.CL",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n~",
        &["POST / []"],
    ),
    Case(
        "TE.CL in a chunk",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n~",
        ONE,
    ),
    Case("two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 30\r\n\r\n~", &[]),
    Case("two lengths, turned", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\nContent-Length: 0\r\n\r\n~", &[]),
    Case("list of lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 30\r\n\r\n~", &[]),
    Case("plus", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n~", &[]),
    Case("minus", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -0\r\n\r\n~", &[]),
    Case("hexadecimal", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x0\r\n\r\n~", &[]),
    Case(
        "underscored length is dropped",
        "POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 40\r\nContent-Length: 0\r\nConnection: close\r\n\r\n~",
        &["POST / []"],
    ),
    Case(
        "TE twice",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n~",
        &[],
    ),
    Case("TE list", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n~", &[]),
    Case("TE x", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n~", &[]),
    Case("TE space", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n~", &[]),
    Case("TE tab", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n~", &[]),
    Case("TE quoted", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n~", &[]),
    Case("TE folded", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n~", &[]),
    Case(
        "TE hidden behind a bare line feed",
        "POST / HTTP/1.1\r\nHost: a\r\nX: 1\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n~",
        &[],
    ),
    Case(
        "TE named by Connection",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding, close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        ONE,
    ),
    Case(
        "length named by Connection",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Content-Length, close\r\nContent-Length: 2\r\n\r\nhi",
        ONE,
    ),
    Case("HTTP/1.0 with TE", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n~", &[]),
    Case(
        "HTTP/1.0 with both",
        "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n~",
        &[],
    ),
    // === the grammar of the head ===
    Case("folded line", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n ~: 2\r\n\r\n", &[]),
    Case("bare carriage return", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\r\n\r\n", &[]),
    Case("null", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\0\r\n\r\n", &[]),
    Case("space before a name", "GET / HTTP/1.1\r\n X: 1\r\nHost: a\r\n\r\n", &[]),
    Case("no colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", &[]),
    Case("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n", &[]),
    Case("no host", "GET / HTTP/1.1\r\nConnection: close\r\n\r\n", &[]),
    Case("space in the target", "GET /x HTTP/1.1\r\nHost: b\r\n\r\n HTTP/1.1\r\nHost: a\r\n\r\n", &["GET /x []"]),
    Case("null in the target", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", &[]),
    Case(
        "encoded line ends in the target stay encoded",
        "GET /%0d%0aX:1%0d%0a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        &["GET /%0d%0aX:1%0d%0a []"],
    ),
    Case("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n~", &[]),
];

/// Bodies that turn out to be broken once the backend has been asked: it is never told of an end that was not one.
const BROKEN: &[Case] = &[
    Case("size too big", "fffffffffffffffff\r\n~", &[]),
    Case("size of nothing", "\r\n\r\n~", &[]),
    Case("size with a sign", "+2\r\nhi\r\n0\r\n\r\n~", &[]),
    Case("size with 0x", "0x2\r\nhi\r\n0\r\n\r\n~", &[]),
    Case("size with a space", "2 \t1\r\nhi\r\n0\r\n\r\n~", &[]),
    Case("longer than its size", "2\r\nhix\r\n0\r\n\r\n~", &[]),
    Case("shorter than its size", "9\r\nhi\r\n0\r\n\r\n~", &[]),
    Case("bare line feed as an end", "2\nhi\r\n0\r\n\r\n~", &[]),
    Case("bare line feed behind a chunk", "2\r\nhi\n0\r\n\r\n~", &[]),
    Case("line feed in an extension", "2;\nxx\r\nhi\r\n0\r\n\r\n~", &[]),
    Case("endless extension", "2;EXTENSION\r\nhi\r\n0\r\n\r\n~", &[]),
    Case("bare carriage return at the end", "2\r\nhi\r\n0\r\r\n~", &[]),
    Case("a trailer that is none", "2\r\nhi\r\n0\r\nX Y: 1\r\n\r\n~", &[]),
];

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn the_backend_gets_one_sound_request_or_none() {
    let runs: Vec<_> =
        CORPUS.iter().map(|Case(name, raw, asked)| tokio::spawn(run(name, (*raw).to_owned(), asked))).collect();
    let mut wrong = Vec::new();
    for run in runs {
        wrong.extend(run.await.expect("no panic"));
    }
    assert!(CORPUS.len() > 40, "the corpus is gone");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    no_panics();
}

#[tokio::test]
async fn a_broken_body_is_never_made_whole() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = "x".repeat(100_000);
    let runs = BROKEN.iter().map(|Case(name, body, asked)| {
        tokio::spawn(run(name, format!("{head}{}", body.replace("EXTENSION", &long)), asked))
    });
    let mut wrong = Vec::new();
    for run in runs.collect::<Vec<_>>() {
        wrong.extend(run.await.expect("no panic"));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    no_panics();
}

/// What is wrong with how this case went.
async fn run(name: &'static str, raw: String, asked: &'static [&'static str]) -> Option<String> {
    watch_panics();
    let backend = Recorder::polite().await;
    let site = Site::start(
        backend.at,
        "[client]\nidle = \"300ms\"\nheader = \"300ms\"\nbody = \"300ms\"\n[backend]\nresponse = \"500ms\"\n",
    );
    let mut wire = Wire::open(site.at).await;
    wire.write(raw.replace('~', HIDDEN).as_bytes()).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), wire.rest()).await;
    let record = backend.record();
    let seen: Vec<String> = record
        .requests
        .iter()
        .map(|seen| {
            let head = seen.line.trim_end_matches(" HTTP/1.1");
            format!("{head} [{}]", String::from_utf8_lossy(&seen.body))
        })
        .collect();
    let twice = record.requests.iter().any(|seen| seen.has("content-length") && seen.has("transfer-encoding"));
    let hidden = format!("{record:?}").contains("/hidden");
    let right = seen == asked && record.faults.is_empty() && !twice && !hidden && ended.is_ok();
    (!right).then(|| format!("{name}: asked {seen:?} for {asked:?}, {:?}, ended {}", record.faults, ended.is_ok()))
}
