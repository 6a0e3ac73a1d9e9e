//! A sidecar under test with a scripted backend behind it, and a client that speaks the protocol to it. Must not touch:
//! fixed ports, the inside of the sidecar.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use underpass::app::App;
use underpass::config::{Address, Config};
use underpass::lifecycle::Alive;
use underpass::lifecycle::drain::Signal;
use underpass::lifecycle::sockets::Sockets;

pub use super::streaming::{Event, Streaming, parse_event};

/// Nothing here takes this long; a test that does has failed.
pub const FOREVER: Duration = Duration::from_secs(20);

/// Waits for something that must come.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(FOREVER, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// An ordinary WebSocket server whose side of each conversation the test plays itself.
pub struct Backend {
    pub at: SocketAddr,
    sockets: mpsc::Receiver<BackendSocket>,
}

/// One accepted WebSocket, and the handshake it came with.
pub struct BackendSocket {
    pub path: String,
    pub headers: HeaderMap,
    pub ws: WebSocketStream<TcpStream>,
}

impl Backend {
    /// Accepts every handshake with the first subprotocol offered, one after another as the test asks for them.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("an address");
        let (sender, sockets) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    if let Some(socket) = handshake(socket).await {
                        let _ = sender.send(socket).await;
                    }
                });
            }
        });
        Self { at, sockets }
    }

    /// Echoes everything on every connection, by itself.
    pub async fn echo() -> SocketAddr {
        let mut backend = Self::start().await;
        let at = backend.at;
        tokio::spawn(async move {
            while let Some(mut socket) = backend.sockets.recv().await {
                tokio::spawn(async move {
                    while let Some(Ok(message)) = socket.ws.next().await {
                        if (message.is_text() || message.is_binary()) && socket.ws.send(message).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        at
    }

    /// The next WebSocket that is opened.
    pub async fn accept(&mut self) -> BackendSocket {
        soon("a connection to the backend", self.sockets.recv()).await.expect("the backend lives")
    }

    /// A WebSocket that was opened and not accepted yet.
    pub fn try_accept(&mut self) -> Option<BackendSocket> {
        self.sockets.try_recv().ok()
    }
}

async fn handshake(socket: TcpStream) -> Option<BackendSocket> {
    let (mut path, mut headers) = (String::new(), HeaderMap::new());
    #[expect(clippy::result_large_err, reason = "tungstenite's signature")]
    let callback = |request: &Request, mut response: Response| {
        path = request.uri().to_string();
        headers = request.headers().clone();
        if let Some(offered) = request.headers().get("sec-websocket-protocol") {
            let first = offered.to_str().unwrap_or_default().split(',').next().unwrap_or_default().trim().to_owned();
            response.headers_mut().insert("sec-websocket-protocol", first.parse().expect("a header value"));
        }
        Ok(response)
    };
    let ws = tokio_tungstenite::accept_hdr_async(socket, callback).await.ok()?;
    Some(BackendSocket { path, headers, ws })
}

impl BackendSocket {
    pub async fn send(&mut self, text: &str) {
        self.ws.send(Message::text(text)).await.expect("the sidecar takes it");
    }

    pub async fn send_binary(&mut self, payload: &[u8]) {
        self.ws.send(Message::binary(payload.to_vec())).await.expect("the sidecar takes it");
    }

    /// The next message or close; pings are skipped.
    pub async fn next(&mut self) -> Message {
        loop {
            let message = soon("a message at the backend", self.ws.next()).await.expect("not ended").expect("no error");
            if !message.is_ping() && !message.is_pong() {
                return message;
            }
        }
    }

    pub async fn next_text(&mut self) -> String {
        self.next().await.into_text().expect("a text").to_string()
    }

    /// The close frame that ends the conversation, as code and reason.
    pub async fn closed(&mut self) -> (u16, String) {
        let close = self.next().await;
        // Reading a close only prepares the answer to it.
        let _ = self.ws.flush().await;
        match close {
            Message::Close(Some(frame)) => (frame.code.into(), frame.reason.to_string()),
            Message::Close(None) => (1005, String::new()),
            other => panic!("not a close: {other:?}"),
        }
    }

    pub async fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.to_owned().into() };
        self.ws.close(Some(frame)).await.expect("the sidecar takes it");
    }
}

/// A running sidecar.
pub struct Site {
    pub at: SocketAddr,
    pub admin: Option<SocketAddr>,
    running: Option<(mpsc::Sender<Signal>, tokio::task::JoinHandle<Alive>)>,
}

impl Site {
    /// In front of `backend`; `more` is TOML that comes behind `listen` and `upstream` (tables last).
    pub fn start(backend: SocketAddr, more: &str) -> Self {
        Self::from_toml(&format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{backend}\"\n{more}"))
    }

    pub fn from_toml(toml: &str) -> Self {
        let config = Config::parse(toml, "test.toml").unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let app = App::start(config, Sockets::none()).expect("it starts");
        let tcp = |address: &Address| match address {
            Address::Tcp(at) => Some(*at),
            _ => None,
        };
        let at = app.addresses.iter().find_map(tcp).expect("a TCP listener");
        let admin = app.admin.as_ref().and_then(tcp);
        let (signals, receiver) = mpsc::channel(4);
        let running = tokio::spawn(async move { app.run(receiver, None).await });
        Self { at, admin, running: Some((signals, running)) }
    }

    /// One that runs in another process.
    pub fn elsewhere(at: SocketAddr, admin: Option<SocketAddr>) -> Self {
        Self { at, admin, running: None }
    }

    /// Sends SIGTERM, so to speak.
    pub async fn stop(&self) {
        let (signals, _) = self.running.as_ref().expect("it runs here");
        signals.send(Signal::Stop).await.expect("it runs");
    }

    /// Sends SIGHUP, so to speak; there is no file to read again.
    pub async fn reload(&self) {
        let (signals, _) = self.running.as_ref().expect("it runs here");
        signals.send(Signal::Reload).await.expect("it runs");
    }

    /// What was still alive when the drain was over.
    pub async fn ended(self) -> Alive {
        let (_signals, running) = self.running.expect("it runs here");
        soon("the end of the drain", running).await.expect("no panic")
    }

    /// One request to the admin listener.
    pub async fn ask_admin(&self, path: &str) -> Reply {
        Reply::to(self.admin.expect("an admin listener"), Method::GET, path, &[], Bytes::new()).await
    }

    /// One request of any method to the admin listener.
    pub async fn tell_admin(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Reply {
        Reply::to(self.admin.expect("an admin listener"), method, path, headers, Bytes::new()).await
    }

    /// The value of a sample, by its name with its labels.
    pub async fn metric(&self, sample: &str) -> f64 {
        let text = self.ask_admin("/metrics").await.text();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {sample} in {text}")).parse().expect("a number")
    }

    /// Waits until a sample has this value.
    pub async fn counts(&self, sample: &str, expected: f64) {
        let waiting = async {
            while self.metric(sample).await != expected {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(FOREVER, waiting).await.is_err() {
            panic!("{sample} is {}, not {expected}", self.metric(sample).await);
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.request(Method::GET, path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.request(Method::POST, path, &[], body).await
    }

    /// One request on a connection of its own, answered whole.
    pub async fn request(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        Reply::to(self.at, method, path, headers, body.into()).await
    }

    /// One request whose answer streams.
    pub async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Streaming {
        let response = begin(self.at, Method::GET, path, headers, Bytes::new()).await;
        let (head, body) = response.into_parts();
        Streaming::new(head, body)
    }

    /// Opens a session; the path under which it is reached, and what was answered.
    pub async fn open(&self, target: &str) -> Opened {
        let reply = self.post(&marked(target, "open"), "").await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        let session = reply.json()["session"].clone();
        Opened { url: resolved(target, &session), session }
    }

    /// A WebSocket to any path, with these headers.
    pub async fn websocket(&self, path: &str, headers: &[(&str, &str)]) -> WebSocketStream<TcpStream> {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
        let mut request = format!("ws://{}{path}", self.at).into_client_request().expect("a request");
        for (name, value) in headers {
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            request.headers_mut().insert(name, value.parse().expect("a value"));
        }
        let socket = TcpStream::connect(self.at).await.expect("it listens");
        soon("a WebSocket", tokio_tungstenite::client_async(request, socket)).await.expect("a WebSocket").0
    }
}

/// The target of a request that opens a session there.
pub fn marked(target: &str, mark: &str) -> String {
    let more = if target.contains('?') { '&' } else { '?' };
    format!("{target}{more}underpass={mark}")
}

/// The path of a session that was opened at this target (RFC 3986 section 5.2: a reference without dots but at its start).
pub fn resolved(target: &str, session: &Value) -> String {
    let path = target.split('?').next().unwrap_or_default();
    let mut reference = session["url"].as_str().expect("a url");
    let mut folder = &path[..path.rfind('/').expect("a slash")];
    while let Some(rest) = reference.strip_prefix("../") {
        (reference, folder) = (rest, &folder[..folder.rfind('/').expect("a folder above")]);
    }
    format!("{folder}/{reference}")
}

/// Sends a request on a connection of its own; its answer, as soon as the head has come.
async fn begin(
    at: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> hyper::Response<Incoming> {
    let socket = TcpStream::connect(at).await.expect("it listens");
    let (mut sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.expect("HTTP");
    tokio::spawn(conn);
    let mut request = hyper::Request::builder().method(method).uri(path).header("host", at.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body)).expect("a request");
    soon("an answer", sender.send_request(request)).await.expect("an answer")
}

/// An opened session.
pub struct Opened {
    pub url: String,
    pub session: Value,
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    async fn to(at: SocketAddr, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Self {
        let (head, body) = begin(at, method, path, headers, body).await.into_parts();
        let body = soon("the end of a body", body.collect()).await.expect("a whole body").to_bytes();
        Self { status: head.status, headers: head.headers, body }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// The code of an error of ours; its status stands in the body as well.
    pub fn error(&self) -> String {
        let json = self.json();
        assert_eq!(json["error"]["status"], self.status.as_u16(), "{json}");
        assert!(json["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{json}");
        json["error"]["code"].as_str().expect("a code").to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}
