//! The response to one long poll, as JSON and as frames (`docs/PROTOCOL.md`, section 4.3).
//!
//! Enters: messages and whatever else a reader was given. Leaves: one body. Must not touch: the session they came from.

use bytes::{BufMut, BytesMut};

use super::encoding::Encoding as _;
use super::frames::Frames;
use super::{frames, write};
use crate::session::{Close, Message};

/// What the response to one poll says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollResponse<'a> {
    /// The cursor that the response starts behind: without a loss, `from` + 1 is the number of the first message.
    pub from: u64,
    /// The cursor to present next; it includes the close, when there is one.
    pub after: u64,
    /// The messages; may be none.
    pub messages: &'a [Message],
    /// The end of the session, behind the messages.
    pub close: Option<&'a Close>,
    /// The first and the last number that are gone; the first message follows the last one lost.
    pub lost: Option<(u64, u64)>,
    /// The up number expected next.
    pub next: u64,
    /// The request's `n`, echoed; may hold anything.
    pub nonce: Option<&'a str>,
    /// A newer attachment reads now.
    pub superseded: bool,
    /// Come back, but not before so many milliseconds.
    pub reconnect: Option<u32>,
}

impl PollResponse<'_> {
    /// Appends the response as JSON: `from`, `after`, `lost`, `messages`, `close`, `next`, `superseded`, `reconnect`, `n`.
    /// What there is none of is left out, except `messages`.
    pub fn encode_json(&self, out: &mut BytesMut) {
        out.reserve(self.cost());
        field(out, b"{\"from\":", |out| write::decimal(out, self.from));
        field(out, b",\"after\":", |out| write::decimal(out, self.after));
        if let Some((from, to)) = self.lost {
            field(out, b",\"lost\":", |out| write::lost_json(out, from, to));
        }
        field(out, b",\"messages\":", |out| self.messages_json(out));
        if let Some(close) = self.close {
            field(out, b",\"close\":", |out| write::close_json(out, close));
        }
        field(out, b",\"next\":", |out| write::decimal(out, self.next));
        if self.superseded {
            field(out, b",\"superseded\":", |out| out.extend_from_slice(b"true"));
        }
        if let Some(after_ms) = self.reconnect {
            field(out, b",\"reconnect\":", |out| write::reconnect_json(out, after_ms));
        }
        self.end_json(out);
    }

    /// Appends the response as frames: 11 with `from`, `after`, `next` and `n`, then 12 (lost), the messages, 8 (close),
    /// 13 (superseded), 14 (reconnect).
    pub fn encode_frames(&self, out: &mut BytesMut) {
        out.reserve(self.cost());
        frames::facts_with(out, |out| self.facts_json(out));
        if let Some((from, to)) = self.lost {
            Frames.lost(out, from, to);
        }
        for message in self.messages {
            frames::message(out, message);
        }
        if let Some(close) = self.close {
            frames::close(out, close);
        }
        if self.superseded {
            Frames.superseded(out);
        }
        if let Some(after_ms) = self.reconnect {
            Frames.reconnect(out, after_ms);
        }
    }

    /// About how long the body becomes; for one allocation in the usual case.
    fn cost(&self) -> usize {
        256 + self.messages.iter().map(Message::cost).sum::<usize>()
    }

    fn messages_json(&self, out: &mut BytesMut) {
        out.put_u8(b'[');
        for (at, message) in self.messages.iter().enumerate() {
            if at > 0 {
                out.put_u8(b',');
            }
            write::message_json(out, message);
        }
        out.put_u8(b']');
    }

    fn facts_json(&self, out: &mut BytesMut) {
        field(out, b"{\"from\":", |out| write::decimal(out, self.from));
        field(out, b",\"after\":", |out| write::decimal(out, self.after));
        field(out, b",\"next\":", |out| write::decimal(out, self.next));
        self.end_json(out);
    }

    fn end_json(&self, out: &mut BytesMut) {
        if let Some(nonce) = self.nonce {
            field(out, b",\"n\":", |out| write::json_string(out, nonce.as_bytes()));
        }
        out.put_u8(b'}');
    }
}

fn field(out: &mut BytesMut, name: &[u8], value: impl FnOnce(&mut BytesMut)) {
    out.extend_from_slice(name);
    value(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare<'a>() -> PollResponse<'a> {
        PollResponse {
            from: 17,
            after: 17,
            messages: &[],
            close: None,
            lost: None,
            next: 5,
            nonce: None,
            superseded: false,
            reconnect: None,
        }
    }

    fn json(response: &PollResponse<'_>) -> BytesMut {
        let mut out = BytesMut::new();
        response.encode_json(&mut out);
        out
    }

    fn frames(response: &PollResponse<'_>) -> Vec<frames::Frame> {
        let mut out = BytesMut::new();
        response.encode_frames(&mut out);
        frames::decode_all(out.freeze()).expect("our own frames")
    }

    /// The example of the protocol, section 4.3, to the byte.
    #[test]
    fn the_response_of_the_protocol() {
        let messages = [Message::text("a text"), Message::binary(vec![0, 1, 2, 255])];
        let close = Close::clean(4001, "kicked");
        let response =
            PollResponse { after: 20, messages: &messages, close: Some(&close), nonce: Some("a\"b"), ..bare() };
        let expected = r#"{"from":17,"after":20,"messages":["a text",{"base64":"AAEC/w=="}],"close":{"code":4001,"reason":"kicked","clean":true},"next":5,"n":"a\"b"}"#;
        assert_eq!(json(&response), expected);
        let frames = frames(&response);
        let [text, binary] = messages.map(frames::Frame::Message);
        let facts = frames::Frame::Facts(r#"{"from":17,"after":20,"next":5,"n":"a\"b"}"#.into());
        assert_eq!(frames, [facts, text, binary, frames::Frame::Close(close)]);
    }

    #[test]
    fn what_there_is_not_is_left_out() {
        assert_eq!(json(&bare()), r#"{"from":17,"after":17,"messages":[],"next":5}"#);
        let response = PollResponse { lost: Some((18, 40)), superseded: true, reconnect: Some(250), ..bare() };
        let expected = r#"{"from":17,"after":17,"lost":{"from":18,"to":40},"messages":[],"next":5,"superseded":true,"reconnect":{"after_ms":250}}"#;
        assert_eq!(json(&response), expected);
        let frames = frames(&response);
        let lost = frames::Frame::Lost { from: 18, to: 40 };
        assert_eq!(frames[1..], [lost, frames::Frame::Superseded, frames::Frame::Reconnect(250)]);
    }
}
