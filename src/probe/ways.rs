//! The ways to carry a conversation, each tried as a client would use it.
//!
//! Enters: a way to the server, and where the conversation is. Leaves: rows that know what happened, and notes on what was
//! changed on the way. Must not touch: words about it.

use std::future::{pending, poll_fn};
use std::time::Duration;

use bytes::BytesMut;
use http::Method;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::asking::{Post, fresh};
use super::reach::{Line, ReachError};
use super::read::{Item, Reader, websocket};
use super::row::Row;
use super::trial::Trial;
use crate::codec::frames::{Frame, WsPayload};
use crate::session::{Kind, Message};
use crate::upstream::dial::Io;
use crate::upstream::socket::{Socket, SocketEvent};

/// How many words are sent to come back, and how long each may take.
const ECHOES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(4);
/// The self-test's own messages are there after this, unless they are held.
const TALKING: Duration = Duration::from_millis(6500);
/// A burst is so many messages, and may take so long.
const BURST: usize = 8;
const BURST_PATIENCE: Duration = Duration::from_secs(20);
/// How often a cursor is presented.
const ACK: Duration = Duration::from_secs(10);
/// How long a poll may wait, in seconds.
const WAIT: u64 = 25;
/// Between two attachments of a session.
const AGAIN: Duration = Duration::from_millis(300);

/// A word for the other end.
type Sender = mpsc::UnboundedSender<Message>;

/// What goes up: by the WebSocket, or by POST.
enum Up<'a> {
    Socket(Sender, bool),
    Post(&'a Post<'a>),
}

impl Trial {
    /// Tries all of them until `ending`.
    pub(super) async fn run(&self) {
        let (native, rest) = (self.native(), async {
            tokio::join!(
                self.session(&self.ws),
                self.session(&self.sse),
                self.session(&self.stream),
                self.session(&self.poll)
            )
        });
        tokio::join!(native, rest);
    }

    async fn native(&self) {
        let (sender, mut words) = mpsc::unbounded_channel();
        self.native.asking();
        let path = if self.own { format!("{}/selftest/talk", self.way.prefix) } else { self.target.clone() };
        let carry = async {
            match self.way.websocket(&path, None).await {
                Ok(socket) => {
                    self.carry_socket(&self.native, socket, &mut words, false).await;
                }
                Err(error) => self.native.refused(error.to_string()),
            }
        };
        self.both(&self.native, carry, &Up::Socket(sender, false)).await;
    }

    /// One session, and the transport that carries it.
    async fn session(&self, row: &Row) {
        let post = Post::new(self, row);
        row.asking();
        if !post.open().await {
            return;
        }
        let (sender, mut words) = mpsc::unbounded_channel();
        let by_socket = row.name == self.ws.name;
        let carry = async {
            while !row.is_hopeless() {
                let again = match row.name {
                    "ws" => self.attach_socket(row, &post, &mut words).await,
                    "poll" => self.poll(row, &post, &mut None).await,
                    _ => self.stream(row, &post).await,
                };
                match again {
                    Ok(true) => sleep(AGAIN).await,
                    Ok(false) => return,
                    Err(error) => row.refused(error.to_string()),
                }
            }
        };
        let up = if by_socket { Up::Socket(sender, true) } else { Up::Post(&post) };
        self.both(row, carry, &up).await;
        post.close().await;
    }

    /// Carries for as long as it is measured.
    async fn both(&self, row: &Row, carry: impl Future<Output = ()>, up: &Up<'_>) {
        let carry = async {
            carry.await;
            row.with(|seen| seen.over = true);
            pending::<()>().await;
        };
        tokio::select! {
            () = self.measure(row, up) => {}
            () = carry => {}
        }
    }

