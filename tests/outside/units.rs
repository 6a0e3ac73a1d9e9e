//! The shipped systemd units: read as text, and judged by systemd's own tools where they are installed. Must not touch:
//! the running system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use underpass::config::{Config, Drain};
use underpass::lifecycle::drain::CLOSE_WAIT;

use crate::programs::{Program, present};

const SERVICE: &str = include_str!("../../systemd/underpass.service");
const SOCKET: &str = include_str!("../../systemd/socket/underpass-http.socket");

/// What systemd may find at most, in tenths; 10 is what hardly any network service reaches.
const EXPOSURE: u32 = 12;

/// All values of a key, over the whole unit.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == key).map(|(_, value)| value).collect()
}

fn seconds(value: &str) -> u64 {
    value.strip_suffix('s').unwrap_or(value).parse().unwrap_or_else(|_| panic!("not in seconds: {value}"))
}

#[test]
fn systemd_waits_longer_than_the_drain() {
    let [stop] = values(SERVICE, "TimeoutStopSec")[..] else { panic!("TimeoutStopSec= must be there once") };
    assert!(
        seconds(stop) >= (Drain::default().timeout + CLOSE_WAIT).as_secs() + 5,
        "TimeoutStopSec={stop} cuts the drain short"
    );
}

#[test]
fn the_service_speaks_the_protocol_it_promises() {
    assert_eq!(values(SERVICE, "Type"), ["notify"]);
    assert_eq!(values(SERVICE, "NotifyAccess"), ["main"]);
    assert_eq!(values(SERVICE, "Restart"), ["on-failure"]);
    assert_eq!(values(SERVICE, "WatchdogSec"), ["30s"]);
    let check = "/usr/bin/underpass check /etc/underpass/underpass.toml";
    assert_eq!(values(SERVICE, "ExecStartPre"), [check]);
    assert_eq!(values(SERVICE, "ExecReload"), [check, "/bin/kill -HUP $MAINPID"]);
    let families = values(SERVICE, "RestrictAddressFamilies");
    assert!(families[0].contains("AF_UNIX"), "without unix sockets systemd cannot be told anything");
}

#[test]
fn a_restart_hands_over_and_a_stop_does_not() {
    assert_eq!(values(SERVICE, "RestartKillSignal"), ["SIGUSR2"]);
    // SIGTERM, which drains.
    assert_eq!(values(SERVICE, "KillSignal"), [""; 0]);
    // One is enough; a name that a drop-in of somebody's stores must not push it out.
    assert_eq!(values(SERVICE, "FileDescriptorStoreMax"), ["4"]);
    // What is kept is let go of when systemd gives up.
    assert_eq!(values(SERVICE, "StartLimitIntervalSec"), ["0"]);
    let [limit] = values(SERVICE, "LimitNOFILE")[..] else { panic!("LimitNOFILE= must be there once") };
    let connections = 2 * Config::default().client.connections;
    assert!(limit.parse::<usize>().is_ok_and(|limit| limit > connections), "LimitNOFILE={limit} is too few");
}

#[test]
fn the_socket_has_the_name_that_the_documentation_uses() {
    assert_eq!(values(SOCKET, "FileDescriptorName"), ["http"]);
    assert!(SOCKET.contains("\"systemd:http\""));
}

/// Copies of the units with a program that exists, so that `verify` has nothing to say about an uninstalled one.
fn installed() -> PathBuf {
    let directory = std::env::temp_dir().join(format!("underpass-units-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a writable temporary directory");
    fs::write(directory.join("underpass.service"), SERVICE.replace("/usr/bin/underpass", "/bin/true"))
        .expect("a writable temporary directory");
    fs::write(directory.join("underpass-http.socket"), SOCKET).expect("a writable temporary directory");
    directory
}

/// Runs `systemd-analyze`, which must be content.
fn analyze(directory: &Path, arguments: &[&str]) -> String {
    let output =
        Command::new("systemd-analyze").args(arguments).current_dir(directory).output().expect("systemd-analyze runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "systemd-analyze {arguments:?}:\n{text}");
    text
}

#[test]
fn systemd_accepts_the_units_and_finds_little_exposed() {
    if !present(&[Program::SystemdAnalyze]) {
        return;
    }
    let directory = installed();
    let verify = analyze(&directory, &["verify", "--man=no", "./underpass.service", "./underpass-http.socket"]);
    let threshold = format!("--threshold={EXPOSURE}");
    analyze(&directory, &["security", "--offline=true", &threshold, "./underpass.service"]);
    fs::remove_dir_all(&directory).expect("a writable temporary directory");
    let complaints: Vec<_> = verify.lines().filter(|line| line.contains("underpass.")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}
