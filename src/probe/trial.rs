//! The trial: all transports that are tested, and their findings.
//!
//! Enters: the server. Leaves: findings and notes, to be filled. Must not touch: how a transport is tested.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::connect::Server;
use super::findings::Findings;

pub(super) struct Trial {
    pub(super) server: Server,
    /// The path of the conversation at the server.
    pub(super) target: String,
    /// Whether it is the self-test's conversation. Of a backend's only the opening can be tested.
    pub(super) own: bool,
    /// How long after its start the server probes a stream.
    pub(super) probe: Duration,
    pub(super) native: Findings,
    pub(super) ws: Findings,
    pub(super) sse: Findings,
    pub(super) stream: Findings,
    pub(super) poll: Findings,
    pub(super) post: Findings,
    pub(super) notes: Mutex<BTreeSet<String>>,
    /// Cancelled when the time is over: one more round trip follows, then the end.
    pub(super) ending: CancellationToken,
}

impl Trial {
    /// A trial without findings.
    pub(super) fn new(server: Server) -> Self {
        Self {
            server,
            target: String::new(),
            own: true,
            probe: Duration::ZERO,
            native: Findings::new("WebSocket", true),
            ws: Findings::new("ws", true),
            sse: Findings::new("sse", true),
            stream: Findings::new("stream", true),
            poll: Findings::new("poll", true),
            post: Findings::new("POST", false),
            notes: Mutex::new(BTreeSet::new()),
            ending: CancellationToken::new(),
        }
    }

    /// All findings, in the order in which they are shown.
    pub(super) fn findings(&self) -> [&Findings; 6] {
        [&self.native, &self.ws, &self.sse, &self.stream, &self.poll, &self.post]
    }

    pub(super) fn note(&self, note: impl Into<String>) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).insert(note.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terms::Transport;

    #[test]
    fn each_transport_has_its_findings() {
        let server = Server::new("http://127.0.0.1:1/", None, None).expect("a server to nowhere");
        let trial = Trial::new(server);
        let names: Vec<_> = trial.findings().iter().map(|findings| findings.name).collect();
        assert!(Transport::WORDS.iter().all(|word| names.contains(word)), "{names:?}");
    }
}
