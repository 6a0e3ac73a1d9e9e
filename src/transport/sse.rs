//! The `sse` transport: server-sent events (PROTOCOL 4.1).
//!
//! Enters: a reader. Leaves: a response that never ends by itself. Must not touch: how events are encoded.

use std::sync::Arc;

use bytes::BytesMut;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};

use super::greeting::{self, Arrival};
use super::record::{SourceRecord, StreamingRecord};
use super::streaming::{Recorded, Streaming};
use crate::codec::sse::{self, EventIds, Events, Ids};
use crate::http::body::Body;
use crate::registry::{LiveSession, Reader};

/// Exactly this, without parameters: some boxes recognise nothing else.
pub const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// What a browser's `EventSource` waits before it comes back when no session could be opened.
const RETRY_UNAVAILABLE_MS: u32 = 5000;

/// The form of the event ids.
#[derive(Clone)]
pub enum IdForm {
    /// The bare number.
    Bare,
    /// With the token, so that an `EventSource` without our script resumes by itself.
    Token(Arc<LiveSession>),
}

/// Streams the session.
#[must_use]
pub fn respond(reader: Reader, ids: IdForm, arrival: Arrival, url: &str) -> Response<Body> {
    let next = reader.session().progress().counts.next;
    let greeting = greeting::of_attachment(&reader, url, arrival, next);
    let source = Streaming::new(reader, Events(ids), greeting);
    event_stream(Body::Stream(Box::new(source)))
}

/// The response to a one-request open that cannot be served now: 200, so that the `EventSource` comes back.
#[must_use]
pub fn unavailable(error: &str) -> Response<Body> {
    let mut out = BytesMut::new();
    sse::retry(&mut out, RETRY_UNAVAILABLE_MS);
    sse::unavailable(&mut out, error);
    event_stream(Body::full(out.freeze()))
}

/// The response to a request whose session has moved to another process: an `EventSource` comes back at once.
#[must_use]
pub fn again() -> Response<Body> {
    let mut out = BytesMut::new();
    sse::retry(&mut out, 0);
    event_stream(Body::full(out.freeze()))
}

fn event_stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, EVENT_STREAM);
    response
}

impl EventIds for IdForm {
    fn ids(&self) -> Ids<'_> {
        match self {
            Self::Bare => Ids::Bare,
            Self::Token(session) => Ids::Token(session.token().as_str()),
        }
    }
}

impl Recorded for Events<IdForm> {
    fn record(&self, streaming: StreamingRecord) -> SourceRecord {
        SourceRecord::Sse { token: matches!(self.0, IdForm::Token(_)), streaming }
    }
}
