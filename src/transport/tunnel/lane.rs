//! One direction of a tunnel.
//!
//! Enters: the bytes of the sender, a close frame to send. Leaves: the same bytes at the receiver, then perhaps the close
//! frame. Must not touch: payloads, timers (it only notes since when the receiver takes nothing).
//!
//! A lane reads when everything that it has read before is written, so it never keeps more than one block, and a waiting
//! one keeps nothing. It follows frame headers, because a close frame may only come between frames.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::http::block::with_block;
use crate::transport::tunnel::{Side, TunnelEnd};
use crate::upstream::frame::FrameTracker;

/// Blocks that one lane may move in one poll; then the other lane and other tasks go on.
const BLOCKS_PER_POLL: usize = 16;

/// What a lane does with the bytes of its sender.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LanePhase {
    /// All are passed on.
    Flow,
    /// The rest of the current frame is passed on, then this close frame, and nothing more.
    Finish(Vec<u8>),
    /// The close frame is sent; the sender is read only for its own close frame.
    Await,
    /// What is pending is written, then the receiver is shut down.
    Shut,
    Done,
}

/// Why a lane ended, unless it was closed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The sender ended it.
    Eof,
    Unreadable(io::ErrorKind),
    Unwritable(io::ErrorKind),
}

/// A lane in the middle of its work, as plain data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LaneRecord {
    /// Read from the sender, not yet taken by the receiver.
    pub(super) pending: Bytes,
    /// Where its frames stand behind that.
    pub(super) tracker: FrameTracker,
    /// Bytes of the sender that were passed on, with those that are pending.
    pub(super) bytes: u64,
}

pub(super) struct Lane {
    sender: Side,
    tracker: FrameTracker,
    /// Read and not yet written; the first `written` bytes are.
    pending: Vec<u8>,
    written: usize,
    /// Something was written since the last flush.
    dirty: bool,
    pub(super) phase: LanePhase,
    pub(super) stop: Option<Stop>,
    /// Since when the receiver takes nothing although something is pending.
    pub(super) stalled: Option<Instant>,
    /// Bytes of the sender that were passed on.
    pub(super) bytes: u64,
}

impl Lane {
    /// A lane from `sender`; `unread` was read from it before.
    pub(super) fn new(sender: Side, unread: &[u8]) -> Self {
        let mut tracker = FrameTracker::default();
        tracker.follow(unread);
        let (pending, bytes) = (unread.to_vec(), unread.len() as u64);
        let (phase, stop, stalled) = (LanePhase::Flow, None, None);
        Self { sender, tracker, pending, written: 0, dirty: false, phase, stop, stalled, bytes }
    }

    /// The same with these frames behind it.
    pub(super) fn standing(self, tracker: FrameTracker) -> Self {
        Self { tracker, ..self }
    }

    /// A lane that goes on where another one stopped.
    pub(super) fn thawed(sender: Side, record: LaneRecord) -> Self {
        let LaneRecord { pending, tracker, bytes } = record;
        Self { tracker, pending: pending.into(), bytes, ..Self::new(sender, &[]) }
    }

    /// All of a lane that passes everything on, when `ahead` was read from its sender below it.
    pub(super) fn freeze(mut self, ahead: &[u8]) -> LaneRecord {
        self.pending.drain(..self.written);
        self.pending.extend_from_slice(ahead);
        self.tracker.follow(ahead);
        LaneRecord { pending: self.pending.into(), tracker: self.tracker, bytes: self.bytes + ahead.len() as u64 }
    }

