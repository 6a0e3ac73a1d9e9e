//! How a process ends whose sessions do not: it lets go of everything, and another process has it.
//!
//! Enters: a restart by the service manager, or a successor that asks. Leaves: a package for it; if nobody takes that,
//! everything lives on here. Must not touch: how parcels travel (`handover`), what they say.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::App;
use crate::handover::take_over::{Successor, TakeOverError, accept};
use crate::handover::{Head, Load, store};
use crate::lifecycle::drain::CLOSE_WAIT;
use crate::lifecycle::moving::{Kind, Parcel};
use crate::lifecycle::{Alive, Phase};
use crate::listener::given::ListenerRecord;
use crate::registry::Pump;
use crate::terms::HandedOver;
use crate::transport::pump::pump;

/// How long connections have to finish what they are about, once all sessions are written down: they write some last bytes. What
/// takes longer stays behind, and its client comes back on a new connection.
const SETTLE: Duration = Duration::from_secs(5);
/// When nothing more has come for so long, nothing more is on its way.
const QUIET: Duration = Duration::from_millis(20);
/// How many parcels are taken at once; arbitrary.
const AT_ONCE: usize = 1024;
/// How long a successor may take to make sure of what it got.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether requests are under way.
const LOOK: Duration = Duration::from_millis(10);
/// How long what ends with the process has to say so. The next process starts only then.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Who gets everything.
enum Heir {
    /// The process that the service manager starts next.
    Next,
    /// One that runs already.
    Successor(Successor),
}

impl App {
    /// Serves successors that ask at `handover.socket`, until one has everything; what is alive then has stayed behind.
    pub(super) async fn be_succeeded(&self) -> Alive {
        let Some(listener) = &self.handover else { return std::future::pending().await };
        let addresses: Vec<_> = self.spoken.keys().chain(self.copies.iter().map(|(name, _)| name)).cloned().collect();
        loop {
            self.reserve.fill(&io::stderr());
            let successor = match accept(listener, self.config.handover.quiesce, &addresses, &self.reserve).await {
                Ok(successor) => successor,
                Err(error) => {
                    match error {
                        TakeOverError::GaveUp { why } => {
                            tracing::warn!(why, "a successor cannot start, and has asked for nothing");
                        }
                        error => tracing::warn!(%error, "a successor was refused"),
                    }
                    self.metrics.handover.ended(HandedOver::Refused);
                    continue;
                }
            };
            if self.lifecycle.phase() != Phase::Serving {
                self.refuse(successor).await;
                continue;
            }
            tracing::info!(successor = %successor.process(), "a successor asks for everything");
            tokio::select! {
                () = self.quiesce(false) => {}
                () = successor.gone() => {
                    tracing::warn!("the successor has gone before it got anything");
                    self.metrics.handover.ended(HandedOver::Refused);
                    continue;
                }
            }
            // Meanwhile it may have been told to stop.
            if self.lifecycle.phase() != Phase::Serving {
                self.refuse(successor).await;
                continue;
            }
            if self.hand_over(Heir::Successor(successor)).await {
                return self.linger().await;
            }
        }
    }

    async fn refuse(&self, successor: Successor) {
        successor.refuse("this process is stopping").await;
        self.metrics.handover.ended(HandedOver::Refused);
    }

    /// Hands everything to the process that the service manager starts next. False when that cannot be.
    pub(super) async fn restart(&self) -> bool {
        if !self.config.handover.restart || !store::is_available() {
            tracing::info!("nothing can be handed over: no service manager keeps descriptors for this process");
            return false;
        }
        self.quiesce(true).await;
        if !self.hand_over(Heir::Next).await {
            return false;
        }
        // Whoever waits for the end of this process waits for its clients, too.
        self.lifecycle.advance(Phase::Closing);
        let _ = timeout(LAST_WORDS, self.lifecycle.emptied()).await;
        true
    }

    /// Waits for a moment in which no session is being opened and, if they would end with this process, no request is being
    /// proxied; not for longer than `handover.quiesce`. Everything is served meanwhile.
    async fn quiesce(&self, ends: bool) {
        let quiet = async {
            while self.registry.openings() > 0 || ends && self.metrics.proxied_now() > 0 {
                sleep(LOOK).await;
            }
        };
        let _ = timeout(self.config.handover.quiesce, quiet).await;
    }

