//! From what happened to what a client is told: the only file that picks statuses (PROTOCOL 3.3).
//!
//! Enters: faults of all rooms. Leaves: responses with a code, a status and words. Must not touch: how a fault arose.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use crate::http::body::{Body, response};
use crate::http::timely::TooSlow;
use crate::registry::OpenError;
use crate::terms::{ErrorCode, Limit};
use crate::transport::Fault;
use crate::transport::fault::limited;
use crate::upstream::dial::DialError;
use crate::upstream::headers::acted_on;
use crate::upstream::proxy::ProxyError;

/// What is kept of the body with which a backend refuses, in bytes.
const REFUSAL_BODY: usize = 4096;
/// How long such a body is waited for; it is only an explanation.
const REFUSAL_WAIT: Duration = Duration::from_secs(2);
/// When to try again, in seconds, what was refused because there was no room.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// The same of what the next process will do.
const AT_ONCE: HeaderValue = HeaderValue::from_static("0");

/// What clients are told of a backend that is too slow; which it is, the log says.
const TOO_SLOW: &str = "the backend did not answer in time: this server's log says more";

/// An error response, before it is written.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Why, in one word.
    pub(super) code: ErrorCode,
    /// The status; also in the body, because boxes replace error pages.
    pub(super) status: StatusCode,
    message: String,
    /// What the log says instead: it may name the backend, which is nobody's affair outside.
    logged: Option<String>,
    /// Fields that a client acts on, beside `error`.
    fields: Map<String, Value>,
    /// The backend's answer, within `error`.
    backend: Option<Value>,
    headers: HeaderMap,
    /// Whose request it was, for the log.
    asked: Option<Box<Asked>>,
}

