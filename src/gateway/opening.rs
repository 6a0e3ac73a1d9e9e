//! Opening a session, at the path of its WebSocket: `open`, and the one-request form that opens and streams.
//!
//! Enters: a request for a target, with the marks of ours in its query. Leaves: a response, or a fault. Must not touch: statuses of errors, how sessions are
//! carried.

use std::sync::Arc;

use http::header::{Entry, ORIGIN};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, request};

use super::endpoints::{Call, JSON, LAST_EVENT_ID, no_content};
use super::error::{Refusal, refuse};
use super::request_log::OpenedSession;
use super::rewriting::Rewriting;
use super::target::{self, Ours, Target};
use super::{BoxRequest, forwarded, origin, patience};
use crate::codec::request::{OpenRequest, check_nonce, check_protocol_list};
use crate::codec::sse::parse_id;
use crate::http::as_written::AsWritten;
use crate::http::body::{Body, response};
use crate::limits::Limited;
use crate::listener::dialling::DialTurn;
use crate::registry::{LiveSession, OpenError, Opened, Opening, Stay};
use crate::session::Attach;
use crate::terms::{Resume, Transport};
use crate::transport::greeting::{self, Arrival};
use crate::transport::sse::IdForm;
use crate::transport::{Fault, send, sse};
use crate::upstream::dial::{DialError, fresh_key};
use crate::upstream::headers;

/// The largest body of `open`, in bytes: a nonce, and as many subprotocols as a header can carry, escaped.
const OPEN_BODY: usize = 64 * 1024;

