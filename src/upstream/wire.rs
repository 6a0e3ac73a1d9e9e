//! Between the socket and the WebSocket codec: knows at every moment which bytes were read but not yet delivered as
//! messages, and which were given to be sent but are not yet with the kernel.
//!
//! Enters: bytes of the socket, bytes of the codec, and the word that a message was delivered. Leaves: the same bytes,
//! and on request all that is in between as plain data, from which another process goes on. Must not touch: what the
//! messages say, the codec's types, a clock.
//!
//! The codec itself cannot be taken apart without loss: it keeps read-ahead bytes, half a frame's header and collected
//! fragments to itself. So the wire keeps a log of what it gave to the codec until the message is delivered; a fresh
//! codec that reads the log again is in the state of the old one. The log is also the read-ahead: the socket is read
//! in large blocks, and the codec can do with a very small buffer of its own.

use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::block::with_block;
use crate::upstream::frame::{BINARY, CONTINUATION, FrameHeader, TEXT};

/// Pongs that may wait for a backend which pings but does not read, in bytes. Further ones are dropped: it has some
/// hundred to read already, and RFC 6455 section 5.5.3 asks for an answer to the latest ping only.
const MAX_PONGS: usize = 8 * 1024;

/// What was delivered, see [`Wire::ack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// A text or binary message: all its fragments.
    Message,
    /// A close, ping or pong frame.
    Control,
}

/// All that lies between the socket and the session, for a hand-over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireState {
    /// Read from the kernel, not yet delivered: whole frames, fragments of an unfinished message, part of a frame.
    pub unread: Bytes,
    /// To be sent, not yet taken by the kernel.
    pub tx: Bytes,
}

/// The wrapper. Polled by one task only. An idle one owns no heap.
#[derive(Debug)]
pub struct Wire<S> {
    socket: S,
    /// Bytes read: `..head` delivered, `head..open` complete fragments of an unfinished message, `..given` with the
    /// codec. `head <= open <= given` holds outside `ack` and `absorb`.
    log: Vec<u8>,
    head: usize,
    open: usize,
    given: usize,
    /// Bytes to be sent; the first `sent` are gone.
    tx: Vec<u8>,
    sent: usize,
    /// Bytes of pongs put into `tx` since it was last empty.
    pongs: usize,
}

impl<S> Wire<S> {
    /// A wire over `socket`; `unread` is what was read from it too early, behind the response head.
    pub fn new(socket: S, unread: Bytes) -> Self {
        Self::from_parts(socket, WireState { unread, tx: Bytes::new() })
    }

    /// Goes on where [`Wire::into_parts`] stopped. The codec on top must be a fresh one.
    pub fn from_parts(socket: S, state: WireState) -> Self {
        // Copied, so that a piece of a larger block does not hold the block.
        let (log, tx) = (state.unread.to_vec(), state.tx.to_vec());
        Self { socket, log, head: 0, open: 0, given: 0, tx, sent: 0, pongs: 0 }
    }

    /// The socket, and what is under way in both directions. The codec on top is worthless afterwards.
    pub fn into_parts(mut self) -> (S, WireState) {
        self.log.drain(..self.head);
        self.tx.drain(..self.sent);
        (self.socket, WireState { unread: self.log.into(), tx: self.tx.into() })
    }

    /// Bytes that the kernel has not yet taken.
    #[must_use]
    pub fn tx_len(&self) -> usize {
        self.tx.len() - self.sent
    }

    /// Bytes read and not yet delivered.
    #[must_use]
    pub fn unread_len(&self) -> usize {
        self.log.len() - self.head
    }

