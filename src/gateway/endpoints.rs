//! The requests that are ours: each endpoint checks what it was given and hands it to a transport.
//!
//! Enters: a request that passed origin and method. Leaves: a response, or a fault. Must not touch: statuses of errors,
//! how sessions are carried.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, request};
use http_body::Body as _;

use super::error::{Refusal, refuse};
use super::origin::{self, Verdict};
use super::route::{Endpoint, Verb};
use super::target::relative;
use super::{BoxRequest, Gateway, Live, patience, protect};
use crate::client;
use crate::codec::batch::Form;
use crate::codec::progress;
use crate::codec::request::{PollRequest, decode_close};
use crate::codec::sse::{parse_id, parse_number};
use crate::http::body::{Body, response};
use crate::http::incoming::IncomingBody;
use crate::http::source::Source;
use crate::listener::peer::Peer;
use crate::registry::{Found, LiveSession, Moved, Reader, Stay};
use crate::session::Attach;
use crate::terms::Transport;
use crate::transport::greeting::{self, Arrival};
use crate::transport::query::Query;
use crate::transport::sse::IdForm;
use crate::transport::stream::OCTET_STREAM;
use crate::transport::{Fault, multi, poll, send, sse, stream, ws};
use crate::upstream::headers::wants_upgrade;

/// The largest body of `close`, in bytes: a code and a reason.
const SMALL_BODY: usize = 8 * 1024;
/// The largest body of `poll`, in bytes: the most sessions, with their tokens and cursors.
const POLL_BODY: usize = 64 * 1024;
pub(super) const JSON: &str = "application/json";
/// An event id that a browser sends back.
pub(super) const LAST_EVENT_ID: &str = "last-event-id";

/// One request that is ours.
pub(super) struct Call<'a> {
    pub(super) gateway: &'a Arc<Gateway>,
    pub(super) live: &'a Live,
    pub(super) peer: &'a Peer,
}

