//! Parsers and encoders for the tests, written from the standards and the tables of the protocol, by the simplest way.
//!
//! Enters: bytes. Leaves: what they mean. Must not touch: the codecs under test.

use serde_json::{Value, json};
use underpass::session::{Kind, Message};

/// One event as a script sees it.
#[derive(Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
    pub(crate) last_id: String,
}

/// A reader of event streams: HTML standard, section 9.2.6, fed byte by byte.
#[derive(Default)]
pub(crate) struct EventSource {
    started: bool,
    line: Vec<u8>,
    after_cr: bool,
    name: String,
    data: String,
    id: String,
    pub(crate) retry: Option<u64>,
    pub(crate) events: Vec<Event>,
}

impl EventSource {
    pub(crate) fn feed(&mut self, chunk: &[u8]) {
        for &byte in chunk {
            let lf_of_crlf = std::mem::take(&mut self.after_cr) && byte == b'\n';
            match byte {
                _ if lf_of_crlf => {}
                b'\r' | b'\n' => {
                    self.after_cr = byte == b'\r';
                    self.end_of_line();
                }
                _ => self.line.push(byte),
            }
        }
    }

    fn end_of_line(&mut self) {
        let mut line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = match line.find(':') {
            Some(0) => return,
            Some(colon) => (&line[..colon], line[colon + 1..].strip_prefix(' ').unwrap_or(&line[colon + 1..])),
            None => (line.as_str(), ""),
        };
        match field {
            "event" => self.name = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = value.to_owned(),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => self.retry = value.parse().ok(),
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return;
        }
        data.pop();
        let name = if name.is_empty() { "message".to_owned() } else { name };
        self.events.push(Event { name, data, last_id: self.id.clone() });
    }
}

/// The message that the browser client makes of an event.
pub(crate) fn message_of(event: &Event) -> Option<Message> {
    match event.name.as_str() {
        "message" => Some(Message::text(event.data.as_str())),
        "binary" => Some(Message::binary(base64_bytes(&event.data)?)),
        "json" => Some(Message::text(serde_json::from_str::<String>(&event.data).ok()?)),
        _ => None,
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648 by bits: padding, when there is any, must be whole; bits behind the end must be zero.
pub(crate) fn base64_bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    if digits.len() % 4 == 1 || (padding > 0 && (padding > 2 || !text.len().is_multiple_of(4))) {
        return None;
    }
    let mut bits = Vec::new();
    for digit in digits.bytes() {
        let value = ALPHABET.iter().position(|known| *known == digit)?;
        bits.extend((0..6).rev().map(|bit| value >> bit & 1));
    }
    let (whole, rest) = bits.split_at(bits.len() / 8 * 8);
    let byte = |bits: &[usize]| bits.iter().fold(0, |byte, bit| byte << 1 | bit) as u8;
    rest.iter().all(|bit| *bit == 0).then(|| whole.chunks(8).map(byte).collect())
}

pub(crate) fn base64_of(bytes: &[u8]) -> String {
    let bits: Vec<usize> =
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| usize::from(byte >> bit & 1))).collect();
    let digit = |bits: &[usize]| {
        let value = bits.iter().fold(0, |value, bit| value << 1 | bit) << (6 - bits.len());
        char::from(ALPHABET[value])
    };
    let mut text: String = bits.chunks(6).map(digit).collect();
    text.extend(std::iter::repeat_n('=', (4 - text.len() % 4) % 4));
    text
}

/// Frames as kind and payload, by the table of the protocol; `None` when the last one is cut off.
pub(crate) fn frames_of(mut bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(5) {
        let length = head[1..].iter().fold(0u64, |length, byte| length * 256 + u64::from(*byte));
        let (payload, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        frames.push((head[0], payload));
        bytes = rest;
    }
    bytes.is_empty().then_some(frames)
}

pub(crate) fn message_of_frame((kind, payload): (u8, &[u8])) -> Option<Message> {
    match kind {
        1 => Some(Message::text(std::str::from_utf8(payload).ok()?)),
        2 => Some(Message::binary(payload.to_vec())),
        _ => None,
    }
}

pub(crate) fn value_of_message(message: &Message) -> Value {
    match message.kind() {
        Kind::Text => Value::from(std::str::from_utf8(message.payload()).expect("text is UTF-8")),
        Kind::Binary => json!({ "base64": base64_of(message.payload()) }),
    }
}

/// The messages that a body's value holds; `None` when it is not of the shape.
pub(crate) fn messages_of_value(value: &Value) -> Option<Vec<Message>> {
    let Some(list) = value.as_object()?.get("messages") else {
        return Some(Vec::new());
    };
    list.as_array()?.iter().map(message_of_value).collect()
}

pub(crate) fn message_of_value(value: &Value) -> Option<Message> {
    match value {
        Value::String(text) => Some(Message::text(text.as_str())),
        Value::Object(map) if map.len() == 1 => Some(Message::binary(base64_bytes(map.get("base64")?.as_str()?)?)),
        _ => None,
    }
}
