//! What the demo server says: echo, clock and chat.
//!
//! Enters: a path with its query, then an open WebSocket. Leaves: messages on that WebSocket and, at the end, a close
//! frame with a code and a reason. Must not touch: HTTP, the handshake, any other room.
//!
//! Nothing here grows without bound: the chat keeps [`BACKLOG`] lines for its slowest member, and a member who falls
//! further behind is closed with 1013, so that one reader who has stopped reading cannot hold up or bloat the room.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

/// An accepted WebSocket.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The largest message taken, in bytes.
const MESSAGE: usize = 1 << 20;
/// The largest chat line, in bytes.
const LINE: usize = 4096;
/// The longest name of a chat member, in characters; the rest is cut off.
const NAME: usize = 32;
/// Lines the room keeps for a member who reads slowly.
const BACKLOG: usize = 256;
/// The longest reason of a close frame, in bytes (RFC 6455, section 5.5: 125 with the code).
const REASON: usize = 123;
/// How long a peer may leave one message unread before the server gives up on it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the server waits for the other half of the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Explicit bounds: the defaults of tungstenite are 64 MiB a message and an unbounded write buffer.
pub(super) fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MESSAGE)
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE))
}

/// A conversation, as the client's path and query ask for it.
#[derive(Debug, PartialEq)]
pub(super) enum Conversation {
    /// Each message back as it came; with a farewell, closed by it after the first one.
    Echo { farewell: Option<CloseFrame> },
    /// A message each second, the first at once.
    Clock,
    /// The chat room; with `clock`, the same ticks as [`Conversation::Clock`] among its lines.
    Chat { name: String, clock: bool },
}

impl Conversation {
    /// Reads path and query; `Ok(None)` when there is no conversation at this path.
    ///
    /// # Errors
    /// When the query cannot be satisfied; the text says what may be written instead.
    pub(super) fn parse(path: &str, query: &str) -> Result<Option<Self>, &'static str> {
        let field = |name: &str| {
            form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        Ok(Some(match path {
            "/echo" => Self::Echo { farewell: farewell(field("close"), field("reason"))? },
            "/clock" => Self::Clock,
            "/chat" => {
                let name: String = field("name").unwrap_or_default().trim().chars().take(NAME).collect();
                let name = if name.is_empty() { "guest".to_owned() } else { name };
                Self::Chat { name, clock: field("clock").is_some() }
            }
            _ => return Ok(None),
        }))
    }

    /// Returns when one side has ended the conversation.
    pub(super) async fn run(self, socket: &mut Socket, room: &Room) {
        match self {
            Self::Echo { farewell } => echo(socket, farewell).await,
            Self::Clock => clock(socket).await,
            Self::Chat { name, clock } => chat(socket, room, &name, clock).await,
        }
    }
}

/// The one chat room of a server.
pub(super) struct Room {
    lines: broadcast::Sender<Utf8Bytes>,
    /// How many lines were sent. Sending happens under this lock, so that lines arrive in the order of their numbers.
    said: Mutex<u64>,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { lines: broadcast::channel(BACKLOG).0, said: Mutex::new(0) }
    }

    /// Sends to everybody in the room. An empty `from` stands for the room itself: somebody joined or left.
    fn say(&self, from: &str, text: &str) {
        let mut said: MutexGuard<'_, u64> = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        *said += 1;
        // An error means that the room is empty.
        let _ = self.lines.send(json(&Line { from, text, line: *said }));
    }
}

/// What a chat member receives. `line` counts the room's lines, so that a client can tell whether it has missed one.
#[derive(Serialize)]
struct Line<'a> {
    from: &'a str,
    text: &'a str,
    line: u64,
}

/// What the clock sends; `time` is in milliseconds since 1970, UTC.
#[derive(Serialize)]
struct Tick {
    tick: u64,
    time: u64,
}

/// Tells the room on drop that the member left, however the conversation ended.
struct Member<'a> {
    room: &'a Room,
    name: &'a str,
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.room.say("", &format!("{} left", self.name));
    }
}

async fn echo(socket: &mut Socket, farewell: Option<CloseFrame>) {
    while let Some(message) = next_message(socket).await {
        if !send(socket, message).await {
            return;
        }
        if let Some(frame) = &farewell {
            return close(socket, frame.clone()).await;
        }
    }
}

async fn clock(socket: &mut Socket) {
    let mut ticks = Ticks::new();
    loop {
        tokio::select! {
            tick = ticks.next() => if !send(socket, tick).await { return },
            // Read only so that pings and the close are answered.
            message = next_message(socket) => if message.is_none() { return },
        }
    }
}

