//! The `ws` transport: a session over a WebSocket that ends here, one frame per message (PROTOCOL 4.4).
//!
//! Enters: an upgraded connection and a reader. Leaves: frames both ways until either side ends the attachment. Must
//! not touch: how frames are encoded, what the session does with them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::fault::Fault;
use super::greeting::{self, Arrival};
use crate::codec::frames::{ClientFrame, Frame, WsPayload};
use crate::http::body::Body;
use crate::http::fields::{has_token, tokens};
use crate::registry::{Intake, LiveSession, Moved, Reader, Refused};
use crate::session::{Close, Kind, Message, Pulled, Pushed};
use crate::upstream::socket::{Socket, SocketEvent};

/// The subprotocol of these WebSockets.
pub const SUBPROTOCOL: &str = "underpass.v1";
/// What stands before a token that is offered as a subprotocol: browsers write the URL of a WebSocket that failed into
/// their console, so it names the session only by its public beginning.
const TOKEN: &str = "underpass.token.";
/// Payload bytes pulled before the socket is flushed.
const CHUNK: usize = 16 * 1024;
/// Why a WebSocket ends whose session has moved.
const MOVED: &str = "the session has moved";
/// Room for our own frames when messages are configured very small.
const LEAST_LIMIT: usize = 8 * 1024;
/// How long the client may take to send its close frame after ours.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// After how many milliseconds a client comes back whose session has moved: at once.
const MOVED_MS: u32 = 0;
/// After how many milliseconds a client comes back when this process stops: the next one needs a moment to start.
const STOPPING_MS: u32 = 1000;

/// The token that a handshake offers as a subprotocol.
#[must_use]
pub fn offered_token(headers: &HeaderMap) -> Option<&str> {
    tokens(headers, &SEC_WEBSOCKET_PROTOCOL).find_map(|name| name.strip_prefix(TOKEN))
}

/// A checked handshake without a response yet.
pub struct Handshake {
    accept: HeaderValue,
}

impl Handshake {
    /// Checks a handshake whose `Upgrade` field was not lost on the way.
    ///
    /// # Errors
    /// [`Fault::BadRequest`] naming what is missing.
    pub fn check(headers: &HeaderMap) -> Result<Self, Fault> {
        let missing = |what: &str| Fault::BadRequest(format!("a WebSocket for a session needs `{what}`"));
        if !has_token(headers, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
            return Err(missing("Sec-WebSocket-Protocol: underpass.v1"));
        }
        if headers.get("sec-websocket-version").is_none_or(|version| version != "13") {
            return Err(missing("Sec-WebSocket-Version: 13"));
        }
        let key = headers.get("sec-websocket-key").ok_or_else(|| missing("Sec-WebSocket-Key"))?;
        let accept = derive_accept_key(key.as_bytes());
        Ok(Self { accept: HeaderValue::from_str(&accept).map_err(|_| missing("Sec-WebSocket-Key"))? })
    }

    /// Responds 101; behind it the connection carries the session.
    #[must_use]
    pub fn respond(self, reader: Reader, url: &str) -> Response<Body> {
        let next = reader.session().progress().counts.next;
        let greeting = greeting::of_attachment(&reader, url, Arrival::Known, next);
        let mut response = Response::new(Body::upgrade(move |connection| {
            let limit = reader.session().policy().message.max(LEAST_LIMIT) + 1;
            Carrier::new(Socket::server(connection, Bytes::new(), limit), reader, greeting, next)
        }));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        response
    }
}

/// A push that waits for room. While there is one, the client is not read.
type Pushing = Pin<Box<dyn Future<Output = Result<Pushed, Moved>> + Send>>;

