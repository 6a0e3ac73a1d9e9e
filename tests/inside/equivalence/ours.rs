//! The readers and writers under test, by the names that these tests have for them: the only file here that names them.
//!
//! Enters: bytes. Leaves: what our readers make of them, and hyper with the settings that the product gives it. Must not
//! touch: any rule of its own.

use bytes::{Bytes, BytesMut};
use http::{Request, Response, response};
use hyper::rt::Timer;
use hyper::{client, server};
use underpass::config::{Backend, Client};
use underpass::http::as_written::AsWritten;
use underpass::http::incoming::IncomingBody;
pub(crate) use underpass::http::write_head::Framing;
use underpass::http::{read_request, read_response, write_head};
use underpass::listener::hyper_server;
use underpass::upstream::{handshake, http1_exchange};

/// What our reader says of bytes.
pub(crate) enum Verdict<T> {
    Taken(T),
    /// The beginning of what may be taken.
    Unfinished,
    /// Left to hyper.
    Left,
}

/// Bounds of a request's head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) bytes: usize,
    pub(crate) fields: usize,
}

impl Limits {
    /// Those of a configuration that says nothing of them.
    pub(crate) fn usual() -> Self {
        let Client { header_bytes: bytes, header_fields: fields, .. } = Client::default();
        Self { bytes, fields }
    }

    fn client(self) -> Client {
        Client { header_bytes: self.bytes, header_fields: self.fields, ..Client::default() }
    }
}

// === requests ===

/// The same bytes with a target that hyper takes, where ours passes one that it would refuse.
pub(crate) fn readable(bytes: &[u8], request: &Request<Bytes>) -> Vec<u8> {
    let Some(written) = request.extensions().get::<AsWritten>().and_then(AsWritten::target) else {
        return bytes.to_vec();
    };
    let at = bytes.windows(written.len()).position(|window| window == written).expect("it was read there");
    [&bytes[..at], request.uri().to_string().as_bytes(), &bytes[at + written.len()..]].concat()
}

/// The request at the beginning, where it ends, and whether another may follow.
pub(crate) fn read_request(bytes: &Bytes, limits: Limits) -> Option<(Request<Bytes>, usize, bool)> {
    let read_request::ReadRequest::Whole(read, end) = read_request::read_request(bytes, &limits.client()) else {
        return None;
    };
    let keeps_alive = read_request::keeps_alive(&read);
    let read = read.map(|body| match body {
        IncomingBody::Buffered(body) => body,
        IncomingBody::Streaming(_) => panic!("a body of hyper's"),
    });
    Some((read, end, keeps_alive))
}

pub(crate) fn server_settings(
    limits: Limits,
    timer: impl Timer + Send + Sync + 'static,
) -> server::conn::http1::Builder {
    hyper_server::http1_settings(&limits.client(), timer)
}

pub(crate) fn write_request<B>(request: &Request<B>) -> Bytes {
    write_head::request_head(request)
}

// === responses ===

pub(crate) fn read_response(bytes: &Bytes) -> Verdict<Response<Bytes>> {
    read_response::read_short(bytes).into()
}

/// The head of a 101, and what stands behind it.
pub(crate) fn read_switch(bytes: &Bytes, accept: &str) -> Verdict<(response::Parts, Bytes)> {
    handshake::read_switching(bytes, Some(accept)).into()
}

pub(crate) fn client_settings() -> client::conn::http1::Builder {
    http1_exchange::hyper_settings((&Backend::default()).into())
}

pub(crate) fn write_response(parts: &response::Parts, framing: Framing, keep_alive: bool, dated: bool) -> Vec<u8> {
    let mut out = BytesMut::new();
    write_head::put_response_head(&mut out, parts);
    write_head::finish_head(&mut out, framing, keep_alive, dated);
    out.into()
}

impl<T> From<read_response::Parsed<T>> for Verdict<T> {
    fn from(judged: read_response::Parsed<T>) -> Self {
        match judged {
            read_response::Parsed::Complete(sound) => Self::Taken(sound),
            read_response::Parsed::Partial => Self::Unfinished,
            read_response::Parsed::Ambiguous => Self::Left,
        }
    }
}
