//! From a text to the run-time [`Config`]: parses, has the keys read, and applies the rules between keys.
//!
//! Enters: a text and its name. Leaves: a [`Config`] that is right in every part, or all [`Mistakes`]. A rule between
//! keys never makes a mistake of a default: where the operator set only the other key, the default gives way. Must not
//! touch: the files that the configuration names (they are opened at the start), other rooms.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::de::DeTable;

use super::forms::Peer;
use super::mistakes::{Found, Mistakes};
use super::reader::{Report, Span, Table};
use super::values::{Wrong, show_duration, show_size};
use super::{Address, Config, Drain, Listener, Route, Session, TlsFiles, Trusted, Upstream, UpstreamTls, file};

/// Where the operator set these keys himself, and rightly.
pub(super) struct SessionSet {
    pub(super) ack_bytes: Option<Span>,
    pub(super) heartbeat: Option<Span>,
    pub(super) wait: Option<Span>,
}

/// Parses and checks a whole file.
pub(super) fn config(bytes: &[u8], name: &str) -> Result<Config, Mistakes> {
    let text = std::str::from_utf8(bytes).map_err(|error| not_text(bytes, error.valid_up_to(), name))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    let (report, config) = Report::read(Some(document.get_ref()), file::config);
    let lines = Lines::of(text);
    let mut found = syntax(text, &lines, &errors);
    let unreadable: BTreeSet<_> = found.iter().filter_map(|syntax| lines.first(syntax)).collect();
    // What was read from a line that is not TOML is a guess of the parser; so is what is missing.
    let guessed = |read: &Found| lines.all(read).is_some_and(|lines| unreadable.range(lines).next().is_some());
    let read = report.into_mistakes(found.is_empty());
    found.extend(read.into_iter().filter(|read| !guessed(read)));
    if found.is_empty() { Ok(config) } else { Err(Mistakes::new(name, text, found)) }
}

/// Every key the file may have: `node`, `session.grace`, `listener.address` …
pub(super) fn keys() -> Vec<String> {
    let (report, _) = Report::read(None, file::config);
    let tables: Vec<_> = report.keys().iter().map(|key| key.table).collect();
    let path = |table: &str, name: &str| if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") };
    let leaves = report.keys().iter().filter(|key| !(key.table.is_empty() && tables.contains(&key.name)));
    leaves.map(|key| path(key.table, key.name)).collect()
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

fn not_text(bytes: &[u8], at: usize, name: &str) -> Mistakes {
    let what = "the file is not UTF-8 text".to_owned();
    let hint = "save it as UTF-8".to_owned();
    let text = String::from_utf8_lossy(bytes);
    Mistakes::new(name, &text, vec![Found { span: Some(at..at + 1), what, hint }])
}

/// What the TOML parser says: for each line the first, since the others follow from it.
fn syntax(text: &str, lines: &Lines, errors: &[toml::de::Error]) -> Vec<Found> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for error in errors {
        let mistake = Found { span: error.span(), what: format!("not TOML: {}", error.message()), hint: String::new() };
        if seen.insert(lines.first(&mistake)) {
            let hint = unquoted(text, error.span()).unwrap_or_default();
            found.push(Found { hint, ..mistake });
        }
    }
    found
}

/// The commonest slip: a text without its quotes.
fn unquoted(text: &str, span: Option<Span>) -> Option<String> {
    let at = text.floor_char_boundary(span?.start);
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let (_, value) = text[start..].lines().next()?.split_once('=')?;
    let value = value.split('#').next()?.trim();
    let bare = value.len() < 60 && value.starts_with(|c: char| c.is_alphanumeric() || c == '/' || c == ':');
    (bare && !value.contains(['"', '\''])).then(|| format!("write \"{value}\", with quotes"))
}

/// Where the lines of a text end.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// The line on which it begins, counted from 0.
    fn first(&self, found: &Found) -> Option<usize> {
        found.span.as_ref().map(|span| self.line(span.start))
    }

    fn all(&self, found: &Found) -> Option<RangeInclusive<usize>> {
        found.span.as_ref().map(|span| self.line(span.start)..=self.line(span.end.max(span.start)))
    }

    fn line(&self, at: usize) -> usize {
        self.0.partition_point(|end| *end < at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

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

    #[test]
    fn one_mistake_a_line_hides_what_follows_from_it() {
        let told = Config::parse("listen = 127.0.0.1:80\nupstream = ws://a\nnode = 1\n", "f").map_err(|m| m.count());
        assert_eq!(told, Err(3));
    }
}
