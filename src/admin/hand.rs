//! What the operator sees of the running process and does to it: sessions, ends of sessions, the log's level, the
//! configuration in force, the status page.
//!
//! Enters: requests that have passed the guards. Leaves: JSON for programs, and the page; orders to the registry and the
//! log. Must not touch: tokens (the registry gives none), what a session carries.

use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use http::StatusCode;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{AdminState, House, status};
use crate::config::Setting;
use crate::lifecycle::log;
use crate::registry::roster::{Figures, SessionFacts, Which, carried};
use crate::session::Close;

/// Ends sessions.
pub(super) const KILL: &str = "/sessions/kill";
/// The log's level.
pub(super) const LOG_LEVEL: &str = "/log-level";

/// Sessions that are listed when the request does not say how many, and the most that it may ask for: some 4 MB of JSON.
const LISTED: usize = 100;
const MOST_LISTED: usize = 10_000;
/// Requests that look at all sessions at once. Further ones wait, as long as their connection may last.
const LOOKS: usize = 2;
/// The close of a session that the operator ends: "internal error" would be a lie, and with "going away" clients of most
/// libraries come back at once. 4000 and above are an application's own.
const KILLED: (u16, &str) = (4000, "ended by the operator");
/// Pages that are kept up to date at once, how often each is told, and when it is asked to connect anew.
const PAGES: usize = 16;
const TELL_EVERY: Duration = Duration::from_secs(2);
const TELL_FOR: Duration = Duration::from_secs(24);

const PAGE: &str = include_str!("page.html");
/// The page needs nothing but itself.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                           base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Router<Arc<AdminState>> {
    let looks = Arc::new(Semaphore::new(LOOKS));
    let (listings, kills, status) = (Arc::clone(&looks), Arc::clone(&looks), looks);
    let pages = Arc::new(Semaphore::new(PAGES));
    let events = move |State(state): State<Arc<AdminState>>| events(state, Arc::clone(&pages));
    Router::new()
        .route("/", get(|| async { ([(CONTENT_SECURITY_POLICY, PAGE_POLICY), (CONTENT_TYPE, HTML)], PAGE) }))
        .route("/events", get(events))
        .route(
            "/status",
            get(|State(state): State<Arc<AdminState>>| look(state, status, |house| json(&status::of(house)))),
        )
        .route(
            "/sessions",
            get(|State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery| sessions(state, listings, query)),
        )
        .route(KILL, post(|State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery| kill(state, kills, query)))
        .route(LOG_LEVEL, get(level).post(set_level))
        .route("/config", get(configuration))
}

const HTML: &str = "text/html; charset=utf-8";

fn json(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], format!("{value}\n")).into_response()
}

fn refused(what: impl fmt::Display) -> Response {
    (StatusCode::BAD_REQUEST, format!("{what}\n")).into_response()
}

/// Looks at all sessions. Off the runtime's threads, which serve clients meanwhile, and few at once: each is locked for a moment
/// of its own, but there may be very many.
async fn look(
    state: Arc<AdminState>,
    looks: Arc<Semaphore>,
    at: impl FnOnce(&House) -> Response + Send + 'static,
) -> Response {
    let permit = looks.acquire_owned().await;
    let work = move || {
        // With the work and not with the connection, which may end before.
        let _permit = permit;
        at(&state.house)
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        (StatusCode::INTERNAL_SERVER_ERROR, "This could not be done; see the log.\n").into_response()
    })
}

// === sessions ===

/// `GET /sessions?client=&route=&id=&transport=&sort=&offset=&limit=`.
async fn sessions(state: Arc<AdminState>, looks: Arc<Semaphore>, query: Option<String>) -> Response {
    let known = ["id", "client", "route", "transport", "sort", "offset", "limit"];
    let asked = match Asked::read(query.as_deref(), &known) {
        Ok(asked) => asked,
        Err(what) => return refused(what),
    };
    let Some(order) = Order::named(asked.text("sort").unwrap_or("age")) else {
        return refused(format_args!("`sort` is one of {}", Order::WORDS.join(", ")));
    };
    let limit = match asked.text("limit").map_or(Ok(LISTED), str::parse) {
        Ok(limit) if limit <= MOST_LISTED => limit,
        _ => return refused(format_args!("`limit` is a number of sessions, {MOST_LISTED} at most: `offset` leads on")),
    };
    let Ok(offset) = asked.text("offset").map_or(Ok(0), str::parse::<usize>) else {
        return refused("`offset` is a number of sessions to pass over");
    };
    let mut which = asked.which();
    match asked.text("transport").map(carried).transpose() {
        Ok(transport) => which.transport = transport,
        Err(words) => return refused(format_args!("`transport` is one of {words}")),
    }
    let list = move |house: &House| {
        let part = offset..offset.saturating_add(limit);
        let (total, found) = house.registry.sessions(&which, |figures| order.number(figures), part);
        json(&json!({ "total": total, "offset": offset, "sessions": found.iter().map(session).collect::<Vec<_>>() }))
    };
    look(state, looks, list).await
}

