//! The wire as a client writes and reads it over a bad network: whatever breaks is an end, never a panic.
//!
//! Enters: messages, requests. Leaves: bodies, events, frames, as far as they come whole. Must not touch: the sidecar's
//! codecs.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use underpass::session::{Kind, Message};

use crate::simulation::chance::Chance;
use crate::support::site::{Event, parse_event};

/// A stream that says nothing for so long is given up; the sidecar is told to say something more often.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A body for these messages in one of the forms.
pub(crate) fn encode(batch: &[Message], chance: &mut Chance) -> (&'static str, Bytes) {
    if let [message] = batch
        && !message.payload().is_empty()
        && chance.one_in(2)
    {
        let form = if message.kind() == Kind::Text { "text" } else { "binary" };
        return (form, message.payload().clone());
    }
    let json = || json!({ "messages": batch.iter().map(as_json).collect::<Vec<_>>() });
    match chance.below(3) {
        0 => ("json", json().to_string().into()),
        1 => {
            let messages = json()["messages"].to_string();
            let form = form_urlencoded::Serializer::new(String::new()).append_pair("messages", &messages).finish();
            ("form", form.into())
        }
        _ => {
            let mut body = Vec::new();
            for message in batch {
                body.push(kind_of(message));
                body.extend_from_slice(&(message.payload().len() as u32).to_be_bytes());
                body.extend_from_slice(message.payload());
            }
            ("frames", body.into())
        }
    }
}

pub(crate) fn as_json(message: &Message) -> Value {
    match message.kind() {
        Kind::Text => std::str::from_utf8(message.payload()).expect("UTF-8").into(),
        Kind::Binary => json!({ "base64": STANDARD.encode(message.payload()) }),
    }
}

/// The bytes behind base64.
pub(crate) fn base64(text: &str) -> Vec<u8> {
    STANDARD.decode(text).expect("base64")
}

pub(crate) fn kind_of(message: &Message) -> u8 {
    if message.kind() == Kind::Text { 1 } else { 2 }
}

pub(crate) fn framed(message: &Message) -> WsMessage {
    match message.kind() {
        Kind::Text => WsMessage::text(format!("1{}", std::str::from_utf8(message.payload()).expect("UTF-8"))),
        Kind::Binary => WsMessage::binary([&[2], message.payload().as_ref()].concat()),
    }
}

pub(crate) fn close_of(payload: &[u8]) -> Value {
    let code = u16::from_be_bytes([payload[0], payload[1]]);
    let reason = std::str::from_utf8(&payload[3..]).expect("UTF-8");
    json!({ "code": code, "reason": reason, "clean": payload[2] == 1 })
}

/// The next frame of a session's WebSocket; `None` at its end, however it came.
pub(crate) async fn next_frame(
    source: &mut (impl futures_util::Stream<Item = Result<WsMessage, tokio_tungstenite::tungstenite::Error>> + Unpin),
) -> Option<(u8, Bytes)> {
    loop {
        return match timeout(PATIENCE, source.next()).await.ok()?? {
            Ok(WsMessage::Text(text)) => {
                let payload = text.as_str().strip_prefix('1').expect("a text frame begins with its kind");
                Some((1, Bytes::from(payload.to_owned())))
            }
            Ok(WsMessage::Binary(payload)) => Some((payload[0], payload.slice(1..))),
            Ok(WsMessage::Ping(_) | WsMessage::Pong(_)) => continue,
            _ => None,
        };
    }
}

/// The answer to a request, as far as it comes.
pub(crate) struct Wire {
    pub(crate) status: u16,
    body: Incoming,
    buffer: BytesMut,
}

/// One request on a connection of its own; `None` when no head of an answer came.
pub(crate) async fn request(at: SocketAddr, method: &str, path: &str, content_type: &str, body: Bytes) -> Option<Wire> {
    let head = hyper::Request::builder().method(method).uri(path).header("host", "site.example");
    let head = head.header("connection", "close").header("content-type", content_type);
    exchange(at, head.body(Full::new(body)).expect("a request")).await
}

/// The same for a request with headers of the caller's.
pub(crate) async fn exchange(at: SocketAddr, request: hyper::Request<Full<Bytes>>) -> Option<Wire> {
    let socket = TcpStream::connect(at).await.ok()?;
    let (mut sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.ok()?;
    tokio::spawn(conn);
    let response = timeout(PATIENCE, sender.send_request(request)).await.ok()?.ok()?;
    let status = response.status().as_u16();
    Some(Wire { status, body: response.into_body(), buffer: BytesMut::new() })
}

impl Wire {
    /// More bytes; false when there will be none.
    async fn more(&mut self) -> bool {
        match timeout(PATIENCE, self.body.frame()).await {
            Ok(Some(Ok(frame))) => {
                self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
                true
            }
            _ => false,
        }
    }

    /// The next whole event that has data.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        let mut seen = 0;
        loop {
            let from = seen.max(1) - 1;
            if let Some(end) = self.buffer[from..].windows(2).position(|pair| pair == b"\n\n") {
                let block = self.buffer.split_to(from + end + 2);
                seen = 0;
                match parse_event(std::str::from_utf8(&block).expect("UTF-8")) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            seen = self.buffer.len();
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next whole frame.
    pub(crate) async fn frame(&mut self) -> Option<(u8, Bytes)> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<5>() {
                let kind = head[0];
                let whole = 5 + u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if self.buffer.len() >= whole {
                    return Some((kind, self.buffer.split_to(whole).freeze().split_off(5)));
                }
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The whole body, if all of it comes.
    pub(crate) async fn whole(self) -> Option<Bytes> {
        let body = timeout(PATIENCE, self.body.collect()).await.ok()?.ok()?;
        Some(body.to_bytes())
    }
}
