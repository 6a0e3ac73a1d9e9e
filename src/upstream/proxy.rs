//! Plain HTTP to the backend: one exchange, streamed both ways.
//!
//! Enters: any request outside our prefix that is no upgrade. Leaves: the backend's response, or a [`ProxyError`] for
//! the gateway's 502 and 504. Must not touch: where to dial (a target's scheme and authority only become `Host`),
//! bodies (never collected, never cut to look whole), sessions.
//!
//! A short GET whose response is short as well is exchanged on a bare connection (`http1_exchange`). For the rest hyper
//! decides:
//! - `Expect: 100-continue` ends here: hyper's server says 100 to the client when the body is first asked for, that is
//!   once the backend is connected, and the backend gets the body as it comes.
//! - Informational responses (103 …) end here as well: hyper's client passes none on, and its server cannot send any but
//!   100 and 101.
//! - A body that fails is never ended: towards the backend the connection is cut, towards the client the body yields an
//!   error, and the writer of the response cuts its connection or resets its stream.
//! - Trailers go on where both sides can carry them: chunked, announced by `Trailer`, and wished for by `TE`.
//!
//! The pool is our own because hyper-util's legacy client dials in the background and needs a scheme and authority in
//! each target. A request is repeated only when hyper hands it back untouched: no byte of it was written.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, request};
use http_body::Body;
use http_body_util::Either;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::config::Backend;
use crate::http::incoming::BoxError;
use crate::http::incoming::IncomingBody;
use crate::http::read_response::read_short;
use crate::http::replay::Replay;
use crate::http::write_head::{origin_form, request_head};
use crate::upstream::dial::{DialError, Dialer};
use crate::upstream::headers::{self, Forwarded};
use crate::upstream::http1_exchange::{HeadLimits, connect_hyper, exchange};
use crate::upstream::io::Io;
use crate::upstream::pace::{Pace, outgoing, stalled};
use crate::upstream::pool::{Connection, Outgoing, Pool, Sender};

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No connection. Nothing was sent.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The method was CONNECT: we are no forward proxy. Nothing was sent.
    #[error("CONNECT asks for a tunnel to an address of the client's choice, which is not served")]
    Connect,
    /// The backend neither took the body nor answered for that long.
    #[error("the backend at {address} did not answer within {after:?}; it is slow or stuck, or needs more time")]
    Timeout {
        /// Where.
        address: Arc<str>,
        /// How long it was waited.
        after: Duration,
    },
    /// The backend closed the connection, or answered something that is no HTTP, before the head of a response.
    #[error("the backend at {address} dropped the request: {source}; look into the backend's log for this moment")]
    Dropped {
        /// Where.
        address: Arc<str>,
        /// What hyper saw.
        source: hyper::Error,
    },
    /// The request's body ended early or failed: the client's doing. The backend's connection was cut.
    #[error("the request's body failed before its end: {source}")]
    Body {
        /// What hyper saw.
        source: hyper::Error,
    },
    /// A 101 to a request that asked for none.
    #[error("the backend at {address} switched protocols unasked; check what answers at this address")]
    Switched {
        /// Where.
        address: Arc<str>,
    },
}

/// Plain HTTP towards one backend, with a pool of idle connections.
pub struct Proxy {
    dialer: Arc<Dialer>,
    pool: Arc<Pool>,
    response: Duration,
    limits: HeadLimits,
}

/// Why an exchange has no response.
enum ExchangeError {
    /// Nothing of the request was written; it can be sent on another connection.
    Unsent(Box<Request<Outgoing>>, hyper::Error),
    /// The request may have had an effect.
    Final(ProxyError),
}

impl Proxy {
    /// A proxy to the backend that `dialer` reaches.
    #[must_use]
    pub fn new(dialer: Arc<Dialer>, backend: &Backend) -> Self {
        let pool = Pool::new(backend.pool, backend.idle);
        Self { dialer, pool, response: backend.response, limits: backend.into() }
    }

