//! The state of the process in one answer.
//!
//! Enters: the house. Leaves: JSON, for the page and `underpass status`. Must not touch: anything; it only reads.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::house::{BackendLoad, House, Readings, Share};
use crate::lifecycle::{descriptors, log};

/// Everything but single sessions and the configuration. Times are seconds since 1970.
pub(super) fn of(house: &House) -> Value {
    let readings = house.readings();
    let read = house.metrics.read();
    let alive = house.lifecycle.alive();
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = SystemTime::now();
    json!({
        "version": house.version,
        "phase": format!("{:?}", readings.phase).to_lowercase(),
        "started": seconds(house.started),
        "now": now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        "alive": { "connections": alive.connections, "sessions": alive.sessions, "tunnels": alive.tunnels },
        "routes": routes(&readings),
        "buffers": { "kept": readings.load.kept, "queued": readings.load.queued, "paused": readings.load.paused },
        "limits": limits(house, &readings, read.connections),
        "backends": readings.backends.iter().map(backend).collect::<Vec<_>>(),
        "certificates": certificates(&readings),
        "configuration": { "in_force_since": house.metrics.in_force_since(), "last_reload": house.metrics.last_reload() },
        "log_level": log::level(),
        "log_lines_dropped": readings.log_lines_dropped,
        "changes": house.metrics.recent_changes(),
        "counted": read,
    })
}

/// Sessions by route, those with most first.
fn routes(readings: &Readings) -> Vec<Value> {
    let mut counts: Vec<_> = readings.load.routes.iter().collect();
    counts.sort_by_key(|(route, sessions)| (Reverse(**sessions), Arc::clone(route)));
    counts.into_iter().map(|(route, sessions)| json!({ "route": &**route, "sessions": sessions })).collect()
}

/// What is bounded: how much of it is used, how much there is, and the key that says so.
fn limits(house: &House, readings: &Readings, connections: u64) -> Vec<Value> {
    let of = |name: &str, share: Share| json!({ "name": name, "used": share.used, "limit": share.limit });
    let bytes =
        |name: &str, Share { used, limit }| json!({ "name": name, "unit": "bytes", "used": used, "limit": limit });
    let connections = Share { used: usize::try_from(connections).unwrap_or(usize::MAX), limit: house.connections };
    let mut limits = vec![
        of("session.max", house.registry.seats().into()),
        of("client.connections", connections),
        bytes("memory", readings.memory),
    ];
    if let Some((open, limit)) = descriptors::open().zip(descriptors::limit()) {
        limits.push(json!({ "name": "file descriptors", "used": open, "limit": limit }));
    }
    // Of several backends the one that is nearest to it.
    let fullest = |of: fn(&BackendLoad) -> Share| {
        let part = |share: &Share| share.used as u128 * u128::from(u32::MAX) / share.limit.max(1) as u128;
        readings.backends.iter().map(of).max_by_key(part)
    };
    limits.extend(fullest(|one| one.dials).map(|share| of("backend.dials", share)));
    limits.extend(fullest(|one| one.pooled).map(|share| of("backend.pool", share)));
    limits.push(of("session.ended_max", readings.ended));
    limits.push(of("addresses known", readings.clients));
    limits
}

fn backend(load: &BackendLoad) -> Value {
    let BackendLoad { route, dials, waiting, pooled } = load;
    json!({ "route": &**route, "dials": dials.used, "dials_limit": dials.limit, "waiting": waiting, "pooled": pooled.used })
}

fn certificates(readings: &Readings) -> Vec<Value> {
    readings.certificates.iter().map(|(file, ends)| json!({ "file": file, "expires": ends })).collect()
}
