//! What the field reported, in real browsers: applications that work without us must work with us, and the same way. Each
//! case runs where WebSockets pass and where they do not, and where it can beside the browser's own WebSocket.
//! `UNDERPASS_FIELD=name` runs the cases of that name only. Must not touch: fixed ports, the network beyond this machine.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::programs::{self, Program};
use crate::turn;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_field_reported_in_chromium() {
    what_the_field_reported(Program::Chromium, "chromium").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_field_reported_in_firefox() {
    what_the_field_reported(Program::Firefox, "firefox").await;
}

async fn what_the_field_reported(program: Program, browser: &str) {
    if !programs::present(&[program, Program::Node]) {
        return;
    }
    let _turn = turn::shared().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside/field/run.mjs");
    let status = Command::new("node")
        .arg(script)
        .args([env!("CARGO_BIN_EXE_underpass"), browser])
        .arg(std::env::var("UNDERPASS_FIELD").unwrap_or_default())
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .expect("node runs");
    assert!(status.success(), "cases failed: they are named above");
}
