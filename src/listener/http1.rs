//! One HTTP/1 connection: requests one after the other, each read, answered, written.
//!
//! Enters: a connection, and what its requests go to. Leaves: what becomes of it behind a 101, as a task of its own. Must
//! not touch: how a request is parsed and a response is written (`crate::http`, or hyper).
//!
//! Written as a state machine and not as `async`: a stream or a poll waits in here for most of its life, and an `async`
//! future would keep room for every step at once.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::context::ConnContext;
use super::dialling::{DialQueue, DialTurn};
use super::framing::Malformed;
use super::handler::{Handler, Latency, ResponseFuture};
use super::hyper_server::{TakenRequest, serve_until_taken};
use super::memory;
use crate::budget::LazyClaim;
use crate::http::body::Body;
use crate::http::fields::end_of_head;
use crate::http::incoming::{BoxError, IncomingBody};
use crate::http::read_request::{Head, ReadRequest, keeps_alive, read_request};
use crate::http::replay::Replay;
use crate::http::write_response::{ResponseWriter, Upgraded, write_switching};
use crate::lifecycle::{Lifecycle, Phase};

/// The connection, as a task.
pub(super) struct Http1<H, IO> {
    context: ConnContext<H>,
    step: Step<IO>,
    /// Until when a first byte must come.
    deadline: Instant,
    /// Fires at the deadline, or earlier. Made when it is first needed, and kept from request to request.
    timer: Option<Pin<Box<Sleep>>>,
    /// Ends the connection while a response is waited for; made and kept likewise.
    closing: Option<Reached>,
    /// What has been read ahead, or what hyper has.
    held: LazyClaim,
}

enum Step<IO> {
    /// There is no request, or it was not parsed yet. No buffer is kept while there is none.
    Reading(Replay<IO>),
    /// There is the beginning of a request's head: so many bytes.
    ReadingHead(Replay<IO>, usize),
    /// hyper serves, until it ends or gives up a request whose response may take long; its buffers have so many bytes.
    Hyper(HyperServing<IO>, usize),
    /// A request waits for its turn to dial.
    Queued(Queued<IO>),
    Responding(Exchange<IO>),
    Writing(ResponseWriter<IO>),
    /// The head of a 101 is being written.
    Switching(Pin<Box<dyn Future<Output = Option<Upgraded>> + Send>>),
    Over,
}

type HyperServing<IO> = Pin<Box<dyn Future<Output = Result<Option<(Replay<IO>, TakenRequest)>, BoxError>> + Send>>;

/// A phase of the process, waited for.
type Reached = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request that will have a backend dialled. When many come at once most of them wait here, so nothing is kept of it
/// but its bytes, and it is parsed and routed again.
struct Queued<IO> {
    io: Replay<IO>,
    /// A request that is not in `io` any more, because hyper has read it.
    taken: Option<TakenRequest>,
    turn: Pin<Box<dyn Future<Output = DialTurn> + Send>>,
}

/// A request whose response is waited for.
struct Exchange<IO> {
    io: Replay<IO>,
    response: ResponseFuture,
    version: Version,
    keep_alive: bool,
}

