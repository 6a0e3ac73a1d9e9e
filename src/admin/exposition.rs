//! The text that `/metrics` answers: the counters, the build, the process and the drain, as OpenMetrics.
//!
//! Enters: the counters, once; a reading of the drain and of `/proc/self`, at each scrape. Leaves: one text. Must not
//! touch: HTTP, sessions.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::metrics::Metrics;

/// The media type of [`Exposition::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is measured, ready to be read.
#[derive(Debug)]
pub struct Exposition(Registry);

impl Exposition {
    /// The samples of `metrics`, of this `version`, of the process, and of how far the drain has come: `phase` gives 0
    /// while serving, 1 while unready but still accepting, 2 while draining, 3 after the deadline. `memory` gives what all
    /// payloads hold, and the budget for them, in bytes; `certificates` the files of those that are shown, and
    /// their ends, in seconds since 1970; `log` the lines that were dropped.
    pub fn new(
        metrics: &Metrics,
        version: &'static str,
        phase: impl Fn() -> i64 + Send + Sync + 'static,
        memory: impl Fn() -> (u64, u64) + Send + Sync + 'static,
        certificates: impl Fn() -> BTreeMap<String, u64> + Send + Sync + 'static,
        log: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        let mut registry = Registry::default();
        let build = Info::new(vec![("version", version)]);
        registry.register("underpass_build", "The program that runs", build);
        metrics.register(&mut registry);
        registry.register_collector(Box::new(Drain(Box::new(phase))));
        registry.register_collector(Box::new(Memory(Box::new(memory))));
        registry.register_collector(Box::new(Certificates(Box::new(certificates))));
        registry.register_collector(Box::new(LogLines(Box::new(log))));
        registry.register_collector(Box::new(Process));
        Self(registry)
    }

    /// All samples of this moment, as OpenMetrics text ([`CONTENT_TYPE`]). Reads `/proc/self`, so it may take some
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

struct Drain(Box<dyn Fn() -> i64 + Send + Sync>);

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Drain")
    }
}

impl Collector for Drain {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "How far stopping has come: 0 serving, 1 unready but accepting, 2 draining, 3 past the deadline.";
        gauge(&mut encoder, "underpass_drain_phase", help, None, (self.0)())
    }
}

struct Memory(Box<dyn Fn() -> (u64, u64) + Send + Sync>);

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

impl Collector for Memory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (held, budget) = (self.0)();
        let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        let help = "Memory that payloads hold, as it is counted against the budget.";
        gauge(&mut encoder, "underpass_memory_held", help, Some(&Unit::Bytes), signed(held))?;
        let help = "Memory that payloads may hold.";
        gauge(&mut encoder, "underpass_memory_budget", help, Some(&Unit::Bytes), signed(budget))
    }
}

struct Certificates(Box<dyn Fn() -> BTreeMap<String, u64> + Send + Sync>);

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates")
    }
}

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "When a certificate that is shown to clients expires, in seconds since 1970.";
        let (name, unit) = ("underpass_certificate_expiry_timestamp", Some(&Unit::Seconds));
        let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (file, at) in (self.0)() {
            let gauge = ConstGauge::new(i64::try_from(at).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("certificate", file)])?)?;
        }
        Ok(())
    }
}

struct LogLines(Box<dyn Fn() -> u64 + Send + Sync>);

impl fmt::Debug for LogLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLines")
    }
}

impl Collector for LogLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Lines of the log that standard error did not take in time, or not at all.";
        let constant = ConstCounter::new((self.0)());
        let name = "underpass_log_lines_dropped";
        constant.encode(encoder.encode_descriptor(name, help, None, constant.metric_type())?)
    }
}

/// Under the names that every Prometheus client uses for a process, so that ready-made dashboards find them.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(bytes) = resident_bytes() {
            let help = "Memory of the process that is in RAM.";
            gauge(&mut encoder, "process_resident_memory", help, Some(&Unit::Bytes), bytes)?;
        }
        match open_files() {
            Some(files) => gauge(&mut encoder, "process_open_fds", "Open file descriptors.", None, files),
            None => Ok(()),
        }
    }
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, unit: Option<&Unit>, value: i64) -> fmt::Result {
    let constant = ConstGauge::new(value);
    constant.encode(to.encode_descriptor(name, help, unit, constant.metric_type())?)
}

