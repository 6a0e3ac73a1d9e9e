//! Decodes streams, events or frames, which arrive in pieces of any size.
//!
//! Enters: bytes of a response. Leaves: the items that the probe needs. Must not touch: the network. Limit: an item of more
//! than [`LARGEST`] bytes is an error.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::codec::frames::{Frame, decode_all};

/// The largest event or frame, in bytes.
const LARGEST: usize = 2 * 1024 * 1024;
/// Bytes of a frame's kind and length.
const HEAD: usize = 5;

/// A decoded item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A text message.
    Text(String),
    /// The cursor from here on.
    Cursor(u64),
    Heartbeat,
    /// The server asks the client to attach again.
    Reconnect,
    /// The session has ended, or another client reads it now.
    End,
}

/// A decoder, with the bytes of an incomplete item.
pub(super) enum Decoder {
    /// Server-sent events.
    Events(BytesMut),
    /// Frames of an octet stream.
    Frames(BytesMut),
}

impl Decoder {
    /// Takes bytes and returns the items that they complete. `Err` when the network must have changed the bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Item>, &'static str> {
        let (Self::Events(rest) | Self::Frames(rest)) = &mut *self;
        rest.extend_from_slice(bytes);
        let items = match self {
            Self::Events(rest) => events(rest),
            Self::Frames(rest) => frames(rest)?,
        };
        let (Self::Events(rest) | Self::Frames(rest)) = self;
        if rest.len() > LARGEST { Err("what came is not what was sent") } else { Ok(items) }
    }
}

fn events(rest: &mut BytesMut) -> Vec<Item> {
    let mut items = Vec::new();
    // Our lines end with LF, but a box may rewrite them with CRLF.
    while let Some(end) = rest
        .windows(2)
        .position(|pair| pair == b"\n\n")
        .map(|at| at + 2)
        .or_else(|| rest.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4))
    {
        event(&String::from_utf8_lossy(&rest.split_to(end)), &mut items);
    }
    items
}

fn event(block: &str, items: &mut Vec<Item>) {
    let (mut name, mut data) = ("message", Vec::new());
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value,
            "data" => data.push(value),
            "id" => items.extend(value.parse().ok().map(Item::Cursor)),
            _ => {}
        }
    }
    match name {
        "message" if !data.is_empty() => items.push(Item::Text(data.join("\n"))),
        "heartbeat" => items.push(Item::Heartbeat),
        "reconnect" => items.push(Item::Reconnect),
        "close" | "superseded" => items.push(Item::End),
        _ => {}
    }
}

fn frames(rest: &mut BytesMut) -> Result<Vec<Item>, &'static str> {
    let mut items = Vec::new();
    while rest.len() >= HEAD {
        let length = (&rest[1..HEAD]).get_u32() as usize;
        if length > LARGEST {
            return Err("what came is not what was sent");
        }
        if rest.len() < HEAD + length {
            break;
        }
        let one = rest.split_to(HEAD + length).freeze();
        let read = decode_all(one).map_err(|_| "what came is not what was sent")?;
        items.extend(read.iter().filter_map(item));
    }
    Ok(items)
}

/// The item of a frame; `None` for frames that the probe does not need.
pub(super) fn item(frame: &Frame) -> Option<Item> {
    Some(match frame {
        Frame::Message(message) => Item::Text(String::from_utf8_lossy(message.payload()).into_owned()),
        Frame::Facts(json) => Item::Cursor(serde_json::from_str::<serde_json::Value>(json).ok()?["from"].as_u64()?),
        Frame::Heartbeat(_) => Item::Heartbeat,
        Frame::Reconnect(_) => Item::Reconnect,
        Frame::Close(_) | Frame::Superseded => Item::End,
        Frame::Ack(_) | Frame::Lost { .. } => return None,
    })
}

/// The item of a message of the `ws` transport.
pub(super) fn websocket(payload: &Bytes, is_text: bool) -> Option<Item> {
    let frame = match is_text {
        true => Frame::from_ws_text(std::str::from_utf8(payload).ok()?),
        false => Frame::from_ws_binary(payload.clone()),
    };
    frame.ok().as_ref().and_then(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_bytes(mut decoder: Decoder, bytes: &[u8]) -> Vec<Item> {
        bytes.iter().flat_map(|byte| decoder.feed(&[*byte]).expect("well formed")).collect()
    }

    #[test]
    fn events_come_in_any_pieces_and_with_either_line_end() {
        let text = "retry: 1000\n\nevent: session\nid: 3\ndata: {}\n\nid: 4\ndata: a\ndata: b\n\n\
                    event: heartbeat\ndata: 4\n\nevent: reconnect\ndata: {}\n\n";
        let expected = [Item::Cursor(3), Item::Cursor(4), Item::Text("a\nb".into()), Item::Heartbeat, Item::Reconnect];
        assert_eq!(by_bytes(Decoder::Events(BytesMut::new()), text.as_bytes()), expected);
        assert_eq!(by_bytes(Decoder::Events(BytesMut::new()), text.replace('\n', "\r\n").as_bytes()), expected);
    }

    #[test]
    fn frames_come_in_any_pieces() {
        let bytes = b"\x0b\0\0\0\x0a{\"from\":7}\x01\0\0\0\x02hi\x0e\0\0\0\x04\0\0\0\0";
        let expected = [Item::Cursor(7), Item::Text("hi".into()), Item::Reconnect];
        assert_eq!(by_bytes(Decoder::Frames(BytesMut::new()), bytes), expected);
        assert!(Decoder::Frames(BytesMut::new()).feed(b"<html>").is_err());
    }
}
