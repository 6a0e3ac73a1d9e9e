//! A body that is pulled from: whoever writes it asks for the next chunk when there is room.
//!
//! Enters: nothing. Leaves: the trait, and what a chunk is. Must not touch: where the bytes come from, where they go.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

/// A source of bytes that is pulled from.
pub trait Source {
    /// Appends the next chunk to `out`, when there is one. Not to be polled again behind the end.
    fn poll_chunk(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Chunk>;

    /// What counts so many bytes of the last chunk, for whoever keeps them until they are written. `None` where nobody
    /// counts them.
    fn tally(&self, _bytes: usize) -> Option<Box<dyn Tally>> {
        None
    }

    /// What another process makes the rest of this source of, as MessagePack. `None` where it has to end here.
    fn record(&self) -> Option<Bytes> {
        None
    }
}

/// Counts bytes that wait to be written, until it is dropped.
pub trait Tally: Send + Sync {
    /// Ready when there is no memory for them any more: the connection is to be closed.
    fn poll_revoked(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// What [`Source::poll_chunk`] appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// At least one byte; there may be more.
    More,
    /// At least one byte, and nothing more for now: the source has the waker.
    Drained,
    /// The last bytes, or none.
    Last,
    /// Nothing, and what came before is not the whole body: the writer must not end it as if it were.
    Broken,
}
