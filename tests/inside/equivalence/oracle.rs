//! hyper as the oracle: what it makes of bytes, without sockets and without a runtime.
//!
//! Enters: the bytes that a peer sends, in pieces. Leaves: the message that hyper sees, and the bytes that it leaves behind
//! it. Must not touch: our readers, and settings of its own (see `ours`).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version, response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::rt::{Read, ReadBufCursor, Sleep, Timer, Write};
use hyper::service::service_fn;

use super::ours::{self, Limits};

/// hyper is asked so often at most; it needs a handful of turns for what is tested here.
const TURNS: usize = 64;
/// Further turns behind a message, in which hyper could still change its mind.
const TURNS_BEHIND: usize = 4;

/// All that is compared of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RequestSeen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: Version,
    pub(crate) fields: Vec<(String, Bytes)>,
    pub(crate) body: Bytes,
    /// Where the next message begins.
    pub(crate) rest: Bytes,
    /// What was written to the client before the request was answered.
    pub(crate) written: Bytes,
}

impl RequestSeen {
    pub(crate) fn new(request: Request<Bytes>, rest: Bytes) -> Self {
        let (parts, body) = request.into_parts();
        Self {
            method: parts.method.to_string(),
            target: parts.uri.to_string(),
            version: parts.version,
            fields: fields(&parts.headers),
            body,
            rest,
            written: Bytes::new(),
        }
    }
}

/// All that is compared of a response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ResponseSeen {
    pub(crate) status: StatusCode,
    /// If it is not the usual one.
    pub(crate) reason: Option<Bytes>,
    pub(crate) version: Version,
    pub(crate) fields: Vec<(String, Bytes)>,
    pub(crate) body: Bytes,
    /// What stands behind it; behind a 101, the other protocol.
    pub(crate) rest: Bytes,
    /// Another request may follow on the connection.
    pub(crate) keeps_alive: bool,
}

impl ResponseSeen {
    pub(crate) fn new(parts: &response::Parts, body: Bytes, rest: Bytes, keeps_alive: bool) -> Self {
        let reason = parts.extensions.get::<ReasonPhrase>();
        Self {
            status: parts.status,
            reason: reason.map(|reason| Bytes::copy_from_slice(reason.as_bytes())),
            version: parts.version,
            fields: fields(&parts.headers),
            body,
            rest,
            keeps_alive,
        }
    }
}

/// In the map's order, which is the order in which they would be sent on.
pub(crate) fn fields(headers: &HeaderMap) -> Vec<(String, Bytes)> {
    let own = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes()))
    };
    headers.iter().map(own).collect()
}

// === hyper's server ===

/// The first request that hyper sees in these pieces. `None` when it waits for more.
pub(crate) fn serve(limits: Limits, pieces: &[&[u8]]) -> Result<Option<RequestSeen>, String> {
    let slot = Arc::new(Mutex::new(None));
    let (wire, written) = Wire::new(pieces);
    let service = service_fn(|request: Request<Incoming>| {
        let slot = Arc::clone(&slot);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| Request::from_parts(parts, body.to_bytes()));
            *lock(&slot) = Some(body);
            // Left open, as by the product: what hyper has not used can be taken back from it.
            pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
        }
    });
    let mut conn = ours::server_settings(limits, NoTimer).serve_connection(wire, service);
    for _ in 0..TURNS {
        if let Poll::Ready(ended) = poll(&mut conn) {
            return Err(format!("hyper's server ended: {ended:?}"));
        }
        if lock(&slot).is_some() {
            break;
        }
    }
    let parts = conn.into_parts();
    let rest = [&parts.read_buf[..], &parts.io.unread()].concat();
    let written = Bytes::from(lock(&written).clone());
    let Some(seen) = lock(&slot).take() else { return Ok(None) };
    let request = seen.map_err(|error| error.to_string())?;
    Ok(Some(RequestSeen { written, ..RequestSeen::new(request, rest.into()) }))
}

