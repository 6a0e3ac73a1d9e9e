//! Short requests: opening a session, sending, acknowledging, closing; and what can be seen of their way.
//!
//! Enters: what is to be said. Leaves: answers, and what they tell about the network. Must not touch: what comes down.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::reach::{Line, ReachError};
use super::row::Row;
use super::trial::Trial;

/// How long a short request may take.
const ANSWER: Duration = Duration::from_secs(15);
/// How long the goodbye may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// The largest answer read, in bytes.
const BODY: usize = 1024 * 1024;
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
/// What every answer of ours says.
const KEPT: &str = "no-store, no-transform";

/// An answer that was read.
pub(super) struct Answer {
    pub(super) status: u16,
    /// `None` when it is no JSON, so nobody's but a box's.
    pub(super) body: Option<Value>,
    took: Duration,
}

impl Answer {
    /// Why it is not the one hoped for.
    pub(super) fn blame(&self) -> String {
        match &self.body {
            Some(body) => format!("{} {}", self.status, body["error"]["code"].as_str().unwrap_or_default()),
            None => format!("{}, not this server's answer", self.status),
        }
    }
}

/// What goes up for one session.
pub(super) struct Post<'a> {
    trial: &'a Trial,
    row: &'a Row,
    state: Mutex<State>,
    token: std::sync::OnceLock<String>,
}

struct State {
    line: Option<Line>,
    seq: u64,
}

impl<'a> Post<'a> {
    pub(super) fn new(trial: &'a Trial, row: &'a Row) -> Self {
        let state = State { line: None, seq: 1 };
        Self { trial, row, state: Mutex::new(state), token: std::sync::OnceLock::new() }
    }

    /// Opens the session; the row is told when it cannot.
    pub(super) async fn open(&self) -> bool {
        let path = format!("{}/open{}", self.trial.way.prefix, self.trial.target);
        let body = json!({ "nonce": fresh() }).to_string();
        let mut state = self.state.lock().await;
        let asked = self.post(&mut state.line, &path, JSON, body).await;
        let failed = match asked {
            Ok(answer) => {
                let token = answer.body.as_ref().and_then(|body| body["session"]["token"].as_str());
                match token.filter(|_| answer.status == 200) {
                    Some(token) => {
                        self.row.asking();
                        self.row.with(|seen| seen.begun = Some(Instant::now()));
                        return self.token.set(token.to_owned()).is_ok();
                    }
                    None => answer.blame(),
                }
            }
            Err(error) => error.to_string(),
        };
        self.row.refused(format!("its session: {failed}"));
        false
    }

    /// A request on the session.
    pub(super) fn address(&self, what: &str, more: &str) -> String {
        let (token, cursor) = (self.token.get().map_or("", String::as_str), self.row.with(|seen| seen.cursor));
        format!("{}/s/{token}/{what}?after={cursor}{more}&n={}", self.trial.way.prefix, fresh())
    }

    /// Sends, again under the same number when nobody answers, so nothing is said twice; as a form where JSON is refused.
    pub(super) async fn send(&self, text: &str) {
        let mut state = self.state.lock().await;
        let json = json!({ "messages": [text] }).to_string();
        let form: String = form_urlencoded::Serializer::new(String::new()).append_pair("messages", &json).finish();
        for (kind, body) in [(JSON, &json), (FORM, &form)] {
            let path = self.address("send", &format!("&seq={}", state.seq));
            let answer = self.post(&mut state.line, &path, kind, body.clone()).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
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
        let path = self.address("ack", "");
        // What goes wrong stands in the row of POST.
        let _ = self.post(&mut state.line, &path, JSON, String::new()).await;
    }

    pub(super) async fn close(&self) {
        let path = self.address("close", "");
        let mut state = self.state.lock().await;
        let _ = timeout(FAREWELL, self.post(&mut state.line, &path, JSON, String::new())).await;
    }

    async fn post(&self, line: &mut Option<Line>, path: &str, kind: &str, body: String) -> Result<Answer, ReachError> {
        let row = &self.trial.post;
        let headers = [("content-type", kind)];
        let answer = self.trial.ask(line, Method::POST, path, &headers, body, Duration::ZERO).await;
        match &answer {
            // What the backend refuses was let through by the network.
            Ok(answer) if answer.body.is_some() => {
                row.opened();
                row.with(|seen| seen.rtts.push(answer.took));
            }
            Ok(answer) => row.refused(answer.blame()),
            Err(error) => row.refused(error.to_string()),
        }
        answer
    }
}

impl Trial {
    /// Asks and reads the answer, which may wait for `wait`.
    pub(super) async fn ask(
        &self,
        line: &mut Option<Line>,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: String,
        wait: Duration,
    ) -> Result<Answer, ReachError> {
        let begun = Instant::now();
        let asking = async {
            let answer = self.way.ask(line, method, path, headers, body).await?;
            let (head, body) = answer.into_parts();
            self.look(head.status.as_u16(), &head.headers, None);
            let body = Limited::new(body, BODY).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            Ok(Answer { status: head.status.as_u16(), body: serde_json::from_slice(&body).ok(), took: begun.elapsed() })
        };
        timeout(wait + ANSWER, asking).await.unwrap_or(Err(ReachError::Silent(wait + ANSWER)))
    }

    /// Notes what is different about an answer of ours.
    pub(super) fn look(&self, status: u16, headers: &HeaderMap, kind: Option<&str>) {
        let field = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let stated = field("content-type").unwrap_or_default();
        if (300..400).contains(&status) {
            let place = field("location").unwrap_or_else(|| "nowhere".into());
            self.note(format!("an answer {status} leads elsewhere: {place}"));
            return;
        }
        if status >= 400 && !stated.contains("json") {
            let whose = field("server").or_else(|| field("via")).unwrap_or_else(|| "nobody says whose".into());
            self.note(format!("an answer {status} is not this server's: {whose}"));
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
        if let Some(kind) = kind.filter(|kind| *kind != stated) {
            self.note(format!("{kind} became {stated}"));
        }
        match field("cache-control") {
            Some(kept) if kept == KEPT => {}
            kept => self.note(format!("cache-control became {}", kept.unwrap_or_else(|| "nothing".into()))),
        }
    }
}

/// A word that was never used before.
pub(super) fn fresh() -> String {
    let mut random = [0; 18];
    // Without randomness words repeat, which makes a worse test and nothing else.
    let _ = getrandom::fill(&mut random);
    URL_SAFE_NO_PAD.encode(random)
}
