//! Debian's mosquitto. Enters: nothing. Leaves: its addresses, its log, clients that go to it directly. Must not touch:
//! fixed ports, what Debian configured.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio::process::Command;

use crate::programs::command;
use crate::running::Running;

/// Debian's mosquitto, listening for WebSockets and, for the direct clients, for plain MQTT.
pub(crate) struct Broker {
    pub(crate) websockets: SocketAddr,
    pub(crate) plain: SocketAddr,
    pub(crate) log: Running,
    directory: PathBuf,
}

impl Broker {
    /// On ports that were free a moment ago; with others where that was too long ago.
    pub(crate) async fn start() -> Self {
        for _ in 0..5 {
            if let Some(broker) = Self::try_start().await {
                return broker;
            }
        }
        panic!("mosquitto does not start: is something wrong with its configuration?");
    }

    async fn try_start() -> Option<Self> {
        let (websockets, plain) = (free_port().await, free_port().await);
        let directory = std::env::temp_dir().join(format!("underpass-mqtt-{}-{}", std::process::id(), plain.port()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = directory.join("mosquitto.conf");
        let lines = [
            "allow_anonymous true".to_owned(),
            "persistence false".to_owned(),
            "log_dest stderr".to_owned(),
            "log_type all".to_owned(),
            format!("listener {} 127.0.0.1", plain.port()),
            format!("listener {} 127.0.0.1", websockets.port()),
            "protocol websockets".to_owned(),
        ];
        std::fs::write(&file, lines.join("\n")).expect("a file");
        let program = command("mosquitto").expect("present");
        // Its log on standard output would wait in a buffer.
        let mut shell = Command::new("sh");
        let mut log = Running::start(shell.args(["-c", "exec \"$0\" -c \"$1\" 2>&1"]).arg(program).arg(&file));
        while let Some(line) = log.line().await {
            if line.ends_with(" running") {
                return Some(Self { websockets, plain, log, directory });
            }
        }
        None
    }

    /// A client that goes to the broker directly.
    pub(crate) fn client(&self, name: &str, arguments: &[&str]) -> Running {
        let program = command(name).expect("present");
        let port = self.plain.port().to_string();
        Running::start(Command::new(program).args(["-h", "127.0.0.1", "-p", &port, "-V", "311"]).args(arguments))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// One that is free at this moment.
pub(crate) async fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address")
}
