//! `underpass probe`: what the network between here and a sidecar lets through, from a terminal.
//!
//! Enters: an address, optionally a proxy, and a duration. Leaves: a [`Report`], or why nothing could be tested. Must not
//! touch: the sidecar's own rooms except codecs and sockets, because it is a client like any other.
//!
//! `connect` makes connections, `requests` sends short requests, `transports` tests each transport, `decode` reads streams,
//! `findings` keeps what was measured of a transport and how it is shown, `trial` holds them together.

mod connect;
mod decode;
mod findings;
mod report;
mod requests;
mod transports;
mod trial;

use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

pub use self::connect::ConnectError;
use self::connect::Server;
pub use self::report::Report;
use self::requests::JsonResponse;
use self::trial::Trial;

/// The size of a body that some networks refuse, in bytes.
const LARGE: usize = 6000;

/// What is to be tested.
pub struct ProbeOptions {
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
    #[error(transparent)]
    Reach(#[from] ConnectError),
    /// Something answers there, but not a sidecar.
    #[error("{url} answered {status}, and that is not underpass: check the address, and the prefix behind it; {who}")]
    NotOurs {
        url: String,
        status: u16,
        /// A note about whose response it may be.
        who: String,
    },
}

/// Tests until the time is over or `stop` is ready.
///
/// # Errors
/// [`ProbeError`] when there is nothing to test.
pub async fn probe(options: &ProbeOptions, stop: impl Future) -> Result<Report, ProbeError> {
    let server = Server::new(&options.url, options.proxy.as_deref(), options.ca.as_deref())?;
    let mut trial = Trial::new(server);
    let info = trial.get("/info").await?;
    let name = info.body.as_ref().and_then(|body| body["server"].as_str()).filter(|_| info.status == 200);
    let Some(server_name) = name.map(str::to_owned) else { return Err(trial.not_ours(&info)) };
    let probe = info.body.as_ref().and_then(|body| body["timers"]["probe"].as_f64()).unwrap_or(0.4);
    trial.probe = Duration::try_from_secs_f64(probe).unwrap_or_default();
    let seen = trial.get("/selftest/seen").await?;
    let talk = seen.body.as_ref().and_then(|body| body["talk"].as_str()).filter(|_| seen.status == 200);
    match (talk, &options.target) {
        // Our own path to it: a front may serve the prefix elsewhere.
        (Some(_), None) => trial.target = format!("{}/selftest/talk", trial.server.prefix),
        (_, target) => trial.use_backend(target.as_deref().unwrap_or("/")),
    }
    if let Some(seen) = seen.body.as_ref().filter(|_| talk.is_some()) {
        trial.compare(seen);
        trial.test_large_body().await;
    }
    let begun = Instant::now();
    let time = async {
        tokio::select! { () = sleep(options.time) => {}, _ = stop => {} }
        trial.ending.cancel();
    };
    tokio::join!(trial.run(), time);
    let lasted = begun.elapsed();
    trial.findings().iter().for_each(|findings| findings.end(lasted));
    let off = options.target.is_none() && talk.is_none();
    Ok(Report {
        trial,
        server_name,
        lasted,
        off,
        client: seen.body.and_then(|body| body["client"].as_str().map(str::to_owned)),
    })
}

impl Trial {
    async fn get(&self, what: &str) -> Result<JsonResponse, ConnectError> {
        let path = format!("{}{what}", self.server.prefix);
        self.request(&mut None, Method::GET, &path, &[("x-selftest", "1")], String::new(), Duration::ZERO).await
    }

    /// Tests without the self-test's conversation: then only the server's own probe on each stream can be measured.
    fn use_backend(&mut self, target: &str) {
        self.target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        self.own = false;
        for findings in self.findings() {
            findings.with(|state| state.delays_needed = 1);
        }
        // A backend may send nothing, and rightly.
        self.native.with(|state| state.streams = false);
    }

    fn not_ours(&self, response: &JsonResponse) -> ProbeError {
        let notes = self.notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let who = notes.iter().next().cloned().unwrap_or_else(|| "nobody says whose answer it is".into());
        ProbeError::NotOurs { url: self.server.description(), status: response.status, who }
    }

    /// Notes when a larger body does not arrive completely.
    async fn test_large_body(&self) {
        let (path, body) = (format!("{}/selftest/seen", self.server.prefix), "x".repeat(LARGE));
        let headers = [("content-type", "text/plain")];
        match self.request(&mut None, Method::POST, &path, &headers, body, Duration::ZERO).await {
            Ok(response) => match response.body.as_ref().and_then(|body| body["body"].as_u64()) {
                Some(arrived) if arrived == LARGE as u64 => {}
                Some(arrived) => self.note(format!("POST of {LARGE} bytes arrived with {arrived}")),
                None => self.note(format!("POST of {LARGE} bytes: {}", response.blame())),
            },
            Err(error) => self.note(format!("POST of {LARGE} bytes: {error}")),
        }
    }

    /// Notes where the request that the server received differs from the one that was sent.
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
