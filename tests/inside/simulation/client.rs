//! A client, its boxes and its bad luck: readers whose bytes are under way, answers that are lost, requests that are
//! repeated, pushes in every wrong order.
//!
//! Enters: chance, by way of the world. Leaves: calls of the world; what a client would have received. Must not touch:
//! the model, except to know what is right to ask for.

use std::collections::VecDeque;

use underpass::session::{Attach, AttachError, Attachment, Close, Message, Pulled, Pushed};

use super::model::Upstream;
use super::world::World;

/// Readers that are remembered, rivals included.
const READERS: usize = 5;

/// How the client's messages up are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbering {
    Numbered,
    Bare,
    Mixed,
}

/// One response body, from the pull to the client's script.
struct Reader {
    attachment: Attachment,
    is_poll: bool,
    /// Pulled, but not yet with the client.
    pipe: VecDeque<Item>,
    /// The client will see nothing more of it, whatever the server writes.
    cut: bool,
    /// The server has ended it.
    done: bool,
}

/// What a client's script is handed.
enum Item {
    Message(u64, Message),
    Lost(u64, u64),
    Close(u64, Close),
}

/// The client.
pub(crate) struct Client {
    acknowledging: bool,
    numbering: Numbering,
    /// It loses answers once in so many times.
    luck: u64,
    pub(crate) cursor: u64,
    pub(crate) closed: Option<Close>,
    readers: Vec<Reader>,
    outbox: Vec<Message>,
    /// Highest number up that it tried.
    pub(crate) tried: u64,
    /// Requests that a box may repeat.
    asked: Vec<Attach>,
    /// What a full queue did not take of a batch without a number.
    rest: Vec<Message>,
}

impl Client {
    pub(crate) fn new(acknowledging: bool, numbering: Numbering, luck: u64) -> Self {
        Self {
            acknowledging,
            numbering,
            luck,
            cursor: 0,
            closed: None,
            readers: Vec::new(),
            outbox: Vec::new(),
            tried: 0,
            asked: Vec::new(),
            rest: Vec::new(),
        }
    }

    // === down ===

    pub(crate) fn attach(&mut self, world: &mut World, is_poll: bool) -> Result<(), AttachError> {
        let unsaid = world.model.acknowledging && world.chance.one_in(12);
        let after = (!unsaid).then_some(self.cursor);
        let attach = Attach { after, acknowledging: self.acknowledging, is_poll };
        self.asked.push(attach);
        let (attachment, _) = world.attach(attach)?;
        self.readers.push(Reader { attachment, is_poll, pipe: VecDeque::new(), cut: false, done: false });
        if self.readers.len() > READERS {
            let oldest = self.readers.remove(0);
            world.detach(oldest.attachment);
        }
        Ok(())
    }

    /// A box repeats an old request; nobody listens to the answer.
    pub(crate) fn repeat_old_attach(&mut self, world: &mut World) {
        if self.asked.is_empty() {
            return;
        }
        let index = world.chance.below(self.asked.len() as u64) as usize;
        let attach = self.asked[index];
        if let Ok((attachment, _)) = world.attach(attach) {
            self.readers.push(Reader {
                attachment,
                is_poll: attach.is_poll,
                pipe: VecDeque::new(),
                cut: true,
                done: false,
            });
        }
    }

    /// A cursor that nobody can have.
    pub(crate) fn attach_beyond(&mut self, world: &mut World) {
        let after = Some(world.model.sent + world.chance.between(1, 3));
        let answer = world.attach(Attach { after, acknowledging: self.acknowledging, is_poll: false });
        assert!(matches!(answer, Err(AttachError::Beyond { .. })));
    }

    /// The server asks for more on behalf of some reader, mostly the newest.
    pub(crate) fn pull_some(&mut self, world: &mut World) {
        let Some(newest) = self.readers.len().checked_sub(1) else { return };
        let index = if world.chance.one_in(4) { world.chance.below(newest as u64 + 1) as usize } else { newest };
        let budget = world.chance.pick(&[0, 1, 64, 300, 2000, 1 << 20]);
        self.pull(world, index, budget);
    }

