//! What the operator sees of the sessions, and what the operator may do to them.
//!
//! Enters: questions and orders of the admin listener. Leaves: facts about sessions, without their tokens; ended sessions.
//! Must not touch: what a session carries. No lock is held while more than one session is looked at.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Registry;
use super::live_session::LiveSession;
use crate::session::Close;
use crate::terms::{Cause, Ending, Transport};

/// The longest path that is kept of a session, in bytes; arbitrary, it is for people.
const PATH_MAX: usize = 256;
/// Below this number of places nothing is swept, since a sweep looks at all of them.
const FEW_PLACES: usize = 64;

/// Who opened a session and when: 32 bytes of it.
#[derive(Debug)]
pub(super) struct Owner {
    /// An IPv4 address is mapped; unspecified stands for a unix socket.
    client: Ipv6Addr,
    place: Arc<Place>,
    /// Seconds after the registry's epoch.
    opened: u32,
}

/// Where a session leads. Sessions at the same place share it.
#[derive(Debug, Default)]
pub(super) struct Place {
    route: Arc<str>,
    path: Box<str>,
}

/// The places of the sessions that are alive, by their paths.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<Box<str>, Arc<Place>>>);

/// How a session came to its transport.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change {
    before: Option<Transport>,
    /// The transport that failed, where the client names one.
    failed: Option<Transport>,
    cause: Option<Cause>,
}

/// One session, as the operator sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionFacts {
    /// The public name, as in the log.
    pub id: String,
    /// The client's address, or `unix`.
    pub client: String,
    /// The host, if it names one, and the path of the route.
    pub route: Arc<str>,
    /// The path that was opened, without its query.
    pub path: String,
    /// What carries it now.
    pub transport: Option<Transport>,
    /// What carried it last, when nothing does now, or else what carried it before.
    pub before: Option<Transport>,
    /// Why it changed, as `ws refused`; empty when it never did.
    pub cause: String,
    /// Since it was opened, to the second.
    pub age: Duration,
    /// Since the client's last sign of life; a poll that waits is one.
    pub idle: Duration,
    /// Messages that came from the backend, and those that were given to it.
    pub messages: [u64; 2],
    /// Payload bytes of the same.
    pub bytes: [u64; 2],
    /// Bytes kept for the client.
    pub kept: usize,
    /// Bytes that wait for the backend.
    pub queued: usize,
    /// The backend is not read, because the client is behind.
    pub paused: bool,
    /// How it ended, while it is kept for its client.
    pub ended: Option<Close>,
}

/// Which sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// The one with this public name.
    pub id: Option<String>,
    /// Those of this client.
    pub client: Option<String>,
    /// Those of this route.
    pub route: Option<String>,
}

impl Owner {
    pub(super) fn new(client: Option<IpAddr>, place: Arc<Place>, epoch: Instant) -> Self {
        let client = match client {
            Some(IpAddr::V4(address)) => address.to_ipv6_mapped(),
            Some(IpAddr::V6(address)) => address,
            None => Ipv6Addr::UNSPECIFIED,
        };
        Self { client, place, opened: u32::try_from(epoch.elapsed().as_secs()).unwrap_or(u32::MAX) }
    }

    /// The client's address, or `unix`.
    pub(super) fn client(&self) -> String {
        if self.client.is_unspecified() { "unix".to_owned() } else { self.client.to_canonical().to_string() }
    }

    pub(super) fn path(&self) -> &str {
        &self.place.path
    }
}

#[cfg(test)]
impl Default for Owner {
    fn default() -> Self {
        Self { client: Ipv6Addr::UNSPECIFIED, place: Arc::default(), opened: 0 }
    }
}

impl Places {
    /// The place of a session that is being opened.
    pub(super) fn find(&self, route: Arc<str>, path: &str) -> Arc<Place> {
        let path = &path[..path.floor_char_boundary(PATH_MAX)];
        // Each change is one insertion or removal, so a panic leaves nothing half done.
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get(path).filter(|place| place.route == route) {
            return Arc::clone(place);
        }
        // Before the table would grow: so all sweeps together look at each place a few times only.
        if places.len() >= FEW_PLACES && places.len() == places.capacity() {
            places.retain(|_, place| Arc::strong_count(place) > 1);
        }
        let place = Arc::new(Place { route, path: path.into() });
        places.insert(path.into(), Arc::clone(&place));
        place
    }
}

impl Change {
    /// Notes that a session is attached by `to`, where `from` was before, and why. True when that is worth remembering:
    /// it changed, or something did not work from the start.
    pub(super) fn note(&mut self, from: Option<Transport>, to: Transport, cause: Option<&str>, rivalled: bool) -> bool {
        // A poll that only collects what a broken stream has left behind is no change.
        if from == Some(to) || cause == Some("mop") {
            return false;
        }
        self.before = from;
        let words = cause.unwrap_or(match (from, rivalled) {
            (None, _) => "opened",
            (Some(_), true) => "superseded",
            (Some(_), false) => "detached",
        });
        let (failed, word) = words.split_once(' ').unwrap_or(("", words));
        self.failed = Transport::named(failed);
        self.cause = Some(Cause::named(word).unwrap_or(Cause::Other));
        from.is_some() || self.failed.is_some()
    }

