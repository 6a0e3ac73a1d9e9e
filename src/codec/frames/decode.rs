//! Reading frames that clients sent.
//!
//! Enters: a body of `send`, or one message of the `ws` transport. Leaves: frames, messages, or an error that names the
//! frame and its byte. Must not touch: anything else; it never panics, whatever enters.

use bytes::{Buf, Bytes};

use super::super::DecodeError;
use super::super::batch::MOST_MESSAGES;
use super::{BodyError, CLOSE_HEAD, Frame, FrameError, FrameKind, HEAD};
use crate::session::{Close, Message};

/// What a client may send on the `ws` transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame {
    /// The next message up.
    Message(Message),
    /// Close the session. Its code is one that clients may use, its reason fits into a close frame, and it is clean.
    Close(Close),
    /// All up to this number has arrived.
    Ack(u64),
}

/// All frames of a body.
///
/// # Errors
/// The first frame that is cut off, unknown or malformed.
pub fn decode_all(body: Bytes) -> Result<Vec<Frame>, BodyError> {
    RawFrames::of(body).map(|raw| raw?.read()).collect()
}

/// The messages of a `send` body, which holds kinds 1 and 2 only.
///
/// A small message is copied out of the body rather than kept as a part of it: otherwise one kept byte could keep a whole
/// body in memory, which no limit would count.
///
/// # Errors
/// The first frame that is malformed, of another kind, or over `max_message` bytes.
pub fn messages(body: Bytes, max_message: usize) -> Result<Vec<Message>, DecodeError> {
    let mut messages = Vec::new();
    for raw in RawFrames::of(body) {
        let raw = raw?;
        if !matches!(raw.kind, FrameKind::Text | FrameKind::Binary) {
            return Err(raw.blame(FrameError::NotForClients(raw.kind)).into());
        }
        if raw.payload.len() > max_message {
            return Err(DecodeError::TooLarge { index: raw.index, limit: max_message });
        }
        if messages.len() == MOST_MESSAGES {
            return Err(DecodeError::TooMany { limit: MOST_MESSAGES });
        }
        if let Frame::Message(message) = raw.read()? {
            messages.push(message);
        }
    }
    Ok(messages)
}

impl Frame {
    /// Reads a WebSocket text message: `1` and the text.
    ///
    /// # Errors
    /// [`FrameError::TextKind`].
    pub fn from_ws_text(message: &str) -> Result<Self, FrameError> {
        let text = message.strip_prefix('1').ok_or(FrameError::TextKind)?;
        Ok(Self::Message(Message::text(text)))
    }

    /// Reads a WebSocket binary message: the kind, and all that follows is its payload.
    ///
    /// # Errors
    /// An empty message, an unknown kind, kind 1 (which is a text message), or a malformed payload.
    pub fn from_ws_binary(mut message: Bytes) -> Result<Self, FrameError> {
        let byte = *message.first().ok_or(FrameError::Truncated { what: "the kind", needed: 1, left: 0 })?;
        match FrameKind::from_byte(byte).ok_or(FrameError::UnknownKind(byte))? {
            FrameKind::Text => Err(FrameError::TextKind),
            kind => {
                message.advance(1);
                Self::read(kind, message)
            }
        }
    }

    fn read(kind: FrameKind, mut payload: Bytes) -> Result<Self, FrameError> {
        let length = |expected: usize| match payload.len() {
            found if found == expected => Ok(()),
            found => Err(FrameError::Length { kind, found }),
        };
        let not_utf8 = |at| FrameError::NotUtf8 { kind, at };
        Ok(match kind {
            FrameKind::Text => Self::Message(Message::text_from_utf8(payload).map_err(not_utf8)?),
            FrameKind::Binary => Self::Message(Message::binary(payload)),
            FrameKind::Close => Self::Close(read_close(payload)?),
            FrameKind::Heartbeat => length(8).map(|()| Self::Heartbeat(payload.get_u64()))?,
            FrameKind::Ack => length(8).map(|()| Self::Ack(payload.get_u64()))?,
            FrameKind::Facts => Self::Facts(read_text(kind, &payload)?),
            FrameKind::Lost => length(16).map(|()| Self::Lost { from: payload.get_u64(), to: payload.get_u64() })?,
            FrameKind::Superseded => length(0).map(|()| Self::Superseded)?,
            FrameKind::Reconnect => length(4).map(|()| Self::Reconnect(payload.get_u32()))?,
        })
    }
}

