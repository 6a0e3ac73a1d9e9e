//! `underpass status | sessions | kick | log-level`: the running process, from a terminal.
//!
//! Enters: arguments. Leaves: requests to the admin listener; what it answers, as tables for people or as the JSON that it
//! is. Must not touch: the sidecar's own rooms; it talks to another process.

mod ask;
mod tables;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use form_urlencoded::Serializer;
use http::Method;
use serde_json::Value;

pub use self::ask::{AskError, Door};
use crate::config::{Address, Config};

/// What is asked of a running process.
#[derive(Subcommand)]
pub enum Order {
    /// Show what a running process does: sessions, limits, refusals, certificates
    Status(Where),
    /// List the sessions of a running process
    Sessions(Listing),
    /// End sessions: one, or all of a client or a route
    Kick(Kick),
    /// Show the level of a running process's log, or change it until that process ends
    LogLevel(Level),
}

/// Where the process is asked, and how the answer is shown.
#[derive(Args)]
pub struct Where {
    /// The admin listener: address:port, or unix:/path [default: that of --config, or unix:/run/underpass/admin.sock]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The configuration file of the process, which says where its admin listener is
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// How to show the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables, for people
    Text,
    /// JSON, for programs
    Json,
}

/// Which sessions are listed.
#[derive(Args)]
pub struct Listing {
    #[command(flatten)]
    at: Where,
    /// Only those of this client's address (`unix` for a unix socket)
    #[arg(long, value_name = "ADDRESS")]
    client: Option<String>,
    /// Only those of this route, as host and path
    #[arg(long, value_name = "ROUTE")]
    route: Option<String>,
    /// Only those that are carried so now: ws, sse, stream, poll or none
    #[arg(long, value_name = "WORD")]
    transport: Option<String>,
    /// Largest first of: age, idle, kept, queued, messages, bytes
    #[arg(long, value_name = "WORD", default_value = "age")]
    sort: String,
    /// How many, 10000 at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// How many to pass over first; in the order of age, the default, sessions that come later do not move the others
    #[arg(long, value_name = "N", default_value_t = 0)]
    offset: usize,
}

/// Which sessions are ended, and how.
#[derive(Args)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(true).args(["id", "client", "route", "all"])))]
pub struct Kick {
    /// The public id of a session, as `sessions` and the log show it
    #[arg(allow_hyphen_values = true)]
    id: Option<String>,
    #[command(flatten)]
    at: Where,
    /// All of this client's address
    #[arg(long, value_name = "ADDRESS")]
    client: Option<String>,
    /// All of this route, as host and path
    #[arg(long, value_name = "ROUTE")]
    route: Option<String>,
    /// All there are
    #[arg(long, conflicts_with_all = ["id", "client", "route"])]
    all: bool,
    /// The close code that client and backend are given
    #[arg(long, default_value_t = 4000)]
    code: u16,
    /// The reason that they are given
    #[arg(long, default_value = "ended by the operator")]
    reason: String,
}

/// Which level.
#[derive(Args)]
pub struct Level {
    /// off, error, warn, info, debug, trace, or directives as RUST_LOG takes them; without it the level is shown
    level: Option<String>,
    #[command(flatten)]
    at: Where,
}

impl Order {
    /// Asks, and returns what is to be printed.
    ///
    /// # Errors
    /// [`AskError`]: nobody is there, or the answer is a refusal.
    pub async fn carry_out(&self) -> Result<String, AskError> {
        let (at, method, path) = self.request();
        let answer = at.door()?.ask(method, &path).await?;
        let value: Value = serde_json::from_slice(&answer).map_err(|_| AskError::NotOurs)?;
        if at.format == Format::Json {
            return Ok(format!("{value}\n"));
        }
        Ok(match self {
            Self::Status(_) => tables::status(&value),
            Self::Sessions(_) => tables::sessions(&value),
            Self::Kick(_) => format!("{} session(s) ended\n", value["ended"]),
            Self::LogLevel(_) => format!("{}\n", value["level"].as_str().unwrap_or("unknown")),
        })
    }

    fn request(&self) -> (&Where, Method, String) {
        match self {
            Self::Status(at) => (at, Method::GET, "/status".to_owned()),
            Self::Sessions(listing) => (&listing.at, Method::GET, listing.path()),
            Self::Kick(kick) => (&kick.at, Method::POST, kick.path()),
            Self::LogLevel(Level { level: Some(level), at }) => {
                (at, Method::POST, path("/log-level", [("level", Some(level.as_str()))]))
            }
            Self::LogLevel(Level { level: None, at }) => (at, Method::GET, "/log-level".to_owned()),
        }
    }
}

impl Where {
    fn door(&self) -> Result<Door, AskError> {
        if let Some(admin) = &self.admin {
            return Door::named(admin);
        }
        let Some(file) = &self.config else { return Ok(Door::usual()) };
        let config = Config::load(file).map_err(|errors| AskError::NoDoor(errors.to_string()))?;
        match config.admin {
            Some(Address::Tcp(address)) => Ok(Door::Tcp(address)),
            Some(Address::Unix(path)) => Ok(Door::Unix(path)),
            Some(Address::Activated(_)) => {
                Err(AskError::NoDoor("systemd opens its admin socket: give the address with --admin".to_owned()))
            }
            None => Err(AskError::NoDoor(format!("{} has no `admin`: add admin = \"unix\"", file.display()))),
        }
    }
}

impl Listing {
    fn path(&self) -> String {
        let (limit, offset) = (self.limit.to_string(), self.offset.to_string());
        let [client, route, transport] = [&self.client, &self.route, &self.transport].map(Option::as_deref);
        let sort = Some(self.sort.as_str());
        let all = [("client", client), ("route", route), ("transport", transport), ("sort", sort)];
        path("/sessions", all.into_iter().chain([("offset", Some(offset.as_str())), ("limit", Some(limit.as_str()))]))
    }
}

impl Kick {
    fn path(&self) -> String {
        let code = self.code.to_string();
        let [id, client, route] = [&self.id, &self.client, &self.route].map(Option::as_deref);
        let (all, code, reason) = (self.all.then_some("yes"), Some(code.as_str()), Some(self.reason.as_str()));
        let given =
            [("id", id), ("client", client), ("route", route), ("all", all), ("code", code), ("reason", reason)];
        path("/sessions/kill", given)
    }
}

/// A path with those parameters that have a value.
fn path<'a>(path: &str, parameters: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let given = parameters.into_iter().filter_map(|(name, value)| Some((name, value?)));
    format!("{path}?{}", Serializer::new(String::new()).extend_pairs(given).finish())
}
