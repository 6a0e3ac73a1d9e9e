//! Rules between keys.
//!
//! Enters: what was read, with its places. Leaves: the same, or mistakes. A rule never makes a mistake of a default: where
//! the operator set only the other key, the default gives way. Must not touch: the text of the file, other rooms.

use std::path::PathBuf;

use super::forms::Peer;
use super::reader::{Span, Table};
use super::values::{Wrong, show_duration, show_size};
use super::{Address, Drain, Listener, Route, Session, TlsFiles, Trusted, Upstream, UpstreamTls};

/// Where the operator set these keys himself, and rightly.
pub(super) struct SessionSet {
    pub(super) ack_bytes: Option<Span>,
    pub(super) heartbeat: Option<Span>,
    pub(super) wait: Option<Span>,
}

/// Splits what is trusted by kind.
pub(super) fn trusted(peers: Vec<Peer>) -> Trusted {
    let mut trusted = Trusted::default();
    for peer in peers {
        match peer {
            Peer::Network(network) => trusted.networks.push(network),
            Peer::Unix => trusted.unix = true,
        }
    }
    trusted
}

/// No two sockets at one address.
pub(super) fn listeners(
    top: &mut Table<'_, '_>,
    listeners: Vec<(Listener, Span)>,
    admin: Option<(&Address, Span)>,
) -> Vec<Listener> {
    let mut kept: Vec<Listener> = Vec::new();
    for (listener, at) in listeners {
        if taken(&kept, &listener.address) {
            top.wrong("listener.address", at, Wrong::new("is the address of an earlier listener as well", ""));
        }
        kept.push(listener);
    }
    if let Some((address, at)) = admin
        && taken(&kept, address)
    {
        top.wrong("admin", at, Wrong::new("is the address of a listener", "give it one that clients cannot reach"));
    }
    kept
}

/// No two routes for the same requests.
pub(super) fn routes(top: &mut Table<'_, '_>, routes: Vec<(Route, Span)>) -> Vec<Route> {
    let mut kept: Vec<Route> = Vec::new();
    for (route, at) in routes {
        if kept.iter().any(|earlier| (&earlier.host, &earlier.path) == (&route.host, &route.path)) {
            let host = route.host.as_deref().unwrap_or("any host");
            let what = format!("has two entries for {host} and path {}", route.path);
            top.wrong("route", at, Wrong::new(what, "give one of them another `host` or `path`"));
        }
        kept.push(route);
    }
    kept
}

/// Joins a backend with the files for TLS towards it.
pub(super) fn upstream_tls(
    table: &mut Table<'_, '_>,
    upstream: Upstream,
    ca: Option<PathBuf>,
    client: Option<TlsFiles>,
) -> Upstream {
    if upstream.tls.is_some() {
        return Upstream { tls: Some(UpstreamTls { ca, client }), ..upstream };
    }
    stray_tls(table, "is for TLS, which this upstream does not speak", "begin the upstream with wss:// or https://");
    upstream
}

/// The keys for the shorthand without the shorthand.
pub(super) fn without_upstream(top: &mut Table<'_, '_>) {
    let (what, hint) = ("is for `upstream`, which is not set", "write it below the [[route]] that it is for");
    stray_tls(top, what, hint);
    if let Some(at) = top.place("inject") {
        top.wrong("inject", at, Wrong::new(what, hint));
    }
}

/// Of two keys, both or none.
pub(super) fn both(table: &mut Table<'_, '_>, one: &str, other: &str) {
    for (key, partner) in [(one, other), (other, one)] {
        if let (Some(at), None) = (table.place(key), table.place(partner)) {
            table.wrong(key, at, Wrong::new(format!("needs `{partner}` as well"), ""));
        }
    }
}

