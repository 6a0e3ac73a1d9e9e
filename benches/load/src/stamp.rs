//! What every message of the backend says: when it was sent, and which of its connection it is.
//!
//! Enters: a number. Leaves: a text of the wished length without any character that JSON or SSE would have to escape,
//! so that no peer is charged for escaping; and back. 16 hexadecimal digits of time, 16 of the number, `x` to the end.

use crate::clock;

/// The shortest message.
pub const LEAST: usize = 32;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Appends a message of `size` bytes, stamped now.
pub fn write(out: &mut Vec<u8>, number: u64, size: usize) {
    write_at(out, clock::now(), number, size);
}

/// Appends a message of `size` bytes with the given time.
pub fn write_at(out: &mut Vec<u8>, time: u64, number: u64, size: usize) {
    for value in [time, number] {
        for at in (0..16).rev() {
            out.push(DIGITS[(value >> (at * 4)) as usize & 15]);
        }
    }
    out.resize(out.len() + size.saturating_sub(LEAST), b'x');
}

/// The time at which a message was sent.
pub fn time(message: &[u8]) -> Option<u64> {
    hex(message.get(..16)?)
}

/// Which message of its connection it is, from 0.
pub fn number(message: &[u8]) -> Option<u64> {
    hex(message.get(16..LEAST)?)
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let mut message = Vec::new();
        write_at(&mut message, 0x1234_5678_9abc_def0, 77, 64);
        assert_eq!((message.len(), time(&message), number(&message)), (64, Some(0x1234_5678_9abc_def0), Some(77)));
        assert_eq!((time(b"short"), number(&message[..20])), (None, None));
    }
}
