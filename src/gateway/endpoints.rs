//! The requests under the prefix: each endpoint checks what it was given and hands it to a transport.
//!
//! Enters: a request that passed origin and method. Leaves: a response, or a fault. Must not touch: statuses of errors,
//! how sessions are carried.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, request};
use http_body::Body as _;

use super::error::{Refusal, refuse};
use super::route::{self, Ours, Verb};
use super::{Gateway, Live, forwarded};
use crate::client;
use crate::codec::batch::Form;
use crate::codec::progress;
use crate::codec::request::{OpenRequest, PollRequest, check_nonce, check_protocol_list, decode_close};
use crate::codec::sse::{parse_id, parse_number};
use crate::http::body::Body;
use crate::http::body::answer;
use crate::http::incoming::Sent;
use crate::http::source::Source;
use crate::listener::handler::Asking;
use crate::listener::peer::Peer;
use crate::registry::{Found, LiveSession, Opening, Reader};
use crate::session::Attach;
use crate::terms::{Resume, Transport};
use crate::transport::greeting::{self, Arrival};
use crate::transport::query::Query;
use crate::transport::sse::IdForm;
use crate::transport::stream::OCTET_STREAM;
use crate::transport::{Fault, multi, poll, send, sse, stream, ws};
use crate::upstream::dial::fresh_key;
use crate::upstream::headers::{self, wants_upgrade};

/// The largest body of `open` and `close`, in bytes: a nonce and 32 names, or a code and a reason.
const SMALL_BODY: usize = 8 * 1024;
/// The largest body of `poll`, in bytes: the most sessions, with their tokens and cursors.
const POLL_BODY: usize = 64 * 1024;
const JSON: &str = "application/json";
/// An event id that a browser sends back.
const LAST_EVENT_ID: &str = "last-event-id";

/// One request under the prefix.
pub(super) struct Call<'a> {
    pub(super) gateway: &'a Arc<Gateway>,
    pub(super) live: &'a Live,
    pub(super) peer: &'a Peer,
}

