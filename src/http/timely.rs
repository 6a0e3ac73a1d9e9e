//! How fast a request's body must come: each piece in time, and all together at a least rate.
//!
//! Enters: a body. Leaves: the same body, or its failure when the client is too slow. Must not touch: what the body is, who
//! reads it. What counts is only the time for which the client was waited for: a reader may take its own.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::incoming::{BoxError, IncomingBody};

/// How long a client is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For each piece of a body.
    pub piece: Duration,
    /// The least bytes in a second, judged once a body was waited for as long as for a piece; zero is any.
    pub rate: u64,
}

/// The client was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooSlow {
    #[error("the body stalled: nothing came for {0:?}")]
    Stalled(Duration),
    #[error("the body comes too slowly: {bytes} bytes in {waited:?}, and {rate} in each second are the least")]
    Dripping {
        /// How many have come.
        bytes: u64,
        /// How long they were waited for.
        waited: Duration,
        /// What is asked for.
        rate: u64,
    },
}

/// How fast a body came so far.
#[derive(Debug, Default)]
pub struct Speed {
    waited: Duration,
    bytes: u64,
}

impl Speed {
    /// So many bytes came after `waited`.
    ///
    /// # Errors
    /// [`TooSlow`].
    pub fn note(&mut self, bytes: usize, waited: Duration, patience: Patience) -> Result<(), TooSlow> {
        self.bytes += bytes as u64;
        self.waited += waited;
        let least = u128::from(patience.rate) * self.waited.as_millis() / 1000;
        if self.waited > patience.piece && u128::from(self.bytes) < least {
            return Err(TooSlow::Dripping { bytes: self.bytes, waited: self.waited, rate: patience.rate });
        }
        Ok(())
    }
}

/// A body that fails when it does not come in time.
pub struct Timely {
    body: IncomingBody,
    patience: Patience,
    /// Set up when the body is waited for the first time: most come at once.
    wait: Option<Box<Wait>>,
}

struct Wait {
    speed: Speed,
    /// Since when the next piece is waited for.
    since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Timely {
    /// The body of a client that is waited for with `patience`.
    #[must_use]
    pub fn new(body: IncomingBody, patience: Patience) -> Self {
        Self { body, patience, wait: None }
    }

    /// Waits on; an error when that was too long. The timer is not moved for each piece: it fires too early, and is set anew.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<TooSlow> {
        let (now, limit) = (Instant::now(), self.patience.piece);
        let wait = self.wait.get_or_insert_with(|| {
            let timer = Box::pin(sleep_until(now + limit));
            Box::new(Wait { speed: Speed::default(), since: None, timer })
        });
        let since = *wait.since.get_or_insert(now);
        loop {
            ready!(wait.timer.as_mut().poll(cx));
            let due = since + limit;
            if due <= Instant::now() {
                return Poll::Ready(TooSlow::Stalled(limit));
            }
            wait.timer.as_mut().reset(due);
        }
    }
}

impl Body for Timely {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return self.poll_late(cx).map(|slow| Some(Err(slow.into())));
        };
        let patience = self.patience;
        if let (Some(wait), Some(Ok(frame))) = (&mut self.wait, &frame)
            && let Some(data) = frame.data_ref()
        {
            let waited = wait.since.take().map(|since| since.elapsed()).unwrap_or_default();
            wait.speed.note(data.len(), waited, patience)?;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { piece: Duration::from_secs(30), rate: 10 };

    #[test]
    fn a_rate_is_judged_by_what_was_waited_and_not_before_a_piece_s_time() {
        let second = Duration::from_secs;
        let mut speed = Speed::default();
        assert_eq!(speed.note(1, second(29), PATIENCE), Ok(()), "too early to say");
        assert_eq!(speed.note(1000, second(0), PATIENCE), Ok(()));
        assert_eq!(speed.note(9, second(72), PATIENCE), Ok(()), "1010 bytes in 101 s");
        let slow = TooSlow::Dripping { bytes: 1011, waited: second(102), rate: 10 };
        assert_eq!(speed.note(1, second(1), PATIENCE), Err(slow));
        let any = Patience { rate: 0, ..PATIENCE };
        assert_eq!(Speed::default().note(0, second(100_000), any), Ok(()));
    }
}
