//! One HTTP/1 connection: requests one after the other, each read, answered, written.
//!
//! Enters: a connection, and what its requests go to. Leaves: what becomes of it behind a 101, as a task of its own. Must
//! not touch: how a request is parsed and a response is written (`crate::http`, or hyper).
//!
//! Written as a state machine and not as `async`: a stream or a poll waits in here for most of its life, and an `async`
//! future would keep room for every step at once.

mod steps;

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use self::steps::{Exchange, Queued, Reached, Step, let_go_of, poll_deadline};
use super::context::ConnContext;
use super::dialling::{DialQueue, DialTurn};
use super::framing::Malformed;
use super::given::{give, give_response, goes_on, may_be_given};
use super::handler::Handler;
use super::hyper_server::{TakenRequest, serve_until_taken};
use super::memory;
use crate::budget::LazyClaim;
use crate::http::bare::Bare;
use crate::http::body::Body;
use crate::http::fields::end_of_head;
use crate::http::incoming::{BoxError, IncomingBody};
use crate::http::read_request::{Head, ReadRequest, keeps_alive, read_request};
use crate::http::replay::Replay;
use crate::http::write_response::{ResponseWriter, write_switching};

/// The connection, as a task.
pub(super) struct Http1<H, IO> {
    context: ConnContext<H>,
    step: Step<IO>,
    /// Until when a first byte must come.
    deadline: Instant,
    /// Fires at the deadline, or earlier. Made when it is first needed, and kept from request to request.
    timer: Option<Pin<Box<Sleep>>>,
    /// Ends the connection while a response is waited for; made and kept likewise. Where a head has begun, wakes it when the
    /// process hands over.
    closing: Option<Reached>,
    /// What has been read ahead, or what hyper has.
    held: LazyClaim,
}

