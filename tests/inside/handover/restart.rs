//! The binary under a service manager, where its start goes wrong.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use serde_json::json;
use underpass::lifecycle::systemd::STORED;

use crate::binary::{Running, address};
use crate::support::manager::Manager;
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, Site, soon};

fn config(scratch: &Scratch, backend: SocketAddr, more: &str) -> PathBuf {
    let text = format!(
        "listen = \"127.0.0.1:0\"\nupstream = \"ws://{backend}\"\nadmin = \"127.0.0.1:0\"\nlog.format = \"json\"\n{more}"
    );
    scratch.file("underpass.toml", &text)
}

fn start(manager: &Manager, config: PathBuf) -> Running {
    let mut command = manager.command(env!("CARGO_BIN_EXE_underpass"));
    Running::with(command.arg("run").arg(config), |command| manager.start(command))
}

#[tokio::test]
async fn what_a_process_cannot_start_with_is_kept_for_the_next_one() {
    let (manager, scratch, mut backend) = (Manager::new("restart", 4), Scratch::new("restart"), Backend::start().await);
    let mut first = start(&manager, config(&scratch, backend.at, ""));
    let site = first.site_with_admin().await;
    let opened = site.open("/kept").await;
    let mut socket = backend.accept().await;
    first.signal("-USR2");
    assert_eq!(first.exits().await, 0, "{:#?}", first.lines);

    // `check` has nothing against an address that is taken.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listener = format!("[[listener]]\naddress = \"{}\"\n", taken.local_addr().expect("an address"));
    let mut second = start(&manager, config(&scratch, backend.at, &listener));
    assert_eq!(second.exits().await, 1, "{:#?}", second.lines);
    manager.stores(&[STORED]);

    let mut third = start(&manager, config(&scratch, backend.at, ""));
    let at = address(&third.says("listening").await);
    let site = Site::elsewhere(at, Some(address(&third.says("admin listening").await)));
    socket.send("still here").await;
    let polled = soon("a message", site.get(&format!("{}/poll?after=0&wait=5", opened.url))).await.json();
    assert_eq!(polled["messages"], json!(["still here"]));
    site.counts("underpass_handover_total{result=\"restarted\"}", 1.0).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_counted_and_let_go_of() {
    let (manager, scratch) = (Manager::new("unreadable", 4), Scratch::new("unreadable"));
    let package = super::load(Vec::new()).pack().expect("it is packed");
    manager.keep(STORED, std::os::fd::AsFd::as_fd(&package).try_clone_to_owned().expect("a spare descriptor"));
    // An empty one, as of a process that died with it.
    package.unpack().expect("a sound package");
    let mut running = start(&manager, config(&scratch, ([127, 0, 0, 1], 9).into(), ""));
    let site = running.site_with_admin().await;
    site.counts("underpass_handover_total{result=\"unreadable\"}", 1.0).await;
    manager.stores(&[]);
}
