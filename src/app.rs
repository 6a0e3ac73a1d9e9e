//! Puts the rooms together: a checked configuration becomes a running sidecar.
//!
//! Enters: a [`Config`], sockets, signals. Leaves: a process that serves until it is told to stop. Must not touch:
//! requests and sessions; it only introduces the rooms to each other.

use std::collections::BTreeMap;
use std::future::Future;
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tower::ServiceBuilder;

use crate::admin::exposition::Exposition;
use crate::admin::{self, AdminListener, AdminState, Check, House};
use crate::budget::{Budget, give_back};
use crate::config::{Address, Config, ConfigErrors, Drain, Loaded, Setting, Sources, Trusted};
use crate::gateway::layers::{WriteRefusals, catch_panic};
use crate::gateway::{BackendError, Gateway, GatewayService, Router, check_page};
use crate::lifecycle::drain::{self, CLOSE_WAIT, Signal, spread_for};
use crate::lifecycle::sockets::{BindError, BoundListener, Sockets, SpareListener};
use crate::lifecycle::{Alive, Lifecycle, Phase, log, systemd};
use crate::limits::Limits;
use crate::listener::handler::{Handler, Stack};
use crate::listener::idle::Connections;
use crate::listener::tls::{LOOK_EVERY, TlsError, TlsSource};
use crate::listener::{self, ListenerContext, Spoken};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::upstream::own::OwnListeners;
use crate::upstream::tls::UpstreamTlsError;

/// How long a client has for its last words once it was asked to leave.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often a drain looks for sessions whose client has left.
const LOOK_FOR_GONE: Duration = Duration::from_millis(50);

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
    /// A file of a backend.
    #[error(transparent)]
    Backend(#[from] BackendError),
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
    limits: Arc<Limits>,
    trusted: Arc<ArcSwap<Trusted>>,
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    lifecycle: Lifecycle,
    certificates: Vec<Arc<TlsSource>>,
    settings: Arc<ArcSwap<Vec<Setting>>>,
}

/// The memory budget that [`App::start`] would keep to, in bytes, and where it comes from, for people.
#[must_use]
pub fn memory_budget(config: &Config) -> (usize, String) {
    let budget = Budget::of(config.memory);
    (budget.bytes(), budget.source().to_string())
}

/// Checks what [`App::start`] would open apart from sockets: certificates, keys, authorities. What is returned is to be said
/// of them, for people.
///
/// # Errors
/// [`StartError`], the first one.
pub fn check_files(config: &Config) -> Result<Vec<String>, StartError> {
    let mut warnings = Vec::new();
    for tls in config.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        warnings.extend(TlsSource::load(tls)?.warnings(SystemTime::now()));
    }
    for route in &config.routes {
        crate::upstream::dial::Dialer::new(&route.upstream, &config.backend)?;
        route.error_page.as_deref().map(check_page).transpose().map_err(BackendError::from)?;
    }
    Ok(warnings)
}

