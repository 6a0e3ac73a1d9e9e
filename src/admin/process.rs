//! What the system says of this process, under the names that every Prometheus client uses, so that ready-made dashboards
//! find them.
//!
//! Enters: a reading of `/proc`, at each scrape. Leaves: samples. Must not touch: anything else. What the system does not
//! tell is left out.

use std::fmt;
use std::fs;
use std::path::Path;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// What the kernel counts time in where it writes it for programs (USER_HZ): a hundredth of a second on every machine that
/// Rust's Linux runs on.
const TICKS: f64 = 100.0;

/// The process, as a collector.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut encoder;
        if let Some(Stat { cpu, started, virtual_bytes }) = read("stat").as_deref().and_then(Stat::parse) {
            let (name, unit) = ("process_cpu", Some(&Unit::Seconds));
            let seconds = ConstCounter::new(cpu);
            let help = "User and system time of the process's threads.";
            seconds.encode(to.encode_descriptor(
                name,
                help,
                unit,
                prometheus_client::metrics::MetricType::Counter,
            )?)?;
            if let Some(boot) = fs::read_to_string("/proc/stat").ok().as_deref().and_then(parse_boot) {
                let help = "When the process started, in seconds since 1970.";
                gauge(to, "process_start_time", help, unit, boot + started)?;
            }
            let help = "Address space of the process.";
            gauge(to, "process_virtual_memory", help, Some(&Unit::Bytes), virtual_bytes)?;
        }
        if let Some(bytes) = read("status").as_deref().and_then(parse_resident) {
            gauge(to, "process_resident_memory", "Memory of the process that is in RAM.", Some(&Unit::Bytes), bytes)?;
        }
        if let Some(most) = read("limits").as_deref().and_then(parse_max_files) {
            gauge(to, "process_max_fds", "How many file descriptors may be open.", None, most)?;
        }
        open_files().map_or(Ok(()), |files| gauge(to, "process_open_fds", "Open file descriptors.", None, files))
    }
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> fmt::Result {
    let constant = ConstGauge::new(value);
    constant.encode(to.encode_descriptor(name, help, unit, prometheus_client::metrics::MetricType::Gauge)?)
}

fn read(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/self").join(name)).ok()
}

/// What is used of proc_pid_stat(5).
#[derive(Debug, PartialEq)]
struct Stat {
    /// Seconds.
    cpu: f64,
    /// Seconds since the machine started.
    started: f64,
    virtual_bytes: f64,
}

impl Stat {
    fn parse(line: &str) -> Option<Self> {
        // The second field is the program's name in brackets, which may hold anything; the first number here is field 3.
        let fields: Vec<_> = line.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        let cpu = (number(14)? + number(15)?) / TICKS;
        Some(Self { cpu, started: number(22)? / TICKS, virtual_bytes: number(23)? })
    }
}

/// `btime 1795418373` of proc_stat(5), in seconds since 1970.
fn parse_boot(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// `VmRSS:     1234 kB` of proc_pid_status(5), in bytes.
fn parse_resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0)
}

/// The soft limit of `Max open files  1024  4096  files` of proc_pid_limits(5).
fn parse_max_files(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

fn open_files() -> Option<f64> {
    let directory = Path::new("/proc/self/fd");
    // Since Linux 6.2 the directory's size is the number of open files; before, it is 0 and they must be listed, with
    // one more for the listing itself.
    let known = fs::metadata(directory).ok()?.len();
    let count = if known > 0 { known } else { (fs::read_dir(directory).ok()?.count() as u64).saturating_sub(1) };
    Some(count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_writes_is_read() {
        assert_eq!(parse_resident("Name:\tx\nVmRSS:\t    1234 kB\nThreads:\t1\n"), Some(1234.0 * 1024.0));
        assert_eq!(parse_resident("Name:\tx\nThreads:\t1\n"), None);
        let limits =
            "Limit        Soft Limit   Hard Limit  Units\nMax open files            1024      524288     files\n";
        assert_eq!(parse_max_files(limits), Some(1024.0));
        assert_eq!(parse_max_files("Max open files unlimited unlimited files"), Some(f64::INFINITY));
        assert_eq!(parse_boot("cpu 1 2\nbtime 1795418373\n"), Some(1_795_418_373.0));
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 4 0 1234 4096000 200 1844";
        let stat = Stat { cpu: 2.0, started: 12.34, virtual_bytes: 4_096_000.0 };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }
}
