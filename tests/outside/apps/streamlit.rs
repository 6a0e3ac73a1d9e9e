//! Streamlit, as PyPI has it, with a page of ours.

use std::path::Path;

use tokio::process::Command;

use super::server::{Server, outspoken};
use super::stage::{NEEDED, Stage, networks};
use crate::programs::{self, Program, present};
use crate::support::scratch::Scratch;
use crate::turn;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streamlit() {
    if !present(&NEEDED) || !present(&[Program::Applications]) {
        return;
    }
    let _turn = turn::shared().await;
    let files = Scratch::new("streamlit");
    let server = Server::start(|port| command(port, &files), "Uvicorn server started on").await;
    for network in networks() {
        let routes = format!("upstream = \"http://{}\"\ninject = true", server.at);
        let mut stage = Stage::start(network, "streamlit", &routes).await;
        assert_eq!(stage.next().await.as_deref(), Some("came back"));
        stage.left(1.0).await;
        stage.answer("").await;
        assert_eq!(stage.next().await, None);
    }
    server.stop().await;
}

fn command(port: u16, files: &Scratch) -> Command {
    let mut command = outspoken(&programs::application("streamlit"));
    command.arg("run").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside/apps/widgets.py"));
    command.args(["--server.headless", "true", "--server.address", "127.0.0.1"]);
    command.args(["--server.port", &port.to_string()]);
    // Nobody is told.
    command.args(["--browser.gatherUsageStats", "false"]);
    command.env("HOME", files.path("")).current_dir(files.path("")).env("PYTHONUNBUFFERED", "1");
    command
}
