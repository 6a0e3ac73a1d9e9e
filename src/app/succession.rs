//! How a process begins that has a predecessor: with its sockets, its sessions and its clients.
//!
//! Enters: what the service manager has kept, or what a running process gives. Leaves: an [`App`] that goes on with it. Must not
//! touch: what parcels say; each room makes its own live again.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{App, Bound, StartError, bind_ahead, check_files};
use crate::config::Config;
use crate::handover::take_over::{Predecessor, ask};
use crate::handover::{Head, Load, Package, store};
use crate::lifecycle::What;
use crate::lifecycle::moving::{Kind, Parcel};
use crate::lifecycle::sockets::{Sockets, SpareListener};
use crate::listener::given::ListenerRecord;
use crate::terms::{Crossing, HandedOver};

/// How much of each kind lives on, and how much does not.
#[derive(Debug, Default)]
pub(super) struct Thawed([(u64, u64); Kind::ALL.len()]);

impl App {
    /// Starts as [`App::start`] does, with everything that the process before had: the one that runs with this configuration if this
    /// one is to `take_over`, or else what the service manager has kept of one, if anything. Everything that can be checked
    /// is checked before the running process is asked to let go. Must be called on a runtime.
    ///
    /// # Errors
    /// [`StartError`]; then nothing is served, and a running process goes on.
    pub async fn succeed(config: Config, mut sockets: Sockets, take_over: bool) -> Result<Self, StartError> {
        if !take_over {
            let Some(kept) = sockets.stored() else { return Self::start(config, sockets) };
            let Some(load) = unpack(Package::from(kept)) else {
                let app = Self::start(config, sockets)?;
                app.metrics.handover.ended(HandedOver::Unreadable);
                return Ok(app);
            };
            return match Self::inherit(config, sockets, load) {
                Ok((app, load, bound)) => app.go_on(load, bound, HandedOver::Restarted).await,
                Err(failed) => {
                    let (error, load) = *failed;
                    give_back(&load).await;
                    Err(error)
                }
            };
        }
        check_files(&config)?;
        let path = config.handover.socket.clone().unwrap_or_default();
        let mut predecessor = ask(&path).await?;
        if let Err(error) = bind_ahead(&config, &mut sockets, &predecessor.process().addresses) {
            predecessor.fail(&error.to_string()).await;
            return Err(error.into());
        }
        let taken = predecessor.take().await?.unpack().map_err(StartError::from);
        match taken.and_then(|load| Self::inherit(config, sockets, load).map_err(|failed| failed.0)) {
            Ok((app, load, bound)) => {
                // From this word on everything is ours, and before it nothing is touched.
                commit(predecessor, &load.head).await?;
                app.go_on(load, bound, HandedOver::TakenOver).await
            }
            Err(error) => {
                predecessor.fail(&error.to_string()).await;
                Err(error)
            }
        }
    }

    /// An app with the listening sockets of the predecessor; nothing of it runs. With an error comes back what else there was.
    fn inherit(
        config: Config,
        sockets: Sockets,
        mut load: Load,
    ) -> Result<(Self, Load, Bound), Box<(StartError, Load)>> {
        let listeners = load.parcels.extract_if(.., |parcel| parcel.kind == Kind::Listener);
        let listener = |mut parcel: Parcel| {
            let record: ListenerRecord = parcel.read().ok()?;
            Some((record.address, parcel.descriptors.pop()?))
        };
        let sockets = sockets.with_taken(listeners.filter_map(listener).collect());
        match Self::build(config, sockets, Some(&load.head)) {
            Ok((app, bound)) => Ok((app, load, bound)),
            Err(error) => Err(Box::new((error, load))),
        }
    }

    /// Serves, beginning with what the predecessor was about.
    async fn go_on(self, load: Load, bound: Bound, result: HandedOver) -> Result<Self, StartError> {
        let Load { head, mut parcels, incomplete } = load;
        if !incomplete.is_empty() {
            tracing::error!(
                parcels = incomplete.len(),
                "came without their sockets, and end: is LimitNOFILE high enough for all of them?"
            );
        }
        let without_sockets: Vec<_> = incomplete.iter().map(|parcel| parcel.kind).collect();
        // A session without its socket ends for its client as any other that has lost its backend.
        parcels.extend(incomplete.into_iter().filter(|parcel| parcel.kind == Kind::Session));
        let mut thawed = self.thaw(parcels, false).await;
        without_sockets.into_iter().for_each(|kind| thawed.lose(kind));
        self.serve(bound.listening)?;
        self.open(bound.admin);
        let gap = since(&head);
        self.metrics.handover.ended(result);
        self.metrics.handover.took(gap);
        for (kind, (crossed, lost)) in Kind::ALL.into_iter().zip(thawed.0) {
            self.metrics.handover.came(kind, Crossing::Crossed, crossed);
            self.metrics.handover.came(kind, Crossing::Lost, lost);
        }
        let of = |kind| thawed.0[row(kind)];
        tracing::info!(
            before = head.program,
            result = result.as_str(),
            sessions = of(Kind::Session).0,
            tunnels = of(Kind::Tunnel).0,
            connections = of(Kind::Connection).0,
            lost = thawed.0.iter().map(|(_, lost)| lost).sum::<u64>(),
            millis = gap.as_millis(),
            "went on where the process before has stopped"
        );
        Ok(self)
    }

