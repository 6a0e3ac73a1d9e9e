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
//! each target. A kept connection may end just as a request is written to it. The request is then made once more, on a new
//! connection: when no byte of it was written, or when it is safe, has no body, and no byte of a response has come.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, request};
use http_body::Body;
use http_body_util::Either;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::config::Backend;
use crate::http::as_written::{AsWritten, NamesKeptByHyper, stand_in};
use crate::http::incoming::{BoxError, IncomingBody};
use crate::http::read_response::read_short;
use crate::http::replay::Replay;
use crate::http::write_head::{origin_form, request_head};
use crate::upstream::dial::{DialError, Dialer};
use crate::upstream::headers::{self, Forwarded};
use crate::upstream::http1_exchange::{HeadLimits, connect_hyper, exchange};
use crate::upstream::io::Io;
use crate::upstream::login;
use crate::upstream::pace::{Pace, outgoing, stalled};
use crate::upstream::pool::{Carrier, Connection, Outgoing, Pool, Sender};
use crate::upstream::private::PrivatePlace;

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

/// In the extensions of a response: the request was made a second time, because the connection that it was first written to
/// had just ended.
#[derive(Clone, Copy, Debug)]
pub struct Repeated;

/// Why an exchange has no response.
enum ExchangeError {
    /// The connection was kept from before and has ended without a byte of a response, and the request, which is here again,
    /// may be made on another one. True when it was written.
    Again(Box<Request<Outgoing>>, bool),
    /// The request may have had an effect, or there is no backend.
    Final(ProxyError),
}

impl From<ProxyError> for ExchangeError {
    fn from(error: ProxyError) -> Self {
        Self::Final(error)
    }
}

impl Proxy {
    /// A proxy to the backend that `dialer` reaches.
    #[must_use]
    pub fn new(dialer: Arc<Dialer>, backend: &Backend) -> Self {
        Self { dialer, pool: Pool::new(backend), response: backend.response, limits: backend.into() }
    }

