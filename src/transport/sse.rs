//! The `sse` transport: server-sent events (PROTOCOL 4.1).
//!
//! Enters: a reader. Leaves: a response that never ends by itself. Must not touch: how events are written.

use std::sync::Arc;

use bytes::BytesMut;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};

use super::facts::{self, Arrival};
use super::streaming::{Encoding, Streaming};
use crate::codec::sse::{self, Ids};
use crate::http::body::Body;
use crate::registry::{LiveSession, Reader};
use crate::session::{Close, Message};

/// Exactly this, without parameters: some boxes recognise nothing else.
pub const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// What a browser's `EventSource` waits before it comes back.
const RETRY_MS: u32 = 1000;
/// The same when there is no session to be had.
const RETRY_UNAVAILABLE_MS: u32 = 5000;

/// The form of the event ids.
#[derive(Clone)]
pub enum IdForm {
    /// The bare number.
    Bare,
    /// With the token, so that a bare `EventSource` resumes by itself.
    Token(Arc<LiveSession>),
}

struct Events(IdForm);

/// Streams the session.
#[must_use]
pub fn respond(reader: Reader, ids: IdForm, arrival: Arrival, prefix: &str) -> Response<Body> {
    let next = reader.session().standing().counts.next;
    let facts = facts::of_attachment(&reader, prefix, arrival, next);
    let source = Streaming::new(reader, Events(ids), facts);
    event_stream(Body::Stream(Box::new(source)))
}

/// The answer to a one-request open that cannot be served now: 200, so that the `EventSource` comes back.
#[must_use]
pub fn unavailable(error: &str) -> Response<Body> {
    let mut out = BytesMut::new();
    sse::retry(&mut out, RETRY_UNAVAILABLE_MS);
    sse::unavailable(&mut out, error);
    event_stream(Body::full(out.freeze()))
}

fn event_stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, EVENT_STREAM);
    response
}

impl Events {
    fn ids(&self) -> Ids<'_> {
        match &self.0 {
            IdForm::Bare => Ids::Bare,
            IdForm::Token(session) => Ids::Token(session.token().as_str()),
        }
    }
}

impl Encoding for Events {
    fn opening(&self, out: &mut BytesMut, from: u64, facts: &str) {
        sse::retry(out, RETRY_MS);
        sse::session(out, self.ids(), from, facts);
    }

    fn message(&self, out: &mut BytesMut, number: u64, message: &Message) {
        sse::message(out, self.ids(), number, message);
    }

    fn heartbeat(&self, out: &mut BytesMut, sent: u64) {
        sse::heartbeat(out, sent);
    }

    fn lost(&self, out: &mut BytesMut, from: u64, to: u64) {
        sse::lost(out, from, to);
    }

    fn close(&self, out: &mut BytesMut, number: u64, close: &Close) {
        sse::close(out, self.ids(), number, close);
    }

    fn superseded(&self, out: &mut BytesMut) {
        sse::superseded(out);
    }

    fn reconnect(&self, out: &mut BytesMut, after_ms: u32) {
        sse::reconnect(out, after_ms);
    }
}