    /// Makes everything live again, sessions first, so that whoever asks for one finds it. `here` is true in the process that has
    /// let go of it: then it is served again behind that.
    pub(super) async fn thaw(&self, parcels: Vec<Parcel>, here: bool) -> Thawed {
        let (mut thawed, mut of) = (Thawed::default(), Kind::ALL.map(|_| Vec::new()));
        // A process that is to stop is not empty before all that comes back is there.
        let _coming = self.lifecycle.guard(What::Connection);
        for parcel in parcels {
            of[row(parcel.kind)].push(parcel);
        }
        let [listeners, sessions, ended, nonces, tunnels, connections] = of;
        let (registry, backend) = (Arc::clone(&self.registry), Arc::new(self.config.backend.clone()));
        let limits = Arc::clone(&self.limits);
        let thaw_session = move |parcel: Parcel| {
            let place = |client| limits.session(client).ok().flatten();
            registry.thaw_session(parcel, Arc::clone(&backend), place).map_err(|error| error.to_string())
        };
        thawed.count(Kind::Session, self.by_all_workers(sessions, thaw_session).await);
        // Whoever has remembered it still does.
        for parcel in ended.iter().filter(|_| !here).chain(&nonces) {
            thawed.note(parcel.kind, self.registry.thaw_remembered(parcel).map_err(|error| error.to_string()));
        }
        if here {
            self.registry.reopen();
            self.lifecycle.end_move();
        }
        let (gateway, doors) = (Arc::clone(&self.gateway), Arc::clone(&self.doors));
        let thaw_tunnel = move |parcel: Parcel| {
            gateway.thaw_tunnel(parcel, |socket| doors.adopt_upgraded(socket)).map_err(|error| error.to_string())
        };
        thawed.count(Kind::Tunnel, self.by_all_workers(tunnels, thaw_tunnel).await);
        let doors = Arc::clone(&self.doors);
        let adopt = move |parcel| doors.adopt(parcel).map_err(|error| error.to_string());
        thawed.count(Kind::Connection, self.by_all_workers(connections, adopt).await);
        for (worker, parcel) in listeners.into_iter().enumerate() {
            thawed.note(Kind::Listener, self.serve_again(worker, parcel));
        }
        thawed
    }

    /// Has each worker do its share; how many were done, and how many could not be.
    async fn by_all_workers<F>(&self, parcels: Vec<Parcel>, each: F) -> (u64, u64)
    where
        F: Fn(Parcel) -> Result<(), String> + Clone + Send + 'static,
    {
        let share = parcels.len().div_ceil(self.workers.len()).max(1);
        let (mut parcels, mut working) = (parcels.into_iter(), Vec::new());
        for worker in &self.workers {
            let (some, each) = (parcels.by_ref().take(share).collect::<Vec<_>>(), each.clone());
            working.push(worker.spawn(async move {
                let mut counts = (0, 0);
                for parcel in some {
                    add(&mut counts, each(parcel));
                }
                counts
            }));
        }
        let mut counts = (0, 0);
        for work in working {
            // A panic has said what it is already; what it was about is lost.
            let (crossed, lost) = work.await.unwrap_or_default();
            counts = (counts.0 + crossed, counts.1 + lost);
        }
        counts
    }

    /// Serves a listening socket of ours again.
    fn serve_again(&self, worker: usize, mut parcel: Parcel) -> Result<(), String> {
        let record: ListenerRecord = parcel.read().map_err(|error| error.to_string())?;
        // Copies of sockets that were never let go of have no such name.
        let Some(spoken) = self.spoken.get(&record.address) else { return Ok(()) };
        let socket = parcel.descriptors.pop().ok_or("it has no socket")?;
        let spare = SpareListener::of(socket).map_err(|error| error.to_string())?;
        self.serve_by(worker, spare, record, spoken.clone());
        Ok(())
    }
}

impl Thawed {
    fn count(&mut self, kind: Kind, (crossed, lost): (u64, u64)) {
        let counts = &mut self.0[row(kind)];
        *counts = (counts.0 + crossed, counts.1 + lost);
    }

    /// One came without its sockets. Of a session there is just enough left to say so to its client.
    fn lose(&mut self, kind: Kind) {
        let (crossed, lost) = &mut self.0[row(kind)];
        *crossed = crossed.saturating_sub(u64::from(kind == Kind::Session));
        *lost += 1;
    }

    fn note(&mut self, kind: Kind, thawed: Result<(), String>) {
        add(&mut self.0[row(kind)], thawed);
    }
}

fn add(counts: &mut (u64, u64), thawed: Result<(), String>) {
    match thawed {
        Ok(()) => counts.0 += 1,
        Err(error) => {
            tracing::warn!(error, "something that was handed over does not live on");
            counts.1 += 1;
        }
    }
}

fn row(wanted: Kind) -> usize {
    Kind::ALL.iter().position(|kind| *kind == wanted).unwrap_or_default()
}

/// What the service manager has kept. It lets go of it at once: a process that fails with it must not do so again and again.
fn unpack(package: Package) -> Option<Load> {
    let load = package.unpack();
    store::forget();
    load.inspect_err(|error| {
        tracing::error!(%error, "what the process before has left cannot be read: its sessions are lost");
    })
    .ok()
}

/// Has the service manager keep it again, for a process that can start. The listening sockets are bound anew then.
async fn give_back(load: &Load) {
    let kept = match load.pack() {
        Ok(package) => store::keep(package).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match kept {
        Ok(()) => tracing::warn!("what the process before has left is kept for the next one"),
        Err(error) => tracing::error!(error, "what the process before has left is lost"),
    }
}

async fn commit(predecessor: Predecessor, head: &Head) -> Result<(), StartError> {
    let process = predecessor.process().to_string();
    predecessor.commit().await?;
    tracing::info!(before = process, node = head.node, "everything is here");
    Ok(())
}

/// How long ago everything was let go of.
fn since(head: &Head) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_micros(head.at))
}