impl App {
    /// Binds all listeners, then serves them. Must be called on a runtime.
    ///
    /// # Errors
    /// [`StartError`]; then nothing is served.
    pub fn start(config: Config, mut sockets: Sockets) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let (lifecycle, metrics) = (Lifecycle::new(), Arc::new(Metrics::default()));
        metrics.started(SystemTime::now(), config.session.max, config.client.connections);
        let budget = Arc::new(Budget::of(config.memory));
        let shared = (Arc::clone(&metrics), Arc::clone(&budget));
        let registry = Registry::new(&config.node, &config.session, shared, lifecycle.clone());
        let registry = Arc::new(registry);
        let mut listening = Vec::new();
        for listener in &config.listeners {
            let tls = listener.tls.as_ref().map(TlsSource::load).transpose()?.map(Arc::new);
            let spread = !matches!(listener.address, Address::Activated(_));
            let spoken = Spoken { proxy_protocol: listener.proxy_protocol, tls };
            let listen = |bound| Listening { bound, spread, spoken: spoken.clone() };
            listening.extend(sockets.bind(&listener.address)?.into_iter().map(listen));
        }
        let admin = config.admin.as_ref().map(|address| sockets.bind(address)).transpose()?.unwrap_or_default();
        for name in sockets.untaken() {
            tracing::warn!(name, "systemd passed a socket that no listener asks for");
        }

        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }

        let addresses: Vec<_> =
            listening.iter().map(|listening| listening.bound.local_addr()).collect::<Result<_, _>>()?;
        let limits = Arc::new(Limits::new(&config, Arc::clone(&metrics)));
        let shared = (Arc::clone(&metrics), Arc::clone(&limits));
        let own = OwnListeners::new(addresses.clone());
        let gateway = Gateway::new(Arc::clone(&config), Arc::clone(&registry), shared, lifecycle.clone(), own)?;
        let gateway = Arc::new(gateway);
        let admin_address = admin.first().map(BoundListener::local_addr).transpose()?;
        let certificates = listening.iter().filter_map(|listening| listening.spoken.tls.clone()).collect();
        let trusted = Arc::new(ArcSwap::from_pointee(config.trusted.clone()));
        let app = Self {
            config,
            addresses,
            admin: admin_address,
            gateway,
            limits,
            trusted,
            metrics,
            budget,
            lifecycle,
            certificates,
            settings: Arc::default(),
        };
        app.serve(listening)?;
        app.open_admin(admin, &registry);
        app.watch_memory(&registry);
        app.follow_drain(registry);
        Ok(app)
    }

    /// The phases of this sidecar.
    #[must_use]
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Tells the operator where each value of the configuration comes from.
    #[must_use]
    pub fn with_settings(self, settings: Vec<Setting>) -> Self {
        self.settings.store(Arc::new(settings));
        self
    }

    /// Lives until a signal to stop, then drains; what was still alive in the end. `sources` are read
    /// again on a reload.
    pub async fn run(&self, signals: mpsc::Receiver<Signal>, sources: Option<Sources>) -> Alive {
        systemd::ready();
        let drain = self.config.drain.clone();
        tokio::select! {
            alive = drain::run(&self.lifecycle, &drain, signals, || self.reload(sources.as_ref())) => alive,
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

    /// Serves the listening sockets on this runtime and on those of the other workers.
    fn serve(&self, listening: Vec<Listening>) -> Result<(), StartError> {
        let context = ListenerContext {
            handler: handler(&self.gateway, &self.metrics),
            client: Arc::new(self.config.client.clone()),
            trusted: Arc::clone(&self.trusted),
            connections: Arc::new(Connections::new(Arc::new(Semaphore::new(self.config.client.connections)))),
            budget: Arc::clone(&self.budget),
            limits: Arc::clone(&self.limits),
            lifecycle: self.lifecycle.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        for worker in 1..workers(&self.config) {
            let spare = |from: &Listening| Ok((from.bound.another(from.spread)?, from.spoken.clone()));
            let spares = listening.iter().map(spare).collect::<std::io::Result<Vec<_>>>()?;
            let context = context.clone();
            let thread = std::thread::Builder::new().name(format!("underpass-{worker}"));
            thread.spawn(move || work(&context, spares))?;
        }
        for tls in listening.iter().filter_map(|listening| listening.spoken.tls.clone()) {
            tokio::spawn(tls.watch(LOOK_EVERY));
        }
        for Listening { bound, spoken, .. } in listening {
            tokio::spawn(listener::serve(bound, spoken, context.clone()));
        }
        Ok(())
    }

    fn open_admin(&self, bound: Vec<BoundListener>, registry: &Arc<Registry>) {
        let (phases, lifecycle) = (self.lifecycle.clone(), self.lifecycle.clone());
        let phase = move || phases.phase() as i64;
        let serving = Check::new("serving", move || {
            lifecycle.note_readiness_asked();
            match lifecycle.phase() {
                Phase::Serving => Ok(()),
                phase => Err(format!("{phase:?}").to_lowercase()),
            }
        });
        let budget = Arc::clone(&self.budget);
        let memory = move || (budget.held() as u64, budget.bytes() as u64);
        let (version, log) = (env!("CARGO_PKG_VERSION"), log::lines_dropped);
        let exposition = Exposition::new(&self.metrics, version, phase, memory, self.expiries(), log);
        let state = Arc::new(AdminState { exposition, checks: vec![serving], house: self.house(registry) });
        for listener in bound {
            let listener = match listener {
                BoundListener::Tcp(listener) => AdminListener::Tcp(listener),
                BoundListener::Unix(listener) => AdminListener::Unix(listener),
            };
            tokio::spawn(admin::serve(listener, Arc::clone(&state)));
        }
    }

    fn house(&self, registry: &Arc<Registry>) -> House {
        let settings = Arc::clone(&self.settings);
        House {
            version: env!("CARGO_PKG_VERSION"),
            started: SystemTime::now(),
            registry: Arc::clone(registry),
            metrics: Arc::clone(&self.metrics),
            budget: Arc::clone(&self.budget),
            lifecycle: self.lifecycle.clone(),
            connections: self.config.client.connections,
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

    /// Says how much memory there is, and keeps to it.
    fn watch_memory(&self, registry: &Arc<Registry>) {
        let (bytes, message) = (self.budget.bytes(), self.config.session.message);
        tracing::info!(bytes, source = %self.budget.source(), "memory budget");
        if bytes < 2 * message {
            tracing::warn!(bytes, message, "the memory budget has no room for two messages of `session.message`");
        }
        let (keeper, sweeper) = (Arc::clone(registry), Arc::clone(registry));
        tokio::spawn(async move { keeper.keep_budget().await });
        tokio::spawn(async move { sweeper.forget_in_time().await });
        tokio::spawn(give_back());
    }

    /// Asks the clients to leave when the process drains, ends the sessions whose client has gone, and what is left when the
    /// time for that is over.
    fn follow_drain(&self, registry: Arc<Registry>) {
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

/// A listening socket, and what is spoken on it.
struct Listening {
    bound: BoundListener,
    /// Each worker may have a queue of its own.
    spread: bool,
    spoken: Spoken,
}

/// What every request passes, from the outside in. The listener has the router decide first, because what a request is for
/// also says how its connection waits.
fn handler(gateway: &Arc<Gateway>, metrics: &Arc<Metrics>) -> impl Handler {
    let (panics, refusals) = (Arc::clone(metrics), Arc::clone(metrics));
    let service = ServiceBuilder::new()
        // Outermost, so that a panic in any step below ends one request and not its connection.
        .map_future(move |response| catch_panic(response, Arc::clone(&panics)))
        // Above every step that refuses, so that each refusal is counted, logged and written in one place.
        .layer_fn(move |inner| WriteRefusals::new(inner, Arc::clone(&refusals)))
        // What limits or logs requests belongs here: behind the router, so that it knows who asks and for what, and
        // below the refusals, so that it can refuse.
        .service(GatewayService(Arc::clone(gateway)));
    Arc::new(Stack { router: Router(Arc::clone(gateway)), service })
}

/// The life of a further worker: a runtime of its own, so that a connection and what it waits for stay on one core. It ends
/// with the process's last phase.
fn work<H: Handler>(context: &ListenerContext<H>, spares: Vec<(SpareListener, Spoken)>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker has no runtime: its share is served by the others"),
    };
    runtime.block_on(async {
        tokio::spawn(give_back());
        for (spare, spoken) in spares {
            match spare.adopt() {
                Ok(bound) => drop(tokio::spawn(listener::serve(bound, spoken, context.clone()))),
                Err(error) => tracing::error!(%error, "a worker cannot listen: its share is served by the others"),
            }
        }
        context.lifecycle.reached(Phase::Closing).await;
        // What is ended now still says so to its peer. Twice the drain's own wait, so that what does not end is still
        // there to be named.
        let _ = timeout(CLOSE_WAIT * 2, context.lifecycle.emptied()).await;
    });
}

/// How many threads serve.
fn workers(config: &Config) -> usize {
    match config.workers {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        workers => workers,
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
