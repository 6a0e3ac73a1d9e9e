//! Sessions on their way to another process.
//!
//! Enters: the order to freeze. Leaves: parcels for the successor. Must not touch: how parcels travel, clients.
//!
//! **From the moment at which a session is frozen nothing is acknowledged, taken or given here.** Each event goes through
//! [`LiveSession::act`], which refuses it with [`Moved`](super::Moved); so no step can forget to ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Registry;
use super::live_session::LiveSession;
use super::moved::{Freeze, Pump};
use super::owner::Owner;
use super::policies::Policies;
use super::record::{Facts, NonceRecord, OwnerRecord, SessionRecord};
use crate::lifecycle::moving::{Kind, Parcel};
use crate::session::{Counts, Session};
use crate::upstream::wire::WireState;

/// How long sessions that are being opened get, once the process is on the move. It takes milliseconds, unless a backend is slow
/// to answer a handshake: nobody waits longer for that.
const OPENING: Duration = Duration::from_millis(500);
/// How long sessions get to be written down. Nobody waits for anything but a processor in that: some 20,000 take a second.
const WRITING: Duration = Duration::from_secs(10);
/// How many ended sessions stand in one record; arbitrary.
const ENDED_AT_ONCE: usize = 1000;

/// How many sessions were written down, and what became of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frozen {
    pub sessions: usize,
    /// Those of them that end, since their backend's socket cannot be given.
    pub ended: usize,
    /// They did not answer the order in time.
    pub left: usize,
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

    /// What is written down of the session, which is frozen.
    pub(super) fn record(
        &self,
        session: Session,
        facts: Facts,
        wire: Option<WireState>,
        policies: &Policies,
    ) -> SessionRecord {
        let Owner { place, opened, .. } = &self.owner;
        let (route, path) = (place.route.to_string(), self.owner.path().to_owned());
        let owner = OwnerRecord { client: self.owner.client(), route, path, opened: *opened };
        let (token, protocol) = (self.token().as_str().to_owned(), self.protocol().to_owned());
        SessionRecord { token, protocol, session, policy: policies.pack(self.shared_policy()), wire, owner, facts }
    }

    /// Knows what was known of the session in another process.
    pub(super) fn recall(&self, facts: Facts) {
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
    /// on. Takes no longer than it takes to write them down, and half a second for those that are being opened.
    pub async fn freeze(&self, pump: Option<Pump>) -> Frozen {
        let _ = timeout(OPENING, self.openings.subscribe().wait_for(|under_way| *under_way == 0)).await;
        let live = self.directory.close();
        let sessions = live.len();
        let (ended, (done, mut all_done)) = (Arc::<AtomicUsize>::default(), mpsc::channel(1));
        for session in live {
            session.order_freeze(Freeze { pump: pump.clone(), ended: Arc::clone(&ended), _done: done.clone() });
        }
        drop(done);
        let _ = timeout(WRITING, all_done.recv()).await;
        let left = self.directory.all().len();
        self.give_remembered();
        Frozen { sessions: sessions.saturating_sub(left), ended: ended.load(Ordering::Relaxed), left }
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
}
