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
        cuts in prop::collection::vec(prop_oneof![1..40usize, 1..30_000usize], 1..30),
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
