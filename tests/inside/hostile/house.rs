//! A sidecar with one open session, and the proof that what was refused left it as it was. Enters: bad requests. Leaves:
//! their answers, checked for what all refusals have in common. Must not touch: the inside of the sidecar.

use std::sync::{Mutex, Once};

use serde_json::Value;

use super::raw::{self, Answer, Wire};
use crate::support::site::{Backend, BackendSocket, Opened, Site};

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What tokio says where the runtime of a test has ended before its sidecar's further workers: no request's doing, and in
/// the product the process ends with that runtime.
const RUNTIME_ENDED: &str = "A Tokio 1.x context was found, but it is being shutdown";

/// Notes every panic that is not an assertion of these tests.
pub(crate) fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let is_noise = place.starts_with("tests/") || info.to_string().contains(RUNTIME_ENDED);
            if !is_noise {
                PANICS.lock().expect("only strings in here").push(format!("{place}: {info}"));
            }
            usual(info);
        }));
    });
}

/// No panic came from the sidecar, in whichever test.
#[track_caller]
pub(crate) fn no_panics() {
    let panics = PANICS.lock().expect("only strings in here");
    assert!(panics.is_empty(), "{panics:?}");
}

/// One session that is open, with both of its ends.
pub(crate) struct House {
    pub(crate) site: Site,
    pub(crate) backend: Backend,
    pub(crate) opened: Opened,
    pub(crate) socket: BackendSocket,
    /// The cursor: how many messages have come down and were acknowledged.
    pub(crate) cursor: u64,
    rounds: u64,
}

impl House {
    pub(crate) async fn open(more: &str) -> Self {
        watch_panics();
        let mut backend = Backend::start().await;
        let site = Site::start(backend.at, more);
        let opened = site.open("/chat").await;
        let socket = backend.accept().await;
        Self { site, backend, opened, socket, cursor: 0, rounds: 0 }
    }

    pub(crate) fn url(&self, verb: &str) -> String {
        format!("{}/{verb}", self.opened.url)
    }

    /// One request with a nonce, which must come back whatever happens.
    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let nonce = format!("nonce-{}", path.len());
        let join = if path.contains('?') { '&' } else { '?' };
        let answer = raw::ask(self.site.at, method, &format!("{path}{join}n={nonce}"), headers, body).await;
        if answer.status >= 400 && !answer.body.is_empty() && path.contains("/s/") {
            assert_eq!(answer.json()["n"], nonce, "{method} {path}: {:?}", answer.json());
        }
        answer
    }

    /// A request that is refused with this status and code, in words that name `says`, and that changes nothing.
    pub(crate) async fn refuses(
        &self,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
        body: &[u8],
        (status, code, says): (u16, &str, &str),
    ) -> Answer {
        let before = self.standing().await;
        let answer = self.ask(method, path, headers, body).await;
        let what = || format!("{method} {path} {headers:?} {:?}", String::from_utf8_lossy(&body[..body.len().min(80)]));
        assert_eq!((answer.status, answer.refused().as_str()), (status, code), "{}: {:?}", what(), answer.message());
        assert!(answer.message().contains(says), "{}: {:?} does not name {says:?}", what(), answer.message());
        assert_eq!(self.standing().await, before, "{} changed the session", what());
        answer
    }

    /// What the session has accepted and sent. An old acknowledgement changes nothing.
    pub(crate) async fn standing(&self) -> Value {
        let answer = raw::ask(self.site.at, "POST", &self.url("ack?after=0"), &[], b"").await;
        assert_eq!(answer.status, 200, "the session is gone: {}", answer.json());
        answer.json()
    }

    /// The session lives: a message goes up, the next one at the backend is that one, and one comes down.
    pub(crate) async fn lives_on(&mut self) {
        self.rounds += 1;
        let (up, down) = (format!("up {}", self.rounds), format!("down {}", self.rounds));
        let answer = raw::ask(self.site.at, "POST", &self.url("send?as=text"), &[], up.as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        assert_eq!(self.socket.next_text().await, up, "something else got through to the backend");
        self.socket.send(&down).await;
        let poll = self.url(&format!("poll?after={}", self.cursor));
        let answer = raw::ask(self.site.at, "GET", &poll, &[], b"").await;
        assert_eq!(answer.json()["messages"], serde_json::json!([down]), "{}", answer.json());
        self.cursor += 1;
        // The poll lets go of the session in its own time, behind its answer.
        while !self.standing().await["attached"].is_null() {
            tokio::task::yield_now().await;
        }
        self.nothing_more();
    }

    /// As [`House::lives_on`], where messages wait that nobody has taken: one goes up.
    pub(crate) async fn no_harm(&mut self) {
        let answer = raw::ask(self.site.at, "POST", &self.url("send?as=text"), &[], b"up").await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        assert_eq!(self.socket.next_text().await, "up");
        self.nothing_more();
    }

    /// Nothing else was dialled, nothing has panicked.
    #[track_caller]
    pub(crate) fn nothing_more(&mut self) {
        assert!(self.backend.try_accept().is_none(), "another session was opened");
        no_panics();
    }

    pub(crate) async fn wire(&self) -> Wire {
        Wire::open(self.site.at).await
    }
}
