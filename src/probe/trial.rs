//! Everything that is tried, and what is known of it.
//!
//! Enters: a way to the server. Leaves: rows and notes, to be filled. Must not touch: how anything is tried.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::reach::Way;
use super::row::Row;

/// Everything that is tried, together.
pub(super) struct Trial {
    pub(super) way: Way,
    /// Where the conversation is, as a path at the server.
    pub(super) target: String,
    /// Whether it is the self-test's: a foreign backend's can only be seen to open.
    pub(super) own: bool,
    /// When a stream is probed by the server.
    pub(super) probe: Duration,
    pub(super) native: Row,
    pub(super) ws: Row,
    pub(super) sse: Row,
    pub(super) stream: Row,
    pub(super) poll: Row,
    pub(super) post: Row,
    pub(super) notes: Mutex<BTreeSet<String>>,
    /// The time is over: one more round trip, and then the end.
    pub(super) ending: CancellationToken,
}

impl Trial {
    /// Nothing was tried yet.
    pub(super) fn new(way: Way) -> Self {
        Self {
            way,
            target: String::new(),
            own: true,
            probe: Duration::ZERO,
            native: Row::new("WebSocket", true),
            ws: Row::new("ws", true),
            sse: Row::new("sse", true),
            stream: Row::new("stream", true),
            poll: Row::new("poll", true),
            post: Row::new("POST", false),
            notes: Mutex::new(BTreeSet::new()),
            ending: CancellationToken::new(),
        }
    }

    /// All rows, in the order in which they are shown.
    pub(super) fn rows(&self) -> [&Row; 6] {
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
    fn each_transport_has_its_row() {
        let way = Way::new("http://127.0.0.1:1/", None, None).expect("a way to nowhere");
        let trial = Trial::new(way);
        let rows: Vec<_> = trial.rows().iter().map(|row| row.name).collect();
        assert!(Transport::WORDS.iter().all(|word| rows.contains(word)), "{rows:?}");
    }
}
