//! The small writers that the codecs share: numbers, JSON strings, base64, and the JSON of closes and messages.
//!
//! Enters: values. Leaves: bytes at the end of a buffer. Must not touch: the heap beside that buffer; this is on the way
//! of every message.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};

use crate::session::{Close, Kind, Message};

/// Decimal digits of `number`.
pub(super) fn decimal(out: &mut BytesMut, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// `text`, which is UTF-8, as a JSON string (RFC 8259 section 7). Control characters are escaped, so the result is one
/// line whatever `text` holds. By hand on bytes, because a payload would else be validated as UTF-8 once more.
pub(super) fn json_string(out: &mut BytesMut, text: &[u8]) {
    out.reserve(text.len() + 2);
    out.put_u8(b'"');
    let mut rest = text;
    loop {
        let (plain, special) = rest.split_at(plain_run(rest));
        out.extend_from_slice(plain);
        let Some((&byte, behind)) = special.split_first() else { break };
        escape(out, byte);
        rest = behind;
    }
    out.put_u8(b'"');
}

/// How many bytes there are before the first that must be escaped; eight are looked at together as long as none must.
fn plain_run(text: &[u8]) -> usize {
    let (words, _) = text.as_chunks::<8>();
    let clear = 8 * words.iter().take_while(|word| !has_special(u64::from_le_bytes(**word))).count();
    let special = |&byte: &u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    text[clear..].iter().position(special).map_or(text.len(), |at| clear + at)
}

/// Whether one of the eight bytes must be escaped. A byte under `n`, at most 0x80, borrows from its highest bit when `n`
/// is taken from it and had not that bit before; a byte that equals another is the zero of their difference, under 1.
fn has_special(word: u64) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let below = |word: u64, least: u8| word.wrapping_sub(ONES * u64::from(least)) & !word & (ONES << 7);
    let equals = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, 0x20) | equals(b'"') | equals(b'\\')) != 0
}

fn escape(out: &mut BytesMut, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.put_u8(HEX[usize::from(byte >> 4)]);
            return out.put_u8(HEX[usize::from(byte & 0xf)]);
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// `bytes` in the standard base64 alphabet, padded (RFC 4648 section 4).
pub(super) fn base64(out: &mut BytesMut, bytes: &[u8]) {
    let start = out.len();
    out.put_bytes(0, bytes.len().div_ceil(3) * 4);
    let room = &mut out[start..];
    STANDARD.encode_slice(bytes, room).expect("padded base64 takes exactly four bytes for each started three");
}

/// A message in a JSON array: a string, or `{"base64":"…"}`.
pub(super) fn message_json(out: &mut BytesMut, message: &Message) {
    match message.kind() {
        Kind::Text => json_string(out, message.payload()),
        Kind::Binary => {
            out.extend_from_slice(b"{\"base64\":\"");
            base64(out, message.payload());
            out.extend_from_slice(b"\"}");
        }
    }
}

/// `{"code":…,"reason":"…","clean":…}`.
pub(super) fn close_json(out: &mut BytesMut, close: &Close) {
    out.extend_from_slice(b"{\"code\":");
    decimal(out, u64::from(close.code));
    out.extend_from_slice(b",\"reason\":");
    json_string(out, close.reason.as_bytes());
    out.extend_from_slice(if close.clean { b",\"clean\":true}" } else { b",\"clean\":false}" });
}

/// `{"from":…,"to":…}`: the first and the last number that are gone.
pub(super) fn lost_json(out: &mut BytesMut, from: u64, to: u64) {
    out.extend_from_slice(b"{\"from\":");
    decimal(out, from);
    out.extend_from_slice(b",\"to\":");
    decimal(out, to);
    out.put_u8(b'}');
}

/// `{"after_ms":…}`: when to come back.
pub(super) fn reconnect_json(out: &mut BytesMut, after_ms: u32) {
    out.extend_from_slice(b"{\"after_ms\":");
    decimal(out, u64::from(after_ms));
    out.put_u8(b'}');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).expect("writers write UTF-8")
    }

    #[test]
    fn every_character_below_the_surrogates_is_escaped_as_serde_json_does_it() {
        let all: String = (0..0xd800).filter_map(char::from_u32).collect();
        assert_eq!(written(|out| json_string(out, all.as_bytes())), serde_json::to_string(&all).expect("a string"));
    }

    #[test]
    fn each_special_byte_ends_a_run_wherever_it_stands() {
        for special in (0..0x20).chain(*b"\"\\") {
            for at in 0..24 {
                let mut text = [0xbf; 24];
                text[at] = special;
                assert_eq!(plain_run(&text), at, "{special:#x}");
            }
        }
        let plain: Vec<u8> = (0x20..=0xff).filter(|byte| !b"\"\\".contains(byte)).collect();
        assert_eq!(plain_run(&plain), plain.len());
    }

    proptest! {
        #[test]
        fn json_strings_are_those_of_serde_json(text in "(?s).{0,60}") {
            let expected = serde_json::to_string(&text).expect("a string is JSON");
            prop_assert_eq!(written(|out| json_string(out, text.as_bytes())), expected);
        }
    }
}
