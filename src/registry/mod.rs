//! Live sessions: where the pure core meets tokio.
//!
//! Enters: requests to open a session, tokens. Leaves: live sessions. Must not touch: HTTP towards the client.

mod arrival;
mod backend_side;
mod directory;
mod driver;
mod ended;
mod frozen;
mod live_session;
mod memory;
mod moved;
mod nonces;
mod owner;
mod policies;
mod push;
mod reader;
mod record;
pub mod roster;
mod thaw;
mod token;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

pub use self::directory::Found;
use self::directory::{Directory, Memory};
use self::driver::Driver;
pub use self::frozen::Frozen;
pub use self::live_session::{LiveSession, Progress, Refused};
pub use self::memory::{Intake, PendingBytes};
pub use self::moved::{Moved, Pump};
use self::nonces::{NonceError, Nonces, Slot};
use self::owner::{Owner, Places};
use self::policies::{Policies, SharedLimits};
pub use self::reader::{Reader, Stay};
pub use self::record::ReaderRecord;
pub use self::thaw::ThawError;
use self::token::Token;
use crate::budget::{Budget, Level};
use crate::config;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::drain::leave_after;
use crate::limits::Held;
use crate::metrics::Metrics;
use crate::session::{Close, Moment, Session};
use crate::terms::Ending;
use crate::upstream::dial::{DialError, Dialer};
use crate::upstream::headers::acted_on;
use crate::upstream::socket::Socket;

/// How long an abandoned session gets to let go of its buffers before another one is chosen.
const SETTLING: Duration = Duration::from_millis(5);

/// How often it is looked for what need not be remembered any more.
const SWEEP: Duration = Duration::from_secs(5);
/// How long all replay windows are let alone after they were let go of: it takes a look at every session.
const REST: Duration = Duration::from_secs(1);
/// A client that is not attached, and was not heard of for so long, is not between two requests: it is gone.
const GONE: Duration = Duration::from_millis(500);

/// All sessions of this process.
pub struct Registry {
    node: String,
    epoch: Instant,
    /// A seat for each session, live or ended and kept for its client.
    seats: Semaphore,
    max: usize,
    directory: Directory,
    nonces: Nonces,
    places: Places,
    policies: Policies,
    /// How many sessions are being opened.
    openings: watch::Sender<usize>,
    limits: SharedLimits,
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    lifecycle: Lifecycle,
}

/// What is needed to open a session.
pub struct Opening {
    /// An open that repeats the nonce gets the same session.
    pub nonce: Option<String>,
    /// The handshake for the backend, complete.
    pub handshake: http::request::Parts,
    /// The subprotocols offered in it.
    pub protocols: Vec<String>,
    /// The client has promised to acknowledge.
    pub acknowledging: bool,
    /// The client's address; `None` for a unix socket.
    pub client: Option<IpAddr>,
    /// The route that led to the backend, by host and path, for the operator.
    pub route: Arc<str>,
    pub policy: Arc<config::Session>,
    /// The deadlines and pings of the backend.
    pub backend: Arc<config::Backend>,
    pub dialer: Arc<Dialer>,
    /// The session among those of its client.
    pub place: Option<Held>,
    /// The handshake among those of its client.
    pub handshaking: Option<Held>,
    /// Others wait until this is dropped, which is when the backend is connected.
    pub turn: Option<Box<dyn Send + Sync>>,
}

/// A session that was opened.
#[derive(Clone)]
pub struct Opened {
    pub session: Arc<LiveSession>,
    /// The fields of the backend's answer on which a browser acts. A repeated open gets them too.
    pub fields: HeaderMap,
}

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// All seats are taken, or so many nonces are remembered that no more can be.
    #[error("all {max} sessions are taken: try again later, or raise `session.max`")]
    Full { max: usize },
    #[error("this server is short of memory: try again later, or raise `memory`")]
    OutOfMemory,
    #[error("this server is stopping: try again in a moment")]
    Draining,
    #[error(transparent)]
    Moved(#[from] Moved),
    /// The nonce was used for something else, or by somebody else.
    #[error(
        "this nonce was used for another target, or with other protocols, origin or credentials: take a new one for each open"
    )]
    NonceReused,
    #[error("no randomness for a token: {0}")]
    Randomness(getrandom::Error),
    /// The backend did not open a WebSocket.
    #[error(transparent)]
    Dial(#[from] DialError),
}

