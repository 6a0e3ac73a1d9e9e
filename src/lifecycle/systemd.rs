//! What we tell the service manager (sd_notify(3)).
//!
//! Enters: nothing but the environment (`NOTIFY_SOCKET`, `WATCHDOG_USEC`). Leaves: datagrams to systemd; without
//! those variables every function does nothing. Must not touch: the phases; `drain` and the app say when.

use std::future;
use std::time::Duration;

use sd_notify::NotifyState;

/// Start-up, or a reload, is done.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload begins; [`ready`] must follow, whether it succeeds or not.
pub fn reloading() {
    // From systemd 253 on the time stamp is obligatory under `Type=notify-reload`; older ones ignore it.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the monotonic clock cannot be read, systemd is not told of the reload"),
    }
}

/// The process is stopping and may need as long as `patience` for it.
pub fn stopping(patience: Duration) {
    // A drain timeout longer than the unit's TimeoutStopSec= would otherwise end in SIGKILL.
    let micros = u32::try_from(patience.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
}

/// Pings the watchdog for ever, at half its interval; waits for ever when there is none. To be spawned on the runtime
/// that serves: when that one hangs, the pings stop.
pub async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return future::pending().await;
    };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, ?state, "systemd could not be told");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use super::*;

    /// Run in a process of its own by [`words_reach_the_manager`]: a test may not set variables of its own process.
    #[tokio::test]
    async fn child_says_everything() {
        if std::env::var_os("UNDERPASS_SYSTEMD_CHILD").is_none() {
            return;
        }
        ready();
        reloading();
        ready();
        stopping(Duration::from_secs(32));
        let _ = tokio::time::timeout(Duration::from_millis(5), watchdog()).await;
    }

    #[test]
    fn words_reach_the_manager() {
        let path = std::env::temp_dir().join(format!("underpass-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let manager = UnixDatagram::bind(&path).expect("a free address");
        let child = Command::new(std::env::current_exe().expect("a running program has a file"))
            .args(["--exact", "lifecycle::systemd::tests::child_says_everything"])
            .env("UNDERPASS_SYSTEMD_CHILD", "1")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "60000000")
            .env_remove("WATCHDOG_PID")
            .output();
        std::fs::remove_file(&path).expect("a writable temporary directory");
        assert!(child.expect("the child starts").status.success());
        manager.set_nonblocking(true).expect("an open socket");
        let mut heard = Vec::new();
        let mut buffer = [0; 256];
        while let Ok(length) = manager.recv(&mut buffer) {
            heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        assert_eq!(heard.len(), 5, "{heard:?}");
        assert_eq!(heard[0], "READY=1\n");
        assert!(heard[1].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{}", heard[1]);
        assert_eq!(heard[2], "READY=1\n");
        assert_eq!(heard[3], "STOPPING=1\nEXTEND_TIMEOUT_USEC=32000000\n");
        assert_eq!(heard[4], "WATCHDOG=1\n");
    }
}
