//! Server-sent events (HTML standard, section 9.2): one event for each message, and ours beside them.
//!
//! Enters: messages, closes, numbers. Leaves: whole events, each with its blank line, at the end of a buffer; and event
//! ids that come back, parsed. Must not touch: the heap beside that buffer. Events are only written here; clients read
//! them.
//!
//! No byte of a backend's text can end a line that we did not end: a text is split at LF into `data` lines, and one that
//! holds a CR, which no `data` line can carry, is written as a JSON string. Everything else (NUL, U+2028, a byte order mark
//! inside the stream) is ordinary in a `data` line. After the colon stands one space, which the reader takes away, so
//! that a space of the text's own survives.

use bytes::{BufMut, BytesMut};

use super::encoding::Encoding;
use super::write;
use crate::session::{Close, Kind, Message};

/// The form of the event ids of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids<'a> {
    /// The bare number: `/s/{token}/sse`, where the URL names the session.
    Bare,
    /// `<token>.<number>`: the one-request form, where the id is all that a browser sends when it reconnects. The token holds no control character (tokens are URL-safe).
    Token(&'a str),
}

/// What a browser's `EventSource` waits before it comes back, in milliseconds.
const RETRY_MS: u32 = 1000;

/// Gives the ids of one stream. A stream that lives long keeps what the token is read from, and not a copy of it.
pub trait EventIds {
    /// The form of the ids, with the token where it is part of them.
    fn ids(&self) -> Ids<'_>;
}

impl EventIds for Ids<'_> {
    fn ids(&self) -> Ids<'_> {
        *self
    }
}

/// The encoding of one event stream.
pub struct Events<T>(pub T);

impl<T: EventIds> Encoding for Events<T> {
    fn opening(&self, out: &mut BytesMut, from: u64, greeting: &str) {
        retry(out, RETRY_MS);
        event(out, b"session");
        id(out, self.0.ids(), from);
        json_lines(out, greeting);
    }

    // The id comes first here and in the close: a box that writes something in front of what we write spoils the first
    // line, and a client sees a message without its number as a gap, but takes one without its name for another.
    fn message(&self, out: &mut BytesMut, number: u64, message: &Message) {
        let payload = message.payload();
        id(out, self.0.ids(), number);
        match message.kind() {
            Kind::Text if payload.contains(&b'\r') => {
                event(out, b"json");
                data(out, |out| write::json_string(out, payload));
            }
            Kind::Text => text_lines(out, payload),
            Kind::Binary => {
                event(out, b"binary");
                data(out, |out| write::base64(out, payload));
            }
        }
    }

    fn heartbeat(&self, out: &mut BytesMut, sent: u64) {
        event(out, b"heartbeat");
        data(out, |out| write::decimal(out, sent));
    }

    fn lost(&self, out: &mut BytesMut, from: u64, to: u64) {
        event(out, b"lost");
        data(out, |out| write::lost_json(out, from, to));
    }

    fn close(&self, out: &mut BytesMut, number: u64, close: &Close) {
        id(out, self.0.ids(), number);
        event(out, b"close");
        data(out, |out| write::close_json(out, close));
    }

    fn superseded(&self, out: &mut BytesMut) {
        event(out, b"superseded");
        data(out, |out| out.extend_from_slice(b"{\"superseded\":true}"));
    }

    fn reconnect(&self, out: &mut BytesMut, after_ms: u32) {
        event(out, b"reconnect");
        data(out, |out| write::reconnect_json(out, after_ms));
    }
}

/// How long the browser waits before it reconnects, in milliseconds.
pub fn retry(out: &mut BytesMut, ms: u32) {
    out.extend_from_slice(b"retry: ");
    write::decimal(out, u64::from(ms));
    end(out);
}

/// No session could be opened; `json` is the error object of the protocol, section 3.3.
pub fn unavailable(out: &mut BytesMut, json: &str) {
    event(out, b"unavailable");
    json_lines(out, json);
}

/// The largest number that a client can name: beyond it JSON numbers are no longer exact in a browser.
pub const MAX_NUMBER: u64 = (1 << 53) - 1;

/// A number as a client writes it: digits only, without leading zeros, at most [`MAX_NUMBER`].
#[must_use]
pub fn parse_number(digits: &str) -> Option<u64> {
    let is_padded = digits.len() > 1 && digits.starts_with('0');
    if digits.is_empty() || is_padded || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|number| *number <= MAX_NUMBER)
}

/// An id of the form `<token>.<number>`: token and number. `None` for anything that is not surely of our making, since
/// a `lastEventId` parameter may be the backend's own: `item-7.3` is not an id of ours.
#[must_use]
pub fn parse_id(id: &str) -> Option<(&str, u64)> {
    let (token, number) = id.rsplit_once('.')?;
    let (node, secret) = token.split_once('-')?;
    let node_fits = (1..=MAX_NODE).contains(&node.len()) && node.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let secret_fits = SECRET.contains(&secret.len()) && secret.bytes().all(is_url_safe);
    if node_fits && secret_fits { Some((token, parse_number(number)?)) } else { None }
}

/// The longest name of a node, as the configuration has it.
const MAX_NODE: usize = 16;

/// How long a token's secret can be: 128 bits are 22 characters of base64; the rest is room to grow.
const SECRET: std::ops::RangeInclusive<usize> = 22..=128;

/// True for the characters of URL-safe base64 (RFC 4648 section 5).
pub(super) fn is_url_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn event(out: &mut BytesMut, name: &[u8]) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name);
    out.put_u8(b'\n');
}