    async fn measure(&self, row: &Row, up: &Up<'_>) {
        let lost = || row.with(|seen| seen.over);
        if self.own {
            // Until it has begun, this is how long it may take to open; then its messages come.
            let opened = row.until(TALKING * 3, |seen| seen.begun.is_some() || seen.over);
            tokio::select! { _ = opened => {}, () = self.ending.cancelled() => return }
            row.until(TALKING, |seen| seen.all_ticks() || seen.over).await;
            self.round_trips(row, up).await;
        }
        let mut due = Instant::now() + ACK;
        while !self.ending.is_cancelled() && !lost() {
            tokio::select! {
                () = self.ending.cancelled() => {}
                _ = row.until(Duration::from_secs(600), |seen| seen.over) => {}
                () = tokio::time::sleep_until(due) => {
                    due += ACK;
                    up.acknowledge(row).await;
                }
            }
        }
        let (quiet, talked) = row.with(|seen| (seen.heard.elapsed(), !seen.rtts.is_empty()));
        if talked && !lost() && echo(row, up).await.is_none() {
            row.with(|seen| seen.mute = Some(quiet));
        }
    }

    async fn round_trips(&self, row: &Row, up: &Up<'_>) {
        let mut missed = 0;
        for _ in 0..ECHOES {
            if missed == 2 || self.ending.is_cancelled() || row.with(|seen| seen.over) {
                return;
            }
            match echo(row, up).await {
                Some(took) => row.with(|seen| seen.rtts.push(took)),
                None => missed += 1,
            }
        }
        let begun = Instant::now();
        up.say("burst").await;
        if row.until(BURST_PATIENCE, |seen| seen.bursts >= BURST || seen.over).await {
            row.with(|seen| seen.burst = (seen.bursts >= BURST).then(|| seen.heard - begun));
        }
    }

