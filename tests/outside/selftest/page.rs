//! What the page says of a network.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use super::behind;
use crate::programs::{Program, present};
use crate::support::selftest::{TRIES, site};
use crate::turn;

/// What the page said in the end.
struct Said(Value);

impl Said {
    async fn of(origin: &str, proxy: &str, modes: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outside/selftest/page.mjs");
        let mut node = Command::new("node");
        node.args([script, origin, proxy, modes, "10"])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        let told = node.output().await.expect("node runs");
        let said: Value = serde_json::from_slice(&told.stdout).expect("it prints JSON");
        assert!(said["failed"].is_null() && said["thrown"] == serde_json::json!([]), "{said:#}");
        assert!(said["time"].as_str().is_some_and(|time| time.starts_with("Done")), "{said:#}");
        assert!(said["wider"].as_i64() <= Some(0), "on a phone the page is {} pixels too wide", said["wider"]);
        Self(said)
    }

    /// Again, until it says what only a machine at rest lets it say.
    async fn saying(verdict: &str, origin: &str, proxy: &str, modes: &str) -> Self {
        for _ in 1..TRIES {
            let said = Self::of(origin, proxy, modes).await;
            if said.verdict() == verdict {
                return said;
            }
        }
        let said = Self::of(origin, proxy, modes).await;
        assert!(said.verdict() == verdict, "{:#}", said.0);
        said
    }

    fn verdict(&self) -> &str {
        self.0["verdict"].as_str().expect("a verdict")
    }

    /// The words in a row's columns: opens, streams, is cut, round trip, 128 KiB.
    fn row(&self, row: &str) -> Vec<&str> {
        let cells = self.0["rows"][row].as_array().unwrap_or_else(|| panic!("no row {row}"));
        cells.iter().map(|cell| cell.as_str().expect("words")).collect()
    }

    fn begins(&self, row: &str, expected: &[&str]) {
        for (cell, expected) in self.row(row).into_iter().zip(expected) {
            assert!(cell.starts_with(expected), "{row}: `{cell}` is not `{expected}…` in {:#}", self.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_finds_everything_open_where_nothing_is_in_the_way() {
    if !present(&[Program::Chromium, Program::Node]) {
        return;
    }
    let _turn = turn::shared().await;
    let site = site(None);
    let said =
        Said::saying("WebSockets get through. So does everything else.", &format!("http://{}", site.at), "", "").await;
    for row in ["native", "ws", "sse", "stream", "poll"] {
        said.begins(row, &["yes, ", "yes, at once", "no, in 1"]);
        assert!(said.row(row)[3].contains(", at most ") && said.row(row)[4].ends_with('s'), "{:?}", said.row(row));
    }
    said.begins("post", &["yes, ", "–", "–"]);
    assert_eq!(said.0["notes"], serde_json::json!(["Nothing to be seen."]));
    let report = said.0["report"].as_str().expect("a report");
    assert!(report.contains(said.verdict()) && report.contains("client seen as 127.0.0.1"), "{report}");
    assert!(!report.contains("n1-"), "a token in the report: {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_names_what_a_box_blocks_holds_and_delays() {
    if !present(&[Program::Chromium, Program::Node]) {
        return;
    }
    let _turn = turn::shared().await;
    let site = site(None);
    // The box keeps `Host`, so the page is the sidecar's own.
    let modes = r#"{"ws":"kill","sse":"hold","stream":"late"}"#;
    let verdict = "WebSockets do not get through. Fit for use: poll; the client takes poll.";
    let said = Said::saying(verdict, &format!("http://{}", site.at), "", modes).await;
    said.begins("native", &["no: closed after ", "–", "–", "–", "–"]);
    said.begins("ws", &["no: closed after ", "–"]);
    said.begins("sse", &["no answer in ", "held, nothing for "]);
    said.begins("stream", &["yes, ", "held for "]);
    said.begins("poll", &["yes, ", "yes, at once", "no, in "]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_finds_what_real_proxies_do() {
    if !present(&[Program::Chromium, Program::Node, Program::Boxes]) {
        return;
    }
    let _turn = turn::shared().await;
    let (nginx, _sites) = behind("nginx, `proxy_ignore_headers").await;
    let verdict = "WebSockets do not get through. Fit for use: poll; the client takes poll.";
    let said = Said::saying(verdict, &format!("http://{}", nginx.at()), "", "").await;
    said.begins("sse", &["", "held"]);
    said.begins("stream", &["", "held"]);
    let notes = said.0["notes"].to_string();
    assert!(notes.contains("the server hears HTTP/1.0") && notes.contains("Host became "), "{notes}");
    assert!(notes.contains("answer gained server: nginx"), "{notes}");

    let (squid, sites) = behind("squid").await;
    let proxy = format!("http://{}", squid.at());
    let verdict = "WebSockets do not get through. Fit for use: sse, stream, poll; the client takes sse.";
    let said = Said::saying(verdict, &format!("http://{}", sites[0].at), &proxy, "").await;
    let notes = said.0["notes"].to_string();
    assert!(notes.contains("request gained via: ") && notes.contains("answer gained via: "), "{notes}");
}
