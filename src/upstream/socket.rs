//! One WebSocket: to the backend, or of a client on the `ws` transport. The only file that knows tungstenite.
//!
//! Enters: a connected stream behind a checked 101 response, messages to send. Leaves: messages, pongs and the one end
//! of the connection. Must not touch: handshakes, sessions' state, a clock: who owns the socket keeps the deadlines,
//! and pauses the backend by not polling it.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{Frame, Utf8Bytes};
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};

use crate::session::{Close, Kind, Message};
use crate::upstream::frame::{BINARY, TEXT, cut};
use crate::upstream::wire::{Delivered, Standing, Wire, WireState};

/// The codec's own read buffer, in bytes, held by every open session. It may be this small because the wire below
/// reads in blocks: it bounds how many bytes are copied at a time, not how many are read.
const READ_BUFFER: usize = 256;

/// Payloads below this, in bytes, are copied out of the codec's buffer, which they would keep from being reused;
/// larger ones own most of what they hold.
const COPIED: usize = 4 * 1024;

/// The codec's buffers grow with the largest message and never shrink. After a message over this many bytes they are
/// replaced as soon as the connection is idle.
const SWOLLEN: usize = 1024;

/// Messages of at least so many bytes are framed straight into the wire: the codec would copy them once more.
const LARGE: usize = 64 * 1024;

/// What a frame and a few control frames take beside the largest message, in bytes.
const FRAMING_ROOM: usize = 64 * 1024;

/// What came from the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketEvent {
    /// A whole message.
    Message(Message),
    /// An answer to [`Socket::ping`]: the backend is alive.
    Pong,
    /// The backend's close frame: 1005 when it had no code. Flush, so that it gets its answer, then drop the socket.
    Closed(Close),
    /// A message over the limit. Nothing more is delivered; close with 1009 and poll on until [`SocketEvent::Failed`].
    TooLarge,
    /// The end without the backend's close frame, always 1006 and not clean. After a breach of the protocol the reason
    /// names it, and a close frame with 1002 or 1007 waits to be flushed.
    Failed(Close),
}

/// Why a message was not accepted for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// A close frame has been sent or received.
    #[error("the connection to the backend is closing, the message cannot be sent")]
    Closing,
    /// More than the limit given to [`Socket::new`].
    #[error("a message of {size} bytes is over the limit of {limit} bytes for the backend")]
    TooLarge {
        /// Bytes of the payload.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

/// How far the connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// A close frame of ours is on its way; messages and the backend's close still come in.
    Closing,
    /// The codec is lost in an oversized message; bytes are thrown away until the backend ends.
    Discarding,
    /// The end has been reported.
    Ended,
}

/// One WebSocket to the backend, client role, no extensions. To be polled by one task only. Idle it owns a read buffer
/// of 256 bytes and nothing else on the heap.
#[derive(Debug)]
pub struct Socket<S> {
    wire: Wire<S>,
    codec: WebSocketContext,
    role: Role,
    phase: Phase,
    swollen: bool,
}

impl<S> Socket<S> {
    /// The socket over `io`, whose handshake is done; `unread` are bytes that came behind the 101 response. Messages
    /// over `max_message` bytes are neither received nor sent.
    pub fn new(io: S, unread: Bytes, max_message: usize) -> Self {
        Self::from_parts(io, WireState { unread, tx: Bytes::new() }, max_message)
    }

    /// The same on the server's side: a client's WebSocket, whose handshake we have answered.
    pub fn server(io: S, unread: Bytes, max_message: usize) -> Self {
        Self::with_role(Role::Server, io, WireState { unread, tx: Bytes::new() }, max_message)
    }

    /// Goes on where [`Socket::into_parts`] stopped, in another process perhaps.
    pub fn from_parts(io: S, state: WireState, max_message: usize) -> Self {
        Self::with_role(Role::Client, io, state, max_message)
    }

    fn with_role(role: Role, io: S, state: WireState, max_message: usize) -> Self {
        let codec = fresh_codec(role, max_message);
        Self { wire: Wire::from_parts(io, state), codec, role, phase: Phase::Open, swollen: false }
    }

    /// Takes the socket apart at any moment: every message not yet yielded and every byte not yet written is in the
    /// state. `None` once a close has begun, which cannot be handed over.
    #[must_use]
    pub fn into_parts(self) -> Option<(S, WireState)> {
        (self.phase == Phase::Open).then(|| self.wire.into_parts())
    }