impl<H, IO> Http1<H, IO>
where
    H: Handler,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// A connection of which nothing was read.
    pub(super) fn new(context: ConnContext<H>, io: IO) -> Self {
        let deadline = Instant::now() + context.shared.client.handshake;
        Self {
            context,
            step: Step::Reading(Replay::new(io)),
            deadline,
            timer: None,
            closing: None,
            held: LazyClaim::default(),
        }
    }

    /// What comes after the present step.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step<IO>, BoxError>> {
        match &mut self.step {
            Step::Reading(io) => match if io.is_fresh() { io.poll_ahead(cx) } else { Poll::Ready(true) } {
                // Another has its place: what has come at the last moment is as good as not come.
                Poll::Ready(true) if !self.context.info.bytes.become_busy() => Poll::Ready(Ok(Step::Over)),
                Poll::Ready(true) => Poll::Ready(Ok(self.parse())),
                Poll::Ready(false) => Poll::Ready(Ok(Step::Over)),
                Poll::Pending => self.idle(cx),
            },
            Step::ReadingHead(io, seen) => loop {
                match io.poll_ahead(cx) {
                    // It is not parsed for each byte that drips.
                    Poll::Ready(true) if end_of_head(io.ahead(), *seen).is_none() && !io.is_full() => {
                        *seen = io.ahead().len();
                    }
                    Poll::Ready(true) => return Poll::Ready(Ok(self.parse())),
                    Poll::Ready(false) => return Poll::Ready(Ok(Step::Over)),
                    Poll::Pending if memory::refuses_rest(&self.context.shared.budget, io.ahead().len()) => {
                        return Poll::Ready(Ok(self.refuse()));
                    }
                    Poll::Pending => return poll_deadline(&mut self.timer, cx, self.deadline).map(Err),
                }
            },
            Step::Hyper(serving, _) => {
                let taken = ready!(serving.as_mut().poll(cx))?;
                Poll::Ready(Ok(match taken {
                    Some((io, taken)) => match queue_of(&taken.request, taken.latency) {
                        Some(queue) => Self::queue(io, Some(taken), queue),
                        None => self.respond(io, *taken.request, None),
                    },
                    None => Step::Over,
                }))
            }
            Step::Queued(queued) => match queued.turn.as_mut().poll(cx) {
                Poll::Ready(turn) => Poll::Ready(Ok(self.dial(turn))),
                Poll::Pending => {
                    while ready!(queued.io.poll_ahead(cx)) {}
                    Poll::Ready(Ok(Step::Over))
                }
            },
            Step::Responding(exchange) => {
                let response = ready!(exchange.poll_response(cx, &self.context.shared.lifecycle, &mut self.closing));
                Poll::Ready(Ok(response.map_or(Step::Over, |response| self.write(response))))
            }
            Step::Writing(writer) => match Pin::new(&mut *writer).poll(cx) {
                Poll::Ready(io) => Poll::Ready(Ok(self.again(io))),
                Poll::Pending => {
                    // No request follows a stream for as long as it lives.
                    self.timer = self.timer.take().filter(|_| !writer.is_stream());
                    self.closing = None;
                    Poll::Pending
                }
            },
            Step::Switching(switching) => {
                ready!(switching.as_mut().poll(cx)).map(tokio::spawn);
                Poll::Ready(Ok(Step::Over))
            }
            Step::Over => Poll::Ready(Ok(Step::Over)),
        }
    }

    /// There is nothing to do, until bytes come or the connection has to end.
    fn idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step<IO>, BoxError>> {
        let traffic = &self.context.info.bytes;
        traffic.introduce_task(cx);
        traffic.become_idle();
        // Asked only now: who is idle before it is said that the process drains is woken for it.
        if traffic.must_end() || self.context.shared.lifecycle.is_draining() {
            return Poll::Ready(Ok(Step::Over));
        }
        poll_deadline(&mut self.timer, cx, self.deadline).map(Err)
    }

    /// More bytes of a request are there: all of it, as a rule.
    fn parse(&mut self) -> Step<IO> {
        let (io, begins) = match std::mem::replace(&mut self.step, Step::Over) {
            Step::Reading(io) => (io, true),
            Step::ReadingHead(io, _) => (io, false),
            _ => return Step::Over,
        };
        let step = self.read(io, None);
        if begins && matches!(step, Step::ReadingHead(..)) {
            self.deadline = Instant::now() + self.context.shared.client.header;
        }
        step
    }

    /// Reads and routes a request, which may have its turn to dial already.
    fn read(&self, io: Replay<IO>, turn: Option<DialTurn>) -> Step<IO> {
        let budget = &self.context.shared.budget;
        let (request, end) = match read_request(io.ahead(), &self.context.shared.client) {
            ReadRequest::Whole(mut request, end) => {
                memory::hold_head(budget, &mut request, end);
                (request, end)
            }
            ReadRequest::Partial if !io.is_full() => {
                let seen = io.ahead().len();
                return Step::ReadingHead(io, seen);
            }
            ReadRequest::Partial if memory::refuses_rest(budget, io.ahead().len()) => {
                (memory::refused(), io.ahead().len())
            }
            ReadRequest::Other(_) if memory::refuses_buffers(budget) => (memory::refused(), io.ahead().len()),
            ReadRequest::Partial => {
                return self.hand_to_hyper(io, Head::default(), memory::http1(self.context.shared.client.header_bytes));
            }
            ReadRequest::Other(head) => return self.hand_to_hyper(io, head, memory::http1(0)),
            ReadRequest::Malformed(what) => {
                let end = io.ahead().len();
                (malformed(what), end)
            }
        };
        self.begin(io, request, end, turn)
    }

    /// There is no memory for the rest of a head.
    fn refuse(&mut self) -> Step<IO> {
        let Step::ReadingHead(io, _) = std::mem::replace(&mut self.step, Step::Over) else { return Step::Over };
        let end = io.ahead().len();
        self.begin(io, memory::refused(), end, None)
    }

    /// Routes a request that was read, up to `end` of what there is.
    fn begin(
        &self,
        mut io: Replay<IO>,
        mut request: Request<IncomingBody>,
        end: usize,
        mut turn: Option<DialTurn>,
    ) -> Step<IO> {
        let latency = self.context.shared.handler.route(&mut request, &self.context.info);
        if let Some(queue) = queue_of(&request, latency) {
            turn = turn.or_else(|| queue.try_acquire());
            if turn.is_none() {
                return Self::queue(io, None, queue);
            }
        }
        io.skip(end);
        self.respond(io, request, turn)
    }

    /// Counts the buffers that this step has.
    fn count(&mut self) {
        let bytes = match &self.step {
            Step::ReadingHead(io, _) | Step::Queued(Queued { io, .. }) | Step::Responding(Exchange { io, .. }) => {
                io.ahead().len()
            }
            Step::Writing(writer) => writer.ahead(),
            Step::Hyper(_, buffers) => *buffers,
            Step::Reading(_) | Step::Switching(_) | Step::Over => 0,
        };
        self.held.set(&self.context.shared.budget, bytes);
    }

    fn hand_to_hyper(&self, mut io: Replay<IO>, head: Head, buffers: usize) -> Step<IO> {
        if let Some((readable, length)) = &head.readable {
            io.skip(*length);
            io.put_back(readable);
        }
        Step::Hyper(Box::pin(serve_until_taken(self.context.clone(), io, head)), buffers)
    }

    fn queue(io: Replay<IO>, taken: Option<TakenRequest>, queue: Arc<DialQueue>) -> Step<IO> {
        let turn = Box::pin(queue.acquire());
        Step::Queued(Queued { io, taken, turn })
    }

    /// It is a queued request's turn to dial.
    fn dial(&mut self, turn: DialTurn) -> Step<IO> {
        let Step::Queued(Queued { io, taken, .. }) = std::mem::replace(&mut self.step, Step::Over) else {
            return Step::Over;
        };
        match taken {
            Some(taken) => self.respond(io, *taken.request, Some(turn)),
            None => self.read(io, Some(turn)),
        }
    }

    fn respond(&self, io: Replay<IO>, mut request: Request<IncomingBody>, turn: Option<DialTurn>) -> Step<IO> {
        if let Some(turn) = turn {
            request.extensions_mut().insert(turn);
        }
        let (version, keep_alive) = (request.version(), keeps_alive(&request));
        let response = self.context.shared.handler.respond(request);
        Step::Responding(Exchange { io, response, version, keep_alive })
    }

    fn write(&mut self, response: Response<Body>) -> Step<IO> {
        let Step::Responding(exchange) = std::mem::replace(&mut self.step, Step::Over) else { return Step::Over };
        let Exchange { io, version, keep_alive, .. } = exchange;
        let (head, body) = response.into_parts();
        if let Body::Upgrade(upgrade) = body {
            return Step::Switching(Box::pin(write_switching(io, head, upgrade)));
        }
        let keep_alive = keep_alive && !self.context.shared.lifecycle.is_draining();
        Step::Writing(ResponseWriter::new(io, head, body, version, keep_alive))
    }

    /// Behind a response: another request, if there may be one.
    fn again(&mut self, io: Option<Replay<IO>>) -> Step<IO> {
        self.deadline = Instant::now() + self.context.shared.client.idle;
        io.filter(|_| !self.context.shared.lifecycle.is_draining()).map_or(Step::Over, Step::Reading)
    }
}

