//! Sessions on their way to another process: what is written down of one, and how it lives on.
//!
//! Enters: the order to freeze; records. Leaves: parcels for the successor; live sessions. Must not touch: how parcels
//! travel, clients.
//!
//! **From the moment at which a session is frozen nothing is acknowledged, taken or given here.** Each event goes through
//! [`LiveSession::act`], which refuses it with [`Moved`]; so no step can forget to ask.

use std::convert::Infallible;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::driver::Driver;
use super::live_session::LiveSession;
use super::owner::{Change, Owner};
use super::token::Token;
use super::{Opened, Registry};
use crate::config;
use crate::lifecycle::moving::{Kind, Parcel, Unreadable};
use crate::limits::Held;
use crate::session::{Close, Counts, Moment, Session};
use crate::terms::{Ending, Transport};
use crate::upstream::dial::Io;
use crate::upstream::socket::Socket;
use crate::upstream::wire::{Standing, WireState};

/// How long sessions get to be opened or written down, once the process is on the move. Both take milliseconds, unless a
/// backend is slow to answer a handshake: nobody waits longer for that.
const SETTLE: Duration = Duration::from_millis(500);
/// How many ended sessions stand in one record; arbitrary.
const ENDED_AT_ONCE: usize = 1000;

/// The session has gone to another process: whatever was asked of it is to be asked there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this session has moved to the process that takes this one's place: ask again at once")]
pub struct Moved;

/// Makes a descriptor of a connection that has none that could be given, as under TLS: somebody stays and passes its bytes on.
/// It is told where in its frames both directions of the connection stand.
pub type Pump = Arc<dyn Fn(Io, Standing) -> std::io::Result<OwnedFd> + Send + Sync>;

/// The order to write a session down.
pub(super) struct Freeze {
    /// For backends whose socket cannot be given. Without it their sessions end.
    pub(super) pump: Option<Pump>,
    /// How many these are.
    pub(super) ended: Arc<AtomicUsize>,
    /// Dropped once it is done.
    _done: mpsc::Sender<Infallible>,
}

/// How many sessions were written down, and what became of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frozen {
    pub sessions: usize,
    /// Those of them that end, since their backend's socket cannot be given.
    pub ended: usize,
    /// They did not answer the order in time.
    pub left: usize,
}

/// A session, as its successor reads it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    pub(super) token: String,
    #[serde(default)]
    pub(super) protocol: String,
    pub(super) session: Session,
    /// What its client was told when it was opened.
    #[serde(default)]
    policy: config::Session,
    /// What lies between the backend's socket and the session; `None` without a socket.
    pub(super) wire: Option<WireState>,
    #[serde(default)]
    owner: OwnerRecord,
    #[serde(default)]
    pub(super) facts: Facts,
}

/// What is known of a session beside its state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Facts {
    /// The transport of the newest attachment.
    pub(super) newest: Option<Transport>,
    pub(super) change: Change,
    pub(super) bytes: [u64; 2],
    /// Why it ends, if it does.
    pub(super) ending: Option<Ending>,
    /// It was counted as ended, and its end was logged.
    pub(super) reported: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
struct OwnerRecord {
    /// An IPv4 address is mapped; unspecified stands for a unix socket.
    client: Ipv6Addr,
    route: String,
    path: String,
    /// Seconds after the registry's epoch.
    opened: u32,
}

/// An ended session that is remembered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EndedRecord {
    pub(super) token: String,
    pub(super) close: Close,
    pub(super) age: Duration,
}

/// A nonce that opened a session.
#[derive(Debug, Serialize, Deserialize)]
struct NonceRecord {
    nonce: String,
    purpose: [u8; 16],
    age: Duration,
    /// The public name of the session.
    session: String,
    /// The fields of the backend's answer.
    #[serde(default)]
    fields: Vec<(String, Vec<u8>)>,
}

