//! Enters: requests and the heads that backends saw of them. Leaves: responses or named errors. Must not touch: large
//! and broken bodies (see `streaming`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty, Full};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use underpass::config::{Backend, Upstream};
use underpass::http::incoming::IncomingBody;
use underpass::upstream::proxy::{Proxy, ProxyError, Repeated};

use super::support::{PATIENCE, dialer, field, forwarded, front, once, read_head, read_rest, settings, tcp, write};

const SHORT: Duration = Duration::from_millis(50);

fn proxy(upstream: &Upstream, backend: &Backend) -> Proxy {
    Proxy::new(Arc::new(dialer(upstream)), backend)
}

fn get(uri: &str) -> Request<Empty<Bytes>> {
    Request::get(uri).header("host", "app.example").body(Empty::new()).expect("a request")
}

async fn text(response: Response<IncomingBody>) -> String {
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

/// A backend that answers `ok` to the first request and returns the request's head.
async fn witness() -> (Upstream, tokio::task::JoinHandle<String>) {
    once(|mut stream| async move {
        let head = read_head(&mut stream).await;
        write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
        head
    })
    .await
}

#[tokio::test]
async fn a_target_never_changes_where_we_dial() {
    for (uri, line, host) in [
        ("http://evil.example/a%2Fb//c?x=%20&&y", "GET /a%2Fb//c?x=%20&&y HTTP/1.1", "evil.example"),
        ("//evil.example/a", "GET //evil.example/a HTTP/1.1", "app.example"),
        (
            "/a@evil.example:99/;p?q=http://evil.example/",
            "GET /a@evil.example:99/;p?q=http://evil.example/ HTTP/1.1",
            "app.example",
        ),
        ("http://user:pass@evil.example:81?q", "GET /?q HTTP/1.1", "evil.example:81"),
    ] {
        let (upstream, served) = witness().await;
        let response = proxy(&upstream, &settings()).forward(get(uri), &forwarded(), None).await.expect("a response");
        assert_eq!(text(response).await, "ok");
        let head = served.await.expect("a calm backend");
        assert_eq!(head.lines().next(), Some(line));
        assert_eq!(field(&head, "host"), Some(host));
    }
}

#[tokio::test]
async fn connect_is_not_served_and_nothing_is_dialled() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = tcp(listener.local_addr().expect("an address"));
    let request = Request::builder().method(Method::CONNECT).uri("evil.example:443").body(Empty::<Bytes>::new());
    let outcome = proxy(&upstream, &settings()).forward(request.expect("a request"), &forwarded(), None).await;
    assert!(matches!(outcome, Err(ProxyError::Connect)));
    // The listener's queue is in order: our own connection is the first in it.
    let own = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
    let (_, first) = listener.accept().await.expect("a connection");
    assert_eq!(first, own.local_addr().expect("an address"));
}

#[tokio::test]
async fn fields_cross_as_they_should() {
    let (upstream, served) = witness().await;
    let request = Request::post("/a")
        .header("host", "app.example")
        .header("connection", "keep-alive, X-Forwarded-For, Cookie, X-Hop")
        .header("keep-alive", "timeout=5")
        .header("upgrade", "h2c")
        .header("expect", "100-continue")
        .header("te", "trailers")
        .header("x-hop", "1")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x_forwarded_for", "6.6.6.6")
        .header("forwarded", "for=6.6.6.6")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("content-length", "3")
        .body(Full::new(Bytes::from("abc")))
        .expect("a request");
    proxy(&upstream, &settings()).forward(request, &forwarded(), None).await.expect("a response");
    let head = served.await.expect("a calm backend");
    for gone in ["keep-alive", "upgrade", "expect", "x-hop", "x_forwarded_for", "forwarded", "transfer-encoding"] {
        assert_eq!(field(&head, gone), None, "{head}");
    }
    for (name, value) in [
        ("host", "app.example"),
        ("connection", "TE"),
        ("te", "trailers"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "app.example"),
        ("cookie", "a=1; b=2"),
        ("content-length", "3"),
    ] {
        assert_eq!(field(&head, name), Some(value), "{head}");
    }
}

