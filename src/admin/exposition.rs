//! The text that `/metrics` answers: the counters, the build, the process, and what the rooms hold, as OpenMetrics.
//!
//! Enters: the counters, once; readings of the rooms and of the process, at each scrape. Leaves: one text. Must not touch:
//! HTTP, single sessions.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::house::{BackendLoad, Readings};
use super::process::Process;
use crate::metrics::Metrics;

/// Everything that is measured, ready to be read.
#[derive(Debug)]
pub struct Exposition(Registry);

impl Exposition {
    /// The samples of `metrics`, of this `version`, of the process, and of what `read` gives at each scrape.
    pub fn new(metrics: &Metrics, version: &'static str, read: impl Fn() -> Readings + Send + Sync + 'static) -> Self {
        let mut registry = Registry::default();
        let build = Info::new(vec![("version", version)]);
        registry.register("underpass_build", "The program that runs", build);
        metrics.register(&mut registry);
        registry.register_collector(Box::new(Rooms(Box::new(read))));
        registry.register_collector(Box::new(Process));
        Self(registry)
    }

    /// All samples of this moment, as OpenMetrics text. Reads `/proc/self`, so it may take some
    /// milliseconds with very many open files on an old kernel.
    #[must_use]
    pub fn text(&self) -> String {
        let mut written = String::with_capacity(32 * 1024);
        if let Err(error) = text::encode(&mut written, &self.0) {
            // A String takes all that is written, so this is an encoder's own refusal. Without its last line the text
            // is invalid, and whoever scrapes sees the failure.
            tracing::error!(%error, "the metrics could not be encoded; the answer is cut short");
        }
        written
    }
}

/// What the rooms are asked for at each scrape.
struct Rooms(Box<dyn Fn() -> Readings + Send + Sync>);

impl fmt::Debug for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rooms")
    }
}

impl Collector for Rooms {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let read = (self.0)();
        let to = &mut encoder;
        let help = "How far stopping has come: 0 serving, 1 unready but accepting, 2 draining, 3 past the deadline.";
        gauge(to, "underpass_drain_phase", help, None, read.phase as usize)?;
        encode_buffers(to, &read)?;
        encode_limits(to, &read)?;
        encode_backends(to, &read)?;
        let help = "When a certificate that is shown to clients expires, in seconds since 1970.";
        let expiries =
            read.certificates.iter().map(|(file, at)| (file.as_str(), usize::try_from(*at).unwrap_or_default()));
        let name = "underpass_certificate_expiry_timestamp";
        gauges(to, name, help, Some(&Unit::Seconds), "certificate", expiries)?;
        let help = "Lines of the log that standard error did not take in time, or not at all.";
        let dropped = ConstCounter::new(read.log_lines_dropped);
        dropped.encode(to.encode_descriptor("underpass_log_lines_dropped", help, None, dropped.metric_type())?)
    }
}

fn encode_buffers(to: &mut DescriptorEncoder<'_>, read: &Readings) -> fmt::Result {
    let bytes = Some(&Unit::Bytes);
    let help = "Memory that payloads hold, as it is counted against the budget.";
    gauge(to, "underpass_memory_held", help, bytes, read.memory.used)?;
    gauge(to, "underpass_memory_budget", "Memory that payloads may hold.", bytes, read.memory.limit)?;
    gauge(to, "underpass_session_kept", "Kept for clients, all sessions together.", bytes, read.load.kept)?;
    let help = "Messages of clients that wait for backends, all sessions together.";
    gauge(to, "underpass_session_queued", help, bytes, read.load.queued)?;
    let help = "Sessions whose backend is not read now, because the client is behind.";
    gauge(to, "underpass_sessions_paused", help, None, read.load.paused)
}

fn encode_limits(to: &mut DescriptorEncoder<'_>, read: &Readings) -> fmt::Result {
    let (ended, clients) = (read.ended, read.clients);
    gauge(to, "underpass_ended_sessions", "Ended sessions that are remembered.", None, ended.used)?;
    gauge(to, "underpass_ended_sessions_limit", "Ended sessions that may be remembered.", None, ended.limit)?;
    let help = "Addresses of clients that are known, to limit each of them.";
    gauge(to, "underpass_clients_known", help, None, clients.used)?;
    let help = "Addresses of clients that may be known; beyond them new ones are not limited.";
    gauge(to, "underpass_clients_known_limit", help, None, clients.limit)
}

