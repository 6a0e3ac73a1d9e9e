//! The demo server: HTTP/1.1 in front of the conversations in `conversation`.
//!
//! Enters: a listening socket and a future that says when to stop. Leaves: the page, plain-text errors, and WebSockets
//! handed to `conversation`. Must not touch: what is said in a conversation, any other room.
//!
//! Limits: `HTTP_MAX` connections speak HTTP at once (more wait in the kernel's queue), `WEBSOCKETS_MAX` conversations are
//! open at once (more are refused with 503), a request head must arrive within hyper's 30 seconds.

use std::convert::Infallible;
use std::future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::demo::conversation::{self, Conversation, Room};
use crate::demo::response::{FullResponse, first_protocol, handshake_key, page, text, upgrading, with};

/// Conversations open at once.
const WEBSOCKETS_MAX: usize = 1000;
/// Connections that speak HTTP at once.
const HTTP_MAX: usize = 256;
/// How long open conversations may take to end when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server waits after `accept` failed (usually: out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Starts the server on a free port of the loopback interface; it serves until the runtime ends.
///
/// # Errors
/// The system gives no listening socket on 127.0.0.1.
pub async fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(serve(listener, future::pending::<()>()));
    Ok(address)
}

/// Serves connections of this listener until `stop` is ready; then closes the conversations with 1001 and returns, after
/// five seconds at the latest.
pub async fn serve(listener: TcpListener, stop: impl Future) {
    serve_bounded(listener, stop, WEBSOCKETS_MAX).await;
}

async fn serve_bounded(listener: TcpListener, stop: impl Future, websockets: usize) {
    let server = Arc::new(Server {
        room: Room::new(),
        http: Arc::new(Semaphore::new(HTTP_MAX)),
        websockets: Arc::new(Semaphore::new(websockets)),
        tasks: TaskTracker::new(),
        stopping: CancellationToken::new(),
    });
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            _ = &mut stop => break,
            (stream, permit) = server.accept(&listener) => {
                server.tasks.spawn(Arc::clone(&server).connection(stream, permit));
            }
        }
    }
    drop(listener);
    server.stopping.cancel();
    server.tasks.close();
    // An error means that a peer did not close in time; its task ends with the runtime.
    let _ = tokio::time::timeout(STOP_TIMEOUT, server.tasks.wait()).await;
}