#[tokio::test]
async fn a_response_without_its_hop() {
    let (upstream, _served) = once(|mut stream| async move {
        read_head(&mut stream).await;
        let head = "HTTP/1.0 200 OK\r\nConnection: close, X-Hop, Set-Cookie\r\nX-Hop: 1\r\nKeep-Alive: 1\r\n\
                    Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nuntil the end";
        write(&mut stream, head).await;
    })
    .await;
    let response = proxy(&upstream, &settings()).forward(get("/"), &forwarded(), None).await.expect("a response");
    let headers = response.headers();
    assert_eq!(headers.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["set-cookie"]);
    assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!(text(response).await, "until the end");
}

#[tokio::test]
async fn a_request_without_host_gets_the_backends() {
    let (upstream, served) = witness().await;
    let request = Request::get("/").version(Version::HTTP_2).body(Empty::<Bytes>::new()).expect("a request");
    let dialer = Arc::new(dialer(&upstream));
    Proxy::new(dialer.clone(), &settings()).forward(request, &forwarded(), None).await.expect("a response");
    assert_eq!(field(&served.await.expect("a calm backend"), "host"), Some(dialer.authority()));
}

/// Answers each request on each connection with the number of the connection.
async fn counting() -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = tcp(listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        for number in 1.. {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                // Ends with a panic of its own when the peer is gone; nobody waits for it.
                loop {
                    let head = read_head(&mut stream).await;
                    write(&mut stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}")).await;
                    if head.starts_with("GET /last ") {
                        return;
                    }
                }
            });
        }
    });
    upstream
}

/// Waits for what happens in tasks of the pool.
async fn until(what: impl Fn() -> bool) {
    let reached = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, reached).await.expect("it comes true");
}

#[tokio::test]
async fn connections_are_used_again_and_replaced_when_closed() {
    let proxy = proxy(&counting().await, &settings());
    for (path, connection) in [("/", "1"), ("/", "1"), ("/last", "1"), ("/", "2"), ("/", "2")] {
        let response = proxy.forward(get(path), &forwarded(), None).await.expect("a response");
        assert_eq!(text(response).await, connection, "{path}");
        until(|| proxy.idle() == usize::from(path != "/last")).await;
    }
}

#[tokio::test]
async fn the_pool_is_bounded_in_number_and_age() {
    let upstream = counting().await;
    let bounded = proxy(&upstream, &Backend { pool: 1, ..settings() });
    let client = forwarded();
    let (first, second) =
        tokio::join!(bounded.forward(get("/"), &client, None), bounded.forward(get("/"), &client, None));
    text(first.expect("a response")).await;
    text(second.expect("a response")).await;
    until(|| bounded.idle() == 1).await;

    let aging = proxy(&upstream, &Backend { idle: SHORT, ..settings() });
    text(aging.forward(get("/"), &forwarded(), None).await.expect("a response")).await;
    until(|| aging.idle() == 1).await;
    // Without another request.
    until(|| aging.idle() == 0).await;
}

/// A backend whose first connection ends as its second request comes, `early` having been said; the next ones are fine.
async fn giving_up(early: &'static str) -> (Upstream, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = tcp(listener.local_addr().expect("an address"));
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        for connection in 1.. {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            for request in 1..=2 {
                read_head(&mut stream).await;
                counted.fetch_add(1, Ordering::Relaxed);
                if (connection, request) == (1, 2) {
                    write(&mut stream, early).await;
                    break;
                }
                write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    });
    (upstream, asked)
}

