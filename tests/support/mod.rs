//! What the tests inside and outside share: a sidecar under test with a scripted backend, plain TCP, a directory of a
//! test's own, and what the self-test is tried with. Must not touch: what only one of the two needs, which lives with it. All is `pub`, since each uses its part.

pub mod manager;
pub mod plain;
pub mod scratch;
pub mod selftest;
pub mod site;
pub mod streaming;
