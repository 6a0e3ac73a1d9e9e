//! How what a process has let go of comes to its successor: the format, and the two ways that it goes.
//!
//! Enters: parcels, from the rooms by way of `lifecycle::moving`. Leaves: the same parcels in another process. Must not touch:
//! what a record says; when the process lets go, and who makes a parcel live again, are the app's affairs.
//!
//! ```text
//! Load ── pack ──► Package ── store (systemd keeps it over a restart) ──────► Package ── unpack ──► Load
//!                          └─ take_over (a unix socket between two processes) ┘
//! ```
//!
//! A [`Package`] is one descriptor, whichever way it goes. On both ways there is one moment from which on the successor has
//! everything and the old process nothing: the `ok` of [`take_over`], or the exit behind [`store::keep`].

pub mod format;
pub mod package;
pub mod reserve;
pub mod store;
pub mod take_over;

use serde::{Deserialize, Serialize};

pub use self::package::{Package, make_room_early};
use crate::lifecycle::moving::Parcel;

/// What is true of everything that is handed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Head {
    /// The old process's clock when it let go, in microseconds since its own origin: what the records' moments count in.
    pub moment: u64,
    /// The name of the node. Tokens begin with it.
    pub node: String,
    /// The names that it had before: tokens with these are known, too.
    pub former: Vec<String>,
    /// When it let go, in microseconds since 1970, to say how long nothing was served.
    pub at: u64,
    /// The version of the program, for the log.
    pub program: String,
}

impl Head {
    /// All names that the node has or had.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        std::iter::once(&self.node).chain(&self.former).cloned().collect()
    }
}

/// Everything that is handed over.
#[derive(Debug, Default)]
pub struct Load {
    pub head: Head,
    pub parcels: Vec<Parcel>,
    /// What came without all of its descriptors, because they are too many for this process. Those that came are closed.
    pub incomplete: Vec<Parcel>,
}
