//! The greeting of a session, and the response to `info` (PROTOCOL 3.1, 3.4, 4.1).
//!
//! Enters: a session, the limits. Leaves: JSON text. Must not touch: the session's state.

use std::time::Duration;

use bytes::BytesMut;
use serde::{Serialize, Serializer};
use serde_json::json;

use crate::codec::greeting::{self, Attached, Greeting};
use crate::config;
use crate::registry::{LiveSession, Reader};
use crate::terms::Transport;

/// What a client gets when its session is opened: an object with the greeting as `session`. `url` is where its endpoints
/// are, relative to what was requested.
#[must_use]
pub fn of_session(session: &LiveSession, url: &str) -> String {
    let mut out = BytesMut::from(r#"{"session":"#);
    greeting::encode(&mut out, &of(session, url, None));
    out.extend_from_slice(b"}");
    text(out)
}

/// What a stream of a session begins with. `next` is the up number expected.
#[must_use]
pub fn of_attachment(reader: &Reader, url: &str, arrival: Arrival, next: u64) -> String {
    let lost = arrival == Arrival::Forgotten;
    let attached = Attached { resumed: reader.resumed() && !lost, from: reader.from(), next, lost };
    let mut out = BytesMut::new();
    greeting::encode(&mut out, &of(reader.session(), url, Some(attached)));
    text(out)
}

fn of<'a>(session: &'a LiveSession, url: &'a str, attachment: Option<Attached>) -> Greeting<'a> {
    let policy = session.policy();
    Greeting {
        id: session.id(),
        token: session.token().as_str(),
        protocol: session.protocol(),
        url,
        bytes: [policy.message, policy.batch, policy.ack_bytes],
        timers: [policy.heartbeat, policy.wait, policy.grace, policy.recycle],
        transports: Transport::WORDS,
        attachment,
    }
}

fn text(json: BytesMut) -> String {
    String::from_utf8(json.into()).expect("JSON made of texts is text")
}

/// Whether the stream is of the session that its client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It knew the session, or opened it.
    Known,
    /// It asked for a session that is not known here, and got a new one.
    Forgotten,
}

/// The response to `info`.
#[must_use]
pub fn info(session: &config::Session) -> String {
    json!({
        "version": 1, "server": concat!("underpass/", env!("CARGO_PKG_VERSION")), "transports": Transport::WORDS,
        "limits": {
            "message": session.message, "batch": session.batch, "body": session.body, "buffer": session.buffer,
            "replay": session.replay, "held": session.held,
        },
        "timers": {
            "heartbeat": Seconds(session.heartbeat), "wait": Seconds(session.wait),
            "wait_max": Seconds(session.wait_max), "grace": Seconds(session.grace),
            "recycle": Seconds(session.recycle), "pause": Seconds(session.pause), "probe": Seconds(session.probe),
        },
    })
    .to_string()
}

/// Whole seconds as an integer, others as a fraction.
struct Seconds(Duration);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.subsec_nanos() {
            0 => serializer.serialize_u64(self.0.as_secs()),
            _ => serializer.serialize_f64(self.0.as_secs_f64()),
        }
    }
}