impl Call<'_> {
    /// `POST …?underpass=open`.
    pub(super) async fn open(&self, request: BoxRequest) -> Result<Response<Body>, Fault> {
        let (head, body) = request.into_parts();
        let (target, ours) = target::split(&head);
        self.gateway.registry.check_memory()?;
        let body = send::read_body(body, OPEN_BODY, patience(&self.live.config.client), self.gateway.registry.budget())
            .await?;
        let mut asked = OpenRequest::decode(&body)?;
        if let Some(nonce) = ours.nonce {
            check_nonce(&nonce)?;
            asked.nonce = Some(nonce);
        }
        let Opened { session, fields } = self.open_session(&head, target, asked, true).await?;
        let url = self.url(&session, &head.uri);
        let mut response = response(StatusCode::OK, JSON, greeting::of_session(&session, &url) + "\n");
        response.headers_mut().extend(fields);
        self.name(&mut response, &session);
        Ok(response)
    }

    /// Tells the line of the request which session it opened.
    fn name(&self, response: &mut Response<Body>, session: &LiveSession) {
        if self.live.config.log.requests {
            response.extensions_mut().insert(OpenedSession(session.id().into()));
        }
    }

    /// `GET …?underpass=sse`: resumes, or opens, and streams. What may pass is told to an `EventSource` with a 200.
    pub(super) async fn open_sse(&self, head: &request::Parts) -> Result<Response<Body>, Refusal> {
        let refusal = match self.one_request(head).await {
            Ok(response) => return Ok(response),
            Err(Fault::SessionClosed(_)) => return Ok(no_content()),
            Err(Fault::Moved(_) | Fault::Open(OpenError::Moved(_))) => return Ok(sse::again()),
            Err(fault) => refuse(fault).await,
        };
        if !refusal.is_passing() {
            return Err(refusal);
        }
        self.gateway.metrics.refused(refusal.code);
        let (client, host, path) = (self.peer.client_text(), self.peer.host.as_str(), head.uri.path());
        let (code, what) = (refusal.code.as_str(), refusal.message());
        tracing::warn!(code, what, client, host, path, "one-request SSE is unavailable");
        Ok(sse::unavailable(&refusal.json()))
    }

    async fn one_request(&self, head: &request::Parts) -> Result<Response<Body>, Fault> {
        let (target, ours) = target::split(head);
        let mut arrival = Arrival::Known;
        if let Some((token, after)) = resume_id(&head.headers, &ours)? {
            match self.find(&token).await {
                Ok(session) => return self.stream_bare(session, &head.uri, Some(after), arrival),
                Err(Fault::UnknownSession) => {
                    self.gateway.metrics.resumed(Resume::Unknown);
                    arrival = Arrival::Forgotten;
                }
                Err(fault) => return Err(fault),
            }
        }
        let Opened { session, fields } = self.open_session(head, target, open_request(ours, arrival)?, false).await?;
        let mut response = self.stream_bare(session, &head.uri, None, arrival)?;
        response.headers_mut().extend(fields);
        Ok(response)
    }

    fn stream_bare(
        &self,
        session: Arc<LiveSession>,
        requested: &Uri,
        after: Option<u64>,
        arrival: Arrival,
    ) -> Result<Response<Body>, Fault> {
        let attach = Attach { after, acknowledging: false, is_poll: false };
        let reader = session.attach(Transport::Sse, attach, Stay::Carries(None))?;
        let url = self.url(&session, requested);
        let mut response = self.streaming(sse::respond(reader, IdForm::Token(Arc::clone(&session)), arrival, &url));
        self.name(&mut response, &session);
        Ok(response)
    }

    async fn open_session(
        &self,
        head: &request::Parts,
        target: Option<Target>,
        asked: OpenRequest,
        acknowledging: bool,
    ) -> Result<Opened, Fault> {
        self.check_weight(&asked.protocols)?;
        let bad = || Fault::BadRequest(format!("`{}` is no target: it must be a path", head.uri.path()));
        let Target { uri: target, written } = target.ok_or_else(bad)?;
        let unrouted = || Fault::Unrouted(target.path().to_owned());
        let (dialer, rewriting, route) = self.live.dialer(&self.peer.host, target.path()).ok_or_else(unrouted)?;
        let limited = |Limited { limit, after }| Fault::Limited { limit, after };
        let limits = &self.gateway.limits;
        limits.open(self.peer.client).map_err(limited)?;
        let place = limits.session(self.peer.client).map_err(limited)?;
        let handshaking = limits.handshake(self.peer.client).map_err(limited)?;
        let rewritten = rewriting.map(|rewriting| rewriting.target(&target)).transpose();
        let target = rewritten.map_err(|what| Fault::BadRequest(what.into()))?.unwrap_or(target);
        let host = rewriting.and_then(Rewriting::host).cloned().or_else(|| headers::host(head));
        let host = host.unwrap_or_else(|| HeaderValue::from_static(""));
        let forwarded = forwarded(self.gateway, self.peer, rewriting);
        let protocols = &asked.protocols;
        let mut handshake =
            headers::session_handshake(&head.headers, &target, protocols, &forwarded, &host, fresh_key());
        let as_written = head.extensions.get::<AsWritten>();
        if let Some(as_written) = as_written {
            let written = match (written, rewriting) {
                (Some(written), Some(rewriting)) => Some(rewriting.as_written(&written)),
                (written, _) => written,
            };
            handshake.extensions.insert(as_written.with_target(written));
        }
        if let Entry::Vacant(unsaid) = handshake.headers.entry(ORIGIN)
            && let Some(page) = origin::page(&head.headers, self.peer)
        {
            unsaid.insert(page);
        }
        if let Some(rewriting) = rewriting {
            rewriting.origin(&mut handshake.headers);
        }
        let opening = Opening {
            nonce: self.own_nonce(asked.nonce),
            handshake,
            protocols: asked.protocols,
            acknowledging,
            client: self.peer.client,
            route,
            policy: Arc::clone(&self.live.session),
            backend: Arc::clone(&self.live.backend),
            dialer: Arc::clone(dialer),
            place,
            handshaking,
            turn: head.extensions.get::<DialTurn>().map(|turn| Box::new(turn.take()) as Box<dyn Send + Sync>),
        };
        let mut opened = self.gateway.registry.open(opening).await;
        if let Some(rewriting) = rewriting {
            let host = host.to_str().unwrap_or_default();
            match &mut opened {
                Ok(opened) => rewriting.answer(&mut opened.fields, host, self.peer),
                Err(OpenError::Dial(DialError::Refused { head, .. })) => {
                    rewriting.answer(&mut head.headers, host, self.peer);
                }
                Err(_) => {}
            }
        }
        Ok(opened?)
    }

    /// A nonce belongs to the certificate that it came with, if any.
    fn own_nonce(&self, nonce: Option<String>) -> Option<String> {
        let certificate = self.peer.certificate.as_ref().and_then(|shown| shown.fingerprint.to_str().ok());
        Some(match certificate {
            Some(certificate) => format!("{} {certificate}", nonce?),
            None => nonce?,
        })
    }

    /// The subprotocols must fit into the header of a handshake, as we would take it from a browser: services carry
    /// credentials of some KiB in them.
    fn check_weight(&self, protocols: &[String]) -> Result<(), Fault> {
        let limit = self.live.config.client.header_bytes;
        let weight: usize = protocols.iter().map(|name| name.len() + ", ".len()).sum();
        if weight <= limit {
            return Ok(());
        }
        Err(Fault::TooLarge { what: "the list of `protocols`".into(), limit })
    }
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
