//! Where a connection of HTTP/1 stands, and what it waits for there.
//!
//! Enters: what a step is made of. Leaves: that a wait is over. Must not touch: which step comes next.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Response, Version};
use tokio::io::AsyncRead;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::http::body::Body;
use crate::http::incoming::BoxError;
use crate::http::replay::Replay;
use crate::http::write_response::{ResponseWriter, Upgraded};
use crate::lifecycle::{Lifecycle, Phase};
use crate::listener::dialling::DialTurn;
use crate::listener::handler::ResponseFuture;
use crate::listener::hyper_server::TakenRequest;

/// Where a connection stands.
pub(super) enum Step<IO> {
    /// There is no request, or it was not parsed yet. No buffer is kept while there is none.
    Reading(Replay<IO>),
    /// There is the beginning of a request's head: so many bytes.
    ReadingHead(Replay<IO>, usize),
    /// hyper serves, until an exchange or the connection is over, or it gives up a request whose response may take long; its
    /// buffers have so many bytes.
    Hyper(HyperServing<IO>, usize),
    /// A request waits for its turn to dial.
    Queued(Queued<IO>),
    Responding(Exchange<IO>),
    Writing(ResponseWriter<IO>),
    /// The head of a 101 is being written.
    Switching(Pin<Box<dyn Future<Output = Option<Upgraded>> + Send>>),
    Over,
}

pub(super) type HyperServing<IO> =
    Pin<Box<dyn Future<Output = Result<Option<(Replay<IO>, Option<TakenRequest>)>, BoxError>> + Send>>;

/// A state of the process, waited for.
pub(super) type Reached = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request that will have a backend dialled. When many come at once most of them wait here, so nothing is kept of it
/// but its bytes, and it is parsed and routed again.
pub(super) struct Queued<IO> {
    pub(super) io: Replay<IO>,
    /// A request that is not in `io` any more, because hyper has read it.
    pub(super) taken: Option<TakenRequest>,
    pub(super) turn: Pin<Box<dyn Future<Output = DialTurn> + Send>>,
}

/// A request whose response is waited for.
pub(super) struct Exchange<IO> {
    pub(super) io: Replay<IO>,
    pub(super) response: ResponseFuture,
    pub(super) version: Version,
    pub(super) keep_alive: bool,
}

impl<IO> Step<IO> {
    /// What its buffers hold, in bytes.
    pub(super) fn buffers(&self) -> usize {
        match self {
            Self::ReadingHead(io, _) | Self::Queued(Queued { io, .. }) | Self::Responding(Exchange { io, .. }) => {
                io.ahead().len()
            }
            Self::Writing(writer) => writer.ahead(),
            Self::Hyper(_, buffers) => *buffers,
            Self::Reading(_) | Self::Switching(_) | Self::Over => 0,
        }
    }
}

impl<IO: AsyncRead + Unpin> Exchange<IO> {
    /// Waits for the response, as long as the client is there and the process lives: `None` when either is over.
    pub(super) fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        lifecycle: &Lifecycle,
        closing: &mut Option<Reached>,
    ) -> Poll<Option<Response<Body>>> {
        if let Poll::Ready(response) = self.response.as_mut().poll(cx) {
            return Poll::Ready(Some(response));
        }
        // Polled once, it wakes the connection at the next change; until then there is no need to poll it again.
        let will_wake = closing.is_some() && !lifecycle.has_changed();
        let closing = closing.get_or_insert_with(|| reached(lifecycle, Phase::Closing));
        if !will_wake && closing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        while ready!(self.io.poll_ahead(cx)) {}
        Poll::Ready(None)
    }
}

/// The process is in this phase, or a later one.
fn reached(lifecycle: &Lifecycle, phase: Phase) -> Reached {
    let lifecycle = lifecycle.clone();
    Box::pin(async move { lifecycle.reached(phase).await })
}

/// Everything is let go of.
pub(super) fn let_go_of(lifecycle: &Lifecycle) -> Reached {
    let lifecycle = lifecycle.clone();
    Box::pin(async move { lifecycle.let_go_of().await })
}

/// Ready with an error when the deadline has passed.
pub(super) fn poll_deadline(
    timer: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
    deadline: Instant,
) -> Poll<BoxError> {
    // A timer that fires too early costs less than one that is moved at every request. One that will fire in time
    // need not be polled: a connection is one task all its life, which it will wake.
    let is_set = timer.is_some();
    let sleep = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
    let will_wake = is_set && !sleep.is_elapsed() && sleep.deadline() <= deadline;
    while !will_wake && (deadline < sleep.deadline() || sleep.as_mut().poll(cx).is_ready()) {
        if deadline <= Instant::now() {
            return Poll::Ready("no request came in time".into());
        }
        sleep.as_mut().reset(deadline);
    }
    Poll::Pending
}
