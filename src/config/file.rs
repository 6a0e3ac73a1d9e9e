//! The shape of the file: which keys there are, between which bounds, and where each goes.
//!
//! Enters: the tables. Leaves: a [`Config`] that holds what was read and the defaults for the rest. Each key stands
//! here once; its default stands in `defaults`, its form in `forms`, and what it means beside other keys in `rules`.
//! Must not touch: the text of the file, other rooms.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::reader::{Span, Table};
use super::{Backend, Client, Config, Drain, Listener, Log, Route, Session, TlsFiles, Upstream, forms, rules};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Timers under which a connection or a session would not live long enough to be of use.
const TIMER: RangeInclusive<Duration> = ms(100)..=DAY;
/// Deadlines of single steps.
const STEP: RangeInclusive<Duration> = ms(10)..=HOUR;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Reads the whole file.
pub(super) fn config(top: &mut Table<'_, '_>) -> Config {
    let mut config = Config::default();
    top.text("node", &mut config.node, forms::node);
    top.text("prefix", &mut config.prefix, forms::prefix);
    top.flag("selftest", &mut config.selftest);
    top.count("workers", &mut config.workers, 0..=256);
    config.origins.allowed = top.texts("allowed_origins", forms::origin);
    top.flag("allow_credentials", &mut config.origins.credentials);
    top.flag("require_origin", &mut config.origins.require);
    config.trusted = rules::trusted(top.texts("trusted_proxies", forms::peer));
    let listeners = listeners(top);
    let admin = top.text("admin", &mut config.admin, |text| forms::address(text).map(Some));
    config.listeners = rules::listeners(top, listeners, config.admin.as_ref().zip(admin));
    let routes = routes(top);
    config.routes = rules::routes(top, routes);
    top.section("session", " in [session]", |table| session(table, &mut config.session));
    top.section("client", " in [client]", |table| client(table, &mut config.client));
    top.section("backend", " in [backend]", |table| backend(table, &mut config.backend));
    top.section("log", " in [log]", |table| log(table, &mut config.log));
    top.section("drain", " in [drain]", |table| drain(table, &mut config.drain));
    config
}

/// The shorthand `listen`, then each `[[listener]]`, with the place of its address.
fn listeners(top: &mut Table<'_, '_>) -> Vec<(Listener, Span)> {
    let mut short = None;
    let short_at = top.text("listen", &mut short, |text| forms::address(text).map(Some));
    let listed = top.list("listener", " in [[listener]]", listener);
    if top.place("listen").is_none() && top.place("listener").is_none() {
        top.missing("nothing says where clients connect", "add for example: listen = \"127.0.0.1:8080\"");
    }
    let short = short.map(|address| Listener { address, tls: None }).zip(short_at);
    short.into_iter().chain(listed.into_iter().flatten()).collect()
}

fn listener(table: &mut Table<'_, '_>) -> Option<(Listener, Span)> {
    let mut address = None;
    let at = table.text("address", &mut address, |text| forms::address(text).map(Some));
    let tls = pair(table, "certificate", "key");
    if table.place("address").is_none() {
        table.missing("a listener without `address`", "add for example: address = \"0.0.0.0:443\"");
    }
    Some((Listener { address: address?, tls }, at?))
}

/// The shorthand `upstream`, then each `[[route]]`, with its place.
fn routes(top: &mut Table<'_, '_>) -> Vec<(Route, Span)> {
    let short = upstream(top);
    let mut inject = false;
    top.flag("inject", &mut inject);
    let short = short.map(|(upstream, at)| (Route { host: None, path: "/".to_owned(), upstream, inject }, at));
    let listed = top.list("route", " in [[route]]", route);
    if top.place("upstream").is_none() {
        rules::without_upstream(top);
        if top.place("route").is_none() {
            top.missing("nothing says where the backend is", "add for example: upstream = \"ws://127.0.0.1:9000\"");
        }
    }
    short.into_iter().chain(listed.into_iter().flatten()).collect()
}

fn route(table: &mut Table<'_, '_>) -> Option<(Route, Span)> {
    let (mut host, mut path) = (None, "/".to_owned());
    table.text("host", &mut host, |text| forms::route_host(text).map(Some));
    table.text("path", &mut path, forms::route_path);
    let upstream = upstream(table);
    let mut inject = false;
    table.flag("inject", &mut inject);
    if table.place("upstream").is_none() {
        table.missing("a route without `upstream`", "add for example: upstream = \"ws://127.0.0.1:9000\"");
    }
    // A route with a mistake is not compared with others: what it would serve is not known.
    let at = table.place("path").or_else(|| table.place("host")).or_else(|| table.head());
    let (upstream, _) = upstream.filter(|_| table.is_clean())?;
    Some((Route { host, path, upstream, inject }, at?))
}

