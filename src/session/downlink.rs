//! Down: numbers the backend's messages and keeps them until the client has them.
//!
//! Enters: messages, cursors, what the time is. Leaves: batches behind a cursor. Must not touch: attachments, a clock.
//!
//! ```text
//!  gone │ kept: acknowledged but not read yet · read (or lost on the way) · unread
//! ──────┼─────────────────────────────────────────────────────────────────────────► number
//!      base                                  read                               last
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::memory::give_back;
use super::types::{Message, Moment, is_default};

/// The kept messages and the four cursors over them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Downlink {
    /// Number of the last message that is gone; `kept[0]` has the number `base + 1`.
    #[serde(default, skip_serializing_if = "is_default")]
    base: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    kept: VecDeque<Kept>,
    /// Sum of the costs of all kept messages.
    #[serde(default, skip_serializing_if = "is_default")]
    kept_cost: usize,
    /// Sum of the costs of those above `read`.
    #[serde(default, skip_serializing_if = "is_default")]
    unread_cost: usize,
    /// Number of the last message that the newest reader was given.
    #[serde(default, skip_serializing_if = "is_default")]
    read: u64,
    /// Highest number that any reader was given. The close has a number too.
    #[serde(default, skip_serializing_if = "is_default")]
    sent: u64,
    /// Highest cursor the client presented as received.
    #[serde(default, skip_serializing_if = "is_default")]
    acked: u64,
}

/// A message, and when it came from the backend or, once a reader was given it, when that was last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    message: Message,
    since: Moment,
}

/// What [`Downlink::pull`] gave to the reader.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) bytes: usize,
    /// When the first one came from the backend; `None` when a reader was given it before.
    pub(super) arrived: Option<Moment>,
}

impl Kept {
    fn cost(&self) -> usize {
        self.message.cost()
    }
}

impl Downlink {
    pub(super) fn push(&mut self, now: Moment, message: Message) {
        self.kept_cost += message.cost();
        self.unread_cost += message.cost();
        self.kept.push_back(Kept { message, since: now });
    }

    /// Number of the last message that came.
    pub(super) fn last(&self) -> u64 {
        self.base + self.kept.len() as u64
    }

    /// True when nothing is gone that follows `cursor`, and a reader was given so much.
    pub(super) fn reaches(&self, cursor: u64) -> bool {
        (self.base..=self.sent.min(self.last())).contains(&cursor)
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    pub(super) fn kept_cost(&self) -> usize {
        self.kept_cost
    }

    pub(super) fn unread_cost(&self) -> usize {
        self.unread_cost
    }

    /// Reading goes on behind `cursor`; the caller has checked that it is not beyond `sent`.
    pub(super) fn seek(&mut self, cursor: u64) {
        self.read = cursor;
        let read = self.index(cursor);
        self.unread_cost = self.kept.iter().skip(read).map(Kept::cost).sum();
    }

    /// Skips messages that are gone and returns the first and the last lost number.
    pub(super) fn skip_lost(&mut self) -> Option<(u64, u64)> {
        if self.read >= self.base {
            return None;
        }
        let lost = (self.read + 1, self.base);
        self.read = self.base;
        Some(lost)
    }

    /// Gives the next messages to the reader: payloads up to `budget` bytes together, but at least one message.
    pub(super) fn pull(&mut self, now: Moment, budget: usize, mut each: impl FnMut(u64, &Message)) -> Option<Batch> {
        let start = self.index(self.read);
        let arrived = self.kept.get(start)?.since;
        let first = self.read + 1;
        let (mut number, mut bytes, mut cost) = (self.read, 0, 0);
        for kept in self.kept.range_mut(start..) {
            let size = kept.message.payload().len();
            if bytes + size > budget && number >= first {
                break;
            }
            number += 1;
            bytes += size;
            cost += kept.cost();
            kept.since = now;
            each(number, &kept.message);
        }
        let fresh = first > self.sent;
        self.read = number;
        self.sent = self.sent.max(number);
        self.unread_cost -= cost;
        Some(Batch { first, count: number + 1 - first, bytes, arrived: fresh.then_some(arrived) })
    }

    /// The reader is given the close, whose number follows that of the last message.
    pub(super) fn pull_close(&mut self) -> u64 {
        let number = self.last() + 1;
        self.read = number;
        self.sent = number;
        number
    }

    /// Notes that the client has everything up to `cursor`. True when it had not acknowledged that much before.
    pub(super) fn acknowledge(&mut self, cursor: u64) -> bool {
        let advanced = cursor > self.acked;
        self.acked = self.acked.max(cursor);
        advanced
    }

    /// Frees what is acknowledged. While a reader is attached, messages that it has not read yet stay: clients count frames,
    /// so a reader that has begun below must be given every number.
    pub(super) fn release(&mut self, attached: bool) {
        let end = if attached { self.acked.min(self.read) } else { self.acked };
        while self.base < end && self.drop_front() {}
        if !attached && self.read < self.base {
            self.read = self.base;
        }
    }

    /// Frees the oldest read messages beyond `window` bytes: the replay window of a bare session.
    pub(super) fn trim(&mut self, window: usize) {
        while self.base < self.read && self.kept_cost - self.unread_cost > window && self.drop_front() {}
    }

    /// Frees what was read `age` ago or earlier.
    pub(super) fn trim_older(&mut self, now: Moment, age: Duration) {
        while self.oldest_read().is_some_and(|read| read.after(age) <= now) && self.drop_front() {}
    }

    /// When the oldest message was read that is still kept after that.
    pub(super) fn oldest_read(&self) -> Option<Moment> {
        self.kept.front().filter(|_| self.base < self.read).map(|kept| kept.since)
    }

    /// Keeps no more room than the messages need.
    pub(super) fn shrink(&mut self) {
        self.kept.shrink_to_fit();
    }

    /// Drops everything that is kept. A reader that was not given all of it is told what it lost.
    pub(super) fn clear(&mut self) {
        self.base = self.last();
        self.kept = VecDeque::new();
        (self.kept_cost, self.unread_cost) = (0, 0);
    }

    fn drop_front(&mut self) -> bool {
        let unread = self.base >= self.read;
        let Some(kept) = self.kept.pop_front() else { return false };
        self.base += 1;
        self.kept_cost -= kept.cost();
        if unread {
            self.unread_cost -= kept.cost();
        }
        give_back(&mut self.kept);
        true
    }

    fn index(&self, cursor: u64) -> usize {
        usize::try_from(cursor.saturating_sub(self.base)).unwrap_or(usize::MAX)
    }

    /// Checks the invariants; the error names the one that is broken.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let unread: usize = self.kept.iter().skip(self.index(self.read)).map(Kept::cost).sum();
        let kept: usize = self.kept.iter().map(Kept::cost).sum();
        if kept != self.kept_cost {
            return Err("kept cost");
        }
        if unread != self.unread_cost {
            return Err("unread cost");
        }
        if self.sent > self.last() + 1 || self.read > self.sent.max(self.base) || self.acked > self.sent {
            return Err("cursor order");
        }
        Ok(())
    }
}
