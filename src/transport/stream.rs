//! The `stream` transport: frames in an octet stream (PROTOCOL 4.2), for boxes that hold event streams back.
//!
//! Enters: a reader. Leaves: a response that never ends by itself. Must not touch: how frames are written.

use bytes::BytesMut;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};

use super::facts::{self, Arrival};
use super::streaming::{Encoding, Streaming};
use crate::codec::frames;
use crate::http::body::Body;
use crate::registry::Reader;
use crate::session::{Close, Message};

/// The content type of frames.
pub const OCTET_STREAM: &str = "application/octet-stream";

struct Frames;

/// Streams the session.
#[must_use]
pub fn respond(reader: Reader, prefix: &str) -> Response<Body> {
    let next = reader.session().standing().counts.next;
    let facts = facts::of_attachment(&reader, prefix, Arrival::Known, next);
    let mut response = Response::new(Body::Stream(Box::new(Streaming::new(reader, Frames, facts))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OCTET_STREAM));
    response
}

impl Encoding for Frames {
    fn opening(&self, out: &mut BytesMut, _from: u64, facts: &str) {
        frames::facts(out, facts);
    }

    fn message(&self, out: &mut BytesMut, _number: u64, message: &Message) {
        frames::message(out, message);
    }

    fn heartbeat(&self, out: &mut BytesMut, sent: u64) {
        frames::heartbeat(out, sent);
    }

    fn lost(&self, out: &mut BytesMut, from: u64, to: u64) {
        frames::lost(out, from, to);
    }

    fn close(&self, out: &mut BytesMut, _number: u64, close: &Close) {
        frames::close(out, close);
    }

    fn superseded(&self, out: &mut BytesMut) {
        frames::superseded(out);
    }

    fn reconnect(&self, out: &mut BytesMut, after_ms: u32) {
        frames::reconnect(out, after_ms);
    }
}