    /// Sends a request on and returns the response as soon as its head is there; the bodies follow as they come.
    /// The deadline runs while the backend holds us up, and not while the client's body is waited for.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub async fn forward<B>(
        &self,
        request: Request<B>,
        forwarded: &Forwarded<'_>,
    ) -> Result<Response<IncomingBody>, ProxyError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let mut head = self.head(parts, forwarded)?;
        reconcile_length(&mut head.headers, body.size_hint().exact());
        let (body, pace) = outgoing(body);
        let mut response = self.exchange(Request::from_parts(head, body), pace.as_deref()).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(ProxyError::Switched { address: self.dialer.address().clone() });
        }
        headers::end_to_end(response.headers_mut());
        if response.body().size_hint().exact().is_none() {
            // Chunked or until the close. With a known length hyper has checked the field; an answer to HEAD keeps its.
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        // The backend's version is its own affair; ours is settled between hyper's server and the client.
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    /// How many live connections lie idle in the pool.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.pool.idle()
    }

    fn head(&self, mut parts: request::Parts, forwarded: &Forwarded<'_>) -> Result<request::Parts, ProxyError> {
        if parts.method == Method::CONNECT {
            return Err(ProxyError::Connect);
        }
        // Without an authority the one `Host` stays that is there.
        let host = parts.uri.authority().and_then(|_| headers::host(&parts));
        headers::outgoing(&mut parts.headers, forwarded, host);
        if !parts.headers.contains_key(HOST)
            && let Ok(own) = HeaderValue::from_str(self.dialer.authority())
        {
            parts.headers.insert(HOST, own);
        }
        parts.headers.remove(EXPECT);
        if parts.headers.contains_key(TE) {
            // RFC 9110 section 10.1.4: whoever sends TE names it in Connection.
            parts.headers.insert(CONNECTION, HeaderValue::from_static("TE"));
        }
        parts.uri = Uri::from(origin_form(&parts.uri));
        parts.version = Version::HTTP_11;
        parts.extensions = http::Extensions::new();
        Ok(parts)
    }

    async fn exchange(
        &self,
        mut request: Request<Outgoing>,
        pace: Option<&Pace>,
    ) -> Result<Response<IncomingBody>, ProxyError> {
        let short = is_short_exchange(&request);
        loop {
            let kept = self.pool.take(short);
            // Nothing is repeated on a second new connection, nor what was written.
            let mut last = kept.is_none();
            let connection = match kept {
                Some(connection) => connection,
                None => Connection::Bare(self.dialer.connect().await?),
            };
            let sender = match connection {
                Connection::Hyper(sender) => sender,
                Connection::Bare(io) if short && !matches!(io, Io::Tls(_)) => {
                    match self.exchange_short(io, request_head(&request)).await? {
                        Ok(response) => return Ok(response.map(IncomingBody::Buffered)),
                        Err(replay) => {
                            last = true;
                            self.hand_to_hyper(replay).await?
                        }
                    }
                }
                Connection::Bare(io) => self.hand_to_hyper(Replay::new(io)).await?,
            };
            match self.attempt(sender, request, pace).await {
                Ok(response) => return Ok(response.map(IncomingBody::Streaming)),
                Err(ExchangeError::Unsent(_, source)) if last => return Err(self.dropped(source)),
                Err(ExchangeError::Unsent(back, _)) => request = *back,
                Err(ExchangeError::Final(error)) => return Err(error),
            }
        }
    }

    /// Exchanges on a bare connection, which goes back to the pool, or on to hyper.
    async fn exchange_short(&self, io: Io, text: Vec<u8>) -> Result<Result<Response<Bytes>, Replay<Io>>, ProxyError> {
        let asked = timeout(self.response, exchange(io, text, read_short)).await.map_err(|_| self.too_late())?;
        Ok(asked.map(|(io, response)| {
            self.pool.keep(Connection::Bare(io));
            response
        }))
    }

    async fn attempt(
        &self,
        mut sender: Sender,
        request: Request<Outgoing>,
        pace: Option<&Pace>,
    ) -> Result<Response<Incoming>, ExchangeError> {
        let response = tokio::select! {
            biased;
            response = sender.try_send_request(request) => response,
            () = stalled(pace, self.response) => return Err(ExchangeError::Final(self.too_late())),
        };
        match response {
            Ok(response) => {
                self.pool.give_back(sender);
                Ok(response)
            }
            Err(mut failed) => Err(match failed.take_message() {
                Some(request) => ExchangeError::Unsent(Box::new(request), failed.into_error()),
                None => ExchangeError::Final(self.failed(failed.into_error())),
            }),
        }
    }

    async fn hand_to_hyper(&self, io: Replay<Io>) -> Result<Sender, ProxyError> {
        let (sender, connection) = connect_hyper(io, self.limits).await.map_err(|source| self.dropped(source))?;
        // Its errors reach the exchange they belong to; an idle connection that fails is simply no longer ready.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn failed(&self, source: hyper::Error) -> ProxyError {
        if source.is_user() { ProxyError::Body { source } } else { self.dropped(source) }
    }

    fn dropped(&self, source: hyper::Error) -> ProxyError {
        ProxyError::Dropped { address: self.dialer.address().clone(), source }
    }

    fn too_late(&self) -> ProxyError {
        ProxyError::Timeout { address: self.dialer.address().clone(), after: self.response }
    }
}

/// Whether the request is all head, and the framing of its response does not depend on more than the response's head.
fn is_short_exchange(request: &Request<Outgoing>) -> bool {
    *request.method() == Method::GET && matches!(request.body(), Either::Left(_)) && !request.headers().contains_key(TE)
}

/// Sends the length that the body is known to have, not what a field says: a backend that got both could believe the
/// wrong one (request smuggling).
fn reconcile_length(headers: &mut HeaderMap, length: Option<u64>) {
    let said = headers.remove(CONTENT_LENGTH).is_some();
    if let (true, Some(length)) = (said, length) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}
