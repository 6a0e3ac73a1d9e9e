//! What a session holds in memory, and how it is given back when the process is short of it.
//!
//! Enters: the state. Leaves: sizes. Must not touch: budgets; when memory is short is decided elsewhere.

use super::types::{Close, Moment};
use super::{Session, Upstream};

impl Session {
    /// What the session keeps for the client and for the backend, by [`super::Message::cost`], in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.down.kept_cost() + self.up.waiting_cost()
    }

    /// Gives back what was written to a client that does not acknowledge, and is only kept for when it comes back.
    pub fn drop_replay(&mut self) {
        if !self.acknowledging {
            self.down.trim(0);
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
}
