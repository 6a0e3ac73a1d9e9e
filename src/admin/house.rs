//! What the admin listener reads of the process, and acts on.
//!
//! Enters: handles to the rooms, once. Leaves: the same. Must not touch: how they are asked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::budget::Budget;
use crate::config::Setting;
use crate::lifecycle::{Lifecycle, Phase, log};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::registry::roster::Load;

/// What the operator looks at and acts on.
pub struct House {
    /// Of the program.
    pub version: &'static str,
    /// When the process started.
    pub started: SystemTime,
    /// The sessions.
    pub registry: Arc<Registry>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The memory of payloads.
    pub budget: Arc<Budget>,
    /// The phase, and what is alive.
    pub lifecycle: Lifecycle,
    /// Most connections of clients.
    pub connections: usize,
    /// The connections to each backend.
    pub backends: Box<dyn Fn() -> Vec<BackendLoad> + Send + Sync>,
    /// Addresses of clients that are known, to limit each of them.
    pub clients: Box<dyn Fn() -> Share + Send + Sync>,
    /// The configuration in force, each key with its origin.
    pub settings: Box<dyn Fn() -> Arc<Vec<Setting>> + Send + Sync>,
    /// The certificates that are shown, and their ends, in seconds since 1970.
    pub certificates: Box<dyn Fn() -> BTreeMap<String, u64> + Send + Sync>,
}

/// How much of something there is, and may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// So much there is.
    pub used: usize,
    /// So much there may be.
    pub limit: usize,
}

impl From<(usize, usize)> for Share {
    fn from((used, limit): (usize, usize)) -> Self {
        Self { used, limit }
    }
}

/// The connections to one backend at one moment.
#[derive(Clone, Debug)]
pub struct BackendLoad {
    /// The route's host, if it names one, and its path.
    pub route: Arc<str>,
    /// Those that are being opened.
    pub dials: Share,
    /// Those that wait until one fewer is being opened.
    pub waiting: usize,
    /// Those that lie idle.
    pub pooled: Share,
}

/// What the rooms hold at one moment.
#[derive(Clone, Debug)]
pub struct Readings {
    /// How far stopping has come.
    pub phase: Phase,
    /// What all payloads hold, in bytes, and the budget for them.
    pub memory: Share,
    /// The sessions.
    pub load: Load,
    /// Ended sessions that are remembered.
    pub ended: Share,
    /// Addresses of clients that are known.
    pub clients: Share,
    /// The connections to each backend.
    pub backends: Vec<BackendLoad>,
    /// The files of the certificates that are shown, and their ends, in seconds since 1970.
    pub certificates: BTreeMap<String, u64>,
    /// Lines of the log that were not written.
    pub log_lines_dropped: u64,
}

impl House {
    /// What the rooms hold now. Each session is locked for a moment of its own.
    #[must_use]
    pub fn readings(&self) -> Readings {
        Readings {
            phase: self.lifecycle.phase(),
            memory: Share { used: self.budget.held(), limit: self.budget.bytes() },
            load: self.registry.load(),
            ended: self.registry.remembered().into(),
            clients: (self.clients)(),
            backends: (self.backends)(),
            certificates: (self.certificates)(),
            log_lines_dropped: log::lines_dropped(),
        }
    }
}

impl fmt::Debug for House {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("House")
    }
}

#[cfg(test)]
impl House {
    /// One without sessions.
    pub(super) fn sample() -> Self {
        let (metrics, budget, lifecycle) = (Arc::<Metrics>::default(), Arc::new(Budget::of(None)), Lifecycle::new());
        let shared = (Arc::clone(&metrics), Arc::clone(&budget));
        let registry = Registry::new("n1", &crate::config::Session::default(), shared, lifecycle.clone());
        let setting = Setting { key: "node".into(), value: "\"n1\"".into(), origin: "default".into() };
        let settings = Arc::new(vec![setting]);
        Self {
            version: "0",
            started: SystemTime::now(),
            registry: Arc::new(registry),
            metrics,
            budget,
            lifecycle,
            connections: 7,
            backends: Box::new(Vec::new),
            clients: Box::new(|| Share { used: 0, limit: 9 }),
            settings: Box::new(move || Arc::clone(&settings)),
            certificates: Box::new(|| BTreeMap::from([("/a.pem".into(), 9)])),
        }
    }
}
