//! The first way: the service manager keeps the package while there is no process (systemd's file descriptor store,
//! `sd_notify(3)`).
//!
//! Enters: a package, and the environment (`NOTIFY_SOCKET`, `FDSTORE`). Leaves: notifications. Must not touch: the package's
//! content; how it comes back stands in `lifecycle::sockets`, since it comes with the listening sockets.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Package;
use crate::lifecycle::systemd;

/// How long the service manager may take to say that it has the package.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the service manager does not have the package.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the service manager did not keep it: set FileDescriptorStoreMax=4 in the unit")]
    NotKept,
    #[error("the service manager did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("the service manager cannot be notified: {0}")]
    Io(#[from] io::Error),
}

/// Whether there is a service manager, and nothing that says that it keeps no descriptors. systemd before 254 does not say whether
/// it does: [`keep`] finds out.
#[must_use]
pub fn is_available() -> bool {
    systemd::is_there() && std::env::var_os("FDSTORE").is_none_or(|most| most != "0")
}

/// Gives the package to the service manager, and returns when it surely has it: the process may exit.
///
/// # Errors
/// [`StoreError`]: it does not have it, and whoever has packed can go on.
pub async fn keep(package: Package) -> Result<(), StoreError> {
    let kept = timeout(PATIENCE, give(package)).await.unwrap_or(Err(StoreError::Silent));
    if kept.is_err() {
        forget();
    }
    kept
}

/// Has the service manager let go of what it keeps. To be called when the package was unpacked, before anything of it is made
/// live: if that fails, the next process begins with nothing, and not with what lies in the past.
pub fn forget() {
    systemd::remove_from_store();
}

async fn give(package: Package) -> Result<(), StoreError> {
    let (all_done, done) = io::pipe()?;
    let mut all_done = pipe::Receiver::from_owned_fd(all_done.into())?;
    // Datagrams to a busy manager block.
    let notify = move || {
        // One of a hand-over that failed would be in its way.
        systemd::remove_from_store();
        systemd::store(package.as_fd())?;
        systemd::barrier(done.as_fd())?;
        Ok::<_, io::Error>(package)
    };
    let package = spawn_blocking(notify).await.map_err(io::Error::other)??;
    // The manager closes its end when it has worked through everything that was sent before.
    let _nothing = all_done.read(&mut [0]).await?;
    let Some(sending) = package.let_go() else { return Ok(()) };
    if is_held(&sending)? { Ok(()) } else { Err(StoreError::NotKept) }
}

/// Whether somebody has the package whose other end this is.
fn is_held(sending: &OwnedFd) -> io::Result<bool> {
    let mut all = [PollFd::new(sending, PollFlags::empty())];
    poll(&mut all, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(!all[0].revents().contains(PollFlags::HUP))
}
