//! The state of the process in one answer.
//!
//! Enters: the house. Leaves: JSON, for the page and `underpass status`. Must not touch: anything; it only reads.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::house::House;
use crate::lifecycle::{descriptors, log};

/// Everything but single sessions and the configuration. Times are seconds since 1970.
pub(super) fn of(house: &House) -> Value {
    let read = house.metrics.read();
    let alive = house.lifecycle.alive();
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = SystemTime::now();
    json!({
        "version": house.version,
        "phase": format!("{:?}", house.lifecycle.phase()).to_lowercase(),
        "started": seconds(house.started),
        "now": now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        "alive": { "connections": alive.connections, "sessions": alive.sessions, "tunnels": alive.tunnels },
        "routes": routes(house),
        "limits": limits(house, read.connections),
        "certificates": certificates(house),
        "log_level": log::level(),
        "changes": house.metrics.recent_changes(),
        "counted": read,
    })
}

/// Sessions by route, those with most first.
fn routes(house: &House) -> Vec<Value> {
    let mut counts: Vec<_> = house.registry.by_route().into_iter().collect::<BTreeMap<_, _>>().into_iter().collect();
    counts.sort_by_key(|(_, sessions)| std::cmp::Reverse(*sessions));
    counts.into_iter().map(|(route, sessions)| json!({ "route": &*route, "sessions": sessions })).collect()
}

/// What is bounded: how much of it is used, how much there is, and the key that says so.
fn limits(house: &House, connections: u64) -> Vec<Value> {
    let (sessions, most) = house.registry.seats();
    let mut limits = vec![
        json!({ "name": "session.max", "used": sessions, "limit": most }),
        json!({ "name": "client.connections", "used": connections, "limit": house.connections }),
        json!({ "name": "memory", "unit": "bytes", "used": house.budget.held(), "limit": house.budget.bytes() }),
    ];
    if let Some((open, limit)) = descriptors::open().zip(descriptors::limit()) {
        limits.push(json!({ "name": "file descriptors", "used": open, "limit": limit }));
    }
    limits
}

fn certificates(house: &House) -> Vec<Value> {
    (house.certificates)().into_iter().map(|(file, ends)| json!({ "file": file, "expires": ends })).collect()
}