fn id(out: &mut BytesMut, ids: Ids<'_>, number: u64) {
    out.extend_from_slice(b"id: ");
    if let Ids::Token(token) = ids {
        debug_assert!(token.bytes().all(is_url_safe), "a token in an id is URL-safe");
        out.extend_from_slice(token.as_bytes());
        out.put_u8(b'.');
    }
    write::decimal(out, number);
    out.put_u8(b'\n');
}

/// One `data` line, which `line` must not break, and the end of the event.
fn data(out: &mut BytesMut, line: impl FnOnce(&mut BytesMut)) {
    out.extend_from_slice(b"data: ");
    line(out);
    end(out);
}

/// The `data` lines of a text without CR. An empty text is one empty `data` line: that is an event, where no `data` line
/// at all would be none.
fn text_lines(out: &mut BytesMut, text: &[u8]) {
    out.reserve(text.len() + 16);
    // Looking for an LF first is a fast search over words; splitting goes byte by byte and is seldom needed.
    if !text.contains(&b'\n') {
        return data(out, |out| out.extend_from_slice(text));
    }
    lines(out, text.split(|byte| *byte == b'\n'));
}

/// The `data` lines of JSON. A line break in JSON can only be white space between values, so breaking there is harmless.
fn json_lines(out: &mut BytesMut, json: &str) {
    let (json, is_end) = (json.as_bytes(), |byte: &u8| matches!(byte, b'\n' | b'\r'));
    // As with texts.
    if !json.contains(&b'\n') && !json.contains(&b'\r') {
        return data(out, |out| out.extend_from_slice(json));
    }
    lines(out, json.split(is_end));
}

fn lines<'a>(out: &mut BytesMut, lines: impl Iterator<Item = &'a [u8]>) {
    for line in lines {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.put_u8(b'\n');
    }
    out.put_u8(b'\n');
}

/// Ends the line and the event.
fn end(out: &mut BytesMut) {
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).expect("SSE is UTF-8")
    }

    /// The example of the protocol, section 4.1, to the byte.
    #[test]
    fn the_stream_of_the_protocol() {
        let events = Events(Ids::Bare);
        let stream = written(|out| {
            events.opening(out, 0, r#"{"id":"x","from":0,"next":1}"#);
            events.message(out, 17, &Message::text("a text message"));
            events.message(out, 18, &Message::binary(vec![0, 1, 2, 255]));
            events.message(out, 19, &Message::text("a text\r\nwith a carriage return"));
            events.heartbeat(out, 19);
            events.close(out, 20, &Close::clean(4001, "kicked"));
        });
        let expected = concat!(
            "retry: 1000\n\n",
            "event: session\nid: 0\ndata: {\"id\":\"x\",\"from\":0,\"next\":1}\n\n",
            "id: 17\ndata: a text message\n\n",
            "id: 18\nevent: binary\ndata: AAEC/w==\n\n",
            "id: 19\nevent: json\ndata: \"a text\\r\\nwith a carriage return\"\n\n",
            "event: heartbeat\ndata: 19\n\n",
            "id: 20\nevent: close\ndata: {\"code\":4001,\"reason\":\"kicked\",\"clean\":true}\n\n",
        );
        assert_eq!(stream, expected);
    }

    #[test]
    fn the_events_beside_the_messages() {
        let events = Events(Ids::Bare);
        assert_eq!(written(|out| events.superseded(out)), "event: superseded\ndata: {\"superseded\":true}\n\n");
        assert_eq!(written(|out| events.lost(out, 3, 9)), "event: lost\ndata: {\"from\":3,\"to\":9}\n\n");
        assert_eq!(written(|out| events.reconnect(out, 250)), "event: reconnect\ndata: {\"after_ms\":250}\n\n");
        let broken = written(|out| unavailable(out, "{\"error\":\r{}}"));
        assert_eq!(broken, "event: unavailable\ndata: {\"error\":\ndata: {}}\n\n");
    }

    #[test]
    fn ids_with_a_token() {
        let token = "n1-abcdefghijklmnopqrstuv";
        let event = written(|out| Events(Ids::Token(token)).message(out, 7, &Message::text(" a\n\nb\n")));
        assert_eq!(event, format!("id: {token}.7\ndata:  a\ndata: \ndata: b\ndata: \n\n"));
        assert_eq!(parse_id(&format!("{token}.7")), Some((token, 7)));
    }

    #[test]
    fn ids_that_are_not_ours() {
        let long = format!("n1-{}.5", "a".repeat(129));
        for id in [
            "",
            "7",
            "item-7.3",
            "n1-abcdefghijklmnopqrstuv",
            "n1-abcdefghijklmnopqrstuv.",
            "n1-abcdefghijklmnopqrstuv.-1",
            "n1-abcdefghijklmnopqrstuv.1.2",
            "n1-abcdefghijklmnopqr/tuv.1",
            "-abcdefghijklmnopqrstuv.1",
            "n_1-abcdefghijklmnopqrstuv.1",
            "abcdefghijklmnopq-abcdefghijklmnopqrstuv.1",
            &long,
        ] {
            assert_eq!(parse_id(id), None, "{id}");
        }
    }

    #[test]
    fn numbers_are_digits_up_to_two_to_the_53rd() {
        assert_eq!(parse_number("0"), Some(0));
        assert_eq!(parse_number("9007199254740991"), Some(MAX_NUMBER));
        for number in ["", "9007199254740992", "18446744073709551616", "+1", "-1", " 1", "1.0", "1e3", "٣"] {
            assert_eq!(parse_number(number), None, "{number}");
        }
    }
}
