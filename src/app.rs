//! Puts the rooms together: a checked configuration becomes a running sidecar.
//!
//! Enters: a [`Config`], sockets, signals. Leaves: a process that serves until it is told to stop. Must not touch:
//! requests and sessions; it only introduces the rooms to each other.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use crate::admin::metrics::Metrics;
use crate::admin::{self, AdminListener, AdminState, Check};
use crate::config::{Address, Config, Drain, Mistakes};
use crate::gateway::{Gateway, Service};
use crate::lifecycle::drain::{self, Signal};
use crate::lifecycle::sockets::{BindError, BoundListener, Sockets};
use crate::lifecycle::{Alive, Lifecycle, Phase, systemd};
use crate::listener;
use crate::listener::tls::{LOOK_EVERY, TlsError, TlsSource};
use crate::registry::Registry;
use crate::registry::tally::Tally;
use crate::upstream::tls::UpstreamTlsError;

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A listener's certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The TLS files of an upstream.
    #[error(transparent)]
    UpstreamTls(#[from] UpstreamTlsError),
    /// The system.
    #[error("the system refused: {0}")]
    Io(#[from] std::io::Error),
}

/// A sidecar whose listeners are bound and served.
pub struct App {
    config: Arc<Config>,
    /// Where the listeners listen, in the order of the configuration.
    pub addresses: Vec<Address>,
    /// Where the admin endpoints are, if anywhere.
    pub admin: Option<Address>,
    gateway: Arc<Gateway>,
    tally: Arc<Tally>,
    lifecycle: Lifecycle,
    certificates: Vec<Arc<TlsSource>>,
}

/// Checks what [`App::start`] would open apart from sockets: certificates, keys, authorities.
///
/// # Errors
/// [`StartError`], the first one.
pub fn check_files(config: &Config) -> Result<(), StartError> {
    for tls in config.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        TlsSource::load(tls)?;
    }
    for route in &config.routes {
        crate::upstream::dial::Dialer::new(&route.upstream, &config.backend)?;
    }
    Ok(())
}

impl App {
    /// Binds all listeners, then serves them. Must be called on a runtime.
    ///
    /// # Errors
    /// [`StartError`]; then nothing is served.
    pub fn start(config: Config, mut sockets: Sockets) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let (lifecycle, tally) = (Lifecycle::new(), Arc::new(Tally::default()));
        let registry = Registry::new(&config.node, &config.session, Arc::clone(&tally), lifecycle.clone());
        let registry = Arc::new(registry);
        let (gateway, shared) = (Arc::clone(&registry), (Arc::clone(&tally), lifecycle.clone()));
        let gateway = Arc::new(Gateway::new(Arc::clone(&config), gateway, shared.0, shared.1)?);

        let mut doors = Vec::new();
        for listener in &config.listeners {
            let tls = listener.tls.as_ref().map(TlsSource::load).transpose()?.map(Arc::new);
            doors.extend(sockets.bind(&listener.address)?.into_iter().map(|bound| (bound, tls.clone())));
        }
        let admin = config.admin.as_ref().map(|address| sockets.bind(address)).transpose()?.unwrap_or_default();
        for name in sockets.untaken() {
            tracing::warn!(name, "systemd passed a socket that no listener asks for");
        }

