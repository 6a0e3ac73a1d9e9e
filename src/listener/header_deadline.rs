//! How long an HTTP/1 client may take for a header that hyper reads, and that hyper waits for one.
//!
//! Enters: hyper's call that starts its timer, and its looks at it. Leaves: the moment at which hyper gives up; which header it waits
//! for. Must not touch: the connection itself.
//!
//! hyper gets a connection when the first bytes of a request are there, so its first wait is for the rest of a header. The second one
//! means that an exchange is over: the connection is taken back once the socket has taken the end of the response, and has its
//! deadlines elsewhere. hyper starts the timer when it begins to read a header, looks at it whenever all that came is no whole header,
//! and drops it when it has one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use tokio::time::sleep_until;

/// The timer of one connection.
#[derive(Debug)]
pub(super) struct HeaderTimer {
    header: Duration,
    used: AtomicBool,
    awaits: Awaits,
}

/// Which header hyper waits for now.
#[derive(Clone, Debug, Default)]
pub(super) struct Awaits(Arc<AtomicU8>);

/// A header that hyper waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The first one on the connection. Nothing was answered yet.
    First = 1,
    /// The one behind an exchange.
    Next = 2,
}

struct HeaderSleep {
    awaited: Awaited,
    awaits: Awaits,
    deadline: tokio::time::Instant,
    /// Made when it is first waited for: with the whole header there, it never is.
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

// === impl Awaits ===

impl Awaits {
    /// `None` while hyper is about something else.
    pub(super) fn head(&self) -> Option<Awaited> {
        let now = self.0.load(Ordering::Relaxed);
        [Awaited::First, Awaited::Next].into_iter().find(|awaited| *awaited as u8 == now)
    }

    fn set(&self, awaited: Option<Awaited>) {
        self.0.store(awaited.map_or(0, |awaited| awaited as u8), Ordering::Relaxed);
    }
}

// === impl HeaderTimer ===

impl HeaderTimer {
    pub(super) fn new(header: Duration) -> (Self, Awaits) {
        let awaits = Awaits::default();
        (Self { header, used: AtomicBool::new(false), awaits: awaits.clone() }, awaits)
    }
}

impl Timer for HeaderTimer {
    fn sleep(&self, span: Duration) -> Pin<Box<dyn Sleep>> {
        let awaited = if self.used.swap(true, Ordering::Relaxed) { Awaited::Next } else { Awaited::First };
        let deadline = tokio::time::Instant::now() + span;
        Box::pin(HeaderSleep { awaited, awaits: self.awaits.clone(), deadline, sleep: None })
    }

    /// hyper's deadline is not used: it is only the switch that turns the timer on.
    fn sleep_until(&self, _deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(self.header)
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

// === impl HeaderSleep ===

impl Future for HeaderSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.awaits.set(Some(self.awaited));
        if self.awaited == Awaited::Next {
            // While the socket does not take the end of the response, the limit on that holds.
            return Poll::Pending;
        }
        let deadline = self.deadline;
        self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline))).as_mut().poll(cx)
    }
}

impl Drop for HeaderSleep {
    fn drop(&mut self) {
        self.awaits.set(None);
    }
}

impl Sleep for HeaderSleep {}
