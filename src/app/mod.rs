//! Puts the rooms together: a checked configuration becomes a running sidecar.
//!
//! Enters: a [`Config`], sockets. Leaves: an [`App`], whose rooms know each other: `serving` has its ports open, `sight` its
//! admin listener, and `running` is its life until it is told to stop; `succession` begins with what the process before had, and
//! `handover` ends with giving everything to the next one. Must not touch: requests and sessions.

mod handover;
mod running;
mod serving;
mod sight;
mod succession;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use self::serving::{Doors, Listening, handler, start_workers};
use crate::budget::Budget;
use crate::config::{Address, Config, Setting, Trusted};
use crate::gateway::{BackendError, Gateway, check_page};
use crate::handover::reserve::Reserve;
use crate::handover::take_over::TakeOverError;
use crate::handover::{Head, package::UnpackError};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::sockets::{BindError, BoundListener, Sockets};
use crate::limits::Limits;
use crate::listener::given::ListenerRecord;
use crate::listener::idle::Connections;
use crate::listener::tls::{TlsError, TlsSource};
use crate::listener::{ListenerContext, Spoken};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::session::Moment;
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
    /// Nothing was taken over, so this process has nothing to serve: the one that has it goes on.
    #[error("nothing was taken over: {0}")]
    TakeOver(#[from] TakeOverError),
    /// The same: what was given cannot be read.
    #[error("nothing was taken over: {0}")]
    Unpack(#[from] UnpackError),
    /// The system.
    #[error("the system refused: {0}")]
    Io(#[from] io::Error),
}

/// A sidecar whose listeners are bound and served.
pub struct App {
    config: Arc<Config>,
    /// Where the listeners listen, in the order of the configuration.
    pub addresses: Vec<Address>,
    /// Where the admin endpoints are, if anywhere.
    pub admin: Option<Address>,
    gateway: Arc<Gateway>,
    registry: Arc<Registry>,
    limits: Arc<Limits>,
    /// Where connections are served.
    doors: Arc<dyn Doors>,
    /// The runtimes that serve, this one first.
    workers: Vec<Handle>,
    /// What is spoken at each address.
    spoken: HashMap<String, Spoken>,
    /// Room for a hand-over, whatever else takes descriptors.
    reserve: Reserve,
    /// Where a successor asks for everything.
    handover: Option<UnixListener>,
    /// Copies of the listening sockets that are not the listeners', with their names: the successor gets them, too.
    copies: Vec<(String, OwnedFd)>,
    /// What serves the admin listener.
    admins: Mutex<Vec<AbortHandle>>,
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

/// Binds what this configuration needs and the process before does not have, so that an address that cannot be had is found before
/// that lets go of anything. What it has is left alone: its sockets come. `given` are its names, none where it does not say.
///
/// # Errors
/// [`BindError`], the first one.
fn bind_ahead(config: &Config, sockets: &mut Sockets, given: &[String]) -> Result<(), BindError> {
    let handover = config.handover.socket.clone().map(|path| Address::Unix(path).to_string());
    let is_new = |name: &String| !given.is_empty() && !given.contains(name);
    // It has just answered there, and calls it by another path.
    if let Some(address) = handover.filter(is_new) {
        return Err(BindError::InUse { address });
    }
    let listeners = config.listeners.iter().map(|listener| (listener.address.to_string(), &listener.address));
    let admin = config.admin.iter().map(|address| (admin_name(address), address));
    listeners.chain(admin).filter(|(name, _)| is_new(name)).try_for_each(|(name, at)| sockets.bind_ahead(&name, at))
}

/// Not by its address alone: clients' listeners may be at port 0 as well.
fn admin_name(address: &Address) -> String {
    format!("admin {address}")
}

impl App {
    /// Binds all listeners, then serves them. Must be called on a runtime.
    ///
    /// # Errors
    /// [`StartError`]; then nothing is served.
    pub fn start(config: Config, sockets: Sockets) -> Result<Self, StartError> {
        let (app, bound) = Self::build(config, sockets, None)?;
        app.serve(bound.listening)?;
        app.open(bound.admin);
        Ok(app)
    }

    /// Binds all listeners and introduces the rooms to each other; nothing runs yet. `before` is what the process before says of
    /// itself, if there is one whose sessions come to this one.
    fn build(config: Config, mut sockets: Sockets, before: Option<&Head>) -> Result<(Self, Bound), StartError> {
        let config = Arc::new(config);
        let (lifecycle, metrics) = (Lifecycle::new(), Arc::new(Metrics::default()));
        metrics.started(SystemTime::now(), config.session.max, config.client.connections);
        let budget = Arc::new(Budget::of(config.memory));
        let shared = (Arc::clone(&metrics), Arc::clone(&budget));
        let registry = Registry::new(&config.node, &config.session, shared, lifecycle.clone());
        let registry = Arc::new(match before {
            Some(head) => registry.succeeding(Moment(head.moment), &head.names()),
            None => registry,
        });
        let (mut listening, mut spoken_at) = (Vec::new(), HashMap::new());
        for listener in &config.listeners {
            let tls = listener.tls.as_ref().map(TlsSource::load).transpose()?.map(Arc::new);
            let spread = !matches!(listener.address, Address::Activated(_));
            let spoken = Spoken { proxy_protocol: listener.proxy_protocol, tls };
            let record = ListenerRecord { address: listener.address.to_string(), spread };
            spoken_at.insert(record.address.clone(), spoken.clone());
            listening.push(Listening { bound: sockets.bind(&listener.address)?, record, spoken });
        }
        let mut copies = Vec::new();
        let mut admin = Vec::new();
        if let Some(address) = &config.admin {
            let name = admin_name(address);
            admin = sockets.bind_as(&name, address)?;
            for bound in &admin {
                copies.push((name.clone(), bound.copy()?));
            }
        }
        let handover = config.handover.socket.as_deref().map(|path| sockets.bind_private(path)).transpose()?;
        if let (Some(path), Some(listener)) = (&config.handover.socket, &handover) {
            copies.push((Address::Unix(path.clone()).to_string(), listener.as_fd().try_clone_to_owned()?));
        }
        let reserve = Reserve::default();
        reserve.fill(&io::stderr());
        for name in sockets.untaken() {
            tracing::warn!(name, "systemd passed a socket that no listener asks for");
        }
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }

        let all = listening.iter().flat_map(|listening| &listening.bound);
        let addresses: Vec<_> = all.map(BoundListener::local_addr).collect::<Result<_, _>>()?;
        let limits = Arc::new(Limits::new(&config, Arc::clone(&metrics)));
        let shared = (Arc::clone(&metrics), Arc::clone(&limits));
        let own = OwnListeners::new(addresses.clone());
        let gateway = Gateway::new(Arc::clone(&config), Arc::clone(&registry), shared, lifecycle.clone(), own)?;
        let gateway = Arc::new(gateway);
        let trusted = Arc::new(ArcSwap::from_pointee(config.trusted.clone()));
        let context = ListenerContext {
            handler: handler(&gateway, &metrics),
            client: Arc::new(config.client.clone()),
            trusted: Arc::clone(&trusted),
            connections: Arc::new(Connections::new(Arc::new(Semaphore::new(config.client.connections)))),
            budget: Arc::clone(&budget),
            limits: Arc::clone(&limits),
            lifecycle: lifecycle.clone(),
            metrics: Arc::clone(&metrics),
        };
        let app = Self {
            workers: start_workers(&config, &lifecycle)?,
            config,
            addresses: once_each(addresses),
            admin: admin.first().map(BoundListener::local_addr).transpose()?,
            gateway,
            registry,
            limits,
            doors: Arc::new(Arc::new(context)),
            certificates: listening.iter().filter_map(|listening| listening.spoken.tls.clone()).collect(),
            spoken: spoken_at,
            reserve,
            handover,
            copies,
            admins: Mutex::default(),
            trusted,
            metrics,
            budget,
            lifecycle,
            settings: Arc::default(),
        };
        Ok((app, Bound { listening, admin }))
    }

    /// Begins everything that runs beside the listeners.
    fn open(&self, admin: Vec<BoundListener>) {
        self.open_admin(admin);
        self.watch_memory();
        self.follow_drain();
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

/// What is bound, and not served yet.
struct Bound {
    listening: Vec<Listening>,
    admin: Vec<BoundListener>,
}

/// The queues of several workers at one address are one address.
fn once_each(mut addresses: Vec<Address>) -> Vec<Address> {
    addresses.dedup();
    addresses
}
