//! How the process stops, and how it gives everything to its successor: the run-time types.
//!
//! Enters and leaves: nothing; these are data. Must not touch: the file that they were read from, other rooms.

use std::path::PathBuf;
use std::time::Duration;

/// How the process stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// From the signal to the end of the last connection.
    pub timeout: Duration,
    /// The time over which clients are asked to leave, one after the other.
    pub spread: Duration,
    /// How long connections are still accepted after `/readyz` fails.
    pub pre: Duration,
}

/// How the process gives everything to its successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Whether it is given to the service manager when that restarts us.
    pub restart: bool,
    /// The unix socket at which a successor asks; `None` is nowhere.
    pub socket: Option<PathBuf>,
    /// How long requests that are being proxied have before anything is let go of.
    pub quiesce: Duration,
    /// How long what a successor cannot take lives on in the old process.
    pub linger: Duration,
}
