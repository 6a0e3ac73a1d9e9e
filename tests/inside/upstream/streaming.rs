//! Enters: large, slow and broken bodies. Leaves: the same bytes with bounded memory, or a cut that both ends can see.
//! Must not touch: heads (see `proxying`).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use underpass::config::{Backend, Endpoint, Upstream};
use underpass::upstream::proxy::{Proxy, ProxyError};

use super::support::{PATIENCE, dialer, field, forwarded, front, once, read_head, read_rest, settings, write};
use crate::support::scratch::Scratch;

const PIECE: usize = 64 * 1024;
const WHOLE: usize = 64 * 1024 * 1024;
/// Two socket buffers, hyper's buffers on both sides and a few pieces; far below the whole.
const MOST: usize = 2 * 1024 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn proxy(upstream: &Upstream, backend: &Backend) -> Proxy {
    Proxy::new(Arc::new(dialer(upstream)), backend)
}

/// What is between the two ends: made at one, not yet taken at the other.
#[derive(Default)]
struct Flight {
    made: AtomicUsize,
    taken: AtomicUsize,
    most: AtomicUsize,
}

impl Flight {
    fn make(&self, bytes: usize) {
        let made = self.made.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.most.fetch_max(made - self.taken.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    fn take(&self, bytes: usize) {
        self.taken.fetch_add(bytes, Ordering::SeqCst);
    }
}

/// A body of `WHOLE` bytes that makes each piece when it is asked for.
struct Source(Arc<Flight>);

impl Body for Source {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.made.load(Ordering::SeqCst) == WHOLE {
            return Poll::Ready(None);
        }
        self.0.make(PIECE);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![7; PIECE])))))
    }
}

/// Takes a body, slower than it could be made.
async fn drain<B: Body<Data = Bytes> + Unpin>(mut body: B, flight: &Flight)
where
    B::Error: std::fmt::Debug,
{
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.expect("a whole body").into_data() {
            assert!(data.iter().all(|byte| *byte == 7));
            flight.take(data.len());
            tokio::task::yield_now().await;
        }
    }
}

/// A backend on a unix socket (small buffers): takes the request's body, then answers with a large one.
fn large(up: Arc<Flight>, down: Arc<Flight>, scratch: &Scratch) -> Upstream {
    let path = scratch.path("backend.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let service = service_fn(move |request: Request<Incoming>| {
            let (up, down) = (up.clone(), down.clone());
            async move {
                drain(request.into_body(), &up).await;
                Ok::<_, Infallible>(Response::new(Source(down)))
            }
        });
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
    });
    Upstream { endpoint: Endpoint::Unix(path), tls: None }
}

#[tokio::test]
async fn large_bodies_stream_both_ways_in_little_memory() {
    let (scratch, up, down) = (Scratch::new("upstream"), Arc::new(Flight::default()), Arc::new(Flight::default()));
    let proxy = proxy(&large(up.clone(), down.clone(), &scratch), &settings());
    let request = Request::post("/").body(Source(up.clone())).expect("a request");
    let response = proxy.forward(request, &forwarded(), None).await.expect("a response");
    drain(response.into_body(), &down).await;
    for flight in [up, down] {
        assert_eq!(flight.taken.load(Ordering::SeqCst), WHOLE);
        let most = flight.most.load(Ordering::SeqCst);
        assert!(most <= MOST, "{most} bytes were under way at once");
    }
}

/// A body that a test feeds.
struct Fed(mpsc::Receiver<Result<Frame<Bytes>, BoxError>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx)
    }
}

fn fed() -> (mpsc::Sender<Result<Frame<Bytes>, BoxError>>, Fed) {
    let (feed, body) = mpsc::channel(4);
    (feed, Fed(body))
}

