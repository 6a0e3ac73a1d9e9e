//! A real MQTT conversation through a session: Debian's mosquitto is the backend, the npm package `mqtt` the client, whose
//! bytes the test carries as binary messages. Clients that go to the broker directly see the same messages.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::talk::{Heard, Talk, Transport};
use crate::broker::Broker;
use crate::programs::{Program, present};
use crate::running::Running;
use crate::support::site::Site;

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