fn resident_bytes() -> Option<i64> {
    parse_resident(&fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmRSS:     1234 kB` of proc_pid_status(5), in bytes.
fn parse_resident(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<i64>().ok()?.checked_mul(1024)
}

fn open_files() -> Option<i64> {
    let directory = Path::new("/proc/self/fd");
    // Since Linux 6.2 the directory's size is the number of open files; before, it is 0 and they must be listed, with
    // one more for the listing itself.
    let known = fs::metadata(directory).ok()?.len();
    let count = if known > 0 { known } else { (fs::read_dir(directory).ok()?.count() as u64).saturating_sub(1) };
    i64::try_from(count).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::metrics::Unintroduced;
    use crate::terms::{Direction, Ending, ErrorCode, Resume, Transport};

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
        let certificates = || BTreeMap::from([("/a.pem".to_owned(), 9)]);
        parse(&Exposition::new(metrics, "1.2.3", || 2, || (5, 7), certificates, || 9).text())
    }

    #[test]
    fn all_is_there_before_anything_happened() {
        let samples = read(&Metrics::default());
        assert_eq!(samples["underpass_build_info{version=\"1.2.3\"}"], 1.0);
        assert_eq!(samples["underpass_drain_phase"], 2.0);
        assert_eq!(samples["underpass_refusals_total{code=\"busy\"}"], 0.0);
        assert_eq!(samples["underpass_delivery_delay_seconds_bucket{le=\"+Inf\",transport=\"ws\"}"], 0.0);
        let ours = samples.keys().filter(|name| name.starts_with("underpass_")).count();
        assert!((150..250).contains(&ours), "{ours} series");
    }

    #[test]
    fn what_is_counted_is_told() {
        let metrics = Metrics::default();
        metrics.session_opened();
        metrics.moved(None, Some(Transport::Sse));
        metrics.down(Transport::Sse, 3, 100);
        metrics.up(2, 20);
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
        metrics.reloaded(false);
        let (_tunnel, _proxying, _connection) = (metrics.tunnel(), metrics.proxying(), metrics.connection());

        let counted: BTreeSet<_> = read(&metrics)
            .into_iter()
            .filter(|(name, value)| name.starts_with("underpass_") && *value != 0.0 && !name.contains("_bucket"))
            .map(|(name, value)| format!("{} {value}", name["underpass_".len()..].replace('"', "")))
            .collect();
        let expected = [
            "build_info{version=1.2.3} 1",
            "certificate_expiry_timestamp_seconds{certificate=/a.pem} 9",
            "config_reloads_total{result=refused} 1",
            "connections_accepted_total 1",
            "connections_active 1",
            "delivery_delay_seconds_count{transport=sse} 1",
            "delivery_delay_seconds_sum{transport=sse} 0.002",
            "drain_phase 2",
            "log_lines_dropped_total 9",
            "memory_budget_bytes 7",
            "memory_held_bytes 5",
            "memory_waits_total 1",
            "message_bytes_total{direction=down,transport=sse} 100",
            "message_bytes_total{direction=up,transport=any} 20",
            "messages_total{direction=down,transport=sse} 3",
            "messages_total{direction=up,transport=any} 2",
            "pauses_total 1",
            "proxied_requests_active 1",
            "proxied_requests_total{class=4xx} 1",
            "proxy_header_failures_total{reason=late} 1",
            "refusals_total{code=gap} 1",
            "session_resumes_total{result=lost} 1",
            "sessions_ended_total{reason=too_slow} 1",
            "sessions_opened_total 1",
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
        assert_eq!(parse_resident("Name:\tx\nVmRSS:\t    1234 kB\nThreads:\t1\n"), Some(1234 * 1024));
        assert_eq!(parse_resident("Name:\tx\nThreads:\t1\n"), None);
        if Path::new("/proc/self/status").exists() {
            let samples = read(&Metrics::default());
            assert!(samples["process_resident_memory_bytes"] > 0.0);
            assert!(samples["process_open_fds"] >= 3.0);
        }
    }
}
