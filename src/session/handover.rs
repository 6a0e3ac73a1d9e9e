//! What a session that goes to another process leaves behind, and what its next driver has to know.
//!
//! Enters: the state. Leaves: the same without its reader, or with it again; what the socket was last told. Must not touch: how a
//! state travels.

use std::sync::Arc;

use super::Session;
use super::types::{Attachment, Limits, Moment};

impl Session {
    /// Its reader stays behind. Nobody is woken any more: whoever waits is told by others that the session has gone.
    pub fn leave_reader(&mut self, now: Moment) {
        if let Some(attachment) = self.lease.current() {
            self.detach(now, attachment);
        }
        (self.outbox.wake_reader, self.outbox.wake_senders) = (false, false);
        self.up.take_starved();
    }

    /// The reader that stayed behind reads on behind `after`, which is what it was last given. Its client need not know: nothing
    /// is acknowledged by that, and it is no sign of life. False when there is a newer reader, or something that follows is gone.
    pub fn read_on(&mut self, attachment: Attachment, after: u64, is_poll: bool) -> bool {
        let reads_on = self.down.reaches(after) && self.lease.resume(attachment, is_poll);
        if reads_on {
            self.down.seek(after);
        }
        reads_on
    }

    /// A session that was written down has these limits again, which whoever wrote it down knows.
    #[must_use]
    pub fn governed_by(self, limits: Arc<Limits>) -> Self {
        Self { limits, ..self }
    }

    /// Whether the backend was last told to pause.
    #[must_use]
    pub fn is_backend_paused(&self) -> bool {
        self.outbox.paused
    }

    /// Whether a message was given to the socket that was not reported as written.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        !self.outbox.upstream_free
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Action, Attach, Limits, Message, Pulled};
    use super::*;

    fn session() -> Session {
        let second = Duration::from_secs(1);
        let limits = Limits {
            buffer: 1000,
            replay: 1000,
            replay_age: second,
            reorder_window: 9,
            queue: 1000,
            grace: second,
            pause: second,
            close_wait: second,
        };
        Session::new(Moment(0), limits, true)
    }

    #[test]
    fn a_waiting_poll_that_stays_behind_was_the_last_sign_of_life() {
        let mut session = session();
        let poll = Attach { after: None, acknowledging: true, is_poll: true };
        let (attachment, _) = session.attach(Moment(0), poll).expect("a reader");
        let later = Moment(5_000_000);
        assert_eq!(session.next_deadline(), None, "a poll that waits keeps it alive");
        session.leave_reader(later);
        assert!(!session.is_current(attachment));
        assert_eq!(session.next_deadline(), Some(later.after(Duration::from_secs(1))));
        assert_eq!(session.poll_action(), None, "nobody is left to be woken");
    }

    #[test]
    fn what_was_written_and_not_acknowledged_is_read_again_elsewhere() {
        let mut session = session();
        let (reader, _) =
            session.attach(Moment(0), Attach { after: None, acknowledging: true, is_poll: false }).expect("a reader");
        session.upstream_message(Moment(0), Message::text("a"));
        assert!(matches!(session.pull(Moment(0), reader, 9, |_, _| {}), Pulled::Batch { .. }));
        session.leave_reader(Moment(1));
        let packed = serde_json::to_vec(&session).expect("plain data");
        let elsewhere: Session = serde_json::from_slice(&packed).expect("what was written");
        let mut elsewhere = elsewhere.governed_by(Arc::clone(&session.limits));
        assert_eq!(elsewhere, session);
        let again = Attach { after: Some(0), acknowledging: true, is_poll: false };
        let (reader, from) = elsewhere.attach(Moment(2), again).expect("a reader");
        assert_eq!(from, 0);
        assert!(matches!(elsewhere.pull(Moment(2), reader, 9, |_, _| {}), Pulled::Batch { first: 1, count: 1, .. }));
    }

    #[test]
    fn the_next_driver_learns_of_a_pause_and_of_a_message_under_way() {
        let mut session = session();
        assert!(!session.is_sending() && !session.is_backend_paused());
        session.push(Moment(0), Some(1), &[Message::text("up")]);
        session.upstream_message(Moment(0), Message::binary(vec![0; 2000]));
        let actions: Vec<_> = std::iter::from_fn(|| session.poll_action()).collect();
        assert!(actions.contains(&Action::Pause), "{actions:?}");
        assert!(session.is_sending() && session.is_backend_paused());
        session.upstream_took();
        assert!(!session.is_sending());
    }
}
