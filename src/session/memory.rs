//! What a session holds in memory, and how it is given back when the process is short of it.
//!
//! Enters: the state and its queues. Leaves: sizes, and room that is not needed. Must not touch: budgets; when memory is short is decided elsewhere.

use std::collections::VecDeque;

use super::types::{Close, Moment};
use super::{Session, Upstream};

/// In so many steps what was written within `replay_age` is let go of, while the session writes nothing; arbitrary.
const REPLAY_STEPS: u32 = 4;
/// A queue keeps room for so many items whatever is in it; below that nothing is saved.
const ROOM: usize = 32;

/// Gives back the room that a queue once needed: all of it when it is empty, half of it when three quarters are not used. So
/// an item is moved less than once for each that was taken out.
pub(super) fn give_back<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() {
        *queue = VecDeque::new();
    } else if queue.capacity() > ROOM && queue.len() <= queue.capacity() / 4 {
        queue.shrink_to(queue.capacity() / 2);
    }
}

impl Session {
    /// Cost of what waits for the backend, in bytes.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.up.waiting_cost()
    }

    /// What the session keeps for the client and for the backend, by [`super::Message::cost`], in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.down.kept_cost() + self.up.waiting_cost()
    }

    /// Gives back what was written to a client that does not acknowledge, and is only kept for when it comes back.
    pub fn drop_replay(&mut self) {
        if !self.acknowledging {
            self.down.trim(0);
            self.down.shrink();
        }
    }

    /// What is only kept for a client that does not acknowledge and may come back, in bytes.
    #[must_use]
    pub fn replay(&self) -> usize {
        if self.acknowledging { 0 } else { self.down.kept_cost() - self.down.unread_cost() }
    }

    /// When written messages are let go of next, because no client that may still come back can lack them. Later than the
    /// first of them is due, so that there is a step for many messages and not one for each.
    pub(super) fn replay_deadline(&self) -> Option<Moment> {
        let age = self.limits.replay_age;
        let oldest = if self.acknowledging { None } else { self.down.oldest_read() };
        oldest.map(|read| read.after(age + age / REPLAY_STEPS))
    }

    /// Lets go of written messages that are old enough.
    pub(super) fn expire_replay(&mut self, now: Moment) {
        if self.replay_deadline().is_some_and(|deadline| deadline <= now) {
            self.down.trim_older(now, self.limits.replay_age);
            self.down.shrink();
        }
    }

    /// Ends the session towards both sides at once, and drops all that it keeps for either: what the client was not given is
    /// told to it as lost.
    pub fn abandon(&mut self, now: Moment, close: Close) {
        self.end(now, close);
        self.up.clear();
        self.outbox.wake_senders |= self.up.take_starved();
        self.down.clear();
        self.outbox.wake_reader = true;
        debug_assert!(!matches!(self.upstream, Upstream::Open));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Action, Attach, Limits, Message, Pulled};
    use super::*;

    const NOW: Moment = Moment(0);

    fn session(acknowledging: bool) -> Session {
        let second = Duration::from_secs(1);
        let limits = Limits {
            buffer: 1 << 20,
            replay: 1 << 20,
            replay_age: 8 * second,
            reorder_window: 9,
            queue: 1 << 20,
            grace: second,
            pause: second,
            close_wait: second,
        };
        Session::new(NOW, limits, acknowledging)
    }

    fn attach(session: &mut Session, after: Option<u64>, acknowledging: bool) -> super::super::Attachment {
        session.attach(NOW, Attach { after, acknowledging, is_poll: false }).expect("a reader").0
    }

    #[test]
    fn an_abandoned_session_holds_nothing_and_tells_both_sides() {
        let mut session = session(true);
        let reader = attach(&mut session, None, true);
        for text in ["a", "b", "c"] {
            session.upstream_message(NOW, Message::text(text));
        }
        assert!(matches!(session.pull(NOW, reader, 1, |_, _| {}), Pulled::Batch { first: 1, count: 1, .. }));
        session.push(NOW, Some(1), &[Message::text("x"), Message::text("y")]);
        session.push(NOW, Some(4), &[Message::text("early")]);
        assert_eq!(session.held(), 6 + 4 + 6 * Message::OVERHEAD);

        let close = Close::clean(1013, "why");
        session.abandon(NOW, close.clone());
        assert_eq!((session.held(), session.check()), (0, Ok(())));
        let actions: Vec<_> = std::iter::from_fn(|| session.poll_action()).collect();
        assert_eq!(actions.last(), Some(&Action::CloseUpstream(close.clone())));
        assert!(actions.contains(&Action::WakeReader) && actions.contains(&Action::WakeSenders), "{actions:?}");
        assert_eq!(session.pull(NOW, reader, 1, |_, _| {}), Pulled::Lost { from: 2, to: 3 });
        assert_eq!(session.pull(NOW, reader, 1, |_, _| {}), Pulled::Ended { number: 4, close: close.clone() });
        assert_eq!(session.check(), Ok(()));
    }

    #[test]
    fn who_comes_back_to_an_abandoned_session_is_told_what_is_lost() {
        let mut session = session(true);
        let reader = attach(&mut session, None, true);
        session.upstream_message(NOW, Message::text("a"));
        assert!(matches!(session.pull(NOW, reader, 1, |_, _| {}), Pulled::Batch { .. }));
        session.detach(NOW, reader);
        session.upstream_message(NOW, Message::text("b"));
        session.abandon(NOW, Close::clean(1013, "why"));
        let reader = attach(&mut session, Some(1), true);
        assert_eq!(session.pull(NOW, reader, 1, |_, _| {}), Pulled::Lost { from: 2, to: 2 });
        assert!(matches!(session.pull(NOW, reader, 1, |_, _| {}), Pulled::Ended { number: 3, .. }));
    }

    #[test]
    fn a_replay_window_is_given_back_and_what_is_unread_or_unacknowledged_is_not() {
        for acknowledging in [false, true] {
            let mut session = session(acknowledging);
            let reader = attach(&mut session, None, acknowledging);
            session.upstream_message(NOW, Message::text("read"));
            assert!(matches!(session.pull(NOW, reader, 9, |_, _| {}), Pulled::Batch { .. }));
            session.upstream_message(NOW, Message::text("unread"));
            session.drop_replay();
            let unread = 6 + Message::OVERHEAD;
            assert_eq!(session.held(), if acknowledging { unread + 4 + Message::OVERHEAD } else { unread });
            assert_eq!(session.check(), Ok(()));
        }
    }

    #[test]
    fn what_was_written_long_ago_is_let_go_of_in_steps() {
        let mut session = session(false);
        let reader = attach(&mut session, None, false);
        let second = |seconds| NOW.after(Duration::from_secs(seconds));
        let write = |session: &mut Session, now| {
            session.upstream_message(now, Message::text("a"));
            assert!(matches!(session.pull(now, reader, 9, |_, _| {}), Pulled::Batch { .. }));
        };
        (0..3).for_each(|seconds| write(&mut session, second(seconds)));
        let cost = 1 + Message::OVERHEAD;
        // Kept for 8 s; the deadline is 2 s later, and takes with it what is old enough by then.
        assert_eq!((session.replay(), session.replay_deadline()), (3 * cost, Some(second(10))));
        session.expire_replay(second(9));
        assert_eq!(session.replay(), 3 * cost, "before the deadline nobody looks");
        session.expire_replay(second(10));
        assert_eq!((session.replay(), session.replay_deadline()), (0, None));

        (20..23).for_each(|seconds| write(&mut session, second(seconds)));
        write(&mut session, second(29));
        assert_eq!(session.replay(), 2 * cost, "a write lets go of what is old enough, without a deadline");
        session.ack(second(29), 5).expect("a cursor");
        assert_eq!(session.replay_deadline(), None, "what is not acknowledged is kept whatever its age");
        assert_eq!((session.replay(), session.held()), (0, 2 * cost));
    }

    #[test]
    fn a_queue_gives_its_room_back() {
        let mut queue: VecDeque<u64> = (0..1000).collect();
        while queue.len() > 1 {
            queue.pop_front();
            give_back(&mut queue);
            assert!(queue.capacity() <= ROOM.max(8 * queue.len()), "{} of {}", queue.len(), queue.capacity());
        }
        queue.clear();
        give_back(&mut queue);
        assert_eq!(queue.capacity(), 0);
    }
}