impl<H, IO> Future for Http1<H, IO>
where
    H: Handler,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.poll_step(cx) {
                Poll::Pending => {
                    self.count();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(Step::Over)) => return Poll::Ready(()),
                Poll::Ready(Ok(step)) => self.step = step,
                Poll::Ready(Err(error)) => {
                    tracing::debug!(peer = %self.context.info.peer, error = &*error as &dyn StdError, "connection ended");
                    return Poll::Ready(());
                }
            }
        }
    }
}

impl<H, IO> Unpin for Http1<H, IO> {}

/// Ready with an error when the deadline has passed.
fn poll_deadline(timer: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>, deadline: Instant) -> Poll<BoxError> {
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

impl<IO: AsyncRead + Unpin> Exchange<IO> {
    /// Waits for the response, as long as the client is there and the process lives: `None` when either is over.
    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        lifecycle: &Lifecycle,
        closing: &mut Option<Reached>,
    ) -> Poll<Option<Response<Body>>> {
        if let Poll::Ready(response) = self.response.as_mut().poll(cx) {
            return Poll::Ready(Some(response));
        }
        // Polled once, it wakes the connection at the next phase; until then there is no need to poll it again.
        let will_wake = closing.is_some() && !lifecycle.is_draining();
        let closing = closing.get_or_insert_with(|| reached(lifecycle, Phase::Closing));
        if !will_wake && closing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        while ready!(self.io.poll_ahead(cx)) {}
        Poll::Ready(None)
    }
}

