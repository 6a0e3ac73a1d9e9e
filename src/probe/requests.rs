//! Short requests: opening a session, sending, acknowledging, closing; and what the network changed in the responses.
//!
//! Enters: what to send. Leaves: responses, and notes about the network. Must not touch: how messages from the server are
//! received.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::connect::{ConnectError, Connection};
use super::findings::Findings;
use super::trial::Trial;

/// How long a short request may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long closing a session may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest response body that is read, in bytes.
const BODY: usize = 1024 * 1024;
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
/// The `Cache-Control` of all our responses.
const CACHE_CONTROL: &str = "no-store, no-transform";

/// A response with its whole body.
pub(super) struct JsonResponse {
    pub(super) status: u16,
    /// `None` when it is not JSON: then it comes from a box on the way.
    pub(super) body: Option<Value>,
    took: Duration,
}

impl JsonResponse {
    /// Why it is not the expected one.
    pub(super) fn blame(&self) -> String {
        match &self.body {
            Some(body) => format!("{} {}", self.status, body["error"]["code"].as_str().unwrap_or_default()),
            None => format!("{}, not this server's answer", self.status),
        }
    }
}

/// The requests of one session.
pub(super) struct SessionRequests<'a> {
    trial: &'a Trial,
    findings: &'a Findings,
    state: Mutex<State>,
    token: std::sync::OnceLock<String>,
}

struct State {
    connection: Option<Connection>,
    seq: u64,
}

impl<'a> SessionRequests<'a> {
    pub(super) fn new(trial: &'a Trial, findings: &'a Findings) -> Self {
        let state = State { connection: None, seq: 1 };
        Self { trial, findings, state: Mutex::new(state), token: std::sync::OnceLock::new() }
    }

    /// Opens the session, or records in the findings why it cannot.
    pub(super) async fn open(&self) -> bool {
        let mark = if self.trial.target.contains('?') { '&' } else { '?' };
        let path = format!("{}{mark}underpass=open", self.trial.target);
        let body = json!({ "nonce": nonce() }).to_string();
        let mut state = self.state.lock().await;
        let opened = self.post(&mut state.connection, &path, JSON, body).await;
        let failed = match opened {
            Ok(response) => {
                let token = response.body.as_ref().and_then(|body| body["session"]["token"].as_str());
                match token.filter(|_| response.status == 200) {
                    Some(token) => {
                        self.findings.start();
                        self.findings.with(|state| state.begun = Some(Instant::now()));
                        return self.token.set(token.to_owned()).is_ok();
                    }
                    None => response.blame(),
                }
            }
            Err(error) => error.to_string(),
        };
        self.findings.refused(format!("its session: {failed}"));
        false
    }

    /// The target of a request of this session.
    pub(super) fn target(&self, what: &str, more: &str) -> String {
        let (token, cursor) = (self.token.get().map_or("", String::as_str), self.findings.with(|state| state.cursor));
        format!("{}/s/{token}/{what}?after={cursor}{more}&n={}", self.trial.server.prefix, nonce())
    }

    /// Sends a message, as a form where JSON is refused. The second attempt has the same number, so the server accepts the message
    /// only once.
    pub(super) async fn send(&self, text: &str) {
        let mut state = self.state.lock().await;
        let json = json!({ "messages": [text] }).to_string();
        let form: String = form_urlencoded::Serializer::new(String::new()).append_pair("messages", &json).finish();
        for (kind, body) in [(JSON, &json), (FORM, &form)] {
            let path = self.target("send", &format!("&seq={}", state.seq));
            let response = self.post(&mut state.connection, &path, kind, body.clone()).await;
            if response.is_ok_and(|response| response.status == 200) {
                if kind == FORM {
                    self.trial.note("POST: JSON is refused on the way, forms pass");
                }
                state.seq += 1;
                return;
            }
        }
    }

    pub(super) async fn acknowledge(&self) {
        let mut state = self.state.lock().await;
        let path = self.target("ack", "");
        // Errors are recorded in the findings of POST.
        let _ = self.post(&mut state.connection, &path, JSON, String::new()).await;
    }

    pub(super) async fn close(&self) {
        let path = self.target("close", "");
        let mut state = self.state.lock().await;
        let _ = timeout(CLOSE_TIMEOUT, self.post(&mut state.connection, &path, JSON, String::new())).await;
    }

    async fn post(
        &self,
        connection: &mut Option<Connection>,
        path: &str,
        kind: &str,
        body: String,
    ) -> Result<JsonResponse, ConnectError> {
        let findings = &self.trial.post;
        let headers = [("content-type", kind)];
        let response = self.trial.request(connection, Method::POST, path, &headers, body, Duration::ZERO).await;
        match &response {
            // Also a refusal by the backend shows that the network lets POST through.
            Ok(response) if response.body.is_some() => {
                findings.opened();
                findings.with(|state| state.rtts.push(response.took));
            }
            Ok(response) => findings.refused(response.blame()),
            Err(error) => findings.refused(error.to_string()),
        }
        response
    }
}

impl Trial {
    /// Sends a request and reads the response, before which the server may wait for `wait`.
    pub(super) async fn request(
        &self,
        connection: &mut Option<Connection>,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: String,
        wait: Duration,
    ) -> Result<JsonResponse, ConnectError> {
        let begun = Instant::now();
        let exchange = async {
            let response = self.server.send(connection, method, path, headers, body).await?;
            let (head, body) = response.into_parts();
            self.note_changes(head.status.as_u16(), &head.headers, None);
            let body = Limited::new(body, BODY).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            Ok(JsonResponse {
                status: head.status.as_u16(),
                body: serde_json::from_slice(&body).ok(),
                took: begun.elapsed(),
            })
        };
        timeout(wait + RESPONSE_TIMEOUT, exchange).await.unwrap_or(Err(ConnectError::Silent(wait + RESPONSE_TIMEOUT)))
    }

    /// Notes what the network changed in a response of ours.
    pub(super) fn note_changes(&self, status: u16, headers: &HeaderMap, kind: Option<&str>) {
        let field = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let content_type = field("content-type").unwrap_or_default();
        if (300..400).contains(&status) {
            let place = field("location").unwrap_or_else(|| "nowhere".into());
            self.note(format!("an answer {status} leads elsewhere: {place}"));
            return;
        }
        if status >= 400 && !content_type.contains("json") {
            let origin = field("server").or_else(|| field("via")).unwrap_or_else(|| "nobody says whose".into());
            self.note(format!("an answer {status} is not this server's: {origin}"));
            return;
        }
        for name in ["via", "x-cache", "age", "server", "x-squid-error", "set-cookie"] {
            if let Some(value) = field(name) {
                self.note(format!(
                    "answer gained {name}{}",
                    if name == "set-cookie" { String::new() } else { format!(": {value}") }
                ));
            }
        }
        if let Some(coding) = field("content-encoding").filter(|coding| coding != "identity") {
            self.note(format!("answer was compressed: {coding}"));
        }
        if let Some(kind) = kind.filter(|kind| *kind != content_type) {
            self.note(format!("{kind} became {content_type}"));
        }
        match field("cache-control") {
            Some(value) if value == CACHE_CONTROL => {}
            value => self.note(format!("cache-control became {}", value.unwrap_or_else(|| "nothing".into()))),
        }
    }
}

/// A text that was never used before.
pub(super) fn nonce() -> String {
    let mut random = [0; 18];
    // Without randomness texts repeat, which makes the test less reliable and has no other effect.
    let _ = getrandom::fill(&mut random);
    URL_SAFE_NO_PAD.encode(random)
}
