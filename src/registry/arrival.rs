//! Sessions on their way from one process to another: whoever asks for one waits until it is where it is found.
//!
//! Enters: that they are on their way, that some or all have come. Leaves: waits. Must not touch: how they come.

use std::time::Duration;

use tokio::time::timeout;

use super::{Found, Registry};

/// How long anybody waits; then the client is to ask again. All of them come within a second or so.
const PATIENCE: Duration = Duration::from_secs(5);

impl Registry {
    /// Sessions are about to be thawed: none is opened, and who asks for one waits for it.
    pub fn await_sessions(&self) {
        self.directory.await_sessions();
    }

    /// Some more of them are here.
    pub fn some_arrived(&self) {
        self.directory.arrivals().notify_waiters();
    }

    /// All that there are are here.
    pub fn all_arrived(&self) {
        self.directory.open();
        self.some_arrived();
    }

    /// What is known of a presented token, once that is known.
    pub async fn find_awaited(&self, token: &str) -> Found {
        match self.directory.find(token) {
            Found::Awaited => {
                let known = || Some(self.directory.find(token)).filter(|found| !matches!(found, Found::Awaited));
                Box::pin(self.arrives(known)).await.unwrap_or(Found::Moved)
            }
            Found::Moved => {
                Box::pin(self.let_go_of()).await;
                Found::Moved
            }
            found => found,
        }
    }

    /// Returns when this process lets go of everything: who is told earlier that something has moved would ask here again.
    pub(super) async fn let_go_of(&self) {
        let _ = timeout(PATIENCE, self.lifecycle.let_go_of()).await;
    }

    /// Returns when no sessions are awaited, but not later than after some seconds.
    pub(super) async fn settled(&self) {
        if self.directory.awaits() {
            Box::pin(self.arrives(|| (!self.directory.awaits()).then_some(()))).await;
        }
    }

    /// What `look` finds, now or when more have come; `None` when it finds nothing for too long.
    async fn arrives<T>(&self, look: impl Fn() -> Option<T>) -> Option<T> {
        let found = async {
            loop {
                // Made before it is looked, so that nobody comes in between.
                let arrival = self.directory.arrivals().notified();
                match look() {
                    Some(found) => return found,
                    None => arrival.await,
                }
            }
        };
        timeout(PATIENCE, found).await.ok()
    }
}
