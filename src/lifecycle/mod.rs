//! How the process runs and stops: its phases, and what must end before it may exit.
//!
//! Enters: signals and the drain settings. Leaves: a [`Lifecycle`] that every room may watch, [`Guard`]s that count
//! what is alive, listening sockets, and notifications to the service manager. Must not touch: any other room.

mod bound;
pub mod descriptors;
pub mod drain;
pub mod log;
pub mod moving;
pub mod sockets;
pub mod systemd;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::moving::Parcel;

/// Where the process stands between start and exit. Phases only go forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Everything is served.
    Serving,
    /// Not ready any more, so that load balancers choose another node; connections are still accepted.
    Withdrawn,
    /// Listeners are closed, no session is opened, clients are asked to leave.
    Draining,
    /// The deadline has passed: what is left is closed.
    Closing,
}

/// What a [`Guard`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A listening socket that is accepted from.
    Listener,
    /// A client's connection, upgraded or not, from accept to the end of its socket.
    Connection,
    /// A session's driver.
    Session,
    /// A WebSocket that is passed through.
    Tunnel,
}

/// How many of each kind are alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alive {
    pub listeners: usize,
    pub connections: usize,
    pub sessions: usize,
    pub tunnels: usize,
}

/// The process's phase and what is alive in it. A cheap handle: all clones share one state.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    now: watch::Sender<Now>,
    /// The process hands over. For those who ask at each of their steps.
    moving: AtomicBool,
    /// Where what is let go of goes, while the process hands over.
    parcels: RwLock<Option<mpsc::UnboundedSender<Parcel>>>,
    alive: watch::Sender<Alive>,
    /// When somebody last asked whether we are ready.
    asked: Mutex<Option<Instant>>,
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Now {
    phase: Phase,
    /// The process hands over to a successor, and lets go of everything. Unlike a phase this may be taken back.
    letting_go: bool,
    /// Whether the move succeeds is open.
    undecided: bool,
    /// It was not always like this.
    has_changed: bool,
}

/// Keeps [`Lifecycle::emptied`] waiting (but for [`What::Listener`]), and with it the end of the drain, until it is dropped.
#[derive(Debug)]
#[must_use = "what it stands for is alive as long as the guard is"]
pub struct Guard {
    shared: Arc<Shared>,
    what: What,
}

