//! Enters: short responses, whole, in pieces and with something behind them. Leaves: the same responses, whoever read them,
//! and how many connections it took. Must not touch: ambiguous heads (see the unit tests of `http::read_response`).
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use underpass::http::incoming::IncomingBody;
use underpass::upstream::proxy::Proxy;

use super::support::{PATIENCE, dialer, forwarded, read_head, settings, tcp, write};

/// A proxy, and the connections that its backend gets.
async fn proxy() -> (Proxy, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = tcp(listener.local_addr().expect("an address"));
    let (give, connections) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("a socket");
            if give.send(stream).await.is_err() {
                return;
            }
        }
    });
    (Proxy::new(Arc::new(dialer(&upstream)), &settings()), connections)
}

async fn get(proxy: &Proxy) -> Response<IncomingBody> {
    let request = Request::get("/").header("host", "app.example").body(Empty::<Bytes>::new()).expect("a request");
    timeout(PATIENCE, proxy.forward(request, &forwarded(), None)).await.expect("in time").expect("a response")
}

async fn post(proxy: &Proxy) -> Response<IncomingBody> {
    let request = Request::post("/").header("host", "app.example").body(Full::new(Bytes::from("abc")));
    proxy.forward(request.expect("a request"), &forwarded(), None).await.expect("a response")
}

async fn body(response: Response<IncomingBody>) -> Bytes {
    response.into_body().collect().await.expect("a whole body").to_bytes()
}

/// Answers the next request on this connection.
async fn answer(mut stream: TcpStream, answer: &str) -> TcpStream {
    read_head(&mut stream).await;
    write(&mut stream, answer).await;
    stream
}

const SHORT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";

async fn until_idle(proxy: &Proxy, count: usize) {
    let reached = async {
        while proxy.idle() != count {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, reached).await.expect("it comes true");
}

#[tokio::test]
async fn a_short_answer_needs_no_hyper_and_any_other_gets_it_on_the_same_connection() {
    let (proxy, mut connections) = proxy().await;
    let backend = tokio::spawn(async move {
        let mut stream = connections.recv().await.expect("a connection");
        for text in [SHORT, SHORT, CHUNKED, SHORT, CHUNKED] {
            stream = answer(stream, text).await;
        }
        (stream, connections)
    });
    for whole in [true, true, false, false, false] {
        let response = get(&proxy).await;
        assert_eq!(matches!(response.body(), IncomingBody::Buffered(_)), whole);
        assert_eq!(body(response).await, "ok");
        until_idle(&proxy, 1).await;
    }
    let (_stream, mut connections) = backend.await.expect("a calm backend");
    assert!(connections.try_recv().is_err(), "one connection for all");
}

#[tokio::test]
async fn a_request_with_a_body_takes_over_a_connection_that_had_none() {
    let (proxy, mut connections) = proxy().await;
    let backend = tokio::spawn(async move {
        let stream = connections.recv().await.expect("a connection");
        let mut stream = answer(stream, SHORT).await;
        let head = read_head(&mut stream).await;
        let mut sent = [0; 3];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut sent).await.expect("a body");
        write(&mut stream, SHORT).await;
        (head, sent, connections)
    });
    assert_eq!(body(get(&proxy).await).await, "ok");
    assert_eq!(body(post(&proxy).await).await, "ok");
    let (head, sent, mut connections) = backend.await.expect("a calm backend");
    assert!(head.starts_with("POST / ") && &sent == b"abc", "{head}");
    assert!(connections.try_recv().is_err(), "one connection for both");
}

#[tokio::test]
async fn an_answer_is_the_same_wherever_it_is_cut() {
    for text in [SHORT, CHUNKED] {
        let end = text.len() - 1;
        for cut in 1..end {
            let (proxy, mut connections) = proxy().await;
            let backend = tokio::spawn(async move {
                let mut stream = connections.recv().await.expect("a connection");
                read_head(&mut stream).await;
                for piece in [&text[..cut], &text[cut..end], &text[end..]] {
                    write(&mut stream, piece).await;
                    stream.flush().await.expect("a reader");
                    tokio::task::yield_now().await;
                }
                stream
            });
            let response = get(&proxy).await;
            assert_eq!((response.status().as_u16(), body(response).await), (200, Bytes::from("ok")), "{cut}");
            drop(backend.await.expect("a calm backend"));
        }
    }
}

#[tokio::test]
async fn a_head_does_not_wait_for_its_body() {
    let (proxy, mut connections) = proxy().await;
    let backend = tokio::spawn(async move {
        let stream = connections.recv().await.expect("a connection");
        answer(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").await
    });
    let response = get(&proxy).await;
    assert_eq!(response.status(), 200);
    write(&mut backend.await.expect("a calm backend"), "k").await;
    assert_eq!(body(response).await, "ok");
}

/// A second answer must never become the answer to somebody else's request.
#[tokio::test]
async fn what_nobody_asked_for_ends_the_connection() {
    let (proxy, mut connections) = proxy().await;
    let backend = tokio::spawn(async move {
        let stream = connections.recv().await.expect("a connection");
        let doubled = answer(stream, &[SHORT, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"].concat()).await;
        let stream = connections.recv().await.expect("another connection");
        (doubled, answer(stream, SHORT).await, connections)
    });
    assert_eq!(body(get(&proxy).await).await, "ok");
    assert_eq!(body(get(&proxy).await).await, "ok");
    until_idle(&proxy, 1).await;
    let (_doubled, mut late, mut connections) = backend.await.expect("a calm backend");
    // The same, when it comes later.
    write(&mut late, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen").await;
    until_idle(&proxy, 0).await;
    let backend = tokio::spawn(async move { answer(connections.recv().await.expect("a third"), SHORT).await });
    assert_eq!(body(get(&proxy).await).await, "ok");
    backend.await.expect("a calm backend");
}
