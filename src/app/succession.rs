//! How a process begins that has a predecessor: with its sockets, its sessions and its clients.
//!
//! Enters: what the service manager has kept, or what a running process gives. Leaves: an [`App`] that goes on with it. Must not
//! touch: what parcels say; each room makes its own live again.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::task::yield_now;

use super::{App, Bound, StartError, bind_ahead, check_files};
use crate::config::Config;
use crate::handover::take_over::{Predecessor, ask};
use crate::handover::{Head, Load, Package, store};
use crate::lifecycle::What;
use crate::lifecycle::moving::{Kind, Parcel};
use crate::lifecycle::sockets::{Sockets, SpareListener};
use crate::listener::given::ListenerRecord;
use crate::terms::{Crossing, HandedOver};

/// How many a worker makes live at once, before it serves those that live already; arbitrary, some milliseconds' worth.
const AT_ONCE: usize = 256;

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

    /// Makes everything live again. `here` is true in the process that has let go of it.
    pub(super) async fn thaw(&self, parcels: Vec<Parcel>, here: bool) -> Thawed {
        let (mut thawed, mut of) = (Thawed::default(), Kind::ALL.map(|_| Vec::new()));
        // A process that is to stop is not empty before all that comes back is there.
        let _coming = self.lifecycle.guard(What::Connection);
        for parcel in parcels {
            of[row(parcel.kind)].push(parcel);
        }
        let [listeners, sessions, ended, nonces, tunnels, connections] = of;
        self.registry.await_sessions();
        if here {
            self.lifecycle.end_move();
        }
        let late = self.by_all_workers(vec![sessions, tunnels, connections], false, &mut thawed).await;
        // Whoever has remembered it still does.
        for parcel in ended.iter().filter(|_| !here).chain(&nonces) {
            thawed.note(parcel.kind, self.registry.thaw_remembered(parcel).map_err(|error| error.to_string()));
        }
        self.registry.all_arrived();
        self.by_all_workers(vec![late], true, &mut thawed).await;
        for (worker, parcel) in listeners.into_iter().enumerate() {
            thawed.note(Kind::Listener, self.serve_again(worker, parcel));
        }
        thawed
    }

    /// Has each worker make its share live again, the first of each list before the second of any, so that what was let go of
    /// first is served first. What has to wait until `all_here`, which is when all sessions are, comes back.
    async fn by_all_workers(&self, lists: Vec<Vec<Parcel>>, all_here: bool, thawed: &mut Thawed) -> Vec<Parcel> {
        let mut shares: Vec<Vec<(usize, Parcel)>> = self.workers.iter().map(|_| Vec::new()).collect();
        for (place, parcel) in lists.into_iter().flat_map(|list| list.into_iter().enumerate()) {
            shares[place % self.workers.len()].push((place, parcel));
        }
        let work = |(worker, mut share): (&Handle, Vec<(usize, Parcel)>)| {
            let (thaw, registry) = (self.thaw_one(all_here), Arc::clone(&self.registry));
            worker.spawn(async move {
                let (mut thawed, mut late) = (Thawed::default(), Vec::new());
                share.sort_by_key(|(place, _)| *place);
                for (done, (_, parcel)) in share.into_iter().enumerate() {
                    if done % AT_ONCE == AT_ONCE - 1 {
                        registry.some_arrived();
                        yield_now().await;
                    }
                    let kind = parcel.kind;
                    match thaw(parcel) {
                        Ok(Some(parcel)) => late.push(parcel),
                        other => thawed.note(kind, other.map(drop)),
                    }
                }
                (thawed, late)
            })
        };
        let working: Vec<_> = self.workers.iter().zip(shares).map(work).collect();
        let mut all_late = Vec::new();
        for work in working {
            // A panic has said what it is already; what it was about is lost.
            let (some, late) = work.await.unwrap_or_default();
            thawed.add(&some);
            all_late.extend(late);
        }
        all_late
    }

    /// What makes a parcel live again, or gives it back if it has to wait; to be called on the runtime that is to have it.
    fn thaw_one(&self, all_here: bool) -> impl Fn(Parcel) -> Result<Option<Parcel>, String> + Send + 'static {
        let (registry, backend) = (Arc::clone(&self.registry), Arc::new(self.config.backend.clone()));
        let (gateway, doors, limits) = (Arc::clone(&self.gateway), Arc::clone(&self.doors), Arc::clone(&self.limits));
        move |parcel| {
            let place = |client| limits.session(client).ok().flatten();
            let upgraded = |socket| doors.adopt_upgraded(socket);
            match parcel.kind {
                Kind::Session => {
                    let thawed = registry.thaw_session(parcel, Arc::clone(&backend), place);
                    thawed.map(|()| None).map_err(|error| error.to_string())
                }
                Kind::Tunnel => gateway.thaw_tunnel(parcel, upgraded).map(|()| None).map_err(|error| error.to_string()),
                _ => doors.adopt(parcel, all_here).map_err(|error| error.to_string()),
            }
        }
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
    fn add(&mut self, more: &Self) {
        for ((crossed, lost), (more_crossed, more_lost)) in self.0.iter_mut().zip(more.0) {
            *crossed += more_crossed;
            *lost += more_lost;
        }
    }

    /// One came without its sockets. Of a session there is just enough left to say so to its client.
    fn lose(&mut self, kind: Kind) {
        let (crossed, lost) = &mut self.0[row(kind)];
        *crossed = crossed.saturating_sub(u64::from(kind == Kind::Session));
        *lost += 1;
    }

    fn note(&mut self, kind: Kind, thawed: Result<(), String>) {
        let (crossed, lost) = &mut self.0[row(kind)];
        match thawed {
            Ok(()) => *crossed += 1,
            Err(error) => {
                tracing::warn!(error, "something that was handed over does not live on");
                *lost += 1;
            }
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