    fn pull(&mut self, world: &mut World, index: usize, budget: usize) {
        let reader = &mut self.readers[index];
        if reader.done {
            return;
        }
        let mut answered = reader.is_poll;
        let (pulled, messages) = world.pull(reader.attachment, budget);
        match pulled {
            Pulled::Batch { first, .. } => {
                reader.pipe.extend((first..).zip(messages).map(|(number, message)| Item::Message(number, message)));
            }
            Pulled::Lost { from, to } => {
                reader.pipe.push_back(Item::Lost(from, to));
                answered = false;
            }
            Pulled::Wait => answered &= world.chance.one_in(4),
            Pulled::Superseded => answered = true,
            Pulled::Ended { number, close } => {
                reader.pipe.push_back(Item::Close(number, close));
                answered = true;
            }
        }
        if answered {
            reader.done = true;
            world.detach(reader.attachment);
        }
    }

    /// Bytes arrive at the client, or are lost with their connection.
    pub(crate) fn receive_some(&mut self, world: &mut World) {
        if self.readers.is_empty() {
            return;
        }
        let index = world.chance.below(self.readers.len() as u64) as usize;
        if world.chance.one_in(self.luck) {
            self.readers[index].cut = true;
            world.cover("answer lost");
        }
        let count = world.chance.between(1, 12);
        self.receive(world, index, count);
    }

    fn receive(&mut self, world: &mut World, index: usize, count: u64) {
        if self.readers[index].cut {
            self.readers[index].pipe.clear();
        }
        for _ in 0..count {
            let Some(item) = self.readers[index].pipe.pop_front() else { return };
            self.script(world, item);
        }
    }

    fn script(&mut self, world: &mut World, item: Item) {
        match item {
            Item::Message(number, message) => {
                assert!(number <= self.cursor + 1, "a hole: {number} came after {}", self.cursor);
                if number > self.cursor {
                    assert_eq!(message, world.model.messages[self.cursor as usize].0, "content of {number}");
                    self.cursor = number;
                    world.cover("received");
                }
            }
            Item::Lost(from, to) => {
                assert!(from <= self.cursor + 1, "a hole before a loss");
                self.cursor = self.cursor.max(to);
            }
            Item::Close(number, close) => {
                assert!(number <= self.cursor + 1, "the close {number} came after {}", self.cursor);
                assert!(self.closed.as_ref().is_none_or(|earlier| *earlier == close), "two different closes");
                self.cursor = number;
                self.closed = Some(close);
                world.cover("close received");
            }
        }
    }

    /// A reader's connection ends and the server notices.
    pub(crate) fn drop_some(&mut self, world: &mut World) {
        if self.readers.is_empty() {
            return;
        }
        let index = world.chance.below(self.readers.len() as u64) as usize;
        let reader = self.readers.remove(index);
        world.detach(reader.attachment);
    }

    /// The network is gone. Boxes may go on reading for a client that is not there; a poll is answered some time.
    pub(crate) fn vanish(&mut self, world: &mut World) {
        for reader in &mut self.readers {
            reader.cut = true;
            if reader.is_poll || world.chance.one_in(2) {
                reader.done = true;
                world.detach(reader.attachment);
            }
        }
        world.cover("vanished");
    }

    /// A heartbeat is written.
    pub(crate) fn beat(&mut self, world: &mut World) {
        if let Some(reader) = self.readers.last()
            && !reader.done
        {
            world.wrote(reader.attachment);
        }
    }

    pub(crate) fn ack_some(&mut self, world: &mut World) {
        if !world.model.acknowledging && !world.chance.one_in(40) {
            return;
        }
        let cursor = match world.chance.below(10) {
            0 => world.chance.below(self.cursor + 1),
            1 => world.model.sent + world.chance.between(1, 3),
            2 => world.model.acked,
            _ => self.cursor,
        };
        world.ack(cursor);
    }

    // === up ===