impl Registry {
    /// An empty registry. `session` gives the limits of the process; those of a session come with its [`Opening`].
    #[must_use]
    pub fn new(
        node: &str,
        session: &config::Session,
        (metrics, budget): (Arc<Metrics>, Arc<Budget>),
        lifecycle: Lifecycle,
    ) -> Self {
        Self {
            node: node.to_owned(),
            epoch: Instant::now(),
            seats: Semaphore::new(session.max),
            max: session.max,
            directory: Directory::new(node, Memory { age: session.ended, count: session.ended_max }),
            nonces: Nonces::default(),
            places: Places::default(),
            policies: Policies::default(),
            openings: watch::Sender::new(0),
            limits: SharedLimits::default(),
            metrics,
            budget,
            lifecycle,
        }
    }

    /// Goes on with the clock of the process before this one, whose present moment is `moment`, and knows tokens of `nodes`.
    #[must_use]
    pub fn succeeding(mut self, moment: Moment, nodes: &[String]) -> Self {
        let age = Duration::from_micros(moment.0);
        // The clock of the machine is older than any process on it.
        self.epoch = self.epoch.checked_sub(age).unwrap_or(self.epoch);
        nodes.iter().for_each(|node| self.directory.call(node));
        self
    }

    /// The names that this node has or had: tokens begin with one of them.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        self.directory.names()
    }

    /// The memory that all payloads may take.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// # Errors
    /// [`OpenError::OutOfMemory`] while memory is short: no session is opened then, and nothing is read for one.
    pub fn check_memory(&self) -> Result<(), OpenError> {
        if self.budget.level() == Level::Free { Ok(()) } else { Err(OpenError::OutOfMemory) }
    }

    /// What is known of a presented token at this moment.
    #[must_use]
    pub fn find(&self, token: &str) -> Found {
        self.directory.find(token)
    }

    /// Opens a session: dials the backend, then spawns the task that drives the session until it is finished.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is left behind.
    pub async fn open(self: &Arc<Self>, opening: Opening) -> Result<Opened, OpenError> {
        self.settled().await;
        let Some(nonce) = opening.nonce.clone() else { return self.open_new(opening).await };
        let purpose = Nonces::purpose(&opening.handshake);
        let slot =
            self.nonces.slot(&nonce, purpose, opening.policy.nonce, self.max.saturating_mul(2)).map_err(|refused| {
                match refused {
                    NonceError::Reused => OpenError::NonceReused,
                    NonceError::Full => OpenError::Full { max: self.max },
                }
            })?;
        // In a task of its own: a client that is cut off while we dial finds the session when it tries again, and the
        // backend sees one WebSocket only.
        let registry = Arc::clone(self);
        let opened = tokio::spawn(async move { registry.open_at(slot, opening).await }).await;
        // The task is not aborted by anybody, so it can only have panicked: that goes on to this request.
        opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    async fn open_at(self: &Arc<Self>, slot: Slot, opening: Opening) -> Result<Opened, OpenError> {
        let mut slot = slot.lock().await;
        if let Some(opened) = &*slot {
            return Ok(opened.clone());
        }
        let opened = self.open_new(opening).await?;
        *slot = Some(opened.clone());
        Ok(opened)
    }

    async fn open_new(self: &Arc<Self>, opening: Opening) -> Result<Opened, OpenError> {
        let opening_counted = self.count_opening();
        if self.lifecycle.is_draining() {
            return Err(OpenError::Draining);
        }
        if self.lifecycle.is_moving() {
            drop(opening_counted);
            self.let_go_of().await;
            return Err(Moved.into());
        }
        self.check_memory()?;
        let full = |_| OpenError::Full { max: self.max };
        let seat = self.seats.try_acquire().map_err(full)?;
        let token = Token::random(&self.node).map_err(OpenError::Randomness)?;
        let place = self.places.find(opening.route, opening.handshake.uri.path());
        let owner = Owner::new(opening.client, place, self.epoch);
        let upgraded = opening.dialer.upgrade_in_turn(opening.handshake, None, opening.turn).await?;
        drop(opening.handshaking);
        if let Some(what) = not_offered(&upgraded.head, &opening.protocols) {
            return Err(DialError::BadHandshake { address: Arc::clone(opening.dialer.address()), what }.into());
        }
        let (protocol, fields) = (protocol_of(&upgraded.head), acted_on(&upgraded.head.headers));
        let policy = opening.policy;
        let session = Session::new(self.now(), self.limits.of(&policy), opening.acknowledging);
        let socket = Socket::new(upgraded.io, upgraded.unread, policy.message);
        let shared = (Arc::clone(&self.metrics), Arc::clone(&self.budget));
        let live = LiveSession::new(token, protocol, policy, session, self.epoch, shared, owner);
        let live = Arc::new(live);
        if !self.directory.insert(&live) {
            return Err(Moved.into());
        }
        self.metrics.session_opened();
        tracing::info!(
            session = live.id(),
            client = live.owner.client(),
            // Not `target`: every line has one of its own.
            path = live.owner.path(),
            protocol = live.protocol(),
            "session opened"
        );
        let places = (Some(seat), opening.place);
        tokio::spawn(Driver::new(Arc::clone(self), Arc::clone(&live), Some(socket), opening.backend, places));
        Ok(Opened { session: live, fields })
    }

    /// Counts one more session that is being opened, until what is returned is dropped.
    fn count_opening(&self) -> impl Drop + use<'_> {
        struct Counted<'a>(&'a watch::Sender<usize>);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.send_if_modified(|under_way| {
                    *under_way -= 1;
                    *under_way == 0
                });
            }
        }
        // Who waits does so for fewer.
        self.openings.send_if_modified(|under_way| {
            *under_way += 1;
            false
        });
        Counted(&self.openings)
    }

    /// Removes a finished session and remembers how it ended.
    fn retire(&self, live: &LiveSession, close: Close) {
        self.directory.retire(live, close);
    }

    /// Forgets what is remembered of sessions once its time is over. Never returns.
    pub async fn forget_in_time(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.directory.sweep();
            self.nonces.sweep();
        }
    }

    /// Gives back what is only kept for clients that may come back whenever memory is short, and ends the session that holds
    /// most whenever it runs out or one has waited for too long. Never returns.
    pub async fn keep_budget(&self) {
        let mut rest = Instant::now();
        loop {
            self.budget.alarmed().await;
            if self.budget.level() != Level::Free && rest <= Instant::now() {
                self.drop_replays();
                rest = Instant::now() + REST;
            }
            while self.budget.is_exceeded() {
                // One that holds less than its share is no cause of it, and may not be the one to pay.
                if let Some(greediest) = self.directory.greediest(self.budget.share()) {
                    greediest.abandon();
                }
                tokio::time::sleep(SETTLING).await;
            }
        }
    }

    /// Lets go of replay windows, the largest first, until memory is free again.
    fn drop_replays(&self) {
        let kept = self.directory.all().into_iter().map(|live| (live.replay(), live));
        let mut kept: Vec<_> = kept.filter(|(replay, _)| *replay > 0).collect();
        kept.sort_unstable_by_key(|(replay, _)| std::cmp::Reverse(*replay));
        for (_, live) in kept {
            if self.budget.level() == Level::Free {
                return;
            }
            live.drop_replay();
        }
    }

    /// Asks every client that is attached to leave, spread over `spread`.
    pub fn leave_all(&self, spread: Duration) {
        let now = Instant::now();
        for (index, live) in self.directory.all().into_iter().enumerate() {
            live.leave(now + leave_after(spread, index as u64));
        }
    }

    /// How many sessions have a client that is there: attached, or heard of a moment ago.
    #[must_use]
    pub fn present(&self) -> usize {
        self.directory.all().iter().filter(|live| !live.is_gone(GONE)).count()
    }

    /// Ends the sessions whose client is not there.
    pub fn end_gone(&self) {
        for live in self.directory.all().into_iter().filter(|live| live.is_gone(GONE)) {
            live.end(Close::clean(1001, "server is stopping"), Ending::Drained);
        }
    }

    /// Ends every session: 1001 to both sides.
    pub fn end_all(&self) {
        for live in self.directory.all() {
            live.end(Close::clean(1001, "server is stopping"), Ending::Drained);
        }
    }

    /// The present moment of this registry's clock.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// The subprotocol that the backend chose; empty when none.
fn protocol_of(head: &http::response::Parts) -> String {
    let chosen = head.headers.get(http::header::SEC_WEBSOCKET_PROTOCOL);
    chosen.and_then(|value| value.to_str().ok()).unwrap_or_default().trim().to_owned()
}

/// What the backend chose although it was not offered, which fails the handshake (RFC 6455 section 4.1).
fn not_offered(head: &http::response::Parts, offered: &[String]) -> Option<&'static str> {
    let chosen = protocol_of(head);
    if head.headers.contains_key(http::header::SEC_WEBSOCKET_EXTENSIONS) {
        return Some("it has an extension, and none was offered");
    }
    let known = chosen.is_empty() || offered.contains(&chosen);
    (!known).then_some("its subprotocol was not offered")
}
