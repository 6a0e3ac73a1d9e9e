//! A reader: the right to read the down channel of a session, as a transport has it.
//!
//! Enters: polls of a transport. Leaves: what comes next, wake-ups. Must not touch: sockets, HTTP.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::Registry;
use super::live_session::{LiveSession, Refused, register};
use super::moved::Moved;
use super::record::ReaderRecord;
use crate::session::{Attach, Attachment, Message, Moment, Pulled};
use crate::terms::{Resume, Transport};

/// The right to read a session's down channel; dropping it detaches.
pub struct Reader {
    live: Arc<LiveSession>,
    attachment: Attachment,
    transport: Transport,
    from: u64,
    resumed: bool,
    /// The client came back; cleared by the first read, which shows whether messages are gone.
    comes_back: bool,
    /// The last read took all that there was, and its waker is registered.
    dry: bool,
    /// The timer of the session, see [`Reader::poll_due`].
    timer: Option<Pin<Box<Sleep>>>,
}

/// What a client attaches for.
#[derive(Clone, Copy, Debug)]
pub enum Stay<'a> {
    /// To be carried by it; why by this one, as the client says.
    Carries(Option<&'a str>),
    /// To take what there is now, without waiting. What carries the session is what it was.
    Collects,
}

impl LiveSession {
    /// Attaches a transport; an older attachment is superseded.
    ///
    /// # Errors
    /// See [`crate::session::Session::attach`]; or the session has moved.
    pub fn attach(self: &Arc<Self>, transport: Transport, attach: Attach, stay: Stay<'_>) -> Result<Reader, Refused> {
        let presented = attach.after.is_some();
        let (attachment, from, rival, newest, changed, timer) = self.act(|state, now| {
            let (attachment, from) = state.session.attach(now, attach).map_err(Refused::from)?;
            let rival = state.attached.replace(transport);
            if state.active {
                self.metrics.moved(rival, Some(transport));
            }
            let newest = match stay {
                Stay::Carries(_) => state.newest.replace(transport),
                Stay::Collects => state.newest,
            };
            let changed = match stay {
                Stay::Carries(cause) => state.change.note(newest, transport, cause, rival.is_some()),
                Stay::Collects => false,
            };
            let changed = changed.then(|| state.change.cause());
            Ok::<_, Refused>((attachment, from, rival, newest, changed, state.timer.take()))
        })??;
        if let Some(cause) = changed {
            self.metrics.remember_change(self.id(), newest, transport, cause);
        }
        let comes_back = presented && newest.is_some() && transport != Transport::Poll;
        match (stay, newest) {
            (Stay::Collects, _) => {}
            (Stay::Carries(cause), None) => self.note_first(transport, cause),
            (Stay::Carries(cause), Some(newest)) => {
                let unsaid = if rival.is_some() { "superseded" } else { "detached" };
                self.note_change(newest, transport, cause.unwrap_or(unsaid));
            }
        }
        let (live, resumed) = (Arc::clone(self), newest.is_some());
        Ok(Reader { live, attachment, transport, from, resumed, comes_back, dry: false, timer })
    }
}

impl Registry {
    /// A reader that another process had, or this one before a hand-over that failed, reads on behind `after`, the last number that
    /// it was given. Neither the session nor its client notices. `None` when the session is not here, or a newer reader
    /// has come, or what follows is gone: then the client has to come back.
    #[must_use]
    pub fn read_on(&self, record: ReaderRecord, after: u64) -> Option<Reader> {
        let ReaderRecord { session, transport, attachment, from } = record;
        let live = self.directory.live(&session)?;
        let read_on = live.act(|state, _| {
            if !state.session.read_on(attachment, after, transport == Transport::Poll) {
                return None;
            }
            state.attached = Some(transport);
            if state.active {
                live.metrics.moved(None, Some(transport));
            }
            Some(state.timer.take())
        });
        let timer = read_on.ok()??;
        Some(Reader { live, attachment, transport, from, resumed: true, comes_back: false, dry: false, timer })
    }
}

impl Reader {
    /// What is written down of it for [`Registry::read_on`].
    #[must_use]
    pub fn record(&self) -> ReaderRecord {
        let Self { live, attachment, transport, from, .. } = self;
        let session = live.id().to_owned();
        ReaderRecord { session, transport: *transport, attachment: *attachment, from: *from }
    }

    /// A moment of the session's clock, which is that of all processes that follow each other.
    #[must_use]
    pub fn moment(&self, at: Instant) -> Moment {
        self.live.moment(at)
    }

    /// The other way round.
    #[must_use]
    pub fn instant(&self, moment: Moment) -> Instant {
        self.live.epoch + Duration::from_micros(moment.0)
    }

    #[must_use]
    pub fn session(&self) -> &Arc<LiveSession> {
        &self.live
    }