// === impl Lifecycle ===

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    /// In [`Phase::Serving`].
    #[must_use]
    pub fn new() -> Self {
        let now =
            watch::Sender::new(Now { phase: Phase::Serving, letting_go: false, undecided: false, has_changed: false });
        let alive = watch::Sender::new(Alive::default());
        let moving = AtomicBool::new(false);
        let shared = Shared { now, moving, parcels: RwLock::default(), alive, asked: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        self.shared.now.borrow().phase
    }

    /// False until the first change. Whoever waits for one, and was polled for it, is woken by it and need not be polled before.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.shared.now.borrow().has_changed
    }

    /// True from [`Phase::Draining`] on: nothing new may begin.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// Returns as soon as `phase` or a later one is reached. Cancel-safe.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives in `self`, so the channel cannot close while we wait.
        let _ = self.shared.now.subscribe().wait_for(|now| now.phase >= phase).await;
    }

    /// Moves on to `phase`. Does nothing when this phase, or a later one, is already reached.
    pub fn advance(&self, phase: Phase) {
        let forward = |now: &mut Now| {
            let further = phase > now.phase;
            now.phase = phase.max(now.phase);
            now.has_changed = true;
            further
        };
        if self.shared.now.send_if_modified(forward) {
            tracing::info!(?phase, "lifecycle");
        }
    }

    // === the hand-over ===

    /// The process hands over: parcels are taken, and come out here; what is alive bounds how many. Sessions are written down
    /// first. Everything else goes on meanwhile, so that nobody has to wait who need not.
    #[must_use]
    pub fn begin_move(&self) -> mpsc::UnboundedReceiver<Parcel> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.parcels_to_be() = Some(sender);
        self.shared.moving.store(true, Ordering::Release);
        self.shared.now.send_modify(|now| (now.undecided, now.has_changed) = (true, true));
        receiver
    }

    /// From now on everything is let go of between two exchanges, and given as parcels.
    pub fn let_go(&self) {
        self.shared.now.send_modify(|now| (now.letting_go, now.has_changed) = (true, true));
    }

    /// Nothing more is given: what is let go of from now on stays with who has it. The process is still on the move: nothing new
    /// begins.
    pub fn close_parcels(&self) {
        *self.parcels_to_be() = None;
    }

    /// There is no successor: everything is served again.
    pub fn end_move(&self) {
        self.close_parcels();
        self.shared.moving.store(false, Ordering::Release);
        self.shared.now.send_modify(|now| (now.letting_go, now.undecided) = (false, false));
    }

    /// The successor has everything. This process is on the move until it ends.
    pub fn handed_over(&self) {
        self.shared.now.send_modify(|now| now.undecided = false);
    }

    /// Returns as soon as no successor is about to get everything: either it has, or all is here. Cancel-safe.
    pub async fn decided(&self) {
        let _ = self.shared.now.subscribe().wait_for(|now| !now.undecided).await;
    }

    /// True while the process hands over, and after it has: no session is opened, and those that are here are written down.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.shared.moving.load(Ordering::Acquire)
    }

    /// True once everything is let go of: what can be given is given, and nothing new may begin.
    #[must_use]
    pub fn lets_go(&self) -> bool {
        self.shared.now.borrow().letting_go
    }

    /// Returns as soon as everything is let go of. Cancel-safe.
    pub async fn let_go_of(&self) {
        let _ = self.shared.now.subscribe().wait_for(|now| now.letting_go).await;
    }

    /// Returns as soon as nothing is let go of (any more), or the process drains. Cancel-safe.
    pub async fn stayed(&self) {
        let _ = self.shared.now.subscribe().wait_for(|now| !now.letting_go || now.phase >= Phase::Draining).await;
    }

    /// True while everything is let go of, or the process drains: no exchange follows another.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        let now = *self.shared.now.borrow();
        now.letting_go || now.phase >= Phase::Draining
    }

    /// Returns as soon as everything is let go of, or the process drains. Cancel-safe.
    pub async fn leaving(&self) {
        let _ = self.shared.now.subscribe().wait_for(|now| now.letting_go || now.phase >= Phase::Draining).await;
    }

    /// Whether parcels are taken now.
    #[must_use]
    pub fn takes_parcels(&self) -> bool {
        self.parcels().is_some()
    }

    /// Gives a parcel to the successor.
    ///
    /// # Errors
    /// The parcel, when none are taken (any more).
    pub fn give(&self, parcel: Parcel) -> Result<(), Parcel> {
        match &*self.parcels() {
            Some(sender) => sender.send(parcel).map_err(|unsent| unsent.0),
            None => Err(parcel),
        }
    }

    /// Gives what `make` makes of `item`, which may find that there is nothing to give after all.
    ///
    /// # Errors
    /// `item`, when no parcels are taken (any more); nothing was made of it.
    pub fn give_made<T>(&self, item: T, make: impl FnOnce(T) -> Option<Parcel>) -> Result<(), T> {
        // Nobody can close the parcels in between.
        let parcels = self.parcels();
        let Some(sender) = parcels.as_ref().filter(|sender| !sender.is_closed()) else { return Err(item) };
        if let Some(parcel) = make(item) {
            let _ = sender.send(parcel);
        }
        Ok(())
    }

    /// All workers give at once.
    fn parcels(&self) -> RwLockReadGuard<'_, Option<mpsc::UnboundedSender<Parcel>>> {
        self.shared.parcels.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether they may is decided when nobody is about to.
    fn parcels_to_be(&self) -> RwLockWriteGuard<'_, Option<mpsc::UnboundedSender<Parcel>>> {
        self.shared.parcels.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody has asked whether we are ready, and will act on the answer.
    pub fn note_readiness_asked(&self) {
        *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// When that was last.
    #[must_use]
    pub fn readiness_asked(&self) -> Option<Instant> {
        *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more of `what`, until the guard is dropped.
    pub fn guard(&self, what: What) -> Guard {
        self.shared.alive.send_if_modified(|alive| {
            *alive.count(what) += 1;
            // Waiters wait for fewer, so this change wakes nobody.
            false
        });
        Guard { shared: Arc::clone(&self.shared), what }
    }

    #[must_use]
    pub fn alive(&self) -> Alive {
        *self.shared.alive.borrow()
    }

    /// Returns as soon as nothing is alive but sockets that listen. Cancel-safe.
    pub async fn emptied(&self) {
        // As in `reached`: the sender outlives the wait.
        let _ = self.shared.alive.subscribe().wait_for(|alive| alive.is_empty()).await;
    }

    /// Returns as soon as nothing is alive at all. Cancel-safe.
    pub async fn deserted(&self) {
        let _ = self.shared.alive.subscribe().wait_for(|alive| *alive == Alive::default()).await;
    }
}

// === impl Guard ===

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.alive.send_if_modified(|alive| {
            *alive.count(self.what) -= 1;
            alive.is_empty()
        });
    }
}

