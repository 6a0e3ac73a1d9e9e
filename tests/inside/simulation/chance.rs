//! Seeded chance: the same seed gives the same run, on every machine.
//!
//! Enters: a seed. Leaves: numbers and messages. Must not touch: the session.

use std::time::Duration;

use underpass::session::{Limits, Message};

/// splitmix64 (Steele, Lea, Flood 2014).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `bound` − 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// Both ends included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Text or binary; empty, small, or once in a while larger than `bound`. `tag` makes it unlike all others.
    pub(crate) fn message(&mut self, tag: &str, number: u64, bound: usize) -> Message {
        let size = match self.below(24) {
            0..=3 => return if self.one_in(2) { Message::text("") } else { Message::binary(&b""[..]) },
            4 => self.between(bound as u64, 2 * bound as u64),
            5..=8 => self.between(100, 400),
            _ => self.between(8, 60),
        };
        let mut text = format!("{tag}{number}·");
        let fill = char::from(b'a' + self.below(26) as u8);
        text.extend(std::iter::repeat_n(fill, size as usize));
        if self.one_in(3) { Message::binary(text.into_bytes()) } else { Message::text(text) }
    }

    /// Small bounds and short waits, so that all of them are met.
    pub(crate) fn limits(&mut self) -> Limits {
        Limits {
            buffer: self.between(150, 2500) as usize,
            replay: self.between(100, 1500) as usize,
            replay_age: Duration::from_secs(self.between(1, 20)),
            reorder_window: self.between(1, 8),
            queue: self.between(150, 1200) as usize,
            grace: Duration::from_secs(self.between(10, 60)),
            pause: Duration::from_secs(self.between(5, 40)),
            close_wait: Duration::from_secs(self.between(1, 5)),
        }
    }
}
