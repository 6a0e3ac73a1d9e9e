//! The life of a sidecar that serves: signals, reloads, memory, the drain.
//!
//! Enters: signals, the sources of the configuration. Leaves: what was still alive in the end. Must not touch: how the rooms
//! were put together (`super`), sockets, requests.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::App;
use crate::budget::give_back;
use crate::config::{ConfigErrors, Drain, Loaded, Sources};
use crate::gateway::BackendError;
use crate::lifecycle::drain::{self, Signal, spread_for};
use crate::lifecycle::{Alive, Phase, systemd};

/// How long a client has for its last words once it was asked to leave.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often a drain looks for sessions whose client has left.
const LOOK_FOR_GONE: Duration = Duration::from_millis(50);

impl App {
    /// Lives until a signal to stop, then drains; what was still alive in the end. `sources` are read
    /// again on a reload.
    pub async fn run(&self, signals: mpsc::Receiver<Signal>, sources: Option<Sources>) -> Alive {
        systemd::ready();
        let drain = self.config.drain.clone();
        let reload = || self.reload(sources.as_ref());
        tokio::select! {
            alive = drain::run(&self.lifecycle, &drain, signals, reload, async || self.restart().await) => alive,
            alive = self.be_succeeded() => alive,
            never = background(systemd::watchdog()) => never,
        }
    }

    /// Reads certificates and configuration again; a bad one leaves the old one in force.
    fn reload(&self, sources: Option<&Sources>) {
        let mut applied = true;
        for certificate in &self.certificates {
            match certificate.reload() {
                Ok(()) => certificate.warn(),
                Err(error) => {
                    applied = false;
                    tracing::warn!(%error, "the old certificate stays in use");
                }
            }
        }
        let Some(sources) = sources else { return self.metrics.reloaded(applied, SystemTime::now()) };
        let reloaded = self.reload_config(sources);
        self.metrics.reloaded(applied && reloaded.is_ok(), SystemTime::now());
        match reloaded {
            Ok(()) => tracing::info!(file = sources.name(), "configuration reloaded"),
            Err(error) => tracing::error!(%error, "the old configuration stays in force"),
        }
    }

    fn reload_config(&self, sources: &Sources) -> Result<(), ReloadError> {
        sources.load().map_err(ReloadError::from).and_then(|Loaded { config, settings }| {
            for what in self.config.needs_restart(&config) {
                tracing::warn!(what, "this change takes effect at the next restart");
            }
            let config = Arc::new(config);
            self.gateway.reload(Arc::clone(&config))?;
            self.trusted.store(Arc::new(config.trusted.clone()));
            self.settings.store(Arc::new(settings));
            Ok(())
        })
    }

    /// Says how much memory there is, and keeps to it.
    pub(super) fn watch_memory(&self) {
        let (bytes, message) = (self.budget.bytes(), self.config.session.message);
        tracing::info!(bytes, source = %self.budget.source(), "memory budget");
        if bytes < 2 * message {
            tracing::warn!(bytes, message, "the memory budget has no room for two messages of `session.message`");
        }
        let (keeper, sweeper) = (Arc::clone(&self.registry), Arc::clone(&self.registry));
        tokio::spawn(async move { keeper.keep_budget().await });
        tokio::spawn(async move { sweeper.forget_in_time().await });
        tokio::spawn(give_back());
    }

    /// Asks the clients to leave when the process drains, ends the sessions whose client has gone, and what is left when the
    /// time for that is over.
    pub(super) fn follow_drain(&self) {
        let registry = Arc::clone(&self.registry);
        let (lifecycle, Drain { spread, .. }) = (self.lifecycle.clone(), self.config.drain.clone());
        tokio::spawn(async move {
            lifecycle.reached(Phase::Draining).await;
            registry.end_gone();
            let spread_now = spread_for(spread, registry.present() + lifecycle.alive().tunnels);
            registry.leave_all(spread_now);
            // Behind the last one that is asked to leave, some time for what it still says.
            let end = spread.min(spread_now + LAST_WORDS);
            let watch = async {
                while registry.present() > 0 {
                    sleep(LOOK_FOR_GONE).await;
                    registry.end_gone();
                }
            };
            tokio::select! {
                () = watch => {}
                () = sleep(end) => {}
                () = lifecycle.reached(Phase::Closing) => {}
            }
            registry.end_all();
        });
    }
}

#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Runs beside something else and never wins against it.
async fn background<T>(work: impl Future) -> T {
    work.await;
    std::future::pending().await
}
