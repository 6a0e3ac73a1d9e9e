//! The counters of the house: what the busy rooms count.
//!
//! Enters: events, told by whoever saw them. Leaves: counters, which `names` registers and `reading` reads. Must not touch:
//! sessions, sockets, names of clients. Every series exists from the start, so nothing a stranger sends adds one.

mod handover;
mod names;
mod reading;
mod series;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

pub use self::handover::Handovers;
use self::reading::Recent;
pub use self::reading::{LastReload, Reading, RecentChange};
use self::series::{Delays, Series};
use crate::terms::{Cause, Direction, Ending, ErrorCode, Limit, Resume, Transport};

/// Classes of a proxied answer; the last is for requests whose backend gave no valid one.
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

/// Why a connection was closed that had to begin with a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unintroduced {
    /// Its peer may not introduce others.
    Untrusted,
    /// What it began with was none.
    Malformed,
    /// It took too long.
    Late,
}

/// The words of [`Unintroduced`], in its order.
const UNINTRODUCED: [&str; 3] = ["untrusted", "malformed", "late"];

/// All counters of the process. Shared in an `Arc`; each method is a few relaxed atomic adds.
#[derive(Debug)]
pub struct Metrics {
    opened: Counter,
    ended: Series<Counter>,
    active: Series<Gauge>,
    resumes: Series<Counter>,
    firsts: Series<Counter>,
    changes: Series<Counter>,
    pauses: Counter,
    memory_waits: Counter,
    messages: Series<Counter>,
    message_bytes: Series<Counter>,
    delays: Series<Delays>,
    refusals: Series<Counter>,
    tunnels: Counter,
    tunnels_active: Gauge,
    tunnel_bytes: Series<Counter>,
    proxied: Series<Counter>,
    proxied_active: Gauge,
    repeated: Counter,
    connections: Counter,
    connections_active: Gauge,
    handshake_failures: Counter,
    unintroduced: Series<Counter>,
    dial_waits: Counter,
    dial_waits_active: Gauge,
    connections_full: Counter,
    limited: Series<Counter>,
    reloads: Series<Counter>,
    reload_successful: Gauge,
    reload_success: Gauge,
    /// Hand-overs, which the app tells of.
    pub handover: Handovers,
    last_reload: Mutex<Option<LastReload>>,
    sessions_limit: Gauge,
    connections_limit: Gauge,
    recent: Recent,
}

/// One of what a gauge counts, until dropped; so that no early return and no cancelled future leaves it counted.
#[derive(Debug)]
#[must_use = "dropping it ends the count"]
pub struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Counted {
    fn one(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let by_way = || Series::new(ways());
        Self {
            opened: Counter::default(),
            ended: Series::by("reason", Ending::WORDS.iter().copied()),
            active: Series::by("transport", Transport::WORDS.iter().copied().chain(["none"])),
            resumes: Series::by("result", Resume::WORDS.iter().copied()),
            firsts: Series::new(firsts()),
            changes: Series::new(pairs()),
            pauses: Counter::default(),
            memory_waits: Counter::default(),
            messages: by_way(),
            message_bytes: by_way(),
            delays: Series::by("transport", Transport::WORDS.iter().copied()),
            refusals: Series::by("code", ErrorCode::WORDS.iter().copied()),
            tunnels: Counter::default(),
            tunnels_active: Gauge::default(),
            tunnel_bytes: Series::by("direction", Direction::WORDS.iter().copied()),
            proxied: Series::by("class", CLASSES),
            proxied_active: Gauge::default(),
            repeated: Counter::default(),
            connections: Counter::default(),
            connections_active: Gauge::default(),
            handshake_failures: Counter::default(),
            unintroduced: Series::by("reason", UNINTRODUCED),
            dial_waits: Counter::default(),
            dial_waits_active: Gauge::default(),
            connections_full: Counter::default(),
            limited: Series::by("limit", Limit::WORDS.iter().copied()),
            reloads: Series::by("result", ["applied", "refused"]),
            reload_successful: Gauge::default(),
            reload_success: Gauge::default(),
            handover: Handovers::default(),
            last_reload: Mutex::default(),
            sessions_limit: Gauge::default(),
            connections_limit: Gauge::default(),
            recent: Recent::default(),
        }
    }
}

impl Metrics {
    /// A session was opened; nothing is attached to it yet.
    pub fn session_opened(&self) {
        self.opened.inc();
        self.active[slot(None)].inc();
    }

    /// A session that `attached` carried has ended and no longer counts as active.
    pub fn session_ended(&self, attached: Option<Transport>, why: Ending) {
        self.active[slot(attached)].dec();
        self.ended[why as usize].inc();
    }

    /// An active session that `attached` carried has gone to another process.
    pub fn session_left(&self, attached: Option<Transport>) {
        self.active[slot(attached)].dec();
    }

