//! Tests each transport the way a client uses it.
//!
//! Enters: the server, and the path of the conversation. Leaves: findings, and notes about what the network changed. Must not
//! touch: how findings are shown.

use std::future::{pending, poll_fn};
use std::time::Duration;

use bytes::BytesMut;
use http::Method;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::connect::{ConnectError, Connection};
use super::decode::{Decoder, Item, websocket};
use super::findings::Findings;
use super::requests::{SessionRequests, nonce};
use super::trial::Trial;
use crate::codec::frames::{Frame, WsPayload};
use crate::session::{Kind, Message};
use crate::upstream::dial::Io;
use crate::upstream::socket::{Socket, SocketEvent};

/// How many round trips are measured, and how long each may take.
const ECHOES: usize = 5;
const ECHO_TIMEOUT: Duration = Duration::from_secs(4);
/// After this time the messages that the server sends by itself have arrived, unless the network delays them.
const TICKS_TIMEOUT: Duration = Duration::from_millis(6500);
/// How many messages a burst has, and how long it may take.
const BURST: usize = 8;
const BURST_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the cursor is acknowledged.
const ACK_INTERVAL: Duration = Duration::from_secs(10);
/// How long a poll may wait, in seconds.
const POLL_WAIT: u64 = 25;
/// The pause between two attachments of a session.
const REATTACH_DELAY: Duration = Duration::from_millis(300);

/// Messages to be sent over a WebSocket.
type Outgoing = mpsc::UnboundedSender<Message>;

/// How messages are sent to the server: over the WebSocket (framed or not), or by POST.
enum Uplink<'a> {
    Socket(Outgoing, bool),
    Post(&'a SessionRequests<'a>),
}