/// The rule of the `ws` transport: clients send kinds 1, 2, 8 and 10, and close with what clients may close with.
impl TryFrom<Frame> for ClientFrame {
    type Error = FrameError;

    fn try_from(frame: Frame) -> Result<Self, FrameError> {
        match frame {
            Frame::Message(message) => Ok(Self::Message(message)),
            Frame::Ack(number) => Ok(Self::Ack(number)),
            Frame::Close(close) if !Close::is_allowed_from_client(close.code) => Err(FrameError::Code(close.code)),
            Frame::Close(close) if close.reason.len() > Close::MAX_REASON => {
                Err(FrameError::Reason(close.reason.len()))
            }
            // A client can only ask for a closing handshake, whatever its `clean` says.
            Frame::Close(close) => Ok(Self::Close(Close { clean: true, ..close })),
            other => Err(FrameError::NotForClients(other.kind())),
        }
    }
}

fn read_close(mut payload: Bytes) -> Result<Close, FrameError> {
    if payload.len() < CLOSE_HEAD {
        return Err(FrameError::Length { kind: FrameKind::Close, found: payload.len() });
    }
    let code = payload.get_u16();
    let clean = match payload.get_u8() {
        0 => false,
        1 => true,
        other => return Err(FrameError::Clean(other)),
    };
    let reason = std::str::from_utf8(&payload)
        .map_err(|error| FrameError::NotUtf8 { kind: FrameKind::Close, at: CLOSE_HEAD + error.valid_up_to() })?;
    Ok(Close { code, reason: reason.to_owned(), clean })
}

fn read_text(kind: FrameKind, payload: &[u8]) -> Result<String, FrameError> {
    let text = std::str::from_utf8(payload).map_err(|error| FrameError::NotUtf8 { kind, at: error.valid_up_to() })?;
    Ok(text.to_owned())
}

/// A frame whose payload is not decoded yet, and its place in the body.
struct RawFrame {
    kind: FrameKind,
    payload: Bytes,
    index: usize,
    offset: usize,
}

impl RawFrame {
    fn read(self) -> Result<Frame, BodyError> {
        let Self { kind, payload, index, offset } = self;
        Frame::read(kind, payload).map_err(|error| BodyError { index, offset, error })
    }

    fn blame(&self, error: FrameError) -> BodyError {
        BodyError { index: self.index, offset: self.offset, error }
    }
}

/// The frames of a body, up to the first error.
struct RawFrames {
    body: Bytes,
    index: usize,
    offset: usize,
}

impl RawFrames {
    fn of(body: Bytes) -> Self {
        Self { body, index: 0, offset: 0 }
    }

    /// The frame at `offset`, of which at least one byte is there, and where it ends.
    fn frame(&self) -> Result<(RawFrame, usize), FrameError> {
        let rest = &self.body[self.offset..];
        let kind = FrameKind::from_byte(rest[0]).ok_or(FrameError::UnknownKind(rest[0]))?;
        let [_, a, b, c, d, ..] = *rest else {
            return Err(FrameError::Truncated { what: "the head", needed: HEAD, left: rest.len() });
        };
        let needed = u32::from_be_bytes([a, b, c, d]) as usize;
        let left = rest.len() - HEAD;
        if needed > left {
            return Err(FrameError::Truncated { what: "the payload", needed, left });
        }
        let start = self.offset + HEAD;
        let payload = part(&self.body, start, start + needed);
        Ok((RawFrame { kind, payload, index: self.index, offset: self.offset }, start + needed))
    }
}

impl Iterator for RawFrames {
    type Item = Result<RawFrame, BodyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset == self.body.len() {
            return None;
        }
        match self.frame() {
            Ok((raw, end)) => {
                self.offset = end;
                self.index += 1;
                Some(Ok(raw))
            }
            Err(error) => {
                let error = BodyError { index: self.index, offset: self.offset, error };
                self.offset = self.body.len();
                Some(Err(error))
            }
        }
    }
}