    /// An active session has come from another process.
    pub fn session_came(&self) {
        self.active[slot(None)].inc();
    }

    /// An active session is carried by `to` now, and by `from` no more. Both `None` when nothing is attached.
    pub fn moved(&self, from: Option<Transport>, to: Option<Transport>) {
        self.active[slot(from)].dec();
        self.active[slot(to)].inc();
    }

    /// A session is carried for the first time, by this, for this cause.
    pub fn attached_first(&self, transport: Transport, cause: Cause) {
        self.firsts[transport as usize * Cause::ALL.len() + cause as usize].inc();
    }

    /// A client that used `from` before has come back with `to`, with or without a time between them. Coming back with
    /// the same one is no change and counts nothing.
    pub fn changed(&self, from: Transport, to: Transport) {
        if let Some(row) = change(from, to) {
            self.changes[row].inc();
        }
    }

    /// A client came back for a session.
    pub fn resumed(&self, result: Resume) {
        self.resumes[result as usize].inc();
    }

    /// A backend is no longer read because its client is behind.
    pub fn paused(&self) {
        self.pauses.inc();
    }

    /// A backend, a client's WebSocket or a `send` is not read for now because memory is short.
    pub fn memory_waited(&self) {
        self.memory_waits.inc();
    }

    /// Messages, with this many payload bytes, were handed to the client's writer.
    pub fn down(&self, transport: Transport, messages: u64, bytes: u64) {
        self.messages[transport as usize].inc_by(messages);
        self.message_bytes[transport as usize].inc_by(bytes);
    }

    /// A message of the client, with this many payload bytes, is on its way to the backend.
    pub fn up(&self, bytes: u64) {
        self.messages[Transport::ALL.len()].inc();
        self.message_bytes[Transport::ALL.len()].inc_by(bytes);
    }

    /// A message was handed to the client's writer this long after the backend gave it to us.
    pub fn delivered(&self, transport: Transport, delay: Duration) {
        self.delays[transport as usize].observe(delay);
    }

    /// A request was refused with this error code.
    pub fn refused(&self, code: ErrorCode) {
        self.refusals[code as usize].inc();
    }

    /// A tunnel was opened; it counts as active until the value is dropped.
    pub fn tunnel(&self) -> Counted {
        self.tunnels.inc();
        Counted::one(&self.tunnels_active)
    }

    /// A tunnel that was counted before, by this process or another, is active until the value is dropped.
    pub fn tunnel_again(&self) -> Counted {
        Counted::one(&self.tunnels_active)
    }

    /// Bytes went through a tunnel.
    pub fn tunnelled(&self, direction: Direction, bytes: u64) {
        self.tunnel_bytes[direction as usize].inc_by(bytes);
    }

    /// A request goes to a backend by plain HTTP; it counts as in flight until the value is dropped.
    pub fn proxying(&self) -> Counted {
        Counted::one(&self.proxied_active)
    }

    /// How many requests are being proxied.
    #[must_use]
    pub fn proxied_now(&self) -> u64 {
        u64::try_from(self.proxied_active.get()).unwrap_or_default()
    }

    /// A proxied request was made a second time, because the kept connection had just ended.
    pub fn repeated(&self) {
        self.repeated.inc();
    }

    /// A proxied request was answered with the backend's `status`; `None` when the backend gave no valid answer.
    pub fn proxied(&self, status: Option<u16>) {
        let class = status.map_or(0, |status| usize::from(status / 100));
        let row = if (1..=5).contains(&class) { class - 1 } else { CLASSES.len() - 1 };
        self.proxied[row].inc();
    }

    /// A client's connection was accepted; it counts as active until the value is dropped.
    pub fn connection(&self) -> Counted {
        self.connections.inc();
        Counted::one(&self.connections_active)
    }

    /// A connection that was counted before, by this process or another, is active until the value is dropped.
    pub fn connection_again(&self) -> Counted {
        Counted::one(&self.connections_active)
    }

    /// A client's TLS handshake failed or took too long.
    pub fn handshake_failed(&self) {
        self.handshake_failures.inc();
    }

    /// A connection was closed because it had no PROXY header that counts.
    pub fn unintroduced(&self, why: Unintroduced) {
        self.unintroduced[why as usize].inc();
    }

    /// A request waits for its turn to dial a backend, until the value is dropped.
    pub fn waiting_to_dial(&self) -> Counted {
        self.dial_waits.inc();
        Counted::one(&self.dial_waits_active)
    }

    /// A connection was accepted and has to wait, because there are as many as there may be.
    pub fn connections_full(&self) {
        self.connections_full.inc();
    }

    /// A client was refused, because it has or does as much of this as one may.
    pub fn limited(&self, limit: Limit) {
        self.limited[limit as usize].inc();
    }

