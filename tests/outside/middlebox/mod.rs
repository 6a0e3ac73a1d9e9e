//! The browser client in Chromium behind a box that does, one after the other, all that networks are known to do to HTTP and
//! WebSockets: on which transport it ends, how soon the first message comes, whether all come once and in order while the box
//! changes, how closes are seen at both ends, and whether the backend is let go when the page dies. `UNDERPASS_BOX=ghost`
//! runs the rows of that name only; `UNDERPASS_WRITE_NETWORKS=1` writes what was measured into `docs/NETWORKS.md`. Must not
//! touch: fixed ports, the network beyond this machine.

mod behaviours;
mod row;
mod table;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use crate::networks::backend::{self, Ended};
use crate::programs::{self, Program};
use crate::section;
use crate::support::site::{self, Site};
use crate::turn;
use row::Row;

/// The sidecars' grace and longest poll.
const GRACE: Duration = Duration::from_secs(20);
const WAIT: Duration = Duration::from_secs(4);
/// Until the backend sees the end of a page that died. A machine under load is given time.
const RELEASE: Duration = GRACE.saturating_add(WAIT).saturating_add(Duration::from_secs(10));

#[tokio::test]
async fn the_box_does_as_it_is_told() {
    if !programs::present(&[Program::Node]) {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outside/middlebox/try-box.mjs");
    let said = Command::new("node").arg(script).kill_on_drop(true).output().await.expect("node runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
}

/// Every behaviour that is known stands in the document, with what holds it.
#[test]
fn the_list_of_behaviours_is_whole() {
    let wrong = behaviours::complaints(&section::read(table::FILE, "behaviours"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn middlebox() {
    if !programs::present(&[Program::Chromium, Program::Node]) {
        return;
    }
    let _turn = turn::alone().await;
    let (backend, mut ends) = backend::start().await;
    let sites = ["n1", "n2"].map(|node| Site::from_toml(&config(node, backend)));
    let part = std::env::var("UNDERPASS_BOX").unwrap_or_default();
    let (mut node, mut lines) = start(&sites, &part);
    let mut rows = rows(&mut lines, &mut ends).await;
    released(&mut rows, &mut ends).await;
    // The boxes stood until now: they may read on for clients that left.
    drop(node.stdin.take());
    let _ = timeout(site::FOREVER, node.wait()).await;
    rows.sort_by_key(Row::number);
    let text = table::text(&rows);
    println!("{text}");
    let failures: Vec<String> = rows.iter().flat_map(Row::complaints).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(!rows.is_empty(), "no row is named so");
    if writes() && part.is_empty() {
        section::write(table::FILE, "tests/outside/middlebox", &text);
    }
}

fn writes() -> bool {
    std::env::var_os("UNDERPASS_WRITE_NETWORKS").is_some_and(|write| write == "1")
}

fn start(sites: &[Site; 2], part: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outside/middlebox/run.mjs");
    let mut command = Command::new("node");
    command.args([script, &sites[0].at.to_string(), &sites[1].at.to_string(), part]);
    let mut node = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("node runs");
    let lines = BufReader::new(node.stdout.take().expect("piped")).lines();
    (node, lines)
}

/// What is told of each row, and what the backend saw meanwhile.
async fn rows(lines: &mut Lines<BufReader<ChildStdout>>, ends: &mut mpsc::UnboundedReceiver<Ended>) -> Vec<Row> {
    let (mut rows, mut seen) = (Vec::new(), Vec::new());
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let line = line.expect("text").expect("it says when it is over");
                if line == "over" {
                    break;
                }
                rows.push(Row::new(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"))));
            }
            Some(end) = ends.recv() => seen.push((Instant::now(), end)),
        }
    }
    for (at, end) in seen {
        belongs(&mut rows, at, end);
    }
    rows
}

/// Waits for the ends of pages that died.
async fn released(rows: &mut [Row], ends: &mut mpsc::UnboundedReceiver<Ended>) {
    let last = Instant::now() + RELEASE;
    while rows.iter().any(Row::waits) {
        tokio::select! {
            () = sleep_until(last.into()) => return,
            Some(end) = ends.recv() => belongs(rows, Instant::now(), end),
        }
    }
}

fn belongs(rows: &mut [Row], at: Instant, end: Ended) {
    let owner = rows.iter_mut().find_map(|row| Some((row.which(&end.path)?, row)));
    if let Some((which, row)) = owner {
        row.ends[which] = Some((at, end));
    }
}

fn config(node: &str, backend: SocketAddr) -> String {
    let (grace, wait) = (GRACE.as_secs(), WAIT.as_secs());
    format!(
        "listen = \"127.0.0.1:0\"\nnode = \"{node}\"\nworkers = 1\n[session]\nheartbeat = \"2s\"\nwait = \"{wait}s\"\n\
         grace = \"{grace}s\"\n[[route]]\npath = \"/\"\nupstream = \"ws://{backend}\"\n"
    )
}
