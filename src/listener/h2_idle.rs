//! Which of hyper's connections is idle: over HTTP/2 it has no limit on that, and pings keep such a connection alive for ever.
//!
//! Enters: requests on their way to the service. Leaves: the same requests, and the moment at which none has been open
//! for a given time. Must not touch: what requests and responses say; bodies go on in pieces.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use hyper::service::Service;
use pin_project_lite::pin_project;
use tokio::time::{Instant, sleep_until};

use super::h2_window::note;
use super::traffic::Traffic;

/// Over HTTP/2 hyper takes a piece of a body when the window has room for its first byte, and keeps it until there is room for all. So
/// much is a piece at most, in bytes.
const PIECE: usize = 16 * 1024;

/// The exchanges of one connection.
#[derive(Debug)]
pub(super) struct Exchanges {
    state: Mutex<State>,
    /// Of the connection: idle while none is open, once there was one.
    traffic: Arc<Traffic>,
}

#[derive(Debug)]
struct State {
    open: usize,
    /// When the last one ended, or the connection began.
    quiet_since: Instant,
}

/// One exchange, from the request to the end of the response's body, or of what the stream has become.
pub(super) struct Exchange {
    exchanges: Arc<Exchanges>,
}

/// A service that counts its exchanges.
#[derive(Clone, Debug)]
pub(super) struct Counting<S> {
    inner: S,
    exchanges: Arc<Exchanges>,
}

pin_project! {
    /// A counted exchange without a response yet.
    pub(super) struct CountedResponse<F> {
        #[pin]
        inner: F,
        exchange: Option<Exchange>,
    }
}

pin_project! {
    /// The response's body of a counted exchange.
    pub(super) struct CountedBody<B> {
        #[pin]
        inner: B,
        // What the body gave and was too much for one piece.
        rest: Bytes,
        exchange: Option<Exchange>,
    }
}

// === impl Exchanges ===

impl Exchanges {
    pub(super) fn new(traffic: Arc<Traffic>) -> Self {
        Self { state: Mutex::new(State { open: 0, quiet_since: Instant::now() }), traffic }
    }

    /// Returns once no exchange has been open for `limit`. Cancel-safe.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            // While one is open, the earliest end of idleness is a limit from now, whenever it ends.
            let deadline = self.quiet_since().unwrap_or(now) + limit;
            if deadline <= now {
                return;
            }
            sleep_until(deadline).await;
        }
    }

    fn quiet_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.open == 0).then_some(state.quiet_since)
    }

    /// One more is open until this is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Exchange {
        let mut state = self.lock();
        state.open += 1;
        // If it must end, its task is on its way to do so.
        let _ = self.traffic.become_busy();
        drop(state);
        Exchange { exchanges: Arc::clone(self) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock, and two numbers are always consistent enough.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.exchanges.lock();
        state.open -= 1;
        state.quiet_since = Instant::now();
        if state.open == 0 {
            self.exchanges.traffic.become_idle();
        }
    }
}

// === impl Counting ===

impl<S> Counting<S> {
    pub(super) fn new(inner: S, exchanges: Arc<Exchanges>) -> Self {
        Self { inner, exchanges }
    }
}

impl<R, S, B> Service<R> for Counting<S>
where
    S: Service<R, Response = Response<B>>,
{
    type Response = Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = CountedResponse<S::Future>;

    fn call(&self, request: R) -> Self::Future {
        let exchange = Some(self.exchanges.begin());
        CountedResponse { inner: self.inner.call(request), exchange }
    }
}

impl<F, B, E> Future for CountedResponse<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<CountedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let exchange = this.exchange.take();
        Poll::Ready(Ok(response.map(|inner| CountedBody { inner, rest: Bytes::new(), exchange })))
    }
}

impl<B: Body<Data = Bytes>> Body for CountedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if this.rest.is_empty() {
            let polled = this.inner.poll_frame(cx);
            let Poll::Ready(Some(Ok(frame))) = polled else {
                note(false);
                return polled;
            };
            match frame.into_data() {
                Ok(data) => *this.rest = data,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
        let most = if note(true) { PIECE } else { usize::MAX };
        let piece = this.rest.split_to(this.rest.len().min(most));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idleness_begins_with_the_end_of_the_last_exchange() {
        let start = Instant::now();
        let exchanges = Arc::new(Exchanges::new(Arc::default()));
        let (first, second) = (exchanges.begin(), exchanges.begin());
        let others = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(first);
            tokio::time::sleep(Duration::from_secs(95)).await;
            drop(second);
        });
        exchanges.idle(Duration::from_secs(75)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(175));
        others.await.expect("the task does not panic");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_any_exchange_becomes_idle() {
        let start = Instant::now();
        Exchanges::new(Arc::default()).idle(Duration::from_secs(75)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(75));
    }
}
