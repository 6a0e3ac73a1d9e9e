//! What the admin listener is given to show of the process and to do to it.
//!
//! Enters: the admin sockets, the rooms that know something. Leaves: a task for each socket. Must not touch: how it is shown
//! (`admin`).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use super::App;
use crate::admin::exposition::Exposition;
use crate::admin::{self, AdminListener, AdminState, BackendLoad, Check, House, Share};
use crate::gateway::{BackendCount, Gateway};
use crate::lifecycle::Phase;
use crate::lifecycle::sockets::BoundListener;

impl App {
    pub(super) fn open_admin(&self, bound: Vec<BoundListener>) {
        let lifecycle = self.lifecycle.clone();
        let serving = Check::new("serving", move || {
            lifecycle.note_readiness_asked();
            match lifecycle.phase() {
                Phase::Serving => Ok(()),
                phase => Err(format!("{phase:?}").to_lowercase()),
            }
        });
        let house = Arc::new(self.house());
        let read = Arc::clone(&house);
        let exposition = Exposition::new(&self.metrics, house.version, move || read.readings());
        let state = Arc::new(AdminState { exposition, checks: vec![serving], house });
        for listener in bound {
            let listener = match listener {
                BoundListener::Tcp(listener) => AdminListener::Tcp(listener),
                BoundListener::Unix(listener) => AdminListener::Unix(listener),
            };
            let serving = tokio::spawn(admin::serve(listener, Arc::clone(&state))).abort_handle();
            self.admins.lock().unwrap_or_else(PoisonError::into_inner).push(serving);
        }
    }

    /// The successor answers operators from now on.
    pub(super) fn close_admin(&self) {
        self.admins.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|serving| serving.abort());
    }

    fn house(&self) -> House {
        let settings = Arc::clone(&self.settings);
        let (gateway, limits) = (Arc::clone(&self.gateway), Arc::clone(&self.limits));
        House {
            version: env!("CARGO_PKG_VERSION"),
            started: SystemTime::now(),
            registry: Arc::clone(&self.registry),
            metrics: Arc::clone(&self.metrics),
            budget: Arc::clone(&self.budget),
            lifecycle: self.lifecycle.clone(),
            connections: self.config.client.connections,
            backends: Box::new(move || backends(&gateway)),
            clients: Box::new(move || limits.known().into()),
            settings: Box::new(move || settings.load_full()),
            certificates: Box::new(self.expiries()),
        }
    }

    /// Asks until when each certificate holds that clients are shown.
    fn expiries(&self) -> impl Fn() -> BTreeMap<String, u64> + Send + Sync + 'static {
        let certificates = self.certificates.clone();
        move || {
            let all = certificates.iter().flat_map(|certificate| certificate.expiries());
            all.map(|expiry| (expiry.certificate.display().to_string(), expiry.at)).collect()
        }
    }
}

fn backends(gateway: &Gateway) -> Vec<BackendLoad> {
    let (counts, pool) = gateway.backends();
    let load = |BackendCount { route, dials, pooled }| BackendLoad {
        route,
        dials: Share { used: dials.active, limit: dials.limit },
        waiting: dials.waiting,
        pooled: Share { used: pooled, limit: pool },
    };
    counts.into_iter().map(load).collect()
}
