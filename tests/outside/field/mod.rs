//! What the field reported, in real browsers: applications that work without us must work with us, and the same way. Each
//! case runs where WebSockets pass and where they do not, and where it can beside the browser's own WebSocket.
//! `UNDERPASS_FIELD=name` runs the cases of that name only. Must not touch: fixed ports, the network beyond this machine.

use crate::programs::{self, Program};
use crate::{running, turn};

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
    let part = std::env::var("UNDERPASS_FIELD").unwrap_or_default();
    running::cases("field/run.mjs", &[env!("CARGO_BIN_EXE_underpass"), browser, &part]).await;
}
