//! Messages up, and the waiting for room.
//!
//! Enters: batches of a client. Leaves: what became of them, after a bounded wait, in which they are counted. Must not touch:
//! order and numbers, which are the core's.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::{Instant, timeout_at};

use super::live_session::LiveSession;
use super::moved::Moved;
use crate::session::{Message, Pushed};

/// A push among those that wait for room.
struct Crowded<'a> {
    crowd: &'a AtomicUsize,
    own: usize,
    /// What the others held when it came.
    others: usize,
}

impl<'a> Crowded<'a> {
    fn enter(crowd: &'a AtomicUsize, own: usize) -> Self {
        Self { crowd, own, others: crowd.fetch_add(own, Ordering::Relaxed) }
    }
}

impl Drop for Crowded<'_> {
    fn drop(&mut self) {
        self.crowd.fetch_sub(self.own, Ordering::Relaxed);
    }
}

impl LiveSession {
    /// Takes messages up, waiting a bounded time for room: no time at all where the pushes that wait would hold more than
    /// `crowd` bytes together. Cancel-safe: what was accepted stays accepted.
    ///
    /// # Errors
    /// [`Moved`]: what was accepted before has moved with the session, and its numbers tell which that is.
    pub async fn push(&self, first: Option<u64>, batch: &[Message], crowd: usize) -> Result<Pushed, Moved> {
        let pushed = self.act(|state, now| state.session.push(now, first, batch))?;
        let Pushed::Busy { taken, .. } = pushed else { return Ok(pushed) };
        let rest = &batch[taken..];
        let crowded = Crowded::enter(&self.crowd, rest.iter().map(Message::cost).sum());
        if crowded.others > 0 && crowded.others.saturating_add(crowded.own) > crowd {
            return Ok(pushed);
        }
        Box::pin(self.push_rest(first.map(|first| first + taken as u64), rest, taken)).await
    }

    /// Pushes what found no room at once; `before` is how many of the batch did.
    async fn push_rest(
        &self,
        mut first: Option<u64>,
        mut batch: &[Message],
        mut before: usize,
    ) -> Result<Pushed, Moved> {
        let deadline = Instant::now() + self.policy().busy;
        let mut held = self.account.part();
        loop {
            // What was taken is counted where it is, but its entry in the batch is still there.
            held.set(batch.iter().map(Message::cost).sum::<usize>() + before * size_of::<Message>());
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let pushed = self.act(|state, now| state.session.push(now, first, batch))?;
            let Pushed::Busy { taken, .. } = pushed else { return Ok(pushed) };
            batch = &batch[taken..];
            before += taken;
            first = first.map(|first| first + taken as u64);
            if timeout_at(deadline, room).await.is_err() {
                return Ok(pushed);
            }
        }
    }
}