/// A backend with the keys of TLS towards it: at the top level and in each `[[route]]`.
fn upstream(table: &mut Table<'_, '_>) -> Option<(Upstream, Span)> {
    let (mut upstream, mut ca) = (None, None);
    let at = table.text("upstream", &mut upstream, |text| forms::upstream(text).map(Some));
    table.text("ca", &mut ca, forms::file);
    let client = pair(table, "client_certificate", "client_key");
    let upstream = rules::upstream_tls(table, upstream?, ca, client);
    Some((upstream, at?))
}

/// Two files of which one is nothing without the other.
fn pair(table: &mut Table<'_, '_>, certificate_key: &'static str, key_key: &'static str) -> Option<TlsFiles> {
    let (mut certificate, mut key) = (None, None);
    table.text(certificate_key, &mut certificate, forms::file);
    table.text(key_key, &mut key, forms::file);
    rules::both(table, certificate_key, key_key);
    Some(TlsFiles { certificate: certificate?, key: key? })
}

fn session(table: &mut Table<'_, '_>, to: &mut Session) {
    table.count("max", &mut to.max, 1..=1_000_000);
    table.size("message", &mut to.message, 1..=64 * MIB);
    table.size("batch", &mut to.batch, KIB..=64 * MIB);
    table.size("body", &mut to.body, KIB..=64 * MIB);
    table.size("buffer", &mut to.buffer, 4 * KIB..=GIB);
    table.size("replay", &mut to.replay, 1..=GIB);
    table.count("held", &mut to.held, 0..=10_000);
    table.size("queue", &mut to.queue, KIB..=GIB);
    let ack_bytes = table.size("ack_bytes", &mut to.ack_bytes, KIB..=GIB);
    let heartbeat = table.duration("heartbeat", &mut to.heartbeat, ms(100)..=HOUR);
    table.duration("probe", &mut to.probe, ms(10)..=ms(10_000));
    let wait = table.duration("wait", &mut to.wait, ms(10)..=HOUR);
    table.duration("wait_max", &mut to.wait_max, ms(10)..=HOUR);
    table.duration("grace", &mut to.grace, ms(200)..=DAY);
    table.duration_or_zero("recycle", &mut to.recycle, TIMER);
    table.duration("pause", &mut to.pause, TIMER);
    table.duration("close_wait", &mut to.close_wait, STEP);
    table.duration("busy", &mut to.busy, STEP);
    table.duration("nonce", &mut to.nonce, TIMER);
    table.duration("ended", &mut to.ended, TIMER);
    table.count("ended_max", &mut to.ended_max, 1..=10_000_000);
    table.flag("identity", &mut to.identity);
    rules::session(table, to, &rules::SessionSet { ack_bytes, heartbeat, wait });
}

fn client(table: &mut Table<'_, '_>, to: &mut Client) {
    table.count("connections", &mut to.connections, 1..=1_000_000);
    table.size("header_bytes", &mut to.header_bytes, 8 * KIB..=MIB);
    table.count("header_fields", &mut to.header_fields, 10..=1000);
    table.duration("handshake", &mut to.handshake, STEP);
    table.duration("header", &mut to.header, STEP);
    table.duration("body", &mut to.body, STEP);
    table.duration("write", &mut to.write, STEP);
    table.duration("idle", &mut to.idle, TIMER);
    table.count("streams", &mut to.streams, 1..=10_000);
    table.size("stream_window", &mut to.stream_window, KIB..=16 * MIB);
    table.size("connection_window", &mut to.connection_window, 64 * KIB..=256 * MIB);
    table.duration_or_zero("tunnel_idle", &mut to.tunnel_idle, ms(100)..=WEEK);
}

fn backend(table: &mut Table<'_, '_>, to: &mut Backend) {
    table.duration("connect", &mut to.connect, STEP);
    table.duration("handshake", &mut to.handshake, STEP);
    table.duration("response", &mut to.response, STEP);
    table.duration_or_zero("ping", &mut to.ping, ms(100)..=HOUR);
    table.duration("pong", &mut to.pong, STEP);
    table.duration("idle", &mut to.idle, TIMER);
    table.count("pool", &mut to.pool, 0..=100_000);
    table.count("dials", &mut to.dials, 1..=100_000);
}

fn log(table: &mut Table<'_, '_>, to: &mut Log) {
    table.text("format", &mut to.format, forms::log_format);
    table.text("level", &mut to.level, forms::log_level);
}

fn drain(table: &mut Table<'_, '_>, to: &mut Drain) {
    table.duration("timeout", &mut to.timeout, Duration::ZERO..=HOUR);
    let spread = table.duration("spread", &mut to.spread, Duration::ZERO..=HOUR);
    let pre = table.duration("pre", &mut to.pre, Duration::ZERO..=HOUR);
    rules::drain(table, to, spread, pre);
}
