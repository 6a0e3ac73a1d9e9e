//! The judges of the targets: those of `tests/inside/equivalence` and `tests/inside/readers`.
//!
//! Enters: bytes of a fuzzer. Leaves: a panic that names what differs. Must not touch: a judgement of its own, but for one:
//! how much memory the readers of bodies take.

#[path = "../inside/readers/bodies.rs"]
mod bodies_judge;
#[path = "../inside/readers/introduction.rs"]
mod introduction_judge;
#[path = "../inside/equivalence/judge.rs"]
mod judge;
#[path = "../inside/equivalence/oracle.rs"]
mod oracle;
#[path = "../inside/equivalence/ours.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod ours;
#[path = "../inside/readers/sockets.rs"]
mod sockets_judge;
#[path = "../inside/readers/targets.rs"]
mod targets_judge;

use std::fmt::Display;

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// How many times its own length a body may take while it is read, and what it may take beside, in bytes.
const TIMES: usize = 64;
const BESIDE: usize = 4 * 1024;

/// What our reader takes as a request, hyper must see alike.
pub fn request(bytes: &[u8]) {
    held(judge::request(bytes, ours::Limits::usual(), &[cut(bytes)]));
}

/// What our readers take as a response, hyper must see alike.
pub fn response(bytes: &[u8]) {
    held(judge::response(bytes, &[cut(bytes)]));
}

/// What readers of bodies take is what the bytes say, and takes memory in proportion to them.
pub fn bodies(bytes: &[u8]) {
    for (name, read) in bodies_judge::READERS {
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        read(bytes);
        let taken = MEMORY.peak_usage() - before;
        assert!(taken <= TIMES * bytes.len() + BESIDE, "{name}: {taken} bytes of memory for {}", bytes.len());
    }
    held(bodies_judge::judge(bytes));
}

/// WebSocket frames are the same messages however they are cut, and the same to tungstenite.
pub fn sockets(bytes: &[u8]) {
    held(sockets_judge::judge(bytes));
}

/// A PROXY header names what it says and ends where it ends.
pub fn introduction(bytes: &[u8]) {
    held(introduction_judge::judge(bytes));
}

/// A target loses what is ours, and not a byte beside.
pub fn targets(bytes: &[u8]) {
    held(targets_judge::judge(bytes));
}

fn held<T>(judged: Result<T, impl Display>) {
    if let Err(differs) = judged {
        panic!("{differs}");
    }
}

/// Where hyper gets them in two pieces: as good as chance, and the same for the same bytes.
fn cut(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |cut: usize, byte| cut.wrapping_mul(31).wrapping_add(usize::from(*byte)))
}
