//! Messages of the largest size, by default 16 MiB, both ways on each transport, byte for byte; and what is let go of behind
//! them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::hostile::raw::{Wire, request};
use crate::support::site::{Backend, BackendSocket, Opened, Site, soon};

const SIZE: usize = 16 * 1024 * 1024;

/// A text of the largest size, no two lines of which are alike, with characters of several bytes.
fn text() -> String {
    let lines: String = (0..SIZE / 32).map(|line| format!("line {line:016} ä€ \"\\\n")).collect();
    let mut text = lines[..lines.floor_char_boundary(SIZE)].to_owned();
    text.extend(std::iter::repeat_n('.', SIZE - text.len()));
    text
}

/// Bytes of the largest size, without a short period.
fn binary() -> Vec<u8> {
    (0..SIZE as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// What was sent, without a diff of 16 MiB where it is not what came.
fn assert_same(came: &[u8], sent: &[u8], how: &str) {
    let differs = came.iter().zip(sent).position(|(came, sent)| came != sent);
    assert_eq!((came.len(), differs), (sent.len(), None), "length, and where it differs: {how}");
}

/// Has the backend send a message while the client reads.
async fn sends<T>(backend: &mut BackendSocket, message: Message, read: impl Future<Output = T>) -> T {
    let send = async { soon("a message is taken", backend.ws.send(message)).await.expect("the sidecar takes it") };
    let ((), came) = tokio::join!(send, read);
    came
}

struct Talk {
    site: Site,
    opened: Opened,
    backend: BackendSocket,
    /// Keeps it listening.
    _listens: Backend,
}

impl Talk {
    async fn begin(more: &str) -> Self {
        let mut listens = Backend::start().await;
        let site = Site::start(listens.at, &format!("admin = \"127.0.0.1:0\"\n{more}"));
        let opened = site.open("/").await;
        let backend = listens.accept().await;
        Self { site, opened, backend, _listens: listens }
    }

    /// The session's WebSocket, of a client that takes frames a little larger than the largest message.
    async fn websocket(&self) -> WebSocketStream<TcpStream> {
        let url = format!("ws://{}{}/ws?after=0", self.site.at, self.opened.url);
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("sec-websocket-protocol", "underpass.v1".parse().expect("a value"));
        let socket = TcpStream::connect(self.site.at).await.expect("it listens");
        let config = WebSocketConfig::default().max_frame_size(Some(2 * SIZE)).max_message_size(Some(2 * SIZE));
        tokio_tungstenite::client_async_with_config(request, socket, Some(config)).await.expect("a WebSocket").0
    }

    /// Acknowledges, without which the backend is not read.
    async fn ack(&self, after: u64) {
        let reply = self.site.post(&format!("{}/ack?after={after}", self.opened.url), "").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    async fn poll(&self, after: u64, more: &str) -> Bytes {
        self.site.get(&format!("{}/poll?after={after}{more}", self.opened.url)).await.body
    }

    /// Sends a body; what the backend gets of it.
    async fn send(&mut self, form: &str, body: impl Into<Bytes>) -> Message {
        let path = format!("{}/send?as={form}", self.opened.url);
        let (reply, came) = tokio::join!(self.site.request(Method::POST, &path, &[], body), self.backend.next());
        assert_eq!(reply.status, 200, "{form}: {}", reply.text());
        came
    }
}

#[tokio::test]
async fn a_message_of_16_mib_comes_down_as_events() {
    let mut talk = Talk::begin("").await;
    let mut stream = talk.site.stream(&format!("{}/sse?after=0", talk.opened.url), &[]).await;
    assert_eq!(stream.told().await.event, "session");
    let (text, binary) = (text(), binary());
    let event = sends(&mut talk.backend, Message::text(text.clone()), stream.told()).await;
    assert_same(event.data.as_bytes(), text.as_bytes(), "a text as lines");
    talk.ack(1).await;
    let returns = text.replace('\n', "\r");
    let event = sends(&mut talk.backend, Message::text(returns.clone()), stream.told()).await;
    assert_same(event.json().as_str().expect("a text").as_bytes(), returns.as_bytes(), "a text as JSON");
    talk.ack(2).await;
    let event = sends(&mut talk.backend, Message::binary(binary.clone()), stream.told()).await;
    assert_eq!((event.event.as_str(), event.id.as_str()), ("binary", "3"));
    assert_same(&STANDARD.decode(event.data).expect("base64"), &binary, "bytes as base64");
}

#[tokio::test]
async fn a_message_of_16_mib_comes_down_as_frames() {
    let mut talk = Talk::begin("").await;
    let mut stream = talk.site.stream(&format!("{}/stream?after=0", talk.opened.url), &[]).await;
    let (text, binary) = (text(), binary());
    for (message, kind) in [(Message::text(text), 1), (Message::binary(binary), 2)] {
        let sent = message.clone().into_data();
        let frame = async {
            loop {
                let (kind, payload) = stream.frame().await.expect("it goes on");
                if kind < 8 {
                    return (kind, payload);
                }
            }
        };
        let (came, payload) = sends(&mut talk.backend, message, frame).await;
        assert_eq!(came, kind);
        assert_same(&payload, &sent, "a frame");
        talk.ack(u64::from(kind)).await;
    }
}

#[tokio::test]
async fn a_message_of_16_mib_comes_down_in_polls() {
    let mut talk = Talk::begin("").await;
    let (text, binary) = (text(), binary());
    for (at, message) in [Message::text(text), Message::binary(binary)].into_iter().enumerate() {
        let sent = message.clone().into_data();
        talk.backend.ws.send(message).await.expect("the sidecar takes it");
        let json: Value = serde_json::from_slice(&talk.poll(at as u64, "").await).expect("JSON");
        let came = match &json["messages"][0] {
            Value::String(text) => text.clone().into_bytes(),
            binary => STANDARD.decode(binary["base64"].as_str().expect("bytes")).expect("base64"),
        };
        assert_same(&came, &sent, "JSON");
        let frames = talk.poll(at as u64, "&as=frames").await;
        let facts = 5 + u32::from_be_bytes(*frames[1..].first_chunk().expect("a length")) as usize;
        assert_same(&frames[facts + 5..], &sent, "frames");
        talk.ack(at as u64 + 1).await;
    }
}

#[tokio::test]
async fn a_message_of_16_mib_goes_both_ways_on_a_websocket() {
    let mut talk = Talk::begin("").await;
    let mut ws = talk.websocket().await;
    let (text, binary) = (text(), binary());
    for (message, kind) in [(Message::text(text), b'1'), (Message::binary(binary), 2)] {
        let sent = message.clone().into_data();
        let read = async {
            loop {
                let message = soon("a frame", ws.next()).await.expect("it goes on").expect("no error");
                let data = message.into_data();
                if data.first() == Some(&kind) {
                    return data;
                }
            }
        };
        let came = sends(&mut talk.backend, message.clone(), read).await;
        assert_same(&came[1..], &sent, "down");
        talk.ack(if kind == 2 { 2 } else { 1 }).await;
        let framed = match message {
            Message::Text(text) => Message::text(format!("1{text}")),
            binary => Message::binary([&[2][..], &binary.into_data()].concat()),
        };
        let sending = async { ws.send(framed).await.expect("it is taken") };
        let ((), came) = tokio::join!(sending, talk.backend.next());
        assert_same(&came.into_data(), &sent, "up");
    }
}

#[tokio::test]
async fn a_message_of_16_mib_goes_up_in_every_form() {
    let mut talk = Talk::begin("").await;
    let (text, binary) = (text(), binary());
    let base64 = STANDARD.encode(&binary);
    let came = talk.send("text", text.clone()).await;
    assert_same(&came.into_data(), text.as_bytes(), "text");
    let came = talk.send("json", json!({"messages": [text]}).to_string()).await;
    assert_same(&came.into_data(), text.as_bytes(), "JSON");
    let frame = [&[1][..], &(SIZE as u32).to_be_bytes(), text.as_bytes()].concat();
    let came = talk.send("frames", frame).await;
    assert!(came.is_text());
    assert_same(&came.into_data(), text.as_bytes(), "frames");
    let came = talk.send("binary", binary.clone()).await;
    assert_same(&came.into_data(), &binary, "binary");
    let came = talk.send("json", format!("{{\"messages\":[{{\"base64\":\"{base64}\"}}]}}")).await;
    assert_same(&came.into_data(), &binary, "JSON's base64");
    let escaped = base64.replace('+', "%2B").replace('/', "%2F");
    let came = talk.send("form", format!("messages=[{{\"base64\":\"{escaped}\"}}]")).await;
    assert_same(&came.into_data(), &binary, "a form");
}

/// Escapes make the JSON of a text as much as six times longer than the text.
#[tokio::test]
async fn a_text_that_json_makes_too_long_for_a_body_is_refused_and_goes_as_it_is() {
    let mut talk = Talk::begin("").await;
    let text = "\u{1}".repeat(SIZE);
    let json = json!({"messages": [text]}).to_string();
    let path = format!("{}/send?seq=1&as=json", talk.opened.url);
    // Refused by its length: what is still written then may break off before the answer is read.
    let length = json.len().to_string();
    let mut wire = Wire::open(talk.site.at).await;
    wire.write(&request("POST", &path, &[("Content-Length", &length)], b"")).await;
    let answer = wire.answer(false).await.expect("an answer");
    assert_eq!((answer.status, answer.refused().as_str()), (413, "too_large"));
    assert_eq!(answer.json()["limit"], 24 * 1024 * 1024);
    let came = talk.send("text", text.clone()).await;
    assert_same(&came.into_data(), text.as_bytes(), "text");
}

#[tokio::test]
async fn large_messages_wait_behind_a_gap_and_in_the_queue() {
    let mut talk = Talk::begin("").await;
    let large = |first: u8| {
        let mut payload = vec![first; SIZE];
        payload[SIZE - 1] = 0;
        payload
    };
    let url = talk.opened.url.clone();
    let early = talk.site.request(Method::POST, &format!("{url}/send?seq=2&as=binary"), &[], large(2)).await;
    assert_eq!(early.json()["next"], 1, "kept behind the gap, though it is larger than the queue");
    let path = format!("{url}/send?seq=1&as=binary");
    let (gap, one) = tokio::join!(talk.site.request(Method::POST, &path, &[], large(1)), talk.backend.next());
    assert_eq!(gap.json()["next"], 3);
    assert_same(&one.into_data(), &large(1), "the first");
    assert_same(&talk.backend.next().await.into_data(), &large(2), "the one behind the gap");
}

#[tokio::test]
async fn what_was_large_is_given_back_once_it_has_arrived() {
    let mut talk = Talk::begin("").await;
    let mut ws = talk.websocket().await;
    for number in 1..=2 {
        let read = async { while soon("a frame", ws.next()).await.expect("open").expect("no error").len() < SIZE {} };
        sends(&mut talk.backend, Message::binary(binary()), read).await;
        let framed = Message::binary([&[2][..], &binary()].concat());
        let sending = async { ws.send(framed).await.expect("it is taken") };
        tokio::join!(sending, talk.backend.next());
        let held = talk.site.metric("underpass_memory_held_bytes").await;
        assert!((SIZE as f64..1.1 * SIZE as f64).contains(&held), "{held}: one message, which is not acknowledged");
        talk.ack(number).await;
        talk.site.counts("underpass_memory_held_bytes", 0.0).await;
    }
}
