//! That a session goes to another process, and the order to do so.
//!
//! Enters: what stays with a connection that cannot be given. Leaves: the order, and the refusal of whoever comes too late. Must
//! not touch: sessions.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::mpsc;

use crate::upstream::dial::Io;
use crate::upstream::wire::Standing;

/// The session has gone to another process: whatever was asked of it is to be asked there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this session has moved to the process that takes this one's place: ask again at once")]
pub struct Moved;

/// Makes a descriptor of a connection that has none that could be given, as under TLS: somebody stays and passes its bytes on.
/// It is told where in its frames both directions of the connection stand.
pub type Pump = Arc<dyn Fn(Io, Standing) -> std::io::Result<OwnedFd> + Send + Sync>;

/// The order to write a session down.
pub(super) struct Freeze {
    /// For backends whose socket cannot be given. Without it their sessions end.
    pub(super) pump: Option<Pump>,
    /// How many these are.
    pub(super) ended: Arc<AtomicUsize>,
    /// Dropped once it is done.
    pub(super) _done: mpsc::Sender<Infallible>,
}

impl std::fmt::Debug for Freeze {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Freeze")
    }
}