    /// Sends a request on and returns the response as soon as its head is there; the bodies follow as they come.
    /// The deadline runs while the backend holds us up, and not while the client's body is waited for.
    ///
    /// A connection over which a login of the connection was spoken goes to `private`, and is taken from there. With
    /// `None` it is closed: nobody may have it.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub async fn forward<B>(
        &self,
        request: Request<B>,
        forwarded: &Forwarded<'_>,
        private: Option<&dyn PrivatePlace>,
    ) -> Result<Response<IncomingBody>, ProxyError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let mut head = self.head(parts, forwarded)?;
        frame(&mut head.headers, &body);
        let (body, pace) = outgoing(body);
        let mut response = self.exchange(Request::from_parts(head, body), pace.as_deref(), private).await?;
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
        let written = parts.extensions.get::<AsWritten>().and_then(AsWritten::target);
        parts.uri = written.and_then(stand_in).unwrap_or_else(|| Uri::from(origin_form(&parts.uri)));
        parts.version = Version::HTTP_11;
        Ok(parts)
    }

    async fn exchange(
        &self,
        mut request: Request<Outgoing>,
        pace: Option<&Pace>,
        private: Option<&dyn PrivatePlace>,
    ) -> Result<Response<IncomingBody>, ProxyError> {
        let address = self.dialer.address();
        let mut is_login = login::speaks(request.headers());
        let mut kept = match private {
            Some(private) => private.take(address).await,
            None => None,
        };
        is_login |= kept.is_some();
        kept = kept.or_else(|| self.pool.take(is_short_exchange(&request)));
        let mut repeated = false;
        loop {
            // Nothing is tried on a third connection.
            let (connection, is_kept) = match kept.take() {
                Some(connection) => (connection, true),
                None => (Connection::new(self.dialer.connect().await?), false),
            };
            let (mut response, connection) = match self.attempt(connection, is_kept, request, pace).await {
                Ok(exchanged) => exchanged,
                Err(ExchangeError::Final(error)) => return Err(error),
                Err(ExchangeError::Again(back, written)) => {
                    request = *back;
                    repeated |= written;
                    continue;
                }
            };
            match private {
                _ if !is_login && !login::asks(response.status(), response.headers()) => {
                    self.pool.give_back(connection)
                }
                Some(private) => private.keep(address, connection),
                None => drop(connection),
            }
            if repeated {
                response.extensions_mut().insert(Repeated);
            }
            return Ok(response);
        }
    }

    /// One exchange, and the connection that can be used again once it has ended.
    async fn attempt(
        &self,
        connection: Connection,
        is_kept: bool,
        request: Request<Outgoing>,
        pace: Option<&Pace>,
    ) -> Result<(Response<IncomingBody>, Connection), ExchangeError> {
        let Connection { carrier, since } = connection;
        let sender = match carrier {
            Carrier::Hyper(sender) => sender,
            Carrier::Bare(io) if is_short_exchange(&request) && !matches!(io, Io::Tls(_)) => {
                let exchanged = timeout(self.response, exchange(io, request_head(&request), read_short)).await;
                match exchanged.map_err(|_| self.too_late())? {
                    Ok((io, response)) => {
                        return Ok((
                            response.map(IncomingBody::Buffered),
                            Connection { carrier: Carrier::Bare(io), since },
                        ));
                    }
                    Err(replay) if is_kept && replay.is_fresh() => {
                        return Err(ExchangeError::Again(Box::new(request), true));
                    }
                    Err(replay) => self.hand_to_hyper(replay).await?,
                }
            }
            Carrier::Bare(io) => self.hand_to_hyper(Replay::new(io)).await?,
        };
        let (response, sender) = self.attempt_by_hyper(sender, is_kept, request, pace).await?;
        Ok((response.map(IncomingBody::Streaming), Connection { carrier: Carrier::Hyper(sender), since }))
    }

    async fn attempt_by_hyper(
        &self,
        mut sender: Sender,
        is_kept: bool,
        request: Request<Outgoing>,
        pace: Option<&Pace>,
    ) -> Result<(Response<Incoming>, Sender), ExchangeError> {
        let is_hypers = request.extensions().get::<NamesKeptByHyper>().is_some();
        sender.record.begin(if is_hypers { Bytes::new() } else { request_head(&request) });
        let again = if is_kept { repeatable(&request) } else { None };
        let response = tokio::select! {
            biased;
            response = sender.requests.try_send_request(request) => response,
            () = stalled(pace, self.response) => return Err(self.too_late().into()),
        };
        match response {
            Ok(mut response) => {
                if let Some(written) = sender.record.take_written() {
                    response.extensions_mut().insert(written);
                }
                Ok((response, sender))
            }
            Err(mut failed) => Err(match (failed.take_message(), again) {
                (Some(request), _) if is_kept => ExchangeError::Again(Box::new(request), false),
                (None, Some(again)) if !sender.record.is_answered() => ExchangeError::Again(Box::new(again), true),
                _ => self.failed(failed.into_error()).into(),
            }),
        }
    }

    async fn hand_to_hyper(&self, io: Replay<Io>) -> Result<Sender, ProxyError> {
        connect_hyper(io, self.limits).await.map_err(|source| self.dropped(source))
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

/// Whether the request is all head, its names are not hyper's to write, and the framing of its response does not depend on
/// more than the response's head.
fn is_short_exchange(request: &Request<Outgoing>) -> bool {
    *request.method() == Method::GET
        && matches!(request.body(), Either::Left(_))
        && !request.headers().contains_key(TE)
        && request.extensions().get::<NamesKeptByHyper>().is_none()
}

/// The same request once more, if it may be made twice although nobody knows what became of the first: it is safe, and has
/// no body (RFC 9110 sections 9.2.1 and 9.2.2, RFC 9112 section 9.3.1).
fn repeatable(request: &Request<Outgoing>) -> Option<Request<Outgoing>> {
    let Either::Left(body) = request.body() else { return None };
    let mut again = Request::new(Either::Left(*body));
    *again.method_mut() = request.method().is_safe().then(|| request.method().clone())?;
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    *again.extensions_mut() = request.extensions().clone();
    Some(again)
}

/// Says how the body is framed: by the length that it is known to have, not by what a field says, for a backend that got
/// both could believe the wrong one (request smuggling); else in chunks.
fn frame<B: Body>(headers: &mut HeaderMap, body: &B) {
    let said = headers.remove(CONTENT_LENGTH).is_some();
    match body.size_hint().exact() {
        Some(length) if said || !body.is_end_stream() => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        None if !body.is_end_stream() => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        _ => {}
    }
}
