//! The judges of both targets: those of `tests/inside/equivalence`.
//!
//! Enters: bytes of a fuzzer. Leaves: a panic that names what differs. Must not touch: a judgement of its own.

#[path = "../inside/equivalence/judge.rs"]
mod judge;
#[path = "../inside/equivalence/oracle.rs"]
mod oracle;
#[path = "../inside/equivalence/ours.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod ours;

/// What our reader takes as a request, hyper must see alike.
pub fn request(bytes: &[u8]) {
    if let Err(differs) = judge::request(bytes, ours::Limits::usual(), &[cut(bytes)]) {
        panic!("{differs}");
    }
}

/// What our readers take as a response, hyper must see alike.
pub fn response(bytes: &[u8]) {
    if let Err(differs) = judge::response(bytes, &[cut(bytes)]) {
        panic!("{differs}");
    }
}

/// Where hyper gets them in two pieces: as good as chance, and the same for the same bytes.
fn cut(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |cut: usize, byte| cut.wrapping_mul(31).wrapping_add(usize::from(*byte)))
}
