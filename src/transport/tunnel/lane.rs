//! One direction of a tunnel.
//!
//! Enters: the bytes of the sender, the wish to close. Leaves: the same bytes at the receiver, then perhaps a close
//! frame. Must not touch: payloads, timers (it only notes since when the receiver takes nothing).
//!
//! A lane reads when everything read before is written, so that it never holds more than one block, and a waiting one
//! holds nothing. Frame headers are followed, for a close frame may only stand between frames.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::http::block::with_block;
use crate::transport::tunnel::{Side, TunnelEnd};
use crate::upstream::frame::FrameTracker;

/// Blocks that one lane may move before the other lane and other tasks get their turn.
const TURN: usize = 16;

/// How far a lane has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Everything goes through.
    Flow,
    /// The open frame goes through, then this close frame, and nothing more.
    Finish(Vec<u8>),
    /// The receiver was told; the sender is read for its close frame only.
    Await,
    /// What is held goes out, then the end is passed on.
    Shut,
    /// Over.
    Done,
}

/// Why a lane ended, when not by a close of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The sender ended it.
    Eof,
    /// Reading failed.
    Unreadable(io::ErrorKind),
    /// Writing failed.
    Unwritable(io::ErrorKind),
}

/// One direction.
pub(super) struct Lane {
    sender: Side,
    tracker: FrameTracker,
    /// Read and not yet written; the first `written` bytes are.
    held: Vec<u8>,
    written: usize,
    /// Something was written since the last flush.
    dirty: bool,
    pub(super) phase: Phase,
    pub(super) stop: Option<Stop>,
    /// Since when the receiver takes nothing.
    pub(super) stalled: Option<Instant>,
    /// Bytes of the sender that were let through.
    pub(super) bytes: u64,
}

impl Lane {
    /// A lane from `sender`, with what was read of it before.
    pub(super) fn new(sender: Side, unread: &[u8]) -> Self {
        let mut tracker = FrameTracker::default();
        tracker.follow(unread);
        let (held, bytes) = (unread.to_vec(), unread.len() as u64);
        let (phase, stop, stalled) = (Phase::Flow, None, None);
        Self { sender, tracker, held, written: 0, dirty: false, phase, stop, stalled, bytes }
    }

    /// Moves what can be moved now.
    pub(super) fn run<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..TURN {
            if self.phase == Phase::Done {
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

    /// What this lane's end means for the tunnel; none while it runs or was closed by us.
    pub(super) fn end(&self) -> Option<TunnelEnd> {
        Some(match (self.stop?, self.sender) {
            (Stop::Eof, Side::Client) => TunnelEnd::ClientClosed,
            (Stop::Eof, Side::Backend) => TunnelEnd::BackendClosed,
            (Stop::Unreadable(kind), side) => TunnelEnd::Failed(side, kind),
            (Stop::Unwritable(kind), Side::Client) => TunnelEnd::Failed(Side::Backend, kind),
            (Stop::Unwritable(kind), Side::Backend) => TunnelEnd::Failed(Side::Client, kind),
        })
    }

    /// Has `frame` follow the open frame, and nothing more of the sender's.
    pub(super) fn begin_close(&mut self, frame: Vec<u8>) {
        if self.phase == Phase::Flow {
            self.phase = Phase::Finish(frame);
            self.finish_at_boundary();
        }
    }

    /// Puts the close frame behind what is held, if the last frame is complete.
    fn finish_at_boundary(&mut self) {
        if !self.tracker.at_boundary() {
            return;
        }
        if let Phase::Finish(frame) = &mut self.phase {
            if self.tracker.saw_close() {
                // The sender's own close frame was the open one: nothing may follow it.
                self.phase = Phase::Shut;
            } else {
                self.held.append(frame);
                self.phase = Phase::Await;
            }
        }
    }

    /// Gives up the receiver.
    pub(super) fn abandon(&mut self) {
        self.phase = Phase::Done;
        (self.held, self.written, self.stalled) = (Vec::new(), 0, None);
    }

    /// Writes what is held, then reads one block and writes it, or passes on the end. Errors are the receiver's.
    fn poll_step<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        ready!(self.poll_held(cx, to))?;
        if self.phase == Phase::Shut {
            ready!(watch(&mut self.stalled, Pin::new(to).poll_shutdown(cx)))?;
            self.phase = Phase::Done;
            return Poll::Ready(Ok(()));
        }
        let moved = self.poll_block(cx, from, to);
        if moved.is_pending() {
            ready!(self.poll_clean(cx, to))?;
        }
        moved
    }

    /// Reads a block and writes it at once; the receiver's refusal leaves the rest in `held`. An error is the
    /// receiver's; the sender's ends the lane.
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
                (self.stop, self.phase) = (stop, Phase::Shut);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(self.take_block(cx, to, block.filled()))
        })
    }

    /// Passes on what this phase lets through, and follows the frames of all of it.
    fn take_block<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W, block: &[u8]) -> io::Result<()> {
        let passing = match self.phase {
            Phase::Flow => {
                self.tracker.follow(block);
                block.len()
            }
            Phase::Finish(_) => self.tracker.advance(block),
            Phase::Await | Phase::Shut | Phase::Done => 0,
        };
        let (passing, rest) = block.split_at(passing);
        self.bytes += passing.len() as u64;
        self.write_through(cx, to, passing)?;
        self.finish_at_boundary();
        self.tracker.follow(rest);
        if self.phase == Phase::Await && self.tracker.saw_close() && self.tracker.at_boundary() {
            self.phase = Phase::Shut;
        }
        Ok(())
    }

    /// Writes `bytes`, nothing being held before them; keeps what the receiver does not take.
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
                    self.held.extend_from_slice(bytes);
                    return Ok(());
                }
            }
            self.dirty = true;
        }
        Ok(())
    }

    /// Writes what is held, and lets go of the buffer.
    fn poll_held<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        while self.written < self.held.len() {
            let held = &self.held[self.written..];
            let count = ready!(watch(&mut self.stalled, Pin::new(&mut *to).poll_write(cx, held)))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.dirty = true;
        }
        (self.held, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Flushes a receiver that buffers, TLS for one, before the lane waits for the sender.
    fn poll_clean<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
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