    /// `sse` or `stream`; true when it may be attached again.
    async fn stream(&self, row: &Row, post: &Post<'_>) -> Result<bool, ReachError> {
        let sse = row.name == "sse";
        let (accept, kind) =
            if sse { ("text/event-stream", "text/event-stream") } else { ("*/*", "application/octet-stream") };
        let asked = Instant::now();
        let path = post.address(row.name, "");
        let answer = self.way.ask(&mut None, Method::GET, &path, &[("accept", accept)], "").await?;
        if answer.status() != 200 {
            return Err(ReachError::Refused(answer.status()));
        }
        self.look(answer.status().as_u16(), answer.headers(), Some(kind));
        row.opened();
        let mut reader = if sse { Reader::Events(BytesMut::new()) } else { Reader::Frames(BytesMut::new()) };
        let (mut body, mut again) = (answer.into_body(), false);
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { break };
            row.with(|seen| seen.heard = Instant::now());
            let Some(data) = frame.data_ref() else { continue };
            let items = match reader.feed(data) {
                Ok(items) => items,
                Err(what) => {
                    row.refused(what);
                    return Ok(true);
                }
            };
            for item in items {
                match item {
                    Item::Again => again = true,
                    Item::Over => return Ok(false),
                    item => self.take(row, item, asked, !sse),
                }
            }
        }
        if !again {
            row.cut("");
        }
        Ok(true)
    }

    /// One poll after the other; true when something went wrong.
    async fn poll(&self, row: &Row, post: &Post<'_>, line: &mut Option<Line>) -> Result<bool, ReachError> {
        while self.poll_once(row, post, line).await? {}
        Ok(row.was_cut())
    }

    async fn poll_once(&self, row: &Row, post: &Post<'_>, line: &mut Option<Line>) -> Result<bool, ReachError> {
        let asked = Instant::now();
        row.attaching();
        // Of a foreign backend only the end of a wait can be seen, so it is a short one at first.
        let wait = if self.own || row.with(|seen| !seen.delays.is_empty()) { WAIT } else { 2 };
        let path = post.address("poll", &format!("&wait={wait}"));
        let answer = self.ask(line, Method::GET, &path, &[], String::new(), Duration::from_secs(wait)).await?;
        let Some(body) = answer.body.as_ref().filter(|_| answer.status == 200) else {
            row.refused(answer.blame());
            return Ok(false);
        };
        row.opened();
        let messages = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
        if !self.own && messages.is_empty() {
            let late = asked.elapsed().saturating_sub(Duration::from_secs(wait));
            row.with(|seen| seen.delays.push(late));
        }
        for message in messages {
            self.take(row, Item::Text(message.as_str().unwrap_or_default().to_owned()), asked, false);
        }
        row.with(|seen| seen.cursor = body["after"].as_u64().unwrap_or(seen.cursor));
        if messages.is_empty() && asked.elapsed() < AGAIN {
            sleep(Duration::from_secs(1)).await;
        }
        Ok(body.get("close").is_none() && body.get("superseded").is_none())
    }

    async fn attach_socket(
        &self,
        row: &Row,
        post: &Post<'_>,
        words: &mut mpsc::UnboundedReceiver<Message>,
    ) -> Result<bool, ReachError> {
        let socket = self.way.websocket(&post.address("ws", ""), Some("underpass.v1")).await?;
        Ok(self.carry_socket(row, socket, words, true).await)
    }

    /// A WebSocket to its end; true when its session goes on.
    async fn carry_socket(
        &self,
        row: &Row,
        mut socket: Socket<Io>,
        words: &mut mpsc::UnboundedReceiver<Message>,
        framed: bool,
    ) -> bool {
        row.opened();
        let asked = Instant::now();
        row.with(|seen| {
            seen.begun.get_or_insert(asked);
        });
        loop {
            let next = poll_fn(|cx| {
                let next = socket.poll_next(cx);
                // An error is found by reading.
                let _ = socket.poll_flush(cx);
                next
            });
            let event = tokio::select! {
                event = next => event,
                Some(word) = words.recv() => {
                    // Refused only when it is closing, which the next event tells.
                    let _ = socket.send(&word);
                    continue;
                }
            };
            match event {
                SocketEvent::Message(message) => {
                    let is_text = message.kind() == Kind::Text;
                    let item = match framed {
                        true => websocket(message.payload(), is_text),
                        false => Some(Item::Text(String::from_utf8_lossy(message.payload()).into_owned())),
                    };
                    match item {
                        Some(Item::Again) => return true,
                        Some(Item::Over) => return false,
                        Some(item) => self.take(row, item, asked, framed),
                        None => {}
                    }
                }
                SocketEvent::Pong => {}
                SocketEvent::TooLarge => row.cut("a message too large"),
                SocketEvent::Closed(close) | SocketEvent::Failed(close) => {
                    row.cut(format!("code {}", close.code));
                    return framed;
                }
            }
        }
    }

    /// Something came. `counts`: a message takes the next number, as nothing else says which it has.
    fn take(&self, row: &Row, item: Item, asked: Instant, counts: bool) {
        match item {
            Item::Cursor(cursor) => row.with(|seen| seen.cursor = cursor),
            Item::Text(text) => {
                row.with(|seen| seen.cursor += u64::from(counts));
                row.deliver(&text);
                if !self.own {
                    row.with(|seen| seen.delays.push(Duration::ZERO));
                }
            }
            // The server's own probe, which is due at a known time, tells of a backend that is silent.
            Item::Heartbeat if !self.own => {
                let late = asked.elapsed().saturating_sub(self.probe);
                row.with(|seen| {
                    if seen.delays.is_empty() {
                        seen.delays.push(late)
                    }
                });
            }
            Item::Heartbeat | Item::Again | Item::Over => row.with(|seen| seen.heard = Instant::now()),
        }
    }
}

impl Up<'_> {
    async fn say(&self, text: &str) {
        match self {
            // The other half lives as long as this one.
            Self::Socket(words, framed) => {
                let _ = words.send(Message::text(if *framed { format!("1{text}") } else { text.to_owned() }));
            }
            Self::Post(post) => post.send(text).await,
        }
    }

    async fn acknowledge(&self, row: &Row) {
        let cursor = row.with(|seen| seen.cursor);
        match self {
            Self::Socket(words, true) => {
                if let WsPayload::Binary(payload) = Frame::Ack(cursor).to_ws() {
                    let _ = words.send(Message::binary(payload));
                }
            }
            Self::Socket(_, false) => {}
            Self::Post(post) => post.acknowledge().await,
        }
    }
}

/// The time until a word is back.
async fn echo(row: &Row, up: &Up<'_>) -> Option<Duration> {
    let (text, begun) = (format!("echo-{}", fresh()), Instant::now());
    let sent = timeout(PATIENCE, up.say(&text)).await;
    (sent.is_ok() && row.echoed(&text, PATIENCE).await).then(|| begun.elapsed())
}