/// Why a parcel does not live on.
#[derive(Debug, thiserror::Error)]
pub enum ThawError {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("session {session}: the system does not take its backend's socket: {error}")]
    Socket { session: String, error: std::io::Error },
    #[error("a session without a token of this kind")]
    NoToken,
}

impl std::fmt::Debug for Freeze {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Freeze")
    }
}

impl Default for OwnerRecord {
    fn default() -> Self {
        Self { client: Ipv6Addr::UNSPECIFIED, route: String::new(), path: String::new(), opened: 0 }
    }
}

impl SessionRecord {
    /// What is written down of a frozen session.
    pub(super) fn new(live: &LiveSession, session: Session, facts: Facts, wire: Option<WireState>) -> Self {
        let Owner { client, place, opened } = &live.owner;
        let owner = OwnerRecord {
            client: *client,
            route: place.route.to_string(),
            path: live.owner.path().to_owned(),
            opened: *opened,
        };
        Self {
            token: live.token().as_str().to_owned(),
            protocol: live.protocol().to_owned(),
            session,
            policy: live.policy().clone(),
            wire,
            owner,
            facts,
        }
    }
}

impl LiveSession {
    /// Tells the driver to write the session down.
    pub(super) fn order_freeze(&self, order: Freeze) {
        let mut state = self.lock();
        if state.frozen.is_some() {
            return;
        }
        state.orders.freeze = Some(Box::new(order));
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Takes the state out, and tells everybody who waits that the session has moved. `None` while an order is pending, which
    /// the driver has to carry out first.
    pub(super) fn freeze(&self) -> Option<(Session, Facts)> {
        let now = self.now();
        let mut state = self.lock();
        let orders = &state.orders;
        if orders.send.is_some() || orders.close.is_some() || orders.finished.is_some() || orders.abandoned {
            return None;
        }
        state.session.leave_reader(now);
        let counts: Counts = state.session.counts();
        // What is left says nothing: it is asked nothing any more.
        let hollow = Session::new(now, super::policies::limits(self.policy()), true);
        let session = std::mem::replace(&mut state.session, hollow);
        let attached = state.attached.take();
        let reported = !std::mem::take(&mut state.active);
        if !reported {
            self.metrics.session_left(attached);
        }
        let facts =
            Facts { newest: state.newest, change: state.change, bytes: state.bytes, ending: state.ending(), reported };
        state.frozen = Some(Box::new(counts));
        let reader = state.reader.take();
        self.count(&mut state);
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        self.room.notify_waiters();
        Some((session, facts))
    }
}

impl LiveSession {
    /// Knows what was known of the session in another process.
    fn recall(&self, facts: Facts) {
        let mut state = self.lock();
        state.recall(facts);
        if state.active {
            self.metrics.session_came();
        }
        self.count(&mut state);
    }
}

impl Registry {
    /// Has every session written down, with all that is remembered, and gives that to the successor. Nothing is opened from now
    /// on. Takes no longer than twice half a second, whatever backends do.
    pub async fn freeze(&self, pump: Option<Pump>) -> Frozen {
        let _ = timeout(SETTLE, self.openings.subscribe().wait_for(|under_way| *under_way == 0)).await;
        let live = self.directory.close();
        let sessions = live.len();
        let (ended, (done, mut all_done)) = (Arc::<AtomicUsize>::default(), mpsc::channel(1));
        for session in live {
            session.order_freeze(Freeze { pump: pump.clone(), ended: Arc::clone(&ended), _done: done.clone() });
        }
        drop(done);
        let _ = timeout(SETTLE, all_done.recv()).await;
        let left = self.directory.all().len();
        self.give_remembered();
        Frozen { sessions: sessions.saturating_sub(left), ended: ended.load(Ordering::Relaxed), left }
    }

    /// The process serves again: what was frozen may be thawed.
    pub fn reopen(&self) {
        self.directory.open();
    }

    /// How many sessions are being opened.
    #[must_use]
    pub fn openings(&self) -> usize {
        *self.openings.borrow()
    }

