//! Rules between keys.
//!
//! Enters: the values that were read, with their spans. Leaves: the same, or errors. A default is never an error: when it does
//! not fit the key that the operator set, the default is adapted. Must not touch: the text of the file, other rooms.

use std::net::IpAddr;
use std::path::PathBuf;

use super::networks::Peer;
use super::reader::{Span, Table};
use super::values::{ValueError, show_duration, show_size};
use super::{
    Address, Config, Drain, Endpoint, Handover, Listener, Route, Script, Session, TlsFiles, Trusted, Upstream,
    UpstreamTls,
};

/// The spans of these keys, where the operator set them to a valid value.
pub(super) struct SessionSet {
    pub(super) message: Option<Span>,
    pub(super) body: Option<Span>,
    pub(super) ack_bytes: Option<Span>,
    pub(super) heartbeat: Option<Span>,
    pub(super) wait: Option<Span>,
}

/// Splits the trusted peers by kind.
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

/// Checks that each certificate has its key, and that clients are asked for theirs by TLS only.
pub(super) fn listener_tls(table: &mut Table<'_, '_>, certificates: usize, keys: usize) {
    both_or_neither(table, "certificate", "key");
    if let Some(at) = table.key_span("key").filter(|_| table.is_clean() && certificates != keys) {
        let what = format!("is not as long as `certificate`: {keys} and {certificates}");
        table.error("key", at, ValueError::new(what, "each certificate needs its key, in the same order"));
    }
    for (key, needs) in [("client_ca", "certificate"), ("client_auth", "client_ca")] {
        if let (Some(at), None) = (table.key_span(key), table.key_span(needs)) {
            table.error(key, at, ValueError::new(format!("needs `{needs}` as well"), ""));
        }
    }
}

/// Checks that the two fields about a client's certificate are two.
pub(super) fn identity(top: &mut Table<'_, '_>, [one, other]: &[String; 2], at: Option<Span>) {
    let at = at.or_else(|| top.key_span("client_subject_field"));
    if let Some(at) = at.filter(|_| one == other) {
        top.error("client_fingerprint_field", at, ValueError::new("is the name of `client_subject_field` as well", ""));
    }
}

/// Checks that somebody may connect to a listener with the PROXY protocol.
pub(super) fn introduced(table: &mut Table<'_, '_>, address: &Address, at: Span, trusted: &Trusted) {
    let (anybody, example) = match address {
        Address::Tcp(_) => (!trusted.networks.is_empty(), "10.0.0.0/8"),
        Address::Unix(_) => (trusted.unix, "unix"),
        Address::Activated(_) => (trusted.unix || !trusted.networks.is_empty(), "10.0.0.0/8"),
    };
    if !anybody {
        let hint = format!("name the balancer at the top: trusted_proxies = [\"{example}\"]");
        table.error(
            "proxy_protocol",
            at,
            ValueError::new("refuses everybody: nobody here is in `trusted_proxies`", hint),
        );
    }
}

/// Checks that no two sockets have the same address.
pub(super) fn listeners(
    top: &mut Table<'_, '_>,
    listeners: Vec<(Listener, Span)>,
    admin: Option<(&Address, Span)>,
) -> Vec<Listener> {
    let mut kept: Vec<Listener> = Vec::new();
    for (listener, at) in listeners {
        if is_taken(&kept, &listener.address) {
            top.error("listener.address", at, ValueError::new("is the address of an earlier listener as well", ""));
        }
        kept.push(listener);
    }
    if let Some((address, at)) = admin
        && is_taken(&kept, address)
    {
        top.error(
            "admin",
            at,
            ValueError::new("is the address of a listener", "give it one that clients cannot reach"),
        );
    }
    kept
}

/// What is no error, and worth a word.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let is_local = |listener: &Listener| matches!(listener.address, Address::Tcp(at) if at.ip().is_loopback());
    let mut warnings = Vec::new();
    if config.hosts.is_empty() && config.listeners.iter().any(is_local) {
        let what = "a listener is on loopback and any host is served: a page whose name is made to point there can use it from \
                    a browser on this machine (DNS rebinding); name the hosts, for example hosts = [\"localhost\", \"127.0.0.1\"]";
        warnings.push(what.to_owned());
    }
    warnings
}

/// Checks that no two routes are for the same requests.
pub(super) fn routes(top: &mut Table<'_, '_>, routes: Vec<(Route, Span)>) -> Vec<Route> {
    let mut kept: Vec<Route> = Vec::new();
    for (route, at) in routes {
        if kept.iter().any(|earlier| (&earlier.host, &earlier.path) == (&route.host, &route.path)) {
            let host = route.host.as_deref().unwrap_or("any host");
            let what = format!("has two entries for {host} and path {}", route.path);
            top.error("route", at, ValueError::new(what, "give one of them another `host` or `path`"));
        }
        kept.push(route);
    }
    kept
}