    /// Lets go of everything and gives it to the heir. False when that has failed: everything lives on here.
    async fn hand_over(&self, heir: Heir) -> bool {
        let begun = Instant::now();
        let mut parcels = self.lifecycle.begin_move();
        let stays = matches!(heir, Heir::Successor(_));
        let frozen = self.registry.freeze(stays.then(|| self.pump())).await;
        self.lifecycle.let_go();
        let moment = self.registry.now();
        let mut given = self.collect(&mut parcels).await;
        self.lifecycle.close_parcels();
        // Nobody accepts any more, so nobody else takes it.
        self.reserve.release();
        while let Some(parcel) = parcels.recv().await {
            given.push(parcel);
        }
        let copies = self.copies().unwrap_or_else(|error| {
            tracing::error!(%error, "the admin listener stays behind");
            Vec::new()
        });
        given.extend(copies);
        let load = Load { head: self.head(moment.0), parcels: given, incomplete: Vec::new() };
        let given = send(&load, heir).await;
        let taken = begun.elapsed();
        if !given {
            tracing::warn!(after = ?taken, "nobody has taken over: everything goes on here");
            self.metrics.handover.ended(HandedOver::RolledBack);
            self.metrics.handover.took(taken);
            // Before anybody else takes what is free.
            self.reserve.fill(&io::stderr());
            self.thaw(load.parcels, true).await;
            return false;
        }
        self.lifecycle.handed_over();
        let staying = self.lifecycle.alive();
        if !stays && (frozen.ended > 0 || staying.tunnels > 0) {
            tracing::warn!(
                sessions = frozen.ended,
                tunnels = staying.tunnels,
                "these end with this process: under TLS, they cannot be handed over"
            );
        }
        let count = |kind| load.parcels.iter().filter(|parcel| parcel.kind == kind).count();
        tracing::info!(
            sessions = frozen.sessions,
            left = frozen.left,
            tunnels = count(Kind::Tunnel),
            connections = count(Kind::Connection),
            listeners = count(Kind::Listener),
            staying = %staying,
            millis = taken.as_millis(),
            "everything is handed over"
        );
        self.close_admin();
        if !stays {
            // The process ends now, which closes them all at once; the next one waits for that.
            std::mem::forget(load);
        }
        true
    }

    /// What stays behind lives on for a while: tunnels and backends under TLS, requests that are being proxied.
    async fn linger(&self) -> Alive {
        let linger = self.config.handover.linger;
        if timeout(linger, self.lifecycle.emptied()).await.is_err() {
            tracing::warn!(left = %self.lifecycle.alive(), after = ?linger, "ending what could not be handed over");
            self.lifecycle.advance(Phase::Closing);
            let _ = timeout(CLOSE_WAIT, self.lifecycle.emptied()).await;
        }
        self.lifecycle.advance(Phase::Closing);
        self.lifecycle.alive()
    }

    /// Carries the bytes of backends under TLS for the successor, as long as this process lives.
    fn pump(&self) -> Pump {
        let (lifecycle, write) = (self.lifecycle.clone(), self.config.client.write);
        Arc::new(move |io, standing| pump(io, standing, &lifecycle, write))
    }

    /// The parcels that come. When this returns, at most those are missing whose givers are about to give them at this moment.
    async fn collect(&self, parcels: &mut UnboundedReceiver<Parcel>) -> Vec<Parcel> {
        let (deadline, mut all) = (Instant::now() + SETTLE, Vec::new());
        let mut deserted = pin!(self.lifecycle.deserted());
        loop {
            let quiet = deadline.min(Instant::now() + QUIET);
            tokio::select! {
                biased;
                came = parcels.recv_many(&mut all, AT_ONCE) => if came == 0 { return all },
                () = &mut deserted => return all,
                // What is alive may still be about to give itself, unless nothing has come for so long.
                () = sleep_until(quiet) => if !all.is_empty() || quiet == deadline { return all },
            }
        }
    }

    /// Copies of the sockets that are not the listeners'.
    fn copies(&self) -> io::Result<Vec<Parcel>> {
        let copy = |(address, socket): &(String, OwnedFd)| {
            let record = ListenerRecord { address: address.clone(), spread: false };
            Ok(Parcel::new(Kind::Listener, &record, vec![socket.try_clone()?]))
        };
        self.copies.iter().map(copy).collect()
    }

    fn head(&self, moment: u64) -> Head {
        let mut names = self.registry.nodes();
        let node = names.remove(0);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        Head { moment, node, former: names, program: env!("CARGO_PKG_VERSION").to_owned(), at }
    }
}

/// True when the heir has everything.
async fn send(load: &Load, heir: Heir) -> bool {
    let package = match load.pack() {
        Ok(package) => package,
        Err(error) => {
            tracing::error!(%error, "nothing can be handed over");
            if let Heir::Successor(successor) = heir {
                successor.refuse(&error.to_string()).await;
            }
            return false;
        }
    };
    match heir {
        Heir::Next => {
            store::keep(package).await.inspect_err(|error| tracing::error!(%error, "not handed over")).is_ok()
        }
        Heir::Successor(mut successor) => match successor.send(&package).await {
            Ok(()) => successor.committed(PATIENCE).await,
            Err(error) => {
                tracing::warn!(%error, "the successor has gone");
                false
            }
        },
    }
}
