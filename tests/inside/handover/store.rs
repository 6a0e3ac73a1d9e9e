//! A service manager keeps a package while there is no process. The processes are this test binary's; the manager is the one of
//! the tests' own. Must not touch: the machine's own service manager.

use std::os::unix::net::{UnixDatagram, UnixStream};

use underpass::handover::store::{self, StoreError};
use underpass::handover::{Load, Package};
use underpass::lifecycle::moving::{Kind, Parcel};
use underpass::lifecycle::sockets::Sockets;
use underpass::lifecycle::systemd::STORED;

use super::{child, load, sockets, this, told};
use crate::support::manager::Manager;
use crate::support::scratch::Scratch;

const CHILD: &str = "handover::store::child_plays_a_process";

/// Run by the other tests, each time as another process of a unit.
#[test]
fn child_plays_a_process() {
    let Some(told) = told() else { return };
    let mut passed = Sockets::from_env().expect("what the manager passes");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if let Some(package) = passed.stored() {
            println!(
                "unpacked {:?},",
                Package::from(package).unpack().map(|load| texts(&load)).map_err(|e| e.to_string())
            );
            store::forget();
        }
        if told != "leave nothing" {
            assert!(store::is_available());
            let package = load(vec![Parcel::new(Kind::Tunnel, &told, sockets(2))]).pack().expect("it is packed");
            println!("kept {:?},", store::keep(package).await.map_err(|error| error.to_string()));
        }
    });
}

fn texts(load: &Load) -> Vec<String> {
    load.parcels.iter().map(|parcel| parcel.read().expect("a text")).collect()
}

async fn process(manager: &Manager, told: &str) -> String {
    let mut command = manager.command(&this());
    let out = std::process::Stdio::piped;
    command.args(["--exact", CHILD, "--nocapture"]).env(super::CHILD, told).stdout(out()).stderr(out());
    let child = manager.start(&mut command);
    let output = crate::support::site::soon("the process", child.wait_with_output()).await.expect("it runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

#[tokio::test]
async fn what_is_kept_comes_back_once_through_any_number_of_restarts() {
    let manager = Manager::new("store-restarts", 4);
    let said = process(&manager, "one").await;
    assert!(said.contains("kept Ok(())") && !said.contains("unpacked"), "{said}");
    for (told, expected) in [("two", "one"), ("three", "two"), ("leave nothing", "three")] {
        assert_eq!(manager.stored(), [STORED], "it is kept without a process, and once");
        let said = process(&manager, told).await;
        assert!(said.contains(&format!("unpacked Ok([{expected:?}])")), "{said}");
    }
    manager.stores(&[]);
}

#[tokio::test]
async fn a_stop_lets_go_of_what_is_kept() {
    let manager = Manager::new("store-stop", 4);
    process(&manager, "one").await;
    manager.stopped();
    let said = process(&manager, "leave nothing").await;
    assert!(!said.contains("unpacked"), "{said}");
}

/// Before 254 systemd does not say whether it keeps anything, and nobody answers a notification.
#[tokio::test]
async fn a_manager_that_keeps_nothing_is_found_out() {
    let manager = Manager::new("store-none", 0);
    let said = process(&manager, "one").await;
    assert!(said.contains("did not keep it: set FileDescriptorStoreMax="), "{said}");
}

#[tokio::test]
async fn what_was_unpacked_is_nobodys_even_if_it_is_still_kept() {
    let manager = Manager::new("store-stale", 4);
    process(&manager, "one").await;
    let copy = manager.copy(STORED).expect("it is kept");
    // As a process would that dies at once.
    Package::from(copy).unpack().expect("the first time");
    let said = process(&manager, "leave nothing").await;
    assert!(said.contains("unpacked Err(\"there is nothing in it"), "{said}");
}

#[tokio::test]
async fn a_manager_that_does_not_answer_is_not_waited_for() {
    let folder = Scratch::new("store-silent");
    let path = folder.path("notify");
    let _deaf = UnixDatagram::bind(&path).expect("a free address");
    let mut command = tokio::process::Command::new(this());
    let said = child(command.env("NOTIFY_SOCKET", &path), CHILD, "one").await;
    assert!(said.contains(&StoreError::Silent.to_string()), "{said}");
}

/// The manager of the tests is as strict as systemd: what hangs up is thrown away, and a stranger is not listened to.
#[tokio::test]
async fn the_manager_of_the_tests_is_honest() {
    let manager = Manager::new("store-honest", 4);
    let mut command = manager.command("sh");
    let mut main = manager.start(command.args(["-c", "exec sleep 60"]));
    let notify = command.as_std().get_envs().find(|(name, _)| *name == "NOTIFY_SOCKET").and_then(|(_, path)| path);
    let (one, _two) = UnixStream::pair().expect("a pair");
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.connect(notify.expect("it is set")).expect("the manager listens");
    socket.send(b"FDSTORE=1\nREADY=1").expect("the manager listens");
    drop(one);
    assert_eq!((manager.stored(), manager.said()), (Vec::new(), Vec::new()), "this test is not the main process");
    main.kill().await.expect("it runs");
}
