//! Up: puts the client's messages in order, drops twins, holds what came early, and queues for the backend.
//!
//! Enters: batches with the number of their first message, or none. Leaves: one message at a time. Must not touch:
//! time, the down channel.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::event::Message;

/// The queue towards the backend and what waits for a gap to be filled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Uplink {
    /// The number expected next.
    next: u64,
    ready: VecDeque<Message>,
    ready_cost: usize,
    held: BTreeMap<u64, Message>,
    held_cost: usize,
    /// Messages given to the backend.
    given: u64,
    /// Somebody was told that the queue is full.
    starved: bool,
}

/// What [`Uplink::push`] did with a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    All,
    /// Only so many; the queue is full.
    Some(usize),
    /// None: the batch starts too far ahead.
    Gap,
}

impl Uplink {
    pub(super) fn new() -> Self {
        Self {
            next: 1,
            ready: VecDeque::new(),
            ready_cost: 0,
            held: BTreeMap::new(),
            held_cost: 0,
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
    /// `window` bounds the distance of what is held (in messages), `queue` all that waits, held messages included (in
    /// bytes). When nothing waits for the backend the next message is taken whatever its size, and when nothing waits at
    /// all an early batch is: else they could never be.
    pub(super) fn push(&mut self, first: Option<u64>, batch: &[Message], window: u64, queue: usize) -> Taken {
        match first {
            _ if batch.is_empty() => Taken::All,
            Some(first) if first > self.next => self.hold(first, batch, window, queue),
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
                return Taken::Some(index);
            }
            self.enqueue(message.clone());
            self.release();
        }
        Taken::All
    }

    fn hold(&mut self, first: u64, batch: &[Message], window: u64, queue: usize) -> Taken {
        if first.saturating_add(batch.len() as u64) > self.next.saturating_add(window).saturating_add(1) {
            return Taken::Gap;
        }
        // Twins of held messages cost nothing: a batch that is repeated is accepted even when the queue is full.
        let fresh = || (first..).zip(batch).filter(|(number, _)| !self.held.contains_key(number));
        let cost: usize = fresh().map(|(_, message)| message.cost()).sum();
        if cost > 0 && self.waiting_cost() > 0 && self.waiting_cost() + cost > queue {
            self.starved = true;
            return Taken::Some(0);
        }
        let fresh: Vec<_> = fresh().map(|(number, message)| (number, message.clone())).collect();
        self.held.extend(fresh);
        self.held_cost += cost;
        Taken::All
    }

    fn waiting_cost(&self) -> usize {
        self.ready_cost + self.held_cost
    }

    fn enqueue(&mut self, message: Message) {
        self.ready_cost += message.cost();
        self.ready.push_back(message);
        self.next += 1;
    }

    /// Moves what the gap has held back. Held numbers lie above `next`, so none is passed over.
    fn release(&mut self) {
        while let Some(message) = self.held.remove(&self.next) {
            self.held_cost -= message.cost();
            self.enqueue(message);
        }
    }

    /// The next message for the backend.
    pub(super) fn take(&mut self) -> Option<Message> {
        let message = self.ready.pop_front()?;
        self.ready_cost -= message.cost();
        self.given += 1;
        if self.ready.is_empty() {
            self.ready = VecDeque::new();
        }
        Some(message)
    }

    /// True once after room was made for those who were told that the queue is full.
    pub(super) fn take_starved(&mut self) -> bool {
        std::mem::take(&mut self.starved)
    }

    /// Forgets everything that waits: there is no backend any more.
    pub(super) fn clear(&mut self) {
        self.ready = VecDeque::new();
        self.ready_cost = 0;
        self.held = BTreeMap::new();
        self.held_cost = 0;
    }

    /// What must always hold; the name of what does not.
    pub(super) fn check(&self, window: u64) -> Result<(), &'static str> {
        if self.ready.iter().map(Message::cost).sum::<usize>() != self.ready_cost {
            return Err("ready cost");
        }
        if self.held.values().map(Message::cost).sum::<usize>() != self.held_cost {
            return Err("held cost");
        }
        let inside = |number: &u64| *number > self.next && *number <= self.next + window;
        if !self.held.keys().all(inside) {
            return Err("held outside the window");
        }
        Ok(())
    }
}
