//! A body that a peer sends: of a client's request, or of a backend's response.
//!
//! Enters: hyper's body, or all its bytes. Leaves: frames. Must not touch: what the bytes mean.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
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
}

impl http_body::Body for IncomingBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Streaming(body) => Pin::new(body).poll_frame(cx),
            Self::Buffered(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Buffered(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streaming(body) => body.is_end_stream(),
            Self::Buffered(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streaming(body) => body.size_hint(),
            Self::Buffered(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}
