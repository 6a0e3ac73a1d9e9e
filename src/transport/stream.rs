//! The `stream` transport: frames in an octet stream (PROTOCOL 4.2), for clients behind boxes that delay event streams.
//!
//! Enters: a reader. Leaves: a response that never ends by itself. Must not touch: how frames are encoded.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};

use super::greeting::{self, Arrival};
use super::record::{SourceRecord, StreamingRecord};
use super::streaming::{Recorded, Streaming};
use crate::codec::frames::Frames;
use crate::http::body::Body;
use crate::registry::Reader;

/// The content type of frames.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// Streams the session.
#[must_use]
pub fn respond(reader: Reader, url: &str) -> Response<Body> {
    let next = reader.session().progress().counts.next;
    let greeting = greeting::of_attachment(&reader, url, Arrival::Known, next);
    let mut response = Response::new(Body::Stream(Box::new(Streaming::new(reader, Frames, greeting))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OCTET_STREAM));
    response
}

impl Recorded for Frames {
    fn record(&self, streaming: StreamingRecord) -> SourceRecord {
        SourceRecord::Stream(streaming)
    }
}
