//! What is handed over, and the two ways that it goes: packages of any size, a service manager that keeps one, and whole processes that
//! follow each other (`rows`). Enters: parcels. Leaves: the same in another process. Must not touch: the machine's own service manager.

mod golden;
mod package;
mod restart;
pub(crate) mod rows;
mod store;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Output;

use tokio::process::Command;
use underpass::handover::Load;
use underpass::lifecycle::moving::{Kind, Parcel};

use crate::support::site::soon;

/// Says to a test of this binary that it runs as a child of another one, which then plays a process of underpass.
const CHILD: &str = "UNDERPASS_HANDOVER_CHILD";

/// This test binary, which runs one test.
fn this() -> String {
    std::env::current_exe().expect("a running program has a file").to_string_lossy().into_owned()
}

/// What the child has to do, if this process is one.
fn told() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// Runs one test as a child that is told something; what it printed.
async fn child(command: &mut Command, test: &str, told: &str) -> String {
    let Output { status, stdout, stderr } =
        soon("the child", command.args(["--exact", test, "--nocapture"]).env(CHILD, told).output())
            .await
            .expect("it runs");
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{text}");
    text
}

/// Sockets of a load of so many, whose other ends are nobody's.
fn sockets(count: usize) -> Vec<OwnedFd> {
    let pairs = (0..count.div_ceil(2)).map(|_| UnixStream::pair().expect("a pair"));
    let mut all: Vec<OwnedFd> = pairs.flat_map(|(one, two)| [one.into(), two.into()]).collect();
    all.truncate(count);
    all
}

fn load(parcels: Vec<Parcel>) -> Load {
    Load { parcels, ..Load::default() }
}

fn sessions(sockets: Vec<OwnedFd>) -> Vec<Parcel> {
    let parcel = |(index, socket)| Parcel::new(Kind::Session, &index, vec![socket]);
    sockets.into_iter().enumerate().map(parcel).collect()
}
