//! Connections whose requests hyper reads, because a body comes behind its head or only hyper takes the head: they are taken back
//! behind each exchange that is wholly over, and behind no other. Most of it is seen by what crosses when the process hands over.
//! Must not touch: how hyper reads.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use underpass::config::Client;
use underpass::http::body::Body;
use underpass::http::incoming::IncomingBody;
use underpass::http::source::{Chunk, Source};
use underpass::lifecycle::Phase;
use underpass::lifecycle::moving::{Kind, Parcel};

use super::edge::{Edge, FOREVER, client, ok, one_ok, rest};
use super::given::{GET, ask, next, successor};
use super::memory::holds;

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";

/// A house that says of each request that its head has come, reads its body, and answers when it is told to.
fn reading() -> (Edge, Arc<Notify>, mpsc::UnboundedReceiver<()>) {
    let (go, (came, comes)) = (Arc::new(Notify::new()), mpsc::unbounded_channel());
    let waits = Arc::clone(&go);
    let edge = Edge::tcp(client(), None, move |request: Request<IncomingBody>| {
        let waits = Arc::clone(&waits);
        came.send(()).expect("the test looks");
        async move {
            request.into_body().collect().await.expect("a whole body");
            waits.notified().await;
            Response::new(Body::full("ok"))
        }
    });
    (edge, go, comes)
}

/// A house that answers before it has read the body, which it gives to the test.
fn early(answer: &'static [u8]) -> (Edge, mpsc::UnboundedReceiver<IncomingBody>) {
    let (gives, bodies) = mpsc::unbounded_channel();
    let edge = Edge::tcp(client(), None, move |request: Request<IncomingBody>| {
        gives.send(request.into_body()).expect("the test looks");
        async move { Response::new(Body::full(answer)) }
    });
    (edge, bodies)
}

async fn says(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).await.expect("the other end reads");
}

async fn reads_to(stream: &mut TcpStream, end: &[u8]) {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        read.push(timeout(FOREVER, stream.read_u8()).await.expect("no answer").expect("an open connection"));
    }
}

async fn came<T>(comes: &mut mpsc::UnboundedReceiver<T>) -> T {
    timeout(FOREVER, comes.recv()).await.expect("nothing has come").expect("it lives")
}

/// The connection goes on at a successor.
async fn crosses(old: &Edge, parcels: &mut mpsc::UnboundedReceiver<Parcel>) -> Edge {
    let new = successor(client());
    (new.adopt)(next(parcels, Kind::Connection).await).expect("there is a place");
    timeout(FOREVER, old.lifecycle.emptied()).await.expect("nothing is left of it");
    new
}

/// Nothing but the listener is given, for as long as everybody else has something to do.
async fn gives_no_connection(parcels: &mut mpsc::UnboundedReceiver<Parcel>) {
    next(parcels, Kind::Listener).await;
    gives_nothing(parcels).await;
}

async fn gives_nothing(parcels: &mut mpsc::UnboundedReceiver<Parcel>) {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(parcels.try_recv().is_err(), "an exchange that is under way was given");
}

#[tokio::test]
async fn an_idle_connection_behind_an_exchange_of_hypers_is_answered_by_the_successor() {
    let long = "x".repeat(100_000);
    for (head, body) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", &*long),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\nX: y\r\n\r\n"),
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", "hello"),
        ("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n", ""),
    ] {
        let (old, go, mut comes) = reading();
        let mut stream = old.connect().await;
        for _ in 0..2 {
            says(&mut stream, head).await;
            came(&mut comes).await;
            says(&mut stream, body).await;
            go.notify_one();
            assert!(!one_ok(&mut stream).await.contains("successor"));
        }
        let mut parcels = old.lifecycle.begin_move();
        old.lifecycle.let_go();
        let _new = crosses(&old, &mut parcels).await;
        for _ in 0..2 {
            assert!(ask(&mut stream).await.contains("successor"), "{head}");
        }
    }
}

