//! `POST poll`: one response for several sessions, so that a page needs one connection however many it has (PROTOCOL 4.3).
//!
//! Enters: the polls of the sessions, and what is known of those that cannot be polled. Leaves: one response, as soon
//! as one of them has something to say. Must not touch: what a single poll says.

use std::task::{Context, Poll};

use bytes::{BufMut as _, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use serde_json::Value;

use crate::http::body::Body;
use crate::http::source::{Chunk, Source, Tally};

/// One session's part.
pub enum Part {
    /// A poll that waits; its response is JSON.
    Waiting(Box<dyn Source + Send>),
    /// JSON that is known already: an error.
    Known(String),
}

struct MultiPoll {
    /// By token, which is URL-safe and needs no escaping.
    parts: Vec<(String, Part)>,
    nonce: Option<String>,
}

/// Responds `{"sessions":{token: response, …},"n":…}` with those that have something to say, once there are any. All of
/// them do when the time of the polls is up.
#[must_use]
pub fn respond(parts: Vec<(String, Part)>, nonce: Option<String>) -> Response<Body> {
    let mut response = Response::new(Body::Batch(Box::new(MultiPoll { parts, nonce })));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl Source for MultiPoll {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Chunk> {
        let start = out.len();
        out.put_slice(b"{\"sessions\":{");
        let first = out.len();
        for (token, part) in &mut self.parts {
            let before = out.len();
            if before > first {
                out.put_u8(b',');
            }
            out.put_u8(b'"');
            out.put_slice(token.as_bytes());
            out.put_slice(b"\":");
            if part.poll(cx, out).is_pending() {
                out.truncate(before);
            }
        }
        if out.len() == first {
            out.truncate(start);
            return Poll::Pending;
        }
        out.put_u8(b'}');
        if let Some(nonce) = &self.nonce {
            out.put_slice(b",\"n\":");
            out.put_slice(Value::from(nonce.as_str()).to_string().as_bytes());
        }
        out.put_slice(b"}\n");
        Poll::Ready(Chunk::Last)
    }

    /// All of it counts for the first session: how much of it is whose is not known any more.
    fn tally(&self, bytes: usize) -> Option<Box<dyn Tally>> {
        self.parts.iter().find_map(|(_, part)| match part {
            Part::Waiting(source) => source.tally(bytes),
            Part::Known(_) => None,
        })
    }
}

impl Part {
    /// Appends the response when there is one. A poll appends nothing before that.
    fn poll(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<()> {
        match self {
            Self::Waiting(source) => source.poll_chunk(cx, out).map(|_| ()),
            Self::Known(json) => {
                out.put_slice(json.as_bytes());
                Poll::Ready(())
            }
        }
    }
}
