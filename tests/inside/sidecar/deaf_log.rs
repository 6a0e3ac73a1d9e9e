//! The binary whose log nobody reads, or whose log cannot be written: it serves, drains and exits as always. Enters: a
//! standard error that is closed, full or not read. Leaves: answers and exit codes. Must not touch: other processes.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::sleep;

use crate::binary::underpass;
use crate::support::plain::nowhere;
use crate::support::scratch::Scratch;
use crate::support::site::soon;

/// On unix sockets, whose addresses need no log to be known.
struct Deaf {
    scratch: Scratch,
    child: Child,
}

impl Deaf {
    async fn start(level: &str, stderr: impl Into<Stdio>) -> Self {
        let scratch = Scratch::new("deaf");
        let path = |name| scratch.path(name).display().to_string();
        let config = format!(
            "listen = \"unix:{}\"\nadmin = \"unix:{}\"\nupstream = \"ws://{}\"\n[log]\nlevel = \"{level}\"\n\
             [drain]\npre = \"0s\"\nspread = \"0s\"\ntimeout = \"2s\"\n",
            path("web"),
            path("admin"),
            nowhere().await
        );
        let config = scratch.file("site.toml", &config);
        let child = underpass().arg("run").arg(config).stderr(stderr).stdout(Stdio::null()).spawn().expect("it runs");
        let deaf = Self { scratch, child };
        assert!(deaf.ask("admin", "GET /livez").await.starts_with("HTTP/1.1 200"));
        deaf
    }

    /// The answer to a request on the socket of this name, once something listens there.
    async fn ask(&self, name: &str, request: &str) -> String {
        let path: PathBuf = self.scratch.path(name);
        soon("an answer", async {
            let mut socket = loop {
                match UnixStream::connect(&path).await {
                    Ok(socket) => break socket,
                    Err(_) => sleep(Duration::from_millis(5)).await,
                }
            };
            let request =
                format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            socket.write_all(request.as_bytes()).await.expect("it reads");
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.expect("UTF-8");
            answer
        })
        .await
    }

    /// Opens to a backend that is not there: each is a warning.
    async fn open(&self) {
        let answer = self.ask("web", "POST /chat?underpass=open").await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    }

    /// So many requests on one connection, each of which is a line at `debug`. A body does not end its line.
    async fn refuse(&self, requests: usize) {
        let socket = UnixStream::connect(self.scratch.path("web")).await.expect("it listens");
        let (reading, mut writing) = socket.into_split();
        let request = "GET /_underpass/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let asking = tokio::spawn(async move {
            for _ in 0..requests {
                writing.write_all(request.as_bytes()).await.expect("it reads");
            }
            writing
        });
        let mut answers = BufReader::new(reading).lines();
        let mut answered = 0;
        while answered < requests {
            let line = soon("all answers", answers.next_line()).await.expect("UTF-8").expect("it goes on");
            answered += usize::from(line.ends_with("HTTP/1.1 404 Not Found"));
        }
        drop(asking.await.expect("no panic"));
    }

    async fn dropped(&self) -> u64 {
        let metrics = self.ask("admin", "GET /metrics").await;
        let value = metrics.lines().find_map(|line| line.strip_prefix("underpass_log_lines_dropped_total "));
        value.expect("the counter").trim().parse().expect("a number")
    }

    /// Waits until so many lines were dropped: they are written by another thread than the one that answers.
    async fn drops(&self, least: u64) {
        soon("dropped lines", async {
            while self.dropped().await < least {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn stops(&mut self) {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        assert_eq!(soon("the exit", self.child.wait()).await.expect("a status").code(), Some(0));
    }
}

fn full() -> File {
    File::options().write(true).open("/dev/full").expect("Linux has it")
}

#[tokio::test]
async fn a_log_on_a_full_disk_costs_its_lines_and_nothing_else() {
    let mut deaf = Deaf::start("info", full()).await;
    for _ in 0..5 {
        deaf.open().await;
    }
    deaf.drops(5).await;
    deaf.stops().await;
}

#[tokio::test]
async fn a_log_whose_pipe_was_closed_costs_its_lines_and_nothing_else() {
    let mut deaf = Deaf::start("info", Stdio::piped()).await;
    drop(deaf.child.stderr.take());
    for _ in 0..5 {
        deaf.open().await;
    }
    deaf.drops(5).await;
    deaf.stops().await;
}

#[tokio::test]
async fn a_log_that_is_not_read_holds_nobody_up_and_says_later_what_is_missing() {
    let mut deaf = Deaf::start("debug", Stdio::piped()).await;
    // Some 200 bytes each; two megabytes wait at most.
    deaf.refuse(16_000).await;
    let dropped = deaf.dropped().await;
    assert!(dropped > 0, "all was kept");
    let mut log = BufReader::new(deaf.child.stderr.take().expect("piped")).lines();
    let gap = loop {
        let line = soon("the line about the gap", log.next_line()).await.expect("UTF-8").expect("it goes on");
        if let Some((_, dropped)) =
            line.split_once("log lines dropped").and_then(|(_, rest)| rest.split_once("dropped="))
        {
            break dropped.parse::<u64>().expect("a number");
        }
    };
    assert_eq!(gap, dropped);
    // Again more than a pipe takes: what waits at the end is given up after a moment.
    deaf.refuse(1000).await;
    deaf.stops().await;
}

#[tokio::test]
async fn exit_codes_do_not_depend_on_who_takes_the_words() {
    let scratch = Scratch::new("words");
    let file = |name, text| scratch.file(name, text).display().to_string();
    let good = file("good.toml", "listen = \"127.0.0.1:0\"\nupstream = \"ws://127.0.0.1:9\"\n");
    let bad = file("bad.toml", "listen = 7\n");
    for (args, expected) in [
        (vec!["check", &good], 0),
        (vec!["check", &bad], 1),
        (vec!["run", &bad], 1),
        (vec!["run", "--upstream", "unix:/nowhere", "--listen", "unix:/nowhere/at/all"], 1),
        (vec!["run"], 2),
        (vec!["rum"], 2),
        (vec!["--version"], 0),
        (vec!["probe", "http://127.0.0.1:9", "--seconds", "1"], 2),
    ] {
        let child = underpass().args(&args).stdout(full()).stderr(full()).spawn();
        let status = soon("the exit", child.expect("it runs").wait()).await.expect("a status");
        assert_eq!(status.code(), Some(expected), "{args:?}");
    }
}
