//! Notifications to the service manager (sd_notify(3)).
//!
//! Enters: nothing but the environment (`NOTIFY_SOCKET`, `WATCHDOG_USEC`). Leaves: datagrams to systemd, some with descriptors; without
//! those variables every function does nothing. Must not touch: the phases; `drain` and the app decide when to notify.

use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::{env, future, io};

use sd_notify::NotifyState;

/// The name of what systemd keeps for the next process.
pub const STORED: &str = "underpass-handover";

/// Whether there is a service manager.
#[must_use]
pub fn is_there() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

/// Start-up or a reload is complete.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// A reload begins; [`ready`] must follow, whether it succeeds or not.
pub fn reloading() {
    // `Type=notify-reload` (systemd 253 and later) requires the time stamp; older versions ignore it.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => {
            tracing::warn!(%error, "the monotonic clock cannot be read, systemd is not notified of the reload")
        }
    }
}

/// The process is stopping and may need as long as `limit` for it.
pub fn stopping(limit: Duration) {
    // Otherwise systemd sends SIGKILL when the drain timeout is longer than the unit's TimeoutStopSec=.
    let micros = u32::try_from(limit.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
}

/// Has systemd keep a descriptor for the next process, as [`STORED`].
///
/// # Errors
/// When it cannot be notified. That it keeps the descriptor is not said.
pub fn store(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // Polled, it would be thrown away when the process exits: the other end hangs up then.
    let state = [NotifyState::FdStore, NotifyState::FdName(STORED), NotifyState::Custom("FDPOLL=0")];
    sd_notify::notify_with_fds(&state, &[descriptor])
}

/// Has systemd let go of what it keeps as [`STORED`].
pub fn remove_from_store() {
    notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(STORED)]);
}

/// systemd closes `pipe` when it has worked through everything that it was notified of before.
///
/// # Errors
/// When it cannot be notified.
pub fn barrier(pipe: BorrowedFd<'_>) -> io::Result<()> {
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[pipe])
}

/// Pings the watchdog at half its interval and never returns, also when there is no watchdog. To be spawned on the runtime that
/// serves: when that one hangs, the pings stop.
pub async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return future::pending().await;
    };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, ?state, "systemd could not be notified");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use super::*;

    /// Run in a process of its own by [`notifications_reach_the_manager`]: a test may not set variables of its own process.
    #[tokio::test]
    async fn child_sends_all_notifications() {
        if env::var_os("UNDERPASS_SYSTEMD_CHILD").is_none() {
            return;
        }
        ready();
        reloading();
        ready();
        stopping(Duration::from_secs(32));
        let _ = tokio::time::timeout(Duration::from_millis(5), watchdog()).await;
    }

    #[test]
    fn notifications_reach_the_manager() {
        let path = env::temp_dir().join(format!("underpass-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let manager = UnixDatagram::bind(&path).expect("a free address");
        let child = Command::new(env::current_exe().expect("a running program has a file"))
            .args(["--exact", "lifecycle::systemd::tests::child_sends_all_notifications"])
            .env("UNDERPASS_SYSTEMD_CHILD", "1")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "60000000")
            .env_remove("WATCHDOG_PID")
            .output();
        std::fs::remove_file(&path).expect("a writable temporary directory");
        assert!(child.expect("the child starts").status.success());
        manager.set_nonblocking(true).expect("an open socket");
        let mut received = Vec::new();
        let mut buffer = [0; 256];
        while let Ok(length) = manager.recv(&mut buffer) {
            received.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        assert_eq!(received.len(), 5, "{received:?}");
        assert_eq!(received[0], "READY=1\n");
        assert!(received[1].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{}", received[1]);
        assert_eq!(received[2], "READY=1\n");
        assert_eq!(received[3], "STOPPING=1\nEXTEND_TIMEOUT_USEC=32000000\n");
        assert_eq!(received[4], "WATCHDOG=1\n");
    }
}
