//! WebSocket frame headers (RFC 6455 section 5.2), pure.
//!
//! Enters: bytes of a stream of frames, in any pieces. Leaves: headers, frame boundaries, and close frames of our own.
//! Must not touch: payloads, sockets, a clock.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Opcode of a frame that continues a fragmented message.
pub const CONTINUATION: u8 = 0x0;
/// Opcode of a text message.
pub const TEXT: u8 = 0x1;
/// Opcode of a binary message.
pub const BINARY: u8 = 0x2;
/// Opcode of a close frame.
pub const CLOSE: u8 = 0x8;

/// What stands before a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The last frame of its message.
    pub fin: bool,
    /// The three reserved bits, 0 to 7.
    pub rsv: u8,
    /// The opcode, 0 to 15.
    pub opcode: u8,
    /// True when a masking key is part of the header: frames of a client.
    pub masked: bool,
    /// Bytes of the header, masking key included: 2 to 14.
    pub header_len: usize,
    /// Bytes of the payload as announced; nothing is checked.
    pub payload_len: u64,
}

impl FrameHeader {
    /// The longest header, in bytes.
    pub const MAX_LEN: usize = 14;

    /// Reads the header at the beginning of `bytes`; `None` while it is incomplete.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = bytes else { return None };
        let masked = second & 0x80 != 0;
        let (length_len, payload_len) = match second & 0x7F {
            126 => (2, u64::from(u16::from_be_bytes(*rest.first_chunk()?))),
            127 => (8, u64::from_be_bytes(*rest.first_chunk()?)),
            short => (0, u64::from(short)),
        };
        let header_len = 2 + length_len + if masked { 4 } else { 0 };
        let (fin, rsv, opcode) = (first & 0x80 != 0, (first >> 4) & 0x7, first & 0xF);
        (bytes.len() >= header_len).then_some(Self { fin, rsv, opcode, masked, header_len, payload_len })
    }

    /// Where the frame ends that begins at `start`; saturates, for a length is what a stranger says.
    #[must_use]
    pub fn end(&self, start: usize) -> usize {
        let payload = usize::try_from(self.payload_len).unwrap_or(usize::MAX);
        start.saturating_add(self.header_len).saturating_add(payload)
    }

    /// True for close, ping and pong, which may stand between the fragments of a message.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.opcode & 0x8 != 0
    }
}

/// Follows one direction of a connection and knows where frames end. Costs nothing per payload byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TrackerRecord", into = "TrackerRecord")]
pub struct FrameTracker {
    /// A header that came in pieces; `held` bytes of it are here.
    header: [u8; FrameHeader::MAX_LEN],
    held: u8,
    /// Payload bytes of the open frame that are still to come.
    remaining: u64,
    closed: bool,
}

/// Where in a frame a direction stands, as plain data.
#[derive(Serialize, Deserialize)]
struct TrackerRecord {
    /// The beginning of a header, if one came in part.
    begun: Bytes,
    /// Payload bytes of the open frame that are still to come.
    remaining: u64,
    /// A close frame has been announced.
    closed: bool,
}

impl From<FrameTracker> for TrackerRecord {
    fn from(tracker: FrameTracker) -> Self {
        let FrameTracker { header, held, remaining, closed } = tracker;
        Self { begun: Bytes::copy_from_slice(&header[..usize::from(held)]), remaining, closed }
    }
}

impl TryFrom<TrackerRecord> for FrameTracker {
    type Error = &'static str;

    fn try_from(record: TrackerRecord) -> Result<Self, Self::Error> {
        let TrackerRecord { begun, remaining, closed } = record;
        let mut tracker = Self { remaining, closed, ..Self::default() };
        if begun.len() >= FrameHeader::MAX_LEN || FrameHeader::parse(&begun).is_some() {
            return Err("what begins a frame is a whole header");
        }
        tracker.header[..begun.len()].copy_from_slice(&begun);
        tracker.held = u8::try_from(begun.len()).unwrap_or_default();
        Ok(tracker)
    }
}

impl FrameTracker {
    /// Takes the bytes up to the next end of a frame, or all of them; says how many.
    pub fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while self.remaining == 0 {
            let Some(header) = self.take_header(bytes, &mut taken) else { return taken };
            self.closed |= header.opcode == CLOSE;
            self.remaining = header.payload_len;
            if self.remaining == 0 {
                return taken;
            }
        }
        let left = bytes.len() - taken;
        let part = usize::try_from(self.remaining).map_or(left, |remaining| remaining.min(left));
        self.remaining -= part as u64;
        taken + part
    }

    /// Takes all the bytes.
    pub fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.advance(bytes)..];
        }
    }

    /// True between two frames: a frame of ours may be put here.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.held == 0 && self.remaining == 0
    }

    /// True when a close frame has been announced: behind it nothing more may be sent.
    #[must_use]
    pub fn saw_close(&self) -> bool {
        self.closed
    }

    /// The header at `bytes[*taken..]`, begun in an earlier piece or not. `None` when it is not complete: then
    /// everything is taken.
    fn take_header(&mut self, bytes: &[u8], taken: &mut usize) -> Option<FrameHeader> {
        if self.held == 0
            && let Some(header) = FrameHeader::parse(&bytes[*taken..])
        {
            *taken += header.header_len;
            return Some(header);
        }
        while let Some(&byte) = bytes.get(*taken) {
            // A header of MAX_LEN bytes always parses, so `held` stays below it here.
            self.header[usize::from(self.held)] = byte;
            self.held += 1;
            *taken += 1;
            if let Some(header) = FrameHeader::parse(&self.header[..usize::from(self.held)]) {
                self.held = 0;
                return Some(header);
            }
        }
        None
    }
}

