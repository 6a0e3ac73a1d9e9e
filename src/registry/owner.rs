//! What a session knows of who opened it, and of how it came to its transport, for the operator.
//!
//! Enters: clients, routes, paths, attachments. Leaves: the same, small. Must not touch: sessions.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::terms::{Cause, Transport};

/// The longest path that is kept of a session, in bytes; arbitrary, it is for people.
const PATH_MAX: usize = 256;
/// Below this number of places nothing is swept, since a sweep looks at all of them.
const FEW_PLACES: usize = 64;

/// Who opened a session and when: 32 bytes of it.
#[derive(Debug)]
pub(super) struct Owner {
    /// An IPv4 address is mapped; unspecified stands for a unix socket.
    pub(super) client: Ipv6Addr,
    pub(super) place: Arc<Place>,
    /// Seconds after the registry's epoch.
    pub(super) opened: u32,
}

/// Where a session leads. Sessions at the same place share it.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) route: Arc<str>,
    path: Box<str>,
}

/// The places of the sessions that are alive, by their paths.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<Box<str>, Arc<Place>>>);

/// How a session came to its transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Change {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<Transport>,
    /// The transport that failed, where the client names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<Transport>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<Cause>,
}

impl Owner {
    pub(super) fn new(client: Option<IpAddr>, place: Arc<Place>, epoch: Instant) -> Self {
        Self::since(client, place, u32::try_from(epoch.elapsed().as_secs()).unwrap_or(u32::MAX))
    }

    /// The same of a session that was opened so many seconds after the registry's epoch.
    pub(super) fn since(client: Option<IpAddr>, place: Arc<Place>, opened: u32) -> Self {
        let client = match client {
            Some(IpAddr::V4(address)) => address.to_ipv6_mapped(),
            Some(IpAddr::V6(address)) => address,
            None => Ipv6Addr::UNSPECIFIED,
        };
        Self { client, place, opened }
    }

    /// The client's address; `None` for a unix socket.
    pub(super) fn address(&self) -> Option<IpAddr> {
        (!self.client.is_unspecified()).then(|| self.client.to_canonical())
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
