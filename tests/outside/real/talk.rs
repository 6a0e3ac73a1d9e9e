//! The plainest client of a session, the same over every transport. Enters: messages to say. Leaves: messages heard, in
//! the order of their numbers. Must not touch: the sidecar except by the protocol.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};
use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::site::{Event, Site, Streaming, marked, resolved, soon};

/// After this many bytes the cursor is presented. Far below what the sidecar asks for: often is what is tried here.
const ACK_BYTES: usize = 500;

/// The code of a connection that was lost; every other close is clean.
const LOST: u16 = 1006;

/// How a session is carried.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    Sse,
    Stream,
    Poll,
    Ws,
}

impl Transport {
    pub(crate) const ALL: [Self; 4] = [Self::Sse, Self::Stream, Self::Poll, Self::Ws];
}

/// What came down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Text(String),
    Binary(Bytes),
    Close(u16, String),
}

impl Heard {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
            Self::Close(..) => 0,
        }
    }
}

enum Down {
    Sse(Streaming),
    Stream(Streaming),
    Poll(VecDeque<Heard>),
    Ws(Box<WebSocketStream<TcpStream>>),
}

/// An open session and its attachment.
pub(crate) struct Talk<'a> {
    site: &'a Site,
    url: String,
    transport: Transport,
    down: Down,
    /// The cursor.
    after: u64,
    /// Bytes heard since the cursor was last presented.
    unacked: usize,
    /// The number of the next message up.
    seq: u64,
    /// The subprotocol that the backend chose.
    pub(crate) protocol: String,
}

