//! One process follows another, and something is under TLS, which cannot be handed over: it lives on in the old process for a while,
//! or is told to come back. Enters: clients and backends under TLS. Leaves: what becomes of them. Must not touch: what is not encrypted.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::frames::{DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, frame, request};
use super::{Authority, Pair};
use crate::handover::rows::{Line, ROADS, Road, ended, hear, hear_close, speak};
use crate::support::plain::Line as Bytes;
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, resolved, soon};

type Secured = WebSocketStream<TlsStream<TcpStream>>;

/// A backend behind TLS, whose side the test plays.
async fn secured(pair: &Pair) -> (SocketAddr, mpsc::UnboundedReceiver<Secured>) {
    let acceptor = TlsAcceptor::from(pair.server(None, &[]));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("an address");
    let (sender, sockets) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(socket).await else { continue };
            let ws = tokio_tungstenite::accept_async(stream).await.expect("a handshake");
            let _ = sender.send(ws);
        }
    });
    (at, sockets)
}

async fn next(sockets: &mut mpsc::UnboundedReceiver<Secured>) -> Secured {
    soon("a connection to the backend", sockets.recv()).await.expect("it lives")
}

/// A sidecar in front of a backend behind TLS.
async fn before_tls(road: Road, folder: &Scratch, linger: &str) -> (Line, mpsc::UnboundedReceiver<Secured>) {
    let authority = Authority::new();
    let (at, sockets) = secured(&authority.issue("localhost")).await;
    let ca = folder.file("ca.pem", &authority.pem());
    let text = format!(
        "listen = \"127.0.0.1:0\"\nupstream = \"wss://localhost:{}\"\nca = \"{}\"\nhandover.linger = \"{linger}\"\n",
        at.port(),
        ca.display()
    );
    (Line::start(road, &text).await, sockets)
}

/// A sidecar that is reached by TLS, and by whom its certificate is signed.
async fn behind_tls(road: Road, folder: &Scratch, backend: SocketAddr) -> (Line, Authority) {
    let authority = Authority::new();
    let files = authority.issue("localhost").files(folder);
    let text = format!(
        "upstream = \"ws://{backend}\"\nhandover.linger = \"2s\"\n[[listener]]\naddress = \"127.0.0.1:0\"\ncertificate = \
         \"{}\"\nkey = \"{}\"\n",
        files.certificate.display(),
        files.key.display()
    );
    (Line::start(road, &text).await, authority)
}

async fn connect(authority: &Authority, at: SocketAddr, alpn: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
    let socket = TcpStream::connect(at).await.expect("it listens");
    soon("TLS", authority.connect(socket, &[alpn])).await.expect("TLS")
}

