//! What is remembered of ended sessions: that there was one of this token, and how it ended. Small, since it is many times as
//! many as are live: 56 bytes each, some 20 for finding it, and its reason where there is one.
//!
//! Enters: tokens, ends, ages. Leaves: how it ended. Must not touch: live sessions, a clock.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use subtle::ConstantTimeEq as _;

use super::record::EndedRecord;
use super::token::{Id, Secret, Token, parts_of};
use crate::session::Close;

/// Tenths of a second since the process began: 13 years of them.
type Tenths = u32;

/// Ended sessions, the oldest first.
#[derive(Default)]
pub(super) struct EndedSessions {
    entries: VecDeque<Entry>,
    /// Where in `entries` each is, counted from the first that ever was; wraps.
    places: HashMap<Id, u32>,
    /// The place of the first one that is remembered.
    first: u32,
}

struct Entry {
    id: Id,
    secret: Secret,
    clean: bool,
    code: u16,
    since: Tenths,
    reason: Option<Box<str>>,
}

/// How long and how many ended sessions are remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) age: Duration,
    pub(super) count: usize,
}

impl EndedSessions {
    /// Remembers a session that ended at `now`.
    pub(super) fn remember(&mut self, token: &str, close: Close, now: Duration, memory: Memory) {
        let Some((_, id, secret)) = parts_of(token) else { return };
        let reason = Some(close.reason).filter(|reason| !reason.is_empty()).map(String::into_boxed_str);
        let place = self.first.wrapping_add(u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        self.places.insert(id, place);
        self.entries.push_back(Entry { id, secret, clean: close.clean, code: close.code, since: tenths(now), reason });
        self.sweep(now, memory);
    }

    /// Remembers a session that ended `age` before `now`, unless it is remembered.
    pub(super) fn recall(&mut self, token: &str, close: Close, now: Duration, age: Duration, memory: Memory) {
        if parts_of(token).is_some_and(|(_, id, _)| !self.places.contains_key(&id)) {
            // Younger than it is where this process is: it is remembered for as long as this process was told to, at most.
            self.remember(token, close, now.saturating_sub(age), memory);
        }
    }

    /// All that are remembered, the oldest first.
    pub(super) fn records(&self, node: &str, now: Duration, memory: Memory) -> Vec<EndedRecord> {
        let known = self.entries.iter().filter(|entry| !entry.is_over(now, memory.age));
        let record = |entry: &Entry| EndedRecord {
            token: Token::text_of(node, entry.id, entry.secret),
            close: Close {
                code: entry.code,
                reason: entry.reason.as_deref().unwrap_or_default().to_owned(),
                clean: entry.clean,
            },
            age: Duration::from_millis(u64::from(tenths(now).saturating_sub(entry.since)) * 100),
        };
        known.map(record).collect()
    }

    /// How the session of a presented token ended. The secret is compared in constant time.
    pub(super) fn find(&self, presented: &str, now: Duration, memory: Memory) -> Option<Close> {
        let (_, id, secret) = parts_of(presented)?;
        let place = self.places.get(&id)?.wrapping_sub(self.first);
        let entry = self.entries.get(usize::try_from(place).ok()?)?;
        let known = bool::from(entry.secret.ct_eq(&secret)) && !entry.is_over(now, memory.age);
        known.then(|| Close {
            code: entry.code,
            reason: entry.reason.as_deref().unwrap_or_default().to_owned(),
            clean: entry.clean,
        })
    }

    /// How many are remembered.
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// Forgets those that are too old or too many.
    pub(super) fn sweep(&mut self, now: Duration, memory: Memory) {
        let before = self.entries.len();
        while let Some(entry) = self.entries.front() {
            if !entry.is_over(now, memory.age) && self.entries.len() <= memory.count {
                break;
            }
            self.places.remove(&entry.id);
            self.entries.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        if self.entries.len() < before && self.entries.len() <= self.entries.capacity() / 4 {
            let room = 2 * self.entries.len();
            self.entries.shrink_to(room);
            self.places.shrink_to(room);
        }
    }
}

impl Entry {
    fn is_over(&self, now: Duration, age: Duration) -> bool {
        tenths(now).saturating_sub(self.since) >= tenths(age)
    }
}

fn tenths(span: Duration) -> Tenths {
    Tenths::try_from(span.as_millis() / 100).unwrap_or(Tenths::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::token::Token;
    use super::*;

    const SECOND: fn(u64) -> Duration = Duration::from_secs;
    const MEMORY: Memory = Memory { age: Duration::from_secs(10), count: 1000 };

    fn token() -> Token {
        Token::random("n1").expect("randomness")
    }

    #[test]
    fn an_end_is_remembered_for_who_has_the_token_until_it_is_too_old() {
        let (mut ended, token) = (EndedSessions::default(), token());
        let close = Close { code: 4001, reason: "kicked".into(), clean: true };
        ended.remember(token.as_str(), close.clone(), SECOND(5), MEMORY);
        assert_eq!(ended.find(token.as_str(), SECOND(14), MEMORY), Some(close));
        let forged = format!("{}{}", &token.as_str()[..46], if token.as_str().ends_with('A') { 'B' } else { 'A' });
        assert_eq!((forged.len(), ended.find(&forged, SECOND(14), MEMORY)), (47, None));
        assert_eq!(ended.find(token.as_str(), SECOND(15), MEMORY), None, "before it is swept");
        ended.sweep(SECOND(15), MEMORY);
        assert_eq!((ended.entries.capacity(), ended.places.capacity()), (0, 0));
    }

    #[test]
    fn the_oldest_are_forgotten_and_the_others_found_wherever_they_lie() {
        let mut ended = EndedSessions { first: u32::MAX - 1, ..EndedSessions::default() };
        let tokens: Vec<_> = (0..10).map(|_| token()).collect();
        let memory = Memory { count: 4, ..MEMORY };
        for (code, token) in (4000..).zip(&tokens) {
            ended.remember(token.as_str(), Close::clean(code, ""), SECOND(1), memory);
        }
        let codes = tokens.iter().filter_map(|token| Some(ended.find(token.as_str(), SECOND(2), memory)?.code));
        assert_eq!(codes.collect::<Vec<_>>(), [4006, 4007, 4008, 4009]);
        assert_eq!((ended.entries.len(), ended.places.len()), (4, 4));
    }

    #[test]
    fn one_takes_56_bytes_and_the_room_of_many_is_given_back() {
        assert_eq!(size_of::<Entry>(), 56);
        let mut ended = EndedSessions::default();
        for second in 0..1000 {
            ended.remember(token().as_str(), Close::lost(), SECOND(second / 100), MEMORY);
        }
        let full = ended.entries.capacity();
        ended.sweep(SECOND(19), MEMORY);
        assert_eq!(ended.entries.len(), 0);
        assert!(full >= 1000 && ended.entries.capacity() < 10 && ended.places.capacity() < 10);
    }
}
