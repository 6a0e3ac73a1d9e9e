//! What earlier versions have left is read by this one: for each released format there is a state that was written then, and it
//! stays for ever. A successor gets it as it gets any other, with sockets of today, and goes on with all that is in it.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use underpass::handover::format::{HEAD, StateReader, StateWriter};
use underpass::handover::{Head, Load, Package};
use underpass::lifecycle::moving::{Kind, Parcel};
use underpass::lifecycle::systemd::STORED;

use crate::binary::{Running, address};
use crate::support::manager::Manager;
use crate::support::plain::Line;
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, Site, soon};

const NONCE: &str = r#"{"nonce":"golden-nonce-0001"}"#;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inside/handover")
}

/// The binary under a service manager, with one worker and this backend.
fn start(manager: &Manager, scratch: &Scratch, backend: SocketAddr) -> Running {
    let config = format!(
        "node = \"golden\"\nlisten = \"127.0.0.1:0\"\nworkers = 1\nupstream = \"ws://{backend}\"\nlog.format = \"json\"\n"
    );
    let file = scratch.file("underpass.toml", &config);
    let mut command = manager.command(env!("CARGO_BIN_EXE_underpass"));
    Running::with(command.arg("run").arg(file), |command| manager.start(command))
}

/// Two ends of a connection: ours, and one to hand over.
fn connection() -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let ours = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
    ours.set_nonblocking(true).expect("a socket of ours");
    let theirs = listener.accept().expect("a connection").0;
    theirs.set_nonblocking(true).expect("a socket of ours");
    (ours, theirs.into())
}

/// Our ends of what a state needs.
#[derive(Default)]
struct Ends {
    at: Option<SocketAddr>,
    backend: Option<TcpStream>,
    tunnel: Vec<TcpStream>,
    client: Option<TcpStream>,
    /// Reads the session.
    stream: Option<TcpStream>,
}

/// A load as the process had it that has written this, with sockets of today.
fn revived(state: &[u8]) -> (Load, Ends) {
    let (mut load, mut ends) = (Load::default(), Ends::default());
    for item in StateReader::new(state.to_vec().into()).expect("a state") {
        let item = item.expect("a sound state");
        if item.kind == HEAD {
            load.head = rmp_serde::from_slice::<Head>(&item.record).expect("a head");
            continue;
        }
        let kind = Kind::numbered(item.kind).expect("a kind that was there from the first version on");
        let mut descriptors = Vec::new();
        for _ in 0..item.descriptors {
            if kind == Kind::Listener {
                let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
                ends.at = listener.local_addr().ok();
                descriptors.push(listener.into());
                continue;
            }
            let (ours, descriptor) = connection();
            descriptors.push(descriptor);
            match kind {
                Kind::Session => ends.backend = Some(ours),
                Kind::Tunnel => ends.tunnel.push(ours),
                _ if item.record.windows(9).any(|part| part == b"streaming") => ends.stream = Some(ours),
                _ => ends.client = Some(ours),
            }
        }
        load.parcels.push(Parcel { kind, record: item.record, descriptors });
    }
    (load, ends)
}

fn line(socket: Option<TcpStream>) -> Line {
    Line(tokio::net::TcpStream::from_std(socket.expect("the state has one")).expect("a runtime"))
}

#[tokio::test]
async fn states_of_each_released_format_live_on() {
    let names = fs::read_dir(folder()).expect("this folder").map(|entry| entry.expect("a file").path());
    let states: Vec<_> = names.filter(|path| path.extension().is_some_and(|extension| extension == "bin")).collect();
    assert!(states.iter().any(|path| path.ends_with("handover-1.0.bin")), "{states:?}");
    for path in states {
        let told: Value = fs::read(path.with_extension("json"))
            .map(|text| serde_json::from_slice(&text).expect("JSON"))
            .expect("what is in it");
        lives_on(&fs::read(path).expect("a state"), &told).await;
    }
}

