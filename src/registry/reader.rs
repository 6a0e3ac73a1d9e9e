//! What a transport holds of a session: the right to read its down channel.
//!
//! Enters: polls of a transport. Leaves: what the session has for it, wake-ups. Must not touch: sockets, HTTP.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::cell::{Cell, register};
use super::tally::Transport;
use crate::session::{Attachment, Message, Pulled};

/// The right to read a session's down channel; dropping it detaches.
pub struct Reader {
    cell: Arc<Cell>,
    attachment: Attachment,
    transport: Transport,
    from: u64,
    resumed: bool,
}

impl Reader {
    pub(super) fn new(cell: Arc<Cell>, attachment: Attachment, transport: Transport, from: u64, resumed: bool) -> Self {
        Self { cell, attachment, transport, from, resumed }
    }

    /// The session.
    #[must_use]
    pub fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    /// The cursor at which reading started.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.from
    }

    /// True when the session was attached before.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// What comes next. Messages are handed to `each` with their numbers: payloads up to `budget` bytes together, but at
    /// least one message. `each` runs under the session's mutex. Pending registers the waker.
    pub fn poll_pull(&mut self, cx: &Context<'_>, budget: usize, each: impl FnMut(u64, &Message)) -> Poll<Pulled> {
        let pulled = self.cell.act(|state, now| {
            let pulled = state.session.pull(now, self.attachment, budget, each);
            if pulled == Pulled::Wait {
                register(&mut state.reader, cx);
            }
            pulled
        });
        match pulled {
            Pulled::Wait => Poll::Pending,
            pulled => {
                self.count(&pulled);
                Poll::Ready(pulled)
            }
        }
    }

    fn count(&self, pulled: &Pulled) {
        let Pulled::Batch { count, bytes, arrived, .. } = pulled else { return };
        self.cell.tally.down(self.transport, *count, *bytes as u64);
        if let Some(arrived) = arrived {
            let delay = self.cell.moment(Instant::now()).since(*arrived);
            self.cell.tally.delivered(self.transport, delay);
        }
    }

    /// The stream took a write that carried no message.
    pub fn wrote(&self) {
        self.cell.act(|state, now| state.session.wrote(now, self.attachment));
    }

    /// When the process wants this client to leave, if it does.
    #[must_use]
    pub fn leave_at(&self) -> Option<Instant> {
        match self.cell.leave.load(Ordering::Acquire) {
            0 => None,
            at => Some(self.cell.epoch + Duration::from_micros(at)),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.cell.act(|state, now| {
            let current = state.session.is_current(self.attachment);
            state.session.detach(now, self.attachment);
            if current {
                let left = state.attached.take();
                if state.active {
                    self.cell.tally.moved(left, None);
                }
            }
        });
    }
}
