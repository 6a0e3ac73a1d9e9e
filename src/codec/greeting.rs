//! The greeting: what a client learns of its session when it opens or attaches to it, as JSON (PROTOCOL 3.1, 3.4, 4.1,
//! where it is called the facts of the session).
//!
//! Enters: names, limits, timers. Leaves: one JSON object at the end of a buffer. Must not touch: the session. By hand,
//! since every opening writes it: serde's flattening took five times as long.

use std::time::Duration;

use bytes::{BufMut, BytesMut};

use super::write::{decimal, json_string};

/// What a client learns of its session.
#[derive(Clone, Copy, Debug)]
pub struct Greeting<'a> {
    /// The session's public name.
    pub id: &'a str,
    /// Its secret.
    pub token: &'a str,
    /// The subprotocol that the backend chose; empty when none.
    pub protocol: &'a str,
    /// Where its endpoints are: a reference, relative to what was requested.
    pub url: &'a str,
    /// The largest message, the largest batch, and after how much to acknowledge, in bytes.
    pub bytes: [usize; 3],
    /// Heartbeat, the wait of a poll, grace, and recycling.
    pub timers: [Duration; 4],
    /// The transports, best first.
    pub transports: &'a [&'static str],
    /// What is added when a stream begins.
    pub attachment: Option<Attached>,
}

/// What a greeting says of an attachment.
#[derive(Clone, Copy, Debug)]
pub struct Attached {
    /// The session was attached before.
    pub resumed: bool,
    /// The cursor at which reading starts.
    pub from: u64,
    /// The number of the next message up.
    pub next: u64,
    /// The session that was asked for is gone, and this is another.
    pub lost: bool,
}

/// Appends the object.
pub fn encode(out: &mut BytesMut, greeting: &Greeting<'_>) {
    out.reserve(512);
    for (name, text) in [
        ("{\"id\":", greeting.id),
        (",\"token\":", greeting.token),
        (",\"protocol\":", greeting.protocol),
        (",\"url\":", greeting.url),
    ] {
        out.extend_from_slice(name.as_bytes());
        json_string(out, text.as_bytes());
    }
    for (name, number) in [",\"max_message\":", ",\"max_batch\":", ",\"ack_bytes\":"].into_iter().zip(greeting.bytes) {
        out.extend_from_slice(name.as_bytes());
        decimal(out, number as u64);
    }
    let names = [",\"heartbeat\":", ",\"wait\":", ",\"grace\":", ",\"recycle\":"];
    for (name, time) in names.into_iter().zip(greeting.timers) {
        out.extend_from_slice(name.as_bytes());
        seconds(out, time);
    }
    out.extend_from_slice(b",\"transports\":");
    for (place, name) in greeting.transports.iter().enumerate() {
        out.put_u8(if place == 0 { b'[' } else { b',' });
        json_string(out, name.as_bytes());
    }
    out.put_u8(b']');
    if let Some(attached) = &greeting.attachment {
        attachment(out, attached);
    }
    out.put_u8(b'}');
}

fn attachment(out: &mut BytesMut, attached: &Attached) {
    out.extend_from_slice(if attached.resumed { b",\"resumed\":true" } else { b",\"resumed\":false" });
    for (name, number) in [(",\"from\":", attached.from), (",\"next\":", attached.next)] {
        out.extend_from_slice(name.as_bytes());
        decimal(out, number);
    }
    if attached.lost {
        out.extend_from_slice(b",\"lost\":true");
    }
}

/// Whole seconds as an integer, others as a fraction.
fn seconds(out: &mut BytesMut, time: Duration) {
    match time.subsec_nanos() {
        0 => decimal(out, time.as_secs()),
        // A finite number as Rust writes it is a JSON number.
        _ => out.extend_from_slice(time.as_secs_f64().to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn greeting(attachment: Option<Attached>) -> Greeting<'static> {
        Greeting {
            id: "abc",
            token: "n1-abcdef",
            protocol: "a\"b",
            url: "../_under\"pass/s/n1-abcdef",
            bytes: [1, 1_000_000, usize::MAX],
            timers: [15_000, 25_500, 60_000, 0].map(Duration::from_millis),
            transports: &["ws", "sse"],
            attachment,
        }
    }

    fn encoded(greeting: &Greeting<'_>) -> Value {
        let mut out = BytesMut::new();
        encode(&mut out, greeting);
        serde_json::from_slice(&out).expect("a greeting is JSON")
    }

    #[test]
    fn a_greeting_has_its_values_by_name() {
        let mut expected = json!({
            "id": "abc", "token": "n1-abcdef", "protocol": "a\"b", "url": "../_under\"pass/s/n1-abcdef",
            "max_message": 1, "max_batch": 1_000_000, "ack_bytes": usize::MAX,
            "heartbeat": 15, "wait": 25.5, "grace": 60, "recycle": 0, "transports": ["ws", "sse"],
        });
        assert_eq!(encoded(&greeting(None)), expected);
        for (name, value) in [("resumed", json!(true)), ("from", json!(7)), ("next", json!(u64::MAX))] {
            expected[name] = value;
        }
        let attached = Attached { resumed: true, from: 7, next: u64::MAX, lost: false };
        assert_eq!(encoded(&greeting(Some(attached))), expected);
        (expected["resumed"], expected["lost"]) = (json!(false), json!(true));
        assert_eq!(encoded(&greeting(Some(Attached { resumed: false, lost: true, ..attached }))), expected);
    }
}