#[tokio::test]
async fn a_request_on_a_connection_that_has_just_ended_is_made_again_if_it_is_safe_and_without_a_body() {
    for (method, body, early, is_repeated) in [
        (Method::GET, "", "", true),
        // By hyper, as everything but a GET is.
        (Method::HEAD, "", "", true),
        (Method::OPTIONS, "", "", true),
        (Method::POST, "x", "", false),
        (Method::POST, "", "", false),
        (Method::DELETE, "", "", false),
        (Method::GET, "x", "", false),
        // A byte of a response has come.
        (Method::GET, "", "H", false),
        (Method::HEAD, "", "H", false),
    ] {
        let (upstream, asked) = giving_up(early).await;
        let proxy = proxy(&upstream, &settings());
        let request = |method: &Method, body: &'static str| {
            let body = Full::new(Bytes::from_static(body.as_bytes()));
            Request::builder().method(method).uri("/").header("host", "a").body(body).expect("a request")
        };
        // One of hyper's is wanted for what goes by hyper.
        let first = if method == Method::GET && body.is_empty() { Method::GET } else { Method::OPTIONS };
        proxy.forward(request(&first, ""), &forwarded(), None).await.expect("a response");
        until(|| proxy.idle() == 1).await;
        let outcome = proxy.forward(request(&method, body), &forwarded(), None).await;
        let what = format!("{method} {body:?} {early:?}");
        match outcome {
            Ok(response) => {
                assert!(is_repeated, "{what}");
                assert!(response.extensions().get::<Repeated>().is_some(), "{what}");
            }
            Err(ProxyError::Dropped { .. }) => assert!(!is_repeated, "{what}"),
            Err(error) => panic!("{what}: {error:?}"),
        }
        assert_eq!(asked.load(Ordering::Relaxed), if is_repeated { 3 } else { 2 }, "{what}");
    }
}

#[tokio::test]
async fn a_backend_that_floods_interim_responses_is_cut_and_one_that_sends_some_is_not() {
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
    let (upstream, _) = once(move |mut stream| async move {
        read_head(&mut stream).await;
        write(&mut stream, &(hint.repeat(50) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")).await;
    })
    .await;
    let response = proxy(&upstream, &settings()).forward(get("/"), &forwarded(), None).await.expect("a response");
    assert_eq!(response.status(), StatusCode::OK);

    let (upstream, served) = once(move |mut stream| async move {
        read_head(&mut stream).await;
        while stream.write_all(hint.as_bytes()).await.is_ok() {}
    })
    .await;
    let error = proxy(&upstream, &settings()).forward(get("/"), &forwarded(), None).await.expect_err("it is cut");
    assert!(matches!(error, ProxyError::Dropped { .. }), "{error:?}");
    assert!(format!("{:?}", error).contains("interim"), "{error:?}");
    timeout(PATIENCE, served).await.expect("its connection is closed").expect("a calm backend");
}

#[tokio::test]
async fn kept_connections_grow_old() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = tcp(listener.local_addr().expect("an address"));
    let proxy = proxy(&upstream, &Backend { max_age: SHORT, ..settings() });
    let served = tokio::spawn(async move {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            read_head(&mut stream).await;
            write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            // Nothing more comes by this one.
            assert_eq!(read_rest(&mut stream).await, "");
        }
    });
    proxy.forward(get("/"), &forwarded(), None).await.expect("a response");
    until(|| proxy.idle() == 1).await;
    tokio::time::sleep(SHORT).await;
    let response = proxy.forward(get("/"), &forwarded(), None).await.expect("a response");
    assert!(response.extensions().get::<Repeated>().is_none(), "it is no second try");
    drop(proxy);
    served.await.expect("two connections");
}

#[tokio::test]
async fn a_silent_backend_is_given_up_and_its_connection_closed() {
    let (upstream, served) = once(|mut stream| async move {
        read_head(&mut stream).await;
        read_rest(&mut stream).await
    })
    .await;
    let proxy = proxy(&upstream, &Backend { response: SHORT, ..settings() });
    let error = proxy.forward(get("/"), &forwarded(), None).await.expect_err("no answer");
    assert!(matches!(error, ProxyError::Timeout { after: SHORT, .. }), "{error:?}");
    timeout(PATIENCE, served).await.expect("a closed connection").expect("a calm backend");
}

#[tokio::test]
async fn switching_protocols_unasked_is_an_error() {
    let (upstream, served) = once(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nsecret";
        write(&mut stream, answer).await;
        read_rest(&mut stream).await;
        head
    })
    .await;
    let request =
        Request::get("/").header("connection", "upgrade").header("upgrade", "h2c").body(Empty::<Bytes>::new());
    let proxy = proxy(&upstream, &settings());
    let error = proxy.forward(request.expect("a request"), &forwarded(), None).await.expect_err("no response");
    assert!(matches!(error, ProxyError::Switched { .. }), "{error:?}");
    let head = timeout(PATIENCE, served).await.expect("a closed connection").expect("a calm backend");
    assert_eq!(field(&head, "upgrade"), None);
}