    pub(super) fn cause(self) -> String {
        let Some(cause) = self.cause else { return String::new() };
        match self.failed {
            Some(failed) => format!("{} {}", failed.as_str(), cause.as_str()),
            None => cause.as_str().to_owned(),
        }
    }
}

impl Which {
    /// True when it names nothing, and so would be all.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    fn is(&self, live: &LiveSession) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
        fits(&self.id, live.id())
            && fits(&self.route, &live.owner.place.route)
            && self.client.as_ref().is_none_or(|wanted| *wanted == live.owner.client())
    }
}

impl Registry {
    /// The sessions of this choice, in no particular order; those that ended and are kept for their clients are among them.
    #[must_use]
    pub fn sessions(&self, which: &Which) -> Vec<SessionFacts> {
        self.chosen(which).iter().map(|live| live.facts()).collect()
    }

    /// Ends the sessions of this choice towards both sides, with this close; how many.
    pub fn kill(&self, which: &Which, close: &Close) -> usize {
        let chosen = self.chosen(which);
        chosen.iter().filter(|live| live.kill(close)).count()
    }

    /// How many sessions each route has.
    #[must_use]
    pub fn by_route(&self) -> HashMap<Arc<str>, usize> {
        let mut counts = HashMap::new();
        for live in self.directory.all() {
            match counts.get_mut(&live.owner.place.route) {
                Some(count) => *count += 1,
                None => drop(counts.insert(Arc::clone(&live.owner.place.route), 1)),
            }
        }
        counts
    }

    /// Seats: those that are taken, and all.
    #[must_use]
    pub fn seats(&self) -> (usize, usize) {
        (self.max.saturating_sub(self.seats.available_permits()), self.max)
    }

    fn chosen(&self, which: &Which) -> Vec<Arc<LiveSession>> {
        // The directory is locked for the copy of its pointers only.
        let mut all = self.directory.all();
        all.retain(|live| which.is(live));
        all
    }
}

impl LiveSession {
    /// Ends it by the operator's will; false when it was ending already.
    fn kill(&self, close: &Close) -> bool {
        let killed = self.act(|state, now| {
            let open = state.session.closed_for_sending().is_none();
            state.note_ending(Ending::Killed);
            state.session.end(now, close.clone());
            open
        });
        if killed {
            tracing::warn!(
                session = self.id(),
                code = close.code,
                reason = close.reason,
                "the operator ended a session"
            );
        }
        killed
    }

    fn facts(&self) -> SessionFacts {
        let now = Instant::now();
        let moment = self.moment(now);
        let opened = Duration::from_secs(self.owner.opened.into());
        let state = self.lock();
        let counts = state.session.counts();
        SessionFacts {
            id: self.id().to_owned(),
            client: self.owner.client(),
            route: Arc::clone(&self.owner.place.route),
            path: self.owner.path().to_owned(),
            transport: state.attached,
            before: if state.attached.is_some() { state.change.before } else { state.newest },
            cause: state.change.cause(),
            age: now.saturating_duration_since(self.epoch + opened),
            idle: state.session.quiet(moment),
            messages: [counts.down, counts.up],
            bytes: state.bytes,
            kept: counts.kept,
            queued: state.session.queued(),
            paused: state.orders.paused,
            ended: state.session.closed_for_sending(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_sees_costs_a_session_little() {
        assert!(size_of::<Owner>() <= 32 && size_of::<Change>() <= 3);
    }

    #[test]
    fn sessions_at_one_place_share_it_and_places_that_nobody_uses_are_forgotten() {
        let places = Places::default();
        let (one, two) = (places.find("/".into(), "/a"), places.find("/".into(), "/a"));
        assert!(Arc::ptr_eq(&one, &two));
        assert!(!Arc::ptr_eq(&one, &places.find("/a".into(), "/a")), "the routes have changed");
        for number in 0..10_000 {
            places.find("/".into(), &format!("/{number}"));
        }
        assert!(places.0.lock().expect("nobody panics here").len() < 1000);
        let long = places.find("/".into(), &"é".repeat(PATH_MAX));
        assert_eq!(long.path.len(), PATH_MAX);
    }

    #[test]
    fn a_change_tells_what_failed_and_why() {
        let mut change = Change::default();
        let told = |change: &Change| (change.before, change.cause());
        change.note(None, Transport::Sse, Some("ws refused"), false);
        assert_eq!(told(&change), (None, "ws refused".to_owned()));
        change.note(Some(Transport::Sse), Transport::Poll, Some("mop"), false);
        change.note(Some(Transport::Sse), Transport::Sse, Some("sse cut"), false);
        assert_eq!(told(&change), (None, "ws refused".to_owned()), "neither is a change");
        change.note(Some(Transport::Sse), Transport::Poll, None, true);
        assert_eq!(told(&change), (Some(Transport::Sse), "superseded".to_owned()));
        change.note(Some(Transport::Poll), Transport::Ws, Some("made up by <b>"), false);
        assert_eq!(told(&change), (Some(Transport::Poll), "other".to_owned()));
    }
}
