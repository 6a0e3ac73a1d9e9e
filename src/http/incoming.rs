//! A body that a peer sends: of a client's request, or of a backend's response.
//!
//! Enters: hyper's body, or all its bytes. Leaves: frames. Must not touch: what the bytes mean.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

/// Why a body failed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body on its way to us.
#[derive(Debug)]
pub enum IncomingBody {
    /// hyper reads it from the connection, as it is polled.
    Streaming(Incoming),
    /// All of it came with the head.
    Buffered(Bytes),
    /// As `Streaming`; what is with it is dropped with it.
    Accompanied(Incoming, Companion),
}

/// Lives as long as a body is on its way.
pub struct Companion(#[expect(dead_code, reason = "it does what it does when it is dropped")] Box<dyn Send + Sync>);

impl fmt::Debug for Companion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Companion")
    }
}

impl IncomingBody {
    /// Keeps `companion` until the body has ended or is given up. One that is here already has ended.
    #[must_use]
    pub fn accompanied<T: Send + Sync + 'static>(self, companion: T) -> Self {
        match self {
            Self::Streaming(body) if !body.is_end_stream() => Self::Accompanied(body, Companion(Box::new(companion))),
            body => body,
        }
    }
}

impl http_body::Body for IncomingBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            // Where the response came first hyper does not say that this is the end before the next request, and where the
            // connection is taken back from it then, it says that this is an error.
            Self::Streaming(body) | Self::Accompanied(body, _) if body.is_end_stream() => Poll::Ready(None),
            Self::Streaming(body) | Self::Accompanied(body, _) => Pin::new(body).poll_frame(cx),
            Self::Buffered(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Buffered(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streaming(body) | Self::Accompanied(body, _) => body.is_end_stream(),
            Self::Buffered(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streaming(body) | Self::Accompanied(body, _) => body.size_hint(),
            Self::Buffered(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}