        let addresses = doors.iter().map(|(bound, _)| bound.local_addr()).collect::<Result<_, _>>()?;
        let admin_address = admin.first().map(BoundListener::local_addr).transpose()?;
        let certificates = doors.iter().filter_map(|(_, tls)| tls.clone()).collect();
        let app = Self { config, addresses, admin: admin_address, gateway, tally, lifecycle, certificates };
        app.open_doors(doors);
        app.open_admin(admin);
        app.follow_drain(registry);
        Ok(app)
    }

    /// The phases of this sidecar.
    #[must_use]
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Lives until a signal to stop, then drains; what was still alive in the end. `source` is the file to read again
    /// on a reload.
    pub async fn run(&self, signals: mpsc::Receiver<Signal>, source: Option<PathBuf>) -> Alive {
        systemd::ready();
        let drain = self.config.drain.clone();
        tokio::select! {
            alive = drain::run(&self.lifecycle, &drain, signals, || self.reload(source.as_ref())) => alive,
            never = background(systemd::watchdog()) => never,
        }
    }

    /// Reads certificates and configuration again; a bad one leaves the old one in force.
    fn reload(&self, source: Option<&PathBuf>) {
        for certificate in &self.certificates {
            if let Err(error) = certificate.reload() {
                tracing::warn!(%error, "the old certificate stays in use");
            }
        }
        let Some(source) = source else { return };
        match self.reload_config(source) {
            Ok(()) => tracing::info!(file = %source.display(), "configuration reloaded"),
            Err(error) => tracing::error!(%error, "the old configuration stays in force"),
        }
    }

    fn reload_config(&self, source: &PathBuf) -> Result<(), ReloadError> {
        let applied = Config::load(source).map_err(ReloadError::from).and_then(|config| {
            for what in needs_restart(&self.config, &config) {
                tracing::warn!(what, "this change takes effect at the next restart");
            }
            Ok(self.gateway.reload(Arc::new(config))?)
        });
        self.tally.reloaded(applied.is_ok());
        applied
    }

    fn open_doors(&self, doors: Vec<(BoundListener, Option<Arc<TlsSource>>)>) {
        let client = Arc::new(self.config.client.clone());
        let permits = Arc::new(Semaphore::new(client.connections));
        for (bound, tls) in doors {
            if let Some(tls) = &tls {
                tokio::spawn(Arc::clone(tls).watch(LOOK_EVERY));
            }
            let service = Service(Arc::clone(&self.gateway));
            let (client, permits) = (Arc::clone(&client), Arc::clone(&permits));
            tokio::spawn(listener::serve(bound, tls, service, client, permits, self.lifecycle.clone()));
        }
    }

    fn open_admin(&self, bound: Vec<BoundListener>) {
        let lifecycle = self.lifecycle.clone();
        let phase = move || lifecycle.phase() as i64;
        let lifecycle = self.lifecycle.clone();
        let serving = Check::new("serving", move || match lifecycle.phase() {
            Phase::Serving => Ok(()),
            phase => Err(format!("{phase:?}").to_lowercase()),
        });
        let metrics = Metrics::new(&self.tally, env!("CARGO_PKG_VERSION"), phase);
        let state = Arc::new(AdminState { metrics, checks: vec![serving] });
        for listener in bound {
            let listener = match listener {
                BoundListener::Tcp(listener) => AdminListener::Tcp(listener),
                BoundListener::Unix(listener) => AdminListener::Unix(listener),
            };
            tokio::spawn(admin::serve(listener, Arc::clone(&state)));
        }
    }

    /// Asks the clients to leave when the process drains, and ends what is left when the time for that is over.
    fn follow_drain(&self, registry: Arc<Registry>) {
        let (lifecycle, Drain { spread, .. }) = (self.lifecycle.clone(), self.config.drain.clone());
        tokio::spawn(async move {
            lifecycle.reached(Phase::Draining).await;
            registry.leave_all(spread);
            tokio::select! {
                () = sleep(spread) => {}
                () = lifecycle.reached(Phase::Closing) => {}
            }
            registry.end_all();
        });
    }
}

#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] Mistakes),
    #[error(transparent)]
    Tls(#[from] UpstreamTlsError),
}

/// What was changed and cannot take effect while the process runs.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("node", old.node != new.node),
        ("listener", old.listeners != new.listeners),
        ("admin", old.admin != new.admin),
        ("[client]", old.client != new.client),
        ("[log]", old.log != new.log),
        ("[drain]", old.drain != new.drain),
        ("session.max, session.ended or session.ended_max", memory(old) != memory(new)),
    ];
    changed.into_iter().filter_map(|(what, changed)| changed.then_some(what)).collect()
}

fn memory(config: &Config) -> (usize, std::time::Duration, usize) {
    (config.session.max, config.session.ended, config.session.ended_max)
}

/// Runs beside something else and never wins against it.
async fn background<T>(work: impl Future) -> T {
    work.await;
    std::future::pending().await
}