/// A request that stands for bytes that are none, so that they are answered as any other.
fn malformed(what: &'static str) -> Request<IncomingBody> {
    let mut request = Request::new(IncomingBody::Buffered(Bytes::new()));
    request.extensions_mut().insert(Malformed(what));
    request
}

/// Where a request waits for its turn, if it is one for which a backend is dialled.
fn queue_of(request: &Request<IncomingBody>, latency: Latency) -> Option<Arc<DialQueue>> {
    let queue = request.extensions().get::<Arc<DialQueue>>().filter(|_| latency == Latency::UntilDialled);
    queue.map(Arc::clone)
}

fn reached(lifecycle: &Lifecycle, phase: Phase) -> Reached {
    let lifecycle = lifecycle.clone();
    Box::pin(async move { lifecycle.reached(phase).await })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::guard::Guarded;
    use crate::listener::socket::Socket;
    use crate::listener::traffic::Traffic;

    /// What tokio has beside a future in the allocation of its task: 104 bytes with version 1.48 to 1.54.
    const TASK: usize = 104;

    #[test]
    fn an_idle_connection_fits_into_its_size_classes() {
        // tokio rounds up to 128 bytes: one word more here and each connection takes 128 bytes more.
        assert!(size_of::<Http1<Arc<()>, Guarded<Socket>>>() + TASK <= 512);
        // Beside the two counts of an `Arc`.
        assert!(size_of::<Traffic>() + 16 <= 96);
    }
}
