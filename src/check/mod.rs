//! What `underpass check` sees beside the file: whether this machine fits what the configuration asks for.
//!
//! Enters: a checked configuration. Leaves: findings for people. Must not touch: anything; it opens no socket and changes no
//! file. What it cannot find out, it does not tell.

mod routes;
mod unit;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{Access, access};

pub use self::routes::routes;
use crate::config::{Address, Config};
use crate::lifecycle::descriptors;

/// Something that works, but not as one would wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The key that it is about.
    pub about: &'static str,
    /// What is so, and what to do.
    pub what: String,
}

/// Descriptors of the process itself: log, epoll, listeners, files that are being read; a generous guess.
const OWN_DESCRIPTORS: u64 = 64;

/// Looks at this machine. `unit` is whether to ask systemd about the unit `underpass`.
#[must_use]
pub fn world(config: &Config, unit: bool) -> Vec<Finding> {
    let unit = if unit { unit::Unit::ask() } else { unit::Unit::default() };
    let mut found = Vec::new();
    found.extend(descriptors_for(config, unit.descriptors.or_else(descriptors::limit), unit.descriptors.is_some()));
    found.extend(stop_time(config, unit.stop));
    found.extend(config.admin.as_ref().and_then(open_admin));
    found.extend(config.handover.socket.as_deref().and_then(handover_folder));
    found.extend(restart(config, unit.restart));
    for tls in config.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        found.extend(tls.certificates.iter().filter_map(|pair| open_key("key", &pair.key)));
    }
    for tls in config.routes.iter().filter_map(|route| route.upstream.tls.as_ref()) {
        found.extend(tls.client.iter().filter_map(|pair| open_key("client_key", &pair.key)));
    }
    found
}

/// A client's connection takes one descriptor, and one more while it has a backend's.
fn descriptors_for(config: &Config, limit: Option<u64>, of_unit: bool) -> Option<Finding> {
    let needed = 2 * config.client.connections as u64 + OWN_DESCRIPTORS;
    let limit = limit.filter(|limit| *limit < needed)?;
    let whose = if of_unit { "the unit has LimitNOFILE" } else { "this shell has a limit of" };
    let what = format!(
        "{} connections may need {needed} file descriptors, and {whose} {limit}: raise that, or lower it to {}",
        config.client.connections,
        limit.saturating_sub(OWN_DESCRIPTORS) / 2
    );
    Some(Finding { about: "client.connections", what })
}

fn stop_time(config: &Config, stop: Option<std::time::Duration>) -> Option<Finding> {
    let stop = stop.filter(|stop| *stop < config.drain.timeout)?;
    let (stop, timeout) = (stop.as_secs(), config.drain.timeout.as_secs());
    let what = format!(
        "stopping may take {timeout} s, and the unit has TimeoutStopSec={stop}: underpass asks systemd for more time, but \
         what kills by itself (a container's runtime) does not listen; raise it, or lower `drain.timeout`"
    );
    Some(Finding { about: "drain.timeout", what })
}

fn open_admin(admin: &Address) -> Option<Finding> {
    let Address::Tcp(address) = admin else { return None };
    if address.ip().to_canonical().is_loopback() {
        return None;
    }
    let from = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => "every network of this machine",
        IpAddr::V6(ip) if ip.is_unspecified() => "every network of this machine",
        _ => "other machines",
    };
    let what = format!(
        "{address} can be reached from {from}, and asks nobody who they are: it has only /livez, /readyz and /metrics there; \
         keep it behind a firewall, or write \"127.0.0.1:{}\" or \"unix\"",
        address.port()
    );
    Some(Finding { about: "admin", what })
}

/// Where the socket for successors would be.
fn handover_folder(socket: &Path) -> Option<Finding> {
    let folder = socket.parent()?;
    let shown = folder.display();
    let what = match fs::metadata(folder) {
        Err(error) => format!("{shown} cannot be looked at ({error}): the socket for successors needs a folder"),
        Ok(folder) if !folder.is_dir() => format!("{shown} is no folder: the socket for successors needs one"),
        Ok(_) if access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err() => {
            format!("this user may not write to {shown}: there will be no socket for successors")
        }
        Ok(folder) if folder.permissions().mode() & 0o1002 == 0o002 => format!(
            "{shown} has mode {:03o}: everybody on this machine may put another socket in the place of ours; chmod o-w it",
            folder.permissions().mode() & 0o777
        ),
        Ok(_) => return None,
    };
    Some(Finding { about: "handover.socket", what })
}

