//! Requests as bytes, and answers as they are on the wire: what a well-behaved client library would not let through.
//! Enters: bytes. Leaves: answers taken apart. Must not touch: the inside of the sidecar.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::site::soon;

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {} {text:?}", self.status))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The code of an error, after checking all that every error of ours must be.
    #[track_caller]
    pub(crate) fn refused(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        self.is_protected();
        let json = self.json();
        assert_eq!(json["error"]["status"], self.status, "{json}");
        assert!(!self.message().is_empty(), "{json}");
        json["error"]["code"].as_str().unwrap_or_else(|| panic!("no code in {json}")).to_owned()
    }

    #[track_caller]
    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
    }

    /// The headers that every answer of ours carries.
    #[track_caller]
    pub(crate) fn is_protected(&self) {
        for (name, value) in [
            ("cache-control", "no-store, no-transform"),
            ("x-accel-buffering", "no"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(self.header(name), Some(value), "{name} of {self:?}");
        }
    }
}

/// A request in one string. A `Host` is added unless `headers` have one.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let has = |name: &str| headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !has("host") {
        head.push_str("Host: localhost\r\n");
    }
    if !has("content-length") && !has("transfer-encoding") && (!body.is_empty() || method == "POST") {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut bytes = format!("{head}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A body in chunks of at most `size` bytes.
pub(crate) fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(size) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// One request on a connection of its own, and its answer; of one without `Content-Length` the head.
pub(crate) async fn ask(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut wire = Wire::open(at).await;
    wire.write(&request(method, path, headers, body)).await;
    let answer = wire.answer(method == "HEAD").await;
    answer.unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

/// A WebSocket handshake of a client.
pub(crate) fn handshake<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut headers = vec![
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    headers.retain(|(name, _)| !more.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)));
    headers.extend(more.iter().filter(|(_, value)| !value.is_empty()));
    headers
}

/// A connection to the sidecar.
pub(crate) struct Wire {
    pub(crate) socket: TcpStream,
    pub(crate) buffer: Vec<u8>,
}

impl Wire {
    pub(crate) async fn open(at: SocketAddr) -> Self {
        Self { socket: TcpStream::connect(at).await.expect("it listens"), buffer: Vec::new() }
    }

    /// Writes; whoever refuses may close before it has read all.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes).await;
    }

    /// The next answer; `None` at the end of the connection.
    pub(crate) async fn answer(&mut self, headless: bool) -> Option<Answer> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await {
                return None;
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let mut answer = parse_head(&head);
        let length = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let length = if headless { 0 } else { length };
        while self.buffer.len() < length && self.more().await {}
        answer.body = self.buffer.drain(..length.min(self.buffer.len())).collect();
        Some(answer)
    }

    /// Everything up to the end of the connection, however it ends.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        while self.more().await {}
        self.buffer
    }

    async fn more(&mut self) -> bool {
        let read = soon("bytes from the sidecar", self.socket.read_buf(&mut self.buffer)).await;
        matches!(read, Ok(count) if count > 0)
    }
}

fn parse_head(head: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok());
    let mut headers = HeaderMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line:?}"));
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        headers.append(name, HeaderValue::from_str(value.trim()).unwrap_or_else(|error| panic!("{error}: {line:?}")));
    }
    Answer { status: status.unwrap_or_else(|| panic!("no status: {text:?}")), headers, body: Vec::new() }
}

pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
