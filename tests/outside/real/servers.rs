//! Backends of the field behind the sidecar: the npm package `ws` and the PyPI package `websockets`, both with compression
//! on and pings of their own, hold the same conversation over every transport and through the tunnel.

use serde_json::{Value, json};

use super::talk::{Heard, Talk, Transport};
use crate::programs::{Program, present};
use crate::running::Running;
use crate::support::site::Site;

/// Two fifths of it are heard before the attachment is dropped.
const BURST: u64 = 1000;

#[tokio::test]
async fn the_server_of_npm_ws_talks_over_every_transport() {
    if present(&[Program::Node]) {
        converse_over_every_transport("ws-server.js").await;
    }
}

#[tokio::test]
async fn the_server_of_python_websockets_talks_over_every_transport() {
    if present(&[Program::Python]) {
        converse_over_every_transport("websockets-server.py").await;
    }
}

#[tokio::test]
async fn the_client_of_npm_ws_compresses_through_the_tunnel_to_npm_ws() {
    if present(&[Program::Node]) {
        compress_through_the_tunnel("ws-server.js").await;
    }
}

#[tokio::test]
async fn the_client_of_npm_ws_compresses_through_the_tunnel_to_python_websockets() {
    if present(&[Program::Node, Program::Python]) {
        compress_through_the_tunnel("websockets-server.py").await;
    }
}

/// A server of ours and the sidecar in front of it.
async fn behind(server: &str) -> (Running, Site) {
    let mut running = Running::script(server, &[]);
    let port: u16 = running.expect().await.parse().expect("a port");
    let site = Site::start(([127, 0, 0, 1], port).into(), "");
    (running, site)
}

async fn converse_over_every_transport(server: &str) {
    let (_running, site) = behind(server).await;
    for transport in Transport::ALL {
        println!("{server} over {transport:?}");
        converse(Talk::open(&site, "/talk?room=1", &["first", "second"], transport).await).await;
    }
}

async fn converse(mut talk: Talk<'_>) {
    assert_eq!(talk.protocol, "first");
    // The sidecar offers no extension to the backend, so nothing is compressed on a session's upstream.
    talk.say("extensions").await;
    assert_eq!(talk.hear().await, Heard::text("none"));

    let long = "a long text that compresses well; ".repeat(20_000);
    for text in ["grüße", "", "two\nlines\r\nand a bit\r", &long] {
        talk.say(text).await;
        assert_eq!(talk.hear().await, Heard::text(text));
    }
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    talk.say_bytes(&bytes).await;
    assert_eq!(talk.hear().await, Heard::Binary(bytes.into()));

    talk.say("pings 3").await;
    assert_eq!(talk.hear().await, Heard::text("ponged 3"));

    talk.say(&format!("burst {BURST}")).await;
    for n in 1..=BURST {
        let text = n.to_string();
        let wanted = if n % 3 == 0 { Heard::Binary(text.into()) } else { Heard::Text(text) };
        assert_eq!(talk.hear().await, wanted);
        if n == BURST * 2 / 5 {
            talk.reattach().await;
        }
    }

    talk.say("close 4001 kicked out").await;
    assert_eq!(talk.hear().await, Heard::Close(4001, "kicked out".into()));
}

async fn compress_through_the_tunnel(server: &str) {
    let (_running, site) = behind(server).await;
    let mut client = Running::script("ws-client.js", &[&format!("ws://{}/talk?room=1", site.at)]);
    let found: Value = serde_json::from_str(&client.expect().await).expect("JSON");
    client.ended().await;
    let deflate = "permessage-deflate";
    let wanted = json!({
        "protocol": "first", "client": deflate, "server": deflate, "pings": "ponged 3", "code": 4001, "reason": "kicked out",
    });
    assert_eq!(found, wanted);
}
