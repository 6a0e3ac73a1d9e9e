//! How each peer writes messages down: from bytes of a body to messages.
//!
//! Enters: whole bodies or the bytes of a stream so far. Leaves: messages as slices. Must not touch: connections.
//! Messages hold nothing that is escaped (see [`crate::stamp`]), so a quote always ends a string.

use bytes::BytesMut;
use memchr::{memchr, memmem};

/// Takes the whole events of an underpass stream; the token of the `session` event goes into `url`.
pub fn events(pending: &mut BytesMut, url: &mut Option<String>, each: &mut (dyn FnMut(&[u8]) + Send)) {
    let mut start = 0;
    while let Some(end) = memmem::find(&pending[start..], b"\n\n") {
        let event = &pending[start..start + end];
        start += end + 2;
        if event.starts_with(b"id: ") {
            // The id is one line, the message another.
            let data = memchr(b'\n', event).map_or(event.len(), |line| line + 1);
            each(event.get(data + 6..).unwrap_or_default());
        } else if url.is_none() && event.starts_with(b"event: session") {
            // When it is resumed elsewhere it is written otherwise, and is the same.
            *url = url_of(event);
        }
    }
    let _ = pending.split_to(start);
}

/// Takes the whole events of a sockjs stream.
pub fn sockjs_events(pending: &mut BytesMut, each: &mut (dyn FnMut(&[u8]) + Send)) {
    let mut start = 0;
    while let Some(end) = memmem::find(&pending[start..], b"\r\n\r\n") {
        let event = pending[start..start + end].trim_ascii_start();
        start += end + 4;
        if let Some(array) = event.strip_prefix(b"data: a[") {
            strings(array, each);
        }
    }
    let _ = pending.split_to(start);
}

/// Takes the whole frames of an underpass octet stream.
pub fn octets(pending: &mut BytesMut, each: &mut (dyn FnMut(&[u8]) + Send)) {
    let mut start = 0;
    while let Some(head) = pending.get(start..start + 5) {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let Some(payload) = pending.get(start + 5..start + 5 + length) else { break };
        if matches!(pending[start], 1 | 2) {
            each(payload);
        }
        start += 5 + length;
    }
    let _ = pending.split_to(start);
}

/// The messages of an underpass poll's answer, and its `after`.
pub fn poll(body: &[u8], each: &mut (dyn FnMut(&[u8]) + Send)) -> Option<u64> {
    let after = memmem::find(body, b"\"after\":")? + 8;
    let digits = body[after..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let messages = memmem::find(body, b"\"messages\":[")? + 12;
    strings(&body[messages..], each);
    std::str::from_utf8(&body[after..after + digits]).ok()?.parse().ok()
}

/// The messages of an engine.io answer. True when a ping is among the packets.
pub fn engine(body: &[u8], each: &mut (dyn FnMut(&[u8]) + Send)) -> bool {
    let mut ping = false;
    for packet in body.split(|byte| *byte == 0x1e) {
        match packet.split_first() {
            Some((b'4', message)) => each(message),
            Some((b'2', _)) => ping = true,
            _ => {}
        }
    }
    ping
}

/// The strings of a JSON array, of which the opening bracket is gone.
pub fn strings(mut array: &[u8], each: &mut (dyn FnMut(&[u8]) + Send)) {
    while array.first() == Some(&b'"') {
        let Some(end) = memchr(b'"', &array[1..]) else { return };
        each(&array[1..=end]);
        array = array.get(end + 2..).unwrap_or_default();
        array = array.strip_prefix(b",").unwrap_or(array);
    }
}

/// The session's URL, where `open` or a stream tells of it. It is relative to a path one below the root.
pub fn url_of(facts: &[u8]) -> Option<String> {
    let url = string_after(facts, b"\"url\":\"")?;
    Some(format!("/{}", url.trim_start_matches("../").trim_start_matches('/')))
}

/// The string value behind this text.
pub fn string_after<'a>(text: &'a [u8], before: &[u8]) -> Option<&'a str> {
    let start = memmem::find(text, before)? + before.len();
    let end = memchr(b'"', &text[start..])?;
    std::str::from_utf8(&text[start..start + end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(read: impl FnOnce(&mut (dyn FnMut(&[u8]) + Send))) -> Vec<String> {
        let mut messages = Vec::new();
        read(&mut |message| messages.push(String::from_utf8_lossy(message).into_owned()));
        messages
    }

    #[test]
    fn every_dialect() {
        let stream = b"retry: 1\n\nevent: session\nid: n1-a.0\ndata: {\"url\":\"/s/n1-a\"}\n\nid: n1-a.1\ndata: one\n\nid: 2\nda";
        let (mut pending, mut url) = (BytesMut::from(&stream[..]), None);
        assert_eq!(told(|each| events(&mut pending, &mut url, each)), ["one"]);
        assert_eq!((&pending[..], url.as_deref()), (&b"id: 2\nda"[..], Some("/s/n1-a")));
        let mut pending = BytesMut::from("\r\ndata: o\r\n\r\ndata: a[\"one\",\"two\"]\r\n\r\nda");
        assert_eq!(told(|each| sockjs_events(&mut pending, each)), ["one", "two"]);
        let mut pending = BytesMut::from(&b"\x0b\0\0\0\x02{}\x01\0\0\0\x03one\x01\0\0"[..]);
        assert_eq!(told(|each| octets(&mut pending, each)), ["one"]);
        let answer = br#"{"from":0,"after":12,"messages":["one","two"],"next":1}"#;
        let mut after = None;
        assert_eq!(told(|each| after = poll(answer, each)), ["one", "two"]);
        assert_eq!(after, Some(12));
        assert_eq!(told(|each| assert!(engine(b"4one\x1e2", each))), ["one"]);
    }
}
