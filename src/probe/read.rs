//! Reading what streams: events and frames, as they come in pieces.
//!
//! Enters: bytes of a response. Leaves: what they say, as far as a probe cares. Must not touch: the network. Bounded: an
//! item of more than [`LARGEST`] bytes is an error.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::codec::frames::{Frame, decode_all};

/// The largest event or frame, in bytes.
const LARGEST: usize = 2 * 1024 * 1024;
/// Kind and length of a frame.
const HEAD: usize = 5;

/// Something that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A text message.
    Text(String),
    /// The cursor from here on.
    Cursor(u64),
    /// Only a sign of life.
    Heartbeat,
    /// The server asks to come back.
    Again,
    /// The session is over, or somebody else reads it.
    Over,
}

/// What the bytes are.
pub(super) enum Reader {
    /// Server-sent events.
    Events(BytesMut),
    /// Frames of an octet stream.
    Frames(BytesMut),
}

impl Reader {
    /// Takes bytes; gives what is whole with them. `Err` when this is not what was sent.
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
    // Ours end lines with LF; a box may not.
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
        "reconnect" => items.push(Item::Again),
        "close" | "superseded" => items.push(Item::Over),
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

/// What a frame says.
pub(super) fn item(frame: &Frame) -> Option<Item> {
    Some(match frame {
        Frame::Message(message) => Item::Text(String::from_utf8_lossy(message.payload()).into_owned()),
        Frame::Facts(json) => Item::Cursor(serde_json::from_str::<serde_json::Value>(json).ok()?["from"].as_u64()?),
        Frame::Heartbeat(_) => Item::Heartbeat,
        Frame::Reconnect(_) => Item::Again,
        Frame::Close(_) | Frame::Superseded => Item::Over,
        Frame::Ack(_) | Frame::Lost { .. } => return None,
    })
}

/// A message of the `ws` transport.
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

    fn by_bytes(mut reader: Reader, bytes: &[u8]) -> Vec<Item> {
        bytes.iter().flat_map(|byte| reader.feed(&[*byte]).expect("well formed")).collect()
    }

    #[test]
    fn events_come_in_any_pieces_and_with_either_line_end() {
        let text = "retry: 1000\n\nevent: session\nid: 3\ndata: {}\n\nid: 4\ndata: a\ndata: b\n\n\
                    event: heartbeat\ndata: 4\n\nevent: reconnect\ndata: {}\n\n";
        let expected = [Item::Cursor(3), Item::Cursor(4), Item::Text("a\nb".into()), Item::Heartbeat, Item::Again];
        assert_eq!(by_bytes(Reader::Events(BytesMut::new()), text.as_bytes()), expected);
        assert_eq!(by_bytes(Reader::Events(BytesMut::new()), text.replace('\n', "\r\n").as_bytes()), expected);
    }

    #[test]
    fn frames_come_in_any_pieces() {
        let bytes = b"\x0b\0\0\0\x0a{\"from\":7}\x01\0\0\0\x02hi\x0e\0\0\0\x04\0\0\0\0";
        let expected = [Item::Cursor(7), Item::Text("hi".into()), Item::Again];
        assert_eq!(by_bytes(Reader::Frames(BytesMut::new()), bytes), expected);
        assert!(Reader::Frames(BytesMut::new()).feed(b"<html>").is_err());
    }
}
