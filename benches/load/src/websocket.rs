//! RFC 6455 as far as a benchmark needs it: whole text and binary messages, pings answered by whoever reads.
//!
//! Enters: a buffer of bytes. Leaves: frames of it, without a copy. Must not touch: sockets. Clients mask with zero,
//! which is a mask like any other to the peer and free for us.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use sha1::{Digest, Sha1};

/// A text message.
pub const TEXT: u8 = 1;
/// A binary message.
pub const BINARY: u8 = 2;
/// The end.
pub const CLOSE: u8 = 8;
/// Wants a pong.
pub const PING: u8 = 9;
/// The answer to a ping.
pub const PONG: u8 = 10;

/// Takes the next whole frame off the buffer: opcode and payload.
pub fn take(buffer: &mut BytesMut) -> Option<(u8, Bytes)> {
    let second = *buffer.get(1)?;
    let (length, mut head) = match second & 127 {
        126 => (usize::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().ok()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(buffer.get(2..10)?.try_into().ok()?)).ok()?, 10),
        short => (usize::from(short), 2),
    };
    let mut mask = [0; 4];
    if second & 128 != 0 {
        mask.copy_from_slice(buffer.get(head..head + 4)?);
        head += 4;
    }
    if buffer.len() < head + length {
        return None;
    }
    let opcode = buffer[0] & 15;
    let mut frame = buffer.split_to(head + length);
    if mask != [0; 4] {
        frame[head..].iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    }
    Some((opcode, frame.freeze().slice(head..)))
}

/// Appends the head of a frame with a payload of `length` bytes.
pub fn head(out: &mut Vec<u8>, opcode: u8, length: usize, masked: bool) {
    let mask_bit = if masked { 128 } else { 0 };
    out.push(128 | opcode);
    match length {
        0..126 => out.push(mask_bit | length as u8),
        126..65_536 => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    if masked {
        out.extend_from_slice(&[0; 4]);
    }
}

/// A whole frame.
pub fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 14);
    head(&mut out, opcode, payload.len(), masked);
    out.extend_from_slice(payload);
    out
}

/// The key that answers a handshake.
pub fn accept(key: &str) -> String {
    let digest = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    BASE64_STANDARD.encode(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_there_and_back() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            for masked in [false, true] {
                let payload = vec![b'x'; length];
                let mut buffer = BytesMut::from(&frame(TEXT, &payload, masked)[..]);
                assert_eq!(take(&mut buffer), Some((TEXT, payload.into())));
                assert!(buffer.is_empty());
            }
        }
        assert_eq!(take(&mut BytesMut::from(&[0x81, 2, b'a'][..])), None);
    }

    #[test]
    fn masks_and_the_example_of_the_standard() {
        let mut buffer = BytesMut::from(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58][..]);
        assert_eq!(take(&mut buffer), Some((TEXT, Bytes::from("Hello"))));
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