#[tokio::test]
async fn a_response_without_its_body_is_over_behind_its_head() {
    let old = Edge::tcp(client(), None, ok);
    let mut stream = old.connect().await;
    says(&mut stream, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    reads_to(&mut stream, b"\r\n\r\n").await;
    let mut parcels = old.lifecycle.begin_move();
    old.lifecycle.let_go();
    let _new = crosses(&old, &mut parcels).await;
    assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_connection_with_an_exchange_of_hypers_under_way_goes_on_at_the_successor_behind_it() {
    let (old, go, mut comes) = reading();
    let mut stream = old.connect().await;
    says(&mut stream, POST).await;
    came(&mut comes).await;
    let mut parcels = old.lifecycle.begin_move();
    old.lifecycle.let_go();
    gives_no_connection(&mut parcels).await;
    says(&mut stream, "hello").await;
    gives_nothing(&mut parcels).await;
    go.notify_one();
    let answer = one_ok(&mut stream).await;
    assert!(!answer.contains("successor") && !answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    let _new = crosses(&old, &mut parcels).await;
    assert!(ask(&mut stream).await.contains("successor"));
}

#[tokio::test]
async fn what_is_pipelined_behind_a_body_is_answered_once_and_part_of_a_head_goes_along() {
    let (old, go, mut comes) = reading();
    let mut stream = old.connect().await;
    says(&mut stream, POST).await;
    came(&mut comes).await;
    let (begun, end) = GET.split_at(10);
    says(&mut stream, [b"hello", GET, begun].concat()).await;
    go.notify_one();
    one_ok(&mut stream).await;
    came(&mut comes).await;
    let mut parcels = old.lifecycle.begin_move();
    old.lifecycle.let_go();
    gives_no_connection(&mut parcels).await;
    go.notify_one();
    assert!(!one_ok(&mut stream).await.contains("successor"));
    let _new = crosses(&old, &mut parcels).await;
    says(&mut stream, end).await;
    assert!(one_ok(&mut stream).await.contains("successor"));
    assert!(comes.try_recv().is_err(), "the old house has read another request");
    assert!(ask(&mut stream).await.contains("successor"));
}

#[tokio::test]
async fn the_beginning_of_a_head_that_is_too_long_to_be_read_ahead_goes_along() {
    let limits = || Client { header_bytes: 32 * 1024, ..client() };
    let (old, new) = (Edge::tcp(limits(), None, ok), successor(limits()));
    let mut stream = old.connect().await;
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(20 * 1024));
    let (begun, end) = head.split_at(18 * 1024);
    says(&mut stream, begun).await;
    holds(&old, 40 * 1024..=40 * 1024).await;
    let mut parcels = old.lifecycle.begin_move();
    old.lifecycle.let_go();
    (new.adopt)(next(&mut parcels, Kind::Connection).await).expect("there is a place");
    says(&mut stream, end).await;
    assert!(one_ok(&mut stream).await.contains("successor"));
}

// === not wholly over ===

#[tokio::test]
async fn a_connection_whose_request_is_not_read_to_its_end_is_given_when_it_is() {
    for (head, rest) in [
        (POST, "hello"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let (old, mut bodies) = early(b"ok");
        let mut stream = old.connect().await;
        says(&mut stream, head).await;
        let body = came(&mut bodies).await;
        one_ok(&mut stream).await;
        let mut parcels = old.lifecycle.begin_move();
        old.lifecycle.let_go();
        gives_no_connection(&mut parcels).await;
        says(&mut stream, rest).await;
        let body = timeout(FOREVER, body.collect()).await.expect("no end").expect("a whole body");
        assert_eq!(body.to_bytes(), "hello", "{head}");
        let _new = crosses(&old, &mut parcels).await;
        assert!(ask(&mut stream).await.contains("successor"));
    }
}

#[tokio::test]
async fn a_connection_whose_request_is_never_read_to_its_end_is_closed() {
    let (old, mut bodies) = early(b"ok");
    let mut stream = old.connect().await;
    says(&mut stream, POST).await;
    let body = came(&mut bodies).await;
    one_ok(&mut stream).await;
    let mut parcels = old.lifecycle.begin_move();
    old.lifecycle.let_go();
    gives_no_connection(&mut parcels).await;
    drop(body);
    says(&mut stream, "he").await;
    assert_eq!(rest(&mut stream).await, "");
    timeout(FOREVER, old.lifecycle.emptied()).await.expect("nothing is left of it");
    assert!(parcels.try_recv().is_err(), "the rest of a body was given as a request");
}

#[tokio::test]
async fn a_connection_is_not_given_before_the_end_of_an_early_response_is_written() {
    static LARGE: [u8; 32 * 1024 * 1024] = [b'x'; 32 * 1024 * 1024];
    let (old, mut bodies) = early(&LARGE);
    let mut stream = old.connect().await;
    says(&mut stream, POST).await;
    let body = came(&mut bodies).await;
    timeout(FOREVER, stream.readable()).await.expect("no answer").expect("an open connection");
    says(&mut stream, "hello").await;
    timeout(FOREVER, body.collect()).await.expect("no end").expect("a whole body");
    let mut parcels = old.lifecycle.begin_move();
    old.lifecycle.let_go();
    gives_no_connection(&mut parcels).await;
    reads_to(&mut stream, b"\r\n\r\n").await;
    let (mut left, mut chunk) = (LARGE.len(), vec![0; 1024 * 1024]);
    while left > 0 {
        let most = left.min(chunk.len());
        let count = timeout(FOREVER, stream.read(&mut chunk[..most])).await.expect("it goes on").expect("no reset");
        assert!(count > 0 && chunk[..count].iter().all(|byte| *byte == b'x'), "{left} bytes are missing");
        left -= count;
    }
    let _new = crosses(&old, &mut parcels).await;
    assert!(ask(&mut stream).await.contains("successor"));
}

/// A body that, once told to, ends at the second look at it, without waking anybody in between.
enum EndsUnseen {
    Whole(oneshot::Receiver<()>),
    Begun(oneshot::Receiver<()>),
    SeenOnce,
}

impl Source for EndsUnseen {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Chunk> {
        match std::mem::replace(self, Self::SeenOnce) {
            Self::Whole(end) => {
                *self = Self::Begun(end);
                out.extend_from_slice(b"some");
                Poll::Ready(Chunk::More)
            }
            Self::Begun(mut end) => {
                if Pin::new(&mut end).poll(cx).is_pending() {
                    *self = Self::Begun(end);
                }
                Poll::Pending
            }
            Self::SeenOnce => Poll::Ready(Chunk::Last),
        }
    }
}

#[tokio::test]
async fn a_body_that_ends_while_hyper_does_not_look_is_the_end_of_its_exchange() {
    let (end, ends) = oneshot::channel();
    let (come, mut comes) = mpsc::unbounded_channel();
    let response = Arc::new(Mutex::new(Some(Body::Stream(Box::new(EndsUnseen::Whole(ends))))));
    let old = Edge::tcp(client(), None, move |request: Request<IncomingBody>| {
        come.send(()).expect("the test looks");
        let response = Arc::clone(&response);
        async move {
            request.into_body().collect().await.expect("a whole body");
            Response::new(response.lock().expect("no panic").take().expect("one request"))
        }
    });
    let mut stream = old.connect().await;
    says(&mut stream, POST).await;
    came(&mut comes).await;
    says(&mut stream, "hello").await;
    reads_to(&mut stream, b"\r\n\r\n4\r\nsome\r\n").await;
    end.send(()).expect("it waits");
    reads_to(&mut stream, b"0\r\n\r\n").await;
    // Whatever happens to the process wakes the connection, so that it must be taken back before.
    holds(&old, 0..=0).await;
    let mut parcels = old.lifecycle.begin_move();
    old.lifecycle.let_go();
    let _new = crosses(&old, &mut parcels).await;
    assert!(ask(&mut stream).await.contains("successor"));
}

// === the end of a connection ===

/// Why nothing may follow, and what makes it so.
type End = (&'static str, fn(&Edge));

#[tokio::test]
async fn where_nothing_may_follow_the_response_says_so() {
    let ends: [End; 3] = [
        ("the client asks for it", |_| {}),
        ("the process drains", |edge| edge.lifecycle.advance(Phase::Draining)),
        ("it is too late to be given", |edge| {
            drop(edge.lifecycle.begin_move());
            edge.lifecycle.let_go();
            edge.lifecycle.close_parcels();
        }),
    ];
    for (why, happens) in ends {
        let (edge, go, mut comes) = reading();
        let mut stream = edge.connect().await;
        let asked = if why.starts_with("the client") { "Connection: close\r\n" } else { "" };
        says(&mut stream, POST.replace("\r\n\r\n", &format!("\r\n{asked}\r\n"))).await;
        came(&mut comes).await;
        happens(&edge);
        says(&mut stream, "hello").await;
        go.notify_one();
        let answer = rest(&mut stream).await.to_ascii_lowercase();
        assert!(answer.contains("connection: close") && answer.ends_with("ok"), "{why}: {answer}");
    }
}
