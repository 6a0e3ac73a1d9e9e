//! Whatever strangers send, our readers take what is there and nothing else: bodies, WebSocket frames, PROXY headers,
//! targets.
//!
//! Enters: the kept corpus of `tests/fuzz`, whose files say by their names what is odd about them. Leaves: those that a judge
//! refuses. Must not touch: the files; the fuzz targets have the same judges.

mod bodies;
mod introduction;
mod sockets;
mod targets;

use std::fs;
use std::path::Path;

/// Judges every kept file of a target; at least so many must be there, and so many of them be taken by a reader.
fn replay(kind: &str, fewest: usize, judge: impl Fn(&[u8]) -> Result<bool, String>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(kind);
    let (mut all, mut taken, mut wrong) = (0, 0, Vec::new());
    for file in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = file.expect("a readable folder").path();
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        match judge(&bytes) {
            Ok(is_taken) => taken += usize::from(is_taken),
            Err(differs) => wrong.push(format!("{}: {differs}", path.display())),
        }
        all += 1;
    }
    println!("{kind}: {taken} of {all} taken by our reader");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(all >= fewest && taken * 3 >= all, "{kind}: {taken} of {all} taken");
}

#[test]
fn kept_bodies_hold_no_more_than_they_say() {
    replay("bodies", 20, |bytes| bodies::judge(bytes).map(|taken| taken > 0));
    // Whoever measures has a name for each reader.
    bodies::READERS.iter().for_each(|(_, read)| read(b"{}"));
}

#[test]
fn kept_websocket_frames_are_the_same_however_they_are_cut() {
    replay("sockets", 15, |bytes| sockets::judge(bytes).map(|messages| messages > 0));
}

#[test]
fn kept_proxy_headers_name_what_they_say_and_end_where_they_end() {
    replay("introduction", 15, introduction::judge);
}

#[test]
fn kept_targets_lose_what_is_ours_and_not_a_byte_beside() {
    replay("targets", 15, targets::judge);
}