impl Call<'_> {
    /// Responds to a request that is ours: origin first, then the method, then the endpoint.
    pub(super) async fn respond(&self, request: BoxRequest, endpoint: &Endpoint) -> Result<Response<Body>, Refusal> {
        let origins = &self.live.config.origins;
        let verdict = match endpoint {
            Endpoint::Sse => origin::judge_opening_get(origins, request.headers(), &self.peer.host),
            _ => origin::judge(origins, request.headers(), &self.peer.host),
        };
        // The query of what opens a session is the target's.
        let target = request.uri().path_and_query().filter(|_| !endpoint.is_opening()).cloned();
        let query = Query::parse(target.as_ref().and_then(PathAndQuery::query));
        let responded = match &verdict {
            Verdict::Refused(why) if !endpoint.is_public() => Err(Refusal::origin_refused(why.clone())),
            Verdict::Own | Verdict::Allowed(_) if request.method() == Method::OPTIONS => {
                Ok(preflight(request.headers()))
            }
            _ if !endpoint.takes(request.method()) => Err(Refusal::method_not_allowed(endpoint.methods())),
            _ => self.dispatch(request, endpoint, &query).await,
        };
        match responded {
            Ok(mut response) => {
                protect(&mut response);
                origin::mark(origins, &verdict, response.headers_mut());
                Ok(response)
            }
            Err(refusal) => {
                let mut refusal = refusal.echo(query.nonce().ok().flatten());
                origin::mark(origins, &verdict, refusal.headers_mut());
                Err(refusal)
            }
        }
    }

    async fn dispatch(
        &self,
        request: BoxRequest,
        endpoint: &Endpoint,
        query: &Query<'_>,
    ) -> Result<Response<Body>, Refusal> {
        // Boxed where it takes long or is rare (see `Gateway::respond`).
        let responded = match endpoint {
            Endpoint::Open => Box::pin(self.open(request)).await,
            Endpoint::Sse => return Box::pin(self.open_sse(&request.into_parts().0)).await,
            Endpoint::Session { token, verb } => self.session(request, (token, *verb), query).await,
            Endpoint::Poll => Box::pin(self.poll_many(request, query)).await,
            Endpoint::Info => Ok(self.info()),
            Endpoint::Client(file) => Ok(self.client(&request.into_parts().0, *file)),
            Endpoint::Selftest(what) => Box::pin(self.selftest(request, *what)).await,
            Endpoint::Unclear => return Err(Refusal::unclear()),
            Endpoint::Unknown => return Err(Refusal::no_endpoint()),
        };
        match responded {
            Ok(response) => Ok(response),
            Err(fault) => Err(Box::pin(refuse(fault)).await),
        }
    }

    /// The session of this token.
    ///
    /// # Errors
    /// [`Fault::SessionClosed`] or [`Fault::UnknownSession`].
    pub(super) async fn find(&self, token: &str) -> Result<Arc<LiveSession>, Fault> {
        match self.gateway.registry.find_awaited(token).await {
            Found::Here(session) => Ok(session),
            Found::Ended(close) => Err(Fault::SessionClosed(close)),
            Found::Unknown => Err(Fault::UnknownSession),
            Found::Awaited | Found::Moved => Err(Moved.into()),
        }
    }

    /// A request on a session. `query` was parsed before, so that its nonce is echoed in errors too.
    pub(super) async fn session(
        &self,
        request: BoxRequest,
        (token, verb): (&str, Verb),
        query: &Query<'_>,
    ) -> Result<Response<Body>, Fault> {
        let nonce = query.nonce()?;
        let token = presented(token, verb, request.headers())?;
        let session = match (self.find(token).await, verb) {
            (Err(Fault::SessionClosed(_)), Verb::Attach(Transport::Sse)) => return Ok(no_content()),
            (Err(Fault::SessionClosed(close)), Verb::Close) => return Ok(json_response(send::closed(&close), nonce)),
            (found, _) => found?,
        };
        match verb {
            Verb::Attach(Transport::Sse) => self.attach_sse(&session, &request, query),
            Verb::Attach(Transport::Stream) => {
                let reader = self.attach(&session, Transport::Stream, query.number("after")?, query)?;
                Ok(self.streaming(stream::respond(reader, &self.url(&session, request.uri()))))
            }
            Verb::Attach(Transport::Poll) => self.poll(&session, request.headers(), query, nonce),
            Verb::Attach(Transport::Ws) => self.attach_ws(&session, &request, query),
            Verb::Send => Ok(json_response(self.send(&session, request, query).await?, nonce)),
            Verb::Ack => Ok(json_response(send::ack(&session, query.number("after")?)?, nonce)),
            Verb::Close => {
                let close = decode_close(&Box::pin(self.small_body(request.into_body())).await?)?;
                Ok(json_response(send::close(&session, close)?, nonce))
            }
        }
    }

    fn attach(
        &self,
        session: &Arc<LiveSession>,
        transport: Transport,
        after: Option<u64>,
        query: &Query<'_>,
    ) -> Result<Reader, Fault> {
        let attach = Attach { after, acknowledging: true, is_poll: transport == Transport::Poll };
        let cause = query.cause();
        let collects = transport == Transport::Poll && query.wait()?.is_some_and(|wait| wait.is_zero());
        let stay = if collects { Stay::Collects } else { Stay::Carries(cause.as_deref()) };
        Ok(session.attach(transport, attach, stay)?)
    }

    fn attach_sse(
        &self,
        session: &Arc<LiveSession>,
        request: &Request<IncomingBody>,
        query: &Query<'_>,
    ) -> Result<Response<Body>, Fault> {
        // An EventSource repeats its URL for ever, so the header wins over an old `after`.
        let after = query.number("after")?.max(last_event_id(request.headers(), session));
        match self.attach(session, Transport::Sse, after, query) {
            Ok(reader) => {
                let url = self.url(session, request.uri());
                Ok(self.streaming(sse::respond(reader, IdForm::Bare, Arrival::Known, &url)))
            }
            Err(Fault::SessionClosed(_)) => Ok(no_content()),
            Err(fault) => Err(fault),
        }
    }

    fn poll(
        &self,
        session: &Arc<LiveSession>,
        headers: &HeaderMap,
        query: &Query<'_>,
        nonce: Option<&str>,
    ) -> Result<Response<Body>, Fault> {
        let policy = session.policy();
        let wait = query.wait()?.unwrap_or(policy.wait).min(policy.wait_max);
        let frames = wants_frames(headers, query)?;
        let reader = self.attach(session, Transport::Poll, query.number("after")?, query)?;
        Ok(poll::respond(reader, poll::PollOptions { wait, frames, nonce: nonce.map(str::to_owned) }))
    }

    /// `POST poll`: one answer for several sessions. A fault of one of them is its part of the answer.
    pub(super) async fn poll_many(&self, request: BoxRequest, query: &Query<'_>) -> Result<Response<Body>, Fault> {
        let nonce = query.nonce()?.map(str::to_owned);
        let wait = query.wait()?.unwrap_or(self.live.session.wait).min(self.live.session.wait_max);
        let body = send::read_body(
            request.into_body(),
            POLL_BODY,
            patience(&self.live.config.client),
            self.gateway.registry.budget(),
        )
        .await?;
        let mut members = Vec::new();
        for (token, after) in PollRequest::decode(&body)?.sessions {
            let part = match self.poll_one(&token, after, wait, query).await {
                Ok(source) => multi::Part::Waiting(source),
                Err(fault) => multi::Part::Known(refuse(fault).await.json()),
            };
            members.push((token, part));
        }
        Ok(multi::respond(members, nonce))
    }

    async fn poll_one(
        &self,
        token: &str,
        after: Option<u64>,
        wait: Duration,
        query: &Query<'_>,
    ) -> Result<Box<dyn Source + Send>, Fault> {
        let reader = self.attach(&self.find(token).await?, Transport::Poll, after, query)?;
        Ok(poll::source(reader, poll::PollOptions { wait, frames: false, nonce: None }))
    }

    fn attach_ws(
        &self,
        session: &Arc<LiveSession>,
        request: &Request<IncomingBody>,
        query: &Query<'_>,
    ) -> Result<Response<Body>, Fault> {
        if !wants_upgrade(request.headers(), request.version()) {
            return Err(Fault::UpgradeLost);
        }
        if !request.body().is_end_stream() {
            return Err(Fault::BadRequest("a WebSocket handshake has no body".into()));
        }
        let handshake = ws::Handshake::check(request.headers())?;
        let reader = self.attach(session, Transport::Ws, query.number("after")?, query)?;
        Ok(handshake.respond(reader, &self.url(session, request.uri())))
    }

    async fn send(&self, session: &LiveSession, request: BoxRequest, query: &Query<'_>) -> Result<BytesMut, Fault> {
        let (seq, after) = (query.seq()?, query.number("after")?);
        let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::to_str).transpose();
        let content_type = content_type.map_err(|_| Fault::BadRequest("`Content-Type` is not readable text".into()))?;
        let form = Form::from_request(content_type, query.text("as"))?;
        let (sending, patience) = (send::Sending { form, seq, after }, patience(&self.live.config.client));
        send::send(session, sending, request.into_body(), patience).await
    }

    /// `GET client.js` and its kin.
    pub(super) fn client(&self, head: &request::Parts, file: client::File) -> Response<Body> {
        client::respond(file, &head.method, &head.headers, head.uri.query()).map(Body::full)
    }

    /// `GET info`.
    pub(super) fn info(&self) -> Response<Body> {
        response(StatusCode::OK, JSON, greeting::info(&self.live.session) + "\n")
    }

    pub(super) async fn small_body(&self, body: IncomingBody) -> Result<Bytes, Fault> {
        send::read_body(body, SMALL_BODY, patience(&self.live.config.client), self.gateway.registry.budget()).await
    }

    /// Where the endpoints of a session are, relative to what was requested.
    pub(super) fn url(&self, session: &LiveSession, requested: &Uri) -> String {
        relative(requested.path(), &format!("{}/s/{}", self.live.config.prefix, session.token().as_str()))
    }

    pub(super) fn streaming(&self, mut response: Response<Body>) -> Response<Body> {
        if self.live.session.identity {
            response.headers_mut().insert("content-encoding", HeaderValue::from_static("identity"));
        }
        response
    }
}

