//! The listener against real sockets: deadlines, bounds, drain, exhaustion. Must not touch: fixed ports.

mod by_hyper;
pub(crate) mod edge;
mod given;
mod memory;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream as StdStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::{Request, Response};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use underpass::config::{Address, Client, Trusted};
use underpass::http::body::Body;
use underpass::http::incoming::IncomingBody;
use underpass::lifecycle::Phase;
use underpass::listener::peer::{ConnInfo, Peer, PeerAddr};

use self::edge::{Edge, FOREVER, client, ok, one_ok, rest};

const SHORT: Duration = Duration::from_millis(150);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

// === deadlines ===

#[tokio::test]
async fn a_silent_connection_ends() {
    let edge = Edge::tcp(Client { handshake: SHORT, ..client() }, None, ok);
    let start = Instant::now();
    assert_eq!(edge.throw(b"").await, "");
    assert!(start.elapsed() >= SHORT);
}

#[tokio::test]
async fn a_header_must_end_in_time_however_it_drips() {
    let edge = Edge::tcp(Client { header: SHORT, ..client() }, None, ok);
    let (mut read, mut write) = edge.connect().await.into_split();
    let drip = tokio::spawn(async move {
        for byte in GET.iter().cycle() {
            if write.write_all(&[*byte | 0x20]).await.is_err() {
                return;
            }
            tokio::time::sleep(SHORT / 8).await;
        }
    });
    let start = Instant::now();
    // A head without an end: no line of it is finished, as 0x0a became 0x2a.
    assert_eq!(rest(&mut read).await, "");
    assert!(start.elapsed() >= SHORT);
    drip.abort();
}

#[tokio::test]
async fn rest_between_requests_and_the_next_header_have_their_own_limits() {
    let limits = Client { handshake: SHORT, idle: 4 * SHORT, header: SHORT, ..client() };
    let edge = Edge::tcp(limits, None, ok);
    let mut stream = edge.connect().await;
    stream.write_all(GET).await.expect("the other end reads");
    one_ok(&mut stream).await;
    tokio::time::sleep(2 * SHORT).await;
    stream.write_all(GET).await.expect("idle is longer than handshake and header");
    one_ok(&mut stream).await;
    let start = Instant::now();
    assert_eq!(rest(&mut stream).await, "");
    assert!(start.elapsed() >= 3 * SHORT, "closed after {:?}", start.elapsed());

    let patient = Edge::tcp(Client { handshake: FOREVER, idle: 2 * FOREVER, header: SHORT, ..client() }, None, ok);
    let mut stream = patient.connect().await;
    stream.write_all(GET).await.expect("the other end reads");
    one_ok(&mut stream).await;
    let start = Instant::now();
    stream.write_all(&GET[..10]).await.expect("the other end reads");
    assert_eq!(rest(&mut stream).await, "");
    assert!(start.elapsed() >= SHORT, "closed after {:?}", start.elapsed());
}

#[tokio::test]
async fn a_long_answer_is_not_cut_by_limits_on_headers() {
    let limits = Client { handshake: SHORT, idle: SHORT, header: SHORT, ..client() };
    let edge = Edge::tcp(limits, None, |request| async {
        tokio::time::sleep(4 * SHORT).await;
        ok(request).await
    });
    let mut stream = edge.connect().await;
    stream.write_all(GET).await.expect("the other end reads");
    one_ok(&mut stream).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped() {
    let endless = |_| async { Response::new(Body::full(vec![b'x'; 64 * 1024 * 1024])) };
    let edge = Edge::tcp(Client { write: SHORT, ..client() }, None, endless);
    let mut stream = edge.connect().await;
    stream.write_all(GET).await.expect("the other end reads");
    stream.readable().await.expect("a live connection");
    timeout(FOREVER, edge.lifecycle.emptied()).await.expect("the connection is still held");
    // Every place is free again.
    assert_eq!(edge.permits.available_permits(), 64);
}

// === HTTP limits ===

#[tokio::test]
async fn headers_are_bounded_in_bytes_and_fields() {
    let edge = Edge::tcp(client(), None, ok);
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(17 * 1024));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: x\r\n".repeat(100));
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(128 * 1024));
    for raw in [long, endless] {
        let answer = edge.throw(raw.as_bytes()).await;
        // hyper closes without having read all, so the answer may be lost to a reset.
        assert!(answer.starts_with("HTTP/1.1 431 ") || answer.is_empty(), "{answer}");
    }
    let answer = edge.throw(many.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let mut stream = edge.connect().await;
    let fits = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(15 * 1024));
    stream.write_all(fits.as_bytes()).await.expect("the other end reads");
    one_ok(&mut stream).await;
}