fn data(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

#[tokio::test]
async fn a_body_that_fails_never_looks_whole_to_the_backend() {
    let (arrived, heard) = oneshot::channel();
    let (upstream, served) = once(|mut stream| async move {
        let head = read_head(&mut stream).await;
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
        let mut chunk = [0; 9];
        stream.read_exact(&mut chunk).await.expect("the first piece");
        arrived.send(chunk).expect("a waiting test");
        read_rest(&mut stream).await
    })
    .await;
    let (feed, body) = fed();
    feed.send(data("half")).await.expect("a reader");
    let feeding = tokio::spawn(async move {
        assert_eq!(&heard.await.expect("a piece at the backend"), b"4\r\nhalf\r\n");
        feed.send(Err("the client went away".into())).await.expect("a reader");
    });
    let request = Request::post("/").body(body).expect("a request");
    let error = proxy(&upstream, &settings()).forward(request, &forwarded(), None).await.expect_err("no response");
    assert!(matches!(error, ProxyError::Body { .. }), "{error:?}");
    feeding.await.expect("a calm client");
    let rest = timeout(PATIENCE, served).await.expect("a closed connection").expect("a calm backend");
    assert_eq!(rest, "", "no ending chunk");
}

#[tokio::test]
async fn a_client_that_leaves_mid_body_cuts_the_backends_connection() {
    let (upstream, served) = once(|mut stream| async move {
        let head = read_head(&mut stream).await;
        (head, read_rest(&mut stream).await)
    })
    .await;
    let mut client = TcpStream::connect(front(proxy(&upstream, &settings())).await).await.expect("a front");
    write(&mut client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    drop(client);
    let (head, body) = timeout(PATIENCE, served).await.expect("a closed connection").expect("a calm backend");
    assert_eq!(field(&head, "content-length"), Some("10"));
    assert!("half".starts_with(&body), "{body:?}");
}

#[tokio::test]
async fn a_client_that_leaves_while_waiting_cuts_the_backends_connection() {
    let (asked, heard) = oneshot::channel();
    let (upstream, served) = once(|mut stream| async move {
        read_head(&mut stream).await;
        asked.send(()).expect("a waiting test");
        read_rest(&mut stream).await
    })
    .await;
    let mut client = TcpStream::connect(front(proxy(&upstream, &settings())).await).await.expect("a front");
    write(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    heard.await.expect("a request at the backend");
    drop(client);
    timeout(PATIENCE, served).await.expect("a closed connection").expect("a calm backend");
}

#[tokio::test]
async fn a_backend_that_is_cut_mid_body_aborts_the_clients_response() {
    for head in ["Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "Content-Length: 10\r\n\r\nhalf"] {
        let (upstream, served) = once(move |mut stream| async move {
            read_head(&mut stream).await;
            write(&mut stream, &format!("HTTP/1.1 200 OK\r\n{head}")).await;
        })
        .await;
        let mut client = TcpStream::connect(front(proxy(&upstream, &settings())).await).await.expect("a front");
        write(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        served.await.expect("a calm backend");
        let answer = timeout(PATIENCE, read_rest(&mut client)).await.expect("a closed connection");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(!answer.contains("0\r\n\r\n"), "{answer}");
        assert_eq!(field(&answer, "content-length").is_some(), head.starts_with("Content-Length"), "{answer}");
    }
}

#[tokio::test]
async fn trailers_cross_both_ways() {
    let (upstream, served) = once(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let mut body = String::new();
        while !body.ends_with("\r\n\r\n") {
            body.push(char::from(stream.read_u8().await.expect("a whole body")));
        }
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Down\r\nConnection: close\r\n\r\n\
                      2\r\nok\r\n0\r\nX-Down: 2\r\n\r\n";
        write(&mut stream, answer).await;
        (head, body)
    })
    .await;
    let mut client = TcpStream::connect(front(proxy(&upstream, &settings())).await).await.expect("a front");
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n\
                   Connection: close, TE\r\n\r\n2\r\nhi\r\n0\r\nX-Up: 1\r\n\r\n";
    write(&mut client, request).await;
    let (head, body) = timeout(PATIENCE, served).await.expect("a request").expect("a calm backend");
    assert_eq!(field(&head, "te"), Some("trailers"));
    assert_eq!(body.to_lowercase(), "2\r\nhi\r\n0\r\nx-up: 1\r\n\r\n");
    let answer = timeout(PATIENCE, read_rest(&mut client)).await.expect("an end");
    assert!(answer.to_lowercase().ends_with("2\r\nok\r\n0\r\nx-down: 2\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn trailers_of_the_backend_are_frames_of_the_body() {
    let (upstream, _served) = once(|mut stream| async move {
        read_head(&mut stream).await;
        write(&mut stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 9\r\n\r\n").await;
    })
    .await;
    let request = Request::get("/").body(Empty::<Bytes>::new()).expect("a request");
    let response = proxy(&upstream, &settings()).forward(request, &forwarded(), None).await.expect("a response");
    let whole = response.into_body().collect().await.expect("a whole body");
    let expected: HeaderMap = [("x-sum".parse().expect("a name"), "9".parse().expect("a value"))].into_iter().collect();
    assert_eq!(whole.trailers(), Some(&expected));
}

#[tokio::test]
async fn a_waiting_client_is_told_to_go_on_and_the_backend_is_not_asked() {
    let (upstream, served) = once(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let mut body = [0; 2];
        stream.read_exact(&mut body).await.expect("a body");
        write(&mut stream, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
        head
    })
    .await;
    let mut client = TcpStream::connect(front(proxy(&upstream, &settings())).await).await.expect("a front");
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    write(&mut client, request).await;
    let first = timeout(PATIENCE, read_head(&mut client)).await.expect("a word");
    assert_eq!(first, "HTTP/1.1 100 Continue\r\n\r\n");
    write(&mut client, "hi").await;
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 204 "));
    assert_eq!(field(&served.await.expect("a calm backend"), "expect"), None);
}

#[tokio::test]
async fn an_answer_may_come_before_the_requests_end() {
    let (upstream, served) = once(|mut stream| async move {
        read_head(&mut stream).await;
        write(&mut stream, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlong")
            .await;
        stream.shutdown().await.expect("a live socket");
        read_rest(&mut stream).await;
    })
    .await;
    let (feed, body) = fed();
    feed.send(data("the first of many")).await.expect("a reader");
    let request = Request::post("/").body(body).expect("a request");
    let response = proxy(&upstream, &settings()).forward(request, &forwarded(), None).await.expect("a response");
    assert_eq!(response.status(), 413);
    assert_eq!(response.into_body().collect().await.expect("a whole body").to_bytes(), "long");
    drop(feed);
    timeout(PATIENCE, served).await.expect("a closed connection").expect("a calm backend");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_the_backends_and_not_the_uploads() {
    // The clock stands still but for waits that nothing else can end: the feeding below is what takes time here.
    let (upstream, served) = once(|mut stream| async move {
        read_head(&mut stream).await;
        let mut body = String::new();
        while !body.ends_with("0\r\n\r\n") {
            body.push(char::from(stream.read_u8().await.expect("a whole body")));
        }
        write(&mut stream, "HTTP/1.1 204 No Content\r\n\r\n").await;
    })
    .await;
    let limits = Backend { response: Duration::from_secs(5), ..settings() };
    let proxy = proxy(&upstream, &limits);
    let (feed, body) = fed();
    let feeding = tokio::spawn(async move {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            feed.send(data("piece")).await.expect("a reader");
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    let request = Request::post("/").body(body).expect("a request");
    let outcome = proxy.forward(request, &forwarded(), None).await;
    feeding.await.expect("a calm client");
    assert_eq!(outcome.expect("an answer").status(), 204);
    served.await.expect("a calm backend");
}

#[tokio::test]
async fn a_backend_that_does_not_take_the_body_is_too_slow() {
    let (done, wait) = oneshot::channel::<()>();
    let (upstream, _served) = once(|mut stream| async move {
        read_head(&mut stream).await;
        // Holds the connection and reads nothing; ends with the test.
        let _ = wait.await;
    })
    .await;
    let proxy = proxy(&upstream, &Backend { response: Duration::from_millis(50), ..settings() });
    let request = Request::post("/").body(Full::new(Bytes::from(vec![7; WHOLE]))).expect("a request");
    let error = proxy.forward(request, &forwarded(), None).await.expect_err("no answer");
    assert!(matches!(error, ProxyError::Timeout { .. }), "{error:?}");
    drop(done);
}
