//! The facts of a session, as clients are told them (PROTOCOL 3.1, 3.4, 4.1).
//!
//! Enters: a cell, the limits. Leaves: JSON text. Must not touch: the session's state.

use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::json;

use crate::config;
use crate::registry::{Cell, Reader};

/// The transports, best first.
pub const TRANSPORTS: [&str; 4] = ["ws", "sse", "stream", "poll"];

/// As JSON has them.
#[derive(Serialize)]
struct Facts<'a> {
    id: &'a str,
    token: &'a str,
    protocol: &'a str,
    url: String,
    max_message: usize,
    max_batch: usize,
    ack_bytes: usize,
    heartbeat: Seconds,
    wait: Seconds,
    grace: Seconds,
    recycle: Seconds,
    transports: [&'static str; 4],
    #[serde(flatten)]
    attachment: Option<Attachment>,
}

/// What is added when a stream begins.
#[derive(Serialize)]
struct Attachment {
    resumed: bool,
    from: u64,
    next: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    lost: bool,
}

/// What a client is told when its session is opened: an object with the facts as `session`.
#[must_use]
pub fn of_session(cell: &Cell, prefix: &str) -> String {
    format!(r#"{{"session":{}}}"#, Facts::of(cell, prefix, None).json())
}

/// What a client is told when a stream of its session begins. `next` is the up number expected.
#[must_use]
pub fn of_attachment(reader: &Reader, prefix: &str, arrival: Arrival, next: u64) -> String {
    let lost = arrival == Arrival::Forgotten;
    let attachment = Attachment { resumed: reader.resumed() && !lost, from: reader.from(), next, lost };
    Facts::of(reader.cell(), prefix, Some(attachment)).json()
}

impl<'a> Facts<'a> {
    fn of(cell: &'a Cell, prefix: &str, attachment: Option<Attachment>) -> Self {
        let (policy, token) = (cell.policy(), cell.token().as_str());
        Self {
            id: cell.id(),
            token,
            protocol: cell.protocol(),
            url: [prefix, "/s/", token].concat(),
            max_message: policy.message,
            max_batch: policy.batch,
            ack_bytes: policy.ack_bytes,
            heartbeat: Seconds(policy.heartbeat),
            wait: Seconds(policy.wait),
            grace: Seconds(policy.grace),
            recycle: Seconds(policy.recycle),
            transports: TRANSPORTS,
            attachment,
        }
    }

    fn json(&self) -> String {
        serde_json::to_string(self).expect("plain fields under string keys are JSON")
    }
}

/// How the client of a stream came to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It knew the session, or opened it.
    Known,
    /// It asked for a session that is not known here, and got a new one.
    Forgotten,
}

/// The answer to `info`.
#[must_use]
pub fn info(session: &config::Session) -> String {
    json!({
        "version": 1, "server": concat!("underpass/", env!("CARGO_PKG_VERSION")), "transports": TRANSPORTS,
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
