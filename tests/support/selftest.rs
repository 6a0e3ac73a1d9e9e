//! A sidecar with its self-test on, and `underpass probe`, as it is typed. Must not touch: fixed ports.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::process::Command;

use super::site::Site;

/// How often something is tried that a machine under load may spoil: it holds messages back as boxes do.
pub const TRIES: usize = 3;

/// A sidecar with its self-test on, and nobody behind it. Pages of `origin` are its own as well.
pub fn site(origin: Option<SocketAddr>) -> Site {
    let allowed = origin.map_or(String::new(), |at| format!("allowed_origins = [\"http://{at}\"]\n"));
    Site::from_toml(&format!(
        "listen = \"127.0.0.1:0\"\nupstream = \"ws://127.0.0.1:1\"\nselftest = true\nworkers = 1\n{allowed}"
    ))
}

/// What it printed, and how it ended.
#[derive(Debug)]
pub struct Told {
    pub exit: i32,
    pub out: String,
    pub err: String,
}

impl Told {
    pub async fn of(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_underpass"));
        command.arg("probe").args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let exit = output.status.code().expect("it exits by itself");
        Self { exit, out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Again, until it says what only a machine at rest lets it say.
    pub async fn saying(words: &str, arguments: &[&str]) -> Self {
        for _ in 1..TRIES {
            let told = Self::of(arguments).await;
            if told.out.contains(words) {
                return told;
            }
        }
        let told = Self::of(arguments).await;
        assert!(told.out.contains(words), "{}{}", told.out, told.err);
        told
    }

    /// The line of a transport.
    pub fn row(&self, name: &str) -> &str {
        let line = self.out.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no row {name} in {}{}", self.out, self.err))
    }
}