/// Whether hyper goes on with the connection behind the first request.
pub(crate) fn serves_on(limits: Limits, bytes: &[u8]) -> bool {
    let (wire, written) = Wire::new(&[bytes]);
    let service = service_fn(|request: Request<Incoming>| async {
        drop(request.into_body().collect().await);
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let mut conn = ours::server_settings(limits, NoTimer).serve_connection(wire, service);
    for _ in 0..TURNS {
        if poll(&mut conn).is_ready() {
            break;
        }
    }
    let written = lock(&written).to_ascii_lowercase();
    let head = written.windows(4).position(|end| end == b"\r\n\r\n").map_or(&[][..], |end| &written[..end]);
    assert!(!head.is_empty(), "hyper has answered");
    !head.windows(17).any(|field| field == b"connection: close")
}

// === hyper's client ===

/// How a backend's bytes end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The connection stays open.
    Open,
    Closed,
}

/// The response to a GET that hyper sees in these pieces. `None` when it waits for more.
pub(crate) fn ask(pieces: &[&[u8]], ending: Ending) -> Result<Option<ResponseSeen>, String> {
    let (mut wire, written) = Wire::new(pieces);
    (wire.asks, wire.ends) = (true, ending == Ending::Closed);
    let Poll::Ready(shaken) = poll(&mut pin!(ours::client_settings().handshake(wire))) else {
        return Err("hyper's client is not ready".into());
    };
    let (mut sender, mut conn) = shaken.map_err(|error| error.to_string())?;
    let asked = sender.send_request(Request::get("/").body(Empty::<Bytes>::new()).expect("a request"));
    let mut exchange = pin!(async {
        let (parts, body) = asked.await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok::<_, hyper::Error>((parts, body))
    });
    let (mut seen, mut ended) = (None, None);
    let mut behind = 0;
    for _ in 0..TURNS {
        if ended.is_none()
            && let Poll::Ready(end) = poll(&mut conn)
        {
            ended = Some(end);
        }
        if seen.is_some() {
            behind += 1;
        } else if let Poll::Ready(answer) = poll(&mut exchange) {
            seen = Some(answer.map_err(|error| format!("{error:?}"))?);
        }
        if behind == TURNS_BEHIND {
            break;
        }
    }
    assert!(!lock(&written).is_empty(), "hyper has asked");
    let Some((parts, body)) = seen else { return Ok(None) };
    let keeps_alive = ended.is_none() && sender.is_ready();
    let left = conn.into_parts();
    let rest = [&left.read_buf[..], &left.io.unread()].concat();
    Ok(Some(ResponseSeen::new(&parts, body, rest.into(), keeps_alive)))
}

/// The 101 that hyper sees in these pieces, and what stands behind it.
pub(crate) fn switch(pieces: &[&[u8]]) -> Result<Option<ResponseSeen>, String> {
    let (mut wire, _) = Wire::new(pieces);
    wire.asks = true;
    let Poll::Ready(shaken) = poll(&mut pin!(ours::client_settings().handshake(wire))) else {
        return Err("hyper's client is not ready".into());
    };
    let (mut sender, conn) = shaken.map_err(|error| error.to_string())?;
    let mut conn = pin!(conn.with_upgrades());
    let asked = sender.send_request(Request::get("/").body(Empty::<Bytes>::new()).expect("a request"));
    let mut exchange = pin!(async {
        let mut response = asked.await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok((response.into_parts().0, None));
        }
        let upgraded = hyper::upgrade::on(&mut response).await?;
        Ok::<_, hyper::Error>((response.into_parts().0, Some(upgraded)))
    });
    let mut ended = false;
    for _ in 0..TURNS {
        ended = ended || poll(&mut conn).is_ready();
        if let Poll::Ready(answer) = poll(&mut exchange) {
            let (parts, upgraded) = answer.map_err(|error| format!("{error:?}"))?;
            let upgraded = upgraded.ok_or_else(|| format!("no switch: {}", parts.status))?;
            let left = upgraded.downcast::<Wire>().map_err(|_| "not our stream")?;
            let rest = [&left.read_buf[..], &left.io.unread()].concat();
            return Ok(Some(ResponseSeen::new(&parts, Bytes::new(), rest.into(), false)));
        }
    }
    Ok(None)
}

// === the stream ===

/// A stream in memory. What the peer sends comes piece by piece, with a pause between two, and then nothing, or the end.
pub(crate) struct Wire {
    pieces: VecDeque<Bytes>,
    pauses: bool,
    ends: bool,
    /// Nothing comes before something was written.
    asks: bool,
    written: Written,
}

type Written = Arc<Mutex<Vec<u8>>>;

impl Wire {
    fn new(pieces: &[&[u8]]) -> (Self, Written) {
        let pieces = pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| Bytes::copy_from_slice(piece));
        let written = Written::default();
        let wire =
            Self { pieces: pieces.collect(), pauses: false, ends: false, asks: false, written: Arc::clone(&written) };
        (wire, written)
    }

    /// What hyper has not read.
    fn unread(&self) -> Vec<u8> {
        self.pieces.iter().flatten().copied().collect()
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<Result<(), io::Error>> {
        if self.asks && lock(&self.written).is_empty() || std::mem::take(&mut self.pauses) {
            return Poll::Pending;
        }
        let Some(piece) = self.pieces.front_mut() else {
            return if self.ends { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let fits = piece.len().min(buf.remaining());
        buf.put_slice(&piece.split_to(fits));
        if piece.is_empty() {
            self.pieces.pop_front();
            self.pauses = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize, io::Error>> {
        lock(&self.written).extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }
}

/// Time that does not pass.
struct NoTimer;
struct NoSleep;

impl Timer for NoTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(NoSleep)
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(NoSleep)
    }
}

impl Sleep for NoSleep {}

impl Future for NoSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
