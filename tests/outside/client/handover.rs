//! The browser client in Chromium while the process is replaced by another, again and again: on every transport, and beside it a
//! WebSocket that is passed through. The page sees no close and no error, and all comes once and in order both ways. Must not
//! touch: fixed ports, the network beyond this machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::sleep;

use crate::programs::{self, Program};
use crate::running::{self, Running};
use crate::support::plain;
use crate::support::scratch::Scratch;
use crate::turn;

/// Between two hand-overs: longer than pages need to come back, so that each of them is seen by connections that stand.
const REST: Duration = Duration::from_millis(1500);
/// What the successor says once it goes on.
const GOES_ON: &str = "went on where the process before has stopped";
/// A page whose address says what its client is told.
const PAGE: &str = "<!doctype html><title>handover</title><script>window.Native = WebSocket;\
    document.write(`<script src='/_underpass/client.js' data-transports='${location.search.slice(1)}'></scr` + `ipt>`)</script>";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_stays_on_its_session_while_processes_follow_each_other() {
    if !programs::present(&[Program::Chromium, Program::Node]) {
        return;
    }
    let _turn = turn::alone().await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n", PAGE.len());
    let (page, _asked) = plain::canned(head + PAGE).await;
    let folder = Scratch::new("handover-in-chromium");
    let config = config(&folder, super::backend().await, page);
    let mut process = start(&["run"], &config);
    let address = address(&process.until(r#""message":"listening""#).await);

    let part = std::env::var("UNDERPASS_BROWSER").unwrap_or_default();
    let pages =
        tokio::spawn(async move { running::cases("client/handover.mjs", &[&address.to_string(), &part]).await });
    let mut overs = 0;
    while !pages.is_finished() {
        sleep(REST).await;
        process = succeeded(process, &config).await;
        overs += 1;
    }
    pages.await.expect("the pages");
    println!("{overs} hand-overs");
    assert!(overs >= 3, "it was over too soon: {overs} hand-overs");
    process.terminate().await;
}

fn config(folder: &Scratch, backend: SocketAddr, page: SocketAddr) -> PathBuf {
    let socket = folder.path("handover.sock");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nworkers = 2\n[log]\nformat = \"json\"\n[handover]\nsocket = \"{}\"\n\
         [[route]]\npath = \"/\"\nupstream = \"ws://{backend}\"\n[[route]]\npath = \"/page\"\nupstream = \"ws://{page}\"\n",
        socket.display()
    );
    folder.file("underpass.toml", &text)
}

/// A process whose log is read line by line.
fn start(words: &[&str], config: &Path) -> Running {
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec "$0" "$@" 2>&1"#, env!("CARGO_BIN_EXE_underpass")]).args(words).arg(config);
    Running::start(command.env_remove("RUST_LOG"))
}

fn address(line: &str) -> SocketAddr {
    let line: serde_json::Value = serde_json::from_str(line).expect("a line of its log");
    line["address"].as_str().expect("an address").parse().expect("an address")
}

/// The next process, once it has everything and the old one has ended.
async fn succeeded(mut old: Running, config: &Path) -> Running {
    let mut new = start(&["run", "--take-over"], config);
    new.until(GOES_ON).await;
    old.ended().await;
    new
}