impl Call<'_> {
    /// `POST open/{target}`.
    pub(super) async fn open(&self, request: Asking, target: &str) -> Result<Response<Body>, Fault> {
        let (head, body) = request.into_parts();
        let (query, ours) = route::split_query(head.uri.query());
        let body = self.small_body(body).await?;
        let mut asked = OpenRequest::decode(&body)?;
        if let Some(nonce) = ours.nonce {
            check_nonce(&nonce)?;
            asked.nonce = Some(nonce);
        }
        let cell = self.open_session(&head, target, query.as_deref(), asked, true).await?;
        Ok(answer(StatusCode::OK, JSON, greeting::of_session(&cell, &self.live.config.prefix)))
    }

    /// `GET sse/{target}`: resumes, or opens, and streams. What may pass is told to an `EventSource` with a 200.
    pub(super) async fn open_sse(&self, head: &request::Parts, target: &str) -> Result<Response<Body>, Refusal> {
        let refusal = match self.one_request(head, target).await {
            Ok(response) => return Ok(response),
            Err(Fault::SessionClosed(_)) => return Ok(no_content()),
            Err(fault) => refuse(fault).await,
        };
        if !refusal.is_passing() {
            return Err(refusal);
        }
        self.gateway.metrics.refused(refusal.code);
        tracing::warn!(code = refusal.code.as_str(), "one-request SSE is unavailable");
        Ok(sse::unavailable(&refusal.json()))
    }

    async fn one_request(&self, head: &request::Parts, target: &str) -> Result<Response<Body>, Fault> {
        let (query, ours) = route::split_query(head.uri.query());
        let mut arrival = Arrival::Known;
        if let Some((token, after)) = resume_id(&head.headers, &ours)? {
            match self.gateway.registry.find(&token) {
                Found::Here(cell) => return self.stream_bare(cell, Some(after), arrival),
                Found::Ended(close) => return Err(Fault::SessionClosed(close)),
                Found::Unknown => {
                    self.gateway.metrics.resumed(Resume::Unknown);
                    arrival = Arrival::Forgotten;
                }
            }
        }
        let cell = self.open_session(head, target, query.as_deref(), open_request(ours, arrival)?, false).await?;
        self.stream_bare(cell, None, arrival)
    }

    fn stream_bare(
        &self,
        cell: Arc<LiveSession>,
        after: Option<u64>,
        arrival: Arrival,
    ) -> Result<Response<Body>, Fault> {
        let attach = Attach { after, acknowledging: false, is_poll: false };
        let reader = cell.attach(Transport::Sse, attach, None)?;
        Ok(self.streaming(sse::respond(reader, IdForm::Token(cell), arrival, &self.live.config.prefix)))
    }

    async fn open_session(
        &self,
        head: &request::Parts,
        target: &str,
        query: Option<&str>,
        asked: OpenRequest,
        acknowledging: bool,
    ) -> Result<Arc<LiveSession>, Fault> {
        let bad = || Fault::BadRequest(format!("`{target}` is no target: it must be a path"));
        let target = route::target(target, query).ok_or_else(bad)?;
        let unrouted = || Fault::BadRequest(format!("no route leads to `{}` at this host", target.path()));
        let dialer = self.live.dialer(&self.peer.host, target.path()).ok_or_else(unrouted)?;
        let host = headers::host(head).unwrap_or_else(|| HeaderValue::from_static(""));
        let forwarded = forwarded(self.peer);
        let protocols = &asked.protocols;
        let handshake = headers::session_handshake(&head.headers, &target, protocols, &forwarded, &host, fresh_key());
        let origin = head.headers.get("origin").and_then(|origin| origin.to_str().ok()).map(str::to_owned);
        let opening = Opening {
            nonce: asked.nonce,
            handshake,
            protocols: asked.protocols,
            origin,
            acknowledging,
            client: self.peer.client.map(|client| client.to_string()).unwrap_or_else(|| "unix".into()),
            policy: Arc::clone(&self.live.session),
            backend: Arc::clone(&self.live.backend),
            dialer: Arc::clone(dialer),
        };
        Ok(self.gateway.registry.open(opening).await?)
    }

    /// A request on a session. `query` was parsed before, so that its nonce is echoed in errors too.
    pub(super) async fn session(
        &self,
        request: Asking,
        (token, verb): (&str, Verb),
        query: &Query<'_>,
    ) -> Result<Response<Body>, Fault> {
        let nonce = query.nonce()?;
        let found = self.gateway.registry.find(token);
        let cell = match (found, verb) {
            (Found::Here(cell), _) => cell,
            (Found::Ended(_), Verb::Attach(Transport::Sse)) => return Ok(no_content()),
            (Found::Ended(close), Verb::Close) => return Ok(told(send::closed(&close), nonce)),
            (Found::Ended(close), _) => return Err(Fault::SessionClosed(close)),
            (Found::Unknown, _) => return Err(Fault::UnknownSession),
        };
        match verb {
            Verb::Attach(Transport::Sse) => self.attach_sse(&cell, request.headers(), query),
            Verb::Attach(Transport::Stream) => {
                let reader = self.attach(&cell, Transport::Stream, query.number("after")?, query)?;
                Ok(self.streaming(stream::respond(reader, &self.live.config.prefix)))
            }
            Verb::Attach(Transport::Poll) => self.poll(&cell, request.headers(), query, nonce),
            Verb::Attach(Transport::Ws) => self.attach_ws(&cell, &request, query),
            Verb::Send => Ok(told(self.send(&cell, request, query).await?, nonce)),
            Verb::Ack => Ok(told(send::ack(&cell, query.number("after")?)?, nonce)),
            Verb::Close => {
                let close = decode_close(&Box::pin(self.small_body(request.into_body())).await?)?;
                Ok(told(send::close(&cell, close), nonce))
            }
        }
    }

    fn attach(
        &self,
        cell: &Arc<LiveSession>,
        transport: Transport,
        after: Option<u64>,
        query: &Query<'_>,
    ) -> Result<Reader, Fault> {
        let attach = Attach { after, acknowledging: true, is_poll: transport == Transport::Poll };
        Ok(cell.attach(transport, attach, query.cause().as_deref())?)
    }

    fn attach_sse(
        &self,
        cell: &Arc<LiveSession>,
        headers: &HeaderMap,
        query: &Query<'_>,
    ) -> Result<Response<Body>, Fault> {
        // An EventSource repeats its URL for ever, so the header wins over an old `after`.
        let after = query.number("after")?.max(last_event_id(headers, cell));
        match self.attach(cell, Transport::Sse, after, query) {
            Ok(reader) => {
                Ok(self.streaming(sse::respond(reader, IdForm::Bare, Arrival::Known, &self.live.config.prefix)))
            }
            Err(Fault::SessionClosed(_)) => Ok(no_content()),
            Err(fault) => Err(fault),
        }
    }

    fn poll(
        &self,
        cell: &Arc<LiveSession>,
        headers: &HeaderMap,
        query: &Query<'_>,
        nonce: Option<&str>,
    ) -> Result<Response<Body>, Fault> {
        let policy = cell.policy();
        let wait = query.wait()?.unwrap_or(policy.wait).min(policy.wait_max);
        let frames = wants_frames(headers, query)?;
        let reader = self.attach(cell, Transport::Poll, query.number("after")?, query)?;
        Ok(poll::respond(reader, poll::PollOptions { wait, frames, nonce: nonce.map(str::to_owned) }))
    }

    /// `POST poll`: one answer for several sessions. A fault of one of them is its part of the answer.
    pub(super) async fn poll_many(&self, request: Asking, query: &Query<'_>) -> Result<Response<Body>, Fault> {
        let nonce = query.nonce()?.map(str::to_owned);
        let wait = query.wait()?.unwrap_or(self.live.session.wait).min(self.live.session.wait_max);
        let body = send::read_body(request.into_body(), POLL_BODY, self.live.config.client.body).await?;
        let mut members = Vec::new();
        for (token, after) in PollRequest::decode(&body)?.sessions {
            let part = match self.poll_one(&token, after, wait, query) {
                Ok(source) => multi::Part::Waiting(source),
                Err(fault) => multi::Part::Known(refuse(fault).await.json()),
            };
            members.push((token, part));
        }
        Ok(multi::respond(members, nonce))
    }

    fn poll_one(
        &self,
        token: &str,
        after: Option<u64>,
        wait: Duration,
        query: &Query<'_>,
    ) -> Result<Box<dyn Source + Send>, Fault> {
        match self.gateway.registry.find(token) {
            Found::Here(cell) => {
                let reader = self.attach(&cell, Transport::Poll, after, query)?;
                Ok(poll::source(reader, poll::PollOptions { wait, frames: false, nonce: None }))
            }
            Found::Ended(close) => Err(Fault::SessionClosed(close)),
            Found::Unknown => Err(Fault::UnknownSession),
        }
    }

    fn attach_ws(
        &self,
        cell: &Arc<LiveSession>,
        request: &Request<Sent>,
        query: &Query<'_>,
    ) -> Result<Response<Body>, Fault> {
        if !wants_upgrade(request.headers(), request.version()) {
            return Err(Fault::UpgradeLost);
        }
        if !request.body().is_end_stream() {
            return Err(Fault::BadRequest("a WebSocket handshake has no body".into()));
        }
        let handshake = ws::Handshake::check(request.headers())?;
        let reader = self.attach(cell, Transport::Ws, query.number("after")?, query)?;
        Ok(handshake.respond(reader, &self.live.config.prefix))
    }

    async fn send(&self, cell: &LiveSession, request: Asking, query: &Query<'_>) -> Result<BytesMut, Fault> {
        let (seq, after) = (query.seq()?, query.number("after")?);
        let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::to_str).transpose();
        let content_type = content_type.map_err(|_| Fault::BadRequest("`Content-Type` is not readable text".into()))?;
        let form = Form::from_request(content_type, query.text("as"))?;
        let limit = cell.policy().body;
        let body = send::read_body(request.into_body(), limit, self.live.config.client.body).await?;
        send::send(cell, send::Sending { form, seq, after }, body).await
    }

    /// `GET client.js` and its kin.
    pub(super) fn client(&self, head: &request::Parts, file: client::File) -> Response<Body> {
        client::respond(file, &head.method, &head.headers, head.uri.query()).map(Body::full)
    }

    /// `GET info`.
    pub(super) fn info(&self) -> Response<Body> {
        answer(StatusCode::OK, JSON, greeting::info(&self.live.session))
    }

    pub(super) async fn small_body(&self, body: Sent) -> Result<Bytes, Fault> {
        send::read_body(body, SMALL_BODY, self.live.config.client.body).await
    }

    fn streaming(&self, mut response: Response<Body>) -> Response<Body> {
        if self.live.session.identity {
            response.headers_mut().insert("content-encoding", HeaderValue::from_static("identity"));
        }
        response
    }
}

