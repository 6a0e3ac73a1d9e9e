//! Frames: the octet stream's own framing (`stream`, and `poll` and `send` on request), and the same frames without a
//! length as WebSocket messages (`ws`).
//!
//! Enters: messages, closes, numbers; bodies and WebSocket messages of clients. Leaves: bytes; frames, or an error
//! that names the frame and its byte. Must not touch: limits of a whole body, which are the transport's.
//!
//! A frame is one byte kind, four bytes length, payload; numbers are eight bytes; all big endian.

use bytes::{BufMut, Bytes, BytesMut};

pub use self::decode::{ClientFrame, decode_all, messages};
pub use self::error::{BodyError, FrameError};
use super::encoding::Encoding;
use crate::session::{Close, Kind, Message};

mod decode;
mod error;

/// What a frame carries; the value is its byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A text message: UTF-8.
    Text = 1,
    /// A binary message.
    Binary = 2,
    /// The end of the session: 2 bytes code, 1 byte clean, UTF-8 reason.
    Close = 8,
    /// A sign of life: the number last sent.
    Heartbeat = 9,
    /// From the client the down cursor, from the sidecar the up number below which all is safe.
    Ack = 10,
    /// What a body begins with: the greeting, as JSON.
    Facts = 11,
    /// The first and the last number that are gone.
    Lost = 12,
    /// A newer attachment reads now.
    Superseded = 13,
    /// Come back: 4 bytes milliseconds.
    Reconnect = 14,
}

impl FrameKind {
    /// The kind that has this byte on the wire.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Heartbeat,
            10 => Self::Ack,
            11 => Self::Facts,
            12 => Self::Lost,
            13 => Self::Superseded,
            14 => Self::Reconnect,
            _ => return None,
        })
    }
}

/// A frame whose payload was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Kinds 1 and 2.
    Message(Message),
    /// Kind 8.
    Close(Close),
    /// Kind 9: the number last sent.
    Heartbeat(u64),
    /// Kind 10: a cursor, or the up number below which all is safe.
    Ack(u64),
    /// Kind 11: JSON, which is not read here.
    Facts(String),
    /// Kind 12.
    Lost {
        /// First lost number.
        from: u64,
        /// Last lost number.
        to: u64,
    },
    /// Kind 13.
    Superseded,
    /// Kind 14: milliseconds.
    Reconnect(u32),
}

/// What one frame becomes on the `ws` transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WsPayload {
    /// A WebSocket text message: the character `1`, then the text.
    Text(String),
    /// A WebSocket binary message: the kind, then the payload.
    Binary(Bytes),
}

/// Appends kind 1 or 2.
pub fn message(out: &mut BytesMut, message: &Message) {
    out.reserve(HEAD + message.payload().len());
    framed(out, kind_of(message), |out| out.extend_from_slice(message.payload()));
}

/// Appends kind 8.
pub fn close(out: &mut BytesMut, close: &Close) {
    framed(out, FrameKind::Close, |out| close_payload(out, close));
}

/// Appends kind 10: all up messages below `number` are safe.
pub fn ack(out: &mut BytesMut, number: u64) {
    framed(out, FrameKind::Ack, |out| out.put_u64(number));
}

/// Appends kind 11, with which every body begins; its JSON is written in place.
pub(super) fn facts_with(out: &mut BytesMut, json: impl FnOnce(&mut BytesMut)) {
    framed(out, FrameKind::Facts, json);
}

/// The encoding of one octet stream. Its frames have no numbers: clients count them.
pub struct Frames;

impl Encoding for Frames {
    fn opening(&self, out: &mut BytesMut, _from: u64, greeting: &str) {
        facts_with(out, |out| out.extend_from_slice(greeting.as_bytes()));
    }

    fn message(&self, out: &mut BytesMut, _number: u64, message: &Message) {
        self::message(out, message);
    }

    fn heartbeat(&self, out: &mut BytesMut, sent: u64) {
        framed(out, FrameKind::Heartbeat, |out| out.put_u64(sent));
    }

    fn lost(&self, out: &mut BytesMut, from: u64, to: u64) {
        framed(out, FrameKind::Lost, |out| lost_payload(out, from, to));
    }

    fn close(&self, out: &mut BytesMut, _number: u64, close: &Close) {
        self::close(out, close);
    }

    fn superseded(&self, out: &mut BytesMut) {
        framed(out, FrameKind::Superseded, |_| ());
    }

    fn reconnect(&self, out: &mut BytesMut, after_ms: u32) {
        framed(out, FrameKind::Reconnect, |out| out.put_u32(after_ms));
    }
}

impl Frame {
    /// Appends the frame as it stands in an octet stream.
    pub fn encode(&self, out: &mut BytesMut) {
        framed(out, self.kind(), |out| self.payload(out));
    }

