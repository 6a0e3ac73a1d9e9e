//! Packages that are large, and processes that are small. Must not touch: what a record says.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::process::Command;
use underpass::handover::Package;
use underpass::lifecycle::moving::{Kind, Parcel};

use super::{child, load, sessions, sockets, this, told};

/// As many as a process of some size has: sessions, and connections.
const MANY: usize = 10_000;
/// Descriptors that the small process may have.
const FEW: u64 = 256;

#[test]
fn ten_thousand_descriptors_cross() {
    // Besides these there are those of the tests that run at the same time.
    let needed = MANY as u64 + 4096;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|most| most < needed) {
        let raised = Rlimit { current: Some(needed), maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_err() {
            println!("skipped: a process here may have no more than {:?} open files", limit.maximum);
            assert!(std::env::var_os("UNDERPASS_FULL").is_none(), "raise the limit of open files");
            return;
        }
    }
    let before = load(sessions(sockets(MANY)));
    let package = before.pack().expect("it is packed");
    // What crosses counts in both processes, and here both are one.
    drop(before);
    let after = package.unpack().expect("a sound package");
    assert_eq!((after.parcels.len(), after.incomplete.len()), (MANY, 0));
    for (index, parcel) in after.parcels.iter().enumerate() {
        assert_eq!((parcel.read::<usize>().expect("a number"), parcel.descriptors.len()), (index, 1));
    }
}

/// Run by [`a_small_process_takes_what_it_can_and_names_the_rest`] with few descriptors.
#[test]
fn child_unpacks() {
    if told().is_none() {
        return;
    }
    let standard_input = std::io::stdin().as_fd().try_clone_to_owned().expect("a spare descriptor");
    let load = Package::from(standard_input).unpack().expect("a sound package");
    File::open("/proc/self/status").expect("some descriptors are left");
    let is_listener = |parcel: &Parcel| parcel.kind == Kind::Listener;
    for parcel in load.parcels.iter().filter(|one| !is_listener(one)) {
        let (index, mut read) = (parcel.read::<usize>().expect("a number"), [0; 8]);
        let socket = parcel.descriptors[0].try_clone().expect("some descriptors are left");
        UnixStream::from(socket).read_exact(&mut read).expect("it was written");
        assert_eq!(usize::from_be_bytes(read), index, "another's socket");
    }
    println!(
        "{} listeners, {} crossed,",
        load.parcels.iter().filter(|one| is_listener(one)).count(),
        load.parcels.len()
    );
    println!("{} of {}", load.incomplete.len(), load.parcels.len() + load.incomplete.len());
}

/// A socket from which its number can be read.
fn numbered(number: usize) -> OwnedFd {
    let (near, mut far) = UnixStream::pair().expect("a pair");
    far.write_all(&number.to_be_bytes()).expect("it is open");
    near.into()
}

#[tokio::test]
async fn a_small_process_takes_what_it_can_and_names_the_rest() {
    let count = 2 * FEW as usize;
    let mut parcels = sessions((0..count).map(numbered).collect());
    // The last one in the load, and the first one that has to cross.
    parcels.push(Parcel::new(Kind::Listener, &"listens", sockets(1)));
    let package = load(parcels).pack().expect("it is packed");
    let descriptor: OwnedFd = package.as_fd().try_clone_to_owned().expect("a spare descriptor");
    let mut command = Command::new("sh");
    command.args(["-c", &format!(r#"ulimit -n {FEW}; exec "$0" "$@""#), &this()]).stdin(Stdio::from(descriptor));
    let said = child(&mut command, "handover::package::child_unpacks", "unpack").await;
    assert!(said.contains("1 listeners, ") && said.contains(&format!(" of {}", count + 1)), "{said}");
}