/// A close frame. A client's frame has to be masked (RFC 6455 section 5.3). `reason` is cut at 123 bytes.
#[must_use]
pub fn close_frame(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let payload = [&code.to_be_bytes(), cut(reason, 123).as_bytes()].concat();
    let length = u8::try_from(payload.len()).unwrap_or(125);
    let mut frame = vec![0x80 | CLOSE, length | if mask.is_some() { 0x80 } else { 0 }];
    frame.extend(mask.iter().flatten());
    let key = mask.unwrap_or_default();
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// Appends a final data frame, masked where there is a key.
pub fn put_message(out: &mut Vec<u8>, opcode: u8, payload: &[u8], key: Option<[u8; 4]>) {
    // Exactly: what is doubled for one large message is not needed by the next.
    out.reserve_exact(FrameHeader::MAX_LEN + payload.len());
    let masked = if key.is_some() { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    match payload.len() {
        short @ 0..126 => out.push(masked | u8::try_from(short).unwrap_or(125)),
        middle @ 126..0x1_0000 => {
            out.push(masked | 126);
            out.extend_from_slice(&u16::try_from(middle).unwrap_or(u16::MAX).to_be_bytes());
        }
        long => {
            out.push(masked | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend(key.iter().flatten());
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = key {
        mask(&mut out[start..], key);
    }
}

/// Masks, or takes the mask away, which is the same (RFC 6455 section 5.3).
pub fn mask(payload: &mut [u8], key: [u8; 4]) {
    let (words, rest) = payload.as_chunks_mut::<4>();
    let whole = u32::from_ne_bytes(key);
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ whole).to_ne_bytes();
    }
    rest.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
}

/// The longest beginning of `text` that has at most `most` bytes and splits no character.
#[must_use]
pub fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame of `length` zeros.
    fn frame(first: u8, masked: bool, length: usize) -> Vec<u8> {
        let bit = if masked { 0x80 } else { 0 };
        let mut bytes = match length {
            0..126 => vec![first, bit | length as u8],
            126..65536 => [&[first, bit | 126][..], &(length as u16).to_be_bytes()].concat(),
            _ => [&[first, bit | 127][..], &(length as u64).to_be_bytes()].concat(),
        };
        bytes.resize(bytes.len() + if masked { 4 } else { 0 } + length, 0);
        bytes
    }

    #[test]
    fn a_header_is_read_when_complete_and_not_before() {
        for (length, masked, expected) in
            [(0, false, 2), (125, true, 6), (126, false, 4), (65535, true, 8), (65536, false, 10), (70000, true, 14)]
        {
            let bytes = frame(0xC1, masked, length);
            for short in 0..expected {
                assert_eq!(FrameHeader::parse(&bytes[..short]), None, "{short} bytes of {expected}");
            }
            let payload_len = length as u64;
            let header = FrameHeader { fin: true, rsv: 4, opcode: 1, masked, header_len: expected, payload_len };
            assert_eq!(FrameHeader::parse(&bytes), Some(header));
        }
    }

    #[test]
    fn an_absurd_length_is_followed_without_overflow() {
        let mut tracker = FrameTracker::default();
        tracker.follow(&[0x82, 0xFF, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0]);
        tracker.follow(&[0; 100]);
        assert_eq!(tracker.remaining, u64::MAX - 100);
    }

    #[test]
    fn a_message_that_was_put_is_a_frame_and_its_mask_comes_off() {
        for length in [0, 1, 125, 126, 65535, 65536, 70_003] {
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            for key in [None, Some([1, 2, 3, 4])] {
                let mut bytes = Vec::new();
                put_message(&mut bytes, BINARY, &payload, key);
                let header = FrameHeader::parse(&bytes).expect("a header");
                assert_eq!((header.fin, header.rsv, header.opcode, header.masked), (true, 0, BINARY, key.is_some()));
                assert_eq!(header.end(0), bytes.len(), "{length}");
                let body = &mut bytes[header.header_len..];
                if let Some(key) = key {
                    mask(body, key);
                }
                assert_eq!(body, payload, "{length}");
            }
        }
    }

    #[test]
    fn a_close_frame_is_masked_for_the_backend_and_its_reason_fits() {
        assert_eq!(close_frame(1012, "", None), [0x88, 2, 0x03, 0xF4]);
        assert_eq!(close_frame(1001, "a", Some([1, 2, 3, 4])), [0x88, 0x83, 1, 2, 3, 4, 0x03 ^ 1, 0xE9 ^ 2, b'a' ^ 3]);
        let long = close_frame(1000, &"ä".repeat(100), None);
        assert_eq!((long.len(), long[1]), (2 + 2 + 122, 124));
    }

    proptest! {
        #[test]
        fn boundaries_are_found_however_the_bytes_are_cut(
            frames in prop::collection::vec((any::<bool>(), prop_oneof![0..200usize, 65000..66000usize]), 1..6),
            cuts in prop::collection::vec(1..300usize, 1..20),
        ) {
            let (mut bytes, mut ends) = (Vec::new(), Vec::new());
            for (masked, length) in frames {
                bytes.extend(frame(0x82, masked, length));
                ends.push(bytes.len());
            }
            let (mut tracker, mut at, mut found) = (FrameTracker::default(), 0, Vec::new());
            for cut in cuts.into_iter().cycle() {
                let piece_end = (at + cut).min(bytes.len());
                while at < piece_end {
                    at += tracker.advance(&bytes[at..piece_end]);
                    if tracker.at_boundary() {
                        found.push(at);
                    }
                }
                if at == bytes.len() {
                    break;
                }
            }
            prop_assert_eq!(found, ends);
            prop_assert!(!tracker.saw_close());
            tracker.follow(&[0x88, 0]);
            prop_assert!(tracker.saw_close());
        }
    }
}