/// The WebSocket of one attachment.
struct Carrier<S> {
    socket: Socket<S>,
    reader: Reader,
    pushing: Option<Pushing>,
    /// The number of the client's next message, counted from the greeting. Messages that the
    /// transport before this one brings late take numbers too, so the session's own count would number some twice.
    next: u64,
    /// The client was told that every up message below this number is safe.
    safe: u64,
    /// The client acknowledged: it gets an acknowledgement too, which shows it that both directions work.
    ack_due: bool,
    /// The last down number written.
    sent: u64,
    beat: Instant,
    /// Our close frame is sent; until then the client may send its own.
    closing: Option<Instant>,
    intake: Intake,
    timer: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Carrier<S> {
    fn new(socket: Socket<S>, reader: Reader, greeting: String, next: u64) -> Self {
        let policy = reader.session().policy();
        let beat = Instant::now() + policy.probe.min(policy.heartbeat);
        let sent = reader.from();
        let timer = Box::pin(sleep_until(beat));
        let mut carrier = Self {
            socket,
            reader,
            pushing: None,
            next,
            safe: next,
            ack_due: false,
            sent,
            beat,
            closing: None,
            intake: Intake::default(),
            timer,
        };
        carrier.write(&Frame::Facts(greeting));
        carrier
    }

    fn session(&self) -> &Arc<LiveSession> {
        self.reader.session()
    }

    fn write(&mut self, frame: &Frame) {
        write(&mut self.socket, frame);
    }

    /// Ends the attachment, not the session.
    fn detach(&mut self, code: u16, reason: &str) {
        self.socket.close(code, reason);
        self.closing = Some(Instant::now() + CLOSE_WAIT);
    }

    /// Asks the client to come back after so many milliseconds, and ends the attachment.
    fn leave(&mut self, after_ms: u32, reason: &str) {
        if self.closing.is_none() {
            self.write(&Frame::Reconnect(after_ms));
            self.detach(1012, reason);
        }
    }

    /// Reads the client, one message at a time, while the session takes it. True when the attachment is over.
    fn up(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            if let Some(pushing) = &mut self.pushing {
                let Poll::Ready(pushed) = pushing.as_mut().poll(cx) else { return false };
                self.pushing = None;
                if pushed.is_err() {
                    self.next -= 1;
                    self.leave(MOVED_MS, MOVED);
                }
            }
            let Some(room) = self.intake.room(self.reader.session()) else { return false };
            self.socket.allow(room);
            let event = self.socket.poll_next(cx);
            self.count();
            let Poll::Ready(event) = event else { return false };
            match event {
                SocketEvent::Message(_) if self.closing.is_some() => {}
                SocketEvent::Message(message) => self.receive(&message),
                SocketEvent::Pong => {}
                SocketEvent::TooLarge => self.detach(1009, "message too large"),
                SocketEvent::Closed(_) | SocketEvent::Failed(_) => return true,
            }
        }
    }

    /// Counts what the socket's buffers hold.
    fn count(&mut self) {
        let held = self.socket.held();
        self.intake.count(self.reader.session(), held);
    }

    fn receive(&mut self, message: &Message) {
        let frame = match message.kind() {
            // A text message is valid UTF-8 by construction.
            Kind::Text => Frame::from_ws_text(std::str::from_utf8(message.payload()).unwrap_or_default()),
            Kind::Binary => Frame::from_ws_binary(message.payload().clone()),
        };
        match frame.and_then(ClientFrame::try_from) {
            Ok(ClientFrame::Message(message)) => self.push(message),
            Ok(ClientFrame::Ack(cursor)) => match self.session().ack(cursor) {
                Ok(()) => self.ack_due = true,
                Err(Refused::Moved) => self.leave(MOVED_MS, MOVED),
                Err(Refused::Attach(_)) => self.detach(1002, "the cursor is beyond what was sent"),
            },
            Ok(ClientFrame::Close(close)) => self.close(close),
            Err(error) => self.detach(1002, &error.to_string()),
        }
    }