/// What is wrong with an upstream that is one of our own listeners: each request would come back for ever. Names are not
/// looked up, `localhost` apart; what is found only then is a loop at run time.
pub(super) fn leads_home(endpoint: &Endpoint, listeners: &[Listener]) -> Option<ValueError> {
    let is_home = |address: &Address| match (endpoint, address) {
        (Endpoint::Unix(backend), Address::Unix(own)) => backend == own,
        (Endpoint::Tcp { host, port }, Address::Tcp(own)) if *port == own.port() => {
            let host = host.strip_suffix('.').unwrap_or(host);
            let named: Option<IpAddr> = host.parse().ok();
            let is_here = host == "localhost" || named.is_some_and(|ip| ip.is_loopback() || ip.is_unspecified());
            named == Some(own.ip())
                || (is_here
                    && (own.ip().is_unspecified()
                        || own.ip().is_loopback() && named.is_none_or(|ip| ip.is_unspecified())))
        }
        _ => false,
    };
    let own = listeners.iter().map(|listener| &listener.address).find(|address| is_home(address))?;
    let hint = "name the backend's own address; if it is this one, listen elsewhere";
    Some(ValueError::new(format!("leads back to this server, which listens on {own}"), hint))
}

/// Joins what is put before the path: `add_path`, or the path of the upstream's URL.
pub(super) fn added_path(table: &mut Table<'_, '_>, add: &mut String, set: Option<Span>, path: &str) {
    match set {
        Some(at) if !path.is_empty() => {
            let hint = "write the whole of it in one of the two";
            table.error("add_path", at, ValueError::new(format!("is said by `upstream` already: {path}"), hint));
        }
        Some(_) => {}
        None => path.clone_into(add),
    }
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
    unexpected_tls(
        table,
        "is for TLS, which this upstream does not speak",
        "begin the upstream with wss:// or https://",
    );
    upstream
}

/// Reports keys that belong to the shorthand `upstream` when it is not set.
pub(super) fn without_upstream(top: &mut Table<'_, '_>) {
    let (what, hint) = ("is for `upstream`, which is not set", "write it below the [[route]] that it is for");
    unexpected_tls(top, what, hint);
    for key in OF_UPSTREAM {
        if let Some(at) = top.key_span(key) {
            top.error(key, at, ValueError::new(what, hint));
        }
    }
}

/// Keys that say something of `upstream`, besides those of TLS.
const OF_UPSTREAM: [&str; 8] =
    ["inject", "inject_workers", "ws", "add_path", "send_host", "send_origin", "upgrades", "error_page"];

/// Reports that `ws` is set for tags that nobody injects.
pub(super) fn script(table: &mut Table<'_, '_>, script: Script) {
    if let (true, false, Some(at)) = (script.raw, script.pages, table.key_span("ws")) {
        let hint = "add inject = true, or write data-ws=\"raw\" into a tag of your own";
        table.error("ws", at, ValueError::new("is for pages with `inject = true`", hint));
    }
}

/// Checks that both keys are set, or neither.
pub(super) fn both_or_neither(table: &mut Table<'_, '_>, one: &str, other: &str) {
    for (key, partner) in [(one, other), (other, one)] {
        if let (Some(at), None) = (table.key_span(key), table.key_span(partner)) {
            table.error(key, at, ValueError::new(format!("needs `{partner}` as well"), ""));
        }
    }
}

/// Checks and adapts timers and sizes that depend on others.
pub(super) fn session(table: &mut Table<'_, '_>, target: &mut Session, set: &SessionSet) {
    if !table.is_clean() {
        return;
    }
    // Whether the client of a waiting poll is still there shows only when the poll is answered, so two waits must fit into
    // `grace`.
    target.wait_max = target.wait_max.min(target.grace / 2);
    at_most(table, "wait", &set.wait, &mut target.wait, target.wait_max, |limit| {
        format!("must be at most {}, the smaller of `wait_max` and half of `grace`", show_duration(limit))
    });
    // A client acknowledges once for each heartbeat, and after `grace` without a sign of life it is considered gone.
    if set.heartbeat.is_none() {
        target.heartbeat = target.heartbeat.min(target.grace / 2);
    }
    at_most(table, "heartbeat", &set.heartbeat, &mut target.heartbeat, target.grace, |limit| {
        format!("must be at most `grace`, {}: clients acknowledge once a heartbeat", show_duration(limit))
    });
    // A message of the largest size fits into a body as base64, which is a third longer, and into most as JSON.
    if set.message.is_some() && set.body.is_none() {
        target.body = target.body.max(target.message / 2 * 3);
    }
    // With `ack_bytes` above `buffer`, the buffer is full before the client acknowledges, and nothing moves until the
    // heartbeat.
    at_most(table, "ack_bytes", &set.ack_bytes, &mut target.ack_bytes, target.buffer, |limit| {
        format!("must be at most `buffer`, {}", show_size(limit as u64))
    });
}

