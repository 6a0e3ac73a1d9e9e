//! The readers and writers under test, by the names that these tests have for them: the only file here that names them.
//!
//! Enters: bytes. Leaves: what our readers make of them, and hyper with the settings that the product gives it. Must not
//! touch: any rule of its own.

use bytes::{Bytes, BytesMut};
use http::{Request, Response, response};
use hyper::rt::Timer;
use hyper::{client, server};
use underpass::config::Client;
pub(crate) use underpass::listener::head::Framing;
use underpass::listener::{conn, head, request};
use underpass::transport::body::Sent;
use underpass::upstream::{answer, by_hand, handshake};

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

/// The request at the beginning, where it ends, and whether another may follow.
pub(crate) fn read_request(bytes: &Bytes, limits: Limits) -> Option<(Request<Bytes>, usize, bool)> {
    let (read, end) = request::whole(bytes, &limits.client())?;
    let keeps_alive = request::keeps_alive(&read);
    let read = read.map(|body| match body {
        Sent::Whole(body) => body,
        Sent::Coming(_) => panic!("a body of hyper's"),
    });
    Some((read, end, keeps_alive))
}

pub(crate) fn server_settings(
    limits: Limits,
    timer: impl Timer + Send + Sync + 'static,
) -> server::conn::http1::Builder {
    conn::hyper_settings(&limits.client(), timer)
}

pub(crate) fn write_request<B>(request: &Request<B>) -> Vec<u8> {
    by_hand::request_text(request)
}

// === responses ===

pub(crate) fn read_response(bytes: &Bytes) -> Verdict<Response<Bytes>> {
    answer::short(bytes).into()
}

/// The head of a 101, and what stands behind it.
pub(crate) fn read_switch(bytes: &Bytes, accept: &str) -> Verdict<(response::Parts, Bytes)> {
    handshake::plain_switch(bytes, Some(accept)).into()
}

pub(crate) fn client_settings() -> client::conn::http1::Builder {
    by_hand::hyper_settings()
}

pub(crate) fn write_response(parts: &response::Parts, framing: Framing, keep_alive: bool, dated: bool) -> Vec<u8> {
    let mut out = BytesMut::new();
    head::put_head(&mut out, parts);
    head::finish_head(&mut out, framing, keep_alive, dated);
    out.into()
}

impl<T> From<by_hand::Judged<T>> for Verdict<T> {
    fn from(judged: by_hand::Judged<T>) -> Self {
        match judged {
            by_hand::Judged::Sound(sound) => Self::Taken(sound),
            by_hand::Judged::Unfinished => Self::Unfinished,
            by_hand::Judged::Doubtful => Self::Left,
        }
    }
}
