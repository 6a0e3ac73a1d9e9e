//! What was read of a WebSocket and not yet delivered: the read-ahead below the codec, and the way past it. Pure.
//!
//! Enters: bytes as they were read, and the word that a message was delivered. Leaves: bytes for the codec, plain messages,
//! and on request all that is not yet delivered. Must not touch: a socket, a clock, what the messages say.
//!
//! The codec cannot be taken apart without loss: it keeps half a frame's header and collected fragments to itself. So what
//! was given to it stays here until the message is delivered.

use std::mem;

use bytes::Bytes;

use crate::upstream::frame::{BINARY, CONTINUATION, FrameHeader, TEXT, mask};

/// Frames of at least so many bytes are read into a buffer of their own, to their end and no further, and it becomes the
/// message: copying one of many MiB would for a moment hold it twice. Smaller ones are copied out of the log.
const LARGE: usize = 64 * 1024;

/// So much of a large frame must have come before there is room for all of it, in bytes.
const TRUSTED: usize = 1024 * 1024;

/// What the codec has delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// A text or binary message: all its fragments.
    Message,
    /// A close, ping or pong frame.
    Control,
}

/// What lies next in the log, for who would go past the codec.
#[derive(Debug)]
pub(super) enum Next {
    /// A message in a frame of its own: its opcode and its payload.
    Plain(u8, Bytes),
    /// The codec must see to it.
    Codec,
    /// Too little has come.
    More,
}

/// The log. An empty one owns no heap.
#[derive(Debug, Default)]
pub(super) struct ReadLog {
    /// `..head` delivered, `head..open` complete fragments of an unfinished message, `..given` with the codec.
    /// `head <= open <= given` holds outside `ack` and `absorb`.
    bytes: Vec<u8>,
    head: usize,
    open: usize,
    given: usize,
}

impl ReadLog {
    /// Goes on with what another log had not delivered.
    pub(super) fn new(undelivered: Vec<u8>) -> Self {
        Self { bytes: undelivered, ..Self::default() }
    }

    /// What is not delivered.
    pub(super) fn into_undelivered(mut self) -> Vec<u8> {
        self.bytes.drain(..self.head);
        self.bytes
    }

