//! What connections hold of the memory that all may take: counted for as long as it is held, and large heads are refused
//! while there is none.

use std::future::pending;
use std::ops::RangeInclusive;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::{Request, Response, StatusCode};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use underpass::budget::Claim;
use underpass::config::Client;
use underpass::http::body::Body;
use underpass::http::incoming::IncomingBody;
use underpass::listener::handler::OutOfMemory;

use super::edge::{BUDGET, Edge, FOREVER, client, one_ok, rest};

const KIB: usize = 1024;

/// Waits until so much is held.
pub(super) async fn holds(edge: &Edge, bytes: RangeInclusive<usize>) {
    let settled = async {
        while !bytes.contains(&edge.budget.held()) {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(FOREVER, settled).await.unwrap_or_else(|_| panic!("{} bytes are held, not {bytes:?}", edge.budget.held()));
}

/// A head of about so many bytes, without its end.
fn unfinished(bytes: usize) -> Vec<u8> {
    let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nX-Large: ".to_vec();
    head.resize(bytes, b'a');
    head
}

async fn sends(edge: &Edge, bytes: &[u8]) -> TcpStream {
    let mut stream = edge.connect().await;
    stream.write_all(bytes).await.expect("room in the socket");
    stream
}

/// Answers as the gateway does; a target `/wait` is never answered.
async fn service(request: Request<IncomingBody>) -> Response<Body> {
    if request.extensions().get::<OutOfMemory>().is_some() {
        let mut response = Response::new(Body::full("no memory"));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert("connection", "close".parse().expect("a value"));
        return response;
    }
    if request.uri().path() == "/wait" {
        pending::<()>().await;
    }
    request.into_body().collect().await.expect("a body");
    Response::new(Body::full("ok"))
}

fn edge() -> Edge {
    Edge::tcp(Client { header_bytes: 32 * KIB, ..client() }, None, service)
}

/// Somebody else takes this part of all.
fn taken(edge: &Edge, percent: usize) -> Claim {
    let mut claim = edge.budget.claim();
    claim.set(BUDGET / 100 * percent);
    claim
}

#[tokio::test]
async fn heads_that_do_not_end_count_and_small_ones_do_not() {
    let edge = edge();
    let small = sends(&edge, &unfinished(2 * KIB)).await;
    let large = sends(&edge, &unfinished(12 * KIB)).await;
    holds(&edge, 8 * KIB..=12 * KIB).await;
    drop(large);
    holds(&edge, 0..=0).await;
    // More than is read ahead: hyper's buffer may grow up to the largest head.
    let larger = sends(&edge, &unfinished(16 * KIB)).await;
    holds(&edge, 40 * KIB..=40 * KIB).await;
    drop((small, larger));
    holds(&edge, 0..=0).await;
}

#[tokio::test]
async fn what_is_sent_ahead_of_a_response_counts() {
    let edge = edge();
    let mut waiting = sends(&edge, b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    waiting.write_all(&[b'a'; 12 * KIB]).await.expect("room in the socket");
    holds(&edge, 8 * KIB..=12 * KIB).await;
    drop(waiting);
    holds(&edge, 0..=0).await;
}

#[tokio::test]
async fn a_large_head_counts_while_its_request_is_under_way() {
    let edge = edge();
    let mut head = b"GET /wait HTTP/1.1\r\nHost: a\r\nX-Large: ".to_vec();
    head.resize(10 * KIB, b'a');
    head.extend_from_slice(b"\r\n\r\n");
    let waiting = sends(&edge, &head).await;
    holds(&edge, 10 * KIB..=11 * KIB).await;
    drop(waiting);
    holds(&edge, 0..=0).await;
}

#[tokio::test]
async fn hypers_buffers_count_while_a_connection_is_hypers() {
    let edge = edge();
    let mut posting = sends(&edge, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n").await;
    holds(&edge, 16 * KIB..=16 * KIB).await;
    posting.write_all(b"ok").await.expect("room in the socket");
    one_ok(&mut posting).await;
    holds(&edge, 0..=0).await;
}

#[tokio::test]
async fn while_memory_is_short_no_large_head_is_waited_for() {
    let edge = edge();
    let _taken = taken(&edge, 85);
    let mut large = sends(&edge, &unfinished(6 * KIB)).await;
    let refused = rest(&mut large).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.ends_with("no memory"), "{refused}");
    let mut small = sends(&edge, &unfinished(2 * KIB)).await;
    // The large one was read behind it, and is answered: so the small one was read.
    assert!(rest(&mut sends(&edge, &unfinished(6 * KIB)).await).await.starts_with("HTTP/1.1 503 "));
    small.write_all(b"\r\n\r\n").await.expect("an open connection");
    one_ok(&mut small).await;
}

#[tokio::test]
async fn when_memory_is_spent_nothing_large_is_begun() {
    let edge = edge();
    let spent = taken(&edge, 96);
    let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
    assert!(rest(&mut sends(&edge, post).await).await.starts_with("HTTP/1.1 503 "));
    one_ok(&mut sends(&edge, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok").await).await;
    drop(spent);
    let mut posting = sends(&edge, post).await;
    posting.write_all(b"ok").await.expect("room in the socket");
    one_ok(&mut posting).await;
}