    /// Gives what is remembered of ended sessions and of nonces.
    fn give_remembered(&self) {
        let ended = self.directory.ended();
        for some in ended.chunks(ENDED_AT_ONCE) {
            let _ = self.lifecycle.give(Parcel::new(Kind::Ended, &some, Vec::new()));
        }
        let nonces = self.nonces.opened();
        let records = nonces.into_iter().map(|(nonce, purpose, age, opened)| NonceRecord {
            nonce,
            purpose,
            age,
            session: opened.session.id().to_owned(),
            fields: opened.fields.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect(),
        });
        let records: Vec<_> = records.collect();
        if !records.is_empty() {
            let _ = self.lifecycle.give(Parcel::new(Kind::Nonce, &records, Vec::new()));
        }
    }

    /// Lets a session live on, from its parcel. `place` is its place among the sessions of its client, if it has one. Must be
    /// called on the runtime that is to drive it.
    ///
    /// # Errors
    /// [`ThawError`]: the session is lost, and its backend's socket is closed.
    pub fn thaw_session(
        self: &Arc<Self>,
        mut parcel: Parcel,
        backend: Arc<config::Backend>,
        place: impl FnOnce(Option<std::net::IpAddr>) -> Option<Held>,
    ) -> Result<(), ThawError> {
        let mut record: SessionRecord = parcel.read()?;
        let token = Token::from_text(record.token).ok_or(ThawError::NoToken)?;
        let id = token.id().to_owned();
        let socket = match (record.wire, parcel.descriptors.pop()) {
            (None, _) => None,
            (Some(_), None) => {
                tracing::warn!(session = id, "a session came without its backend's socket, and ends");
                record.facts.ending.get_or_insert(Ending::BackendLost);
                record.session.upstream_closed(self.moment(), Close::lost());
                None
            }
            (Some(wire), Some(descriptor)) => {
                let io = Io::from_descriptor(descriptor).map_err(|error| ThawError::Socket { session: id, error })?;
                Some(Socket::from_parts(io, wire, record.policy.message))
            }
        };
        let OwnerRecord { client, route, path, opened } = record.owner;
        let owner = Owner { client, place: self.places.find(route.into(), &path), opened };
        let place = place(owner.address());
        let policy = self.policies.share(record.policy);
        record.session.share_limits(&self.limits.of(&policy));
        let shared = (Arc::clone(&self.metrics), Arc::clone(&self.budget));
        let live = LiveSession::new(token, record.protocol, policy, record.session, self.epoch, shared, owner);
        live.recall(record.facts);
        let live = Arc::new(live);
        self.directory.restore(&live);
        // There may be more sessions than seats, if fewer are allowed now.
        let seat = self.seats.try_acquire().ok();
        tokio::spawn(Driver::new(Arc::clone(self), live, socket, backend, (seat, place)));
        Ok(())
    }

    /// Remembers what the predecessor did: ended sessions, and nonces, whose sessions are thawed already.
    ///
    /// # Errors
    /// [`ThawError`]: none of the record is remembered.
    pub fn thaw_remembered(&self, parcel: &Parcel) -> Result<(), ThawError> {
        if parcel.kind == Kind::Ended {
            let ended: Vec<EndedRecord> = parcel.read()?;
            ended.into_iter().for_each(|ended| self.directory.remember(ended));
            return Ok(());
        }
        let nonces: Vec<NonceRecord> = parcel.read()?;
        for NonceRecord { nonce, purpose, age, session, fields } in nonces {
            let Some(session) = self.directory.live(&session) else { continue };
            let mut opened = Opened { session, fields: HeaderMap::new() };
            for (name, value) in fields {
                if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                    opened.fields.append(name, value);
                }
            }
            self.nonces.recall(&nonce, purpose, age, opened);
        }
        Ok(())
    }

    /// The present moment of this registry's clock, in microseconds.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.moment()
    }
}

#[cfg(test)]
mod tests;