// === impl Alive ===

impl Alive {
    /// No client has anything here. A socket that listens may be left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        Self { listeners: 0, ..*self } == Self::default()
    }

    fn count(&mut self, what: What) -> &mut usize {
        match what {
            What::Listener => &mut self.listeners,
            What::Connection => &mut self.connections,
            What::Session => &mut self.sessions,
            What::Tunnel => &mut self.tunnels,
        }
    }
}

impl fmt::Display for Alive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections, {} sessions, {} tunnels", self.connections, self.sessions, self.tunnels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_only_go_forward() {
        let lifecycle = Lifecycle::new();
        assert_eq!(lifecycle.phase(), Phase::Serving);
        lifecycle.advance(Phase::Draining);
        lifecycle.advance(Phase::Withdrawn);
        assert_eq!(lifecycle.phase(), Phase::Draining);
        assert!(lifecycle.is_draining());
    }

    #[test]
    fn guards_are_counted_by_kind() {
        let lifecycle = Lifecycle::new();
        let connection = lifecycle.guard(What::Connection);
        let _session = lifecycle.clone().guard(What::Session);
        let _tunnel = lifecycle.guard(What::Tunnel);
        assert_eq!(lifecycle.alive(), Alive { connections: 1, sessions: 1, tunnels: 1, ..Alive::default() });
        drop(connection);
        assert_eq!(lifecycle.alive(), Alive { sessions: 1, tunnels: 1, ..Alive::default() });
    }

    #[tokio::test]
    async fn a_move_takes_parcels_until_it_closes_and_can_be_taken_back() {
        let lifecycle = Lifecycle::new();
        let parcel = || Parcel::new(moving::Kind::Ended, &7, Vec::new());
        assert!(lifecycle.give(parcel()).is_err(), "nobody takes any");
        let other = lifecycle.clone();
        let waiter = tokio::spawn(async move { other.leaving().await });
        let mut parcels = lifecycle.begin_move();
        assert!(lifecycle.is_moving() && !lifecycle.is_leaving(), "sessions come first");
        lifecycle.let_go();
        waiter.await.expect("the task does not panic");
        assert!(lifecycle.is_moving() && lifecycle.is_leaving() && !lifecycle.is_draining());
        lifecycle.give(parcel()).expect("it is taken");
        lifecycle.close_parcels();
        assert!(lifecycle.give(parcel()).is_err() && lifecycle.is_moving());
        assert_eq!(parcels.recv().await.map(|parcel| parcel.kind), Some(moving::Kind::Ended));
        assert!(parcels.recv().await.is_none());
        lifecycle.end_move();
        assert!(!lifecycle.is_leaving());
    }

    #[tokio::test]
    async fn waits_end_when_their_event_comes() {
        let lifecycle = Lifecycle::new();
        let guard = lifecycle.guard(What::Session);
        let other = lifecycle.clone();
        let waiter = tokio::spawn(async move {
            other.reached(Phase::Draining).await;
            other.emptied().await;
            other.alive()
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        lifecycle.advance(Phase::Closing);
        drop(guard);
        assert_eq!(waiter.await.ok(), Some(Alive::default()));
    }
}
