//! Enters: handshakes with backends of all kinds. Leaves: WebSockets or named errors. Must not touch: TLS (see `tls`).

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use underpass::config::{Backend, Endpoint, Upstream, UpstreamTls};
use underpass::upstream::dial::{DialError, Dialer, Io, Upgraded};

use super::support::{
    PATIENCE, accept_for, dialer, field, handshake, once, read_head, read_rest, secured, settings, tcp, write,
};
use crate::support::scratch::Scratch;

const SHORT: Duration = Duration::from_millis(50);

/// Accepts one WebSocket with tungstenite, which judges the handshake, and sends five bytes back.
pub(crate) async fn echo_once(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut socket = tokio_tungstenite::accept_async(stream).await.expect("a handshake that tungstenite accepts");
    let mut bytes = [0; 5];
    socket.get_mut().read_exact(&mut bytes).await.expect("five bytes");
    socket.get_mut().write_all(&bytes).await.expect("a reader");
    socket.get_mut().flush().await.expect("a reader");
}

/// Sends five bytes over the dialled connection and expects them back.
pub(crate) async fn round_trip(mut upgraded: Upgraded) {
    assert!(upgraded.unread.is_empty());
    upgraded.io.write_all(b"hello").await.expect("a reader");
    upgraded.io.flush().await.expect("a reader");
    let mut bytes = [0; 5];
    timeout(PATIENCE, upgraded.io.read_exact(&mut bytes)).await.expect("in time").expect("five bytes");
    assert_eq!(&bytes, b"hello");
}

#[tokio::test]
async fn tcp_carries_a_websocket() {
    let (upstream, served) = once(echo_once).await;
    let upgraded = dialer(&upstream).upgrade(handshake(), None).await.expect("a WebSocket");
    let Io::Tcp(stream) = &upgraded.io else { panic!("not the bare socket: {:?}", upgraded.io) };
    assert!(stream.nodelay().expect("a live socket"));
    round_trip(upgraded).await;
    served.await.expect("a calm backend");
}

#[tokio::test]
async fn a_unix_socket_carries_a_websocket() {
    let scratch = Scratch::new("upstream");
    let path = scratch.path("backend.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let served = tokio::spawn(async move { echo_once(listener.accept().await.expect("a connection").0).await });
    let upgraded = dialer(&Upstream { endpoint: Endpoint::Unix(path), tls: None })
        .upgrade(handshake(), None)
        .await
        .expect("a WebSocket");
    round_trip(upgraded).await;
    served.await.expect("a calm backend");
}

#[tokio::test]
async fn the_head_is_sent_as_given_and_early_bytes_are_kept() {
    let (upstream, served) = once(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: keep-alive, UPGRADE\r\nUpgrade: WebSocket\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: a\r\nX-Node: 7\r\n\r\n\u{81}",
            accept_for(&head)
        );
        write(&mut stream, &answer).await;
        head
    })
    .await;
    let mut upgraded = dialer(&upstream).upgrade(handshake(), None).await.expect("a WebSocket");
    let head = served.await.expect("a calm backend");
    assert!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{head}");
    // Spelt in the usual case, for backends that compare names by case.
    for line in ["Host: app.example", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"] {
        assert!(head.lines().any(|found| found == line), "{line} in {head}");
    }
    assert_eq!(field(&head, "sec-websocket-protocol"), Some("a"));
    assert_eq!(upgraded.head.headers["x-node"], "7");
    assert_eq!(upgraded.head.headers["sec-websocket-protocol"], "a");
    let mut bytes = upgraded.unread.to_vec();
    upgraded.io.read_to_end(&mut bytes).await.expect("an end");
    assert_eq!(bytes, "\u{81}".as_bytes());
}

