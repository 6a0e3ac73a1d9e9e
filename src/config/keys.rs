//! The keys of the file: their names, their limits, and the fields that they set.
//!
//! Enters: the tables. Leaves: a [`Config`] with the values that were read, and the defaults for all others. Each key is
//! named here only; its default stands in `defaults`, its format in `formats`, and how it depends on other keys in `rules`.
//! Must not touch: the text of the file, other rooms.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::reader::{Span, Table};
use super::{
    Address, Backend, Client, ClientAuth, Config, Drain, Handover, Limits, Listener, ListenerTls, Log, Rewriting,
    Route, Script, Session, TlsFiles, Trusted, Upstream, formats, networks, paths, rules,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Timers. With less than the lower limit a connection or session would not live long enough to be useful.
const TIMER: RangeInclusive<Duration> = ms(100)..=DAY;
/// Deadlines of single steps, such as a handshake.
const STEP: RangeInclusive<Duration> = ms(10)..=HOUR;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Reads all keys of the file.
pub(super) fn config(top: &mut Table<'_, '_>) -> Config {
    let mut config = Config::default();
    top.text("node", &mut config.node, formats::node);
    top.text("prefix", &mut config.prefix, formats::prefix);
    top.flag("selftest", &mut config.selftest);
    top.count("workers", &mut config.workers, 0..=256);
    let mut memory = 0;
    config.memory = top.size("memory", &mut memory, 8 * MIB..=1024 * GIB).map(|_| memory);
    config.hosts = top.texts("hosts", formats::served_host);
    config.origins.allowed = top.texts("allowed_origins", formats::origin);
    top.flag("allow_credentials", &mut config.origins.credentials);
    top.flag("require_origin", &mut config.origins.require);
    top.flag("trust_unnamed_origin", &mut config.origins.trust_unnamed);
    let [subject, fingerprint] = &mut config.identity;
    top.text("client_subject_field", subject, formats::field);
    let second = top.text("client_fingerprint_field", fingerprint, formats::field);
    rules::identity(top, &config.identity, second);
    config.trusted = rules::trusted(top.texts("trusted_proxies", networks::peer));
    let listeners = listeners(top, &config.trusted);
    let admin = top.text("admin", &mut config.admin, |text| formats::admin(text).map(Some));
    config.listeners = rules::listeners(top, listeners, config.admin.as_ref().zip(admin));
    let routes = routes(top, &config.listeners);
    config.routes = rules::routes(top, routes);
    top.section("limits", " in [limits]", |table| limits(table, &mut config.limits));
    top.section("session", " in [session]", |table| session(table, &mut config.session, config.memory));
    top.section("client", " in [client]", |table| client(table, &mut config.client));
    top.section("backend", " in [backend]", |table| backend(table, &mut config.backend));
    top.section("log", " in [log]", |table| log(table, &mut config.log));
    top.section("drain", " in [drain]", |table| drain(table, &mut config.drain));
    let sockets = (config.listeners.as_slice(), config.admin.as_ref());
    top.section("handover", " in [handover]", |table| handover(table, &mut config.handover, sockets));
    config
}

/// The shorthand `listen`, then each `[[listener]]`, with the span of its address.
fn listeners(top: &mut Table<'_, '_>, trusted: &Trusted) -> Vec<(Listener, Span)> {
    let mut shorthand = None;
    let shorthand_at = top.text("listen", &mut shorthand, |text| formats::address(text).map(Some));
    let listed = top.list("listener", " in [[listener]]", |table| listener(table, trusted));
    if top.key_span("listen").is_none() && top.key_span("listener").is_none() {
        top.missing("nothing says where clients connect", "add for example: listen = \"127.0.0.1:8080\"");
    }
    let shorthand = shorthand.map(|address| Listener { address, tls: None, proxy_protocol: false }).zip(shorthand_at);
    shorthand.into_iter().chain(listed.into_iter().flatten()).collect()
}

fn listener(table: &mut Table<'_, '_>, trusted: &Trusted) -> Option<(Listener, Span)> {
    let mut address = None;
    let at = table.text("address", &mut address, |text| formats::address(text).map(Some));
    let tls = listener_tls(table);
    if table.key_span("address").is_none() {
        table.missing("a listener without `address`", "add for example: address = \"0.0.0.0:443\"");
    }
    let mut proxy_protocol = false;
    let asked = table.flag("proxy_protocol", &mut proxy_protocol).filter(|_| proxy_protocol);
    if let Some((address, asked)) = address.as_ref().zip(asked) {
        rules::introduced(table, address, asked, trusted);
    }
    Some((Listener { address: address?, tls, proxy_protocol }, at?))
}

/// The shorthand `upstream`, then each `[[route]]`, with its span.
fn routes(top: &mut Table<'_, '_>, listeners: &[Listener]) -> Vec<(Route, Span)> {
    let shorthand = upstream(top, listeners);
    let script = script(top);
    let rewriting = rewriting(top, shorthand.as_ref().map(|(_, path, _)| path.as_str()));
    let upgrades = top.texts("upgrades", formats::upgrade);
    let mut error_page = None;
    top.text("error_page", &mut error_page, formats::file);
    let shorthand = shorthand.map(|(upstream, _, at)| {
        (Route { host: None, path: "/".to_owned(), upstream, script, rewriting, upgrades, error_page }, at)
    });
    let listed = top.list("route", " in [[route]]", |table| route(table, listeners));
    if top.key_span("upstream").is_none() {
        rules::without_upstream(top);
        if top.key_span("route").is_none() {
            top.missing("nothing says where the backend is", "add for example: upstream = \"ws://127.0.0.1:9000\"");
        }
    }
    shorthand.into_iter().chain(listed.into_iter().flatten()).collect()
}

fn route(table: &mut Table<'_, '_>, listeners: &[Listener]) -> Option<(Route, Span)> {
    let (mut host, mut path) = (None, "/".to_owned());
    table.text("host", &mut host, |text| formats::route_host(text).map(Some));
    table.text("path", &mut path, formats::route_path);
    let upstream = upstream(table, listeners);
    let script = script(table);
    let mut rewriting = rewriting(table, upstream.as_ref().map(|(_, path, _)| path.as_str()));
    table.flag("strip_path", &mut rewriting.strip);
    let upgrades = table.texts("upgrades", formats::upgrade);
    let mut error_page = None;
    table.text("error_page", &mut error_page, formats::file);
    if table.key_span("upstream").is_none() {
        table.missing("a route without `upstream`", "add for example: upstream = \"ws://127.0.0.1:9000\"");
    }
    // A route with an error is not compared with the others, because its host and path may be wrong.
    let at = table.key_span("path").or_else(|| table.key_span("host")).or_else(|| table.header());
    let (upstream, ..) = upstream.filter(|_| table.is_clean())?;
    Some((Route { host, path, upstream, script, rewriting, upgrades, error_page }, at?))
}

/// What the browser client does on a route; the keys may stand where `upstream` may.
fn script(table: &mut Table<'_, '_>) -> Script {
    let mut script = Script::default();
    table.flag("inject", &mut script.pages);
    table.flag("inject_workers", &mut script.workers);
    table.text("ws", &mut script.raw, formats::raw);
    rules::script(table, script);
    script
}

/// What a backend gets to see otherwise; `path` is that of its URL. The keys may stand where `upstream` may.
fn rewriting(table: &mut Table<'_, '_>, path: Option<&str>) -> Rewriting {
    let mut rewriting = Rewriting::default();
    let added = table.text("add_path", &mut rewriting.add, formats::added_path);
    rules::added_path(table, &mut rewriting.add, added, path.unwrap_or_default());
    table.text("send_host", &mut rewriting.host, formats::sent_host);
    table.text("send_origin", &mut rewriting.origin, |text| formats::origin(text).map(Some));
    rewriting
}

/// A backend, the path of its URL, and its TLS keys; they may stand at the top level and in each `[[route]]`.
fn upstream(table: &mut Table<'_, '_>, listeners: &[Listener]) -> Option<(Upstream, String, Span)> {
    let (mut upstream, mut ca) = (None, None);
    let at = table.text("upstream", &mut upstream, |text| formats::upstream(text).map(Some));
    table.text("ca", &mut ca, formats::file);
    let client = tls_files(table, "client_certificate", "client_key");
    let ((upstream, path), at) = (upstream?, at?);
    if let Some(error) = rules::leads_home(&upstream.endpoint, listeners) {
        table.error("upstream", at.clone(), error);
    }
    Some((rules::upstream_tls(table, upstream, ca, client), path, at))
}

/// Certificates and their keys, in pairs, and whether clients need one.
fn listener_tls(table: &mut Table<'_, '_>) -> Option<ListenerTls> {
    let certificates = table.one_or_more("certificate", formats::file);
    let keys = table.one_or_more("key", formats::file);
    let (mut ca, mut required) = (None, true);
    table.text("client_ca", &mut ca, formats::file);
    table.text("client_auth", &mut required, formats::client_auth);
    rules::listener_tls(table, certificates.len(), keys.len());
    let pairs = certificates.into_iter().zip(keys);
    let certificates: Vec<_> =
        pairs.filter_map(|(certificate, key)| Some(TlsFiles { certificate: certificate?, key: key? })).collect();
    let clients = ca.map(|ca| ClientAuth { ca, required });
    (!certificates.is_empty()).then_some(ListenerTls { certificates, clients })
}

/// A certificate and its key; one without the other is an error.
fn tls_files(table: &mut Table<'_, '_>, certificate_key: &'static str, key_key: &'static str) -> Option<TlsFiles> {
    let (mut certificate, mut key) = (None, None);
    table.text(certificate_key, &mut certificate, formats::file);
    table.text(key_key, &mut key, formats::file);
    rules::both_or_neither(table, certificate_key, key_key);
    Some(TlsFiles { certificate: certificate?, key: key? })
}

fn limits(table: &mut Table<'_, '_>, target: &mut Limits) {
    table.count("connections", &mut target.connections, 0..=1_000_000);
    table.count("sessions", &mut target.sessions, 0..=1_000_000);
    table.count("handshakes", &mut target.handshakes, 0..=1_000_000);
    table.count("opens", &mut target.opens, 0..=1_000_000);
    table.count("requests", &mut target.requests, 0..=1_000_000);
    if table.key_span("exempt").is_some() {
        target.exempt.clear();
    }
    let exempt = table.texts("exempt", networks::network);
    target.exempt.extend(exempt);
}

fn session(table: &mut Table<'_, '_>, target: &mut Session, memory: Option<usize>) {
    table.count("max", &mut target.max, 1..=1_000_000);
    let message = table.size("message", &mut target.message, 1..=64 * MIB);
    table.size("batch", &mut target.batch, KIB..=64 * MIB);
    let body = table.size("body", &mut target.body, KIB..=256 * MIB);
    table.size("buffer", &mut target.buffer, 4 * KIB..=GIB);
    table.size("replay", &mut target.replay, 1..=GIB);
    table.count("held", &mut target.held, 0..=10_000);
    table.size("queue", &mut target.queue, KIB..=GIB);
    let ack_bytes = table.size("ack_bytes", &mut target.ack_bytes, KIB..=GIB);
    let heartbeat = table.duration("heartbeat", &mut target.heartbeat, ms(100)..=HOUR);
    table.duration("probe", &mut target.probe, ms(10)..=ms(10_000));
    let wait = table.duration("wait", &mut target.wait, ms(10)..=HOUR);
    table.duration("wait_max", &mut target.wait_max, ms(10)..=HOUR);
    table.duration("grace", &mut target.grace, ms(200)..=DAY);
    table.duration_or_zero("recycle", &mut target.recycle, TIMER);
    table.duration("pause", &mut target.pause, TIMER);
    table.duration("close_wait", &mut target.close_wait, STEP);
    table.duration("busy", &mut target.busy, STEP);
    table.duration("nonce", &mut target.nonce, TIMER);
    table.duration("ended", &mut target.ended, TIMER);
    table.count("ended_max", &mut target.ended_max, 1..=10_000_000);
    table.flag("identity", &mut target.identity);
    let set = rules::SessionSet { message, body, ack_bytes, heartbeat, wait };
    rules::session(table, target, &set);
    rules::memory(table, target, &set, memory);
}

fn client(table: &mut Table<'_, '_>, target: &mut Client) {
    table.count("connections", &mut target.connections, 1..=1_000_000);
    table.size("header_bytes", &mut target.header_bytes, 8 * KIB..=MIB);
    table.count("header_fields", &mut target.header_fields, 10..=1000);
    table.duration("handshake", &mut target.handshake, STEP);
    table.duration("header", &mut target.header, STEP);
    table.duration("body", &mut target.body, STEP);
    table.count("body_rate", &mut target.body_rate, 0..=1_000_000);
    table.duration("write", &mut target.write, STEP);
    table.duration("idle", &mut target.idle, TIMER);
    table.count("streams", &mut target.streams, 1..=10_000);
    table.size("stream_window", &mut target.stream_window, KIB..=16 * MIB);
    table.size("connection_window", &mut target.connection_window, 64 * KIB..=256 * MIB);
    table.duration_or_zero("tunnel_idle", &mut target.tunnel_idle, ms(100)..=WEEK);
}

fn backend(table: &mut Table<'_, '_>, target: &mut Backend) {
    table.duration("connect", &mut target.connect, STEP);
    table.duration("handshake", &mut target.handshake, STEP);
    table.duration("response", &mut target.response, STEP);
    table.duration_or_zero("ping", &mut target.ping, ms(100)..=HOUR);
    table.duration("pong", &mut target.pong, STEP);
    table.duration("idle", &mut target.idle, TIMER);
    table.duration_or_zero("max_age", &mut target.max_age, ms(100)..=WEEK);
    table.count("pool", &mut target.pool, 0..=100_000);
    table.count("dials", &mut target.dials, 1..=100_000);
    // The lower limits are what is read without hyper in any case, in one block of a socket.
    table.size("header_bytes", &mut target.header_bytes, 16 * KIB..=MIB);
    table.count("header_fields", &mut target.header_fields, 32..=10_000);
}

fn log(table: &mut Table<'_, '_>, target: &mut Log) {
    table.text("format", &mut target.format, formats::log_format);
    table.text("level", &mut target.level, formats::log_level);
    table.flag("requests", &mut target.requests);
}

fn drain(table: &mut Table<'_, '_>, target: &mut Drain) {
    table.duration("timeout", &mut target.timeout, Duration::ZERO..=HOUR);
    let spread = table.duration("spread", &mut target.spread, Duration::ZERO..=HOUR);
    let pre = table.duration("pre", &mut target.pre, Duration::ZERO..=HOUR);
    rules::drain(table, target, spread, pre);
}

/// `others` are the sockets of the listeners and of the admin.
fn handover(table: &mut Table<'_, '_>, target: &mut Handover, others: (&[Listener], Option<&Address>)) {
    table.flag("restart", &mut target.restart);
    let socket = table.text("socket", &mut target.socket, paths::socket);
    table.duration("quiesce", &mut target.quiesce, Duration::ZERO..=HOUR);
    table.duration("linger", &mut target.linger, Duration::ZERO..=DAY);
    rules::handover(table, target, socket, others);
}