    /// Moves what can be moved now.
    pub(super) fn run<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..BLOCKS_PER_POLL {
            if self.phase == LanePhase::Done {
                return;
            }
            match self.poll_step(cx, from, to) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.stop.get_or_insert(Stop::Unwritable(error.kind()));
                    self.abandon();
                }
                Poll::Pending => return,
            }
        }
        cx.waker().wake_by_ref();
    }

    /// What the end of this lane means for the tunnel; `None` while it runs, and when it was closed by us.
    pub(super) fn end(&self) -> Option<TunnelEnd> {
        Some(match (self.stop?, self.sender) {
            (Stop::Eof, Side::Client) => TunnelEnd::ClientClosed,
            (Stop::Eof, Side::Backend) => TunnelEnd::BackendClosed,
            (Stop::Unreadable(kind), side) => TunnelEnd::Failed(side, kind),
            (Stop::Unwritable(kind), Side::Client) => TunnelEnd::Failed(Side::Backend, kind),
            (Stop::Unwritable(kind), Side::Backend) => TunnelEnd::Failed(Side::Client, kind),
        })
    }

    /// Sends the close frame `frame` behind the current frame, and after that nothing more of the sender's.
    pub(super) fn begin_close(&mut self, frame: Vec<u8>) {
        if self.phase == LanePhase::Flow {
            self.phase = LanePhase::Finish(frame);
            self.finish_at_boundary();
        }
    }

    /// Ends it behind what is pending.
    pub(super) fn shut(&mut self) {
        if self.phase == LanePhase::Flow {
            self.phase = LanePhase::Shut;
        }
    }

    /// Puts the close frame behind what is pending, if the last frame is complete.
    fn finish_at_boundary(&mut self) {
        if !self.tracker.at_boundary() {
            return;
        }
        if let LanePhase::Finish(frame) = &mut self.phase {
            if self.tracker.saw_close() {
                // That frame was the sender's own close frame: nothing may follow it.
                self.phase = LanePhase::Shut;
            } else {
                self.pending.append(frame);
                self.phase = LanePhase::Await;
            }
        }
    }

    /// Ends the lane at once: the receiver takes no more.
    pub(super) fn abandon(&mut self) {
        self.phase = LanePhase::Done;
        (self.pending, self.written, self.stalled) = (Vec::new(), 0, None);
    }

    /// Writes what is pending, then reads one block and writes it, or shuts the receiver down. Errors are the receiver's.
    fn poll_step<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        ready!(self.poll_pending(cx, to))?;
        if self.phase == LanePhase::Shut {
            ready!(watch(&mut self.stalled, Pin::new(to).poll_shutdown(cx)))?;
            self.phase = LanePhase::Done;
            return Poll::Ready(Ok(()));
        }
        let moved = self.poll_block(cx, from, to);
        if moved.is_pending() {
            ready!(self.poll_flush(cx, to))?;
        }
        moved
    }

    /// Reads a block and writes it at once; what the receiver does not take stays in `pending`. An error is the
    /// receiver's; an error of the sender ends the lane.
    fn poll_block<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        with_block(|block| {
            let mut block = ReadBuf::new(block);
            let read = ready!(Pin::new(from).poll_read(cx, &mut block));
            let stop = match read {
                Err(error) => Some(Stop::Unreadable(error.kind())),
                Ok(()) if block.filled().is_empty() => Some(Stop::Eof),
                Ok(()) => None,
            };
            if stop.is_some() {
                (self.stop, self.phase) = (stop, LanePhase::Shut);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(self.take_block(cx, to, block.filled()))
        })
    }

    /// Passes on what this phase allows, and follows the frames of the whole block.
    fn take_block<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W, block: &[u8]) -> io::Result<()> {
        let passing = match self.phase {
            LanePhase::Flow => {
                self.tracker.follow(block);
                block.len()
            }
            LanePhase::Finish(_) => self.tracker.advance(block),
            LanePhase::Await | LanePhase::Shut | LanePhase::Done => 0,
        };
        let (passing, rest) = block.split_at(passing);
        self.bytes += passing.len() as u64;
        self.write_through(cx, to, passing)?;
        self.finish_at_boundary();
        self.tracker.follow(rest);
        if self.phase == LanePhase::Await && self.tracker.saw_close() && self.tracker.at_boundary() {
            self.phase = LanePhase::Shut;
        }
        Ok(())
    }

    /// Writes `bytes`, when nothing is pending before them; keeps what the receiver does not take.
    fn write_through<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            match watch(&mut self.stalled, Pin::new(&mut *to).poll_write(cx, bytes)) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => bytes = &bytes[count?..],
                Poll::Pending => {
                    self.pending.extend_from_slice(bytes);
                    return Ok(());
                }
            }
            self.dirty = true;
        }
        Ok(())
    }

    /// Writes what is pending, and frees the buffer.
    fn poll_pending<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        while self.written < self.pending.len() {
            let rest = &self.pending[self.written..];
            let count = ready!(watch(&mut self.stalled, Pin::new(&mut *to).poll_write(cx, rest)))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.dirty = true;
        }
        (self.pending, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Flushes a receiver that buffers, such as TLS, before the lane waits for the sender.
    fn poll_flush<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        if self.dirty {
            ready!(watch(&mut self.stalled, Pin::new(to).poll_flush(cx)))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// Notes since when a receiver makes no progress.
fn watch<T>(stalled: &mut Option<Instant>, written: Poll<T>) -> Poll<T> {
    if written.is_ready() {
        *stalled = None;
    } else {
        stalled.get_or_insert_with(Instant::now);
    }
    written
}