    /// Forgets the frames of what the codec has just delivered. To be called for every message and control frame, in
    /// order, before the codec reads on.
    pub fn ack(&mut self, delivered: Delivered) {
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

    /// The codec's side, for one call of it. Without a context nothing touches the socket: what is written only waits
    /// for the next flush.
    pub fn side<'a, 'b>(&'a mut self, cx: Option<&'a mut Context<'b>>) -> WireSide<'a, 'b, S> {
        WireSide { wire: self, cx }
    }

    /// Drops everything up to `end`, and the buffer with the last byte.
    fn forget(&mut self, end: usize) {
        (self.head, self.open) = (end, end);
        if end == self.log.len() {
            (self.log, self.head, self.open, self.given) = (Vec::new(), 0, 0, 0);
        }
    }

    /// Takes `start..self.open` out of the middle; the fragments before it stay.
    fn cut_open(&mut self, start: usize) {
        self.log.drain(start..self.open);
        self.given -= self.open - start;
        self.open = start;
    }

    /// The header and the end of the frame that begins at `at`, if all of it is here.
    fn frame_at(&self, at: usize) -> Option<(FrameHeader, usize)> {
        let rest = &self.log[at..];
        let header = FrameHeader::parse(rest)?;
        let end = usize::try_from(header.payload_len).ok()?.checked_add(header.header_len)?;
        (end <= rest.len()).then_some((header, at + end))
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
            self.log = self.log.split_off(self.head);
            self.open -= self.head;
            self.given -= self.head;
            self.head = 0;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// The next message, when it is a whole frame and plain: final, not masked, no extension, at most `most` bytes.
    /// It is handed to `deliver` with its opcode straight from the log, past the codec, which saves half of what a small
    /// message costs. `None` when the codec must see to what comes next: it is in the middle of something, the frame is
    /// of another kind, `deliver` gave `None`, or the socket ended.
    pub fn poll_plain<R>(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        deliver: impl Fn(u8, &[u8]) -> Option<R>,
    ) -> Poll<Option<R>> {
        while self.head == self.given {
            if let Some(header) = FrameHeader::parse(&self.log[self.head..]) {
                let plain = header.fin && header.rsv == 0 && !header.masked && matches!(header.opcode, TEXT | BINARY);
                if !plain || header.payload_len > most as u64 {
                    return Poll::Ready(None);
                }
                if let Some((header, end)) = self.frame_at(self.head) {
                    let delivered = deliver(header.opcode, &self.log[self.head + header.header_len..end]);
                    if delivered.is_some() {
                        self.given = end;
                        self.forget(end);
                    }
                    return Poll::Ready(delivered);
                }
            }
            let before = self.log.len() - self.head;
            // What is wrong with the socket shows again when the codec reads it.
            if ready!(self.poll_fill(cx)).is_err() || self.log.len() - self.head == before {
                break;
            }
        }
        Poll::Ready(None)
    }

    /// Gives the kernel what waits; ready when it has all. An error repeats itself at every call.
    ///
    /// # Errors
    /// What the socket reports. Messages may have come before it: read on until that ends as well.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.tx.len() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.tx[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        (self.tx, self.sent, self.pongs) = (Vec::new(), 0, 0);
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    /// Reads and throws away until the peer ends or the connection breaks. The codec must not be used afterwards.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.forget(self.log.len());
        loop {
            match ready!(self.poll_block(cx, |_, block| block.len())) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }

    /// Reads one block and calls `take` with it; empty at the end of the stream.
    fn poll_block<R>(&mut self, cx: &mut Context<'_>, take: impl FnOnce(&mut Self, &[u8]) -> R) -> Poll<io::Result<R>> {
        with_block(|block| {
            let mut block = ReadBuf::new(block);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut block))?;
            Poll::Ready(Ok(take(self, block.filled())))
        })
    }

    /// Puts one block behind the log.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.absorb();
        self.compact();
        self.poll_block(cx, |wire, block| wire.log.extend_from_slice(block))
    }

    /// Accepts an answer that the codec gives while it reads: a pong or the echo of a close.
    fn accept_answer(&mut self, frame: &[u8]) {
        const PONG: u8 = 0xA;
        if frame.first().is_some_and(|first| first & 0xF == PONG) {
            if self.pongs + frame.len() > MAX_PONGS {
                return;
            }
            self.pongs += frame.len();
        }
        self.tx.extend_from_slice(frame);
    }
}

/// A [`Wire`] as the codec sees it: a blocking stream that says `WouldBlock`.
#[derive(Debug)]
pub struct WireSide<'a, 'b, S> {
    wire: &'a mut Wire<S>,
    cx: Option<&'a mut Context<'b>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> io::Read for WireSide<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wire = &mut *self.wire;
        if wire.given == wire.log.len() {
            let Some(cx) = self.cx.as_deref_mut() else { return Err(io::ErrorKind::WouldBlock.into()) };
            match wire.poll_fill(cx) {
                Poll::Ready(filled) => filled?,
                Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
            }
        }
        let rest = &wire.log[wire.given..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        wire.given += count;
        Ok(count)
    }
}

/// Accepts everything, so that nothing to be sent is ever left inside the codec.
impl<S: AsyncRead + AsyncWrite + Unpin> io::Write for WireSide<'_, '_, S> {
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        match self.cx {
            Some(_) => self.wire.accept_answer(frame),
            None => self.wire.tx.extend_from_slice(frame),
        }
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // A failure to write must not end the reading: the backend's last messages may still be in the socket. Who
        // flushes by `poll_flush` hears of it, and so does the reader once the socket is empty.
        if let Some(cx) = self.cx.as_deref_mut() {
            let _ = self.wire.poll_flush(cx);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
