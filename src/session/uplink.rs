//! Up: puts the client's messages in order, drops duplicates, keeps what came early, and queues for the backend.
//!
//! Enters: batches with the number of their first message, or none. Leaves: one message at a time. Must not touch:
//! time, the down channel.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::memory::give_back;
use super::types::{Message, is_default};

/// The queue towards the backend, and the messages that wait until a gap before them is filled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Uplink {
    /// The number expected next.
    next: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    ready: VecDeque<Message>,
    #[serde(default, skip_serializing_if = "is_default")]
    ready_cost: usize,
    /// Messages that came before one with a lower number, by their number.
    #[serde(default, skip_serializing_if = "is_default")]
    early: BTreeMap<u64, Message>,
    #[serde(default, skip_serializing_if = "is_default")]
    early_cost: usize,
    /// How many messages were given to the backend.
    #[serde(default, skip_serializing_if = "is_default")]
    given: u64,
    /// A push was refused because the queue is full, so somebody may wait for room.
    #[serde(default, skip_serializing_if = "is_default")]
    starved: bool,
}

/// What [`Uplink::push`] did with a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    All,
    /// Only the first so many; the queue is full.
    Part(usize),
    /// None: the batch starts too far ahead.
    Gap,
}

impl Uplink {
    pub(super) fn new() -> Self {
        Self {
            next: 1,
            ready: VecDeque::new(),
            ready_cost: 0,
            early: BTreeMap::new(),
            early_cost: 0,
            given: 0,
            starved: false,
        }
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn given(&self) -> u64 {
        self.given
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Takes a batch whose first message has the number `first`; without one, messages take the next numbers.
    /// `window` limits how far ahead an early message may be (in messages), `queue` limits all that waits, early messages
    /// included (in bytes). When nothing waits for the backend, the next message is taken whatever its size, and when
    /// nothing waits at all an early batch is taken: otherwise one that is larger than the queue never could be.
    pub(super) fn push(&mut self, first: Option<u64>, batch: &[Message], window: u64, queue: usize) -> Taken {
        match first {
            _ if batch.is_empty() => Taken::All,
            Some(first) if first > self.next => self.keep_early(first, batch, window, queue),
            _ => self.append(first, batch, queue),
        }
    }

    fn append(&mut self, first: Option<u64>, batch: &[Message], queue: usize) -> Taken {
        for (index, message) in batch.iter().enumerate() {
            let number = first.map_or(self.next, |first| first + index as u64);
            if number < self.next {
                continue;
            }
            if !self.ready.is_empty() && self.waiting_cost() + message.cost() > queue {
                self.starved = true;
                return Taken::Part(index);
            }
            self.enqueue(message.clone());
            self.release();
        }
        Taken::All
    }

    fn keep_early(&mut self, first: u64, batch: &[Message], window: u64, queue: usize) -> Taken {
        if first.saturating_add(batch.len() as u64) > self.next.saturating_add(window).saturating_add(1) {
            return Taken::Gap;
        }
        // Duplicates of early messages cost nothing: a batch that is repeated is accepted even when the queue is full.
        let fresh = || (first..).zip(batch).filter(|(number, _)| !self.early.contains_key(number));
        let cost: usize = fresh().map(|(_, message)| message.cost()).sum();
        if cost > 0 && self.waiting_cost() > 0 && self.waiting_cost() + cost > queue {
            self.starved = true;
            return Taken::Part(0);
        }
        let fresh: Vec<_> = fresh().map(|(number, message)| (number, message.clone())).collect();
        self.early.extend(fresh);
        self.early_cost += cost;
        Taken::All
    }

    /// Sum of the costs of all that waits, early messages included.
    pub(super) fn waiting_cost(&self) -> usize {
        self.ready_cost + self.early_cost
    }

    fn enqueue(&mut self, message: Message) {
        self.ready_cost += message.cost();
        self.ready.push_back(message);
        self.next += 1;
    }

    /// Queues the early messages whose gap is filled now. Their numbers lie above `next`, so none is skipped.
    fn release(&mut self) {
        while let Some(message) = self.early.remove(&self.next) {
            self.early_cost -= message.cost();
            self.enqueue(message);
        }
    }

    /// The next message for the backend.
    pub(super) fn take(&mut self) -> Option<Message> {
        let message = self.ready.pop_front()?;
        self.ready_cost -= message.cost();
        self.given += 1;
        give_back(&mut self.ready);
        Some(message)
    }

    /// Whether a push was refused since the last call; asked when there is room again.
    pub(super) fn take_starved(&mut self) -> bool {
        std::mem::take(&mut self.starved)
    }

    /// Drops everything that waits: there is no backend any more.
    pub(super) fn clear(&mut self) {
        self.ready = VecDeque::new();
        self.ready_cost = 0;
        self.early = BTreeMap::new();
        self.early_cost = 0;
    }

    /// Checks the invariants; the error names the one that is broken.
    pub(super) fn check(&self, window: u64) -> Result<(), &'static str> {
        if self.ready.iter().map(Message::cost).sum::<usize>() != self.ready_cost {
            return Err("ready cost");
        }
        if self.early.values().map(Message::cost).sum::<usize>() != self.early_cost {
            return Err("early cost");
        }
        let inside = |number: &u64| *number > self.next && *number <= self.next + window;
        if !self.early.keys().all(inside) {
            return Err("early outside the window");
        }
        Ok(())
    }
}
