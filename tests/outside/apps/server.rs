//! A server that is started on a port that was free. Enters: how to start it. Leaves: its address, once it answers.
//! Must not touch: what it serves.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::process::Command;

use crate::running::Running;

/// The slowest of them on a slow machine.
const START: Duration = Duration::from_secs(120);

pub(crate) struct Server {
    pub(crate) at: SocketAddr,
    running: Running,
}

impl Server {
    /// `command` is given a port; `ready` is part of a line that it says when it serves.
    pub(crate) async fn start(command: impl Fn(u16) -> Command, ready: &str) -> Self {
        // A port that was free may be taken before the server has it.
        for _ in 0..3 {
            let at = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("an address");
            let mut running = Running::start(&mut command(at.port()));
            let mut said = Vec::new();
            while let Some(line) = running.line_within(START).await {
                if line.contains(ready) {
                    return Self { at, running };
                }
                said.push(line);
            }
            println!("a server did not start:\n{}", said.join("\n"));
        }
        panic!("a server does not start");
    }

    /// Ends it in its own way, so that it ends what it started.
    pub(crate) async fn stop(mut self) {
        self.running.terminate().await;
    }
}

/// A command whose complaints are lines like all others.
pub(crate) fn outspoken(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(program);
    command
}