/// Checks that a budget that was set has room for two messages of the largest size.
pub(super) fn memory(table: &mut Table<'_, '_>, target: &mut Session, set: &SessionSet, memory: Option<usize>) {
    let Some(memory) = memory.filter(|_| table.is_clean()) else { return };
    at_most(table, "message", &set.message, &mut target.message, memory / 2, |limit| {
        format!("must be at most {}, half of `memory`", show_size(limit as u64))
    });
}

/// Checks that `pre` and `spread` together fit into `timeout`.
pub(super) fn drain(table: &mut Table<'_, '_>, target: &mut Drain, spread: Option<Span>, pre: Option<Span>) {
    if !table.is_clean() {
        return;
    }
    if pre.is_none() {
        let left = if spread.is_some() { target.timeout.saturating_sub(target.spread) } else { target.timeout / 10 };
        target.pre = target.pre.min(left);
    }
    let timeout = show_duration(target.timeout);
    at_most(table, "pre", &pre, &mut target.pre, target.timeout, |_| format!("must be at most `timeout`, {timeout}"));
    let left = target.timeout.saturating_sub(target.pre);
    at_most(table, "spread", &spread, &mut target.spread, left, |limit| {
        format!(
            "must be at most {}: with `pre` it has to fit into `timeout`, {timeout}; lower `pre` or raise `timeout`",
            show_duration(limit)
        )
    });
}

/// The socket for successors is no other one as well.
pub(super) fn handover(
    table: &mut Table<'_, '_>,
    handover: &Handover,
    at: Option<Span>,
    (listeners, admin): (&[Listener], Option<&Address>),
) {
    let Some((path, at)) = handover.socket.as_ref().zip(at) else { return };
    let address = Address::Unix(path.clone());
    if is_taken(listeners, &address) || admin == Some(&address) {
        table.error("socket", at, ValueError::new("is the address of a listener as well", "give it one of its own"));
    }
}

/// Keeps a value at or below a limit that follows from other keys: a default is lowered, a value that was set is an error.
fn at_most<T: PartialOrd + Copy>(
    table: &mut Table<'_, '_>,
    key: &str,
    set: &Option<Span>,
    value: &mut T,
    limit: T,
    what: impl FnOnce(T) -> String,
) {
    match set {
        _ if *value <= limit => {}
        None => *value = limit,
        Some(at) => table.error(key, at.clone(), ValueError::new(what(limit), "")),
    }
}

fn unexpected_tls(table: &mut Table<'_, '_>, what: &str, hint: &str) {
    for key in ["ca", "client_certificate", "client_key"] {
        if let Some(at) = table.key_span(key) {
            table.error(key, at, ValueError::new(what, hint));
        }
    }
}

/// Port 0 is never taken: the system chooses another port each time.
fn is_taken(listeners: &[Listener], address: &Address) -> bool {
    let system_chooses = matches!(address, Address::Tcp(address) if address.port() == 0);
    !system_chooses && listeners.iter().any(|listener| listener.address == *address)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;

    fn parsed(rest: &str) -> Config {
        let text = format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://a\"\n{rest}");
        Config::parse(&text, "f").unwrap_or_else(|errors| panic!("{errors}"))
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
    fn a_body_has_room_for_the_largest_message_and_the_budget_for_two() {
        const MIB: usize = 1 << 20;
        let sizes = |rest| {
            let session = parsed(rest).session;
            (session.message / MIB, session.body / MIB)
        };
        assert_eq!(sizes(""), (16, 24));
        assert_eq!(sizes("session.message = \"40MiB\""), (40, 60));
        assert_eq!(sizes("session.message = \"2MiB\""), (2, 24));
        assert_eq!(sizes("[session]\nmessage = \"40MiB\"\nbody = \"1MiB\""), (40, 1), "what was set stays");
        assert_eq!(sizes("memory = \"20MiB\""), (10, 24), "a default gives way");
        let text = "listen = \"127.0.0.1:0\"\nupstream = \"ws://a\"\nmemory = \"20MiB\"\nsession.message = \"11MiB\"\n";
        let errors = Config::parse(text, "f").expect_err("no room for two").to_string();
        assert!(errors.contains("`session.message` must be at most 10MiB, half of `memory`"), "{errors}");
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
