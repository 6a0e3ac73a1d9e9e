//! A real MQTT conversation through a session: Debian's mosquitto is the backend, the npm package `mqtt` the client, whose
//! bytes the test carries as binary messages. Clients that go to the broker directly see the same messages.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::outside::{Program, command, present};
use crate::running::Running;
use crate::site::Site;
use crate::talk::{Heard, Talk, Transport};

#[tokio::test]
async fn mqtt_is_carried_by_sse() {
    carry_mqtt(Transport::Sse).await;
}

#[tokio::test]
async fn mqtt_is_carried_by_streams() {
    carry_mqtt(Transport::Stream).await;
}

#[tokio::test]
async fn mqtt_is_carried_by_polls() {
    carry_mqtt(Transport::Poll).await;
}

#[tokio::test]
async fn mqtt_is_carried_by_ws() {
    carry_mqtt(Transport::Ws).await;
}

async fn carry_mqtt(transport: Transport) {
    if !present(&[Program::Mosquitto, Program::Node]) {
        return;
    }
    let mut broker = Broker::start().await;
    let site = Site::start(broker.websockets, "");
    let talk = Talk::open(&site, "/mqtt", &["mqtt"], transport).await;
    assert_eq!(talk.protocol, "mqtt");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port().to_string();

    let mut watcher = broker.client("mosquitto_sub", &["-i", "watcher", "-t", "up", "-q", "1", "-C", "1"]);
    broker.log.until("Sending SUBACK to watcher").await;
    let mut client = Running::script("mqtt.js", &[&port]);
    let (socket, _) = listener.accept().await.expect("the client connects");
    let carried = async move {
        assert_eq!(client.expect().await, "subscribed down 1");
        let said = ["-i", "speaker", "-t", "down", "-q", "1", "-m", "grüße, from outside"];
        broker.client("mosquitto_pub", &said).ended().await;
        assert_eq!(client.expect().await, "heard down 1 grüße, from outside");
        assert_eq!(client.expect().await, "published");
        assert_eq!(watcher.expect().await, "from the carried client");
        watcher.ended().await;
        assert_eq!(client.expect().await, "ponged");
        assert_eq!(client.expect().await, "left");
        client.ended().await;
        // The broker's own word on what the carried client did.
        broker.log.until("Received PINGREQ from carried").await;
        broker.log.until("Received DISCONNECT from carried").await;
    };
    let ((), end) = tokio::join!(carried, carry(socket, talk));
    // After an MQTT DISCONNECT mosquitto drops the connection without a close frame, on a direct client too.
    assert_eq!(end, Heard::Close(1006, String::new()));
}

/// Carries bytes between a socket and a session until the session is closed; how it was closed.
async fn carry(mut socket: TcpStream, mut talk: Talk<'_>) -> Heard {
    let (mut from_client, mut to_client) = socket.split();
    let mut buffer = [0; 4096];
    let mut open = true;
    loop {
        tokio::select! {
            count = from_client.read(&mut buffer), if open => match count.expect("a whole connection") {
                0 => open = false,
                count => talk.say_bytes(&buffer[..count]).await,
            },
            heard = talk.hear() => match heard {
                Heard::Binary(bytes) => to_client.write_all(&bytes).await.expect("the client reads"),
                end => return end,
            },
        }
    }
}

/// Debian's mosquitto, listening for WebSockets and, for the direct clients, for plain MQTT.
struct Broker {
    websockets: SocketAddr,
    plain: SocketAddr,
    log: Running,
    directory: PathBuf,
}

impl Broker {
    /// On ports that were free a moment ago; with others where that was too long ago.
    async fn start() -> Self {
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
    fn client(&self, name: &str, arguments: &[&str]) -> Running {
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

async fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address")
}
