//! What passes as it was written: as many fields as a backend likes, names of fields, targets.

use crate::support::plain::{Line, canned, next, played};
use crate::support::site::Site;

// === how many fields ===

/// A response with so many `Link` fields.
async fn linking(many: usize) -> std::net::SocketAddr {
    let links = "Link: </part.js>; rel=modulepreload\r\n".repeat(many);
    canned(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{links}Content-Length: 2\r\n\r\nok")).await.0
}

#[tokio::test]
async fn a_response_may_have_more_than_a_hundred_fields() {
    for many in [90, 120, 900] {
        let site = Site::start(linking(many).await, "");
        // Read byte by byte: a client of hyper's would refuse more than a hundred itself.
        let mut client = Line::to(site.at).await;
        client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.head().await;
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert_eq!(head.matches("\r\nlink: ").count(), many);
    }
}

#[tokio::test]
async fn the_number_of_a_responses_fields_and_their_bytes_are_bounded_by_keys() {
    for (many, keys, status) in [
        (120, "backend.header_fields = 60\n", 502),
        (50, "backend.header_fields = 60\n", 200),
        (600, "backend.header_bytes = \"16KiB\"\n", 502),
        (400, "backend.header_bytes = \"16KiB\"\n", 200),
    ] {
        let site = Site::start(linking(many).await, keys);
        let mut client = Line::to(site.at).await;
        client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{many} fields with {keys}: {head}");
    }
}

// === names of fields ===

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Says these bytes in one piece, or in two that the sidecar gets one after the other.
async fn say(client: &mut Line, text: &str, in_pieces: bool) {
    if in_pieces {
        let (first, second) = text.split_at(text.len() / 2);
        client.say(first).await;
        // Long enough for the first piece to be read alone, as a rule; both ways must work.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        client.say(second).await;
    } else {
        client.say(text).await;
    }
}

fn has_lines(head: &str, lines: &[&str]) {
    for line in lines {
        assert!(head.split("\r\n").any(|found| found == *line), "{line} in {head}");
    }
}

#[tokio::test]
async fn names_of_fields_pass_a_tunnel_as_they_are_written() {
    let (at, mut lines) = played().await;
    let site = Site::start(at, "");
    for in_pieces in [false, true] {
        let mut client = Line::to(site.at).await;
        let request = format!(
            "GET /x HTTP/1.1\r\nHost: a\r\nUPGRADE: websocket\r\nConnection: Upgrade\r\nX-ApiKey: 1\r\n\
             sec-ch-ua: 2\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        say(&mut client, &request, in_pieces).await;
        let mut backend = next(&mut lines).await;
        let key = format!("Sec-WebSocket-Key: {KEY}");
        let expected = ["X-ApiKey: 1", "sec-ch-ua: 2", "Sec-WebSocket-Version: 13", &key, "UPGRADE: websocket"];
        has_lines(&backend.written_head().await, &expected);
        backend
            .say(format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-NODE: 7\r\n\
                 Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
            ))
            .await;
        let accept = format!("Sec-WebSocket-Accept: {ACCEPT}");
        has_lines(&client.written_head().await, &["X-NODE: 7", &accept, "Upgrade: websocket", "Connection: Upgrade"]);
    }
}

/// Every way that a request and its response can take: read and written by us or by hyper, on new and on kept connections.
#[tokio::test]
async fn names_of_fields_of_requests_and_responses_are_passed_as_they_are_written() {
    let (at, mut lines) = played().await;
    let site = Site::start(at, "");
    let chunked = "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let long = format!("Content-Length: 30000\r\n\r\n{}", "y".repeat(30_000));
    let mut client = Line::to(site.at).await;
    let mut backend: Option<Line> = None;
    for (method, framing, body) in [
        ("GET", "\r\n", ""),
        ("GET", "\r\n", ""),
        ("POST", "Content-Length: 2\r\n\r\nhi", "hi"),
        ("HEAD", "\r\n", ""),
        ("POST", chunked, "2\r\nhi\r\n0\r\n\r\n"),
        ("GET", "\r\n", ""),
        ("PUT", &long, &"y".repeat(30_000)),
        ("GET", "\r\n", ""),
    ] {
        for answer in ["Content-Length: 2\r\n\r\nok", "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"] {
            client.say(format!("{method} /x HTTP/1.1\r\nHost: a\r\nX-ApiKey: 1\r\nx-lower: 2\r\n{framing}")).await;
            // The connection from before, unless it was not yet kept.
            let mut line = match backend.take() {
                Some(line) => tokio::select! {
                    another = next(&mut lines) => another,
                    readable = line.0.readable() => readable.map(|()| line).expect("it is open"),
                },
                None => next(&mut lines).await,
            };
            let head = line.written_head().await;
            assert!(head.starts_with(&format!("{method} /x HTTP/1.1\r\n")), "{head}");
            has_lines(&head, &["X-ApiKey: 1", "x-lower: 2", "Host: a"]);
            assert_eq!(line.bytes(body.len()).await, body.as_bytes(), "{method}");
            let answer = if method == "HEAD" { "\r\n" } else { answer };
            line.say(format!("HTTP/1.1 200 OK\r\nX-ApiKey: 1\r\nx-lower: 2\r\nETag: \"e\"\r\n{answer}")).await;
            let head = client.written_head().await;
            has_lines(&head, &["X-ApiKey: 1", "x-lower: 2", "ETag: \"e\""]);
            let end = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            client.until(end).await;
            backend = Some(line);
        }
    }
}

// === targets ===

#[tokio::test]
async fn targets_pass_as_programs_write_them() {
    let (at, mut lines) = played().await;
    let site = Site::start(at, "backend.pool = 0\n");
    for target in ["/x?filter={\"room\":1}", "/x?q=a<b>`", "/<a>?b", "/\"é\"?\"ü"] {
        for in_pieces in [false, true] {
            for (request, answer) in [
                (format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
                (
                    format!("POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
                    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                ),
                (
                    format!(
                        "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
                    ),
                    &format!(
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
                    ),
                ),
            ] {
                let mut client = Line::to(site.at).await;
                say(&mut client, &request, in_pieces).await;
                let mut backend = next(&mut lines).await;
                let head = backend.written_head().await;
                assert_eq!(head.split(' ').nth(1), Some(target), "{request}");
                backend.say(answer).await;
                let head = client.head().await;
                assert!(head.starts_with("http/1.1 200 ") || head.starts_with("http/1.1 101 "), "{request}: {head}");
            }
        }
    }
}

#[tokio::test]
async fn an_opening_asks_for_the_target_as_it_is_written() {
    let (at, mut lines) = played().await;
    let site = Site::start(at, "");
    let mut client = Line::to(site.at).await;
    let request =
        "POST /x?filter={\"room\":1}&underpass=open HTTP/1.1\r\nHost: a\r\nX-ApiKey: 1\r\nContent-Length: 2\r\n\r\n{}";
    client.say(request).await;
    let head = next(&mut lines).await.written_head().await;
    assert!(head.starts_with("GET /x?filter={\"room\":1} HTTP/1.1\r\n"), "{head}");
    has_lines(&head, &["X-ApiKey: 1", "Sec-WebSocket-Version: 13"]);
}

#[tokio::test]
async fn what_is_no_request_is_told_why() {
    let (at, _lines) = played().await;
    // None of these names a host, which is not what is wrong with them.
    let site = Site::start(at, "hosts = [\"a\"]\n");
    for text in [
        "GET /x?q=\u{1} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n",
        "GET /x HTTP/3.0\r\nHost: a\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}",
    ] {
        let mut client = Line::to(site.at).await;
        client.say(text).await;
        let (head, body) = client.answer().await;
        assert!(head.starts_with("http/1.1 400 ") && head.contains("\r\nconnection: close\r\n"), "{head}");
        assert!(body.contains("\"code\":\"bad_request\"") && body.contains("\"message\":\"the "), "{body}");
        assert!(client.rest().await.is_empty());
    }
}
