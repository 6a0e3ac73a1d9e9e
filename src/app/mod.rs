//! Puts the rooms together: a checked configuration becomes a running sidecar.
//!
//! Enters: a [`Config`], sockets. Leaves: an [`App`], whose rooms know each other: `serving` has its ports open, `sight` its
//! admin listener, and `running` is its life until it is told to stop. Must not touch: requests and sessions.

mod running;
mod serving;
mod sight;

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;

use self::serving::Listening;
use crate::budget::Budget;
use crate::config::{Address, Config, Setting, Trusted};
use crate::gateway::{BackendError, Gateway, check_page};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::sockets::{BindError, BoundListener, Sockets};
use crate::limits::Limits;
use crate::listener::Spoken;
use crate::listener::given::ListenerRecord;
use crate::listener::tls::{TlsError, TlsSource};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::upstream::dial::Dialer;
use crate::upstream::own::OwnListeners;
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
        Dialer::new(&route.upstream, &config.backend)?;
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
            let record = ListenerRecord { address: listener.address.to_string(), spread };
            let listen = |bound| Listening { bound, record: record.clone(), spoken: spoken.clone() };
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
}
