//! One HTTP/1 connection: requests one after the other, each read, answered, written.
//!
//! Enters: a connection, and the door behind which requests are answered. Leaves: what becomes of it behind a 101, as a
//! task of its own. Must not touch: how a request is parsed (`request`, or hyper), how an answer is written (`held`).
//!
//! Written out and not `async`: a stream or a poll waits in here for most of its life, and a future would keep room for
//! every step at once.

use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Response, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::conn::{Door, Failure, until_held};
use super::handler::{Answering, Asking, Handler, Wait};
use crate::http::body::Body;
use crate::http::read_request::{keeps_alive, read_whole};
use crate::http::replay::Replay;
use crate::http::write_response::{ResponseWriter, Upgraded, write_switching};
use crate::lifecycle::{Lifecycle, Phase};

/// Exchanges that dial at once, all backends together; each takes some 10 KiB in passing. Twice the default of
/// `backend.dials`, so that one slow backend does not take all.
static DIALLING: Semaphore = Semaphore::const_new(128);
/// How long an exchange waits for its turn to dial; then it goes ahead, and the backend's own bound decides.
const TURN_WAIT: Duration = Duration::from_secs(1);

/// A request that was taken out of hyper, or did without it.
pub(super) struct Held {
    request: Asking,
    /// It waits for a backend to be dialled.
    dials: bool,
    version: Version,
    /// The client allows another request behind this one.
    keep_alive: bool,
}

impl Held {
    /// The request, and how its answer waits.
    pub(super) fn new(request: Asking, wait: Wait) -> Self {
        let version = request.version();
        let keep_alive = keeps_alive(&request);
        Self { request, dials: wait == Wait::ToDial, version, keep_alive }
    }
}

/// The connection, as a task.
pub(super) struct Http1<H, IO> {
    door: Door<H>,
    step: Step<IO>,
    /// Until when a first byte must come.
    until: Instant,
    /// Made when it is first needed, and kept from request to request.
    rest: Option<Rest>,
    /// What ends the connection while an answer is waited for; made and kept likewise.
    closing: Option<Reached>,
}

enum Step<IO> {
    /// There is no request, or it was not looked at. No buffer is held while there is none.
    Reading(Replay<IO>),
    /// hyper serves, until it ends or gives up a request whose answer may take long.
    Served(Serving<IO>),
    /// An opening waits for its turn to dial.
    Queued(Queued<IO>),
    Answering(Exchange<IO>),
    Writing(ResponseWriter<IO>),
    /// The head of a 101 is written.
    Switching(Pin<Box<dyn Future<Output = Option<Upgraded>> + Send>>),
    Over,
}

type Serving<IO> = Pin<Box<dyn Future<Output = Result<Option<(Replay<IO>, Held)>, Failure>> + Send>>;

/// A phase of the process, waited for.
type Reached = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What ends a connection that has nothing to do.
struct Rest {
    sleep: Pin<Box<Sleep>>,
    draining: Reached,
    /// The timer will wake the connection.
    set: bool,
}

/// A request that will have a backend dialled. When many come at once most of them wait here, so nothing is kept of it
/// but its bytes, and it is parsed again.
struct Queued<IO> {
    io: Replay<IO>,
    /// A request that is not in `io` any more, because hyper has read it.
    held: Option<Held>,
    turn: Pin<Box<dyn Future<Output = Turn> + Send>>,
}

