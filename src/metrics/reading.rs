//! A reading of the counters for people: the status page and `underpass status`.
//!
//! Enters: the counters. Leaves: plain numbers, with the changes of transport that were last. Must not touch: what is
//! counted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;

use super::{Metrics, slot, unix};
use crate::terms::{Ending, ErrorCode, Transport};

/// So many changes are remembered.
const RECENT: usize = 50;

/// Words and their numbers; those that are zero are left out, except of `active`.
type Numbers = BTreeMap<&'static str, u64>;

/// The counters at one moment. Totals are since the start of the process.
#[derive(Clone, Debug, Serialize)]
pub struct Reading {
    /// Sessions by the transport that carries them now; `none` where nothing does.
    pub active: Numbers,
    /// Sessions opened.
    pub opened: u64,
    /// Sessions ended, by reason.
    pub ended: Numbers,
    /// Messages and payload bytes from the backends to clients.
    pub down: [u64; 2],
    /// Messages and payload bytes from clients.
    pub up: [u64; 2],
    /// Delays that we added to messages: upper bounds in seconds (`None` for the rest), and how many fell below each and
    /// above the one before.
    pub delays: Vec<(Option<f64>, u64)>,
    /// Requests refused, by code.
    pub refusals: Numbers,
    /// Times a backend was not read because its client was behind.
    pub pauses: u64,
    /// Times something waited for memory.
    pub memory_waits: u64,
    /// WebSockets passed through that are open.
    pub tunnels: u64,
    /// Plain requests in flight.
    pub proxied: u64,
    /// Connections of clients that are open.
    pub connections: u64,
    /// Requests that wait for their turn to dial.
    pub dial_waits: u64,
    /// Reloads of the configuration: applied, refused.
    pub reloads: [u64; 2],
}

/// A session came to be carried by another transport, or by less than the best from the start.
#[derive(Clone, Debug, Serialize)]
pub struct RecentChange {
    /// Seconds since 1970.
    pub at: u64,
    /// The session's public name.
    pub session: String,
    /// What carried it before, if anything did.
    pub from: Option<&'static str>,
    /// What carries it now.
    pub to: &'static str,
    /// Why, as the client says.
    pub cause: String,
}

/// The last reload of the configuration that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LastReload {
    /// Seconds since 1970.
    pub at: u64,
    /// Whether all of it was taken, certificates included.
    pub applied: bool,
}

/// The last changes, oldest first.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<RecentChange>>);

impl Metrics {
    /// Remembers a change of transport for the status page.
    pub fn remember_change(&self, session: &str, from: Option<Transport>, to: Transport, cause: String) {
        let at = unix(SystemTime::now());
        let from = from.map(Transport::as_str);
        let change = RecentChange { at, session: session.to_owned(), from, to: to.as_str(), cause };
        // Each change is one push or pop, so a panic leaves nothing half done.
        let mut recent = self.recent.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= RECENT {
            recent.pop_front();
        }
        recent.push_back(change);
    }

    /// The last changes of transport, newest first.
    #[must_use]
    pub fn recent_changes(&self) -> Vec<RecentChange> {
        self.recent.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }

    /// The last reload, if there was one.
    #[must_use]
    pub fn last_reload(&self) -> Option<LastReload> {
        *self.last_reload.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the configuration in force was read, in seconds since 1970.
    #[must_use]
    pub fn in_force_since(&self) -> u64 {
        u64::try_from(self.reload_success.get()).unwrap_or_default()
    }

    /// All numbers of this moment.
    #[must_use]
    pub fn read(&self) -> Reading {
        let gauge = |value: i64| u64::try_from(value).unwrap_or_default();
        let attached = Transport::ALL.iter().copied().map(Some).chain([None]);
        let word = |transport: Option<Transport>| transport.map_or("none", Transport::as_str);
        let ways = Transport::ALL.len();
        let down = |series: &super::Series<Counter>| (0..ways).map(|way| series[way].get()).sum();
        Reading {
            active: attached.map(|transport| (word(transport), gauge(self.active[slot(transport)].get()))).collect(),
            opened: self.opened.get(),
            ended: counted(Ending::WORDS, |row| self.ended[row].get()),
            down: [down(&self.messages), down(&self.message_bytes)],
            up: [self.messages[ways].get(), self.message_bytes[ways].get()],
            delays: self.all_delays(),
            refusals: counted(ErrorCode::WORDS, |row| self.refusals[row].get()),
            pauses: self.pauses.get(),
            memory_waits: self.memory_waits.get(),
            tunnels: gauge(self.tunnels_active.get()),
            proxied: gauge(self.proxied_active.get()),
            connections: gauge(self.connections_active.get()),
            dial_waits: gauge(self.dial_waits_active.get()),
            reloads: [self.reloads[0].get(), self.reloads[1].get()],
        }
    }

    fn all_delays(&self) -> Vec<(Option<f64>, u64)> {
        let mut all: Vec<(Option<f64>, u64)> = Vec::new();
        for transport in 0..Transport::ALL.len() {
            for (row, (bound, count)) in self.delays[transport].read().enumerate() {
                match all.get_mut(row) {
                    Some((_, sum)) => *sum += count,
                    None => all.push((bound, count)),
                }
            }
        }
        all
    }
}

fn counted(words: &[&'static str], of: impl Fn(usize) -> u64) -> Numbers {
    let all = words.iter().enumerate().map(|(row, word)| (*word, of(row)));
    all.filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_counted_is_read() {
        let metrics = Metrics::default();
        metrics.session_opened();
        metrics.moved(None, Some(Transport::Sse));
        metrics.down(Transport::Sse, 3, 100);
        metrics.up(15);
        metrics.up(5);
        metrics.delivered(Transport::Sse, Duration::from_millis(2));
        metrics.delivered(Transport::Poll, Duration::from_secs(90));
        metrics.refused(ErrorCode::Gap);
        let read = metrics.read();
        let active = [("none", 0), ("poll", 0), ("sse", 1), ("stream", 0), ("ws", 0)];
        assert_eq!(read.active, active.into());
        assert_eq!((read.opened, read.down, read.up), (1, [3, 100], [2, 20]));
        assert_eq!((read.refusals, read.ended), ([("gap", 1)].into(), Numbers::new()));
        let hit: Vec<_> = read.delays.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(hit, [&(Some(0.0025), 1), &(None, 1)]);
    }

    #[test]
    fn the_last_changes_are_remembered_and_no_more() {
        let metrics = Metrics::default();
        for number in 0..RECENT + 5 {
            metrics.remember_change(&number.to_string(), None, Transport::Sse, "ws refused".into());
        }
        let recent = metrics.recent_changes();
        assert_eq!((recent.len(), recent[0].session.as_str()), (RECENT, "54"));
    }
}