/// A unit that does not keep what is handed over, or whose restart is a stop.
fn restart(config: &Config, unit: Option<unit::Restart>) -> Option<Finding> {
    let unit = unit.filter(|unit| config.handover.restart && !(unit.keeps && unit.signals))?;
    let missing = if unit.keeps { "RestartKillSignal=SIGUSR2" } else { "FileDescriptorStoreMax=4" };
    let what = format!("a restart of the unit ends all sessions: it has not {missing}");
    Some(Finding { about: "handover.restart", what })
}

/// A key that others can read is no secret.
fn open_key(about: &'static str, file: &Path) -> Option<Finding> {
    let mode = fs::metadata(file).ok()?.permissions().mode() & 0o777;
    (mode & 0o007 != 0).then(|| Finding {
        about,
        what: format!("{} has mode {mode:03o}: everybody on this machine may use it; chmod 640 it", file.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_descriptors_are_told_with_what_would_fit() {
        let mut config = Config::default();
        config.client.connections = 200_000;
        let found = descriptors_for(&config, Some(256), false).expect("a finding").what;
        assert!(found.contains("200000 connections may need 400064") && found.ends_with("lower it to 96"), "{found}");
        config.client.connections = 96;
        assert_eq!(descriptors_for(&config, Some(256), true), None);
        assert_eq!(descriptors_for(&config, None, true), None);
    }

    #[test]
    fn an_admin_listener_that_others_reach_is_told() {
        let tcp = |text: &str| open_admin(&Address::Tcp(text.parse().expect("an address")));
        assert!(tcp("0.0.0.0:9").is_some_and(|found| found.what.contains("every network")));
        assert!(tcp("10.0.0.7:9").is_some_and(|found| found.what.contains("other machines")));
        assert_eq!((tcp("127.0.0.1:9"), tcp("[::1]:9"), open_admin(&Address::Unix("/a".into()))), (None, None, None));
    }

    #[test]
    fn a_key_that_everybody_reads_is_told() {
        let file = std::env::temp_dir().join(format!("underpass-check-{}.pem", std::process::id()));
        let with = |mode| {
            fs::write(&file, "x").expect("a writable folder");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("it is ours");
            open_key("key", &file)
        };
        assert!(with(0o644).is_some_and(|found| found.what.contains("has mode 644")));
        assert_eq!((with(0o640), with(0o600)), (None, None));
        fs::remove_file(&file).expect("it is there");
    }

    #[test]
    fn a_folder_without_room_for_the_socket_is_told() {
        let found = |path: &str| handover_folder(Path::new(path)).map(|found| found.what).unwrap_or_default();
        assert!(found("/nonexistent/a.sock").contains("cannot be looked at"), "{}", found("/nonexistent/a.sock"));
        assert!(found("/etc/passwd/a.sock").contains("/etc/passwd is no folder"));
        let folder = std::env::temp_dir().join(format!("underpass-check-folder-{}", std::process::id()));
        fs::create_dir(&folder).expect("a writable folder");
        let with = |mode| {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("it is ours");
            handover_folder(&folder.join("a.sock"))
        };
        assert_eq!((with(0o755), with(0o1777)), (None, None));
        assert!(with(0o777).is_some_and(|found| found.what.contains("has mode 777")));
        fs::remove_dir(&folder).expect("it is there");
    }

    #[test]
    fn a_unit_whose_restart_is_a_stop_is_told() {
        let mut config = Config::default();
        let told = |config: &Config, keeps, signals| restart(config, Some(unit::Restart { keeps, signals }));
        assert!(told(&config, false, true).is_some_and(|found| found.what.contains("FileDescriptorStoreMax")));
        assert!(told(&config, true, false).is_some_and(|found| found.what.contains("RestartKillSignal")));
        assert_eq!((told(&config, true, true), restart(&config, None)), (None, None));
        config.handover.restart = false;
        assert_eq!(told(&config, false, false), None);
    }

    #[test]
    fn a_unit_that_stops_sooner_than_the_drain_is_told() {
        let config = Config::default();
        let seconds = |seconds| Some(std::time::Duration::from_secs(seconds));
        assert!(stop_time(&config, seconds(10)).is_some_and(|found| found.what.contains("TimeoutStopSec=10")));
        assert_eq!((stop_time(&config, seconds(45)), stop_time(&config, None)), (None, None));
    }
}