/// The right to dial; without a permit when it was waited for long enough.
struct Turn(#[expect(dead_code, reason = "held until it is dropped")] Option<SemaphorePermit<'static>>);

/// A request whose answer is waited for.
struct Exchange<IO> {
    io: Replay<IO>,
    answering: Answering,
    _turn: Option<Turn>,
    version: Version,
    keep_alive: bool,
}

impl<H, IO> Http1<H, IO>
where
    H: Handler,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// A connection of which nothing was read.
    pub(super) fn new(door: Door<H>, io: IO) -> Self {
        let until = Instant::now() + door.client.handshake;
        Self { door, step: Step::Reading(Replay::new(io)), until, rest: None, closing: None }
    }

    /// What comes after the present step.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step<IO>, Failure>> {
        match &mut self.step {
            Step::Reading(io) => match if io.is_fresh() { io.poll_ahead(cx) } else { Poll::Ready(true) } {
                Poll::Ready(true) => Poll::Ready(Ok(self.look())),
                Poll::Ready(false) => Poll::Ready(Ok(Step::Over)),
                Poll::Pending => {
                    let rest = self.rest.get_or_insert_with(|| Rest::new(&self.door.lifecycle, self.until));
                    rest.poll(cx, self.until).map_ok(|()| Step::Over)
                }
            },
            Step::Served(serving) => {
                let served = ready!(serving.as_mut().poll(cx))?;
                Poll::Ready(Ok(match served {
                    Some((io, held)) if held.dials => Step::Queued(Queued { io, held: Some(held), turn: next_turn() }),
                    Some((io, held)) => self.ask(io, held, None),
                    None => Step::Over,
                }))
            }
            Step::Queued(queued) => match queued.turn.as_mut().poll(cx) {
                Poll::Ready(turn) => Poll::Ready(Ok(self.take_turn(turn))),
                Poll::Pending => {
                    while ready!(queued.io.poll_ahead(cx)) {}
                    Poll::Ready(Ok(Step::Over))
                }
            },
            Step::Answering(exchange) => {
                let answer = ready!(exchange.poll_answer(cx, &self.door.lifecycle, &mut self.closing));
                Poll::Ready(Ok(answer.map_or(Step::Over, |answer| self.write(answer))))
            }
            Step::Writing(carrying) => match Pin::new(&mut *carrying).poll(cx) {
                Poll::Ready(io) => Poll::Ready(Ok(self.again(io))),
                Poll::Pending => {
                    // A stream has no request behind it for as long as it lives.
                    self.rest = self.rest.take().filter(|_| !carrying.is_stream());
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

    /// The first bytes of a request are there: all of it, as a rule.
    fn look(&mut self) -> Step<IO> {
        let Step::Reading(io) = std::mem::replace(&mut self.step, Step::Over) else { return Step::Over };
        self.read(io, None)
    }

    /// Reads a request, for which there may be a turn already.
    fn read(&self, mut io: Replay<IO>, turn: Option<Turn>) -> Step<IO> {
        if let Some((request, end)) = read_whole(io.ahead(), &self.door.client) {
            let wait = self.door.handler.wait(&request);
            let free = || DIALLING.try_acquire().ok().map(|permit| Turn(Some(permit)));
            let turn = if wait == Wait::ToDial { turn.or_else(free) } else { None };
            if wait == Wait::ToDial && turn.is_none() {
                return Step::Queued(Queued { io, held: None, turn: next_turn() });
            }
            io.skip(end);
            return self.ask(io, Held::new(Box::new(request), wait), turn);
        }
        Step::Served(Box::pin(until_held(self.door.clone(), io)))
    }

    /// It is an opening's turn to dial.
    fn take_turn(&mut self, turn: Turn) -> Step<IO> {
        let Step::Queued(Queued { io, held, .. }) = std::mem::replace(&mut self.step, Step::Over) else {
            return Step::Over;
        };
        match held {
            Some(held) => self.ask(io, held, Some(turn)),
            None => self.read(io, Some(turn)),
        }
    }

    fn ask(&self, io: Replay<IO>, held: Held, turn: Option<Turn>) -> Step<IO> {
        let Held { request, version, keep_alive, .. } = held;
        let answering = self.door.handler.handle(request, self.door.info.clone());
        Step::Answering(Exchange { io, answering, _turn: turn, version, keep_alive })
    }

    fn write(&mut self, answer: Response<Body>) -> Step<IO> {
        let Step::Answering(exchange) = std::mem::replace(&mut self.step, Step::Over) else { return Step::Over };
        let Exchange { io, version, keep_alive, .. } = exchange;
        let (head, body) = answer.into_parts();
        if let Body::Upgrade(upgrade) = body {
            return Step::Switching(Box::pin(write_switching(io, head, upgrade)));
        }
        let keep_alive = keep_alive && !self.door.lifecycle.is_draining();
        Step::Writing(ResponseWriter::new(io, head, body, version, keep_alive))
    }

    /// Behind an answer: another request, if there may be one.
    fn again(&mut self, io: Option<Replay<IO>>) -> Step<IO> {
        self.until = Instant::now() + self.door.client.idle;
        io.filter(|_| !self.door.lifecycle.is_draining()).map_or(Step::Over, Step::Reading)
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
            match ready!(self.poll_step(cx)) {
                Ok(Step::Over) => return Poll::Ready(()),
                Ok(step) => self.step = step,
                Err(error) => {
                    tracing::debug!(peer = %self.door.info.peer, error = &*error as &dyn StdError, "connection ended");
                    return Poll::Ready(());
                }
            }
        }
    }
}

impl<H, IO> Unpin for Http1<H, IO> {}

impl Rest {
    fn new(lifecycle: &Lifecycle, until: Instant) -> Self {
        let draining = reached(lifecycle, Phase::Draining);
        Self { sleep: Box::pin(sleep_until(until)), draining, set: false }
    }

    /// Ready when the process drains; an error when it is `until` and nothing came.
    fn poll(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<Result<(), Failure>> {
        if self.draining.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        // A timer that fires too early costs less than one that is moved at every request; and one that stands need not
        // be asked, since a connection is one task all its life, which it will wake.
        let stands = self.set && !self.sleep.is_elapsed() && self.sleep.deadline() <= until;
        self.set = true;
        while !stands && (until < self.sleep.deadline() || self.sleep.as_mut().poll(cx).is_ready()) {
            if until <= Instant::now() {
                return Poll::Ready(Err("no request came".into()));
            }
            self.sleep.as_mut().reset(until);
        }
        Poll::Pending
    }
}

impl<IO: AsyncRead + Unpin> Exchange<IO> {
    /// Waits for the answer, as long as the client is there and the process lives: `None` when either is over.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        lifecycle: &Lifecycle,
        closing: &mut Option<Reached>,
    ) -> Poll<Option<Response<Body>>> {
        if let Poll::Ready(answer) = self.answering.as_mut().poll(cx) {
            return Poll::Ready(Some(answer));
        }
        // Asked once, it wakes the connection at the next phase; until then there is no need to ask again.
        let stands = closing.is_some() && !lifecycle.is_draining();
        let closing = closing.get_or_insert_with(|| reached(lifecycle, Phase::Closing));
        if !stands && closing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        while ready!(self.io.poll_ahead(cx)) {}
        Poll::Ready(None)
    }
}

fn reached(lifecycle: &Lifecycle, phase: Phase) -> Reached {
    let lifecycle = lifecycle.clone();
    Box::pin(async move { lifecycle.reached(phase).await })
}

/// The next turn to dial, at the latest after [`TURN_WAIT`].
fn next_turn() -> Pin<Box<dyn Future<Output = Turn> + Send>> {
    Box::pin(async { Turn(timeout(TURN_WAIT, DIALLING.acquire()).await.ok().and_then(Result::ok)) })
}
