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
//! in large blocks, and the codec can do with a very small buffer of its own. How it is kept is `read_log`'s affair.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::block::{BLOCK, with_block};
use crate::upstream::frame::{FrameTracker, put_message};
pub use crate::upstream::read_log::Delivered;
use crate::upstream::read_log::{Next, ReadLog};

/// Pongs that may wait for a backend which pings but does not read, in bytes. Further ones are dropped: it has some
/// hundred to read already, and RFC 6455 section 5.5.3 asks for an answer to the latest ping only.
const MAX_PONGS: usize = 8 * 1024;

/// All that lies between the socket and the session, for a hand-over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireState {
    /// Read from the kernel, not yet delivered: whole frames, fragments of an unfinished message, part of a frame.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub unread: Bytes,
    /// To be sent, not yet taken by the kernel.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub tx: Bytes,
}

/// Where a WebSocket's two directions stand at the socket, between what the kernel has and what is in a [`WireState`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Behind what was sent.
    pub sent: FrameTracker,
    /// Behind what was read.
    pub read: FrameTracker,
}

/// The wrapper. Polled by one task only. An idle one owns no heap.
#[derive(Debug)]
pub struct Wire<S> {
    socket: S,
    /// Bytes read and not yet delivered.
    log: ReadLog,
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
        let (log, tx) = (ReadLog::new(state.unread.to_vec()), state.tx.to_vec());
        Self { socket, log, tx, sent: 0, pongs: 0, allowed: usize::MAX }
    }

    /// The socket, and what is under way in both directions. The codec on top is worthless afterwards.
    pub fn into_parts(mut self) -> (S, WireState) {
        self.tx.drain(..self.sent);
        (self.socket, WireState { unread: self.log.into_undelivered().into(), tx: self.tx.into() })
    }

    /// Where both directions stand. Only right on a wire that began with its connection.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let mut standing = Standing::default();
        // Both begin between two frames.
        standing.sent.follow(&self.tx[..self.sent]);
        standing.read.follow(self.log.undelivered_bytes());
        standing
    }

    /// What carries it.
    #[must_use]
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// Bytes that the kernel has not yet taken.
    #[must_use]
    pub fn tx_len(&self) -> usize {
        self.tx.len() - self.sent
    }

    /// Bytes read and not yet delivered.
    #[must_use]
    pub fn unread_len(&self) -> usize {
        self.log.undelivered()
    }

    /// Bytes in all buffers, with what the codec has copied of an unfinished message. Room of which nothing was used yet
    /// takes no memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.log.held() + self.tx.len()
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
        self.log.clear();
    }

    /// Forgets the frames of what the codec has just delivered. To be called for every message and control frame, in
    /// order, before the codec reads on.
    pub fn ack(&mut self, delivered: Delivered) {
        self.log.ack(delivered);
    }

    /// The codec's side, for one call of it. Without a context nothing touches the socket: what is written only waits
    /// for the next flush.
    pub fn side<'a, 'b>(&'a mut self, cx: Option<&'a mut Context<'b>>) -> WireSide<'a, 'b, S> {
        WireSide { wire: self, cx }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// The next message, when it is a whole frame and plain: final, no extension, a text that is UTF-8, at most `most`
    /// bytes, and `masked` or not, as the peer's must be. It comes with its opcode straight from the log, past the codec,
    /// which saves half of what a small message costs, and the second buffer of a large one. `None` when the codec must
    /// see to what comes next: it is in the middle of something, the frame is of another kind, or the socket ended.
    pub fn poll_plain(&mut self, cx: &mut Context<'_>, most: usize, masked: bool) -> Poll<Option<(u8, Bytes)>> {
        loop {
            match self.log.next(most, masked) {
                Next::Plain(opcode, payload) => return Poll::Ready(Some((opcode, payload))),
                Next::Codec => return Poll::Ready(None),
                Next::More => {}
            }
            let before = self.log.undelivered();
            // What is wrong with the socket shows again when the codec reads it.
            if ready!(self.poll_fill(cx)).is_err() || self.log.undelivered() == before {
                return Poll::Ready(None);
            }
        }
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
        self.log.clear();
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

    /// Puts one block behind the log.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wanted = self.log.wanted(BLOCK);
        self.poll_block(cx, wanted, |wire, block| wire.log.append(block))
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
        if wire.log.rest().is_empty() {
            let Some(cx) = self.cx.as_deref_mut() else { return Err(io::ErrorKind::WouldBlock.into()) };
            match wire.poll_fill(cx) {
                Poll::Ready(filled) => filled?,
                Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
            }
        }
        let rest = wire.log.rest();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        wire.log.give(count);
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
    use crate::upstream::frame::FrameHeader;

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
        assert_eq!((rig.wire.tx_len(), rig.wire.tx.capacity(), rig.wire.log.buffer().capacity()), (0, 0, 0));
    }

    #[test]
    fn empty_fragments_are_not_collected() {
        let mut rig = Rig::new(0).feed(&frame(0x02, b"begin"), || false);
        for _ in 0..100 {
            rig = rig.feed(&frame(0x00, b"").repeat(1000), || false);
            assert!(rig.wire.log.buffer().len() <= 7 + 2000, "{} bytes", rig.wire.log.buffer().len());
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
            prop_assert_eq!(rig.wire.log.buffer().capacity(), 0);
            prop_assert_eq!(rig.pongs(), traffic.pings);
        }
    }
}
