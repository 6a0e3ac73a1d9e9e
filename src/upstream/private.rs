//! Connections to backends that belong to one client's connection, because a login was spoken over them.
//!
//! Enters: connections with nothing under way but the end of a response. Leaves: the same, for the same client's connection
//! only. Must not touch: the pool, which is for all.

use std::sync::{Arc, Mutex, PoisonError};

use crate::upstream::pool::Connection;

/// The most that one client's connection has at once. The one that was used least lately is closed for another.
const MOST: usize = 4;

/// The connections of one client's connection; they end with it.
#[derive(Default)]
pub struct PrivateConnections(Mutex<Vec<(Arc<str>, Connection)>>);

/// Where those of one client's connection are. Hardly any client speaks such a login, so they are made when the first is kept.
pub trait PrivatePlace: Sync {
    /// Those that are there.
    fn present(&self) -> Option<&PrivateConnections>;

    /// The same, made if there are none; `None` when there can be none.
    fn made(&self) -> Option<&PrivateConnections>;
}

impl dyn PrivatePlace + '_ {
    /// See [`PrivateConnections::take`].
    pub(super) async fn take(&self, address: &Arc<str>) -> Option<Connection> {
        self.present()?.take(address).await
    }

    /// See [`PrivateConnections::keep`].
    pub(super) fn keep(&self, address: &Arc<str>, connection: Connection) {
        if let Some(connections) = self.made() {
            connections.keep(address, connection);
        }
    }
}

impl PrivateConnections {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The live one to the backend at this address, if there is one.
    async fn take(&self, address: &Arc<str>) -> Option<Connection> {
        let mut connection = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // A reload makes new backends: their addresses are others, even where they read alike.
            let place = kept.iter().position(|(theirs, _)| Arc::ptr_eq(theirs, address))?;
            kept.remove(place).1
        };
        connection.settle().await.then_some(connection)
    }

    /// Keeps the one to the backend at this address.
    fn keep(&self, address: &Arc<str>, connection: Connection) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(theirs, _)| !Arc::ptr_eq(theirs, address));
        if kept.len() >= MOST {
            kept.remove(0);
        }
        kept.push((Arc::clone(address), connection));
    }
}
