//! Opening a session: `open`, and the one-request form that opens and streams.
//!
//! Enters: a request for a target. Leaves: a response, or a fault. Must not touch: statuses of errors, how sessions are
//! carried.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode, request};

use super::endpoints::{Call, JSON, LAST_EVENT_ID, no_content};
use super::error::{Refusal, refuse};
use super::route::{self, Ours};
use super::{BoxRequest, forwarded};
use crate::codec::request::{OpenRequest, check_nonce, check_protocol_list};
use crate::codec::sse::parse_id;
use crate::http::body::{Body, response};
use crate::registry::{Cell, Opening};
use crate::session::Attach;
use crate::terms::{Resume, Transport};
use crate::transport::facts::{self, Arrival};
use crate::transport::sse::IdForm;
use crate::transport::{Fault, sse};
use crate::upstream::dial::fresh_key;
use crate::upstream::headers;

impl Call<'_> {
    /// `POST open/{target}`.
    pub(super) async fn open(&self, request: BoxRequest, target: &str) -> Result<Response<Body>, Fault> {
        let (head, body) = request.into_parts();
        let (query, ours) = route::split_query(head.uri.query());
        let body = self.small_body(body).await?;
        let mut asked = OpenRequest::decode(&body)?;
        if let Some(nonce) = ours.nonce {
            check_nonce(&nonce)?;
            asked.nonce = Some(nonce);
        }
        let cell = self.open_session(&head, target, query.as_deref(), asked, true).await?;
        Ok(response(StatusCode::OK, JSON, facts::of_session(&cell, &self.live.config.prefix)))
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
            match self.find(&token) {
                Ok(cell) => return self.stream_bare(cell, Some(after), arrival),
                Err(Fault::UnknownSession) => {
                    self.gateway.metrics.resumed(Resume::Unknown);
                    arrival = Arrival::Forgotten;
                }
                Err(fault) => return Err(fault),
            }
        }
        let cell = self.open_session(head, target, query.as_deref(), open_request(ours, arrival)?, false).await?;
        self.stream_bare(cell, None, arrival)
    }

    fn stream_bare(&self, cell: Arc<Cell>, after: Option<u64>, arrival: Arrival) -> Result<Response<Body>, Fault> {
        let attach = Attach { after, acknowledging: false, holds: false };
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
    ) -> Result<Arc<Cell>, Fault> {
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
