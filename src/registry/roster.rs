//! What the operator sees of the sessions, and what the operator may do to them.
//!
//! Enters: questions and orders of the admin listener. Leaves: facts about sessions, without their tokens; ended sessions.
//! Must not touch: what a session carries. No lock is held while more than one session is looked at.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Registry;
use super::live_session::LiveSession;
use crate::session::Close;
use crate::terms::{Ending, Transport};

/// What sessions are compared by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
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
    /// Its numbers.
    pub figures: Figures,
    /// The backend is not read, because the client is behind.
    pub paused: bool,
    /// How it ended, while it is kept for its client.
    pub ended: Option<Close>,
}

/// What all sessions together are and hold.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// How many sessions each route has.
    pub routes: HashMap<Arc<str>, usize>,
    /// Bytes kept for clients.
    pub kept: usize,
    /// Bytes that wait for backends.
    pub queued: usize,
    /// Sessions whose backend is not read, because the client is behind.
    pub paused: usize,
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
    /// Those that this carries now, or that nothing does.
    pub transport: Option<Option<Transport>>,
}

/// What a word says of [`Which::transport`]: a transport, or `none`.
///
/// # Errors
/// The words that there are, for people.
pub fn carried(word: &str) -> Result<Option<Transport>, String> {
    match Transport::named(word) {
        None if word != "none" => Err(format!("{} or none", Transport::WORDS.join(", "))),
        transport => Ok(transport),
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
            && self.transport.is_none_or(|wanted| live.lock().attached == wanted)
    }
}

impl Registry {
    /// How many sessions are of this choice, and those in this part of them, the ones with the highest number first. Those that
    /// ended and are kept for their clients are among them. Takes some 40 bytes for each of the choice, and 300 for each of the
    /// part.
    #[must_use]
    pub fn sessions(
        &self,
        which: &Which,
        number: impl Fn(&Figures) -> u128,
        part: Range<usize>,
    ) -> (usize, Vec<SessionFacts>) {
        let chosen = self.chosen(which).into_iter();
        // One moment for all: ages are compared.
        let now = Instant::now();
        let mut ordered: Vec<_> = chosen.map(|live| (Reverse(number(&live.figures(now))), live)).collect();
        // Of equals the order must not change from one listing to the next.
        ordered.sort_unstable_by(|(one, a), (other, b)| one.cmp(other).then_with(|| a.id().cmp(b.id())));
        let listed = ordered.iter().skip(part.start).take(part.len());
        (ordered.len(), listed.map(|(_, live)| live.facts(now)).collect())
    }

    /// Ends the sessions of this choice towards both sides, with this close; how many.
    pub fn kill(&self, which: &Which, close: &Close) -> usize {
        let chosen = self.chosen(which);
        chosen.iter().filter(|live| live.kill(close)).count()
    }

    /// What all sessions together are and hold. Each is locked for a moment of its own.
    #[must_use]
    pub fn load(&self) -> Load {
        let mut load = Load::default();
        for live in self.directory.all() {
            match load.routes.get_mut(&live.owner.place.route) {
                Some(count) => *count += 1,
                None => drop(load.routes.insert(Arc::clone(&live.owner.place.route), 1)),
            }
            let state = live.lock();
            load.kept += state.session.counts().kept;
            load.queued += state.session.queued();
            load.paused += usize::from(state.orders.paused);
        }
        load
    }

    /// Ended sessions: those that are remembered, and how many may be.
    #[must_use]
    pub fn remembered(&self) -> (usize, usize) {
        self.directory.remembered()
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
        let killed = killed.unwrap_or(false);
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

    fn figures(&self, now: Instant) -> Figures {
        let moment = self.moment(now);
        let opened = Duration::from_secs(self.owner.opened.into());
        let state = self.lock();
        let counts = state.session.counts();
        Figures {
            age: now.saturating_duration_since(self.epoch + opened),
            idle: state.session.quiet(moment),
            messages: [counts.down, counts.up],
            bytes: state.bytes,
            kept: counts.kept,
            queued: state.session.queued(),
        }
    }

    fn facts(&self, now: Instant) -> SessionFacts {
        let figures = self.figures(now);
        let state = self.lock();
        SessionFacts {
            id: self.id().to_owned(),
            client: self.owner.client(),
            route: Arc::clone(&self.owner.place.route),
            path: self.owner.path().to_owned(),
            transport: state.attached,
            before: if state.attached.is_some() { state.change.before } else { state.newest },
            cause: state.change.cause(),
            figures,
            paused: state.orders.paused,
            ended: state.session.closed_for_sending(),
        }
    }
}