/// What all connections share.
struct Server {
    room: Room,
    http: Arc<Semaphore>,
    websockets: Arc<Semaphore>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Server {
    /// The next connection, once the limit allows one more. Cancel-safe: a permit without a connection is given back.
    async fn accept(&self, listener: &TcpListener) -> (TcpStream, Option<OwnedSemaphorePermit>) {
        // `None` would mean a closed semaphore; this one is never closed.
        let permit = Arc::clone(&self.http).acquire_owned().await.ok();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return (stream, permit),
                Err(error) => {
                    tracing::debug!(%error, "the demo server cannot accept a connection; it waits and tries again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Speaks HTTP until the peer leaves, upgrades, or the server stops; `_permit` counts it among the connections that do.
    async fn connection(self: Arc<Self>, stream: TcpStream, _permit: Option<OwnedSemaphorePermit>) {
        // Small messages should be sent at once. Without it they are only later, so an error does not matter.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| future::ready(Ok::<_, Infallible>(self.respond(request))));
        let http = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        let mut http = pin!(http.with_upgrades());
        let done = tokio::select! {
            done = http.as_mut() => done,
            () = self.stopping.cancelled() => {
                http.as_mut().graceful_shutdown();
                http.await
            }
        };
        if let Err(error) = done {
            tracing::debug!(%error, "a connection to the demo server broke");
        }
    }

    fn respond(self: &Arc<Self>, request: Request<Incoming>) -> FullResponse {
        match Conversation::parse(request.uri().path(), request.uri().query().unwrap_or_default()) {
            Ok(Some(conversation)) => self.upgrade(request, conversation),
            Ok(None) => page(&request),
            Err(error) => text(StatusCode::BAD_REQUEST, error),
        }
    }

    /// Completes the opening handshake (RFC 6455, section 4.2) and runs the conversation in a task of its own.
    fn upgrade(self: &Arc<Self>, mut request: Request<Incoming>, conversation: Conversation) -> FullResponse {
        let Some(key) = handshake_key(&request) else {
            let response = text(StatusCode::UPGRADE_REQUIRED, "this path speaks WebSocket (version 13) only");
            return upgrading(response);
        };
        let accept = derive_accept_key(key.as_bytes());
        let Ok(permit) = Arc::clone(&self.websockets).try_acquire_owned() else {
            let response =
                text(StatusCode::SERVICE_UNAVAILABLE, "the demo server holds as many conversations as it can");
            return with(response, RETRY_AFTER, HeaderValue::from_static("5"));
        };
        let mut response = upgrading(Response::new(Full::default()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        if let Ok(accept) = HeaderValue::try_from(accept) {
            response = with(response, SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = first_protocol(request.headers()) {
            response = with(response, SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let upgrade = hyper::upgrade::on(&mut request);
        self.tasks.spawn(Arc::clone(self).converse(upgrade, conversation, permit));
        response
    }

    /// Runs one conversation; `_permit` counts it among the open ones until it ends.
    async fn converse(
        self: Arc<Self>,
        upgrade: hyper::upgrade::OnUpgrade,
        conversation: Conversation,
        _permit: OwnedSemaphorePermit,
    ) {
        let Ok(upgraded) = upgrade.await else {
            tracing::debug!("a peer of the demo server left during the handshake");
            return;
        };
        let io = TokioIo::new(upgraded);
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(conversation::limits())).await;
        let stopped = tokio::select! {
            () = self.stopping.cancelled() => true,
            () = conversation.run(&mut socket, &self.room) => false,
        };
        if stopped {
            conversation::close(&mut socket, conversation::frame(CloseCode::Away, "the demo server stops")).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;
    use tokio::sync::oneshot;
    use tokio_tungstenite::client_async;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    use tokio_tungstenite::tungstenite::{Error, Message};

    use super::*;
    use crate::demo::PAGE;

    type Client = WebSocketStream<TcpStream>;

    async fn dial(address: SocketAddr, target: &str) -> Client {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        client_async(format!("ws://{address}{target}"), stream).await.expect("the server upgrades").0
    }

    async fn next(client: &mut Client) -> Message {
        client.next().await.expect("the conversation goes on").expect("the message is well-formed")
    }

    async fn next_json(client: &mut Client) -> Value {
        serde_json::from_str(next(client).await.to_text().expect("the message is text")).expect("the text is JSON")
    }

    async fn next_close(client: &mut Client) -> (u16, String) {
        loop {
            if let Message::Close(frame) = next(client).await {
                let frame = frame.expect("the close has a code");
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }

    async fn plain(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("the server listens");
        let request = format!("{head}\r\nHost: demo\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("the server answers");
        response
    }

    #[tokio::test]
    async fn echo_gives_back_text_and_bytes() {
        let mut client = dial(start().await.expect("a free port"), "/echo").await;
        for message in [Message::text("grüße\r\n"), Message::binary(vec![0, 255, 10]), Message::text("")] {
            client.send(message.clone()).await.expect("the server reads");
            assert_eq!(next(&mut client).await, message);
        }
    }

    #[tokio::test]
    async fn echo_closes_as_asked_after_the_first_message() {
        let mut client = dial(start().await.expect("a free port"), "/echo?close=4001&reason=kicked").await;
        client.send(Message::text("once")).await.expect("the server reads");
        assert_eq!(next(&mut client).await, Message::text("once"));
        assert_eq!(next_close(&mut client).await, (4001, "kicked".to_owned()));
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_closed_with_1009() {
        let mut client = dial(start().await.expect("a free port"), "/echo").await;
        // The server stops taking it half-way; what counts is what it says.
        let _ = client.send(Message::binary(vec![0; (1 << 20) + 1])).await;
        assert_eq!(next_close(&mut client).await.0, 1009);
    }

    #[tokio::test]
    async fn the_first_tick_comes_at_once_and_tells_the_time() {
        let mut client = dial(start().await.expect("a free port"), "/clock").await;
        let tick = tokio::time::timeout(Duration::from_millis(900), next_json(&mut client))
            .await
            .expect("the first tick comes at once");
        assert_eq!(tick["tick"], 1);
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis();
        assert!(now.abs_diff(u128::from(tick["time"].as_u64().expect("a number"))) < 10_000, "{tick}");
    }

    #[tokio::test]
    async fn two_members_hear_each_other_and_who_comes_and_goes() {
        let address = start().await.expect("a free port");
        let mut ann = dial(address, "/chat?name=ann").await;
        assert_eq!(next_json(&mut ann).await, json!({"from": "", "text": "ann joined", "line": 1}));
        let mut bob = dial(address, "/chat?name=bob").await;
        for member in [&mut ann, &mut bob] {
            assert_eq!(next_json(member).await, json!({"from": "", "text": "bob joined", "line": 2}));
        }
        bob.send(Message::text("hello \"ann\"")).await.expect("the server reads");
        for member in [&mut ann, &mut bob] {
            assert_eq!(next_json(member).await, json!({"from": "bob", "text": "hello \"ann\"", "line": 3}));
        }
        drop(bob);
        assert_eq!(next_json(&mut ann).await, json!({"from": "", "text": "bob left", "line": 4}));
    }

    #[tokio::test]
    async fn a_member_who_reads_too_slowly_is_closed_with_1013() {
        let address = start().await.expect("a free port");
        let socket = TcpSocket::new_v4().expect("a free file");
        socket.set_recv_buffer_size(4096).expect("a new socket");
        let stream = socket.connect(address).await.expect("somebody listens");
        let (mut slow, _) =
            client_async(format!("ws://{address}/chat?name=slow"), stream).await.expect("the server upgrades");
        next(&mut slow).await;
        let mut quick = dial(address, "/chat?name=quick").await;
        next(&mut quick).await;
        let line = Message::text("x".repeat(4096));
        // 12 MB: more than the kernel's buffers and the room's backlog hold together.
        for _ in 0..3000 {
            quick.send(line.clone()).await.expect("the server reads");
            next(&mut quick).await;
        }
        assert_eq!(next_close(&mut slow).await.0, 1013);
    }

    #[tokio::test]
    async fn a_room_takes_neither_bytes_nor_endless_lines() {
        let address = start().await.expect("a free port");
        for (message, code) in [(Message::binary(vec![1]), 1003), (Message::text("x".repeat(4097)), 1009)] {
            let mut client = dial(address, "/chat").await;
            client.send(message).await.expect("the server reads");
            assert_eq!(next_close(&mut client).await.0, code);
        }
    }

    #[tokio::test]
    async fn a_get_without_upgrade_is_told_so() {
        let address = start().await.expect("a free port");
        for path in ["/echo", "/clock", "/chat?name=ann"] {
            let response = plain(address, &format!("GET {path} HTTP/1.1")).await;
            assert!(response.starts_with("HTTP/1.1 426 "), "{response}");
            assert!(response.to_ascii_lowercase().contains("\r\nupgrade: websocket\r\n"), "{response}");
        }
    }

    #[tokio::test]
    async fn plain_paths_are_the_page_and_nothing_else() {
        let address = start().await.expect("a free port");
        let response = plain(address, "GET / HTTP/1.1").await;
        assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with(PAGE), "{response}");
        assert!(plain(address, "POST / HTTP/1.1").await.starts_with("HTTP/1.1 405 "));
        assert!(plain(address, "GET /other HTTP/1.1").await.starts_with("HTTP/1.1 404 "));
        assert!(plain(address, "GET /echo?close=1005 HTTP/1.1").await.starts_with("HTTP/1.1 400 "));
    }

    #[tokio::test]
    async fn the_first_subprotocol_is_chosen() {
        let address = start().await.expect("a free port");
        let mut request = format!("ws://{address}/echo").into_client_request().expect("a sound address");
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("chat.v2, chat.v1"));
        let stream = TcpStream::connect(address).await.expect("somebody listens");
        let (_client, response) = client_async(request, stream).await.expect("the server upgrades");
        assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], "chat.v2");
    }

    #[tokio::test]
    async fn a_full_server_answers_503() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free address");
        let address = listener.local_addr().expect("a bound socket");
        tokio::spawn(serve_bounded(listener, future::pending::<()>(), 1));
        let _first = dial(address, "/echo").await;
        let stream = TcpStream::connect(address).await.expect("somebody listens");
        match client_async(format!("ws://{address}/echo"), stream).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE),
            other => panic!("a second conversation must be refused, not {other:?}"),
        }
    }

    #[tokio::test]
    async fn stopping_tells_every_member() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free address");
        let address = listener.local_addr().expect("a bound socket");
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, stopped));
        let mut client = dial(address, "/echo").await;
        drop(stop);
        assert_eq!(next_close(&mut client).await.0, 1001);
        assert!(client.next().await.is_none());
        server.await.expect("the task does not panic");
    }
}
