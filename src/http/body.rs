//! The body of a response: nothing, known bytes, a backend's body, a source that is pulled from, or what the connection
//! becomes behind a 101.
//!
//! Enters: one of these. Leaves: frames for hyper, or a [`Source`] for the writer on a bare socket. Must not touch: what
//! the bytes mean.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};

use super::bare::Duplex;
use super::incoming::{BoxError, IncomingBody};
use super::rewriting::RewritingBody;
use crate::http::source::{Chunk, Source, Tally};

/// A response body.
pub enum Body {
    /// Nothing.
    Empty,
    /// All of it at once.
    Full(Bytes),
    /// A backend's.
    Proxied(IncomingBody),
    /// A backend's, changed on its way.
    Rewriting(Box<RewritingBody>),
    /// A session's, chunk after chunk, pulled when there is room.
    Stream(Box<dyn Source + Send>),
    /// A session's, one chunk. The head waits for it, since it has the length.
    Batch(Box<dyn Source + Send>),
    /// Nothing; behind the head the connection carries something else.
    Upgrade(Upgrade),
}

/// What is done with a connection behind a 101, to its end.
pub type Upgrade = Box<dyn FnOnce(Box<dyn Duplex>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

impl Body {
    /// A body of known bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(bytes.into())
    }

    /// An upgraded connection's use.
    #[must_use]
    pub fn upgrade<F>(carry: impl FnOnce(Box<dyn Duplex>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::Upgrade(Box::new(move |connection| Box::pin(carry(connection))))
    }

    /// Waits for a batch, so that the response has a known length; every other body is ready as it is.
    pub async fn with_known_length(response: Response<Self>) -> Response<Self> {
        let (head, body) = response.into_parts();
        let Self::Batch(mut source) = body else { return Response::from_parts(head, body) };
        let mut out = BytesMut::new();
        poll_fn(|cx| source.poll_chunk(cx, &mut out)).await;
        Response::from_parts(head, Self::Full(counted(&*source, out)))
    }
}

/// Pieces of at least so many bytes are counted while hyper has them.
const COUNTED: usize = 64 * 1024;

/// The bytes of a source, counted until the last of them is written.
fn counted(source: &(dyn Source + Send), bytes: BytesMut) -> Bytes {
    struct Counted(Bytes, #[expect(dead_code, reason = "it counts until it is dropped")] Box<dyn Tally>);

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    let tally = if bytes.len() < COUNTED { None } else { source.tally(bytes.len()) };
    match tally {
        Some(tally) => Bytes::from_owner(Counted(bytes.freeze(), tally)),
        None => bytes.freeze(),
    }
}

/// A response whose body is known.
#[must_use]
pub fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        match this {
            Self::Empty | Self::Upgrade(_) => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Proxied(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Rewriting(body) => {
                let mut out = BytesMut::new();
                let Poll::Ready(more) = body.poll_bytes(cx, &mut out) else { return Poll::Pending };
                if !matches!(more, Ok(true)) {
                    *this = Self::Empty;
                }
                Poll::Ready(match more {
                    Ok(_) => (!out.is_empty()).then(|| Ok(Frame::data(out.freeze()))),
                    Err(error) => Some(Err(error)),
                })
            }
            Self::Stream(source) | Self::Batch(source) => {
                let mut out = BytesMut::new();
                let Poll::Ready(chunk) = source.poll_chunk(cx, &mut out) else { return Poll::Pending };
                let out = counted(&**source, out);
                if matches!(chunk, Chunk::Last | Chunk::Broken) {
                    *this = Self::Empty;
                }
                Poll::Ready((!out.is_empty()).then(|| Ok(Frame::data(out))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Upgrade(_) => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Proxied(body) => body.is_end_stream(),
            Self::Rewriting(_) | Self::Stream(_) | Self::Batch(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Upgrade(_) => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Proxied(body) => body.size_hint(),
            Self::Rewriting(_) | Self::Stream(_) | Self::Batch(_) => SizeHint::default(),
        }
    }
}

/// A backend's body as a source.
pub struct Relay(pub IncomingBody);

impl Relay {
    /// The next bytes, and whether they are the last.
    ///
    /// # Errors
    /// hyper's, when the body is not whole.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Bytes, bool), hyper::Error>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.0).poll_frame(cx)?) else {
                return Poll::Ready(Ok((Bytes::new(), true)));
            };
            if let Some(data) = frame.into_data().ok().filter(|data| !data.is_empty()) {
                return Poll::Ready(Ok((data, self.0.is_end_stream())));
            }
        }
    }
}

impl Source for Relay {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Chunk> {
        Poll::Ready(match ready!(self.poll_piece(cx)) {
            Ok((piece, last)) => {
                out.extend_from_slice(&piece);
                if last { Chunk::Last } else { Chunk::More }
            }
            Err(_) => Chunk::Broken,
        })
    }
}
