//! The body of every response: nothing, known bytes, a proxied body, or a source that is pulled from.
//!
//! Enters: one of these. Leaves: frames for hyper. Must not touch: what the bytes mean.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::source::Source;

/// A response body.
pub enum Body {
    /// Nothing.
    Empty,
    /// All of it at once.
    Full(Option<Bytes>),
    /// A backend's, as it comes.
    Proxied(Incoming),
    /// A session's, pulled when hyper has room.
    Source(Box<dyn Source + Send>),
}

impl Body {
    /// A body of known bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Some(bytes.into()))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Proxied(body) => Pin::new(body).poll_frame(cx),
            Self::Source(source) => source.poll_chunk(cx).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Full(None) => true,
            Self::Proxied(body) => body.is_end_stream(),
            Self::Full(Some(_)) | Self::Source(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Full(None) => SizeHint::with_exact(0),
            Self::Full(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Proxied(body) => body.size_hint(),
            Self::Source(_) => SizeHint::default(),
        }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::full(text)
    }
}