    /// The configuration was read at the start, at this time.
    pub fn started(&self, at: SystemTime, sessions: usize, connections: usize) {
        self.sessions_limit.set(i64::try_from(sessions).unwrap_or(i64::MAX));
        self.connections_limit.set(i64::try_from(connections).unwrap_or(i64::MAX));
        self.note_reload(true, at);
    }

    /// The configuration, and all certificates, were read again, and taken; or something of it was refused.
    pub fn reloaded(&self, applied: bool, at: SystemTime) {
        self.reloads[usize::from(!applied)].inc();
        self.note_reload(applied, at);
        *self.last_reload.lock().unwrap_or_else(PoisonError::into_inner) = Some(LastReload { at: unix(at), applied });
    }

    fn note_reload(&self, applied: bool, at: SystemTime) {
        self.reload_successful.set(applied.into());
        if applied {
            self.reload_success.set(i64::try_from(unix(at)).unwrap_or(i64::MAX));
        }
    }
}

/// In seconds since 1970.
fn unix(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Where the gauge of what is attached stands in `Metrics::active`.
fn slot(attached: Option<Transport>) -> usize {
    attached.map_or(Transport::ALL.len(), |transport| transport as usize)
}

/// Down by each transport, then up.
fn ways() -> impl Iterator<Item = Vec<(&'static str, &'static str)>> {
    let down =
        Transport::WORDS.iter().copied().map(|word| vec![("direction", Direction::Down.as_str()), ("transport", word)]);
    down.chain([vec![("direction", Direction::Up.as_str()), ("transport", "any")]])
}

/// The row of a change in `Metrics::changes`: all pairs of different transports, in the order of `pairs`.
fn change(from: Transport, to: Transport) -> Option<usize> {
    let (from, to) = (from as usize, to as usize);
    (from != to).then(|| from * (Transport::ALL.len() - 1) + to - usize::from(to > from))
}

/// All pairs of a transport and a cause, the causes of one transport behind each other.
fn firsts() -> impl Iterator<Item = Vec<(&'static str, &'static str)>> {
    let causes = |transport| Cause::WORDS.iter().map(move |cause| vec![("transport", transport), ("cause", *cause)]);
    Transport::WORDS.iter().copied().flat_map(causes)
}

fn pairs() -> impl Iterator<Item = Vec<(&'static str, &'static str)>> {
    let from_each = |from: &'static str| Transport::WORDS.iter().copied().map(move |to| (from, to));
    let pairs = Transport::WORDS.iter().copied().flat_map(from_each).filter(|(from, to)| from != to);
    pairs.map(|(from, to)| vec![("from", from), ("to", to)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_has_the_row_of_its_labels() {
        let labels: Vec<_> = pairs().collect();
        assert_eq!(labels.len(), 12);
        for from in Transport::ALL {
            for to in Transport::ALL {
                let expected = vec![("from", from.as_str()), ("to", to.as_str())];
                assert_eq!(change(*from, *to), labels.iter().position(|pair| *pair == expected));
            }
        }
    }

    #[test]
    fn active_sessions_follow_their_transport_and_sum_to_those_alive() {
        let metrics = Metrics::default();
        metrics.session_opened();
        metrics.session_opened();
        metrics.moved(None, Some(Transport::Sse));
        metrics.moved(Some(Transport::Sse), Some(Transport::Poll));
        let active =
            |metrics: &Metrics| (0..=Transport::ALL.len()).map(|row| metrics.active[row].get()).collect::<Vec<_>>();
        assert_eq!(active(&metrics), [0, 0, 0, 1, 1]);
        metrics.session_ended(Some(Transport::Poll), Ending::Killed);
        metrics.session_ended(None, Ending::GraceOver);
        assert_eq!(active(&metrics), [0; 5]);
        assert_eq!((metrics.opened.get(), metrics.ended[Ending::Killed as usize].get()), (2, 1));
    }

    #[test]
    fn what_is_counted_by_value_ends_with_the_value() {
        let metrics = Metrics::default();
        let (one, two) = (metrics.connection(), metrics.connection());
        drop(one);
        assert_eq!(metrics.connections_active.get(), 1);
        drop(two);
        assert_eq!((metrics.connections_active.get(), metrics.connections.get()), (0, 2));
    }

    #[test]
    fn any_status_has_a_class() {
        let metrics = Metrics::default();
        for status in [None, Some(0), Some(99), Some(101), Some(204), Some(599), Some(600), Some(u16::MAX)] {
            metrics.proxied(status);
        }
        let counts: Vec<_> = (0..CLASSES.len()).map(|row| metrics.proxied[row].get()).collect();
        assert_eq!(counts, [1, 1, 0, 0, 1, 5]);
    }
}
