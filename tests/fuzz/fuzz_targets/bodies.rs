//! Fuzzes the readers of bodies.
//!
//! Enters: bytes of the fuzzer. Leaves: a panic that names what is wrong. Must not touch: how it is judged.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| underpass_fuzz::bodies(bytes));