fn session(facts: &SessionFacts) -> Value {
    let way = |[down, up]: [u64; 2]| json!({ "down": down, "up": up });
    let figures = &facts.figures;
    json!({
        "id": facts.id,
        "client": facts.client,
        "route": &*facts.route,
        "path": facts.path,
        "transport": facts.transport.map(|transport| transport.as_str()),
        "before": facts.before.map(|transport| transport.as_str()),
        "cause": facts.cause,
        "age": figures.age.as_secs(),
        "idle": figures.idle.as_secs_f64(),
        "messages": way(figures.messages),
        "bytes": way(figures.bytes),
        "kept": figures.kept,
        "queued": figures.queued,
        "paused": facts.paused,
        "ended": facts.ended.as_ref().map(|close| json!({ "code": close.code, "reason": close.reason })),
    })
}

/// By what sessions are listed, largest first.
#[derive(Clone, Copy, Debug)]
enum Order {
    Age,
    Idle,
    Kept,
    Queued,
    Messages,
    Bytes,
}

impl Order {
    const WORDS: [&'static str; 6] = ["age", "idle", "kept", "queued", "messages", "bytes"];
    const ALL: [Self; 6] = [Self::Age, Self::Idle, Self::Kept, Self::Queued, Self::Messages, Self::Bytes];

    fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().zip(Self::WORDS).find(|(_, known)| *known == word).map(|(order, _)| order)
    }

    fn number(self, figures: &Figures) -> u128 {
        match self {
            Self::Age => figures.age.as_micros(),
            Self::Idle => figures.idle.as_micros(),
            Self::Kept => figures.kept as u128,
            Self::Queued => figures.queued as u128,
            Self::Messages => figures.messages.iter().map(|count| u128::from(*count)).sum(),
            Self::Bytes => figures.bytes.iter().map(|count| u128::from(*count)).sum(),
        }
    }
}

/// `POST /sessions/kill?id=|client=|route=` with `code=` and `reason=`, or `?all=yes`.
async fn kill(state: Arc<AdminState>, looks: Arc<Semaphore>, query: Option<String>) -> Response {
    let asked = match Asked::read(query.as_deref(), &["id", "client", "route", "all", "code", "reason"]) {
        Ok(asked) => asked,
        Err(what) => return refused(what),
    };
    let which = asked.which();
    if which.is_all() != (asked.text("all") == Some("yes")) {
        return refused("say which sessions: `id`, `client` or `route`, or `all=yes` and none of these");
    }
    let close = match close(asked.text("code"), asked.text("reason")) {
        Ok(close) => close,
        Err(what) => return refused(what),
    };
    let end = move |house: &House| {
        let ended = house.registry.kill(&which, &close);
        let status = if ended == 0 && which.id.is_some() { StatusCode::NOT_FOUND } else { StatusCode::OK };
        (status, json(&json!({ "ended": ended }))).into_response()
    };
    look(state, looks, end).await
}

/// What the operator may close with: the codes that an application may use, "going away" and "try again later".
fn close(code: Option<&str>, reason: Option<&str>) -> Result<Close, &'static str> {
    let code = code.map_or(Some(KILLED.0), |code| code.parse().ok());
    let code =
        code.filter(|code| matches!(code, 1001 | 1008 | 1011 | 1012 | 1013) || Close::is_allowed_from_client(*code));
    let code = code.ok_or("`code` is 1000, 1001, 1008, 1011 to 1013, or 3000 to 4999")?;
    let reason = reason.unwrap_or(KILLED.1);
    if reason.len() > Close::MAX_REASON {
        return Err("`reason` has at most 123 bytes");
    }
    Ok(Close::clean(code, reason))
}

// === log and configuration ===

async fn level() -> Response {
    json(&json!({ "level": log::level() }))
}

/// `POST /log-level?level=debug`.
async fn set_level(RawQuery(query): RawQuery) -> Response {
    let asked = match Asked::read(query.as_deref(), &["level"]) {
        Ok(asked) => asked,
        Err(what) => return refused(what),
    };
    let Some(wanted) = asked.text("level") else { return refused("say which: `level=debug`") };
    match log::set_level(wanted) {
        Ok(()) => level().await,
        Err(error @ log::LevelError::Malformed { .. }) => refused(error),
        Err(error) => (StatusCode::CONFLICT, format!("{error}\n")).into_response(),
    }
}