#[tokio::test]
async fn connections_above_the_bound_wait_for_a_place() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let door = Arc::clone(&gate);
    let gated = move |request| {
        let door = Arc::clone(&door);
        async move {
            door.acquire().await.expect("never closed").forget();
            ok(request).await
        }
    };
    let edge = Edge::tcp(Client { connections: 1, ..client() }, None, gated);
    let mut first = edge.connect().await;
    first.write_all(GET).await.expect("the other end reads");
    let mut second = edge.connect().await;
    second.write_all(GET).await.expect("the other end reads");
    assert!(timeout(2 * SHORT, second.readable()).await.is_err(), "served without a place");
    // The first has its answer, and nothing to do any more: it makes room.
    gate.add_permits(2);
    one_ok(&mut first).await;
    one_ok(&mut second).await;
    assert_eq!(rest(&mut first).await, "");
}

#[tokio::test]
async fn the_connection_that_is_idle_for_longest_makes_room() {
    let edge = Edge::tcp(Client { connections: 3, idle: FOREVER * 10, ..client() }, None, ok);
    // With `TE` a request is left to hyper.
    let mut by_hyper = edge.connect().await;
    by_hyper.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n").await.expect("the other end reads");
    one_ok(&mut by_hyper).await;
    let (mut silent, mut last) = (edge.connect().await, edge.connect().await);
    last.write_all(GET).await.expect("the other end reads");
    one_ok(&mut last).await;
    let mut kept = Vec::new();
    for gone in [&mut by_hyper, &mut silent] {
        let mut new = edge.connect().await;
        new.write_all(GET).await.expect("the other end reads");
        one_ok(&mut new).await;
        assert_eq!(rest(gone).await, "");
        // Idle as well, but younger than those that are left.
        kept.push(new);
    }
    last.write_all(GET).await.expect("the other end reads");
    one_ok(&mut last).await;
}

// === who is there ===

/// Answers with who the client is.
async fn who(request: Request<IncomingBody>) -> Response<Body> {
    let info = request.extensions().get::<ConnInfo>().expect("the listener tells it");
    let peer = Peer::of(info, request.headers(), request.uri().authority(), &Trusted::default());
    let kind = if info.peer == PeerAddr::Unix { "unix" } else { "tcp" };
    let text = format!("{kind} {:?} {} {} {}", peer.client, peer.proto, peer.host, info.bytes.read() > 0);
    Response::new(Body::full(text))
}

#[tokio::test]
async fn requests_know_their_connection_and_unix_sockets_serve() {
    let path = std::env::temp_dir().join(format!("underpass-listener-{}.sock", std::process::id()));
    let _ = fs::remove_file(&path);
    let edge = Edge::run(&Address::Unix(path.clone()), client(), None, who);
    let mut stream = UnixStream::connect(&path).await.expect("somebody listens");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("the other end reads");
    let answer = rest(&mut stream).await;
    assert!(answer.ends_with("\r\n\r\nunix None http a true"), "{answer}");
    fs::remove_file(&path).expect("a writable temporary directory");
    drop(edge);
    let edge = Edge::tcp(client(), None, who);
    let answer = edge.throw(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.ends_with("tcp Some(127.0.0.1) http a true"), "{answer}");
}

// === drain ===