    /// Where both directions stand between what the kernel has and what [`Socket::into_parts`] gives.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.wire.standing()
    }

    /// What carries it.
    #[must_use]
    pub fn io(&self) -> &S {
        self.wire.socket()
    }

    /// True until a close has begun: then it can be taken apart.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Bytes accepted and not yet with the kernel.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.wire.tx_len()
    }

    /// Bytes of all buffers: what was read of an unfinished message, and what was not yet sent. Without the codec's own
    /// small one, and what it keeps of the last message until the connection is idle.
    #[must_use]
    pub fn held(&self) -> usize {
        self.wire.held()
    }

    /// At most about so many bytes are read until the next call; [`Socket::poll_next`] is then pending, and the task
    /// wakes itself.
    pub fn allow(&mut self, bytes: usize) {
        self.wire.allow(bytes);
    }

    /// Gives up what is being read: nothing more is delivered. Close, and poll on until [`SocketEvent::Failed`].
    pub fn abandon(&mut self) {
        if matches!(self.phase, Phase::Open | Phase::Closing) {
            let limit = self.codec.get_config().max_message_size;
            self.codec = fresh_codec(self.role, limit.unwrap_or(usize::MAX));
            self.wire.forget_unread();
            self.phase = Phase::Discarding;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// The next event. Pings are answered on the way. Pending for ever after the end has been reported.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<SocketEvent> {
        if self.wire.tx_len() > 0 {
            // Its error is told by `poll_flush`; here the reading finds out, after the last message.
            let _ = self.wire.poll_flush(cx);
        }
        match self.phase {
            Phase::Open | Phase::Closing => self.poll_codec(cx),
            Phase::Discarding => {
                ready!(self.wire.poll_discard(cx));
                Poll::Ready(self.end(SocketEvent::Failed(Close::lost())))
            }
            Phase::Ended => Poll::Pending,
        }
    }

    /// Ready when the kernel has everything sent so far. Ready as well when it takes no more: `poll_flush` tells.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wire.poll_flush(cx).map(|_| ())
    }

    /// Accepts a message; it goes out with the next `poll_flush`, together with others. The caller bounds what it
    /// sends before that: wait for `poll_ready` first.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was accepted then.
    pub fn send(&mut self, message: &Message) -> Result<(), SendError> {
        let limit = self.codec.get_config().max_message_size.unwrap_or(usize::MAX);
        let size = message.payload().len();
        if self.phase != Phase::Open {
            return Err(SendError::Closing);
        }
        if size > limit {
            return Err(SendError::TooLarge { size, limit });
        }
        if size >= LARGE && self.put_large(message) {
            return Ok(());
        }
        let data = if message.kind() == Kind::Text { Data::Text } else { Data::Binary };
        // A ready-made frame: a `Message::Text` would have the text checked for UTF-8 once more.
        self.put(tungstenite::Message::Frame(Frame::message(message.payload().clone(), OpCode::Data(data), true)));
        self.swollen |= size > SWOLLEN;
        Ok(())
    }

    /// Frames a message into the wire; false when there is no randomness for its mask, and the codec has to see to it.
    fn put_large(&mut self, message: &Message) -> bool {
        let mut key = [0; 4];
        let masked = self.role == Role::Client;
        if masked && getrandom::fill(&mut key).is_err() {
            return false;
        }
        let opcode = if message.kind() == Kind::Text { TEXT } else { BINARY };
        self.wire.put_message(opcode, message.payload(), masked.then_some(key));
        true
    }

    /// Accepts a ping; nothing happens when a close has begun.
    pub fn ping(&mut self) {
        if self.phase == Phase::Open {
            self.put(tungstenite::Message::Ping(Bytes::new()));
        }
    }

    /// Accepts a close frame, once. A code that may not stand in one (RFC 6455 section 7.4) is left out, together with
    /// the reason, which is otherwise cut at [`Close::MAX_REASON`] bytes. Poll on for the backend's answer, with a
    /// deadline.
    pub fn close(&mut self, code: u16, reason: &str) {
        let frame = is_sendable(code).then(|| CloseFrame {
            code: CloseCode::from(code),
            reason: Utf8Bytes::from(cut(reason, Close::MAX_REASON)),
        });
        // The codec sends the first close frame only, and none after the backend's, which it answers by itself.
        let _ = self.codec.close(&mut self.wire.side(None), frame);
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
        }
    }

    /// Gives the kernel what was accepted; ready when it has all.
    ///
    /// # Errors
    /// What the stream reports. The backend's last messages may still be there: poll on for the end.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_flush(cx)
    }

    /// Hands the codec something to send; the wire takes all of it.
    fn put(&mut self, message: tungstenite::Message) {
        let written = self.codec.write(&mut self.wire.side(None), message);
        debug_assert!(written.is_ok(), "phase and size were checked, the wire accepts everything: {written:?}");
    }

    fn poll_codec(&mut self, cx: &mut Context<'_>) -> Poll<SocketEvent> {
        let most = self.codec.get_config().max_message_size.unwrap_or(usize::MAX);
        loop {
            // What a client sends is masked, or a breach that the codec has to find (RFC 6455 section 5.1).
            match self.wire.poll_plain(cx, most, self.role == Role::Server) {
                Poll::Ready(Some((opcode, payload))) => {
                    return Poll::Ready(SocketEvent::Message(plain_message(opcode, payload)));
                }
                Poll::Ready(None) => {}
                Poll::Pending => {
                    self.slim();
                    return Poll::Pending;
                }
            }
            let event = match self.codec.read(&mut self.wire.side(Some(&mut *cx))) {
                Ok(tungstenite::Message::Text(text)) => self.deliver_text(text),
                Ok(tungstenite::Message::Binary(payload)) => self.deliver_binary(payload),
                Ok(tungstenite::Message::Pong(_)) => self.deliver(Delivered::Control, SocketEvent::Pong),
                Ok(tungstenite::Message::Close(frame)) => self.deliver_close(frame, cx),
                Ok(tungstenite::Message::Ping(_)) => {
                    self.wire.ack(Delivered::Control);
                    // Its pong, which the codec would put off until it reads on.
                    let _ = self.codec.flush(&mut self.wire.side(Some(&mut *cx)));
                    continue;
                }
                Ok(tungstenite::Message::Frame(_)) => continue,
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.slim();
                    return Poll::Pending;
                }
                Err(error) => self.fail(&error, cx),
            };
            return Poll::Ready(event);
        }
    }

    fn deliver(&mut self, delivered: Delivered, event: SocketEvent) -> SocketEvent {
        self.wire.ack(delivered);
        event
    }

    fn deliver_text(&mut self, text: Utf8Bytes) -> SocketEvent {
        self.swollen |= text.as_str().len() > SWOLLEN;
        let message = if text.as_str().len() < COPIED {
            Message::text(text.as_str())
        } else {
            Message::text_from_utf8(Bytes::from(text)).expect("a Utf8Bytes is UTF-8")
        };
        self.deliver(Delivered::Message, SocketEvent::Message(message))
    }

    fn deliver_binary(&mut self, payload: Bytes) -> SocketEvent {
        self.swollen |= payload.len() > SWOLLEN;
        let payload = if payload.len() < COPIED { Bytes::copy_from_slice(&payload) } else { payload };
        self.deliver(Delivered::Message, SocketEvent::Message(Message::binary(payload)))
    }

    fn deliver_close(&mut self, frame: Option<CloseFrame>, cx: &mut Context<'_>) -> SocketEvent {
        // The codec's answer to it; it accepts no further one from us.
        let _ = self.codec.flush(&mut self.wire.side(Some(&mut *cx)));
        let close = match frame {
            Some(frame) => Close::clean(u16::from(frame.code), frame.reason.as_str()),
            None => Close::clean(1005, ""),
        };
        self.end(SocketEvent::Closed(close))
    }

    fn fail(&mut self, error: &tungstenite::Error, cx: &mut Context<'_>) -> SocketEvent {
        let code = match error {
            tungstenite::Error::Capacity(_) => {
                self.phase = Phase::Discarding;
                return SocketEvent::TooLarge;
            }
            tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
            tungstenite::Error::Protocol(_) => Some(1002),
            tungstenite::Error::Utf8(_) => Some(1007),
            _ => None,
        };
        let Some(code) = code else { return self.end(SocketEvent::Failed(Close::lost())) };
        self.close(code, "");
        let _ = self.wire.poll_flush(cx);
        let reason = format!("The backend broke the WebSocket protocol: {error}");
        let reason = cut(&reason, Close::MAX_REASON).to_owned();
        self.end(SocketEvent::Failed(Close { reason, ..Close::lost() }))
    }

    /// Replaces swollen buffers of the codec. There is nothing in them: the wire says that all was delivered.
    fn slim(&mut self) {
        if self.swollen && self.phase == Phase::Open && self.wire.unread_len() == 0 {
            let limit = self.codec.get_config().max_message_size;
            self.codec = fresh_codec(self.role, limit.unwrap_or(usize::MAX));
            self.swollen = false;
        }
    }

    fn end(&mut self, event: SocketEvent) -> SocketEvent {
        self.phase = Phase::Ended;
        event
    }
}

/// A message in a frame of its own.
fn plain_message(opcode: u8, payload: Bytes) -> Message {
    if opcode == TEXT {
        Message::text_from_utf8(payload).expect("the wire gives texts to the codec that are none")
    } else {
        Message::binary(payload)
    }
}

fn fresh_codec(role: Role, max_message: usize) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(max_message.saturating_add(FRAMING_ROOM))
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message));
    WebSocketContext::new(role, Some(config))
}

/// True for the codes that may stand in a close frame (RFC 6455 section 7.4 and the IANA registry).
fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests;