/// An answer that is a JSON object, with the request's nonce in it.
fn told(mut object: BytesMut, nonce: Option<&str>) -> Response<Body> {
    if let Some(nonce) = nonce {
        progress::echo(&mut object, nonce);
    }
    answer(StatusCode::OK, JSON, object)
}

/// Whether the poll's answer is to be frames: `as=` wins over `Accept`.
fn wants_frames(headers: &HeaderMap, query: &Query<'_>) -> Result<bool, Fault> {
    match query.text("as") {
        Some("frames") => Ok(true),
        Some("json") => Ok(false),
        Some(_) => Err(Fault::BadRequest("`as` must be `json` or `frames` for a poll".into())),
        None => Ok(headers.get(ACCEPT).is_some_and(|accept| accept.as_bytes() == OCTET_STREAM.as_bytes())),
    }
}

/// The cursor of a `Last-Event-ID` that is ours: a number, or the id of the one-request form for this session.
fn last_event_id(headers: &HeaderMap, cell: &LiveSession) -> Option<u64> {
    let id = headers.get(LAST_EVENT_ID)?.to_str().ok()?;
    parse_number(id).or_else(|| parse_id(id).filter(|(token, _)| cell.token().is(token)).map(|(_, number)| number))
}

/// The id to resume from, of several the highest. What is not in the form of our ids is not ours, save where we named
/// the parameter.
fn resume_id(headers: &HeaderMap, ours: &Ours) -> Result<Option<(String, u64)>, Fault> {
    if ours.after.as_ref().is_some_and(|id| parse_id(id).is_none()) {
        return Err(Fault::BadRequest("`underpass.after` must be the id of an event of this stream".into()));
    }
    let header = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let ids = [header, ours.after.as_deref(), ours.last_event_id.as_deref()];
    let highest = ids.into_iter().flatten().filter_map(parse_id).max_by_key(|(_, number)| *number);
    Ok(highest.map(|(token, number)| (token.to_owned(), number)))
}

/// What the one-request form says of the session it opens. Coming back to a session that is forgotten, a nonce would
/// only lead to what it opened before.
fn open_request(ours: Ours, arrival: Arrival) -> Result<OpenRequest, Fault> {
    let nonce = ours.nonce.filter(|_| arrival == Arrival::Known);
    if let Some(nonce) = &nonce {
        check_nonce(nonce)?;
    }
    let protocols = ours.protocols.map(|list| check_protocol_list(&list)).transpose()?.unwrap_or_default();
    Ok(OpenRequest { nonce, protocols })
}

/// The answer that stops an `EventSource`.
fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
