//! The configured backends, and which of them a host and a path lead to.
//!
//! Enters: the configured routes; a host and a path. Leaves: a backend. Must not touch: requests, the network. Where we
//! dial is the configuration's affair alone.

use std::sync::Arc;

use super::injection::Injection;
use crate::config::{self, Config};
use crate::upstream::dial::Dialer;
use crate::upstream::proxy::Proxy;
use crate::upstream::tls::UpstreamTlsError;

/// A configured backend, ready to be dialled.
pub(super) struct Backend {
    pub(super) dialer: Arc<Dialer>,
    pub(super) proxy: Proxy,
    /// How its pages get the script.
    pub(super) injection: Option<Injection>,
}

/// The configured routes, most specific first.
pub(super) struct Backends(Vec<(config::Route, Arc<Backend>)>);

impl Backends {
    /// Prepares every backend.
    pub(super) fn new(config: &Config) -> Result<Self, UpstreamTlsError> {
        let mut routes = Vec::new();
        for route in &config.routes {
            let dialer = Arc::new(Dialer::new(&route.upstream, &config.backend)?);
            let proxy = Proxy::new(Arc::clone(&dialer), &config.backend);
            let injection = Injection::of(&route.path, route.script);
            routes.push((route.clone(), Arc::new(Backend { dialer, proxy, injection })));
        }
        routes.sort_by_key(|(route, _)| (route.host.is_none(), std::cmp::Reverse(route.path.len())));
        Ok(Self(routes))
    }

    /// The backend for a host (as the client wrote it, with a port perhaps) and a path.
    pub(super) fn find(&self, host: &str, path: &str) -> Option<&Arc<Backend>> {
        let host = super::origin::split_port(host).0.trim_end_matches('.');
        let fits = |route: &config::Route| {
            route.host.as_ref().is_none_or(|named| named.eq_ignore_ascii_case(host)) && is_under(path, &route.path)
        };
        self.0.iter().find(|(route, _)| fits(route)).map(|(_, backend)| backend)
    }
}

/// Whether `path` is `prefix` or lies below it, by whole segments.
fn is_under(path: &str, prefix: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix.trim_end_matches('/')) else { return false };
    rest.is_empty() || rest.starts_with('/') || prefix == "/"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_by_whole_segments() {
        assert!(is_under("/chat", "/chat") && is_under("/chat/a", "/chat") && is_under("/chat/a", "/chat/"));
        assert!(is_under("/anything", "/") && is_under("*", "/"));
        assert!(!is_under("/chatter", "/chat"));
    }
}
