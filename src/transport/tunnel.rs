//! A WebSocket that is passed through: bytes both ways, unchanged, so that extensions work. Other protocols likewise.
//!
//! Enters: two connected streams behind a 101, with what was read behind it. Leaves: the same bytes on the other side;
//! when the process stops or nothing moves, a close frame of ours to both sides. Must not touch: payloads, sessions, HTTP.
//!
//! This file has the limits and the end of a tunnel; `lane` moves the bytes of one direction; `given` is how it crosses to
//! another process.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::transport::tunnel::lane::{Lane, LanePhase, Stop};
use crate::upstream::frame::{FrameTracker, close_frame};

pub mod given;
mod lane;

/// How long the peers may take to send their close frames after ours, and before that to finish their current frames.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The limits of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct TunnelLimits {
    /// Ends a tunnel in which nothing moved for so long; `None`: never.
    pub idle: Option<Duration>,
    /// How long a receiver may take nothing while something waits for it.
    pub write: Duration,
}

/// What the process asks of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To be given to a successor, if it can be.
    Move,
    /// To close with "service restart".
    Close,
}

/// The result of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spliced {
    /// Bytes from the client for the backend.
    pub up: u64,
    /// Bytes from the backend for the client.
    pub down: u64,
    pub end: TunnelEnd,
}

/// What ended a tunnel; if several things did, the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// The client ended its direction.
    ClientClosed,
    /// The backend ended its direction.
    BackendClosed,
    /// Nothing moved for the idle time.
    Idle,
    /// A receiver took nothing for the write time.
    Stalled(Side),
    /// The process stops.
    Drained,
    /// A connection broke.
    Failed(Side, io::ErrorKind),
}

/// One end of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Backend,
}

/// Two streams, the lanes between them and the limits.
pub struct Tunnel<C, B> {
    up: Lane,
    down: Lane,
    client: C,
    backend: B,
    limits: TunnelLimits,
    /// Whether the bytes are frames of WebSocket; otherwise nobody is told of an end but by the connection's.
    frames: bool,
    /// When a byte last moved; known only if there is an idle limit.
    moved: Instant,
    /// We have sent close frames; the tunnel ends at this time at the latest.
    closing: Option<Instant>,
    end: Option<TunnelEnd>,
}

impl<C, B> Tunnel<C, B> {
    /// A tunnel in which nothing has moved yet, but that so much was read from its two ends. What passes is `frames` of
    /// WebSocket, or something of which nothing is known.
    pub fn new(
        (client, client_unread): (C, &[u8]),
        (backend, backend_unread): (B, &[u8]),
        frames: bool,
        limits: TunnelLimits,
    ) -> Self {
        let (up, down) = (Lane::new(Side::Client, client_unread), Lane::new(Side::Backend, backend_unread));
        Self { up, down, client, backend, limits, frames, moved: Instant::now(), closing: None, end: None }
    }
}

impl<C, B> Tunnel<C, B> {
    /// The same where a frame may be open already in each direction.
    #[must_use]
    pub fn standing(self, up: FrameTracker, down: FrameTracker) -> Self {
        Self { up: self.up.standing(up), down: self.down.standing(down), ..self }
    }
}

