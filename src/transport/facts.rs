//! The facts of a session, as clients are told them (PROTOCOL 3.1, 3.4, 4.1).
//!
//! Enters: a cell, the limits. Leaves: JSON text. Must not touch: the session's state.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::config;
use crate::registry::{Cell, Reader};

/// The transports, best first.
pub const TRANSPORTS: [&str; 4] = ["ws", "sse", "stream", "poll"];

/// What a client is told when its session is opened.
#[must_use]
pub fn of_session(cell: &Cell, prefix: &str) -> Map<String, Value> {
    let policy = cell.policy();
    let token = cell.token().as_str();
    let facts = json!({
        "id": cell.id(), "token": token, "protocol": cell.protocol(), "url": format!("{prefix}/s/{token}"),
        "max_message": policy.message, "max_batch": policy.batch, "ack_bytes": policy.ack_bytes,
        "heartbeat": seconds(policy.heartbeat), "wait": seconds(policy.wait), "grace": seconds(policy.grace),
        "recycle": seconds(policy.recycle), "transports": TRANSPORTS,
    });
    match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}

/// What a client is told when a stream of its session begins. `next` is the up number expected.
#[must_use]
pub fn of_attachment(reader: &Reader, prefix: &str, arrival: Arrival, next: u64) -> String {
    let mut facts = of_session(reader.cell(), prefix);
    facts.insert("resumed".into(), (reader.resumed() && arrival != Arrival::Forgotten).into());
    facts.insert("from".into(), reader.from().into());
    facts.insert("next".into(), next.into());
    if arrival == Arrival::Forgotten {
        facts.insert("lost".into(), true.into());
    }
    Value::Object(facts).to_string()
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
            "heartbeat": seconds(session.heartbeat), "wait": seconds(session.wait),
            "wait_max": seconds(session.wait_max), "grace": seconds(session.grace),
            "recycle": seconds(session.recycle), "pause": seconds(session.pause), "probe": seconds(session.probe),
        },
    })
    .to_string()
}

/// Whole seconds as an integer, others as a fraction.
fn seconds(span: Duration) -> Value {
    if span.subsec_nanos() == 0 { span.as_secs().into() } else { span.as_secs_f64().into() }
}