async fn chat(socket: &mut Socket, room: &Room, name: &str, clock: bool) {
    let mut lines = room.lines.subscribe();
    room.say("", &format!("{name} joined"));
    let _member = Member { room, name };
    let mut ticks = Ticks::new();
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Ok(line) => if !send(socket, Message::Text(line)).await {
                    return close(socket, frame(CloseCode::Again, "too slow for this room")).await;
                },
                Err(RecvError::Lagged(_)) => return close(socket, frame(CloseCode::Again, "too slow for this room")).await,
                Err(RecvError::Closed) => return,
            },
            tick = ticks.next(), if clock => if !send(socket, tick).await { return },
            message = next_message(socket) => match message {
                Some(Message::Text(text)) if text.len() <= LINE => room.say(name, &text),
                Some(Message::Text(_)) => return close(socket, frame(CloseCode::Size, "a line is at most 4096 bytes")).await,
                Some(_) => return close(socket, frame(CloseCode::Unsupported, "this room takes text only")).await,
                None => return,
            },
        }
    }
}

/// One tick a second, the first at once. After a delay it continues from now instead of sending the missed ones in a burst.
struct Ticks {
    every: Interval,
    count: u64,
}

impl Ticks {
    fn new() -> Self {
        let mut every = interval(Duration::from_secs(1));
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { every, count: 0 }
    }

    async fn next(&mut self) -> Message {
        self.every.tick().await;
        self.count += 1;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Message::Text(json(&Tick { tick: self.count, time }))
    }
}

/// The next text or binary message; `None` once the conversation is over.
async fn next_message(socket: &mut Socket) -> Option<Message> {
    loop {
        match socket.next().await? {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => return Some(message),
            // tungstenite answers pings and the close itself; after the close the stream ends.
            Ok(_) => {}
            Err(Error::Capacity(_)) => {
                refuse_oversize(socket).await;
                return None;
            }
            Err(_) => return None,
        }
    }
}

/// False when the peer is gone, or has read nothing for [`WRITE_TIMEOUT`].
async fn send(socket: &mut Socket, message: Message) -> bool {
    matches!(timeout(WRITE_TIMEOUT, socket.send(message)).await, Ok(Ok(())))
}

/// Sends the close frame and waits a short time for the peer's, so that a reset does not discard ours.
pub(super) async fn close(socket: &mut Socket, frame: CloseFrame) {
    let handshake = async {
        if socket.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    // An error means that the peer did not answer in time; the connection is dropped then.
    let _ = timeout(CLOSE_TIMEOUT, handshake).await;
}

/// Closes with 1009, then reads and discards what still arrives: if we stopped reading, the connection would be reset and the
/// close frame lost on its way.
async fn refuse_oversize(socket: &mut Socket) {
    let farewell = async {
        if socket.close(Some(frame(CloseCode::Size, "a message is at most 1 MiB"))).await.is_ok() {
            let _ = tokio::io::copy(socket.get_mut(), &mut tokio::io::sink()).await;
        }
    };
    let _ = timeout(CLOSE_TIMEOUT, farewell).await;
}

pub(super) fn frame(code: CloseCode, reason: &'static str) -> CloseFrame {
    CloseFrame { code, reason: Utf8Bytes::from_static(reason) }
}

fn farewell(code: Option<String>, reason: Option<String>) -> Result<Option<CloseFrame>, &'static str> {
    let Some(code) = code else { return Ok(None) };
    let code = code.parse::<u16>().map(CloseCode::from).ok().filter(|code| code.is_allowed());
    let code = code.ok_or("close must be a close code that may be sent, such as 1000 or 4001")?;
    let reason = reason.unwrap_or_default();
    if reason.len() > REASON {
        return Err("reason must be at most 123 bytes");
    }
    Ok(Some(CloseFrame { code, reason: reason.into() }))
}

fn json(value: &impl Serialize) -> Utf8Bytes {
    // Strings and numbers under fixed keys cannot fail to become JSON.
    serde_json::to_string(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_the_conversation() {
        let chat = Conversation::Chat { name: "a b".to_owned(), clock: true };
        assert_eq!(Conversation::parse("/chat", "name=a%20b&clock"), Ok(Some(chat)));
        assert_eq!(Conversation::parse("/clock", ""), Ok(Some(Conversation::Clock)));
        assert_eq!(Conversation::parse("/other", ""), Ok(None));
    }

    #[test]
    fn an_empty_or_endless_name_is_mended() {
        assert_eq!(
            Conversation::parse("/chat", "name=+"),
            Ok(Some(Conversation::Chat { name: "guest".to_owned(), clock: false }))
        );
        let endless = format!("name={}", "ä".repeat(40));
        assert_eq!(
            Conversation::parse("/chat", &endless),
            Ok(Some(Conversation::Chat { name: "ä".repeat(32), clock: false }))
        );
    }

    #[test]
    fn a_close_that_cannot_be_sent_is_refused() {
        for query in ["close=1005", "close=1006", "close=999", "close=65536", "close=soon"] {
            assert!(Conversation::parse("/echo", query).is_err(), "{query}");
        }
        assert!(Conversation::parse("/echo", &format!("close=4001&reason={}", "x".repeat(124))).is_err());
        let frame = CloseFrame { code: CloseCode::Library(4001), reason: "kicked".into() };
        assert_eq!(
            Conversation::parse("/echo", "close=4001&reason=kicked"),
            Ok(Some(Conversation::Echo { farewell: Some(frame) }))
        );
    }
}
