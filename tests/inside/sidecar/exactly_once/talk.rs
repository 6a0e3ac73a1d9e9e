//! A client of the protocol over a bad network: keeps its cursor, numbers and repeats what it sends, acknowledges,
//! changes transport in mid-session.
//!
//! Enters: the address of a box, an opened session, messages. Leaves: what it received and how it ended. Must not touch:
//! the sidecar's codecs; it reads and writes the wire by itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use underpass::session::Message;

use super::wire::{PATIENCE, Wire, base64, close_of, encode, framed, next_frame, request};
use crate::simulation::chance::Chance;

/// Received bytes after which an acknowledgement is due.
const ACK_BYTES: usize = 16 * 1024;
/// Sends under way at once.
const IN_FLIGHT: usize = 4;

/// One client.
#[derive(Debug)]
pub(crate) struct Talk {
    at: SocketAddr,
    url: String,
    transports: Vec<&'static str>,
    received: Mutex<Vec<Message>>,
    closed: Mutex<Option<Value>>,
    unacked: AtomicU64,
    due: Notify,
    /// The up number expected next, as far as is known here.
    next: AtomicU64,
    /// How often something was attached.
    pub(crate) attached: AtomicU64,
}

/// Why an attachment is over.
enum Over {
    /// It broke, or it was left.
    Left,
    /// The session has ended.
    Closed,
}