impl<C, B> Tunnel<C, B>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    /// Moves bytes both ways until both directions have ended, or one of the limits is reached. The end of one direction is
    /// passed on, and the other goes on. `None` when it is asked to move: it can be run again.
    pub async fn run(&mut self, asked: impl Future<Output = Asked>) -> Option<Spliced> {
        let mut asked = pin!(asked);
        // It is registered with the timer at its first poll, so a tunnel to which no limit applies costs no timer.
        let mut timer = pin!(sleep_until(Instant::now()));
        poll_fn(|cx| {
            if self.closing.is_none()
                && let Poll::Ready(asked) = asked.as_mut().poll(cx)
            {
                match asked {
                    Asked::Move => return Poll::Ready(None),
                    Asked::Close => self.begin_close(TunnelEnd::Drained),
                }
            }
            self.poll(cx, timer.as_mut()).map(Some)
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Spliced> {
        loop {
            self.poll_lanes(cx);
            if self.timed_out() {
                return Poll::Ready(self.result());
            }
            if self.up.phase == LanePhase::Done && self.down.phase == LanePhase::Done {
                return Poll::Ready(self.result());
            }
            let Some(deadline) = self.deadline() else { return Poll::Pending };
            // An earlier deadline stays: moving the timer for every block would cost more than one needless wake-up.
            if timer.deadline() > deadline || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
            if self.expire(Instant::now()) {
                return Poll::Ready(self.result());
            }
        }
    }

    fn poll_lanes(&mut self, cx: &mut Context<'_>) {
        let before = (self.up.bytes, self.down.bytes);
        self.up.run(cx, &mut self.client, &mut self.backend);
        self.down.run(cx, &mut self.backend, &mut self.client);
        // A side that cannot be read cannot be written to either, and the lane towards it could wait for ever. A side that
        // cannot be written to may still be read to its end.
        if matches!(self.up.stop, Some(Stop::Unreadable(_))) {
            self.down.abandon();
        }
        if matches!(self.down.stop, Some(Stop::Unreadable(_))) {
            self.up.abandon();
        }
        if self.end.is_none() {
            self.end = self.up.end().or_else(|| self.down.end());
        }
        if self.limits.idle.is_some() && before != (self.up.bytes, self.down.bytes) {
            self.moved = Instant::now();
        }
    }

    /// Whether a write failed by the timeout of the stream itself. Its reading side may go on for ever, and an abandoned
    /// lane is not read any more, so nothing else would end the tunnel.
    fn timed_out(&mut self) -> bool {
        let gave_up = |lane: &Lane| lane.stop == Some(Stop::Unwritable(io::ErrorKind::TimedOut));
        let receiver = match (gave_up(&self.up), gave_up(&self.down)) {
            (false, false) => return false,
            (true, _) => Side::Backend,
            (_, true) => Side::Client,
        };
        self.end = Some(TunnelEnd::Stalled(receiver));
        true
    }

    /// The next time at which something is due even if nothing moves.
    fn deadline(&self) -> Option<Instant> {
        let stalled =
            [self.up.stalled, self.down.stalled].into_iter().flatten().min().map(|since| since + self.limits.write);
        let idle = self.limits.idle.map(|idle| self.moved + idle);
        let end = self.closing.or(idle);
        [stalled, end].into_iter().flatten().min()
    }

    /// Does what is due; true when the tunnel is over at once.
    fn expire(&mut self, now: Instant) -> bool {
        if self.closing.is_some_and(|until| until <= now) {
            return true;
        }
        for (lane, receiver) in [(&self.up, Side::Backend), (&self.down, Side::Client)] {
            if lane.stalled.is_some_and(|since| since + self.limits.write <= now) {
                self.end.get_or_insert(TunnelEnd::Stalled(receiver));
                return true;
            }
        }
        if self.closing.is_none() && self.limits.idle.is_some_and(|idle| self.moved + idle <= now) {
            self.begin_close(TunnelEnd::Idle);
        }
        false
    }

    /// Sends a close frame to both sides, each at the next frame boundary of its lane; where there are no frames, ends both.
    fn begin_close(&mut self, end: TunnelEnd) {
        self.closing = Some(Instant::now() + CLOSE_WAIT);
        self.end.get_or_insert(end);
        if !self.frames {
            self.down.shut();
            self.up.shut();
            return;
        }
        let (code, reason) = if end == TunnelEnd::Drained { (1012, "service restart") } else { (1001, "idle") };
        let mut mask = [0; 4];
        // The masking key need not be random here, since the payload is no secret: zeros would do as well.
        let _ = getrandom::fill(&mut mask);
        self.down.begin_close(close_frame(code, reason, None));
        self.up.begin_close(close_frame(1001, reason, Some(mask)));
    }

    fn result(&self) -> Spliced {
        let (up, down) = (self.up.bytes, self.down.bytes);
        // Both lanes ended or a limit was reached, and each of these sets `end`.
        Spliced { up, down, end: self.end.unwrap_or(TunnelEnd::BackendClosed) }
    }
}

#[cfg(test)]
mod tests;