#[tokio::test]
async fn draining_closes_the_listener_and_idle_connections_and_lets_busy_ones_finish() {
    let (entered, mut busy) = mpsc::channel(1);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (door, path) = (Arc::clone(&gate), "/slow");
    let edge = Edge::tcp(client(), None, move |request: Request<IncomingBody>| {
        let (entered, door) = (entered.clone(), Arc::clone(&door));
        async move {
            if request.uri().path() == path {
                entered.send(()).await.expect("the test waits");
                let _ = door.acquire().await.expect("the semaphore is never closed");
            }
            ok(request).await
        }
    });
    let mut idle = edge.connect().await;
    idle.write_all(GET).await.expect("the other end reads");
    one_ok(&mut idle).await;
    let mut slow = edge.connect().await;
    slow.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("the other end reads");
    busy.recv().await.expect("the request arrives");

    edge.lifecycle.advance(Phase::Withdrawn);
    let mut late = edge.connect().await;
    late.write_all(GET).await.expect("the other end reads");
    one_ok(&mut late).await;

    edge.lifecycle.advance(Phase::Draining);
    timeout(FOREVER, edge.serving).await.expect("it ends in time").expect("the task does not panic");
    let Address::Tcp(at) = edge.at else { unreachable!("bound to TCP") };
    assert!(TcpStream::connect(at).await.is_err(), "the listener is still open");
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(rest(&mut late).await, "");
    assert_eq!(edge.lifecycle.alive().connections, 1);
    gate.add_permits(1);
    let answer = rest(&mut slow).await.to_ascii_lowercase();
    assert!(answer.contains("connection: close") && answer.ends_with("ok"), "{answer}");
    timeout(FOREVER, edge.lifecycle.emptied()).await.expect("all leave in time");
}

#[tokio::test]
async fn closing_ends_what_does_not_end_by_itself() {
    let edge = Edge::tcp(client(), None, |_| std::future::pending());
    let mut stream = edge.connect().await;
    stream.write_all(GET).await.expect("the other end reads");
    assert!(timeout(SHORT, stream.readable()).await.is_err());
    edge.lifecycle.advance(Phase::Draining);
    assert!(timeout(SHORT, stream.readable()).await.is_err());
    edge.lifecycle.advance(Phase::Closing);
    assert_eq!(rest(&mut stream).await, "");
    timeout(FOREVER, edge.lifecycle.emptied()).await.expect("all leave in time");
}

#[tokio::test]
async fn an_upgraded_connection_is_counted_until_its_socket_ends() {
    let edge = Edge::tcp(client(), None, |_request: Request<IncomingBody>| async move {
        let echo = Body::upgrade(|stream| async move {
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
        response.body(echo).expect("sound parts")
    });
    let mut stream = edge.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nok")
        .await
        .expect("the other end reads");
    let answer = one_ok(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert_eq!((edge.lifecycle.alive().connections, edge.permits.available_permits()), (1, 63));
    drop(stream);
    timeout(FOREVER, edge.lifecycle.emptied()).await.expect("all leave in time");
    assert_eq!(edge.permits.available_permits(), 64);
}

// === exhaustion ===

/// Run with few file descriptors by [`too_many_open_files_are_survived`]: serves until its input ends.
#[tokio::test]
async fn child_serves_with_few_files() {
    if std::env::var_os("UNDERPASS_LISTENER_CHILD").is_none() {
        return;
    }
    let edge = Edge::tcp(client(), None, ok);
    println!("\nport {}", edge.port().port());
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
        .await
        .expect("the task does not panic")
        .expect("an input that ends");
}

#[test]
fn too_many_open_files_are_survived() {
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 32 && exec \"$0\" --exact listener::child_serves_with_few_files --nocapture"])
        .arg(std::env::current_exe().expect("a running program has a file"))
        .env("UNDERPASS_LISTENER_CHILD", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a piped output")).lines().map_while(Result::ok);
    let port: u16 = lines.find_map(|line| line.strip_prefix("port ")?.parse().ok()).expect("the child says its port");
    let asked = || {
        let mut stream = StdStream::connect(("127.0.0.1", port)).expect("somebody listens");
        stream.write_all(GET).expect("the other end reads");
        stream
    };
    let answers = |stream: &mut StdStream, patience| {
        stream.set_read_timeout(Some(patience)).expect("an open socket");
        stream.read(&mut [0; 512]).is_ok_and(|length| length > 0)
    };
    let mut crowd: Vec<_> = (0..48).map(|_| asked()).collect();
    let served = crowd.iter_mut().map(|stream| answers(stream, SHORT * 4)).take_while(|served| *served).count();
    assert!((1..40).contains(&served), "{served} were served: the files were not exhausted");
    drop(crowd);
    assert!(answers(&mut asked(), FOREVER), "the listener did not recover");
    drop(child.stdin.take());
    assert!(child.wait().expect("a child of ours").success());
}
