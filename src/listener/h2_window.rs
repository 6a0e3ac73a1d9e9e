//! A stream of HTTP/2 whose client opens no window: hyper waits for it for ever, and with it whatever gives the body.
//!
//! Enters: hyper's tasks, one for each stream, and how their bodies are asked for. Leaves: the end of those that wait for too
//! long: the stream is reset, and what gave the body is free. Must not touch: bodies.
//!
//! hyper asks a body for its next piece when the last one found room in the stream's window and in the connection's. So a body
//! that gave a piece and is neither asked nor dropped waits for a window, or for the socket, which has a deadline of its own.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::traffic::Traffic;

/// In so many steps the deadline is looked after.
const STEPS: u32 = 4;

tokio::task_local! {
    /// The stream of the task.
    static STREAM: Arc<Stream>;
}

/// The streams of one connection, as hyper's executor.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Shared>);

#[derive(Default)]
struct Shared {
    open: Mutex<Open>,
    /// The first stream was opened.
    used: Notify,
}

#[derive(Default)]
struct Open {
    next: u64,
    streams: HashMap<u64, Arc<Stream>>,
}

/// One stream.
#[derive(Default)]
struct Stream(Mutex<State>);

#[derive(Default)]
struct State {
    /// Since when a piece of its body waits.
    waits: Option<Instant>,
    task: Option<AbortHandle>,
}

/// The place of a stream among the open ones.
struct Place(Streams, u64);

/// Notes, in a stream's task, whether its body gave something that must now find room. False in any other task, as those of
/// HTTP/1 are.
pub(super) fn note(gave: bool) -> bool {
    STREAM.try_with(|stream| stream.lock().waits = gave.then(Instant::now)).is_ok()
}

impl Stream {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resets each stream that waits for a window for `limit`, or a quarter longer. While the socket takes nothing, nobody waits
    /// for a window. Never returns.
    pub(super) async fn watch(&self, limit: Duration, traffic: &Traffic) {
        loop {
            if self.lock().streams.is_empty() {
                self.0.used.notified().await;
            }
            sleep(limit / STEPS).await;
            self.reset_stalled(limit, traffic.is_blocked());
        }
    }

    fn reset_stalled(&self, limit: Duration, excused: bool) {
        let now = Instant::now();
        let mut stalled = Vec::new();
        for stream in self.lock().streams.values() {
            let mut state = stream.lock();
            match state.waits {
                Some(_) if excused => state.waits = Some(now),
                Some(since) if since + limit <= now => stalled.extend(state.task.take()),
                _ => {}
            }
        }
        if !stalled.is_empty() {
            tracing::debug!(streams = stalled.len(), "the client opened no window for them: the streams are reset");
        }
        stalled.iter().for_each(AbortHandle::abort);
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, work: F) {
        let stream = Arc::new(Stream::default());
        let mut open = self.lock();
        let (number, first) = (open.next, open.streams.is_empty());
        open.next += 1;
        open.streams.insert(number, Arc::clone(&stream));
        drop(open);
        let place = Place(self.clone(), number);
        let task = tokio::spawn(STREAM.scope(Arc::clone(&stream), async move {
            let _place = place;
            work.await;
        }));
        stream.lock().task = Some(task.abort_handle());
        if first {
            self.0.used.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.0.lock();
        open.streams.remove(&self.1);
        if open.streams.is_empty() {
            open.streams = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// A stream of which a piece waits for as long as it lives.
    fn stalled(streams: &Streams) -> tokio::sync::oneshot::Receiver<()> {
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        streams.execute(async move {
            let _alive = alive;
            note(true);
            std::future::pending::<()>().await;
        });
        gone
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_waits_for_its_window_is_ended_and_others_are_not() {
        let (streams, traffic) = (Streams::default(), Traffic::default());
        let start = Instant::now();
        let watching = streams.clone();
        let watch = tokio::spawn(async move { watching.watch(LIMIT, &traffic).await });
        let mut gone = stalled(&streams);
        streams.execute(async {
            note(true);
            note(false);
            std::future::pending::<()>().await;
        });
        streams.execute(async {
            for _ in 0..9 {
                note(true);
                sleep(LIMIT - Duration::from_secs(1)).await;
            }
            note(false);
            std::future::pending::<()>().await;
        });
        (&mut gone).await.expect_err("the task is dropped");
        assert!(start.elapsed() >= LIMIT && start.elapsed() <= LIMIT + LIMIT / STEPS, "{:?}", start.elapsed());
        sleep(LIMIT * 20).await;
        assert_eq!(streams.lock().streams.len(), 2);
        watch.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_socket_takes_nothing_nobody_waits_for_a_window() {
        let streams = Streams::default();
        let _gone = stalled(&streams);
        tokio::task::yield_now().await;
        for _ in 0..9 {
            sleep(LIMIT / STEPS).await;
            streams.reset_stalled(LIMIT, true);
        }
        sleep(LIMIT - Duration::from_secs(1)).await;
        streams.reset_stalled(LIMIT, false);
        tokio::task::yield_now().await;
        assert_eq!(streams.lock().streams.len(), 1);
    }
}