#[tokio::test]
async fn a_client_of_http_1_1_is_told_to_come_back_and_resumes() {
    for road in ROADS {
        let (mut backend, folder) = (Backend::start().await, Scratch::new("over-h1"));
        let (mut line, authority) = behind_tls(road, &folder, backend.at).await;
        let mut client = Bytes(connect(&authority, line.site.at, "http/1.1").await);
        client.say("POST /chat?underpass=open HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
        let (_, body) = client.answer().await;
        let url = resolved("/chat", &serde_json::from_str::<Value>(&body).expect("JSON")["session"]);
        let mut socket = backend.accept().await;
        let mut reading = Bytes(connect(&authority, line.site.at, "http/1.1").await);
        reading.say(format!("GET {url}/sse HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        reading.until("event: session\n").await;
        line.next().await;
        // Both end as TLS ends: cut, they would be errors.
        assert!(client.rest().await.is_empty(), "{road:?}");
        let rest = String::from_utf8(reading.rest().await).expect("UTF-8");
        assert!(rest.contains("event: reconnect\n") && rest.ends_with("0\r\n\r\n"), "{road:?}: {rest}");
        socket.send("one").await;
        let mut again = Bytes(connect(&authority, line.site.at, "http/1.1").await);
        again.say(format!("GET {url}/poll?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert!(again.answer().await.1.contains("[\"one\"]"), "{road:?}");
        assert!(backend.try_accept().is_none());
    }
}

#[tokio::test]
async fn a_client_of_http_2_is_told_to_go_and_resumes() {
    for road in ROADS {
        let (mut backend, folder) = (Backend::start().await, Scratch::new("over-h2"));
        let (mut line, authority) = behind_tls(road, &folder, backend.at).await;
        let mut client = Frames::begin(connect(&authority, line.site.at, "h2").await, &[]).await;
        client.say(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("POST", "/chat?underpass=open"))).await;
        let url = resolved("/chat", &body(&mut client, 1).await["session"]);
        let mut socket = backend.accept().await;
        // It waits when the process moves.
        client.say(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &request("GET", &format!("{url}/poll?after=0")))).await;
        line.next().await;
        let (mut told_to_go, mut answered) = (false, false);
        while let Some(came) = client.next_of(&[GOAWAY, DATA]).await {
            told_to_go |= came.kind == GOAWAY && came.code() == 0;
            answered |= came.kind == DATA && came.ends_stream();
        }
        assert!(told_to_go && answered, "{road:?}: GOAWAY {told_to_go}, an answer {answered}");
        socket.send("one").await;
        let mut again = Frames::begin(connect(&authority, line.site.at, "h2").await, &[]).await;
        again.say(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", &format!("{url}/poll?after=0")))).await;
        assert_eq!(body(&mut again, 1).await["messages"], json!(["one"]), "{road:?}");
    }
}

/// The body of the answer on this stream.
async fn body(client: &mut Frames, stream: u32) -> Value {
    let mut bytes = Vec::new();
    while let Some(came) = client.next_of(&[DATA]).await {
        assert_eq!(came.stream, stream);
        bytes.extend(&came.payload);
        if came.ends_stream() {
            break;
        }
    }
    serde_json::from_slice(&bytes).expect("JSON")
}

#[tokio::test]
async fn a_wss_backend_lives_on_in_the_old_process_until_its_time_is_over() {
    let folder = Scratch::new("over-wss");
    let (mut line, mut sockets) = before_tls(Road::TakeOver, &folder, "6s").await;
    let opened = line.site.open("/").await;
    let mut backend = next(&mut sockets).await;
    speak(&line.site, &opened.url, &mut backend, 1).await;
    let mut first = line.go_over().await;
    speak(&line.site, &opened.url, &mut backend, 2).await;
    // What stands for the connection is bare, and goes on as any other while the first process still pumps.
    line.next().await;
    speak(&line.site, &opened.url, &mut backend, 3).await;
    assert_eq!(hear_close(&mut backend).await, 1001);
    assert_eq!(ended(&line.site, &opened.url, 3).await["code"], 1012);
    assert_eq!(first.exits().await, 0, "{:#?}", first.lines);
    assert!(first.lines.iter().any(|line| line.contains("ending what could not be handed over")), "{:#?}", first.lines);
}

#[tokio::test]
async fn wss_backends_end_with_a_restart_and_the_log_has_their_number() {
    let folder = Scratch::new("over-wss-restart");
    let (mut line, mut sockets) = before_tls(Road::Restart, &folder, "30s").await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push((line.site.open("/").await, next(&mut sockets).await));
    }
    let mut page = line.site.websocket("/", &[]).await;
    let mut tunnel = next(&mut sockets).await;
    let (closes, before) = tokio::join!(
        async {
            let mut closes = vec![hear_close(&mut tunnel).await, hear_close(&mut page).await];
            for (_, backend) in &mut all {
                closes.push(hear_close(backend).await);
            }
            closes
        },
        line.go_over()
    );
    // Behind the tunnel is a server that its client leaves.
    assert_eq!(closes, [1001, 1012, 1012, 1012, 1012], "{:#?}", before.lines);
    for (opened, _) in &all {
        assert_eq!(ended(&line.site, &opened.url, 0).await["code"], 1012);
    }
    let said: Vec<_> = before.lines.iter().filter(|line| line.contains("cannot be handed over")).collect();
    assert_eq!(said.len(), 1, "{:#?}", before.lines);
    assert!(said[0].contains("\"sessions\":3") && said[0].contains("\"tunnels\":1"), "{}", said[0]);
}

#[tokio::test]
async fn a_tunnel_of_a_client_under_tls_lives_until_its_time_is_over() {
    for road in ROADS {
        let (mut backend, folder) = (Backend::start().await, Scratch::new("over-tunnel"));
        let (mut line, authority) = behind_tls(road, &folder, backend.at).await;
        let stream = connect(&authority, line.site.at, "http/1.1").await;
        let (mut page, _) = client_async("wss://localhost/", stream).await.expect("a handshake");
        let mut tunnel = backend.accept().await;
        let ends = async |tunnel: &mut crate::support::site::BackendSocket, page: &mut WebSocketStream<_>| {
            (tunnel.closed().await.0, hear_close(page).await)
        };
        if road == Road::TakeOver {
            let mut old = line.go_over().await;
            page.send(Message::text("still")).await.expect("it is taken");
            assert_eq!(tunnel.next_text().await, "still");
            tunnel.send("here").await;
            assert_eq!(hear(&mut page).await, Message::text("here"));
            assert_eq!(ends(&mut tunnel, &mut page).await, (1001, 1012));
            while page.next().await.is_some_and(|next| next.is_ok()) {}
            drop((page, tunnel));
            assert_eq!(old.exits().await, 0, "{:#?}", old.lines);
        } else {
            let (codes, _) = tokio::join!(ends(&mut tunnel, &mut page), line.go_over());
            assert_eq!(codes, (1001, 1012));
        }
    }
}