    /// The cursor at which reading started.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.from
    }

    /// True when the session was attached before.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// What comes next. Messages are given to `each` with their numbers: payloads up to `budget` bytes together, but at
    /// least one message, unless it is 0. `each` runs under the session's mutex. Pending registers the waker.
    ///
    /// # Errors
    /// [`Moved`]: nothing more is read here.
    pub fn poll_pull(
        &mut self,
        cx: &Context<'_>,
        budget: usize,
        each: impl FnMut(u64, &Message),
    ) -> Poll<Result<Pulled, Moved>> {
        let (pulled, dry) = self.live.act(|state, now| {
            let pulled = state.session.pull(now, self.attachment, budget, each);
            let dry = match pulled {
                Pulled::Wait => true,
                Pulled::Batch { .. } => state.session.is_dry(),
                _ => false,
            };
            if dry {
                register(&mut state.reader, cx);
            }
            (pulled, dry)
        })?;
        self.dry = dry;
        if std::mem::take(&mut self.comes_back) {
            let lost = matches!(pulled, Pulled::Lost { .. });
            self.live.metrics.resumed(if lost { Resume::Lost } else { Resume::Resumed });
        }
        match pulled {
            Pulled::Wait => Poll::Pending,
            pulled => {
                self.count(&pulled);
                Poll::Ready(Ok(pulled))
            }
        }
    }

    /// True when the last [`Reader::poll_pull`] took all that there was and registered the waker.
    #[must_use]
    pub fn is_dry(&self) -> bool {
        self.dry
    }

    /// Ready once it is `due`. A timer that fires too early costs less than to move it for every message, or to make a new
    /// one for every poll: a session has one, which it keeps between two attachments.
    pub fn poll_due(&mut self, cx: &mut Context<'_>, now: Instant, due: Instant) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() <= now || due < timer.deadline() {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx)
    }

    fn count(&self, pulled: &Pulled) {
        let Pulled::Batch { count, bytes, arrived, .. } = pulled else { return };
        self.live.metrics.down(self.transport, *count, *bytes as u64);
        if let Some(arrived) = arrived {
            let delay = self.live.moment(Instant::now()).since(*arrived);
            self.live.metrics.delivered(self.transport, delay);
        }
    }

    /// The stream took a write that carried no message.
    pub fn wrote(&self) {
        self.live.tell(|state, now| state.session.wrote(now, self.attachment));
    }

    /// When the process wants this client to leave, if it does.
    #[must_use]
    pub fn leave_at(&self) -> Option<Instant> {
        match self.live.leave.load(Ordering::Acquire) {
            0 => None,
            at => Some(self.instant(Moment(at))),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let timer = self.timer.take();
        self.live.tell(|state, now| {
            state.timer = timer.or(state.timer.take());
            let current = state.session.is_current(self.attachment);
            state.session.detach(now, self.attachment);
            if current {
                // Its task may do something else by now, or may have ended.
                state.reader = None;
                let left = state.attached.take();
                if state.active {
                    self.live.metrics.moved(left, None);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::super::{policies::limits, token::Token};
    use super::*;
    use crate::budget::Budget;
    use crate::config;
    use crate::metrics::Metrics;
    use crate::session::{Attach, Moment, Session};

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn session() -> Arc<LiveSession> {
        let policy = Arc::new(config::Session::default());
        let session = Session::new(Moment::default(), limits(&policy), true);
        let token = Token::random("n1").expect("randomness");
        let shared = (Arc::new(Metrics::default()), Arc::new(Budget::of(None)));
        let owner = super::super::owner::Owner::default();
        Arc::new(LiveSession::new(token, String::new(), policy, session, Instant::now(), shared, owner))
    }

    fn poll(session: &Arc<LiveSession>) -> Reader {
        let attach = Attach { after: None, acknowledging: true, is_poll: true };
        session.attach(Transport::Poll, attach, Stay::Carries(None)).expect("a reader")
    }

    /// A reader that waits, and how often it was woken.
    fn waiting(session: &Arc<LiveSession>) -> (Reader, Arc<Count>) {
        let (mut reader, count) = (poll(session), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        assert!(reader.poll_pull(&Context::from_waker(&waker), 1, |_, _| {}).is_pending());
        (reader, count)
    }

    #[test]
    fn a_waiting_reader_is_woken_and_one_that_left_is_not() {
        let session = session();
        let (superseded, woken) = waiting(&session);
        let (left, never) = waiting(&session);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1, "it learns that it was superseded");
        drop(superseded);
        drop(left);
        assert_eq!(Arc::strong_count(&never), 1, "its task can go");
        let (_now, message) = waiting(&session);
        session.upstream_messages(vec![Message::text("a")]);
        let counts = [woken, never, message].map(|count| count.0.load(Ordering::Relaxed));
        assert_eq!(counts, [1, 0, 1]);
    }
}