#[tokio::test]
async fn a_refusal_comes_with_its_body_as_it_is_written() {
    let (first_seen, wait) = oneshot::channel::<()>();
    let (upstream, served) = once(|mut stream| async move {
        read_head(&mut stream).await;
        let head = "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\nX-Why: origin\r\n\r\n3\r\nno,\r\n";
        write(&mut stream, head).await;
        wait.await.expect("a test that goes on");
        write(&mut stream, "6\r\n never\r\n0\r\n\r\n").await;
    })
    .await;
    let error = dialer(&upstream).upgrade(handshake(), None).await.expect_err("a refusal");
    assert!(error.to_string().contains("403"), "{error}");
    let DialError::Refused { head, mut body } = error else { panic!("{error}") };
    assert_eq!((head.status.as_u16(), &head.headers["x-why"]), (403, &"origin".parse().expect("a value")));
    let first = body.frame().await.expect("a frame").expect("a good one").into_data().expect("data");
    assert_eq!(first, "no,");
    first_seen.send(()).expect("a waiting backend");
    assert_eq!(body.collect().await.expect("an end").to_bytes(), " never");
    served.await.expect("a calm backend");
}

#[tokio::test]
async fn a_101_that_does_not_answer_our_handshake_is_no_websocket() {
    let good = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (fields, named) in [
        (format!("{good}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "does not belong"),
        (format!("{good}Sec-WebSocket-Accept: \r\n"), "does not belong"),
        (good.to_owned(), "no Sec-WebSocket-Accept"),
        ("Connection: Upgrade\r\nUpgrade: h2c\r\nSec-WebSocket-Accept: KEY\r\n".to_owned(), "Upgrade header"),
        ("Connection: close\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: KEY\r\n".to_owned(), "Connection header"),
    ] {
        let (upstream, served) = once(|mut stream| async move {
            let key = accept_for(&read_head(&mut stream).await);
            let fields = fields.replace("KEY", &key);
            write(&mut stream, &format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n")).await;
            read_rest(&mut stream).await
        })
        .await;
        let error = dialer(&upstream).upgrade(handshake(), None).await.expect_err("no WebSocket");
        assert!(matches!(error, DialError::BadHandshake { .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
        let rest = timeout(PATIENCE, served).await.expect("a closed connection").expect("a calm backend");
        assert_eq!(rest, "", "nothing is tunnelled");
    }
}

#[tokio::test]
async fn a_dropped_handshake_is_told_from_a_refused_connection() {
    for answer in ["", "HTTP/1.1 101 Switching", "SSH-2.0-OpenSSH\r\n\r\n"] {
        let (upstream, _served) = once(move |mut stream| async move {
            read_head(&mut stream).await;
            write(&mut stream, answer).await;
        })
        .await;
        let error = dialer(&upstream).upgrade(handshake(), None).await.expect_err("no WebSocket");
        assert!(matches!(error, DialError::Dropped { .. }), "{answer:?}: {error:?}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let error = dialer(&tcp(address)).upgrade(handshake(), None).await.expect_err("nobody there");
    assert!(matches!(error, DialError::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn a_head_that_is_too_long_is_cut_off() {
    let (upstream, served) = once(|mut stream| async move {
        let accept = accept_for(&read_head(&mut stream).await);
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n"
        );
        for number in 0..25 {
            answer.push_str(&format!("X-{number}: {}\r\n", "x".repeat(4000)));
        }
        answer.push_str("\r\n");
        // All but its length is right; it may be cut off while it is written.
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await;
    let error = dialer(&upstream).upgrade(handshake(), None).await.map(drop).expect_err("no WebSocket");
    assert!(matches!(error, DialError::Dropped { .. }), "{error:?}");
    served.await.expect("a calm backend");
}

/// Sends `answer` in pieces of these lengths, `KEY` in it replaced; the dialler's outcome.
async fn answered(answer: &str, piece: usize) -> Result<Upgraded, DialError> {
    let answer = answer.to_owned();
    let (upstream, served) = once(move |mut stream| async move {
        let answer = answer.replace("KEY", &accept_for(&read_head(&mut stream).await));
        stream.set_nodelay(true).expect("a live socket");
        for piece in answer.as_bytes().chunks(piece) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        read_rest(&mut stream).await;
    })
    .await;
    let outcome = timeout(PATIENCE, dialer(&upstream).upgrade(handshake(), None)).await.expect("in time");
    drop(served);
    outcome
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: KEY\r\n\r\n";

#[tokio::test]
async fn an_answer_may_come_in_any_pieces() {
    let long = SWITCH.replace("\r\n\r\n", &format!("\r\nX-Long: {}\r\n\r\nfirst", "x".repeat(9000)));
    let many = SWITCH.replace("\r\n\r\n", &format!("\r\n{}\r\nfirst", "X-Many: x\r\n".repeat(60)));
    let hinted = format!("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{SWITCH}first");
    let bare = SWITCH.replace("\r\n", "\n") + "first";
    for (answer, pieces) in [
        (format!("{SWITCH}first"), &[1, 2, 3, 7, 50, 1000][..]),
        (long, &[999, 5000, 10_000][..]),
        (many, &[1, 100, 1000][..]),
        (hinted, &[1, 30, 1000][..]),
        (bare, &[1, 1000][..]),
    ] {
        for piece in pieces {
            let mut upgraded = answered(&answer, *piece).await.unwrap_or_else(|error| panic!("{piece}: {error}"));
            let mut bytes = upgraded.unread.to_vec();
            while bytes.len() < 5 {
                bytes.push(timeout(PATIENCE, upgraded.io.read_u8()).await.expect("in time").expect("a byte"));
            }
            assert_eq!(bytes, b"first", "{piece} of {answer}");
        }
    }
}

#[tokio::test]
async fn heads_that_are_none_are_dropped_however_they_come() {
    for odd in [
        SWITCH.replace("Upgrade: websocket", "Upgrade:\r\n websocket"),
        SWITCH.replace("Upgrade: websocket", "Upgrade: web\0socket"),
        SWITCH.replace("Upgrade: websocket", "Upgrade: websocket\rX: y"),
        SWITCH.replace("Upgrade: websocket", ": websocket"),
        SWITCH.replace("101", "1010"),
        SWITCH.replace("HTTP/1.1", "HTTP/2.0"),
        SWITCH.replace("\r\n\r\n", &format!("\r\n{}\r\n", "X-Many: x\r\n".repeat(1200))),
        format!("\u{0}{SWITCH}"),
    ] {
        for piece in [1, 10_000] {
            let error = answered(&odd, piece).await.map(drop).expect_err("no WebSocket");
            assert!(matches!(error, DialError::Dropped { .. }), "{odd:?} by {piece}: {error:?}");
        }
    }
}

#[tokio::test]
async fn refusals_keep_their_bodies_in_each_framing_and_in_any_pieces() {
    for (answer, status, body) in [
        ("HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\nno, no", 403, "no, n"),
        (
            "HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n3;x\r\n, n\r\n0\r\nX: y\r\n\r\n",
            403,
            "no, n",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, ""),
        ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 Later\r\nContent-Length: 2\r\n\r\nno", 503, "no"),
        ("HTTP/1.0 101 Switching\r\nContent-Length: 2\r\n\r\n", 0, ""),
    ] {
        for piece in [1, 7, 1000] {
            match answered(answer, piece).await.map(drop).expect_err("no WebSocket") {
                DialError::Refused { head, body: rest } => {
                    assert_eq!(head.status.as_u16(), status, "{answer}");
                    let whole = timeout(PATIENCE, rest.collect()).await.expect("in time").expect("a whole body");
                    assert_eq!(whole.to_bytes(), body, "{answer} by {piece}");
                }
                error => assert!(status == 0 && matches!(error, DialError::BadHandshake { .. }), "{answer}: {error}"),
            }
        }
    }
}

/// It answers at once and closes what it has not read: some of the request cannot be written any more.
#[tokio::test]
async fn an_answer_that_comes_before_the_request_is_read_is_heard() {
    let (upstream, served) = once(|mut stream| async move {
        write(&mut stream, "HTTP/1.1 503 Full\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfull").await;
        read_head(&mut stream).await;
    })
    .await;
    let error = dialer(&upstream).upgrade(handshake(), None).await.map(drop).expect_err("no WebSocket");
    let DialError::Refused { head, body } = error else { panic!("{error:?}") };
    assert_eq!(head.status.as_u16(), 503);
    assert_eq!(body.collect().await.expect("a whole body").to_bytes(), "full");
    served.await.expect("a calm backend");
}

#[tokio::test]
async fn a_silent_backend_is_given_up_and_its_connection_closed() {
    let (upstream, served) = once(|mut stream| async move {
        read_head(&mut stream).await;
        read_rest(&mut stream).await
    })
    .await;
    let dialer = Dialer::new(&upstream, &Backend { handshake: SHORT, ..settings() }).expect("an upstream");
    let error = dialer.upgrade(handshake(), None).await.expect_err("no answer");
    assert!(matches!(error, DialError::HandshakeTimeout { after: SHORT, .. }), "{error:?}");
    timeout(PATIENCE, served).await.expect("a closed connection").expect("a calm backend");
}

#[tokio::test]
async fn the_connect_deadline_covers_tls() {
    let (upstream, _served) = once(|mut stream| async move { read_rest(&mut stream).await }).await;
    let Endpoint::Tcp { host, port } = upstream.endpoint else { unreachable!("once() listens on TCP") };
    let upstream = Upstream { endpoint: Endpoint::Tcp { host, port }, tls: Some(UpstreamTls::default()) };
    let dialer = Dialer::new(&upstream, &Backend { connect: SHORT, ..settings() }).expect("an upstream");
    let error = dialer.upgrade(handshake(), None).await.expect_err("no TLS");
    assert!(matches!(error, DialError::ConnectTimeout { after: SHORT, .. }), "{error:?}");
}

#[tokio::test]
async fn handshakes_under_way_are_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    // Speaks no TLS, so the first handshake keeps its place for the whole connect deadline.
    let upstream = secured("127.0.0.1", address, UpstreamTls::default());
    let bounds = Backend { dials: 1, handshake: SHORT, ..settings() };
    let dialer = Arc::new(Dialer::new(&upstream, &bounds).expect("an upstream"));
    let first = tokio::spawn({
        let dialer = dialer.clone();
        async move { dialer.upgrade(handshake(), None).await.map(drop) }
    });
    let (held, _) = listener.accept().await.expect("the first connection");
    let error = dialer.upgrade(handshake(), None).await.expect_err("no place");
    assert!(matches!(error, DialError::Crowded { most: 1, .. }), "{error:?}");
    drop(held);
    assert!(matches!(first.await.expect("a calm task"), Err(DialError::Tls { .. })));
    // The place is free again: this one gets as far as connecting.
    drop(listener);
    let error = dialer.upgrade(handshake(), None).await.expect_err("nobody there");
    assert!(matches!(error, DialError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn a_full_unix_backlog_is_waited_for() {
    let scratch = Scratch::new("upstream");
    let path = scratch.path("backend.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&socket2::SockAddr::unix(&path).expect("a short path")).expect("a free path");
    socket.listen(0).expect("a listener");
    socket.set_nonblocking(true).expect("a live socket");
    let mut waiting = Vec::new();
    let full = loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    let dialer = dialer(&Upstream { endpoint: Endpoint::Unix(path), tls: None });
    let connected = tokio::spawn(async move { dialer.connect().await.map(drop) });
    tokio::task::yield_now().await;
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket)).expect("a listener");
    for _ in 0..=waiting.len() {
        timeout(PATIENCE, listener.accept()).await.expect("all of them").expect("a connection");
    }
    connected.await.expect("a calm task").expect("a connection");
}