    /// The frame as a WebSocket message.
    #[must_use]
    pub fn to_ws(&self) -> WsPayload {
        let mut out = BytesMut::with_capacity(1 + self.size_hint());
        match self {
            Self::Message(message) if message.kind() == Kind::Text => {
                out.put_u8(b'1');
                self.payload(&mut out);
                WsPayload::Text(
                    String::from_utf8(out.into()).expect("a text message is UTF-8: its constructors see to it"),
                )
            }
            _ => {
                out.put_u8(self.kind() as u8);
                self.payload(&mut out);
                WsPayload::Binary(out.freeze())
            }
        }
    }

    /// The frame's kind.
    #[must_use]
    pub fn kind(&self) -> FrameKind {
        match self {
            Self::Message(message) => kind_of(message),
            Self::Close(_) => FrameKind::Close,
            Self::Heartbeat(_) => FrameKind::Heartbeat,
            Self::Ack(_) => FrameKind::Ack,
            Self::Facts(_) => FrameKind::Facts,
            Self::Lost { .. } => FrameKind::Lost,
            Self::Superseded => FrameKind::Superseded,
            Self::Reconnect(_) => FrameKind::Reconnect,
        }
    }

    fn payload(&self, out: &mut BytesMut) {
        match self {
            Self::Message(message) => out.extend_from_slice(message.payload()),
            Self::Close(close) => close_payload(out, close),
            Self::Heartbeat(number) | Self::Ack(number) => out.put_u64(*number),
            Self::Facts(json) => out.extend_from_slice(json.as_bytes()),
            Self::Lost { from, to } => lost_payload(out, *from, *to),
            Self::Superseded => {}
            Self::Reconnect(ms) => out.put_u32(*ms),
        }
    }

    fn size_hint(&self) -> usize {
        match self {
            Self::Message(message) => message.payload().len(),
            Self::Close(close) => CLOSE_HEAD + close.reason.len(),
            Self::Facts(json) => json.len(),
            _ => 16,
        }
    }
}

/// Bytes before a payload: kind and length.
const HEAD: usize = 5;

/// Bytes before the reason of a close: code and clean.
const CLOSE_HEAD: usize = 3;

fn kind_of(message: &Message) -> FrameKind {
    match message.kind() {
        Kind::Text => FrameKind::Text,
        Kind::Binary => FrameKind::Binary,
    }
}

/// Writes the head with a length of zero, the payload, and then the length that it turned out to have.
fn framed(out: &mut BytesMut, kind: FrameKind, payload: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind as u8);
    let length_at = out.len();
    out.put_u32(0);
    let start = out.len();
    payload(out);
    let length = u32::try_from(out.len() - start).expect("the limit of a message lies below 4 GiB");
    out[length_at..start].copy_from_slice(&length.to_be_bytes());
}

fn close_payload(out: &mut BytesMut, close: &Close) {
    out.put_u16(close.code);
    out.put_u8(u8::from(close.clean));
    out.extend_from_slice(close.reason.as_bytes());
}

fn lost_payload(out: &mut BytesMut, from: u64, to: u64) {
    out.put_u64(from);
    out.put_u64(to);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_to_the_byte() {
        let mut out = BytesMut::new();
        Frames.opening(&mut out, 0, "{}");
        message(&mut out, &Message::text("é"));
        message(&mut out, &Message::binary(vec![0]));
        close(&mut out, &Close::clean(4001, "no"));
        Frames.heartbeat(&mut out, 0x0102);
        ack(&mut out, u64::MAX);
        Frames.lost(&mut out, 1, 2);
        Frames.superseded(&mut out);
        Frames.reconnect(&mut out, 1000);
        let expected: &[&[u8]] = &[
            b"\x0b\0\0\0\x02{}",
            b"\x01\0\0\0\x02\xc3\xa9",
            b"\x02\0\0\0\x01\0",
            b"\x08\0\0\0\x05\x0f\xa1\x01no",
            b"\x09\0\0\0\x08\0\0\0\0\0\0\x01\x02",
            b"\x0a\0\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x0c\0\0\0\x10\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02",
            b"\x0d\0\0\0\0",
            b"\x0e\0\0\0\x04\0\0\x03\xe8",
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn websocket_messages_have_the_kind_and_no_length() {
        assert_eq!(Frame::Message(Message::text("hé")).to_ws(), WsPayload::Text("1hé".into()));
        assert_eq!(Frame::Message(Message::binary(vec![7])).to_ws(), WsPayload::Binary(Bytes::from_static(&[2, 7])));
        assert_eq!(Frame::Superseded.to_ws(), WsPayload::Binary(Bytes::from_static(&[13])));
        let close = Frame::Close(Close::lost()).to_ws();
        assert_eq!(close, WsPayload::Binary(Bytes::from_static(&[8, 0x03, 0xee, 0])));
    }

    #[test]
    fn every_kind_has_its_byte() {
        let known: Vec<u8> = (0..=255).filter(|byte| FrameKind::from_byte(*byte).is_some()).collect();
        assert_eq!(known, [1, 2, 8, 9, 10, 11, 12, 13, 14]);
        assert!(known.iter().all(|byte| FrameKind::from_byte(*byte).map(|kind| kind as u8) == Some(*byte)));
    }
}