/// The token that a request presents: in its path, or in the handshake of a WebSocket whose path names the session only.
fn presented<'a>(path: &'a str, verb: Verb, headers: &'a HeaderMap) -> Result<&'a str, Fault> {
    match ws::offered_token(headers) {
        Some(token) if verb == Verb::Attach(Transport::Ws) && !token.starts_with(path) => {
            Err(Fault::BadRequest("the path names another session than the token that is offered".into()))
        }
        Some(token) if verb == Verb::Attach(Transport::Ws) => Ok(token),
        _ => Ok(path),
    }
}

/// A response that is a JSON object, with the request's nonce in it.
fn json_response(mut object: BytesMut, nonce: Option<&str>) -> Response<Body> {
    if let Some(nonce) = nonce {
        progress::echo(&mut object, nonce);
    }
    // For terminals, whose prompt would stick to it.
    object.extend_from_slice(b"\n");
    response(StatusCode::OK, JSON, object)
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
fn last_event_id(headers: &HeaderMap, session: &LiveSession) -> Option<u64> {
    let id = headers.get(LAST_EVENT_ID)?.to_str().ok()?;
    parse_number(id).or_else(|| parse_id(id).filter(|(token, _)| session.token().is(token)).map(|(_, number)| number))
}

fn preflight(request: &HeaderMap) -> Response<Body> {
    let mut response = no_content();
    origin::mark_preflight(request, response.headers_mut());
    response
}

/// The response that stops an `EventSource`.
pub(super) fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
