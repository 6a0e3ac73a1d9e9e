//! `underpass probe`: what the network between here and a sidecar lets through, from a terminal.
//!
//! Enters: an address, a proxy perhaps, and for how long. Leaves: a [`Report`], or why nothing could be tested. Must not
//! touch: the sidecar's own rooms but for codecs and sockets: it is a client like any other.
//!
//! `reach` makes connections, `asking` sends short requests, `ways` tries each transport, `read` reads what streams,
//! `row` keeps what is known of one and has the words, `trial` holds it all together.

mod asking;
mod reach;
mod read;
mod report;
mod row;
mod trial;
mod ways;

use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use self::asking::Answer;
pub use self::reach::ReachError;
use self::reach::Way;
pub use self::report::Report;
use self::trial::Trial;

/// A body of some size, in bytes.
const LARGE: usize = 6000;

/// What is to be tested.
pub struct Asked {
    /// `http://` or `https://`, a host, and the prefix if it is another than `/_underpass`.
    pub url: String,
    /// `http://[user:password@]host:port`.
    pub proxy: Option<String>,
    /// PEM file of the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// How long connections are kept open.
    pub time: Duration,
    /// A path of the backend, for a sidecar whose self-test is off.
    pub target: Option<String>,
}

/// Why nothing was tested.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody was reached.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// Somebody was reached, but no sidecar.
    #[error("{url} answered {status}, and that is not underpass: check the address, and the prefix behind it; {who}")]
    NotOurs {
        /// What was asked.
        url: String,
        /// The answer.
        status: u16,
        /// Whose it may be.
        who: String,
    },
}

/// Tests until the time is over, or `stop` is ready.
///
/// # Errors
/// [`ProbeError`] when there is nothing to test.
pub async fn probe(asked: &Asked, stop: impl Future) -> Result<Report, ProbeError> {
    let way = Way::new(&asked.url, asked.proxy.as_deref(), asked.ca.as_deref())?;
    let mut trial = Trial::new(way);
    let info = trial.first("/info").await?;
    let server = info.body.as_ref().and_then(|body| body["server"].as_str()).filter(|_| info.status == 200);
    let Some(server) = server.map(str::to_owned) else { return Err(trial.not_ours(&info)) };
    let probe = info.body.as_ref().and_then(|body| body["timers"]["probe"].as_f64()).unwrap_or(0.4);
    trial.probe = Duration::try_from_secs_f64(probe).unwrap_or_default();
    let seen = trial.first("/selftest/seen").await?;
    let talk = seen.body.as_ref().and_then(|body| body["talk"].as_str()).filter(|_| seen.status == 200);
    match (talk, &asked.target) {
        (Some(talk), None) => trial.target = talk.to_owned(),
        (_, target) => trial.use_backend(target.as_deref().unwrap_or("/")),
    }
    if let Some(seen) = seen.body.as_ref().filter(|_| talk.is_some()) {
        trial.compare(seen);
        trial.large().await;
    }
    let begun = Instant::now();
    let time = async {
        tokio::select! { () = sleep(asked.time) => {}, _ = stop => {} }
        trial.ending.cancel();
    };
    tokio::join!(trial.run(), time);
    let lasted = begun.elapsed();
    trial.rows().iter().for_each(|row| row.end(lasted));
    let told = asked.target.is_some() || talk.is_some();
    Ok(Report {
        trial,
        server,
        lasted,
        off: !told,
        client: seen.body.and_then(|body| body["client"].as_str().map(str::to_owned)),
    })
}

impl Trial {
    async fn first(&self, what: &str) -> Result<Answer, ReachError> {
        let path = format!("{}{what}", self.way.prefix);
        self.ask(&mut None, Method::GET, &path, &[("x-selftest", "1")], String::new(), Duration::ZERO).await
    }

    /// Without the self-test's conversation: the server's own probe on each stream is all the evidence there is.
    fn use_backend(&mut self, target: &str) {
        self.target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        self.own = false;
        for row in self.rows() {
            row.with(|seen| seen.enough = 1);
        }
        // A foreign backend may be silent, rightly.
        self.native.with(|seen| seen.streams = false);
    }

    fn not_ours(&self, answer: &Answer) -> ProbeError {
        let notes = self.notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let who = notes.iter().next().cloned().unwrap_or_else(|| "nobody says whose answer it is".into());
        ProbeError::NotOurs { url: self.way.shown(), status: answer.status, who }
    }

    /// Notes when a body of some size does not arrive whole.
    async fn large(&self) {
        let (path, body) = (format!("{}/selftest/seen", self.way.prefix), "x".repeat(LARGE));
        let headers = [("content-type", "text/plain")];
        match self.ask(&mut None, Method::POST, &path, &headers, body, Duration::ZERO).await {
            Ok(answer) => match answer.body.as_ref().and_then(|body| body["body"].as_u64()) {
                Some(arrived) if arrived == LARGE as u64 => {}
                Some(arrived) => self.note(format!("POST of {LARGE} bytes arrived with {arrived}")),
                None => self.note(format!("POST of {LARGE} bytes: {}", answer.blame())),
            },
            Err(error) => self.note(format!("POST of {LARGE} bytes: {error}")),
        }
    }

    /// Notes what the server saw of a request that differs from what was sent.
    fn compare(&self, seen: &Value) {
        if seen["version"] != "HTTP/1.1" {
            self.note(format!("we speak HTTP/1.1, the server hears {}", seen["version"].as_str().unwrap_or("nothing")));
        }
        let ours = ["host", "user-agent", "x-selftest", "content-length", "content-type", "connection", "accept"];
        let headers = seen["headers"].as_array().map_or(&[][..], Vec::as_slice);
        let name = |field: &Value| field[0].as_str().unwrap_or_default().to_owned();
        for field in headers.iter().filter(|field| !ours.contains(&name(field).as_str())) {
            let value = field[1].as_str().map_or(String::new(), |value| format!(": {value}"));
            self.note(format!("request gained {}{value}", name(field)));
        }
        if !headers.iter().any(|field| name(field) == "x-selftest") {
            self.note("request lost x-selftest, a field nobody knows");
        }
    }
}