impl Talk {
    pub(crate) fn new(at: SocketAddr, url: &str, transports: &[&'static str]) -> Arc<Self> {
        Arc::new(Self {
            at,
            url: url.to_owned(),
            transports: transports.to_vec(),
            received: Mutex::default(),
            closed: Mutex::default(),
            unacked: AtomicU64::new(0),
            due: Notify::new(),
            next: AtomicU64::new(1),
            attached: AtomicU64::new(0),
        })
    }

    /// What has come, and how it ended.
    pub(crate) fn outcome(&self) -> (Vec<Message>, Option<Value>) {
        (self.received.lock().expect("no panic").clone(), self.closed.lock().expect("no panic").clone())
    }

    fn cursor(&self) -> u64 {
        let closed = u64::from(self.closed.lock().expect("no panic").is_some());
        self.received.lock().expect("no panic").len() as u64 + closed
    }

    fn take(&self, number: u64, message: Message) {
        let mut received = self.received.lock().expect("no panic");
        assert_eq!(number, received.len() as u64 + 1, "a hole or a twin on the way down");
        let cost = message.payload().len() as u64 + 64;
        received.push(message);
        drop(received);
        if self.unacked.fetch_add(cost, Ordering::Relaxed) + cost >= ACK_BYTES as u64 {
            self.due.notify_one();
        }
    }

    fn close(&self, number: u64, close: Value) -> Over {
        assert_eq!(number, self.cursor() + 1, "messages are missing before the close");
        *self.closed.lock().expect("no panic") = Some(close);
        Over::Closed
    }

    fn is_over(&self) -> bool {
        self.closed.lock().expect("no panic").is_some()
    }

    /// Whether the sidecar has told that it has `count` messages.
    pub(crate) fn has_sent(&self, count: usize) -> bool {
        self.next.load(Ordering::Relaxed) > count as u64
    }

    // === down ===

    /// Receives until the session has ended.
    pub(crate) async fn receive(self: Arc<Self>, ups: Arc<Vec<Message>>, mut chance: Chance) {
        loop {
            let transport = chance.pick(&self.transports);
            // How many messages this attachment is kept for; with a single transport as long as it lasts.
            let keep = if self.transports.len() > 1 { chance.between(1, 400) } else { u64::MAX };
            self.attached.fetch_add(1, Ordering::Relaxed);
            let over = match transport {
                "sse" => self.sse(keep).await,
                "stream" => self.stream(keep).await,
                "poll" => self.poll(keep.min(20), chance.one_in(2)).await,
                _ => self.ws(keep, &ups).await,
            };
            if matches!(over, Over::Closed) {
                return;
            }
        }
    }

    async fn sse(&self, keep: u64) -> Over {
        let cursor = self.cursor();
        let Some(mut stream) = self.attach(&format!("sse?after={cursor}")).await else { return Over::Left };
        let until = cursor.saturating_add(keep);
        while let Some(event) = stream.event().await {
            let number = || event.id.parse::<u64>().expect("an id that is a number");
            match event.event.as_str() {
                "session" => assert_eq!(event.json()["from"], cursor),
                "" => self.take(number(), Message::text(event.data)),
                "binary" => self.take(number(), Message::binary(base64(&event.data))),
                "json" => self.take(number(), Message::text(event.json().as_str().expect("a string"))),
                "close" => return self.close(number(), event.json()),
                "heartbeat" => assert!(event.data.parse::<u64>().is_ok()),
                "superseded" | "reconnect" => {}
                other => panic!("event {other}"),
            }
            if self.cursor() >= until {
                break;
            }
        }
        Over::Left
    }

    async fn stream(&self, keep: u64) -> Over {
        let cursor = self.cursor();
        let Some(mut stream) = self.attach(&format!("stream?after={cursor}")).await else { return Over::Left };
        let mut number = None;
        while let Some((kind, payload)) = stream.frame().await {
            if let Some(over) = self.frame(kind, payload, &mut number) {
                return over;
            }
            if self.cursor() - cursor >= keep {
                break;
            }
        }
        Over::Left
    }

    /// One frame; `number` is that of the last message, known from the facts on.
    fn frame(&self, kind: u8, payload: Bytes, number: &mut Option<u64>) -> Option<Over> {
        let mut following = || {
            let number = number.as_mut().expect("facts come first");
            *number += 1;
            *number
        };
        match kind {
            1 => self.take(following(), Message::text_from_utf8(payload).expect("UTF-8")),
            2 => self.take(following(), Message::binary(payload)),
            8 => return Some(self.close(following(), close_of(&payload))),
            11 => {
                let facts: Value = serde_json::from_slice(&payload).expect("facts are JSON");
                assert_eq!(facts["from"], self.cursor());
                self.learn(&facts);
                *number = facts["from"].as_u64();
            }
            9 | 10 | 13 | 14 => {}
            other => panic!("frame {other}"),
        }
        None
    }

    async fn poll(&self, times: u64, frames: bool) -> Over {
        for _ in 0..times {
            let cursor = self.cursor();
            let form = if frames { "&as=frames" } else { "" };
            let Some(stream) = self.attach(&format!("poll?after={cursor}&wait=0.2{form}")).await else {
                return Over::Left;
            };
            let Some(body) = stream.whole().await else { continue };
            let over = if frames { self.polled_frames(body) } else { self.polled(&body, cursor) };
            if let Some(over) = over {
                return over;
            }
        }
        Over::Left
    }

    fn polled(&self, body: &[u8], cursor: u64) -> Option<Over> {
        let answer: Value = serde_json::from_slice(body).expect("a poll is JSON");
        assert_eq!(answer["from"], cursor);
        self.learn(&answer);
        let messages = answer["messages"].as_array().expect("messages");
        for (number, message) in (cursor + 1..).zip(messages) {
            let message = match message {
                Value::String(text) => Message::text(text.as_str()),
                other => Message::binary(base64(other["base64"].as_str().expect("base64"))),
            };
            self.take(number, message);
        }
        let close = answer.get("close").filter(|close| !close.is_null());
        let over = close.map(|close| self.close(self.cursor() + 1, close.clone()));
        assert_eq!(answer["after"], self.cursor());
        over
    }

    fn polled_frames(&self, mut body: Bytes) -> Option<Over> {
        let mut number = None;
        while !body.is_empty() {
            let length = u32::from_be_bytes([body[1], body[2], body[3], body[4]]) as usize;
            let kind = body[0];
            let payload = body.split_to(5 + length).split_off(5);
            if let Some(over) = self.frame(kind, payload, &mut number) {
                return Some(over);
            }
        }
        None
    }

    /// Both ways over a WebSocket; the messages up count from the `next` of its facts.
    async fn ws(&self, keep: u64, ups: &[Message]) -> Over {
        let cursor = self.cursor();
        let Some(socket) = self.websocket(&format!("{}/ws?after={cursor}", self.url)).await else { return Over::Left };
        let (mut sink, mut source) = socket.split();
        let facts = match next_frame(&mut source).await {
            Some((11, payload)) => payload,
            _ => return Over::Left,
        };
        let mut number = None;
        self.frame(11, facts.clone(), &mut number);
        let facts: Value = serde_json::from_slice(&facts).expect("facts are JSON");
        let first = facts["next"].as_u64().expect("the number expected");
        let up = async {
            for message in ups.iter().skip(first as usize - 1) {
                if sink.send(framed(message)).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let down = async {
            while let Some((kind, payload)) = next_frame(&mut source).await {
                if let Some(over) = self.frame(kind, payload.clone(), &mut number) {
                    return over;
                }
                if kind == 10 {
                    let safe: [u8; 8] = payload.as_ref().try_into().expect("8 bytes");
                    self.next.fetch_max(u64::from_be_bytes(safe), Ordering::Relaxed);
                }
                if self.cursor() - cursor >= keep {
                    break;
                }
            }
            Over::Left
        };
        tokio::select! {
            () = up => Over::Left,
            over = down => over,
        }
    }

    async fn websocket(&self, path: &str) -> Option<WebSocketStream<TcpStream>> {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
        let mut request = format!("ws://{}{path}", self.at).into_client_request().expect("a request");
        request.headers_mut().insert("sec-websocket-protocol", http::HeaderValue::from_static("underpass.v1"));
        let socket = TcpStream::connect(self.at).await.ok()?;
        let opened = timeout(PATIENCE, tokio_tungstenite::client_async(request, socket)).await.ok()?;
        Some(opened.ok()?.0)
    }

    async fn attach(&self, what: &str) -> Option<Wire> {
        let wire = request(self.at, "GET", &format!("{}/{what}", self.url), "", Bytes::new()).await?;
        match wire.status {
            200 => Some(wire),
            // It has moved to another process: at the next attempt it is there.
            503 => None,
            // The close was told and counted on an attachment that the box repeated.
            status => panic!("{status} to {what}"),
        }
    }

    // === up ===

    /// Sends everything by requests, a few at once, each until it is accepted. Runs until all is known to be accepted.
    pub(crate) async fn send(self: Arc<Self>, ups: Arc<Vec<Message>>, mut chance: Chance) {
        let mut under_way = JoinSet::new();
        let mut issued = 0;
        while self.next.load(Ordering::Relaxed) <= ups.len() as u64 {
            let room = (issued as u64) < self.next.load(Ordering::Relaxed) + 40;
            if issued < ups.len() && under_way.len() < IN_FLIGHT && room {
                let end = ups.len().min(issued + chance.between(1, 12) as usize);
                let (form, body) = encode(&ups[issued..end], &mut chance);
                let this = Arc::clone(&self);
                let seq = issued as u64 + 1;
                under_way.spawn(async move { this.deliver(seq, form, body).await });
                issued = end;
                continue;
            }
            match under_way.join_next().await {
                Some(done) => done.expect("no panic while sending"),
                None => {
                    // All was accepted; nothing is fine as an acknowledgement, and tells how far it got.
                    self.deliver(ups.len() as u64 + 1, "text", Bytes::new()).await;
                    issued = ups.len().min(self.next.load(Ordering::Relaxed) as usize - 1);
                }
            }
        }
    }

    /// Repeats a send until it is answered.
    async fn deliver(&self, seq: u64, form: &'static str, body: Bytes) {
        loop {
            let after = self.cursor();
            let (path, form) = match body.is_empty() {
                true => (format!("{}/send?after={after}", self.url), "json"),
                false => (format!("{}/send?seq={seq}&after={after}", self.url), form),
            };
            if let Some(answer) = self.short(&path, form, body.clone()).await {
                match answer["error"]["code"].as_str() {
                    None => return self.learn(&answer),
                    Some("busy") => self.learn(&answer),
                    Some("draining") => {}
                    // The client closed, or the backend, with everything in hand.
                    Some("session_closed") => return self.learn(&json!({"next": u64::MAX})),
                    Some(other) => panic!("{other} to a send of {seq}"),
                }
            }
        }
    }

    fn learn(&self, answer: &Value) {
        self.next.fetch_max(answer["next"].as_u64().expect("the number expected"), Ordering::Relaxed);
    }

    /// Acknowledges whenever enough has come, and often enough.
    pub(crate) async fn acknowledge(self: Arc<Self>) {
        while !self.is_over() {
            let _ = timeout(Duration::from_millis(200), self.due.notified()).await;
            self.unacked.store(0, Ordering::Relaxed);
            self.short(&format!("{}/ack?after={}", self.url, self.cursor()), "json", Bytes::new()).await;
        }
    }

    /// Closes; repeats it until it is answered.
    pub(crate) async fn hang_up(&self, code: u16, reason: &str) -> Value {
        let body = Bytes::from(json!({"code": code, "reason": reason}).to_string());
        loop {
            let answer = self.short(&format!("{}/close", self.url), "json", body.clone()).await;
            if let Some(answer) = answer.filter(|answer| answer["error"]["code"] != "draining") {
                return answer;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn short(&self, path: &str, form: &str, body: Bytes) -> Option<Value> {
        let content_type = match form {
            "json" => "application/json",
            "form" => "application/x-www-form-urlencoded",
            "frames" | "binary" => "application/octet-stream",
            _ => "text/plain",
        };
        let form = if form == "binary" || form == "text" { format!("&as={form}") } else { String::new() };
        let wire = request(self.at, "POST", &format!("{path}{form}"), content_type, body).await?;
        let body = wire.whole().await?;
        Some(serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error} in {body:?}")))
    }
}