    /// The same, for a look.
    pub(super) fn undelivered_bytes(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    /// Bytes read and not yet delivered.
    pub(super) fn undelivered(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Bytes of the log, with what the codec has copied of an unfinished message. Room of which nothing was used yet takes no
    /// memory.
    pub(super) fn held(&self) -> usize {
        self.bytes.len() + (self.given - self.head)
    }

    #[cfg(test)]
    pub(super) fn buffer(&self) -> &Vec<u8> {
        &self.bytes
    }

    /// What the codec has not been given.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.given..]
    }

    /// The codec has so much more of it.
    pub(super) fn give(&mut self, count: usize) {
        self.given += count;
    }

    /// Forgets everything. The codec on top must be a fresh one.
    pub(super) fn clear(&mut self) {
        self.forget(self.bytes.len());
    }

    /// Forgets the frames of what the codec has just delivered. To be called for every message and control frame, in
    /// order, before the codec reads on.
    pub(super) fn ack(&mut self, delivered: Delivered) {
        while let Some((header, end)) = self.frame_at(self.open) {
            let start = mem::replace(&mut self.open, end);
            match delivered {
                Delivered::Message if header.fin && !header.is_control() => return self.forget(end),
                Delivered::Control if header.is_control() && start == self.head => return self.forget(end),
                Delivered::Control if header.is_control() => return self.cut_open(start),
                Delivered::Message | Delivered::Control => {}
            }
        }
        debug_assert!(false, "the codec delivered {delivered:?}, which was never given to it");
    }

    /// How much is to be read next at most, where blocks have `block` bytes. A large frame is read to its end and no
    /// further, so that its buffer has nothing else.
    pub(super) fn wanted(&mut self, block: usize) -> usize {
        self.absorb();
        self.compact();
        self.large_end().map_or(block, |end| end - self.bytes.len())
    }

    /// Takes what was read.
    pub(super) fn append(&mut self, block: &[u8]) {
        self.reserve(block.len());
        self.bytes.extend_from_slice(block);
    }

    /// What comes next. It is plain when it is a whole frame: final, no extension, a text that is UTF-8, at most `most`
    /// bytes, and `masked` or not, as the peer's must be.
    pub(super) fn next(&mut self, most: usize, masked: bool) -> Next {
        if self.head != self.given {
            return Next::Codec;
        }
        let Some(header) = FrameHeader::parse(&self.bytes[self.head..]) else { return Next::More };
        let data = header.fin && header.rsv == 0 && matches!(header.opcode, TEXT | BINARY);
        if !data || header.masked != masked || header.payload_len > most as u64 {
            return Next::Codec;
        }
        match self.frame_at(self.head) {
            Some((header, end)) => self.take_plain(&header, end),
            None => Next::More,
        }
    }

    /// Drops everything up to `end`, and the buffer with the last byte.
    fn forget(&mut self, end: usize) {
        (self.head, self.open) = (end, end);
        if end == self.bytes.len() {
            (self.bytes, self.head, self.open, self.given) = (Vec::new(), 0, 0, 0);
        }
    }

    /// Takes `start..self.open` out of the middle; the fragments before it stay.
    fn cut_open(&mut self, start: usize) {
        self.bytes.drain(start..self.open);
        self.given -= self.open - start;
        self.open = start;
    }

    /// The header and the end of the frame that begins at `at`, if all of it is here.
    fn frame_at(&self, at: usize) -> Option<(FrameHeader, usize)> {
        let rest = &self.bytes[at..];
        let header = FrameHeader::parse(rest)?;
        let end = header.end(at);
        (end <= self.bytes.len()).then_some((header, end))
    }

    /// Where the frame ends of which a beginning lies at the end of the log, if it is a large one.
    fn large_end(&self) -> Option<usize> {
        let header = FrameHeader::parse(&self.bytes[self.open..])?;
        let end = header.end(self.open);
        (header.payload_len >= LARGE as u64 && end > self.bytes.len()).then_some(end)
    }

    /// Makes room for a block. For a large frame: for all of it once [`TRUSTED`] bytes of it have come, so that many MiB are
    /// not copied from buffer to buffer. Before that the length that it announces is no reason to take so much.
    fn reserve(&mut self, block: usize) {
        let needed = self.bytes.len() + block;
        if needed <= self.bytes.capacity() {
            return;
        }
        if let Some(end) = self.large_end() {
            let twice = self.bytes.capacity() * 2;
            let room = if needed < TRUSTED { twice.clamp(needed, end.max(needed)) } else { end };
            self.bytes.reserve_exact(room.max(needed) - self.bytes.len());
        }
    }

    /// Takes the frame `self.head..end` out of the log with its buffer, when it is large; the payload of it.
    fn take_large(&mut self, header: &FrameHeader, end: usize) -> Option<Bytes> {
        if header.payload_len < LARGE as u64 {
            return None;
        }
        let rest = self.bytes.split_off(end);
        let frame = Bytes::from(mem::replace(&mut self.bytes, rest));
        let payload = frame.slice(self.head + header.header_len..);
        (self.head, self.open, self.given) = (0, 0, 0);
        Some(payload)
    }

    /// The whole frame `self.head..end`, unless it is a text that is none: then nothing has changed, and the codec finds it.
    fn take_plain(&mut self, header: &FrameHeader, end: usize) -> Next {
        let start = self.head + header.header_len;
        let key = header.masked.then(|| self.bytes[..start].last_chunk().copied()).flatten();
        if let Some(key) = key {
            mask(&mut self.bytes[start..end], key);
        }
        if header.opcode == TEXT && std::str::from_utf8(&self.bytes[start..end]).is_err() {
            if let Some(key) = key {
                mask(&mut self.bytes[start..end], key);
            }
            return Next::Codec;
        }
        let payload = self.take_large(header, end).unwrap_or_else(|| {
            let payload = Bytes::copy_from_slice(&self.bytes[start..end]);
            self.given = end;
            self.forget(end);
            payload
        });
        Next::Plain(header.opcode, payload)
    }

    /// Walks over complete fragments, once each, when the codec has everything and wants more. Empty continuations
    /// mean nothing and go: a backend could send any number of them without making its message too large.
    fn absorb(&mut self) {
        loop {
            let start = self.open;
            while let Some((header, end)) = self.frame_at(self.open)
                && (header.fin, header.opcode, header.payload_len) == (false, CONTINUATION, 0)
            {
                self.open = end;
            }
            if self.open > start {
                self.cut_open(start);
            }
            match self.frame_at(self.open) {
                Some((header, end)) if !header.fin && !header.is_control() => self.open = end,
                Some(_) | None => return,
            }
        }
    }

    /// Lets go of delivered bytes, and of the room they took.
    fn compact(&mut self) {
        if self.head > 0 {
            self.bytes = self.bytes.split_off(self.head);
            self.open -= self.head;
            self.given -= self.head;
            self.head = 0;
        }
    }
}