async fn lives_on(state: &[u8], told: &Value) {
    let (load, ends) = revived(state);
    let kinds: Vec<_> = load.parcels.iter().map(|parcel| parcel.kind).collect();
    assert!(Kind::ALL.iter().all(|kind| kinds.contains(kind)), "one of each kind: {kinds:?}");
    let (manager, scratch) = (Manager::new("golden", 4), Scratch::new("golden"));
    let package = load.pack().expect("it is packed");
    manager.keep(STORED, package.as_fd().try_clone_to_owned().expect("a spare descriptor"));
    drop((load, package));
    let mut running = start(&manager, &scratch, ([127, 0, 0, 1], 9).into());
    let went_on = running.says("went on where the process before has stopped").await;
    assert_eq!((&went_on["sessions"], &went_on["tunnels"], &went_on["lost"]), (&json!(1), &json!(1), &json!(0)));
    manager.stores(&[]);

    let site = Site::elsewhere(ends.at.expect("a listener"), None);
    let session = format!("/_underpass/s/{}", told["session"].as_str().expect("a token"));
    let mut backend = line(ends.backend);
    backend.say(b"\x81\x06down 3").await;
    let streamed = line(ends.stream).until("down 3").await;
    assert!(streamed.contains("id: 3") && !streamed.contains("down 2"), "it goes on where it was: {streamed}");
    let polled = site.get(&format!("{session}/poll?after=1&wait=5")).await.json();
    assert_eq!(polled["messages"], json!(["down 2", "down 3"]), "nothing was acknowledged by that");
    let sent = site.post(&format!("{session}/send?seq=2&as=text"), "up 2").await.json();
    assert_eq!(sent["next"], json!(3), "the first one is known");
    let frame = backend.bytes(10).await;
    let unmasked: Vec<u8> = frame[6..].iter().zip(frame[2..6].iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    assert_eq!((&frame[..2], &unmasked[..]), (&[0x81, 0x84][..], &b"up 2"[..]));

    let again = site.post("/golden?underpass=open", NONCE).await.json();
    assert_eq!(again["session"]["token"], told["session"], "the nonce is known");
    let ended = format!("/_underpass/s/{}/poll?after=0&wait=0", told["ended"].as_str().expect("a token"));
    assert_eq!(site.get(&ended).await.status, 410, "its end is known");

    let [client, server] = <[TcpStream; 2]>::try_from(ends.tunnel).expect("two ends");
    let (mut client, mut server) = (line(Some(client)), line(Some(server)));
    client.say(b"\x81\x82\0\0\0\0up").await;
    assert_eq!(server.bytes(8).await, b"\x81\x82\0\0\0\0up");
    server.say(b"\x81\x04down").await;
    assert_eq!(client.bytes(6).await, b"\x81\x04down");

    let mut client = line(ends.client);
    client.say("GET /_underpass/info HTTP/1.1\r\nHost: golden\r\n\r\n").await;
    assert!(client.answer().await.0.starts_with("http/1.1 200"));
}

/// Writes the state of the format that this version has: `UNDERPASS_WRITE_GOLDEN=1.0 cargo test --test inside golden`. To be done
/// once, before that version is released.
#[tokio::test]
async fn a_golden_state_is_written_when_it_is_wanted() {
    let Ok(version) = std::env::var("UNDERPASS_WRITE_GOLDEN") else {
        println!("nothing is written: UNDERPASS_WRITE_GOLDEN says no version");
        return;
    };
    let (manager, scratch, mut backend) = (Manager::new("write", 4), Scratch::new("write"), Backend::start().await);
    let mut running = start(&manager, &scratch, backend.at);
    let at = address(&running.says("listening").await);
    let site = Site::elsewhere(at, None);
    let opened = site.post("/golden?underpass=open", NONCE).await.json();
    let session = opened["session"]["token"].clone();
    let mut of_session = backend.accept().await;
    of_session.send("down 1").await;
    of_session.send("down 2").await;
    let url = format!("/_underpass/s/{}", session.as_str().expect("a token"));
    assert_eq!(site.post(&format!("{url}/send?seq=1&as=text"), "up 1").await.status, 200);
    assert_eq!(of_session.next_text().await, "up 1");
    let polled = site.get(&format!("{url}/poll?after=0&wait=5")).await.json();
    assert_eq!(polled["messages"][0], "down 1");
    let polled = site.get(&format!("{url}/poll?after=1&wait=5")).await.json();
    assert_eq!(polled["messages"][0], "down 2");

    let mut stream = Line::to(at).await;
    stream.say(format!("GET {url}/sse?after=1 HTTP/1.1\r\nHost: golden\r\n\r\n")).await;
    stream.until("down 2").await;

    let ended = site.open("/ended").await;
    let mut of_ended = backend.accept().await;
    assert_eq!(site.post(&format!("{}/close", ended.url), "").await.status, 200);
    of_ended.closed().await;
    drop(of_ended);
    running.says("session ended").await;
    // Told and acknowledged, and so nothing but remembered.
    for after in 0..=1 {
        site.get(&format!("{}/poll?after={after}&wait=0", ended.url)).await;
    }

    let mut tunnel = site.websocket("/tunnel", &[]).await;
    let mut of_tunnel = backend.accept().await;
    tunnel.send(Message::text("up")).await.expect("it is open");
    assert_eq!(of_tunnel.next_text().await, "up");
    of_tunnel.send("down").await;
    soon("a message", tunnel.next()).await.expect("it is open").expect("a message");
    let mut client = Line::to(at).await;
    client.say("GET /_underpass/info HTTP/1.1\r\nHost: golden\r\n\r\n").await;
    client.answer().await;

    running.signal("-USR2");
    assert_eq!(running.exits().await, 0, "{:#?}", running.lines);
    let load = Package::from(manager.copy(STORED).expect("it is kept")).unpack().expect("a sound package");
    let mut writer = StateWriter::new(Vec::new()).expect("memory");
    writer.item(HEAD, 0, &rmp_serde::to_vec_named(&load.head).expect("plain data")).expect("memory");
    for parcel in &load.parcels {
        writer.item(parcel.kind as u8, parcel.descriptors.len(), &parcel.record).expect("memory");
    }
    let state = folder().join(format!("handover-{version}.bin"));
    fs::write(&state, writer.end().expect("memory")).expect("a writable folder");
    let told = json!({ "session": session, "ended": ended.session["token"] });
    fs::write(state.with_extension("json"), format!("{told:#}\n")).expect("a writable folder");
}