/// Timers that only work within others.
pub(super) fn session(table: &mut Table<'_, '_>, to: &mut Session, set: &SessionSet) {
    if !table.is_clean() {
        return;
    }
    // A poll that waits is heard only when it is answered, so two must fit into the grace.
    to.wait_max = to.wait_max.min(to.grace / 2);
    under(table, "wait", &set.wait, &mut to.wait, to.wait_max, |cap| {
        format!("must be at most {}, the smaller of `wait_max` and half of `grace`", show_duration(cap))
    });
    // A client acknowledges once a heartbeat; silent for longer than the grace, it is taken for gone.
    if set.heartbeat.is_none() {
        to.heartbeat = to.heartbeat.min(to.grace / 2);
    }
    under(table, "heartbeat", &set.heartbeat, &mut to.heartbeat, to.grace, |cap| {
        format!("must be at most `grace`, {}: clients acknowledge once a heartbeat", show_duration(cap))
    });
    // A client that is asked to acknowledge only behind the bound stands still until the heartbeat.
    under(table, "ack_bytes", &set.ack_bytes, &mut to.ack_bytes, to.buffer, |cap| {
        format!("must be at most `buffer`, {}", show_size(cap as u64))
    });
}

/// Both parts within the whole.
pub(super) fn drain(table: &mut Table<'_, '_>, to: &mut Drain, spread: Option<Span>, pre: Option<Span>) {
    if !table.is_clean() {
        return;
    }
    if pre.is_none() {
        let left = if spread.is_some() { to.timeout.saturating_sub(to.spread) } else { to.timeout / 10 };
        to.pre = to.pre.min(left);
    }
    let timeout = show_duration(to.timeout);
    under(table, "pre", &pre, &mut to.pre, to.timeout, |_| format!("must be at most `timeout`, {timeout}"));
    let left = to.timeout.saturating_sub(to.pre);
    under(table, "spread", &spread, &mut to.spread, left, |cap| {
        format!("must be at most {}: with `pre` it has to fit into `timeout`", show_duration(cap))
    });
}

/// Holds a value under a cap that other keys set: in silence where it is a default, as a mistake where it was set.
fn under<T: PartialOrd + Copy>(
    table: &mut Table<'_, '_>,
    key: &str,
    set: &Option<Span>,
    value: &mut T,
    cap: T,
    what: impl FnOnce(T) -> String,
) {
    match set {
        _ if *value <= cap => {}
        None => *value = cap,
        Some(at) => table.wrong(key, at.clone(), Wrong::new(what(cap), "")),
    }
}

fn stray_tls(table: &mut Table<'_, '_>, what: &str, hint: &str) {
    for key in ["ca", "client_certificate", "client_key"] {
        if let Some(at) = table.place(key) {
            table.wrong(key, at, Wrong::new(what, hint));
        }
    }
}

/// Port 0 is another port each time.
fn taken(listeners: &[Listener], address: &Address) -> bool {
    let chosen = matches!(address, Address::Tcp(address) if address.port() == 0);
    !chosen && listeners.iter().any(|listener| listener.address == *address)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;

    fn parsed(rest: &str) -> Config {
        let text = format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://a\"\n{rest}");
        Config::parse(&text, "f").unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    #[test]
    fn defaults_give_way_to_what_was_set() {
        let session = parsed("[session]\ngrace = \"1s\"\nbuffer = \"4KiB\"").session;
        assert_eq!(session.wait_max, Duration::from_millis(500));
        assert_eq!(session.wait, Duration::from_millis(500));
        assert_eq!(session.heartbeat, Duration::from_millis(500));
        assert_eq!(session.ack_bytes, 4096);
        assert_eq!(parsed("session.wait_max = 60").session, Session::default());
        assert_eq!(parsed("session.wait_max = 5").session.wait, Duration::from_secs(5));
    }

    #[test]
    fn the_parts_of_a_drain_fit_into_it() {
        let drain = |rest| parsed(rest).drain;
        let ms = Duration::from_millis;
        assert_eq!(drain("drain.timeout = 0"), Drain { timeout: ms(0), spread: ms(0), pre: ms(0) });
        assert_eq!(drain("drain.timeout = 1"), Drain { timeout: ms(1000), spread: ms(900), pre: ms(100) });
        assert_eq!(drain("drain.spread = 29"), Drain { timeout: ms(30_000), spread: ms(29_000), pre: ms(1000) });
        assert_eq!(drain("drain.pre = 25"), Drain { timeout: ms(30_000), spread: ms(5000), pre: ms(25_000) });
        assert_eq!(drain(""), Drain::default());
    }
}
