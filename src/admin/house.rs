//! What the admin listener reads of the process, and acts on.
//!
//! Enters: handles to the rooms, once. Leaves: the same. Must not touch: how they are asked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::budget::Budget;
use crate::config::Setting;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::registry::Registry;

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
    /// The configuration in force, each key with its origin.
    pub settings: Box<dyn Fn() -> Arc<Vec<Setting>> + Send + Sync>,
    /// The certificates that are shown, and their ends, in seconds since 1970.
    pub certificates: Box<dyn Fn() -> BTreeMap<String, u64> + Send + Sync>,
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
            settings: Box::new(move || Arc::clone(&settings)),
            certificates: Box::new(|| BTreeMap::from([("/a.pem".into(), 9)])),
        }
    }
}