impl<H, IO> Http1<H, IO>
where
    H: Handler,
    IO: AsyncRead + AsyncWrite + Bare + Unpin + Send + 'static,
{
    /// A connection of which nothing was read.
    pub(super) fn new(context: ConnContext<H>, io: IO) -> Self {
        let deadline = Instant::now() + context.shared.client.handshake;
        Self::reading(context, Replay::new(io), deadline)
    }

    /// A connection that has answered a request, in another process perhaps.
    pub(super) fn again_on(context: ConnContext<H>, io: Replay<IO>) -> Self {
        let deadline = Instant::now() + context.shared.client.idle;
        Self::reading(context, io, deadline)
    }

    /// A connection on which a response is being written, which was begun in another process.
    pub(super) fn writing(context: ConnContext<H>, writer: ResponseWriter<IO>) -> Self {
        Self::at(context, Step::Writing(writer), Instant::now())
    }

    fn reading(context: ConnContext<H>, io: Replay<IO>, deadline: Instant) -> Self {
        Self::at(context, Step::Reading(io), deadline)
    }

    fn at(context: ConnContext<H>, step: Step<IO>, deadline: Instant) -> Self {
        Self { context, step, deadline, timer: None, closing: None, held: LazyClaim::default() }
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
                    Poll::Pending => return self.wait_for_head(cx),
                }
            },
            Step::Hyper(serving, _) => {
                let taken = ready!(serving.as_mut().poll(cx))?;
                Poll::Ready(Ok(match taken {
                    Some((io, Some(taken))) => match DialQueue::of(&taken.request, taken.latency) {
                        Some(queue) => self.queue(io, Some(taken), queue),
                        None => self.respond(io, *taken.request, None),
                    },
                    Some((io, None)) => self.again(Some(io)),
                    None => self.again(None),
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
            Step::Writing(writer) => {
                if self.context.shared.lifecycle.is_moving() && give_response(&self.context, writer) {
                    return Poll::Ready(Ok(Step::Over));
                }
                if let Poll::Ready(io) = Pin::new(&mut *writer).poll(cx) {
                    return Poll::Ready(Ok(self.again(io)));
                }
                // No request follows a stream for as long as it lives.
                self.timer = self.timer.take().filter(|_| !writer.is_stream());
                self.closing = None;
                Poll::Pending
            }
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
        if traffic.must_end() {
            return Poll::Ready(Ok(Step::Over));
        }
        // Asked only now: who is idle before it is said that the process hands over or drains is woken for it.
        if self.context.shared.lifecycle.is_leaving() {
            return Poll::Ready(Ok(self.leave(cx)));
        }
        poll_deadline(&mut self.timer, cx, self.deadline).map(Err)
    }

    /// A head has begun. It is read to its end, unless that can be done by the successor.
    fn wait_for_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step<IO>, BoxError>> {
        let gone = self.closing.get_or_insert_with(|| let_go_of(&self.context.shared.lifecycle));
        if gone.as_mut().poll(cx).is_ready() {
            self.closing = None;
            if let Step::ReadingHead(io, _) = &self.step
                && may_be_given(&self.context, io)
            {
                return Poll::Ready(Ok(self.leave(cx)));
            }
        }
        poll_deadline(&mut self.timer, cx, self.deadline).map(Err)
    }

    /// Nothing is asked for, and the process leaves: the connection goes to the successor if it can, and ends here.
    fn leave(&mut self, cx: &mut Context<'_>) -> Step<IO> {
        if let Step::Reading(mut io) | Step::ReadingHead(mut io, _) = std::mem::replace(&mut self.step, Step::Over) {
            if self.context.shared.lifecycle.lets_go() && may_be_given(&self.context, &io) {
                give(&self.context, io, None);
            } else {
                // Under TLS the peer is to know that this is the end and nobody has cut it.
                let _ = Pin::new(&mut io).poll_shutdown(cx);
            }
        }
        Step::Over
    }

    /// More bytes of a request are there: all of it, as a rule.
    fn parse(&mut self) -> Step<IO> {
        let (io, begins) = match std::mem::replace(&mut self.step, Step::Over) {
            Step::Reading(io) => (io, true),
            Step::ReadingHead(io, _) => {
                self.closing = None;
                (io, false)
            }
            _ => return Step::Over,
        };
        let step = self.read(io, None);
        if begins && matches!(step, Step::ReadingHead(..)) {
            self.closing = None;
            self.deadline = Instant::now() + self.context.shared.client.header;
        }
        step
    }

    /// Reads and routes a request, which may have its turn to dial already. Once everything is let go of nothing is read that
    /// the successor can read.
    fn read(&self, io: Replay<IO>, turn: Option<DialTurn>) -> Step<IO> {
        if self.context.shared.lifecycle.lets_go() && may_be_given(&self.context, &io) {
            give(&self.context, io, None);
            return Step::Over;
        }
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
                (Malformed::request(what), end)
            }
        };
        self.begin(io, request, end, turn)
    }

    /// There is no memory for the rest of a head.
    fn refuse(&mut self) -> Step<IO> {
        let Step::ReadingHead(io, _) = std::mem::replace(&mut self.step, Step::Over) else { return Step::Over };
        let end = io.ahead().len();
        self.closing = None;
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
        let shared = &self.context.shared;
        let latency = shared.handler.route(&mut request, &self.context.info);
        // What it is about is at the successor already, or begins there; it has not been taken out of what was read.
        if shared.lifecycle.is_moving() && shared.handler.has_moved(&request) && may_be_given(&self.context, &io) {
            give(&self.context, io, None);
            return Step::Over;
        }
        if let Some(queue) = DialQueue::of(&request, latency) {
            turn = turn.or_else(|| queue.try_acquire());
            if turn.is_none() {
                return self.queue(io, None, queue);
            }
        }
        io.skip(end);
        self.respond(io, request, turn)
    }

    /// Counts the buffers that this step has.
    fn count(&mut self) {
        self.held.set(&self.context.shared.budget, self.step.buffers());
    }

    fn hand_to_hyper(&self, mut io: Replay<IO>, head: Head, buffers: usize) -> Step<IO> {
        if let Some((readable, length)) = &head.readable {
            io.skip(*length);
            io.put_back(readable);
        }
        Step::Hyper(Box::pin(serve_until_taken(self.context.clone(), io, head)), buffers)
    }

    fn queue(&self, io: Replay<IO>, taken: Option<TakenRequest>, queue: Arc<DialQueue>) -> Step<IO> {
        let lifecycle = self.context.shared.lifecycle.clone();
        let turn = async move {
            tokio::select! {
                turn = queue.acquire() => turn,
                // It is not dialled any more for a request that can go to the successor.
                () = lifecycle.let_go_of() => DialTurn::none(),
            }
        };
        Step::Queued(Queued { io, taken, turn: Box::pin(turn) })
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
        let keep_alive = keep_alive && goes_on(&self.context.shared.lifecycle, may_be_given(&self.context, &io));
        Step::Writing(ResponseWriter::new(io, head, body, version, keep_alive))
    }

    /// Behind a response: another request, if there may be one.
    fn again(&mut self, io: Option<Replay<IO>>) -> Step<IO> {
        self.deadline = Instant::now() + self.context.shared.client.idle;
        io.map_or(Step::Over, Step::Reading)
    }
}

impl<H, IO> Future for Http1<H, IO>
where
    H: Handler,
    IO: AsyncRead + AsyncWrite + Bare + Unpin + Send + 'static,
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
