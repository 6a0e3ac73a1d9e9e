//! JupyterLab, as PyPI has it.

use tokio::process::Command;

use super::server::{Server, outspoken};
use super::stage::{NEEDED, Stage, networks};
use crate::programs::{self, Program, present};
use crate::support::scratch::Scratch;
use crate::turn;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jupyterlab() {
    if !present(&NEEDED) || !present(&[Program::Applications]) {
        return;
    }
    let _turn = turn::shared().await;
    for network in networks() {
        // A fresh one each: it remembers what was open.
        let files = Scratch::new(&format!("jupyterlab-{}", network.transport));
        let server = Server::start(|port| command(port, &files), "is running at").await;
        // A picture, or a wide table, is one message; and a kernel that starts keeps its WebSocket waiting.
        let routes = format!(
            "upstream = \"http://{}\"\ninject = true\n[session]\nmessage = \"16MiB\"\n[backend]\nhandshake = \"60s\"",
            server.at
        );
        let mut stage = Stage::start(network, "jupyterlab", &routes).await;
        assert_eq!(stage.next().await, None);
        server.stop().await;
    }
}

fn command(port: u16, files: &Scratch) -> Command {
    let (work, settings) = (files.path("work"), files.path("settings"));
    let terminal = settings.join("@jupyterlab/terminal-extension");
    for place in [&work, &terminal] {
        std::fs::create_dir_all(place).expect("the directory is ours");
    }
    // Terminals are pictures; for those who cannot see there is text beside them.
    std::fs::write(terminal.join("plugin.jupyterlab-settings"), "{ \"screenReaderMode\": true }").expect("a file");
    let mut command = outspoken(&programs::application("jupyter-lab"));
    command.args(["--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0"]);
    command.arg(format!("--ServerApp.port={port}"));
    // Neither a password, nor questions to PyPI and to Jupyter's news.
    command.args(["--IdentityProvider.token=", "--LabApp.news_url=", "--LabApp.extension_manager=readonly"]);
    command.arg("--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate");
    command.args(["--allow-root"]).arg(format!("--ServerApp.root_dir={}", work.display()));
    command.current_dir(&work).env("HOME", files.path("")).env("SHELL", "/bin/bash");
    for (name, place) in [("CONFIG", "config"), ("DATA", "data"), ("RUNTIME", "runtime")] {
        command.env(format!("JUPYTER_{name}_DIR"), files.path(place));
    }
    command.env("JUPYTERLAB_SETTINGS_DIR", settings).env("IPYTHONDIR", files.path("ipython"));
    command
}