/// Who asked, and for what, as the log tells it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) client: String,
    pub(super) host: String,
    /// Without a query; `None` where it may hold a token.
    pub(super) path: Option<String>,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, status: StatusCode, message: impl Into<String>) -> Self {
        let (fields, headers) = (Map::new(), HeaderMap::new());
        Self { code, status, message: message.into(), logged: None, fields, backend: None, headers, asked: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn origin_refused(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::OriginRefused, StatusCode::FORBIDDEN, message)
    }

    /// The standard's status for it (RFC 9110 section 15.5.20).
    pub(super) fn host_refused(host: &str) -> Self {
        let shown: String = host.chars().take(100).collect();
        let message = format!("the host `{shown}` is not served here: `hosts` in the configuration has those that are");
        Self::new(ErrorCode::HostRefused, StatusCode::MISDIRECTED_REQUEST, message)
    }

    pub(super) fn limited(limit: Limit, after: Duration) -> Self {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        Self::new(ErrorCode::RateLimited, StatusCode::TOO_MANY_REQUESTS, limited(limit))
            .with(RETRY_AFTER, seconds.max(1).into())
    }

    /// Closes the connection: what has come on it, and what comes, is not waited for.
    pub(super) fn out_of_memory() -> Self {
        from_open(OpenError::OutOfMemory).closing()
    }

    pub(super) fn not_traced() -> Self {
        let message = "TRACE is not passed on: its answer would show a script the credentials of the request";
        let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        Self::new(ErrorCode::MethodNotAllowed, StatusCode::METHOD_NOT_ALLOWED, message).with(ALLOW, allow)
    }

    pub(super) fn disguised(prefix: &str) -> Self {
        Self::bad_request(format!("the path leads to `{prefix}` only when decoded or normalised: write it plainly"))
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(super) fn not_found(path: &str) -> Self {
        let shown: String = path.chars().take(100).collect();
        Self::new(ErrorCode::NotFound, StatusCode::NOT_FOUND, format!("no route leads to `{shown}` at this host"))
    }

    /// A parameter of ours, and nothing that says what is wanted.
    pub(super) fn unclear() -> Self {
        let what =
            "parameters named `underpass` or `underpass.…` are this server's own, and they do not say what is wanted";
        Self::bad_request(format!("{what}: give `underpass=open` or `underpass=sse` once"))
    }

    /// Names no path: under the prefix it may hold a token, and this is logged.
    pub(super) fn no_endpoint() -> Self {
        let message = "there is no such path under this prefix: `info` there tells what this server can do";
        Self::new(ErrorCode::NotFound, StatusCode::NOT_FOUND, message)
    }

    pub(super) fn method_not_allowed(allowed: &'static str) -> Self {
        let message = format!("this path takes {allowed} only");
        Self::new(ErrorCode::MethodNotAllowed, StatusCode::METHOD_NOT_ALLOWED, message)
            .with(ALLOW, HeaderValue::from_static(allowed))
    }

    /// The words, fit for the log: they hold neither tokens nor what a backend said.
    pub(super) fn message(&self) -> &str {
        self.logged.as_deref().unwrap_or(&self.message)
    }

    /// Logs it, with who asked.
    pub(super) fn log(&self) {
        let (code, what) = (self.code.as_str(), self.message());
        let asked = self.asked.as_deref();
        let (client, host) = (asked.map(|asked| asked.client.as_str()), asked.map(|asked| asked.host.as_str()));
        let path = asked.and_then(|asked| asked.path.as_deref());
        if self.status.is_server_error() {
            tracing::warn!(code, what, client, host, path, "request refused");
        } else {
            tracing::debug!(code, what, client, host, path, "request refused");
        }
    }

    /// Keeps who asked, where it will be logged.
    pub(super) fn asked_by(mut self, asked: impl FnOnce() -> Asked) -> Self {
        if self.status.is_server_error() || tracing::enabled!(tracing::Level::DEBUG) {
            self.asked = Some(Box::new(asked()));
        }
        self
    }

    /// True when trying again later may help: what a bare `EventSource` is told with a 200 (PROTOCOL 3.2).
    pub(super) fn is_passing(&self) -> bool {
        self.status.is_server_error() || self.code == ErrorCode::RateLimited
    }

    /// Echoes a request's nonce.
    pub(super) fn echo(mut self, nonce: Option<&str>) -> Self {
        if let Some(nonce) = nonce {
            self.fields.insert("n".into(), nonce.into());
        }
        self
    }

    pub(super) fn json(&self) -> String {
        let mut error = json!({ "code": self.code.as_str(), "status": self.status.as_u16(), "message": self.message });
        if let Some(backend) = &self.backend {
            error["backend"] = backend.clone();
        }
        let mut whole = self.fields.clone();
        whole.insert("error".into(), error);
        Value::Object(whole).to_string()
    }

    pub(super) fn respond(self) -> Response<Body> {
        let mut response = response(self.status, "application/json", self.json() + "\n");
        response.headers_mut().extend(self.headers);
        response
    }

    /// The connection is closed behind it.
    pub(super) fn closing(self) -> Self {
        self.with(CONNECTION, HeaderValue::from_static("close"))
    }

    /// The fields of the response.
    pub(super) fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    fn logged(mut self, what: String) -> Self {
        self.logged = Some(what);
        self
    }

    fn later(self) -> Self {
        self.with(RETRY_AFTER, RETRY_SECONDS)
    }
}

impl From<ProxyError> for Refusal {
    fn from(error: ProxyError) -> Self {
        match error {
            ProxyError::Dial(error) => from_dial(error),
            ProxyError::Timeout { .. } => {
                Self::new(ErrorCode::BackendTimeout, StatusCode::GATEWAY_TIMEOUT, TOO_SLOW).logged(error.to_string())
            }
            ProxyError::Body { ref source } if too_slow(source).is_some() => {
                let slow = too_slow(source).map(ToString::to_string).unwrap_or_default();
                Self::new(ErrorCode::BadRequest, StatusCode::REQUEST_TIMEOUT, slow)
                    .with(CONNECTION, HeaderValue::from_static("close"))
            }
            ProxyError::Connect | ProxyError::Body { .. } => Self::bad_request(error.to_string()),
            ProxyError::Dropped { .. } | ProxyError::Switched { .. } => unreachable_backend(error.to_string()),
        }
    }
}

/// Why a body failed, if it did not come in time.
fn too_slow(error: &hyper::Error) -> Option<&TooSlow> {
    std::error::Error::source(error)?.downcast_ref()
}

/// The refusal for a fault. Reads the start of a refusing backend's body, which is why it waits.
pub(super) async fn refuse(fault: Fault) -> Refusal {
    let message = fault.to_string();
    let plain = |code, status| Refusal::new(code, status, message.clone());
    match fault {
        Fault::BadRequest(_) => plain(ErrorCode::BadRequest, StatusCode::BAD_REQUEST),
        Fault::BadCursor { sent } => plain(ErrorCode::BadCursor, StatusCode::BAD_REQUEST).field("sent", sent),
        Fault::StaleCursor { acked } => plain(ErrorCode::StaleCursor, StatusCode::CONFLICT).field("after", acked),
        Fault::Gap { next } => plain(ErrorCode::Gap, StatusCode::CONFLICT).field("next", next),
        Fault::Busy { next } => plain(ErrorCode::Busy, StatusCode::SERVICE_UNAVAILABLE).field("next", next).later(),
        Fault::SessionClosed(close) => plain(ErrorCode::SessionClosed, StatusCode::GONE).field("close", json!(close)),
        Fault::Moved(_) | Fault::Open(OpenError::Moved(_)) => {
            plain(ErrorCode::Draining, StatusCode::SERVICE_UNAVAILABLE).with(RETRY_AFTER, AT_ONCE)
        }
        Fault::Unrouted(path) => Refusal::not_found(&path),
        Fault::UnknownSession => plain(ErrorCode::UnknownSession, StatusCode::NOT_FOUND),
        Fault::TooLarge { limit, .. } => {
            plain(ErrorCode::TooLarge, StatusCode::PAYLOAD_TOO_LARGE).field("limit", limit)
        }
        Fault::Limited { limit, after } => Refusal::limited(limit, after),
        Fault::UpgradeLost => plain(ErrorCode::UpgradeLost, StatusCode::UPGRADE_REQUIRED)
            .with(UPGRADE, HeaderValue::from_static("websocket"))
            .with(CONNECTION, HeaderValue::from_static("Upgrade")),
        Fault::Open(OpenError::Dial(DialError::Refused { head, body })) => refused_by_backend(*head, body).await,
        Fault::Open(error) => from_open(error),
    }
}

fn from_open(error: OpenError) -> Refusal {
    let message = error.to_string();
    match error {
        OpenError::Full { .. } | OpenError::OutOfMemory => {
            Refusal::new(ErrorCode::Overloaded, StatusCode::SERVICE_UNAVAILABLE, message).later()
        }
        OpenError::Draining | OpenError::Moved(_) => {
            Refusal::new(ErrorCode::Draining, StatusCode::SERVICE_UNAVAILABLE, message).later()
        }
        OpenError::NonceReused => Refusal::new(ErrorCode::NonceReused, StatusCode::CONFLICT, message),
        OpenError::Randomness(_) => {
            Refusal::new(ErrorCode::Overloaded, StatusCode::SERVICE_UNAVAILABLE, message).later()
        }
        OpenError::Dial(error) => from_dial(error),
    }
}

/// The refusal for a backend that was not reached or gave no valid answer.
pub(super) fn from_dial(error: DialError) -> Refusal {
    let logged = error.to_string();
    match error {
        DialError::ConnectTimeout { .. } | DialError::HandshakeTimeout { .. } => {
            Refusal::new(ErrorCode::BackendTimeout, StatusCode::GATEWAY_TIMEOUT, TOO_SLOW).logged(logged)
        }
        DialError::Loop { .. } => {
            let message = "the backend of this path is this server itself: its log says more";
            Refusal::new(ErrorCode::LoopDetected, StatusCode::LOOP_DETECTED, message).logged(logged)
        }
        DialError::Crowded { .. } | DialError::PortsExhausted { .. } | DialError::FilesExhausted { .. } => {
            let message = "this server has no room for another connection to the backend: try again later";
            Refusal::new(ErrorCode::Overloaded, StatusCode::SERVICE_UNAVAILABLE, message).logged(logged).later()
        }
        _ => unreachable_backend(logged),
    }
}

fn unreachable_backend(logged: String) -> Refusal {
    let message = "the backend cannot be reached, or gave no valid answer: this server's log says why";
    Refusal::new(ErrorCode::BackendUnreachable, StatusCode::BAD_GATEWAY, message).logged(logged)
}

/// The backend answered, but not 101: a 4xx and a 503 are passed on, everything else is a bad gateway. Its fields on which
/// browsers act go with it, as they would have with the handshake. A challenge goes into the body only: in the header it
/// would open the browser's password dialog, which no WebSocket does.
async fn refused_by_backend(head: response::Parts, body: Incoming) -> Refusal {
    let theirs = head.status;
    let status = match theirs {
        status if status.is_client_error() => status,
        StatusCode::SERVICE_UNAVAILABLE => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_GATEWAY,
    };
    let message = format!("the backend answered the WebSocket handshake with {theirs}: see `backend`");
    let mut refusal = Refusal::new(ErrorCode::BackendRefused, status, message);
    let mut backend = json!({ "status": theirs.as_u16() });
    if explains(&head) {
        backend["body"] = String::from_utf8_lossy(&start_of(body).await).into();
    }
    let challenges = head.headers.get_all(WWW_AUTHENTICATE).iter();
    let challenges: Vec<_> = challenges.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    if !challenges.is_empty() {
        backend["challenges"] = json!(challenges);
    }
    refusal.backend = Some(backend);
    refusal.headers = acted_on(&head.headers);
    refusal
}

/// Whether the body is about the handshake that was refused. A page is not, whatever it shows: the client asked for a
/// WebSocket, and who may not read the page must not get it this way.
fn explains(head: &response::Parts) -> bool {
    let kind = head.headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes().to_ascii_lowercase()).unwrap_or_default();
    let is_page = [b"text/html".as_slice(), b"application/xhtml+xml"].iter().any(|page| kind.starts_with(page));
    (head.status.is_client_error() || head.status.is_server_error())
        && !is_page
        && !head.headers.contains_key(CONTENT_ENCODING)
}

/// The first bytes of a body, as many as come in time.
async fn start_of(mut body: Incoming) -> Bytes {
    let until = Instant::now() + REFUSAL_WAIT;
    let mut start = Vec::new();
    while start.len() < REFUSAL_BODY {
        let Ok(Some(Ok(frame))) = timeout_at(until, body.frame()).await else { break };
        if let Ok(data) = frame.into_data() {
            start.extend_from_slice(&data[..data.len().min(REFUSAL_BODY - start.len())]);
        }
    }
    start.into()
}