impl<'a> Talk<'a> {
    /// Opens a session and attaches.
    pub(crate) async fn open(site: &'a Site, target: &str, protocols: &[&str], transport: Transport) -> Self {
        let body = serde_json::json!({"protocols": protocols}).to_string();
        let reply = site.post(&marked(target, "open"), body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let session = reply.json()["session"].clone();
        let field = |name: &str| session[name].as_str().expect("a string").to_owned();
        let (url, protocol) = (resolved(target, &session), field("protocol"));
        let down = attach(site, &url, transport, 0).await;
        Self { site, url, transport, down, after: 0, unacked: 0, seq: 1, protocol }
    }

    /// Drops the attachment, wherever it stands, and makes another with the cursor.
    pub(crate) async fn reattach(&mut self) {
        // Gone first: an attachment that is merely superseded says so, which is another test's subject.
        self.down = Down::Poll(VecDeque::new());
        self.down = attach(self.site, &self.url, self.transport, self.after).await;
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    pub(crate) async fn say_bytes(&mut self, payload: &[u8]) {
        self.send(Message::binary(payload.to_vec())).await;
    }

    async fn send(&mut self, message: Message) {
        if let Down::Ws(socket) = &mut self.down {
            let framed = match message {
                Message::Text(text) => Message::text(format!("1{text}")),
                other => Message::binary([&[2], &other.into_data()[..]].concat()),
            };
            soon("room for a message", socket.send(framed)).await.expect("the sidecar takes it");
            return;
        }
        let form = if message.is_text() { "text" } else { "binary" };
        let path = format!("{}/send?seq={}&after={}&as={form}", self.url, self.seq, self.after);
        let reply = self.site.request(Method::POST, &path, &[], message.into_data()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        self.seq += 1;
        assert_eq!(reply.json()["next"], self.seq);
    }

    /// The next message or the close. Acknowledges now and then, as a client must.
    pub(crate) async fn hear(&mut self) -> Heard {
        let heard = match &mut self.down {
            Down::Sse(stream) => of_event(&next_event(stream, self.after + 1).await),
            Down::Stream(stream) => loop {
                let (kind, payload) = stream.frame().await.expect("the stream goes on");
                if let Some(heard) = of_frame(kind, payload) {
                    break heard;
                }
            },
            Down::Ws(socket) => loop {
                let message = soon("a message", socket.next()).await.expect("not ended").expect("no error");
                if let Some(heard) = of_message(&message) {
                    break heard;
                }
            },
            Down::Poll(batch) => loop {
                if let Some(heard) = batch.pop_front() {
                    break heard;
                }
                let reply = self.site.get(&format!("{}/poll?after={}&wait=5", self.url, self.after)).await;
                assert_eq!(reply.status, 200, "{}", reply.text());
                assert_eq!(reply.json()["from"], self.after);
                batch.extend(of_answer(&reply.json()));
            },
        };
        self.after += 1;
        self.unacked += heard.len();
        if self.unacked >= ACK_BYTES {
            self.acknowledge().await;
        }
        heard
    }

    async fn acknowledge(&mut self) {
        self.unacked = 0;
        match &mut self.down {
            // The next poll does it.
            Down::Poll(_) => {}
            Down::Ws(socket) => {
                let frame = Message::binary([&[10], &self.after.to_be_bytes()[..]].concat());
                soon("room for an ack", socket.send(frame)).await.expect("the sidecar takes it");
            }
            Down::Sse(_) | Down::Stream(_) => {
                let reply = self.site.post(&format!("{}/ack?after={}", self.url, self.after), "").await;
                assert_eq!(reply.status, 200, "{}", reply.text());
            }
        }
    }
}

async fn attach(site: &Site, url: &str, transport: Transport, after: u64) -> Down {
    match transport {
        Transport::Sse => Down::Sse(site.stream(&format!("{url}/sse?after={after}"), &[]).await),
        Transport::Stream => Down::Stream(site.stream(&format!("{url}/stream?after={after}"), &[]).await),
        Transport::Poll => Down::Poll(VecDeque::new()),
        Transport::Ws => {
            let headers = [("sec-websocket-protocol", "underpass.v1")];
            Down::Ws(Box::new(site.websocket(&format!("{url}/ws?after={after}"), &headers).await))
        }
    }
}

/// The next event that carries a number, which must be this one.
async fn next_event(stream: &mut Streaming, number: u64) -> Event {
    loop {
        let event = stream.told().await;
        if event.event != "session" {
            assert_eq!(event.id, number.to_string(), "{event:?}");
            return event;
        }
    }
}

/// What an event of any of the event streams says.
pub(crate) fn of_event(event: &Event) -> Heard {
    match event.event.as_str() {
        "" | "message" => Heard::text(&event.data),
        "json" => Heard::text(event.json().as_str().expect("a string")),
        "binary" => Heard::Binary(bytes_of(&event.data)),
        "close" => of_close(&event.json()),
        other => panic!("unexpected event {other}: {event:?}"),
    }
}

fn of_frame(kind: u8, mut payload: Bytes) -> Option<Heard> {
    match kind {
        1 => Some(Heard::Text(String::from_utf8(payload.into()).expect("UTF-8"))),
        2 => Some(Heard::Binary(payload)),
        8 => {
            let code = payload.get_u16();
            assert_eq!(payload.get_u8() == 1, code != LOST, "clean");
            Some(Heard::Close(code, String::from_utf8(payload.into()).expect("UTF-8")))
        }
        9..=11 => None,
        other => panic!("unexpected frame {other}: {payload:?}"),
    }
}

fn of_message(message: &Message) -> Option<Heard> {
    match message {
        Message::Text(text) => Some(Heard::text(text.strip_prefix('1').expect("kind 1"))),
        Message::Binary(bytes) => of_frame(bytes[0], bytes.slice(1..)),
        other => panic!("unexpected message {other:?}"),
    }
}

fn of_answer(answer: &Value) -> impl Iterator<Item = Heard> {
    let messages = answer["messages"].as_array().expect("messages").iter().map(|message| match message.as_str() {
        Some(text) => Heard::text(text),
        None => Heard::Binary(bytes_of(message["base64"].as_str().expect("base64"))),
    });
    messages.chain(answer.get("close").filter(|close| !close.is_null()).map(of_close))
}

fn of_close(close: &Value) -> Heard {
    let code = close["code"].as_u64().and_then(|code| u16::try_from(code).ok()).expect("a code");
    assert_eq!(close["clean"], code != LOST, "{close}");
    Heard::Close(code, close["reason"].as_str().expect("a reason").to_owned())
}

fn bytes_of(text: &str) -> Bytes {
    STANDARD.decode(text).unwrap_or_else(|error| panic!("{error} in {text}")).into()
}
