//! The binary that is built here, run as an operator runs it. Enters: arguments, a configuration's file, signals. Leaves:
//! what it prints, and its log as JSON. Must not touch: other processes; each is killed with the test that started it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::site::{FOREVER, Site, soon};

pub(crate) fn underpass() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_underpass"));
    command.env_remove("RUST_LOG").kill_on_drop(true).stdin(Stdio::null());
    command
}

/// Its exit code, standard output and standard error, once it has ended by itself.
pub(crate) async fn output(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = underpass().args(args).output().await.expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

/// A running binary whose log is JSON.
pub(crate) struct Running {
    child: Child,
    log: mpsc::UnboundedReceiver<String>,
    pub(crate) lines: Vec<String>,
}

impl Running {
    pub(crate) fn start(config: &Path) -> Self {
        Self::of(underpass().arg("run").arg(config))
    }

    /// The one that this command runs, whose log is JSON.
    pub(crate) fn of(command: &mut Command) -> Self {
        Self::with(command.stdout(Stdio::null()), |command| command.spawn().expect("it runs"))
    }

    /// The one that `start` makes of this command, whose log is JSON.
    pub(crate) fn with(command: &mut Command, start: impl FnOnce(&mut Command) -> Child) -> Self {
        let mut child = start(command.stderr(Stdio::piped()));
        let mut pipe = BufReader::new(child.stderr.take().expect("piped")).lines();
        let (sender, log) = mpsc::unbounded_channel();
        // Read as it comes: a full pipe would hold the process up.
        tokio::spawn(async move {
            while let Some(line) = pipe.next_line().await.expect("UTF-8") {
                let _ = sender.send(line);
            }
        });
        Self { child, log, lines: Vec::new() }
    }

    /// The next log line that says this.
    pub(crate) async fn says(&mut self, message: &str) -> Value {
        loop {
            let line = timeout(FOREVER, self.log.recv()).await;
            let line = line.unwrap_or_else(|_| panic!("waited in vain for `{message}`: {:#?}", self.lines));
            let line = line.unwrap_or_else(|| panic!("it ended without `{message}`: {:#?}", self.lines));
            self.lines.push(line.clone());
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
            if line["message"] == message {
                return line;
            }
        }
    }

    /// Where it listens: for clients, and for the operator, whose listener its configuration has.
    pub(crate) async fn site_with_admin(&mut self) -> Site {
        let at = address(&self.says("listening").await);
        Site::elsewhere(at, Some(address(&self.says("admin listening").await)))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }

    /// It is killed, and has ended.
    pub(crate) async fn killed(&mut self) {
        soon("its end", self.child.kill()).await.expect("it ran");
    }

    /// Its exit code, once it has said all it has to say.
    pub(crate) async fn exits(&mut self) -> i32 {
        while let Some(line) = soon("the end of the log", self.log.recv()).await {
            self.lines.push(line);
        }
        soon("the exit", self.child.wait()).await.expect("a status").code().expect("an exit code")
    }
}

pub(crate) fn address(line: &Value) -> SocketAddr {
    line["address"].as_str().expect("an address").parse().expect("an address")
}
