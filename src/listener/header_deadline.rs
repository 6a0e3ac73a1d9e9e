//! How long an HTTP/1 client may take for a request's header, and how long it may send nothing at all.
//!
//! Enters: hyper's call that starts its timer, and the connection's [`Traffic`]. Leaves: the moment at which hyper gives
//! up. Must not touch: the connection itself.
//!
//! hyper has one timer for both: it starts when the connection becomes idle and stops at the end of the next header. The
//! one here looks at the byte counter as well: silence is given one span, and the first byte re-arms the timer with the
//! span for a header. So a connection may be idle for a minute, and still cannot send a header for as long, byte by byte. hyper gets a connection
//! when the first bytes of a request are there, so its first wait is for the rest of a header.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use tokio::time::sleep_until;

use super::traffic::Traffic;
use crate::config::Client;

/// The timer of one connection.
#[derive(Debug)]
pub(super) struct HeaderTimer {
    traffic: Arc<Traffic>,
    idle: Duration,
    header: Duration,
    used: AtomicBool,
}

struct HeaderSleep {
    traffic: Arc<Traffic>,
    /// What had been read when the wait began; `None` once more has come.
    silent_at: Option<u64>,
    header: Duration,
    deadline: tokio::time::Instant,
    /// Made when it is first waited for: with the whole header there, it never is.
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

// === impl HeaderTimer ===

impl HeaderTimer {
    pub(super) fn new(client: &Client, traffic: Arc<Traffic>) -> Self {
        let Client { idle, header, .. } = *client;
        Self { traffic, idle, header, used: AtomicBool::new(false) }
    }
}

impl Timer for HeaderTimer {
    fn sleep(&self, span: Duration) -> Pin<Box<dyn Sleep>> {
        let begun = !self.used.swap(true, Ordering::Relaxed);
        Box::pin(HeaderSleep {
            traffic: Arc::clone(&self.traffic),
            silent_at: (!begun).then(|| self.traffic.read()),
            header: self.header,
            deadline: tokio::time::Instant::now() + span,
            sleep: None,
        })
    }

    /// hyper's deadline is not used: it knows one span for all, we choose by whether this is the first request.
    fn sleep_until(&self, _deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let begun = !self.used.load(Ordering::Relaxed);
        self.sleep(if begun { self.header } else { self.idle })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

// === impl HeaderSleep ===

impl Future for HeaderSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // hyper polls this after each read that left the header unfinished, so the first byte is seen when it comes.
        if self.silent_at.is_some_and(|before| self.traffic.read() != before) {
            self.silent_at = None;
            self.deadline = tokio::time::Instant::now() + self.header;
        }
        let deadline = self.deadline;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }
}

impl Sleep for HeaderSleep {}