    fn push(&mut self, message: Message) {
        if message.payload().len() > self.session().policy().message {
            return self.detach(1009, "message too large");
        }
        let (session, number) = (Arc::clone(self.session()), self.next);
        self.next += 1;
        self.pushing = Some(Box::pin(async move {
            loop {
                match session.push(Some(number), std::slice::from_ref(&message), usize::MAX).await {
                    Ok(Pushed::Busy { .. }) => {}
                    pushed => return pushed,
                }
            }
        }));
    }

    fn close(&mut self, close: Close) {
        if Close::is_allowed_from_client(close.code) && close.reason.len() <= Close::MAX_REASON {
            if self.session().close(close).is_err() {
                self.leave(MOVED_MS, MOVED);
            }
        } else {
            self.detach(1002, "a client may close with 1000 or 3000 to 4999 only");
        }
    }

    /// Acknowledges up messages when more of them are safe or the client acknowledged. True when something was written.
    fn acknowledge(&mut self) -> bool {
        let safe = self.next - u64::from(self.pushing.is_some());
        let due = safe > self.safe || std::mem::take(&mut self.ack_due);
        if due {
            self.safe = safe;
            self.write(&Frame::Ack(safe));
        }
        due
    }

    /// Writes what the session has. True when something was written.
    fn down(&mut self, cx: &Context<'_>) -> bool {
        let socket = &mut self.socket;
        let each = |_, message: &Message| write(socket, &Frame::Message(message.clone()));
        match self.reader.poll_pull(cx, CHUNK, each) {
            Poll::Pending => return false,
            Poll::Ready(Err(Moved)) => self.leave(MOVED_MS, MOVED),
            Poll::Ready(Ok(Pulled::Batch { first, count, .. })) => self.sent = first + count - 1,
            Poll::Ready(Ok(Pulled::Lost { from, to })) => {
                self.write(&Frame::Lost { from, to });
                self.sent = to;
            }
            Poll::Ready(Ok(Pulled::Ended { close, .. })) => {
                self.write(&Frame::Close(close));
                self.detach(1000, "");
            }
            Poll::Ready(Ok(Pulled::Superseded | Pulled::Wait)) => {
                self.write(&Frame::Superseded);
                self.detach(1000, "superseded");
            }
        }
        self.beat = Instant::now() + self.session().policy().heartbeat;
        true
    }

    /// Writes what is due at `now`.
    fn tick(&mut self, now: Instant) {
        if self.reader.leave_at().is_some_and(|at| at <= now) {
            self.leave(STOPPING_MS, "server is stopping");
        } else if self.beat <= now {
            self.write(&Frame::Heartbeat(self.sent));
            self.beat = now + self.session().policy().heartbeat;
        }
    }

    fn due(&self) -> Instant {
        let due = self.closing.unwrap_or_else(|| self.reader.leave_at().map_or(self.beat, |at| at.min(self.beat)));
        self.intake.look_again().map_or(due, |at| at.min(due))
    }
}

impl<S> Drop for Carrier<S> {
    fn drop(&mut self) {
        self.intake.count(self.reader.session(), 0);
    }
}

fn write<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<S>, frame: &Frame) {
    let message = match frame.to_ws() {
        WsPayload::Text(text) => Message::text(text),
        WsPayload::Binary(payload) => Message::binary(payload),
    };
    // Fails only after our close frame; what is not delivered stays with the session.
    let _ = socket.send(&message);
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Carrier<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            if this.up(cx) {
                let _ = this.socket.poll_flush(cx);
                return Poll::Ready(());
            }
            let now = Instant::now();
            match this.closing {
                Some(until) if until <= now => return Poll::Ready(()),
                Some(_) => {}
                None if now >= this.due() => this.tick(now),
                None => {}
            }
            let flushed = match this.socket.poll_flush(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => false,
            };
            this.count();
            if flushed && this.closing.is_none() && (this.acknowledge() | this.down(cx)) {
                continue;
            }
            let due = this.due();
            if this.timer.deadline() != due {
                this.timer.as_mut().reset(due);
            }
            if this.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
