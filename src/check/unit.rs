//! What systemd says of the unit `underpass`, where there is one.
//!
//! Enters: the output of `systemctl show`. Leaves: limits. Must not touch: the unit.

use std::process::{Command, Stdio};
use std::time::Duration;

/// The number of SIGUSR2: systemd shows signals by their numbers.
const SIGUSR2: &str = "12";

/// The limits of the unit, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// LimitNOFILE.
    pub(super) descriptors: Option<u64>,
    /// TimeoutStopSec.
    pub(super) stop: Option<Duration>,
    /// What a restart is.
    pub(super) restart: Option<Restart>,
}

/// What the unit does for a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Restart {
    /// FileDescriptorStoreMax: there is room for what is handed over.
    pub(super) keeps: bool,
    /// RestartKillSignal: the one that hands over.
    pub(super) signals: bool,
}

impl Unit {
    /// Asks; nothing is known where there is no systemd, or no such unit.
    pub(super) fn ask() -> Self {
        let properties = "--property=LoadState,LimitNOFILE,TimeoutStopUSec,FileDescriptorStoreMax,RestartKillSignal";
        let mut command = Command::new("systemctl");
        command.args(["show", "underpass.service", properties]).stdin(Stdio::null()).stderr(Stdio::null());
        let told = command.output().ok().filter(|output| output.status.success());
        told.map(|output| Self::parse(&String::from_utf8_lossy(&output.stdout))).unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        if value("LoadState") != Some("loaded") {
            return Self::default();
        }
        Self {
            descriptors: value("LimitNOFILE").and_then(|limit| limit.parse().ok()),
            stop: value("TimeoutStopUSec").and_then(span),
            restart: value("FileDescriptorStoreMax").zip(value("RestartKillSignal")).map(|(most, signal)| Restart {
                keeps: most.parse::<u64>().is_ok_and(|most| most > 0),
                signals: signal == SIGUSR2,
            }),
        }
    }
}

/// `1min 30s`, as systemd.time(7) writes spans; `infinity` is none.
fn span(text: &str) -> Option<Duration> {
    let mut sum = 0.0;
    for part in text.split(' ') {
        let (number, unit) = part.split_at(part.find(|char: char| char.is_ascii_alphabetic())?);
        let seconds = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * seconds;
    }
    Duration::try_from_secs_f64(sum).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_says_is_read() {
        let unit = Unit::parse("TimeoutStopUSec=1min 30s\nLimitNOFILE=65536\nLoadState=loaded\n");
        assert_eq!(unit, Unit { descriptors: Some(65_536), stop: Some(Duration::from_secs(90)), restart: None });
        let restart = |text: &str| Unit::parse(&format!("LoadState=loaded\n{text}")).restart;
        let told = restart("FileDescriptorStoreMax=4\nRestartKillSignal=12\n");
        assert_eq!(told, Some(Restart { keeps: true, signals: true }));
        let told = restart("FileDescriptorStoreMax=0\nRestartKillSignal=15\n");
        assert_eq!(told, Some(Restart { keeps: false, signals: false }));
        let none = Unit::parse("TimeoutStopUSec=infinity\nLimitNOFILE=infinity\nLoadState=loaded\n");
        assert_eq!(none, Unit::default());
        assert_eq!(Unit::parse("LimitNOFILE=1\nLoadState=not-found\n"), Unit::default());
    }
}
