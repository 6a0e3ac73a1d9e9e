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

use crate::http::block::{BLOCK, with_block};
use crate::upstream::frame::{BINARY, CONTINUATION, FrameHeader, TEXT, mask, put_message};

/// Pongs that may wait for a backend which pings but does not read, in bytes. Further ones are dropped: it has some
/// hundred to read already, and RFC 6455 section 5.5.3 asks for an answer to the latest ping only.
const MAX_PONGS: usize = 8 * 1024;

/// Frames of at least so many bytes are read into a buffer of their own, to their end and no further, and it becomes the
/// message: copying one of many MiB would for a moment hold it twice. Smaller ones are copied out of the log.
const LARGE: usize = 64 * 1024;

/// So much of a large frame must have come before there is room for all of it, in bytes.
const TRUSTED: usize = 1024 * 1024;

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
    /// How much may be read before whoever polls is asked again, see [`Wire::allow`].
    allowed: usize,
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
        Self { socket, log, head: 0, open: 0, given: 0, tx, sent: 0, pongs: 0, allowed: usize::MAX }
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

    /// Bytes in all buffers, with what the codec has copied of an unfinished message. Room of which nothing was used yet
    /// takes no memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.log.len() + self.tx.len() + (self.given - self.head)
    }

    /// At most so many bytes are read until the next call; then reading is pending, and the task wakes itself. Without a
    /// call there is no such bound.
    pub fn allow(&mut self, bytes: usize) {
        self.allowed = bytes;
    }

    /// Takes a whole message to be sent.
    pub fn put_message(&mut self, opcode: u8, payload: &[u8], key: Option<[u8; 4]>) {
        put_message(&mut self.tx, opcode, payload, key);
    }

    /// Forgets what was read. The codec on top must be a fresh one, and from then on the peer is only read by
    /// [`Wire::poll_discard`].
    pub fn forget_unread(&mut self) {
        self.forget(self.log.len());
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
        let end = header.end(at);
        (end <= self.log.len()).then_some((header, end))
    }

    /// Where the frame ends of which a beginning lies at the end of the log, if it is a large one.
    fn large_end(&self) -> Option<usize> {
        let header = FrameHeader::parse(&self.log[self.open..])?;
        let end = header.end(self.open);
        (header.payload_len >= LARGE as u64 && end > self.log.len()).then_some(end)
    }

    /// Makes room for a block of a large frame: for all of the frame once [`TRUSTED`] bytes of it have come, so that many MiB
    /// are not copied from buffer to buffer. Before that the length that it announces is no reason to take so much.
    fn reserve(&mut self, block: usize, end: Option<usize>) {
        let needed = self.log.len() + block;
        if needed > self.log.capacity()
            && let Some(end) = end
        {
            let twice = self.log.capacity() * 2;
            let room = if needed < TRUSTED { twice.clamp(needed, end.max(needed)) } else { end };
            self.log.reserve_exact(room.max(needed) - self.log.len());
        }
    }

    /// Takes the frame `self.head..end` out of the log with its buffer, when it is large; the payload of it.
    fn take_large(&mut self, header: &FrameHeader, end: usize) -> Option<Bytes> {
        if header.payload_len < LARGE as u64 {
            return None;
        }
        let rest = self.log.split_off(end);
        let frame = Bytes::from(mem::replace(&mut self.log, rest));
        let payload = frame.slice(self.head + header.header_len..);
        (self.head, self.open, self.given) = (0, 0, 0);
        Some(payload)
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
    /// The next message, when it is a whole frame and plain: final, no extension, a text that is UTF-8, at most `most`
    /// bytes, and `masked` or not, as the peer's must be. It comes with its opcode straight from the log, past the codec,
    /// which saves half of what a small message costs, and the second buffer of a large one. `None` when the codec must
    /// see to what comes next: it is in the middle of something, the frame is of another kind, or the socket ended.
    pub fn poll_plain(&mut self, cx: &mut Context<'_>, most: usize, masked: bool) -> Poll<Option<(u8, Bytes)>> {
        while self.head == self.given {
            if let Some(header) = FrameHeader::parse(&self.log[self.head..]) {
                let data = header.fin && header.rsv == 0 && matches!(header.opcode, TEXT | BINARY);
                if !data || header.masked != masked || header.payload_len > most as u64 {
                    return Poll::Ready(None);
                }
                if let Some((header, end)) = self.frame_at(self.head) {
                    return Poll::Ready(self.take_plain(&header, end));
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

    /// The payload of the whole frame `self.head..end`, unless it is a text that is none: then nothing has changed.
    fn take_plain(&mut self, header: &FrameHeader, end: usize) -> Option<(u8, Bytes)> {
        let start = self.head + header.header_len;
        let key = header.masked.then(|| self.log[..start].last_chunk().copied()).flatten();
        if let Some(key) = key {
            mask(&mut self.log[start..end], key);
        }
        if header.opcode == TEXT && std::str::from_utf8(&self.log[start..end]).is_err() {
            if let Some(key) = key {
                mask(&mut self.log[start..end], key);
            }
            return None;
        }
        let payload = self.take_large(header, end).unwrap_or_else(|| {
            let payload = Bytes::copy_from_slice(&self.log[start..end]);
            self.given = end;
            self.forget(end);
            payload
        });
        Some((header.opcode, payload))
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
            match ready!(self.poll_block(cx, BLOCK, |_, block| block.len())) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }

    /// Reads one block of at most `most` bytes and calls `take` with it; empty at the end of the stream.
    fn poll_block<R>(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        take: impl FnOnce(&mut Self, &[u8]) -> R,
    ) -> Poll<io::Result<R>> {
        if self.allowed == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let most = most.min(self.allowed);
        with_block(|block| {
            let room = block.len().min(most);
            let mut block = ReadBuf::new(&mut block[..room]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut block))?;
            self.allowed -= block.filled().len();
            Poll::Ready(Ok(take(self, block.filled())))
        })
    }

    /// Puts one block behind the log. A large frame is read to its end and no further, so that its buffer has nothing else.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.absorb();
        self.compact();
        let end = self.large_end();
        let most = end.map_or(BLOCK, |end| end - self.log.len());
        self.poll_block(cx, most, |wire, block| {
            wire.reserve(block.len(), end);
            wire.log.extend_from_slice(block);
        })
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
mod tests {
    //! The wire under a real codec: whatever the cuts and wherever it is taken apart, each message is delivered once.

    use std::collections::VecDeque;

    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketContext};
    use tokio_tungstenite::tungstenite::{Error, Message};

    use super::*;

    /// A socket of which the test decides what comes in and how much it takes.
    #[derive(Debug, Default)]
    struct Script {
        incoming: VecDeque<u8>,
        room: usize,
        outgoing: Vec<u8>,
    }

    impl AsyncRead for Script {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if self.incoming.is_empty() {
                return Poll::Pending;
            }
            let count = buffer.remaining().min(self.incoming.len());
            buffer.put_slice(&self.incoming.drain(..count).collect::<Vec<_>>());
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Script {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = self.room.min(bytes.len());
            if count == 0 {
                return Poll::Pending;
            }
            self.room -= count;
            self.outgoing.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A wire and a codec that can be replaced.
    struct Rig {
        wire: Wire<Script>,
        codec: WebSocketContext,
        received: Vec<Vec<u8>>,
    }

    impl Rig {
        fn new(room: usize) -> Self {
            let script = Script { room, ..Script::default() };
            let codec = WebSocketContext::new(Role::Client, None);
            Self { wire: Wire::new(script, Bytes::new()), codec, received: Vec::new() }
        }

        /// Takes the wire apart, carries its state as text, and puts it under a fresh codec.
        fn hand_over(self) -> Self {
            let (script, state) = self.wire.into_parts();
            let text = serde_json::to_string(&state).expect("plain data");
            let state = serde_json::from_str(&text).expect("what was written");
            let codec = WebSocketContext::new(Role::Client, None);
            Self { wire: Wire::from_parts(script, state), codec, received: self.received }
        }

        /// Feeds `bytes` and reads until nothing more comes; asks before each message whether to hand over.
        fn feed(mut self, bytes: &[u8], mut hand_over: impl FnMut() -> bool) -> Self {
            self.wire.socket.incoming.extend(bytes);
            loop {
                if hand_over() {
                    self = self.hand_over();
                }
                if !self.read() {
                    return self;
                }
            }
        }

        /// One message; false when there is none yet.
        fn read(&mut self) -> bool {
            loop {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                match self.codec.read(&mut self.wire.side(Some(&mut cx))) {
                    Ok(Message::Ping(_)) => self.wire.ack(Delivered::Control),
                    Ok(message) => {
                        self.received.push(message.into_data().to_vec());
                        self.wire.ack(Delivered::Message);
                        return true;
                    }
                    Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return false,
                    Err(error) => panic!("{error}"),
                }
            }
        }

        /// The payloads of the pongs that the socket and the wire hold together.
        fn pongs(self) -> Vec<Vec<u8>> {
            let (script, state) = self.wire.into_parts();
            let bytes = [&script.outgoing[..], &state.tx[..]].concat();
            let (mut rest, mut pongs) = (&bytes[..], Vec::new());
            while let Some(header) = FrameHeader::parse(rest) {
                assert_eq!((header.opcode, header.masked), (0xA, true));
                let (head, tail) = rest.split_at(header.header_len);
                let (payload, tail) = tail.split_at(header.payload_len as usize);
                let key = &head[head.len() - 4..];
                pongs.push(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect());
                rest = tail;
            }
            assert!(rest.is_empty());
            pongs
        }
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = match payload.len() {
            short @ 0..126 => vec![first, short as u8],
            middle @ 126..65536 => [&[first, 126][..], &(middle as u16).to_be_bytes()].concat(),
            long => [&[first, 127][..], &(long as u64).to_be_bytes()].concat(),
        };
        bytes.extend_from_slice(payload);
        bytes
    }

    /// What a backend sends, and what has to come of it.
    #[derive(Default)]
    struct Traffic {
        bytes: Vec<u8>,
        messages: Vec<Vec<u8>>,
        pings: Vec<Vec<u8>>,
    }

    impl Traffic {
        /// Adds a message of fragments with these lengths, each followed by so many pings.
        fn push(&mut self, fragments: &[(usize, usize)]) {
            let mut whole = Vec::new();
            for (index, &(length, pings)) in fragments.iter().enumerate() {
                let payload = vec![(self.messages.len() * 7 + index) as u8; length];
                let fin = if index + 1 == fragments.len() { 0x80 } else { 0 };
                self.bytes.extend(frame(fin | if index == 0 { 2 } else { 0 }, &payload));
                whole.extend(payload);
                for _ in 0..pings {
                    let payload = format!("{}", self.pings.len()).into_bytes();
                    self.bytes.extend(frame(0x89, &payload));
                    self.pings.push(payload);
                }
            }
            self.messages.push(whole);
        }
    }

    #[test]
    fn a_hand_over_at_any_byte_loses_and_repeats_nothing() {
        let mut traffic = Traffic::default();
        for fragments in [&[(5, 0)][..], &[(0, 1), (0, 1), (130, 2), (0, 0), (3, 1)], &[(0, 0)], &[(1, 1), (0, 1)]] {
            traffic.push(fragments);
        }
        for cut in 0..=traffic.bytes.len() {
            let (before, after) = traffic.bytes.split_at(cut);
            let rig = Rig::new(cut % 9).feed(before, || false).hand_over().feed(after, || false);
            assert_eq!(rig.received, traffic.messages, "taken apart at byte {cut}");
            assert_eq!(rig.wire.unread_len(), 0);
            assert_eq!(rig.pongs(), traffic.pings, "taken apart at byte {cut}");
        }
    }

    #[test]
    fn an_idle_wire_owns_no_heap() {
        let mut traffic = Traffic::default();
        traffic.push(&[(70_000, 1), (3, 1)]);
        let mut rig = Rig::new(usize::MAX).feed(&traffic.bytes, || false);
        rig.wire.side(None::<&mut Context<'_>>).wire.tx.extend_from_slice(b"more");
        assert_eq!(rig.wire.tx_len(), 4);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(rig.wire.poll_flush(&mut cx).is_ready());
        assert_eq!((rig.wire.tx_len(), rig.wire.tx.capacity(), rig.wire.log.capacity()), (0, 0, 0));
    }

    #[test]
    fn empty_fragments_are_not_collected() {
        let mut rig = Rig::new(0).feed(&frame(0x02, b"begin"), || false);
        for _ in 0..100 {
            rig = rig.feed(&frame(0x00, b"").repeat(1000), || false);
            assert!(rig.wire.log.len() <= 7 + 2000, "{} bytes", rig.wire.log.len());
        }
        let rig = rig.hand_over().feed(&frame(0x80, b"end"), || false);
        assert_eq!(rig.received, [b"beginend"]);
    }

    #[test]
    fn a_backend_that_pings_and_does_not_read_fills_no_memory() {
        let mut rig = Rig::new(0);
        for _ in 0..200 {
            rig = rig.feed(&frame(0x89, &[0; 125]), || false);
        }
        assert!((MAX_PONGS - 131..=MAX_PONGS).contains(&rig.wire.tx_len()), "{} bytes", rig.wire.tx_len());
        rig.wire.socket.room = usize::MAX;
        let rig = rig.feed(&frame(0x89, b"again"), || false).feed(&frame(0x89, b"and again"), || false);
        assert_eq!(rig.pongs().last().map(Vec::as_slice), Some(&b"and again"[..]));
    }

    proptest! {
        // The long ones carry their whole state as text many times.
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn random_traffic_survives_random_cuts_and_hand_overs(
            messages in prop::collection::vec(
                prop::collection::vec((prop_oneof![9 => 0..300usize, 1 => 60_000..70_000usize], 0..3usize), 1..5), 1..6),
            // Small cuts alone would hand a long message over thousands of times.
            cuts in prop::collection::vec(prop_oneof![1..40usize, 1..30_000usize], 1..30)
                .prop_map(|cuts| [cuts, vec![20_000]].concat()),
            hand_overs in prop::collection::vec(any::<bool>(), 1..40),
            room in 0..50usize,
        ) {
            let mut traffic = Traffic::default();
            messages.iter().for_each(|fragments| traffic.push(fragments));
            let (mut rig, mut rest) = (Rig::new(0), &traffic.bytes[..]);
            let mut hand_overs = hand_overs.into_iter().cycle();
            for cut in cuts.into_iter().cycle() {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                rig.wire.socket.room = room;
                rig = rig.feed(piece, || hand_overs.next() == Some(true));
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(&rig.received, &traffic.messages);
            prop_assert_eq!(rig.wire.log.capacity(), 0);
            prop_assert_eq!(rig.pongs(), traffic.pings);
        }
    }
}