fn encode_backends(to: &mut DescriptorEncoder<'_>, read: &Readings) -> fmt::Result {
    let by_route = |of: fn(&BackendLoad) -> usize| read.backends.iter().map(move |one| (&*one.route, of(one)));
    let help = "Connections to a backend that are being opened.";
    gauges(to, "underpass_dials_active", help, None, "route", by_route(|one| one.dials.used))?;
    let help = "Connections to a backend that wait until one fewer is being opened.";
    gauges(to, "underpass_dials_waiting", help, None, "route", by_route(|one| one.waiting))?;
    let help = "Connections to a backend that may be opened at once.";
    gauges(to, "underpass_dials_limit", help, None, "route", by_route(|one| one.dials.limit))?;
    let help = "Idle connections that are kept for plain requests to a backend.";
    gauges(to, "underpass_pooled_connections", help, None, "route", by_route(|one| one.pooled.used))?;
    let help = "Idle connections that may be kept for plain requests to a backend.";
    gauges(to, "underpass_pooled_connections_limit", help, None, "route", by_route(|one| one.pooled.limit))
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, unit: Option<&Unit>, value: usize) -> fmt::Result {
    let constant = ConstGauge::new(signed(value));
    constant.encode(to.encode_descriptor(name, help, unit, constant.metric_type())?)
}

/// A family with one label.
fn gauges<'v>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    label: &'static str,
    values: impl Iterator<Item = (&'v str, usize)>,
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (word, value) in values {
        ConstGauge::new(signed(value)).encode(family.encode_family(&[(label, word)])?)?;
    }
    Ok(())
}

fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::admin::house::Share;
    use crate::lifecycle::Phase;
    use crate::metrics::Unintroduced;
    use crate::registry::roster::Load;
    use crate::terms::{Cause, Direction, Ending, ErrorCode, Resume, Transport};

    type Samples = BTreeMap<String, f64>;

    /// Reads OpenMetrics text and panics on what the format forbids: a family told twice, a sample outside its
    /// family, a series twice, a counter without `_total`, a missing end.
    fn parse(text: &str) -> Samples {
        let body = text.strip_suffix("# EOF\n").expect("the text ends with the end mark");
        let (mut families, mut samples) = (BTreeSet::new(), Samples::new());
        let (mut family, mut kind) = (String::new(), String::new());
        for line in body.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words.as_slice() {
                ["#", "HELP", name, help] => {
                    assert!(families.insert((*name).to_owned()), "{name} is told twice");
                    assert!(help.ends_with('.') && !help.ends_with(".."), "help of {name}: {help}");
                    family = (*name).to_owned();
                }
                ["#", "TYPE", name, of] => (kind, _) = ((*of).to_owned(), assert_eq!(*name, family)),
                ["#", "UNIT", name, unit] => assert!(*name == family && name.ends_with(&format!("_{unit}"))),
                _ => assert!(insert(&mut samples, line, &family, &kind), "{line} is there twice"),
            }
        }
        samples
    }

    fn insert(samples: &mut Samples, line: &str, family: &str, kind: &str) -> bool {
        let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let suffix = name.strip_prefix(family).expect("a sample belongs to the family above it");
        let allowed: &[&str] = match kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_sum", "_count", "_bucket"],
            other => panic!("{family} is of an unexpected type {other}"),
        };
        assert!(allowed.contains(&suffix), "{name} in a {kind}");
        let labels = labels.strip_suffix('}').expect("labels are closed");
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (_, quoted) = label.split_once('=').expect("a label has a value");
            assert!(quoted.len() > 2 && quoted.starts_with('"') && quoted.ends_with('"'), "{label}");
        }
        samples.insert(series.to_owned(), value.parse().expect("a value is a number")).is_none()
    }

    fn read(metrics: &Metrics) -> Samples {
        let share = |used, limit| Share { used, limit };
        let backend = BackendLoad { route: "a.example/".into(), dials: share(3, 64), waiting: 4, pooled: share(6, 8) };
        let readings = Readings {
            phase: Phase::Draining,
            memory: share(5, 7),
            load: Load { kept: 21, queued: 22, paused: 23, ..Load::default() },
            ended: share(31, 32),
            clients: share(33, 34),
            backends: vec![backend],
            certificates: BTreeMap::from([("/a.pem".to_owned(), 9)]),
            log_lines_dropped: 9,
        };
        parse(&Exposition::new(metrics, "1.2.3", move || readings.clone()).text())
    }

    #[test]
    fn all_is_there_before_anything_happened() {
        let samples = read(&Metrics::default());
        assert_eq!(samples["underpass_build_info{version=\"1.2.3\"}"], 1.0);
        assert_eq!(samples["underpass_drain_phase"], 2.0);
        assert_eq!(samples["underpass_refusals_total{code=\"busy\"}"], 0.0);
        assert_eq!(samples["underpass_delivery_delay_seconds_bucket{le=\"+Inf\",transport=\"ws\"}"], 0.0);
        let ours = samples.keys().filter(|name| name.starts_with("underpass_")).count();
        assert!((180..400).contains(&ours), "{ours} series");
    }

    #[test]
    fn what_is_counted_is_told() {
        let metrics = Metrics::default();
        metrics.session_opened();
        metrics.moved(None, Some(Transport::Sse));
        metrics.down(Transport::Sse, 3, 100);
        metrics.up(8);
        metrics.up(12);
        metrics.delivered(Transport::Sse, Duration::from_millis(2));
        metrics.changed(Transport::Ws, Transport::Sse);
        metrics.session_ended(Some(Transport::Sse), Ending::TooSlow);
        metrics.resumed(Resume::Lost);
        metrics.refused(ErrorCode::Gap);
        metrics.tunnelled(Direction::Up, 7);
        metrics.proxied(Some(404));
        metrics.paused();
        metrics.memory_waited();
        metrics.handshake_failed();
        metrics.unintroduced(Unintroduced::Late);
        metrics.reloaded(false, std::time::UNIX_EPOCH);
        metrics.started(std::time::UNIX_EPOCH + Duration::from_secs(11), 13, 17);
        metrics.attached_first(Transport::Sse, Cause::Refused);
        let (_tunnel, _proxying, _connection) = (metrics.tunnel(), metrics.proxying(), metrics.connection());

        let counted: BTreeSet<_> = read(&metrics)
            .into_iter()
            .filter(|(name, value)| name.starts_with("underpass_") && *value != 0.0 && !name.contains("_bucket"))
            .map(|(name, value)| format!("{} {value}", name["underpass_".len()..].replace('"', "")))
            .collect();
        let expected = [
            "build_info{version=1.2.3} 1",
            "certificate_expiry_timestamp_seconds{certificate=/a.pem} 9",
            "clients_known 33",
            "clients_known_limit 34",
            "config_last_reload_success_timestamp_seconds 11",
            "config_last_reload_successful 1",
            "config_reloads_total{result=refused} 1",
            "connections_accepted_total 1",
            "connections_active 1",
            "connections_limit 17",
            "delivery_delay_seconds_count{transport=sse} 1",
            "delivery_delay_seconds_sum{transport=sse} 0.002",
            "dials_active{route=a.example/} 3",
            "dials_limit{route=a.example/} 64",
            "dials_waiting{route=a.example/} 4",
            "drain_phase 2",
            "ended_sessions 31",
            "ended_sessions_limit 32",
            "log_lines_dropped_total 9",
            "memory_budget_bytes 7",
            "memory_held_bytes 5",
            "memory_waits_total 1",
            "message_bytes_total{direction=down,transport=sse} 100",
            "message_bytes_total{direction=up,transport=any} 20",
            "messages_total{direction=down,transport=sse} 3",
            "messages_total{direction=up,transport=any} 2",
            "pauses_total 1",
            "pooled_connections{route=a.example/} 6",
            "pooled_connections_limit{route=a.example/} 8",
            "proxied_requests_active 1",
            "proxied_requests_total{class=4xx} 1",
            "proxy_header_failures_total{reason=late} 1",
            "refusals_total{code=gap} 1",
            "session_kept_bytes 21",
            "session_queued_bytes 22",
            "session_resumes_total{result=lost} 1",
            "session_transports_total{transport=sse,cause=refused} 1",
            "sessions_ended_total{reason=too_slow} 1",
            "sessions_limit 13",
            "sessions_opened_total 1",
            "sessions_paused 23",
            "tls_handshake_failures_total 1",
            "transport_changes_total{from=ws,to=sse} 1",
            "tunnel_bytes_total{direction=up} 7",
            "tunnels_active 1",
            "tunnels_opened_total 1",
        ];
        assert_eq!(counted, BTreeSet::from(expected.map(str::to_owned)));
    }

    proptest! {
        #[test]
        fn no_input_adds_a_series(delay: u64, status: u16) {
            let metrics = Metrics::default();
            let before = read(&metrics);
            metrics.delivered(Transport::Poll, Duration::from_nanos(delay));
            metrics.proxied(Some(status));
            let after = read(&metrics);
            prop_assert!(before.keys().eq(after.keys()));
        }
    }

    #[test]
    fn buckets_are_cumulative_and_end_at_the_count() {
        let metrics = Metrics::default();
        for millis in [0, 1, 1, 30, 90_000] {
            metrics.delivered(Transport::Ws, Duration::from_millis(millis));
        }
        let samples = read(&metrics);
        let of =
            |le: &str| samples[&format!("underpass_delivery_delay_seconds_bucket{{le=\"{le}\",transport=\"ws\"}}")];
        assert_eq!([of("0.0001"), of("0.001"), of("0.05"), of("60.0"), of("+Inf")], [1.0, 3.0, 4.0, 4.0, 5.0]);
        assert_eq!(samples["underpass_delivery_delay_seconds_count{transport=\"ws\"}"], 5.0);
    }

    #[test]
    fn the_process_is_measured_where_the_system_tells() {
        if std::path::Path::new("/proc/self/status").exists() {
            let samples = read(&Metrics::default());
            assert!(samples["process_cpu_seconds_total"] >= 0.0);
            for name in ["resident_memory_bytes", "virtual_memory_bytes"] {
                assert!(samples[&format!("process_{name}")] > 0.0, "{name}");
            }
            let started =
                std::time::SystemTime::UNIX_EPOCH + Duration::from_secs_f64(samples["process_start_time_seconds"]);
            assert!(started.elapsed().expect("it has started") < Duration::from_secs(3600));
            assert!(samples["process_open_fds"] >= 3.0);
            assert!(samples["process_max_fds"] >= samples["process_open_fds"]);
        }
    }
}