impl Trial {
    /// Tests all transports until `ending`.
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
        let (sender, mut outgoing) = mpsc::unbounded_channel();
        self.native.start();
        let receive = async {
            match self.server.websocket(&self.target, None).await {
                Ok(socket) => {
                    self.receive_by_socket(&self.native, socket, &mut outgoing, false).await;
                }
                Err(error) => self.native.refused(error.to_string()),
            }
        };
        self.receive_and_measure(&self.native, receive, &Uplink::Socket(sender, false)).await;
    }

    /// Tests one transport with a session of its own.
    async fn session(&self, findings: &Findings) {
        let post = SessionRequests::new(self, findings);
        findings.start();
        if !post.open().await {
            return;
        }
        let (sender, mut outgoing) = mpsc::unbounded_channel();
        let by_socket = findings.name == self.ws.name;
        let receive = async {
            while !findings.has_failed() {
                let again = match findings.name {
                    "ws" => self.attach_socket(findings, &post, &mut outgoing).await,
                    "poll" => self.poll(findings, &post, &mut None).await,
                    _ => self.stream(findings, &post).await,
                };
                match again {
                    Ok(true) => sleep(REATTACH_DELAY).await,
                    Ok(false) => return,
                    Err(error) => findings.refused(error.to_string()),
                }
            }
        };
        let up = if by_socket { Uplink::Socket(sender, true) } else { Uplink::Post(&post) };
        self.receive_and_measure(findings, receive, &up).await;
        post.close().await;
    }

    /// Receives for as long as the transport is measured.
    async fn receive_and_measure(&self, findings: &Findings, receive: impl Future<Output = ()>, up: &Uplink<'_>) {
        let receive = async {
            receive.await;
            findings.with(|state| state.over = true);
            pending::<()>().await;
        };
        tokio::select! {
            () = self.measure(findings, up) => {}
            () = receive => {}
        }
    }

    async fn measure(&self, findings: &Findings, up: &Uplink<'_>) {
        let is_over = || findings.with(|state| state.over);
        if self.own {
            // The first wait includes opening the session; the second is for the server's own messages.
            let opened = findings.until(TICKS_TIMEOUT * 3, |state| state.begun.is_some() || state.over);
            tokio::select! { _ = opened => {}, () = self.ending.cancelled() => return }
            findings.until(TICKS_TIMEOUT, |state| state.all_ticks() || state.over).await;
            self.round_trips(findings, up).await;
        }
        let mut due = Instant::now() + ACK_INTERVAL;
        while !self.ending.is_cancelled() && !is_over() {
            tokio::select! {
                () = self.ending.cancelled() => {}
                _ = findings.until(Duration::from_secs(600), |state| state.over) => {}
                () = tokio::time::sleep_until(due) => {
                    due += ACK_INTERVAL;
                    up.acknowledge(findings).await;
                }
            }
        }
        let (silence, echoed) = findings.with(|state| (state.received_at.elapsed(), !state.rtts.is_empty()));
        if echoed && !is_over() && echo(findings, up).await.is_none() {
            findings.with(|state| state.dead_after = Some(silence));
        }
    }

    async fn round_trips(&self, findings: &Findings, up: &Uplink<'_>) {
        let mut missed = 0;
        for _ in 0..ECHOES {
            if missed == 2 || self.ending.is_cancelled() || findings.with(|state| state.over) {
                return;
            }
            match echo(findings, up).await {
                Some(took) => findings.with(|state| state.rtts.push(took)),
                None => missed += 1,
            }
        }
        let begun = Instant::now();
        up.send("burst").await;
        if findings.until(BURST_TIMEOUT, |state| state.bursts >= BURST || state.over).await {
            findings.with(|state| state.burst = (state.bursts >= BURST).then(|| state.received_at - begun));
        }
    }

    /// Receives by `sse` or `stream`. True when the session may be attached again.
    async fn stream(&self, findings: &Findings, post: &SessionRequests<'_>) -> Result<bool, ConnectError> {
        let sse = findings.name == "sse";
        let (accept, kind) =
            if sse { ("text/event-stream", "text/event-stream") } else { ("*/*", "application/octet-stream") };
        let started_at = Instant::now();
        let path = post.target(findings.name, "");
        let response = self.server.send(&mut None, Method::GET, &path, &[("accept", accept)], "").await?;
        if response.status() != 200 {
            return Err(ConnectError::Refused(response.status()));
        }
        self.note_changes(response.status().as_u16(), response.headers(), Some(kind));
        findings.opened();
        let mut decoder = if sse { Decoder::Events(BytesMut::new()) } else { Decoder::Frames(BytesMut::new()) };
        let (mut body, mut again) = (response.into_body(), false);
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { break };
            findings.with(|state| state.received_at = Instant::now());
            let Some(data) = frame.data_ref() else { continue };
            let items = match decoder.feed(data) {
                Ok(items) => items,
                Err(what) => {
                    findings.refused(what);
                    return Ok(true);
                }
            };
            for item in items {
                match item {
                    Item::Reconnect => again = true,
                    Item::End => return Ok(false),
                    item => self.record(findings, item, started_at, !sse),
                }
            }
        }
        if !again {
            findings.cut("");
        }
        Ok(true)
    }

    /// Receives by one poll after the other. True when polling failed and may be tried again.
    async fn poll(
        &self,
        findings: &Findings,
        post: &SessionRequests<'_>,
        connection: &mut Option<Connection>,
    ) -> Result<bool, ConnectError> {
        while self.poll_once(findings, post, connection).await? {}
        Ok(findings.was_cut())
    }

    async fn poll_once(
        &self,
        findings: &Findings,
        post: &SessionRequests<'_>,
        connection: &mut Option<Connection>,
    ) -> Result<bool, ConnectError> {
        let started_at = Instant::now();
        findings.attaching();
        // Without the self-test only the end of a wait can be measured, so the first waits are short.
        let wait = if self.own || findings.with(|state| !state.delays.is_empty()) { POLL_WAIT } else { 2 };
        let path = post.target("poll", &format!("&wait={wait}"));
        let response =
            self.request(connection, Method::GET, &path, &[], String::new(), Duration::from_secs(wait)).await?;
        let Some(body) = response.body.as_ref().filter(|_| response.status == 200) else {
            findings.refused(response.blame());
            return Ok(false);
        };
        findings.opened();
        let messages = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
        if !self.own && messages.is_empty() {
            let late = started_at.elapsed().saturating_sub(Duration::from_secs(wait));
            findings.with(|state| state.delays.push(late));
        }
        for message in messages {
            self.record(findings, Item::Text(message.as_str().unwrap_or_default().to_owned()), started_at, false);
        }
        findings.with(|state| state.cursor = body["after"].as_u64().unwrap_or(state.cursor));
        if messages.is_empty() && started_at.elapsed() < REATTACH_DELAY {
            sleep(Duration::from_secs(1)).await;
        }
        Ok(body.get("close").is_none() && body.get("superseded").is_none())
    }

    async fn attach_socket(
        &self,
        findings: &Findings,
        post: &SessionRequests<'_>,
        outgoing: &mut mpsc::UnboundedReceiver<Message>,
    ) -> Result<bool, ConnectError> {
        let socket = self.server.websocket(&post.target("ws", ""), Some("underpass.v1")).await?;
        Ok(self.receive_by_socket(findings, socket, outgoing, true).await)
    }

    /// Receives over a WebSocket until it closes. True when its session continues.
    async fn receive_by_socket(
        &self,
        findings: &Findings,
        mut socket: Socket<Io>,
        outgoing: &mut mpsc::UnboundedReceiver<Message>,
        framed: bool,
    ) -> bool {
        findings.opened();
        let started_at = Instant::now();
        findings.with(|state| {
            state.begun.get_or_insert(started_at);
        });
        loop {
            let next = poll_fn(|cx| {
                let next = socket.poll_next(cx);
                // An error shows when reading.
                let _ = socket.poll_flush(cx);
                next
            });
            let event = tokio::select! {
                event = next => event,
                Some(message) = outgoing.recv() => {
                    // Sending fails only while the socket closes, which the next event shows.
                    let _ = socket.send(&message);
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
                        Some(Item::Reconnect) => return true,
                        Some(Item::End) => return false,
                        Some(item) => self.record(findings, item, started_at, framed),
                        None => {}
                    }
                }
                SocketEvent::Pong => {}
                SocketEvent::TooLarge => findings.cut("a message too large"),
                SocketEvent::Closed(close) | SocketEvent::Failed(close) => {
                    findings.cut(format!("code {}", close.code));
                    return framed;
                }
            }
        }
    }

    /// Records an item. With `counts` a text has the next number, because its transport sends no numbers.
    fn record(&self, findings: &Findings, item: Item, started_at: Instant, counts: bool) {
        match item {
            Item::Cursor(cursor) => findings.with(|state| state.cursor = cursor),
            Item::Text(text) => {
                findings.with(|state| state.cursor += u64::from(counts));
                findings.deliver(&text);
                if !self.own {
                    findings.with(|state| state.delays.push(Duration::ZERO));
                }
            }
            // The server's own probe is sent at a known time, so it can be measured even when the backend sends nothing.
            Item::Heartbeat if !self.own => {
                let late = started_at.elapsed().saturating_sub(self.probe);
                findings.with(|state| {
                    if state.delays.is_empty() {
                        state.delays.push(late)
                    }
                });
            }
            Item::Heartbeat | Item::Reconnect | Item::End => findings.with(|state| state.received_at = Instant::now()),
        }
    }
}

impl Uplink<'_> {
    async fn send(&self, text: &str) {
        match self {
            // The receiving end lives as long as this one, so this cannot fail.
            Self::Socket(outgoing, framed) => {
                let _ = outgoing.send(Message::text(if *framed { format!("1{text}") } else { text.to_owned() }));
            }
            Self::Post(post) => post.send(text).await,
        }
    }

    async fn acknowledge(&self, findings: &Findings) {
        let cursor = findings.with(|state| state.cursor);
        match self {
            Self::Socket(outgoing, true) => {
                if let WsPayload::Binary(payload) = Frame::Ack(cursor).to_ws() {
                    let _ = outgoing.send(Message::binary(payload));
                }
            }
            Self::Socket(_, false) => {}
            Self::Post(post) => post.acknowledge().await,
        }
    }
}

/// The time until a text comes back.
async fn echo(findings: &Findings, up: &Uplink<'_>) -> Option<Duration> {
    let (text, begun) = (format!("echo-{}", nonce()), Instant::now());
    let sent = timeout(ECHO_TIMEOUT, up.send(&text)).await;
    (sent.is_ok() && findings.echoed(&text, ECHO_TIMEOUT).await).then(|| begun.elapsed())
}
