//! The configured backends, and which of them a host and a path lead to.
//!
//! Enters: the configured routes; a host and a path. Leaves: a backend. Must not touch: requests, the network. Where we
//! dial is the configuration's affair alone.

use std::sync::Arc;

use super::injection::Injection;
use super::pages::{Page, PageError};
use super::rewriting::Rewriting;
use super::target::is_under;
use crate::config::pattern::matches;
use crate::config::{self, Config};
use crate::listener::dialling::DialQueue;
use crate::metrics::Metrics;
use crate::upstream::dial::{DialCount, Dialer};
use crate::upstream::own::OwnListeners;
use crate::upstream::proxy::Proxy;
use crate::upstream::tls::UpstreamTlsError;

/// Why a backend cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Its TLS files.
    #[error(transparent)]
    Tls(#[from] UpstreamTlsError),
    /// The page that is shown when it fails.
    #[error(transparent)]
    Page(#[from] PageError),
}

/// A configured backend, ready to be dialled.
pub(super) struct Backend {
    /// The route's host, if it names one, and its path.
    pub(super) name: Arc<str>,
    pub(super) dialer: Arc<Dialer>,
    pub(super) proxy: Proxy,
    /// Those who want it dialled.
    pub(super) queue: Arc<DialQueue>,
    /// How its pages get the script.
    pub(super) injection: Option<Injection>,
    /// What is written anew on its way there.
    pub(super) rewriting: Option<Rewriting>,
    /// What people are shown instead of its refusals, where that is the operator's own.
    pub(super) page: Option<Page>,
    /// Protocols, in lower case, that may be switched to.
    upgrades: Vec<String>,
}

impl Backend {
    /// Whether connections may be switched to this protocol.
    pub(super) fn switches_to(&self, protocol: &str) -> bool {
        self.upgrades.iter().any(|known| known.eq_ignore_ascii_case(protocol))
    }
}

/// The connections to one backend at one moment.
#[derive(Clone, Debug)]
pub struct BackendCount {
    /// The route's host, if it names one, and its path.
    pub route: Arc<str>,
    /// Those that are being opened.
    pub dials: DialCount,
    /// Those that lie idle.
    pub pooled: usize,
}

/// The configured routes, most specific first.
pub(super) struct Backends(Vec<(config::Route, Arc<Backend>)>);

impl Backends {
    /// Prepares every backend, for a process that listens at `own`.
    pub(super) fn new(config: &Config, metrics: &Arc<Metrics>, own: &Arc<OwnListeners>) -> Result<Self, BackendError> {
        let mut routes = Vec::new();
        for route in &config.routes {
            let dialer = Arc::new(Dialer::new(&route.upstream, &config.backend)?.avoiding(Arc::clone(own)));
            let proxy = Proxy::new(Arc::clone(&dialer), &config.backend);
            let injection = Injection::of(&route.path, route.script);
            let rewriting = Rewriting::of(route);
            let upgrades = route.upgrades.clone();
            let page = route.error_page.as_deref().map(Page::read).transpose()?;
            let name = format!("{}{}", route.host.as_deref().unwrap_or_default(), route.path).into();
            let queue = Arc::new(DialQueue::new(&config.backend, Arc::clone(metrics)));
            let backend = Backend { name, dialer, proxy, queue, injection, rewriting, page, upgrades };
            routes.push((route.clone(), Arc::new(backend)));
        }
        let vague = |host: Option<&String>| host.map_or(2, |host| u8::from(host.contains('*')));
        routes.sort_by_key(|(route, _)| (vague(route.host.as_ref()), std::cmp::Reverse(route.path.len())));
        Ok(Self(routes))
    }

    /// The connections to each.
    pub(super) fn count(&self) -> Vec<BackendCount> {
        let one = |backend: &Backend| BackendCount {
            route: Arc::clone(&backend.name),
            dials: backend.dialer.dials(),
            pooled: backend.proxy.idle(),
        };
        self.0.iter().map(|(_, backend)| one(backend)).collect()
    }

    /// The backend for a host (in lower case, with a port perhaps) and a path.
    pub(super) fn find(&self, host: &str, path: &str) -> Option<&Arc<Backend>> {
        let host = bare(host);
        let fits = |route: &config::Route| {
            route.host.as_ref().is_none_or(|named| matches(named, host)) && is_under(path, &route.path)
        };
        self.0.iter().find(|(route, _)| fits(route)).map(|(_, backend)| backend)
    }
}

/// A host without its port and without the dot that makes it absolute.
pub(super) fn bare(host: &str) -> &str {
    super::origin::split_port(host).0.trim_end_matches('.')
}
