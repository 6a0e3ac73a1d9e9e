//! A program that nobody here wrote, running. Enters: what to start. Leaves: its lines as they come, and what it complained
//! of when it fails. Must not touch: programs that the test did not start; each is killed with the test that did.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::programs::{python, script};
use crate::support::site::{FOREVER, soon};

/// A started program: read line by line, killed when it is dropped.
pub(crate) struct Running {
    name: String,
    child: Child,
    /// Where it listens, if it was started so.
    ear: Option<ChildStdin>,
    lines: mpsc::UnboundedReceiver<String>,
    /// What it said on standard error, for the message when it fails.
    complaints: Arc<Mutex<Vec<String>>>,
}

impl Running {
    /// A script of ours, by its extension's interpreter.
    pub(crate) fn script(name: &str, arguments: &[&str]) -> Self {
        let interpreter = if name.ends_with(".py") { python() } else { "node".into() };
        Self::start(Command::new(interpreter).arg(script(name)).args(arguments))
    }

    /// A command with its arguments; its lines are those of standard output.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::spawn(command.stdin(Stdio::null()))
    }

    /// The same for one that listens to its standard input.
    pub(crate) fn converse(command: &mut Command) -> Self {
        Self::spawn(command.stdin(Stdio::piped()))
    }

    fn spawn(command: &mut Command) -> Self {
        let name = format!("{:?}", command.as_std());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let (sender, lines) = mpsc::unbounded_channel();
        let complaints = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&complaints);
        each_line(child.stdout.take().expect("piped"), move |line| drop(sender.send(line)));
        each_line(child.stderr.take().expect("piped"), move |line| kept.lock().expect("no panic").push(line));
        let ear = child.stdin.take();
        Self { name, child, ear, lines, complaints }
    }

    /// A line for it.
    pub(crate) async fn say(&mut self, line: &str) {
        let ear = self.ear.as_mut().expect("it was started to listen");
        let said = ear.write_all(format!("{line}\n").as_bytes()).await;
        said.unwrap_or_else(|error| panic!("{}: {error}; {}", self.name, self.said()));
    }

    /// The next line; `None` when there are no more.
    pub(crate) async fn line(&mut self) -> Option<String> {
        self.line_within(FOREVER).await
    }

    /// The same for one that may take its time.
    pub(crate) async fn line_within(&mut self, patience: Duration) -> Option<String> {
        let line = timeout(patience, self.lines.recv()).await;
        line.unwrap_or_else(|_| panic!("no line from {}; {}", self.name, self.said()))
    }

    /// The next line, which must come.
    pub(crate) async fn expect(&mut self) -> String {
        self.line().await.unwrap_or_else(|| panic!("{} ended; {}", self.name, self.said()))
    }

    /// The first line that is, or holds, this.
    pub(crate) async fn until(&mut self, part: &str) -> String {
        loop {
            let line = self.expect().await;
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Stops it in its tracks; what it had written can still be read.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("it runs");
    }

    /// Asks it to end; kills it when it does not.
    pub(crate) async fn terminate(&mut self) {
        let id = self.child.id().map(|id| id.to_string()).unwrap_or_default();
        let _ = Command::new("kill").arg(id).status().await;
        if timeout(FOREVER, self.child.wait()).await.is_err() {
            self.kill().await;
        }
    }

    /// Its exit status, which must be good.
    pub(crate) async fn ended(&mut self) {
        let status = soon("the end of a program", self.child.wait()).await.expect("a child");
        assert!(status.success(), "{}: {status}; {}", self.name, self.said());
    }

    pub(crate) fn said(&self) -> String {
        let said = self.complaints.lock().expect("no panic").join("\n");
        if said.is_empty() { "it complained of nothing".into() } else { format!("it said:\n{said}") }
    }
}

/// Runs a script of cases in a browser to its end; it names those that failed. The path is from `tests/outside`.
pub(crate) async fn cases(path: &str, arguments: &[&str]) {
    let status = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside").join(path))
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .expect("node runs");
    assert!(status.success(), "cases failed: they are named above");
}

fn each_line(pipe: impl AsyncRead + Unpin + Send + 'static, mut take: impl FnMut(String) + Send + 'static) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            take(line);
        }
    });
}