/// What a client on a bare socket reads for one request through hyper's server and the proxy.
async fn through(request: &str, answer: &'static str) -> String {
    let (upstream, served) = once(move |mut stream| async move {
        read_head(&mut stream).await;
        write(&mut stream, answer).await;
        read_rest(&mut stream).await;
    })
    .await;
    let mut client = TcpStream::connect(front(proxy(&upstream, &settings())).await).await.expect("a front");
    write(&mut client, request).await;
    let answer = timeout(PATIENCE, read_rest(&mut client)).await.expect("an end");
    drop(served);
    answer
}

#[tokio::test]
async fn head_and_not_modified_keep_their_length_and_have_no_body() {
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = through(head, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: \"x\"\r\n\r\n").await;
    assert_eq!(field(&answer, "content-length"), Some("1000"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    let unknown = through(head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(field(&unknown, "content-length"), None, "{unknown}");

    let conditional = "GET / HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"x\"\r\nConnection: close\r\n\r\n";
    let answer = through(conditional, "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 1000\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 304 "), "{answer}");
    assert_eq!(field(&answer, "etag"), Some("\"x\""));
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn the_body_decides_on_its_length() {
    let (upstream, served) = witness().await;
    let request = Request::post("/").header("content-length", "3").header("content-length", "30");
    let request = request.body(Full::new(Bytes::from("abc"))).expect("a request");
    proxy(&upstream, &settings()).forward(request, &forwarded(), None).await.expect("a response");
    let head = served.await.expect("a calm backend").to_lowercase();
    assert_eq!((head.matches("content-length").count(), field(&head, "content-length")), (1, Some("3")), "{head}");

    // A body that does not know its length, whatever the field says.
    let (upstream, served) = witness().await;
    let body = Full::new(Bytes::from("abc")).map_frame(|frame| frame);
    let request = Request::post("/").header("content-length", "30").body(body).expect("a request");
    proxy(&upstream, &settings()).forward(request, &forwarded(), None).await.expect("a response");
    let head = served.await.expect("a calm backend");
    assert_eq!(field(&head, "content-length"), None, "{head}");
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");

    let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let both = "HTTP/1.1 200 OK\r\nContent-Length: 90\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let answer = through(get, both).await;
    assert_eq!(field(&answer, "content-length"), None, "{answer}");
    assert!(answer.ends_with("2\r\nok\r\n0\r\n\r\n"), "{answer}");
    let differing = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk";
    let answer = through(get, differing).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[tokio::test]
async fn ranges_are_the_backends_affair() {
    let range = "GET / HTTP/1.1\r\nHost: a\r\nRange: bytes=2-3\r\nConnection: close\r\n\r\n";
    let partial = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-3/9\r\nContent-Length: 2\r\n\r\nab";
    let answer = through(range, partial).await;
    assert!(answer.starts_with("HTTP/1.1 206 ") && answer.ends_with("\r\n\r\nab"), "{answer}");
    assert_eq!(field(&answer, "content-range"), Some("bytes 2-3/9"));
}

#[tokio::test]
async fn informational_responses_are_left_out() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let answer = through("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", early).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{answer}");
}

#[tokio::test]
async fn an_old_client_gets_an_old_answer() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let answer = through("GET / HTTP/1.0\r\nHost: a\r\n\r\n", chunked).await;
    assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[tokio::test]
async fn errors_have_a_status_of_their_own() {
    let (upstream, _served) = once(drop_at_once).await;
    let outcome = proxy(&upstream, &settings()).forward(get("/"), &forwarded(), None).await;
    assert!(matches!(outcome, Err(ProxyError::Dropped { .. })), "{:?}", outcome.map(|answer| answer.status()));
    let answer = through("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "no HTTP at all\r\n\r\n").await;
    assert!(answer.starts_with(&format!("HTTP/1.1 {}", StatusCode::BAD_GATEWAY.as_u16())), "{answer}");
}

async fn drop_at_once(stream: TcpStream) {
    drop(stream);
}