/// A part of a body: shared when it is at least half of it, copied when it is less.
fn part(body: &Bytes, start: usize, end: usize) -> Bytes {
    if (end - start) * 2 < body.len() { Bytes::copy_from_slice(&body[start..end]) } else { body.slice(start..end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &'static [u8]) -> String {
        messages(Bytes::from_static(body), 4).expect_err("malformed").to_string()
    }

    #[test]
    fn a_body_is_refused_with_the_place() {
        assert_eq!(
            refused(b"\x01\0\0\0\x01a\x02\0\0"),
            "frame 1 at byte 6: the head takes 5 bytes, but only 3 are left"
        );
        assert_eq!(refused(b"\x01\0\0\0\x02a"), "frame 0 at byte 0: the payload takes 2 bytes, but only 1 are left");
        assert_eq!(
            refused(b"\x01\xff\xff\xff\xff"),
            "frame 0 at byte 0: the payload takes 4294967295 bytes, but only 0 are left"
        );
        assert_eq!(refused(b"{}"), "frame 0 at byte 0: there is no frame of kind 123");
        assert_eq!(
            refused(b"\x0d\0\0\0\0"),
            "frame 0 at byte 0: a frame of kind 13 (Superseded) is not for clients to send here"
        );
        assert_eq!(
            refused(b"\x01\0\0\0\x02a\xff"),
            "frame 0 at byte 0: the payload of kind 1 (Text) is not UTF-8 from its byte 1 on"
        );
    }

    #[test]
    fn a_message_over_the_limit_is_named() {
        let body = Bytes::from_static(b"\x02\0\0\0\x04abcd\x02\0\0\0\x05abcde");
        assert_eq!(messages(body.clone(), 4), Err(DecodeError::TooLarge { index: 1, limit: 4 }));
        assert_eq!(messages(body, 5).map(|messages| messages.len()), Ok(2));
    }

    #[test]
    fn payloads_have_the_length_of_their_kind() {
        for (body, found) in [(&b"\x09\0\0\0\x01a"[..], 1), (b"\x0d\0\0\0\x01a", 1), (b"\x08\0\0\0\x02\x03\xe8", 2)] {
            let error = decode_all(Bytes::from_static(body)).expect_err("wrong length").error;
            assert!(matches!(error, FrameError::Length { found: length, .. } if length == found), "{error}");
        }
        let error = decode_all(Bytes::from_static(b"\x08\0\0\0\x03\x03\xe8\x02")).expect_err("not clean").error;
        assert_eq!(error, FrameError::Clean(2));
    }

    #[test]
    fn what_clients_may_send_on_a_websocket() {
        let client = |bytes: &'static [u8]| ClientFrame::try_from(Frame::from_ws_binary(Bytes::from_static(bytes))?);
        assert_eq!(client(&[2, 5]), Ok(ClientFrame::Message(Message::binary(vec![5]))));
        assert_eq!(client(&[10, 0, 0, 0, 0, 0, 0, 0, 7]), Ok(ClientFrame::Ack(7)));
        assert_eq!(client(&[8, 0x03, 0xe8, 0, b'x']), Ok(ClientFrame::Close(Close::clean(1000, "x"))));
        assert_eq!(client(&[8, 0x03, 0xe9, 1]), Err(FrameError::Code(1001)));
        assert_eq!(client(&[13]), Err(FrameError::NotForClients(FrameKind::Superseded)));
        assert_eq!(client(&[1, b'a']), Err(FrameError::TextKind));
        assert_eq!(client(&[]), Err(FrameError::Truncated { what: "the kind", needed: 1, left: 0 }));
        assert_eq!(client(&[77]), Err(FrameError::UnknownKind(77)));
        assert_eq!(Frame::from_ws_text("1"), Ok(Frame::Message(Message::text(""))));
        assert_eq!(Frame::from_ws_text("2a"), Err(FrameError::TextKind));
        let long = Frame::Close(Close::clean(1000, "x".repeat(124)));
        assert_eq!(ClientFrame::try_from(long), Err(FrameError::Reason(124)));
    }

    #[test]
    fn a_small_message_does_not_keep_its_body() {
        let mut body = vec![2, 0, 0, 0, 1, 9, 2, 0, 0, 0, 100];
        body.resize(body.len() + 100, 0);
        let body = Bytes::from(body);
        let range = body.as_ptr_range();
        let messages = messages(body, 100).expect("two messages");
        assert!(!range.contains(&messages[0].payload().as_ptr()), "the small one is a copy");
        assert!(range.contains(&messages[1].payload().as_ptr()), "the large one is shared");
    }
}