    pub(crate) fn push_some(&mut self, world: &mut World) {
        let numbered = match self.numbering {
            Numbering::Numbered => true,
            Numbering::Bare => false,
            Numbering::Mixed => world.chance.one_in(2),
        };
        if !numbered {
            return self.push_unnumbered(world);
        }
        let next = world.model.next();
        let window = world.model.limits.reorder_window;
        let first = match world.chance.below(12) {
            0 => next.saturating_sub(world.chance.between(1, 5)).max(1),
            1 => next + window + world.chance.between(1, 3),
            2..=4 => next + world.chance.below(window + 1),
            _ => next,
        };
        let count = world.chance.pick(&[0, 1, 1, 1, 2, 3, 5, 9]);
        self.push_from(world, first, count);
    }

    fn push_from(&mut self, world: &mut World, first: u64, count: u64) -> Pushed {
        while (self.outbox.len() as u64) < first + count {
            let number = self.outbox.len() as u64 + 1;
            self.outbox.push(world.chance.message("up", number, 400));
        }
        let batch = self.outbox[first as usize - 1..][..count as usize].to_vec();
        let pushed = world.push(Some(first), &batch);
        if !matches!(pushed, Pushed::Gap { .. } | Pushed::Ended(_)) {
            self.tried = self.tried.max(first + count - 1);
        }
        pushed
    }

    fn push_unnumbered(&mut self, world: &mut World) {
        if self.rest.is_empty() {
            let count = world.chance.below(5);
            self.rest = (0..count).map(|index| world.chance.message("any", world.now.0 + index, 400)).collect();
        }
        let taken = match world.push(None, &self.rest) {
            Pushed::Busy { taken, .. } => taken,
            _ => self.rest.len(),
        };
        self.rest.drain(..taken);
    }

    // === the patient client of the end ===

    /// One round of a client that wants everything: true when there is nothing left to want.
    pub(crate) fn persist(&mut self, world: &mut World) -> bool {
        if self.closed.is_some() || world.model.finished {
            return true;
        }
        let is_poll = world.chance.one_in(2);
        if self.attach(world, is_poll).is_ok() {
            let newest = self.readers.len() - 1;
            for _ in 0..4 {
                self.pull(world, newest, 700);
            }
            self.receive(world, newest, u64::MAX);
            if !self.readers[newest].done && is_poll {
                world.detach(self.readers[newest].attachment);
                self.readers[newest].done = true;
            }
        }
        if world.model.acknowledging && self.closed.is_none() {
            world.ack(self.cursor);
        }
        let next = world.model.next();
        if self.numbering == Numbering::Numbered && next <= self.tried && world.model.closing.is_none() {
            self.push_from(world, next, (self.tried - next + 1).min(3));
        }
        let up = world.model.next() > self.tried || self.numbering != Numbering::Numbered;
        let down = self.cursor == world.model.last() && world.model.ended.is_none();
        down && up && world.model.given == world.model.accepted.len() && world.model.upstream == Upstream::Open
    }

    /// Asks again for a close that has been received: it must be told again.
    pub(crate) fn ask_again(&mut self, world: &mut World) {
        let after = Some(world.model.last().min(self.cursor));
        let attach = Attach { after, acknowledging: self.acknowledging, is_poll: true };
        let (attachment, _) = world.attach(attach).expect("the close was not acknowledged");
        let (again, _) = world.pull(attachment, 1);
        let expected = self.closed.clone().map(|close| Pulled::Ended { number: world.model.last() + 1, close });
        assert_eq!(Some(again), expected, "the close, told again");
        world.detach(attachment);
        world.cover("close repeated");
    }

    /// Presents a cursor, past the close when that has come.
    pub(crate) fn present(&self, world: &mut World) {
        let attach = Attach { after: Some(self.cursor), acknowledging: self.acknowledging, is_poll: false };
        let answer = world.attach(attach);
        assert!(matches!(answer, Err(AttachError::Ended(_))), "a cursor past the close was answered {answer:?}");
    }
}