async fn configuration(State(state): State<Arc<AdminState>>) -> Response {
    let settings = (state.house.settings)();
    let one = |setting: &Setting| json!({ "key": setting.key, "value": setting.value, "origin": setting.origin });
    json(&settings.iter().map(one).collect())
}

// === the page ===

/// The state every two seconds, as server-sent events. A stream ends by itself before its connection is cut; the page comes
/// back.
async fn events(state: Arc<AdminState>, pages: Arc<Semaphore>) -> Response {
    let Ok(permit) = pages.try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "So many pages are open that no more can be kept up to date.\n")
            .into_response();
    };
    let until = Instant::now() + TELL_FOR;
    let told = stream::unfold((state, permit, false), move |(state, permit, again)| async move {
        if again {
            tokio::time::sleep(TELL_EVERY).await;
        }
        if Instant::now() >= until {
            return None;
        }
        let read = Arc::clone(&state);
        let status = tokio::task::spawn_blocking(move || status::of(&read.house).to_string()).await.ok()?;
        let event = format!("retry: 300\ndata: {status}\n\n");
        Some((Ok::<_, Infallible>(Bytes::from(event)), (state, permit, true)))
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(told)).into_response()
}

// === parameters ===

/// The parameters of a request.
struct Asked(Vec<(String, String)>);

impl Asked {
    /// Refuses what is unknown or there twice: a misspelled filter would be no filter, and end all sessions.
    fn read(query: Option<&str>, known: &[&str]) -> Result<Self, String> {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned();
        let mut read: Vec<(String, String)> = Vec::new();
        for (name, value) in pairs {
            let shown: String = name.chars().take(40).flat_map(char::escape_default).collect();
            if !known.contains(&name.as_str()) {
                return Err(format!("unknown parameter `{shown}`: there are {}", known.join(", ")));
            }
            if read.iter().any(|(before, _)| *before == name) {
                return Err(format!("`{shown}` is there twice"));
            }
            read.push((name, value));
        }
        Ok(Self(read))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn which(&self) -> Which {
        let text = |name| self.text(name).map(str::to_owned);
        // Addresses have several spellings.
        let plain =
            |client: String| client.parse::<IpAddr>().map_or(client, |address| address.to_canonical().to_string());
        Which { id: text("id"), client: text("client").map(plain), route: text("route"), transport: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::exposition::Exposition;

    #[test]
    fn what_is_misspelled_is_no_parameter() {
        let read = |query| Asked::read(Some(query), &["id", "client"]).map(|asked| asked.which());
        assert_eq!(read("client=%3A%3Affff%3A10.0.0.7").map(|which| which.client), Ok(Some("10.0.0.7".to_owned())));
        assert_eq!(read("client=unix").map(|which| which.client), Ok(Some("unix".to_owned())));
        assert!(
            read("clinet=10.0.0.7")
                .is_err_and(|what| what.contains("unknown parameter `clinet`: there are id, client"))
        );
        assert!(read("id=a&id=b").is_err_and(|what| what.contains("`id` is there twice")));
    }

    #[tokio::test]
    async fn few_look_at_all_sessions_at_once_and_the_next_waits() {
        let house = Arc::new(House::sample());
        let exposition = Exposition::new(&house.metrics, "0", || House::sample().readings());
        let state = Arc::new(AdminState { exposition, checks: Vec::new(), house });
        let looks = Arc::new(Semaphore::new(1));
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let long = look(Arc::clone(&state), Arc::clone(&looks), move |_| {
            let _ = ended.recv();
            json(&json!(1))
        });
        let long = tokio::spawn(long);
        while looks.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let mut next = Box::pin(look(state, Arc::clone(&looks), |_| json(&json!(2))));
        assert!(futures_util::poll!(&mut next).is_pending());
        // Who asked has gone; the work has not.
        long.abort();
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(end);
        assert_eq!(next.await.status(), StatusCode::OK);
    }

    #[test]
    fn a_close_has_a_code_that_may_be_sent_and_a_reason_that_fits() {
        assert_eq!(close(None, None), Ok(Close::clean(4000, "ended by the operator")));
        assert_eq!(close(Some("1013"), Some("")), Ok(Close::clean(1013, "")));
        for code in ["0", "999", "1005", "1006", "1015", "2999", "5000", "65536", "x", ""] {
            assert!(close(Some(code), None).is_err(), "{code}");
        }
        assert!(close(None, Some(&"x".repeat(124))).is_err());
    }
}
