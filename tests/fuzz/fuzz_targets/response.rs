//! Fuzzes the reader of responses: what it takes, hyper must see alike (see `tests/inside/equivalence`).
//!
//! Enters: bytes of the fuzzer. Leaves: a panic that names what differs. Must not touch: a judgement of its own.

#![no_main]

#[path = "../../inside/equivalence/judge.rs"]
#[expect(dead_code, reason = "the other target uses the rest")]
mod judge;
#[path = "../../inside/equivalence/oracle.rs"]
#[expect(dead_code, reason = "the other target uses the rest")]
mod oracle;
#[path = "../../inside/equivalence/ours.rs"]
#[expect(dead_code, reason = "the other target uses the rest")]
mod ours;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Where hyper gets them in two pieces is as good as chance, and the same for the same bytes.
    let cut = bytes.iter().fold(0_usize, |cut, byte| cut.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    if let Err(differs) = judge::response(bytes, &[cut]) {
        panic!("{differs}");
    }
});
