//! The pace of a request's body towards a backend: a long upload is no slow backend.
//!
//! Enters: a body, and how long the backend may be waited for. Leaves: the same body, and the moment at which the backend
//! has been too slow. Must not touch: what the body is, the response.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Either, Empty};
use tokio::time::{Instant, sleep, sleep_until};

use crate::http::incoming::BoxError;
use crate::upstream::pool::Outgoing;

/// The body for the backend, and its pace; without a body there is no pace.
pub(super) fn outgoing<B>(body: B) -> (Outgoing, Option<Arc<Pace>>)
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return (Either::Left(Empty::new()), None);
    }
    let pace = Arc::new(Pace::default());
    (Either::Right(UnsyncBoxBody::new(Paced { body, pace: pace.clone() })), Some(pace))
}

/// Ends when the backend has been slow for `limit`, from now on.
pub(super) async fn stalled(pace: Option<&Pace>, limit: Duration) {
    match pace {
        None => sleep(limit).await,
        Some(pace) => {
            pace.note(false);
            pace.stalled(limit).await;
        }
    }
}

/// Who is waited for, and since when: a long upload is no slow backend.
pub(super) struct Pace(Mutex<(Instant, bool)>);

impl Default for Pace {
    fn default() -> Self {
        Self(Mutex::new((Instant::now(), false)))
    }
}

impl Pace {
    /// A piece of the body has moved, or the client is waited for.
    fn note(&self, waits_for_client: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), waits_for_client);
    }

    /// Ends when the backend was waited for as long as `limit`.
    async fn stalled(&self, limit: Duration) {
        loop {
            let (since, waits_for_client) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let due = if waits_for_client { Instant::now() + limit } else { since + limit };
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

pin_project_lite::pin_project! {
    /// A request's body that keeps its pace.
    struct Paced<B> {
        #[pin]
        body: B,
        pace: Arc<Pace>,
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let polled = this.body.poll_frame(cx);
        this.pace.note(polled.is_pending());
        Poll::Ready(ready!(polled).map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
