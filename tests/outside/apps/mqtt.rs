//! The npm package `mqtt` in a page, mosquitto as its broker, and clients that go there directly as witnesses.

use std::fs;
use std::path::Path;

use tokio::process::Command;

use super::stage::{NEEDED, Stage, networks};
use crate::broker::Broker;
use crate::networks::boxes::Spec;
use crate::programs::{Program, present, script};
use crate::running::Running;
use crate::support::scratch::Scratch;
use crate::turn;

/// Messages that are sent while the network is cut.
const COUNT: u32 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mqtt_in_a_page() {
    if !present(&NEEDED) || !present(&[Program::Mosquitto]) {
        return;
    }
    let _turn = turn::shared().await;
    let files = Scratch::new("mqtt-page");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside/apps/mqtt.html");
    fs::copy(page, files.path("mqtt.html")).expect("a page");
    fs::copy(script("node_modules/mqtt/dist/mqtt.min.js"), files.path("mqtt.min.js")).expect("npm's script");
    let mut pages = Command::new("python3");
    pages.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"]).arg(files.path(""));
    let mut pages = Running::start(&mut pages);
    let line = pages.until("Serving HTTP on").await;
    let port = line.split_whitespace().skip_while(|word| *word != "port").nth(1).expect("a port").to_owned();
    for network in networks() {
        converse(network, &port).await;
    }
}

async fn converse(network: Spec, pages: &str) {
    let mut broker = Broker::start().await;
    let routes = format!(
        "[[route]]\npath = \"/\"\nupstream = \"http://127.0.0.1:{pages}\"\ninject = true\n\
         [[route]]\npath = \"/mqtt\"\nupstream = \"ws://{}\"\n",
        broker.websockets
    );
    let mut watcher = broker.client("mosquitto_sub", &["-i", "watcher", "-t", "up/#", "-q", "1", "-F", "%t %x"]);
    broker.log.until("Sending SUBACK to watcher").await;
    let mut stage = Stage::start(network, "mqtt", &routes).await;
    let mut speaker = None;
    while let Some(wish) = stage.next().await {
        match wish.as_str() {
            "sent" => {
                assert_eq!(watcher.expect().await, format!("up/text {}", hex("grüße from the page".as_bytes())));
                publish(&broker, &["-t", "down/text", "-m", "grüße, from outside"]).await;
            }
            "sent binary" => {
                assert_eq!(watcher.expect().await, "up/text 00ff800a0d41");
                let payload = std::env::temp_dir().join(format!("underpass-payload-{}", std::process::id()));
                fs::write(&payload, [0, 1, 0xfe, 0xff, 0x0d, 0x0a]).expect("a file");
                publish(&broker, &["-t", "down/binary", "-f", &payload.display().to_string()]).await;
                let _ = fs::remove_file(payload);
            }
            // One that speaks for seconds, so that the cut comes in between.
            "count" => speaker = Some(count(&broker)),
            "left" => assert_eq!(connections(&mut broker).await, 1, "the page connected again"),
            other => panic!("the user wants {other}"),
        }
        stage.answer("").await;
    }
    drop(speaker);
}

async fn publish(broker: &Broker, arguments: &[&str]) {
    broker.client("mosquitto_pub", arguments).ended().await;
}

fn count(broker: &Broker) -> Running {
    let script = format!(
        "for n in $(seq 0 {}); do echo $n; sleep 0.05; done | mosquitto_pub -h {} -p {} -i speaker -t down/count -l",
        COUNT - 1,
        broker.plain.ip(),
        broker.plain.port()
    );
    Running::start(Command::new("bash").args(["-c", &script]))
}

/// How often the page had connected when it left, by the broker's word.
async fn connections(broker: &mut Broker) -> usize {
    let mut count = 0;
    loop {
        let line = broker.log.expect().await;
        count += usize::from(line.contains("Sending CONNACK to page-"));
        if line.contains("Received DISCONNECT from page-") {
            return count;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
